"""Build three corpora from one pool with equally many learned tokens: the planner's plans, random walks, half and half.

    corpora(worlds, plans, count=words, seed=0)["walks"]
        -> Corpus(name="walks", problems=(Problem(...), ...), tokens=5102, coverage=Coverage(states=811, pairs=1630))

A walk is a new problem: it has the start of one in the pool, and its goal is what holds where the walk ended, limited
to the predicates in the goal of that one. The split into training and test problems is made before, by problem, and the
larger sizes are for tests only (`drawn`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from random import Random
from typing import Literal

from plantune_lite import plan
from plantune_lite.lab.worlds import domains, pddl
from plantune_lite.lab.worlds.grade import problem_of, world_in
from plantune_lite.lab.worlds.simulator import World, WorldError, world_of
from plantune_lite.types import Problem

Kind = Literal["planner", "walks", "mixed"]
Count = Callable[[str], int]  # tokens of a text
What = tuple[frozenset[pddl.Atom], frozenset[pddl.Literal]]  # start and goal of a problem, in whatever order written
_TRIES = 20  # walks of one problem that may end where they began


@dataclass(frozen=True)
class Coverage:
    """Counts of what a corpus shows of its worlds."""

    states: int  # different ones
    pairs: int  # of a state and the step taken in it


@dataclass(frozen=True)
class Corpus:
    """Problems with plans to learn."""

    name: Kind
    problems: tuple[Problem, ...]
    tokens: int  # learned
    coverage: Coverage


@dataclass(frozen=True)
class Drawn:
    """Worlds of one study: no problem is in two of its parts."""

    train: tuple[World, ...]
    test: tuple[World, ...]  # of the sizes that are trained on
    larger: tuple[World, ...]


def drawn(name: str, *, sizes: Sequence[int], larger: Sequence[int], seed: int, train: int, test: int) -> Drawn:
    """Draw problems to learn from and to test on, and larger ones for tests only."""
    if larger and min(larger) <= max(sizes):
        raise WorldError(
            f"the larger sizes ({min(larger)}) must be larger than those that are trained on ({max(sizes)})"
        )
    same = list(domains.generate(name, sizes=sizes, seed=seed, count=train + test))
    bigger = tuple(domains.generate(name, sizes=larger, seed=seed, count=test)) if larger else ()
    tested = _last_of_each_size(same, test)
    return Drawn(
        tuple(world for place, world in enumerate(same) if place not in tested),
        tuple(world for place, world in enumerate(same) if place in tested),
        bigger,
    )


def _last_of_each_size(worlds: Sequence[World], count: int) -> set[int]:
    """Pick the indices of `count` worlds, the last of each size in proportion: the small sizes are used up first."""
    of: dict[int, list[int]] = {}
    for place, world in enumerate(worlds):
        of.setdefault(len(world.task.objects), []).append(place)
    last_first = [(number / len(some), place) for some in of.values() for number, place in enumerate(some[::-1], 1)]
    return {place for _, place in sorted(last_first)[:count]}


def words(text: str) -> int:
    """Count words: tokens where there is no tokenizer."""
    return len(text.split())


def learned(problem: Problem, count: Count) -> int:
    """Count the tokens that a problem's plan teaches."""
    return count(plan.render(problem.steps).rstrip())


# --- the corpora ------------------------------------------------------------------------------------------------------


