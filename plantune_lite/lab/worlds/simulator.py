"""A world that can be walked through: exact, quick, and able to say why a step is impossible.

    world = World(read_task(problem_text, read_domain(domain_text)))
    world.applicable(world.start)                      [Action("pick-up a"), Action("unstack c b")]
    world.check(["unstack c b", "stack c a"])          Checked(valid=False, good_steps=1, wrong="stack c a", why="...")
    world.check([...]).sentence()                      "step 2, stack c a: needs clear a"

A state is one integer, a bit for each fact that can change, so that a step is three operations on it. A step is text
as a model writes it: the action's name, then its objects.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from pathlib import Path
from random import Random

from plantune_lite.lab.worlds.pddl import EQUAL, Atom, Domain, Literal, Schema, Task, read_domain, read_task
from plantune_lite.types import PlantuneError

_MOST_ACTIONS = 200_000  # of one world: larger problems are out of scope


class WorldError(PlantuneError, ValueError):
    """An impossible step or world."""


@dataclass(frozen=True, eq=False)
class Action:
    """An action with its objects; all but the text are facts as bits."""

    text: str  # "stack a b"
    needs: int
    forbids: int
    deletes: int
    adds: int
    never: tuple[Literal, ...] = ()  # preconditions on facts that never change and do not hold

    @property
    def objects(self) -> tuple[str, ...]:
        """Return the objects it is done with, in order."""
        return tuple(self.text.split()[1:])

    @property
    def schema(self) -> str:
        """Return its name without objects."""
        return self.text.partition(" ")[0]


@dataclass(frozen=True)
class Checked:
    """Result of checking a plan."""

    valid: bool
    good_steps: int  # how many could be done before the first wrong one
    state: int  # after those
    wrong: str | None = None  # the first step that could not be done
    why: str = ""

    def sentence(self) -> str:
        """Summarise the result in one line."""
        if self.valid:
            return f"valid, {self.good_steps} steps"
        return f"step {self.good_steps + 1}, {self.wrong}: {self.why}" if self.wrong is not None else self.why


class World:
    """One problem of a domain, grounded."""

    def __init__(self, task: Task) -> None:
        self.task = task
        changing = {atom[0] for schema in task.domain.schemas for atom in (*schema.adds, *schema.deletes)}
        self._changing = changing
        self._bit_of: dict[Atom, int] = {}
        self.start = self.state(task.start)
        self.actions: dict[str, Action] = {action.text: action for action in self._grounded()}
        goal = [lit for lit in task.goal if lit.atom[0] in changing]
        self.goal_needs = self.state(lit.atom for lit in goal if lit.holds)
        self.goal_forbids = self.state(lit.atom for lit in goal if not lit.holds)
        # What never changes either holds from the start or makes the goal unreachable.
        self._goal_never = tuple(lit for lit in task.goal if lit.atom[0] not in changing and not self._is_so(lit))
        self._possible = tuple(action for action in self.actions.values() if not action.never)

    def _grounded(self) -> Iterator[Action]:
        for schema in self.task.domain.schemas:
            fits = [
                [name for name, is_a in self.task.objects.items() if self.task.domain.is_a(is_a, wanted)]
                for _, wanted in schema.parameters
            ]
            if (count := prod(map(len, fits))) > _MOST_ACTIONS:
                raise WorldError(
                    f"{schema.name} of {self.task.name} can be done with {count:,} combinations of objects, more than "
                    f"{_MOST_ACTIONS:,}: take a smaller problem, or give its parameters narrower types"
                )
            for objects in product(*fits):
                if action := self._action(schema, objects):
                    yield action

    def _action(self, schema: Schema, objects: Sequence[str]) -> Action | None:
        bound = dict(zip((name for name, _ in schema.parameters), objects, strict=True))

        def atom(lifted: Atom) -> Atom:
            return (lifted[0], *(bound.get(term, term) for term in lifted[1:]))

        needs = [Literal(atom(lit.atom), lit.holds) for lit in schema.needs]
        if any((lit.atom[1] == lit.atom[2]) != lit.holds for lit in needs if lit.atom[0] == EQUAL):
            return None  # it can never be done
        needs = [lit for lit in needs if lit.atom[0] != EQUAL]
        dynamic = [lit for lit in needs if lit.atom[0] in self._changing]
        adds = self.state(map(atom, schema.adds))
        return Action(
            text=" ".join((schema.name, *objects)),
            needs=self.state(lit.atom for lit in dynamic if lit.holds),
            forbids=self.state(lit.atom for lit in dynamic if not lit.holds),
            deletes=self.state(map(atom, schema.deletes)) & ~adds,  # what is both deleted and added is added
            adds=adds,
            never=tuple(lit for lit in needs if lit.atom[0] not in self._changing and not self._is_so(lit)),
        )

    def _is_so(self, literal: Literal) -> bool:
        return (literal.atom in self.task.start) == literal.holds

    # --- states -------------------------------------------------------------------------------------------------------

    def state(self, atoms: Iterable[Atom]) -> int:
        """Encode the state in which, of all that can change, just these facts hold."""
        state = 0
        for atom in atoms:
            if atom[0] in self._changing:
                state |= 1 << self._bit_of.setdefault(atom, len(self._bit_of))
        return state

    def facts(self, state: int) -> frozenset[Atom]:
        """Decode the facts of a state that can change."""
        return frozenset(atom for atom, bit in self._bit_of.items() if state >> bit & 1)

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """List every fact that can change, in a fixed order."""
        return tuple(sorted(self._bit_of))

    @cached_property
    def fixed(self) -> frozenset[Atom]:
        """Collect the facts that never change."""
        return frozenset(atom for atom in self.task.start if atom[0] not in self._changing)

    def is_goal(self, state: int) -> bool:
        """Tell whether a state satisfies the goal."""
        reached = state & self.goal_needs == self.goal_needs and not state & self.goal_forbids
        return reached and not self._goal_never

    # --- steps --------------------------------------------------------------------------------------------------------

    def named(self, step: str) -> Action | None:
        """Look up the action that a step names, however it is spelled: `stack a b`, `(STACK A B)`, `stack(a, b)`."""
        return self.actions.get(step) or self.actions.get(" ".join(step.lower().translate(_PUNCTUATION).split()))

    def can(self, action: Action, state: int) -> bool:
        """Tell whether an action can be done."""
        return state & action.needs == action.needs and not state & action.forbids and not action.never

    def applicable(self, state: int) -> list[Action]:
        """List the actions that can be done."""
        return [act for act in self._possible if state & act.needs == act.needs and not state & act.forbids]

    def step(self, action: Action, state: int) -> int:
        """Apply an action that can be done, and return the state after it."""
        return state & ~action.deletes | action.adds

    def lacks(self, action: Action, state: int) -> list[Literal]:
        """List the preconditions of an action that do not hold."""
        missing, present = action.needs & ~state, action.forbids & state
        unmet = [
            Literal(atom, holds=bool(missing >> bit & 1))
            for atom, bit in self._bit_of.items()
            if (missing | present) >> bit & 1
        ]
        return sorted([*action.never, *unmet], key=str)

    def check(self, steps: Sequence[str]) -> Checked:
        """Check that a plan can be carried out and reaches the goal; if not, report the first wrong step and why."""
        state = self.start
        for number, step in enumerate(steps):
            action = self.named(step)
            if action is None:
                return Checked(False, number, state, step, self._why_unknown(step))
            if missing := self.lacks(action, state):
                return Checked(False, number, state, step, "needs " + " and ".join(map(str, missing)))
            state = self.step(action, state)
        if self.is_goal(state):
            return Checked(True, len(steps), state)
        wanted = Action("", self.goal_needs, self.goal_forbids, 0, 0, self._goal_never)
        open_goals = " and ".join(map(str, self.lacks(wanted, state)))
        return Checked(False, len(steps), state, None, f"after {len(steps)} steps the goal still needs {open_goals}")

    def after(self, steps: Sequence[str]) -> int:
        """Return the state after steps that can all be done."""
        checked = self.check(steps)
        if checked.wrong is not None:
            raise WorldError(f"{self.task.name}: {checked.sentence()}")
        return checked.state

    def _why_unknown(self, step: str) -> str:
        name, *objects = step.lower().translate(_PUNCTUATION).split() or [""]
        schema = next((known for known in self.task.domain.schemas if known.name == name), None)
        if schema is None:
            return f"there is no such action, only {', '.join(known.name for known in self.task.domain.schemas)}"
        if len(objects) != len(schema.parameters):
            return f"{name} takes {len(schema.parameters)} objects"
        if strange := [obj for obj in objects if obj not in self.task.objects]:
            return f"there is no {strange[0]}"
        return f"{name} cannot be done with these objects"

    # --- exploring ----------------------------------------------------------------------------------------------------

    def walk(self, rng: Random, length: int) -> list[Action]:
        """Walk at random: each step is drawn uniformly from all that can be done; shorter only in a dead end."""
        state = self.start
        steps: list[Action] = []
        while len(steps) < length and (options := self.applicable(state)):
            steps.append(rng.choice(options))
            state = self.step(steps[-1], state)
        return steps

    def near_misses(self, state: int) -> list[tuple[Action, Literal]]:
        """List the actions that cannot be done for exactly one reason, and that reason; none repeats an object."""
        misses = []
        for action in self.actions.values():
            missing = (action.needs & ~state).bit_count() + (action.forbids & state).bit_count() + len(action.never)
            if missing == 1 and len(set(action.objects)) == len(action.objects):
                misses.append((action, self.lacks(action, state)[0]))
        return misses

    def broken(self, steps: Sequence[str], rng: Random) -> tuple[str, ...]:
        """Break a plan: drop, double, swap or replace one step; it may still be valid.

        A plan without steps, whose goal holds from the start, becomes some action.
        """
        if not steps:
            return tuple(rng.sample(list(self.actions), min(1, len(self.actions))))
        steps, at = list(steps), rng.randrange(len(steps))
        match rng.randrange(4):
            case 0:
                del steps[at]
            case 1:
                steps.insert(at, steps[at])
            case 2:
                other = rng.randrange(len(steps))
                steps[at], steps[other] = steps[other], steps[at]
            case 3:
                steps[at] = rng.choice(list(self.actions))
        return tuple(steps)


_PUNCTUATION = str.maketrans("(),.;:`*", "        ")


# --- where worlds come from -------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def domain_of(text: str, file: str = "the domain") -> Domain:
    """Parse the domain in a text, once."""
    return read_domain(text, file=file)


@lru_cache(maxsize=512)  # GRPO grades many completions of few problems
def world_of(domain_text: str, problem_text: str) -> World:
    """Build the world of two PDDL texts."""
    return World(read_task(problem_text, domain_of(domain_text)))


def from_files(domain: Path, problem: Path) -> World:
    """Load the world of a user's domain file and problem file."""
    return World(read_task(_text(problem), domain_of(_text(domain), domain.name), file=problem.name))


def _text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")  # Windows' Notepad begins a file with a BOM
    except (OSError, UnicodeDecodeError) as error:
        raise WorldError(f"{path} cannot be read as PDDL: {error}") from None
