"""Graded answers to figures, problem by problem: what share is right, pass@k and maj@k.

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
    found: dict[Group, list[Thing]] = {}
    for group, thing in things:
        found.setdefault(group, []).append(thing)
    return found


def by_problem(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Group the samples by problem, in sample order."""
    found = grouped((one.problem_id, one) for one in scores)
    return {id: sorted(samples, key=lambda one: one.sample) for id, samples in found.items()}


def shares(scores: Iterable[Score]) -> dict[str, float]:
    """For each problem the share of its samples that are right: 0 or 1 where there is one sample."""
    return {id: fmean(one.same is True for one in samples) for id, samples in by_problem(scores).items()}


def best_mode(modes: Mapping[Mode, Mapping[Any, float]]) -> Mode:
    """Find the mode with the largest share of the problems that all of them answered; of equals the one asked most.

    A kill may leave one prompt with all problems and another with the first ones, which may be easier.
    """
    common = set.intersection(*map(set, modes.values()))
    right = {mode: sum(shares[id] for id in common) for mode, shares in modes.items()}
    return max(modes, key=lambda mode: (right[mode], len(modes[mode])))


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
