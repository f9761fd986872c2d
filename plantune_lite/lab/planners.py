"""Plans from a planner, and a second opinion on plans: unified-planning, with pyperplan behind it.

    plan(world, optimal=True)                    ("unstack b a", "put-down b", "pick-up a", "stack a b")
    Library(world).is_valid(("stack a b",))      False, by unified-planning's own validator

Both libraries come with `pip install 'plantune-lite[lab]'`. Nothing else in the lab needs them: worlds.py reads, walks
and validates by itself, and is compared with them.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from plantune_lite.lab.pddl import Atom
from plantune_lite.lab.worlds import World, WorldError
from plantune_lite.records import MissingError
from plantune_lite.terminal import printable

_PLANNER = "pyperplan"
_SEARCH = {  # optimal or not
    True: {"search": "astar", "heuristic": "hmax"},
    False: {"search": "gbf", "heuristic": "hff"},
}


def plan(world: World, *, optimal: bool = False) -> tuple[str, ...] | None:
    """A plan, the shortest one where that is asked for; None where the goal cannot be reached."""
    return Library(world, _built(world)).plan(optimal=optimal)


class Library:
    """A world as unified-planning sees it: read from the same PDDL, unless its problem is given."""

    def __init__(self, world: World, problem: Any = None) -> None:
        self._world = world
        self.problem = problem or _reader().parse_problem_string(world.task.domain.text, world.task.text)

    def plan(self, *, optimal: bool) -> tuple[str, ...] | None:
        """A plan of the planner's, checked before it is handed out."""
        from unified_planning.environment import get_environment
        from unified_planning.exceptions import UPException

        up = get_environment()
        shown, up.credits_stream = up.credits_stream, None  # else it prints who wrote the planner, each time
        try:
            with (
                warnings.catch_warnings(),
                up.factory.OneshotPlanner(name=_PLANNER, params=_SEARCH[optimal]) as planner,
            ):
                warnings.simplefilter("ignore")  # that it is not sure of what it then refuses
                found = planner.solve(self.problem).plan
        except (UPException, AssertionError, NotImplementedError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WorldError(
                f"{self._world.task.name}: {_PLANNER} cannot plan here ({printable(reason, limit=80)}). It takes "
                "STRIPS with types: leave out negative conditions and equality, or learn from random walks"
            ) from error
        finally:
            up.credits_stream = shown
        if found is None:
            return None
        steps = tuple(" ".join((one.action.name, *map(str, one.actual_parameters))) for one in found.actions)
        if not (checked := self._world.check(steps)).valid:
            raise WorldError(f"{self._world.task.name}: {_PLANNER}'s plan is wrong here: {checked.sentence()}")
        return steps

    def is_valid(self, steps: Sequence[str]) -> bool:
        """What the library's own validator says of steps that name existing actions and objects."""
        from unified_planning.engines import SequentialPlanValidator
        from unified_planning.plans import SequentialPlan

        instances = [self.instance(step) for step in steps]
        return bool(SequentialPlanValidator().validate(self.problem, SequentialPlan(instances)))

    def instance(self, step: str) -> Any:
        """The library's own object for a step."""
        from unified_planning.plans import ActionInstance

        name, *objects = step.split()
        as_object = self.problem.environment.expression_manager.ObjectExp
        return ActionInstance(self.problem.action(name), tuple(as_object(self.problem.object(one)) for one in objects))

    def simulator(self) -> Any:
        """The library's own simulator."""
        from unified_planning.engines import UPSequentialSimulator

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that goals with quality metrics are not looked at
            return UPSequentialSimulator(self.problem)


def _built(world: World) -> Any:
    """The library's problem, made from ours: reading the text takes it ten times as long, and a corpus has many."""
    from unified_planning.model import Object

    problem = _domain(world.task.domain.text).clone()
    problem.name = world.task.name
    for name, type in world.task.objects.items():
        if not problem.has_object(name):  # the domain's constants are there
            problem.add_object(Object(name, problem.user_type(type), problem.environment))

    def fact(atom: Atom) -> Any:
        return problem.fluent(atom[0])(*(problem.object(name) for name in atom[1:]))

    for atom in world.task.start:
        problem.set_initial_value(fact(atom), True)
    for one in world.task.goal:
        goal = fact(one.atom)
        problem.add_goal(goal if one.holds else problem.environment.expression_manager.Not(goal))
    return problem


@cache
def _domain(text: str) -> Any:
    return _reader().parse_problem_string(text)


@cache
def _reader() -> Any:
    """The library's reader, which takes longer to make than a problem does to read."""
    try:
        import unified_planning.shortcuts  # noqa: F401
        import up_pyperplan  # noqa: F401
        from unified_planning.io import PDDLReader
    except ImportError:
        raise MissingError("planners need unified-planning and pyperplan: pip install 'plantune-lite[lab]'") from None
    return PDDLReader()
