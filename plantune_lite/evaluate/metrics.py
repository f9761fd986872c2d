"""Turn graded answers into figures, problem by problem: the share that is right, pass@k and maj@k.

shares(scores) -> {"practice/test/3": 1.0, "practice/test/4": 0.25}

An answer that cannot be judged (Score.same is None) counts as wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from plantune_lite.evaluate import stats
from plantune_lite.grading.answers import same_answer
from plantune_lite.types import Score

Mode = TypeVar("Mode")
Group = TypeVar("Group")
Thing = TypeVar("Thing")


def grouped(things: Iterable[tuple[Group, Thing]]) -> dict[Group, list[Thing]]:
    """Gather the things of each group, both in order of appearance."""
    groups: dict[Group, list[Thing]] = {}
    for group, thing in things:
        groups.setdefault(group, []).append(thing)
    return groups


def by_problem(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Group the samples by problem, in sample order."""
    groups = grouped((score.problem_id, score) for score in scores)
    return {id: sorted(samples, key=lambda score: score.sample) for id, samples in groups.items()}


def shares(scores: Iterable[Score]) -> dict[str, float]:
    """Return for each problem the share of its samples that are right: 0 or 1 if it has one sample."""
    return {id: fmean(score.same is True for score in samples) for id, samples in by_problem(scores).items()}


def best_mode(modes: Mapping[Mode, Mapping[Any, float]]) -> Mode:
    """Find the mode right most often on the problems that all modes answered; on a tie, the one asked most.

    A kill may leave one prompt with all problems and another with only the first, which may be easier.
    """
    common = set.intersection(*map(set, modes.values()))
    right = {mode: sum(shares[id] for id in common) for mode, shares in modes.items()}
    return max(modes, key=lambda mode: (right[mode], len(modes[mode])))


def passed(k: int, samples: Mapping[str, Sequence[Score]]) -> stats.Estimate:
    """Compute pass@k: how often at least one of the first k samples of a problem is right."""
    right = sum(any(score.same is True for score in these[:k]) for these in samples.values())
    return stats.wilson(right, len(samples))


def majority(samples: Mapping[str, Sequence[Score]], choices: Mapping[str, Sequence[str]]) -> stats.Estimate:
    """Compute maj@k: how often the answer that most samples of a problem gave is right."""
    right = sum(majority_is_right(these, choices.get(id, ())) for id, these in samples.items())
    return stats.wilson(right, len(samples))


def majority_is_right(samples: Sequence[Score], choices: Sequence[str] = ()) -> bool:
    """Tell whether the answer that most samples gave is right; answers that cannot be judged have no vote."""
    judged = {score.prediction: score.same for score in samples if score.prediction and score.same is not None}
    votes = [score.prediction for score in samples if score.prediction and score.prediction in judged]
    chosen = stats.majority(votes, lambda a, b: same_answer(a, b, choices=choices).same is True)
    return chosen is not None and judged[chosen] is True
