"""Filter the trajectories worth learning from: one filter after another, the best kept, each reject with its reason.

    sieve = Sieve(by_id, best_first(trajectories, by_id, by_score=True))
    sieve.drop(lambda one, problem: not_good(one, problem, "both", 80, executed=True))
    sieve.left -> [Trajectory(...), ...]    sieve.rejected -> [Rejected(..., reason="wrong answer"), ...]

The order of the input does not matter, and random draws are made for each problem separately.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plantune_lite import plan
from plantune_lite.distill import dedup
from plantune_lite.grading.answers import same_answer
from plantune_lite.problems.split import drawn_number, normalised
from plantune_lite.types import Fault, PlantuneError, Problem, Reason, Rejected, Trajectory, Verdict, fault_of, present


@dataclass
class Sieve:
    """Trajectories left so far, best first, and those rejected, with their reasons."""

    by_id: Mapping[str, Problem]
    left: list[Trajectory]
    rejected: list[Rejected] = field(default_factory=list)

    def drop(self, fault_in: Callable[[Trajectory, Problem], Fault | None]) -> None:
        """Reject what has a fault; each is checked once, the best first."""
        left, self.left = self.left, []
        for trajectory in left:
            if fault := fault_in(trajectory, self.by_id[trajectory.problem_id]):
                self.rejected.append(Rejected(**vars(trajectory), **vars(fault)))
            else:
                self.left.append(trajectory)


# --- sorting ----------------------------------------------------------------------------------------------------------


def best_first(trajectories: Iterable[Trajectory], by_id: Mapping[str, Problem], *, by_score: bool) -> list[Trajectory]:
    """Clean the plans and sort the trajectories, the best first, whatever order they come in.

    Without `by_score` the first sample of a problem comes first: a filter without the verifier must not let its scores
    choose among the plans that pass.
    """
    cleaned = []
    for trajectory in trajectories:
        if trajectory.problem_id not in by_id:
            raise PlantuneError(
                f"a trajectory's problem {trajectory.problem_id!r} is not among the {len(by_id)} problems: the plans "
                "and the problems are from different runs. Distill again"
            )
        cleaned.append(replace(trajectory, plan=tuple(step for step in map(plan.clean_step, trajectory.plan) if step)))
    return sorted(cleaned, key=_rank if by_score else lambda t: (t.sample, *_rank(replace(t, score=None))))


def _rank(t: Trajectory) -> tuple[Any, ...]:
    """Rank by the highest score, the shortest plan, the first sample; the rest only makes the order total."""
    length = sum(len(step.split()) for step in t.plan)
    score = t.score if t.score is not None else -101
    return -score, length, t.sample, t.problem_id, t.plan, t.execution, t.answer or ""


# --- reasons to drop --------------------------------------------------------------------------------------------------


def overlaps(
    left: Sequence[Trajectory], by_id: Mapping[str, Problem], suites: Mapping[str, Sequence[Problem]], length: int
) -> dict[str, dict[str, str]]:
    """Return problem id -> suite -> the test problem that it restates."""
    if length == 0:
        return {}
    tests = {name: [(problem.id, _text(problem)) for problem in suite] for name, suite in suites.items()}
    questions = dedup.TestQuestions(tests, length)
    ids = dict.fromkeys(t.problem_id for t in left)
    return {id: copied for id in ids if (copied := questions.found_in(_text(by_id[id])))}


def _text(problem: Problem) -> str:
    return " ".join((problem.question, *problem.choices))


def in_test_set(copied: Mapping[str, str] | None) -> Fault | None:
    """Name the first suite that a problem was found in."""
    if not copied:
        return None
    suite, id = next(iter(copied.items()))
    return Fault(Reason.IN_TEST_SET, f"{suite} {id.removeprefix(suite + '/')}")


def spoils(trajectory: Trajectory, problem: Problem) -> Fault | None:
    """Reject a plan that states the answer or calculates."""
    why = plan.spoiler(trajectory.plan, problem)
    return Fault(Reason.SPOILS, why) if why else None


def not_good(t: Trajectory, problem: Problem, mode: str, min_score: int | None, *, executed: bool) -> Fault | None:
    """Reject what the filter `mode` excludes or what has nothing to train on; `executed` requires an execution."""
    if not t.plan:
        return Fault(Reason.EMPTY_PLAN)
    if mode in ("plan", "both"):
        if t.score is None:
            return Fault(Reason.NO_SCORE)
        if t.score < present(min_score):
            return Fault(Reason.LOW_SCORE, f"{t.score} < {min_score}")
    if executed and not t.execution.strip():
        return Fault(Reason.NOT_EXECUTED)
    if mode in ("answer", "both"):
        return fault_of(grade(t, problem)) if t.answer else Fault(Reason.NO_ANSWER)
    return None


def grade(trajectory: Trajectory, problem: Problem) -> Verdict:
    """Compare a trajectory's answer with the problem's (cached)."""
    return _compared(trajectory.answer or "", problem.answer, problem.choices)


@functools.cache
def _compared(answer: str, gold: str, choices: tuple[str, ...]) -> Verdict:
    return same_answer(answer, gold, choices=choices)


# --- choosing ---------------------------------------------------------------------------------------------------------


def drop_copies(sieve: Sieve, mode: str) -> None:
    """Keep only the best of each set of copies or near copies."""
    if mode == "none":
        return
    questions: dict[str, Trajectory] = {}
    planned: dict[tuple[str, dedup.Words], Trajectory] = {}

    def copied(trajectory: Trajectory, problem: Problem) -> Fault | None:
        first = questions.setdefault(normalised(problem), trajectory)
        if first.problem_id != trajectory.problem_id:
            return Fault(Reason.DUPLICATE, f"same question as {first.problem_id}")
        first = planned.setdefault((trajectory.problem_id, dedup.words("\n".join(trajectory.plan))), trajectory)
        return None if first is trajectory else Fault(Reason.DUPLICATE, f"same plan as {_named(first)}")

    sieve.drop(copied)
    if mode == "minhash":
        left = tuple(sieve.left)
        texts = [(_text(sieve.by_id[t.problem_id]), "\n".join(t.plan)) for t in left]
        copies = iter(dedup.near_copies(texts))

        def nearly_copied(_: Trajectory, __: Problem) -> Fault | None:
            at = next(copies)
            return None if at is None else Fault(Reason.DUPLICATE, f"nearly {_named(left[at])}")

        sieve.drop(nearly_copied)


def _named(trajectory: Trajectory) -> str:
    return f"{trajectory.problem_id} sample {trajectory.sample}"


def drop_all_but_best(sieve: Sieve, limit: int) -> None:
    """Keep at most `limit` trajectories per problem."""
    taken: Counter[str] = Counter()

    def surplus(trajectory: Trajectory, _: Problem) -> Fault | None:
        taken[trajectory.problem_id] += 1
        return Fault(Reason.NOT_BEST) if taken[trajectory.problem_id] > limit else None

    sieve.drop(surplus)


def mix(sieve: Sieve, weights: tuple[float, ...], seed: int) -> None:
    """Keep problems of each source in proportion to its weight, as many as the scarcest source allows."""
    if not weights or not sieve.left:
        return
    ids: dict[str, set[str]] = {problem.source: set() for problem in sieve.by_id.values()}
    for trajectory in sieve.left:
        ids[sieve.by_id[trajectory.problem_id].source].add(trajectory.problem_id)
    share = _shares(weights, {source: len(ids[source]) for source in ids})
    scale = min(len(ids[source]) / share[source] for source in ids if share[source] > 0)
    # A source is left out only where its weight is 0.
    quota = {source: max(1, round(scale * share[source])) if share[source] else 0 for source in ids}
    taken = {id for source in ids for id in _drawn(ids[source], quota[source], seed, "mix")}
    sieve.drop(lambda trajectory, _: None if trajectory.problem_id in taken else Fault(Reason.OVER_WEIGHT))


def _shares(weights: tuple[float, ...], sizes: Mapping[str, int]) -> dict[str, float]:
    named = ", ".join(sizes)
    if len(weights) != len(sizes):
        raise PlantuneError(f"corpus.weights has {len(weights)} numbers, but there are {len(sizes)} sources: {named}")
    share = dict(zip(sizes, weights, strict=True))
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise PlantuneError(f"corpus.weights is {weights}: give each of {named} 0 or more, one of them more than 0")
    if gone := [source for source in sizes if share[source] > 0 and not sizes[source]]:
        raise PlantuneError(
            f"corpus.weights gives {gone[0]} the weight {share[gone[0]]:g}, but none of its problems is left: see "
            "distill's rejected.jsonl for why, or give it the weight 0"
        )
    return share


def validating(ids: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """Choose the problems to validate on: the same ones for every target."""
    ids = set(ids)
    return frozenset(_drawn(ids, round(share * len(ids)), seed, "validation"))


def _drawn(ids: Iterable[str], size: int, seed: int, purpose: str) -> list[str]:
    """Draw a seeded sample without replacement; a larger one contains a smaller one, and each id has its own RNG."""
    return sorted(ids, key=lambda id: drawn_number(seed, f"{purpose}\0{id}"))[:size]
