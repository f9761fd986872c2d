"""Three worlds of classical planning, and problems in them of any size.

    for world in generate("blocksworld", sizes=(3, 4), seed=0, count=100): ...

Blocksworld's size is its blocks, gripper's its balls, logistics' its packages. Problems of one seed are all different,
the sizes take turns, and a larger count only appends.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from random import Random
from string import ascii_lowercase

from plantune_lite.lab.worlds.pddl import Literal, write_task
from plantune_lite.lab.worlds.pddl_forms import OBJECT
from plantune_lite.lab.worlds.simulator import World, WorldError, domain_of, world_of

BLOCKSWORLD = """(define (domain blocksworld)
  (:requirements :strips)
  (:predicates (on ?x ?y) (ontable ?x) (clear ?x) (handempty) (holding ?x))
  (:action pick-up :parameters (?x)
    :precondition (and (clear ?x) (ontable ?x) (handempty))
    :effect (and (holding ?x) (not (ontable ?x)) (not (clear ?x)) (not (handempty))))
  (:action put-down :parameters (?x)
    :precondition (holding ?x)
    :effect (and (ontable ?x) (clear ?x) (handempty) (not (holding ?x))))
  (:action stack :parameters (?x ?y)
    :precondition (and (holding ?x) (clear ?y))
    :effect (and (on ?x ?y) (clear ?x) (handempty) (not (holding ?x)) (not (clear ?y))))
  (:action unstack :parameters (?x ?y)
    :precondition (and (on ?x ?y) (clear ?x) (handempty))
    :effect (and (holding ?x) (clear ?y) (not (on ?x ?y)) (not (clear ?x)) (not (handempty)))))
"""

GRIPPER = """(define (domain gripper)
  (:requirements :strips :typing)
  (:types room ball hand)
  (:predicates (door ?from ?to - room) (robot-in ?r - room)
    (in ?b - ball ?r - room) (free ?h - hand) (carry ?b - ball ?h - hand))
  (:action move :parameters (?from ?to - room)
    :precondition (and (robot-in ?from) (door ?from ?to))
    :effect (and (robot-in ?to) (not (robot-in ?from))))
  (:action pick :parameters (?b - ball ?r - room ?h - hand)
    :precondition (and (in ?b ?r) (robot-in ?r) (free ?h))
    :effect (and (carry ?b ?h) (not (in ?b ?r)) (not (free ?h))))
  (:action drop :parameters (?b - ball ?r - room ?h - hand)
    :precondition (and (carry ?b ?h) (robot-in ?r))
    :effect (and (in ?b ?r) (free ?h) (not (carry ?b ?h)))))
"""

LOGISTICS = """(define (domain logistics)
  (:requirements :strips :typing)
  (:types place thing - object
          airport - place
          package vehicle - thing
          truck plane - vehicle)
  (:predicates (at ?t - thing ?p - place) (in ?x - package ?v - vehicle)
    (road ?from ?to - place) (route ?from ?to - airport))
  (:action load :parameters (?x - package ?v - vehicle ?p - place)
    :precondition (and (at ?x ?p) (at ?v ?p))
    :effect (and (in ?x ?v) (not (at ?x ?p))))
  (:action unload :parameters (?x - package ?v - vehicle ?p - place)
    :precondition (and (in ?x ?v) (at ?v ?p))
    :effect (and (at ?x ?p) (not (in ?x ?v))))
  (:action drive :parameters (?t - truck ?from ?to - place)
    :precondition (and (at ?t ?from) (road ?from ?to))
    :effect (and (at ?t ?to) (not (at ?t ?from))))
  (:action fly :parameters (?a - plane ?from ?to - airport)
    :precondition (and (at ?a ?from) (route ?from ?to))
    :effect (and (at ?a ?to) (not (at ?a ?from)))))
