"""Graded answers to figures: what share is right, with its interval, and what is to be known beside it.

tally(scores, problems) -> {"problems": 60, "samples": 1, "accuracy": {"value": 0.367, "low": 0.256, "high": 0.493},
                            "truncated": 0.05, "unparsable": 0.02, "unmarked": 0.0, "planned": 0.98, ...}

An answer that cannot be judged (Score.same is None) counts as wrong, and is counted apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from plantune_lite.evaluate import stats
from plantune_lite.grading.answers import same_answer
from plantune_lite.grading.lenient import LAST_NUMBER
from plantune_lite.plan import spoiler, written_plan
from plantune_lite.types import Problem, Score


def by_problem(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """The samples of each problem, in their order."""
    found: dict[str, list[Score]] = {}
    for one in scores:
        found.setdefault(one.problem_id, []).append(one)
    return {id: sorted(samples, key=lambda one: one.sample) for id, samples in found.items()}


def shares(scores: Iterable[Score]) -> dict[str, float]:
    """For each problem the share of its samples that are right: 0 or 1 where there is one sample."""
    return {id: fmean(one.same is True for one in samples) for id, samples in by_problem(scores).items()}


def by_mode(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """The answers in each mode, in their order."""
    found: dict[str, list[Score]] = {}
    for one in scores:
        found.setdefault(one.mode, []).append(one)
    return found


def best_mode(modes: Mapping[str, Mapping[str, float]]) -> str:
    """The mode with the largest share of the problems that all of them answered; of equals the one asked most.

    A kill may leave one prompt with all problems and another with the first ones, which may be easier.
    """
    common = set.intersection(*map(set, modes.values()))
    right = {mode: sum(shares[id] for id in common) for mode, shares in modes.items()}
    return max(modes, key=lambda mode: (right[mode], len(modes[mode])))


def accuracy(scores: Iterable[Score], *, seed: int = 0) -> stats.Estimate:
    """The share that is right, each problem counting once."""
    return stats.of_problems(list(shares(scores).values()), seed=seed)


def tally(scores: Sequence[Score], problems: Sequence[Problem], *, seed: int = 0) -> dict[str, Any]:
    """All figures of one model in one mode."""
    by_id = {problem.id: problem for problem in problems}
    samples = by_problem(scores)
    written = [(by_id[one.problem_id], written_plan(one.text)) for one in scores]
    steps = [len(plan) for _, plan in written if plan]
    spoiled = [spoiler(plan, problem) is not None for problem, plan in written if plan]
    fewest = min(map(len, samples.values()))
    found = {
        "problems": len(samples),
        "samples": fewest,
        "accuracy": asdict(accuracy(scores, seed=seed)),
        "truncated": fmean(one.finish == "length" for one in scores),
        "unparsable": fmean(one.same is None for one in scores),
        "unmarked": fmean(one.how.startswith(LAST_NUMBER) for one in scores),
        "planned": len(steps) / len(scores),
        "steps": round(fmean(steps), 2) if steps else None,
        "spoiled": fmean(spoiled) if spoiled else None,
        "tokens": round(fmean(one.tokens for one in scores), 1),
        "seconds": round(sum(one.seconds for one in scores), 1),
    }
    if fewest > 1:
        choices = {id: problem.choices for id, problem in by_id.items()}
        found["pass"] = {str(k): asdict(passed(k, samples, seed=seed)) for k in ks(fewest)}
        found["majority"] = asdict(majority(samples, choices))
    return found


def ks(samples: int) -> list[int]:
    """1, 2, 4 ... and all of them."""
    return sorted({*(2**power for power in range(samples.bit_length())), samples})


def passed(k: int, samples: Mapping[str, Sequence[Score]], *, seed: int = 0) -> stats.Estimate:
    """pass@k: how often at least one of k samples of a problem is right."""
    right = [(sum(one.same is True for one in these), len(these)) for these in samples.values()]
    return stats.of_problems([stats.pass_at(k, c, n) for c, n in right], seed=seed)


def majority(samples: Mapping[str, Sequence[Score]], choices: Mapping[str, Sequence[str]]) -> stats.Estimate:
    """maj@k: how often the answer that most samples of a problem gave is right."""
    right = sum(majority_is_right(these, choices.get(id, ())) for id, these in samples.items())
    return stats.wilson(right, len(samples))


def majority_is_right(samples: Sequence[Score], choices: Sequence[str] = ()) -> bool:
    """Whether the answer that most samples gave is right; what cannot be judged has no vote."""
    judged = {one.prediction: one.same for one in samples if one.prediction and one.same is not None}
    votes = [one.prediction for one in samples if one.prediction in judged]
    chosen = stats.majority(votes, lambda one, other: same_answer(one, other, choices=choices).same is True)
    return judged.get(chosen) is True


def line(figures: Mapping[str, Any]) -> str:
    """22 of 60 right, 36.7 % (25.6 to 49.3), 5 % cut off, 2 % without a readable answer."""
    estimate = stats.Estimate(**figures["accuracy"])
    right = f"{round(estimate.value * figures['problems'])} of {figures['problems']} right, "
    many = f" of {figures['samples']} samples right"
    parts = [right + estimate.percent() if figures["samples"] == 1 else estimate.percent() + many]
    if "majority" in figures:
        most = figures["samples"]
        parts.append(f"pass@{most} {stats.Estimate(**figures['pass'][str(most)]).percent()}")
        parts.append(f"maj@{most} {stats.Estimate(**figures['majority']).percent()}")
    for name, words in (("truncated", "cut off"), ("unparsable", "without a readable answer")):
        if figures[name]:
            parts.append(f"{100 * figures[name]:.0f} % {words}")
    return ", ".join(parts)
