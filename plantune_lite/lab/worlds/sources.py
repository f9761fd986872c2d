"""Worlds as a recipe's problems: `problems.source="world:blocksworld"`.

    blocksworld            the planner's plans          gripper, logistics          the same for other worlds
    blocksworld_walks      random walks                 gripper_walks, logistics_walks
    blocksworld_mixed      half and half                gripper_mixed, logistics_mixed

For one world the three teach equally many words: as many as the plans of `limit` problems have, so that walks, which
are longer, are fewer. Each also has problems for tests and probes, which are never learned from: half of the training
sizes, in the same proportions, and half of larger ones. Their plans are worked solutions (`distill.teacher="worked"`).
For a world of your own, `from_folder` reads PDDL files: examples/own_world.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import get_args

from plantune_lite.lab.worlds import corpora, planners
from plantune_lite.lab.worlds.corpora import Drawn, Kind
from plantune_lite.lab.worlds.grade import problem_of
from plantune_lite.lab.worlds.simulator import World, WorldError, from_files
from plantune_lite.types import Problem

LIMIT, TESTS = 400, 120  # twice what a recipe tests on: a probe is fitted on others
# name -> the sizes that are learned from, and the larger ones that are only tested on
SIZES: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "blocksworld": ((3, 4), (5,)),
    "gripper": ((2, 3, 4, 5), (6,)),  # there are no more than 610 of up to four balls
    "logistics": ((1, 2), (3,)),
}


def problems(name: str, kind: Kind, *, seed: int, limit: int | None) -> Iterator[Problem]:
    """Yield the problems for tests (split="test"), the same for all three kinds; then those of one kind of corpus."""
    sizes, larger = SIZES[name]
    drawn = corpora.drawn(name, sizes=sizes, larger=larger, seed=seed, train=limit or LIMIT, test=TESTS // 2)
    for which, worlds in (("test", drawn.test), ("larger", drawn.larger)):
        for number, world in enumerate(worlds):
            plan = planners.plan(world) or ()
            yield problem_of(world, plan, id=f"{name}/{which}/{number}", split="test", teacher="planner")
    solved = {world: planners.plan(world) or () for world in drawn.train}
    yield from corpora.corpora(drawn.train, solved, seed=seed, apart=drawn.test)[kind].problems


# --- your own world ---------------------------------------------------------------------------------------------------

_WALKS = range(2, 13)  # steps of a walk if there are no plans to match
_SHARE, _MOST = 1 / 5, 1 / 2  # of the problems, those for tests; up to a half if one size alone is more


def from_folder(
    domain: Path | str, folder: Path | str, kind: Kind = "planner", *, seed: int = 0, limit: int | None = None
) -> Iterator[Problem]:
    """Yield the problems of a domain file and a folder of problem files (*.pddl), those for tests first.

    A problem's size is its number of objects. The largest are for tests only, about a fifth of all files, or up to half
    if they have the same size; none if all have. Of the others a fifth is for tests too, from each size its share. The
    planner's plans of at most `limit` others are learned from, random walks from their starts, or half and half. Walks
    alone need no planner, for a domain that is too hard for it: there are `limit` of them, or 400, or as many as a
    small world has; they are not matched to plans in tokens, and the problems for tests have no plan.
    """
    if kind not in (kinds := get_args(Kind)):
        raise WorldError(f"no kind {kind!r} of problems; there are {', '.join(kinds)}")
    named = {path: from_files(Path(domain), path) for path in _files(Path(domain), Path(folder))}
    _no_two_alike(named)
    name = next(iter(named.values())).task.domain.name
    drawn = _parted(list(named.values()), seed)
    train = drawn.train[:limit]
    tested = (*drawn.test, *drawn.larger)
    stems = {world: path.stem for path, world in named.items()}

    def solution(world: World) -> tuple[str, ...]:
        if kind == "walks":
            return ()
        if (plan := planners.plan(world)) is None:
            raise WorldError(f"{stems[world]}.pddl: no plan reaches its goal; leave it out, or learn from random walks")
        return plan

    for which, worlds in (("test", drawn.test), ("larger", drawn.larger)):
        for world in worlds:
            id = f"{name}/{which}/{stems[world]}"
            teacher = "" if kind == "walks" else "planner"
            yield problem_of(world, solution(world), id=id, split="test", teacher=teacher)
    if kind == "walks":
        seen = set(map(corpora.asked, tested))
        yield from _up_to(limit or LIMIT, corpora.walks(train, _WALKS, Random(f"walks {seed}"), seen))
        return
    solved = {world: solution(world) for world in train}
    if kind == "planner":  # alone: a world may be too small for as many walks as corpora of all kinds take
        for world, plan in solved.items():
            yield problem_of(world, plan, id=f"{name}/planner/{stems[world]}", teacher="planner")
    else:
        yield from corpora.corpora(train, solved, seed=seed, apart=tested)[kind].problems


def _up_to(limit: int, walks: Iterator[Problem]) -> Iterator[Problem]:
    some = False
    try:
        for walk in islice(walks, limit):
            some = True
            yield walk
    except WorldError:  # there are no more
        if not some:
            raise


def _files(domain: Path, folder: Path) -> list[Path]:
    own = domain.expanduser().resolve()
    paths = [path for path in sorted(folder.expanduser().glob("*.pddl")) if path.resolve() != own]
    if len(paths) < 3:
        raise WorldError(
            f"{folder} has {len(paths)} problem files (*.pddl): at least three are needed, to learn from and for tests"
        )
    return paths


def _no_two_alike(named: dict[Path, World]) -> None:
    """Refuse duplicates, which could be learned from and tested on, and problems that are solved from the start."""
    first: dict[corpora.What, Path] = {}
    for path, world in named.items():
        if world.is_goal(world.start):
            raise WorldError(f"{path.name}: its goal holds from the start, so there is nothing to plan; leave it out")
        if (other := first.setdefault(corpora.asked(world), path)) != path:
            raise WorldError(f"{path.name} has the start and the goal of {other.name}; leave one of them out")


def _parted(worlds: list[World], seed: int) -> Drawn:
    """Split worlds into those to learn from, those to test on, and larger ones for tests only."""
    sizes = sorted(len(world.task.objects) for world in worlds)
    shares = {size: sum(other >= size for other in sizes) / len(sizes) for size in sorted(set(sizes))[1:]}
    few = [size for size, share in shares.items() if share <= _SHARE]
    few = few or [size for size, share in shares.items() if share <= _MOST][-1:]

    def is_larger(world: World) -> bool:
        return bool(few) and len(world.task.objects) >= few[0]

    shuffled = Random(f"parted {seed}").sample(worlds, len(worlds))
    rest = [world for world in shuffled if not is_larger(world)]
    by_size = sorted(rest, key=lambda world: len(world.task.objects))
    tested = set(by_size[min(2, len(rest) - 1) :: round(1 / _SHARE)]) if len(rest) > 1 else set()
    return Drawn(
        tuple(world for world in rest if world not in tested),
        tuple(world for world in rest if world in tested),
        tuple(filter(is_larger, worlds)),
    )


# --- built-in worlds --------------------------------------------------------------------------------------------------


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