def corpora(
    worlds: Sequence[World],
    solved: Mapping[World, Sequence[str]],
    *,
    seed: int,
    apart: Iterable[World] = (),
    count: Count = words,
    tokens: int | None = None,
) -> dict[Kind, Corpus]:
    """Build the three, each of `tokens` learned tokens to within one plan; None: as many as the planner's plans have.

    `solved` maps each world to its plan by a planner; `apart` are the test worlds, which no walk may equal.
    """
    planned = [
        problem_of(world, solved[world], id=f"{world.task.domain.name}/planner/{number}", teacher="planner")
        for number, world in enumerate(worlds)
    ]
    available = sum(learned(problem, count) for problem in planned)
    budget = available if tokens is None else tokens
    if budget > available:
        raise WorldError(
            f"{budget} tokens are asked for, and the {len(planned)} plans have {available}: draw more problems"
        )
    lengths = [len(problem.steps) for problem in planned]
    tested = set(map(asked, apart))
    shuffled = Random(f"corpora {seed}").sample(planned, len(planned))

    def walked(besides: Iterable[Problem] = ()) -> Iterator[Problem]:
        seen = {asked(world_in(problem)) for problem in besides} | tested
        return walks(worlds, lengths, Random(f"walks {seed}"), seen)

    half = taken(shuffled, count, budget // 2)
    rest = budget - sum(learned(problem, count) for problem in half)
    chosen: dict[Kind, list[Problem]] = {
        "planner": taken(shuffled, count, budget),
        "walks": taken(walked(), count, budget),
        "mixed": [*half, *taken(walked(half), count, rest)],
    }
    return {
        name: Corpus(name, tuple(some), sum(learned(problem, count) for problem in some), coverage(some))
        for name, some in chosen.items()
    }


def asked(world: World) -> What:
    """Return the start and goal: two worlds in which they are the same are one problem."""
    return world.task.start, frozenset(world.task.goal)


def taken(problems: Iterable[Problem], count: Count, budget: int) -> list[Problem]:
    """Take as many of the first problems as a budget of learned tokens allows."""
    chosen, spent = [], 0
    for problem in problems:
        spent += learned(problem, count)
        if spent > budget:
            break
        chosen.append(problem)
    return chosen


def walks(
    worlds: Sequence[World], lengths: Sequence[int], rng: Random, seen: Collection[What] = ()
) -> Iterator[Problem]:
    """Yield random walks as problems, from one start of the pool after another without end, as long as plans are.

    No walk repeats a problem in `seen`.
    """
    seen, counter = set(seen), numbers()
    while True:
        before = len(seen)
        for world in worlds:
            walked = _walked(world, lengths, rng, seen)
            if walked is not None:
                there, steps = walked
                seen.add(asked(there))
                id = f"{world.task.domain.name}/walks/{next(counter)}"
                yield problem_of(there, steps, id=id, teacher="random walk")
        if len(seen) == before:
            raise WorldError(
                f"{len(worlds)} problems have no more than {next(counter)} different walks: draw more problems"
            )


def _walked(world: World, lengths: Sequence[int], rng: Random, seen: set[What]) -> tuple[World, tuple[str, ...]] | None:
    """Walk from a world's start to another state; return the world with that as its goal, and the steps."""
    about = {literal.atom[0] for literal in world.task.goal}
    for _ in range(_TRIES):
        steps = tuple(action.text for action in world.walk(rng, rng.choice(lengths)))
        ended = world.facts(world.after(steps))
        goal = sorted(fact for fact in ended if fact[0] in about)
        if set(goal) - world.task.start:
            there = toward(world, goal)
            if asked(there) not in seen:
                return there, steps
    return None


def toward(world: World, goal: Iterable[pddl.Atom]) -> World:
    """Rebuild a world with another goal."""
    task = world.task
    wanted = map(pddl.Literal, goal)
    return world_of(task.domain.text, pddl.write_task(task.domain, task.name, task.objects, task.start, wanted))


def coverage(problems: Iterable[Problem]) -> Coverage:
    """Count the distinct states and state-action pairs that plans go through; renamed objects count as distinct."""
    states: set[frozenset[pddl.Atom]] = set()
    pairs: set[tuple[frozenset[pddl.Atom], str]] = set()
    for problem in problems:
        world = world_in(problem)
        state = world.start
        for step in problem.steps:
            here = world.facts(state) | world.fixed
            states.add(here)
            pairs.add((here, step))
            state = world.step(world.actions[step], state)
        states.add(world.facts(state) | world.fixed)
    return Coverage(len(states), len(pairs))
