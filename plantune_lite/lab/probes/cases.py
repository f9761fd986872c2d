"""Generate cases for probes: a problem, valid steps so far, and one more step that can or cannot be done.

    cases(problems, per_problem=8, seed=0)
        -> [Case(begun="<plan>\n1. unstack b a\n2.", step="put-down b", valid=True, ...),
            Case(begun="<plan>\n1. unstack b a\n2.", step="put-down a", valid=False, why="holding a", ...)]

Cases come in pairs after the same steps: the same kind of action, one possible and one a near miss, which lacks exactly
one precondition. Kinds are drawn uniformly, then lacking predicates, then one of the pairs with the most objects in
common, so that surface features say little. Half of the pairs follow the problem's own plan, where it has one, and half
a random walk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from plantune_lite import plan
from plantune_lite.lab.worlds.grade import world_in
from plantune_lite.lab.worlds.pddl import Atom, Literal
from plantune_lite.lab.worlds.simulator import Action, World
from plantune_lite.types import Messages, Problem

_LONGEST_WALK = 12  # steps before the step in question
_TRIES = 50  # draws of steps after which there may be no pair


@dataclass(frozen=True)
class Case:
    """One step after others, and what is true there."""

    problem_id: str
    prompt: Messages
    begun: str  # the reply up to the step's number: the space after it is part of the step's first token
    step: str
    valid: bool
    why: str  # the missing precondition
    lacks: str  # its predicate
    after: str  # "plan" or "walk": where the steps before it come from
    facts: frozenset[Atom]  # that hold before the step
    changed: frozenset[Atom]  # facts that began to hold, or ceased to, since the start
    atoms: tuple[Atom, ...]  # all that can change in its world

    @property
    def messages(self) -> Messages:
        """Return the conversation with the step, up to its last token."""
        return (*self.prompt, {"role": "assistant", "content": f"{self.begun} {self.step}"})

    @property
    def before(self) -> Messages:
        """Return the conversation up to the step."""
        return (*self.prompt, {"role": "assistant", "content": self.begun})


def cases(problems: Sequence[Problem], *, per_problem: int, seed: int) -> list[Case]:
    """Draw pairs of cases of each problem, up to `per_problem` cases for each."""
    drawn = []
    for problem in problems:
        world = world_in(problem)
        rng = Random(f"{seed} {problem.id}")
        for pair in range(per_problem // 2):
            after = "plan" if pair % 2 == 0 and problem.steps else "walk"
            drawn += _two(problem, world, after, rng)
    return drawn


def _two(problem: Problem, world: World, after: str, rng: Random) -> list[Case]:
    """Draw a step that can be done and one that nearly can, after the same steps; nothing if there are none."""
    for _ in range(_TRIES):
        if after == "plan":
            before = list(problem.steps[: rng.randrange(len(problem.steps))])
        else:
            before = [action.text for action in world.walk(rng, rng.randrange(_LONGEST_WALK + 1))]
        state = world.after(before)
        kinds: dict[str, dict[str, list[_Pair]]] = {}
        for pair in _alike(world, state):
            kinds.setdefault(pair.good.schema, {}).setdefault(pair.lacks.atom[0], []).append(pair)
        if kinds:
            lacking = kinds[rng.choice(sorted(kinds))]
            pairs = lacking[rng.choice(sorted(lacking))]
            most = max(pair.shared for pair in pairs)
            chosen = rng.choice([pair for pair in pairs if pair.shared == most])
            return [
                _case(problem, world, before, after, chosen.good),
                _case(problem, world, before, after, chosen.bad, chosen.lacks),
            ]
    return []


@dataclass(frozen=True)
class _Pair:
    """Two actions of one kind."""

    good: Action  # that can be done
    bad: Action  # that nearly can
    lacks: Literal
    shared: int  # positions with the same object


def _alike(world: World, state: int) -> Iterator[_Pair]:
    """Yield all pairs in a state."""
    misses = world.near_misses(state)
    for good in world.applicable(state):
        if len(set(good.objects)) < len(good.objects):
            continue
        for bad, why in misses:
            if bad.schema == good.schema:
                same = sum(a == b for a, b in zip(good.objects, bad.objects, strict=True))
                yield _Pair(good, bad, why, same)


def _case(
    problem: Problem,
    world: World,
    before: Sequence[str],
    after: str,
    action: Action,
    lacks: Literal | None = None,
) -> Case:
    written = plan.render(before).removesuffix(f"{plan.CLOSE}\n")
    facts = world.facts(world.after(before))
    return Case(
        problem_id=problem.id,
        prompt=plan.ask_plainly(problem),
        begun=f"{written}{len(before) + 1}.",
        step=action.text,
        valid=lacks is None,
        why=str(lacks or ""),
        lacks=lacks.atom[0] if lacks else "",
        after=after,
        facts=facts,
        changed=facts ^ world.facts(world.start),
        atoms=world.atoms,
    )
