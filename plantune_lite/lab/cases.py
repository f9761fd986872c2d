"""What a probe is asked about: a problem, valid steps so far, and one more step that can or cannot be done.

    cases(problems, per_problem=8, seed=0)
        -> [Case(begun="<plan>\n1. unstack b a\n2.", step="put-down b", valid=True, ...),
            Case(begun="<plan>\n1. unstack b a\n2.", step="put-down a", valid=False, why="holding a", ...)]

They come in pairs after the same steps: of the same kind of action, with as many objects in common as there are, one
possible and one a near miss, which lacks exactly one precondition. What is asked about is so never the surface. Half of
the pairs follow the problem's own plan, where it has one, and half a random walk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from plantune_lite import plans
from plantune_lite.lab.pddl import Atom
from plantune_lite.lab.planning import world_in
from plantune_lite.lab.worlds import Action, World
from plantune_lite.records import Messages, Problem

_LONGEST_WALK = 12  # steps before the one that is asked about
_TRIES = 50  # drawings of steps after which there may be no pair


@dataclass(frozen=True)
class Case:
    """One step after others, and what is true there."""

    problem_id: str
    prompt: Messages
    begun: str  # the reply up to the step's number: the space behind it is part of the step's first token
    step: str
    valid: bool
    why: str  # the precondition that is lacking
    after: str  # "plan" or "walk": what the steps before it are
    facts: frozenset[Atom]  # that hold before the step
    changed: frozenset[Atom]  # facts that began to hold, or ceased to, since the start
    atoms: tuple[Atom, ...]  # all that can change in its world

    @property
    def messages(self) -> Messages:
        """The conversation with the step, up to its last token."""
        return (*self.prompt, {"role": "assistant", "content": f"{self.begun} {self.step}"})

    @property
    def before(self) -> Messages:
        """The conversation where the step is next."""
        return (*self.prompt, {"role": "assistant", "content": self.begun})


def cases(problems: Sequence[Problem], *, per_problem: int, seed: int) -> list[Case]:
    """Pairs of cases of each problem, `per_problem` cases in all of one where there are so many."""
    found = []
    for problem in problems:
        world = world_in(problem)
        rng = Random(f"{seed} {problem.id}")
        for pair in range(per_problem // 2):
            after = "plan" if pair % 2 == 0 and problem.steps else "walk"
            found += _pair(problem, world, after, rng)
    return found


def _pair(problem: Problem, world: World, after: str, rng: Random) -> list[Case]:
    """A step that can be done and one that nearly can, after the same steps; nothing where there are none."""
    for _ in range(_TRIES):
        if after == "plan":
            before = list(problem.steps[: rng.randrange(len(problem.steps))])
        else:
            before = [one.text for one in world.walk(rng, rng.randrange(_LONGEST_WALK + 1))]
        state = world.after(before)
        if pairs := list(_alike(world, state)):
            most = max(shared for shared, _, _, _ in pairs)
            _, good, bad, why = rng.choice([one for one in pairs if one[0] == most])
            return [
                _case(problem, world, before, state, after, good, ""),
                _case(problem, world, before, state, after, bad, why),
            ]
    return []


def _alike(world: World, state: int) -> Iterator[tuple[int, Action, Action, str]]:
    """Pairs of one kind of action: how many places have the same object, what can be done, what nearly can, and why."""
    misses = world.near_misses(state)
    for good in world.applicable(state):
        if len(set(good.objects)) < len(good.objects):
            continue
        for bad, why in misses:
            if bad.schema == good.schema:
                same = sum(one == other for one, other in zip(good.objects, bad.objects, strict=True))
                yield same, good, bad, str(why)


def _case(
    problem: Problem, world: World, before: Sequence[str], state: int, after: str, action: Action, why: str
) -> Case:
    written = plans.render(before).removesuffix(f"{plans.CLOSE}\n")
    facts = world.facts(state)
    return Case(
        problem_id=problem.id,
        prompt=plans.ask_plainly(problem),
        begun=f"{written}{len(before) + 1}.",
        step=action.text,
        valid=not why,
        why=why,
        after=after,
        facts=facts,
        changed=facts ^ world.facts(world.start),
        atoms=world.atoms,
    )