"""

# object -> type, start, goal
Drawn = tuple[dict[str, str], list[str], list[str]]


def _blocksworld(rng: Random, size: int) -> Drawn:
    blocks = ascii_lowercase[:size]
    goal = [fact for fact in _piled(rng, blocks) if fact.startswith("on ")]
    return dict.fromkeys(blocks, OBJECT), [*_piled(rng, blocks), "handempty"], goal


def _piled(rng: Random, blocks: str) -> list[str]:
    """Pile blocks in towers: each in turn goes onto the table or a tower, all equally likely."""
    towers: list[list[str]] = []
    for block in rng.sample(blocks, len(blocks)):
        place = rng.randrange(len(towers) + 1)
        if place == len(towers):
            towers.append([])
        towers[place].append(block)
    facts = []
    for tower in towers:
        facts += [f"ontable {tower[0]}", f"clear {tower[-1]}"]
        facts += [f"on {upper} {lower}" for lower, upper in pairwise(tower)]
    return facts


def _gripper(rng: Random, size: int) -> Drawn:
    balls, rooms, hands = [f"ball{n}" for n in range(1, size + 1)], ("room1", "room2"), ("left", "right")
    start = ["door room1 room2", "door room2 room1", f"robot-in {rng.choice(rooms)}"]
    start += [*(f"in {ball} {rng.choice(rooms)}" for ball in balls), *(f"free {hand}" for hand in hands)]
    objects = {**dict.fromkeys(balls, "ball"), **dict.fromkeys(rooms, "room"), **dict.fromkeys(hands, "hand")}
    return objects, start, [f"in {ball} {rng.choice(rooms)}" for ball in balls]


def _logistics(rng: Random, size: int) -> Drawn:
    """Draw a problem: two cities, each with an airport, another place and a truck, and one plane."""
    cities, packages = (("a1", "p1"), ("a2", "p2")), [f"x{n}" for n in range(1, size + 1)]
    everywhere = [place for city in cities for place in city]
    start = [f"road {way}" for airport, place in cities for way in (f"{airport} {place}", f"{place} {airport}")]
    start += ["route a1 a2", "route a2 a1", f"at jet {rng.choice(('a1', 'a2'))}"]
    start += [f"at t{number} {rng.choice(city)}" for number, city in enumerate(cities, 1)]
    start += [f"at {package} {rng.choice(everywhere)}" for package in packages]
    objects = {"a1": "airport", "a2": "airport", "p1": "place", "p2": "place"}
    objects |= {"t1": "truck", "t2": "truck", "jet": "plane", **dict.fromkeys(packages, "package")}
    return objects, start, [f"at {package} {rng.choice(everywhere)}" for package in packages]


_DOMAINS: dict[str, tuple[str, Callable[[Random, int], Drawn], range]] = {
    "blocksworld": (BLOCKSWORLD, _blocksworld, range(2, 13)),
    "gripper": (GRIPPER, _gripper, range(1, 13)),
    "logistics": (LOGISTICS, _logistics, range(1, 13)),
}
NAMES = tuple(_DOMAINS)
_TRIES = 300  # draws in a row with nothing new: the size is used up


def generate(name: str, *, sizes: Iterable[int], seed: int, count: int) -> Iterator[World]:
    """Yield `count` different problems, none of them solved from the start."""
    if name not in _DOMAINS:
        raise WorldError(f"no world {name!r}; there are {', '.join(NAMES)}, or your own PDDL files")
    sizes, (_, _, possible) = tuple(sizes), _DOMAINS[name]
    if not sizes or (wrong := [size for size in sizes if size not in possible]):
        raise WorldError(f"{name} has the sizes {possible[0]} to {possible[-1]}, not {wrong[0] if sizes else 'none'}")
    return islice(_problems(name, sizes, Random(f"{name} {seed}")), count)


def _problems(name: str, sizes: Sequence[int], rng: Random) -> Iterator[World]:
    text, draw, _ = _DOMAINS[name]
    domain = domain_of(text, name)
    seen: set[tuple[str, ...]] = set()
    left = list(sizes)
    while left:
        for size in tuple(left):
            if (drawn := _new(draw, rng, size, seen)) is None:
                left.remove(size)  # its problems are used up; other sizes continue
                continue
            objects, start, goal = drawn
            facts, wanted = ([tuple(fact.split()) for fact in some] for some in (start, goal))
            text = write_task(domain, f"{name}-{size}-{len(seen)}", objects, facts, map(Literal, wanted))
            yield world_of(domain.text, text)
    raise WorldError(f"{name} of these sizes has no more than {len(seen)} different problems: add a larger size")


def _new(draw: Callable[[Random, int], Drawn], rng: Random, size: int, seen: set[tuple[str, ...]]) -> Drawn | None:
    """Draw a problem that is new and not solved from the start."""
    for _ in range(_TRIES):
        objects, start, goal = draw(rng, size)
        what = (*sorted(start), "goal", *sorted(goal))
        if what not in seen and set(goal) - set(start):
            seen.add(what)
            return objects, start, goal
    return None
