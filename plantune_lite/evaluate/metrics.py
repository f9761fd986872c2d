"""Graded answers to figures: what share is right, with its interval, and what is to be known beside it.

tally(scores, problems) -> {"problems": 60, "samples": 1, "accuracy": {"value": 0.367, "low": 0.256, "high": 0.493},
                            "truncated": 0.05, "unparsable": 0.02}

An answer that cannot be judged (Score.same is None) counts as wrong, and is counted apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, TypeVar

from plantune_lite.evaluate import stats
from plantune_lite.grading.answers import same_answer
from plantune_lite.types import Problem, Score

Mode = TypeVar("Mode")


def by_problem(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Group the samples by problem, in sample order."""
    found: dict[str, list[Score]] = {}
    for one in scores:
        found.setdefault(one.problem_id, []).append(one)
    return {id: sorted(samples, key=lambda one: one.sample) for id, samples in found.items()}


def shares(scores: Iterable[Score]) -> dict[str, float]:
    """For each problem the share of its samples that are right: 0 or 1 where there is one sample."""
    return {id: fmean(one.same is True for one in samples) for id, samples in by_problem(scores).items()}


def by_mode(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Group the answers by mode, keeping their order."""
    found: dict[str, list[Score]] = {}
    for one in scores:
        found.setdefault(one.mode, []).append(one)
    return found


def best_mode(modes: Mapping[Mode, Mapping[Any, float]]) -> Mode:
    """Find the mode with the largest share of the problems that all of them answered; of equals the one asked most.

    A kill may leave one prompt with all problems and another with the first ones, which may be easier.
    """
    common = set.intersection(*map(set, modes.values()))
    right = {mode: sum(shares[id] for id in common) for mode, shares in modes.items()}
    return max(modes, key=lambda mode: (right[mode], len(modes[mode])))


def accuracy(scores: Iterable[Score], *, seed: int = 0) -> stats.Estimate:
    """Estimate the share of right answers, each problem counting once."""
    return stats.of_problems(list(shares(scores).values()), seed=seed)


def tally(scores: Sequence[Score], problems: Sequence[Problem], *, seed: int = 0) -> dict[str, Any]:
    """Count one model in one mode; with several samples also pass@k and maj@k, k being all of them."""
    samples = by_problem(scores)
    fewest = min(map(len, samples.values()))
    found = {
        "problems": len(samples),
        "samples": fewest,
        "accuracy": asdict(accuracy(scores, seed=seed)),
        "truncated": fmean(one.finish == "length" for one in scores),
        "unparsable": fmean(one.same is None for one in scores),
    }
    if fewest > 1:
        found["passed"] = asdict(passed(fewest, samples))
        found["majority"] = asdict(majority(samples, {problem.id: problem.choices for problem in problems}))
    return found


def passed(k: int, samples: Mapping[str, Sequence[Score]]) -> stats.Estimate:
    """pass@k: how often at least one of the first k samples of a problem is right."""
    right = sum(any(one.same is True for one in these[:k]) for these in samples.values())
    return stats.wilson(right, len(samples))


def majority(samples: Mapping[str, Sequence[Score]], choices: Mapping[str, Sequence[str]]) -> stats.Estimate:
    """maj@k: how often the answer that most samples of a problem gave is right."""
    right = sum(majority_is_right(these, choices.get(id, ())) for id, these in samples.items())
    return stats.wilson(right, len(samples))


def majority_is_right(samples: Sequence[Score], choices: Sequence[str] = ()) -> bool:
    """Tell whether the answer that most samples gave is right; answers that cannot be judged have no vote."""
    judged = {one.prediction: one.same for one in samples if one.prediction and one.same is not None}
    votes = [one.prediction for one in samples if one.prediction and one.prediction in judged]
    chosen = stats.majority(votes, lambda one, other: same_answer(one, other, choices=choices).same is True)
    return chosen is not None and judged[chosen] is True


def line(figures: Mapping[str, Any]) -> str:
    """22 of 60 right, 36.7 % (25.6 to 49.3)."""
    right = stats.Estimate(**figures["accuracy"]).percent()
    if figures["samples"] > 1:
        return f"{right} of {figures['samples']} samples right"
    return f"{round(figures['accuracy']['value'] * figures['problems'])} of {figures['problems']} right, {right}"
