"""Worlds as a recipe's problems: `problems.source="plantune_lite.lab.world_sources:blocksworld"`.

    blocksworld            the planner's plans          gripper, logistics          the same of other worlds
    blocksworld_walks      random walks                 gripper_walks, logistics_walks
    blocksworld_mixed      half and half                gripper_mixed, logistics_mixed

Each gives about `limit` problems to learn from, and beside them problems for tests and probes: half of the sizes that
are learned from and half of larger ones, none of them the same. Their plans are worked solutions
(`distill.teacher="worked"`). For other sizes, or a domain of your own, write such a function in a file of your own.
"""

from collections.abc import Iterator, Sequence

from plantune_lite.lab import corpora, planners
from plantune_lite.lab.corpora import Kind
from plantune_lite.lab.planning import problem_of
from plantune_lite.records import Problem

LIMIT, TESTS = 400, 120  # twice what a recipe tests on: a probe is fitted on others
# name -> the sizes that are learned from, and the larger ones that are only tested on
SIZES: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "blocksworld": ((3, 4), (5,)),
    "gripper": ((2, 3, 4, 5), (6,)),  # there are no more than 610 of up to four balls
    "logistics": ((1, 2), (3,)),
}


def problems(name: str, kind: Kind, *, seed: int, limit: int | None) -> Iterator[Problem]:
    """The problems of one kind of corpus, then those for tests, whose split says so: the same for all three kinds."""
    sizes, larger = SIZES[name]
    drawn = corpora.drawn(name, sizes=sizes, larger=larger, seed=seed, train=limit or LIMIT, test=TESTS // 2)
    solved = {world: planners.plan(world) or () for world in (*drawn.train, *drawn.test, *drawn.larger)}
    yield from corpora.corpora(drawn.train, solved, seed=seed, apart=drawn.test)[kind].problems
    for which, worlds in (("test", drawn.test), ("larger", drawn.larger)):
        for number, world in enumerate(worlds):
            yield problem_of(world, solved[world], id=f"{name}/{which}/{number}", split="test", teacher="planner")


def blocksworld(seed: int, limit: int | None) -> Iterator[Problem]:
    """Blocksworld, the planner's plans."""
    return problems("blocksworld", "planner", seed=seed, limit=limit)


def blocksworld_walks(seed: int, limit: int | None) -> Iterator[Problem]:
    """Blocksworld, random walks."""
    return problems("blocksworld", "walks", seed=seed, limit=limit)


def blocksworld_mixed(seed: int, limit: int | None) -> Iterator[Problem]:
    """Blocksworld, half and half."""
    return problems("blocksworld", "mixed", seed=seed, limit=limit)


def gripper(seed: int, limit: int | None) -> Iterator[Problem]:
    """Gripper, the planner's plans."""
    return problems("gripper", "planner", seed=seed, limit=limit)


def gripper_walks(seed: int, limit: int | None) -> Iterator[Problem]:
    """Gripper, random walks."""
    return problems("gripper", "walks", seed=seed, limit=limit)


def gripper_mixed(seed: int, limit: int | None) -> Iterator[Problem]:
    """Gripper, half and half."""
    return problems("gripper", "mixed", seed=seed, limit=limit)


def logistics(seed: int, limit: int | None) -> Iterator[Problem]:
    """Logistics, the planner's plans."""
    return problems("logistics", "planner", seed=seed, limit=limit)


def logistics_walks(seed: int, limit: int | None) -> Iterator[Problem]:
    """Logistics, random walks."""
    return problems("logistics", "walks", seed=seed, limit=limit)


def logistics_mixed(seed: int, limit: int | None) -> Iterator[Problem]:
    """Logistics, half and half."""
    return problems("logistics", "mixed", seed=seed, limit=limit)
