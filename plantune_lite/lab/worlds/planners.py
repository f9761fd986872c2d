"""Plans from a planner, and a second opinion on plans: unified-planning, with pyperplan behind it.

    plan(world, optimal=True)                    ("unstack b a", "put-down b", "pick-up a", "stack a b")
    Library(world).is_valid(("stack a b",))      False, by unified-planning's own validator

Both libraries come with `pip install 'plantune-lite[lab]'`. Nothing else in the lab needs them: simulator.py reads,
walks and validates by itself, and is compared with them.
"""

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from plantune_lite.lab.worlds.pddl import EQUAL, Atom, Domain, Literal
from plantune_lite.lab.worlds.pddl_forms import OBJECT
from plantune_lite.lab.worlds.simulator import World, WorldError, domain_of
from plantune_lite.terminal import printable
from plantune_lite.types import MissingError, PlantuneError

_PLANNER = "pyperplan"
_SEARCH = {  # optimal or not
    True: {"search": "astar", "heuristic": "hmax"},
    False: {"search": "gbf", "heuristic": "hff"},
}


def plan(world: World, *, optimal: bool = False) -> tuple[str, ...] | None:
    """Find a plan, a shortest one if `optimal`; None if the goal cannot be reached."""
    with _as_world_error(world):
        problem = _built(world)
    return Library(world, problem).plan(optimal=optimal)


class Library:
    """A world as unified-planning sees it: read by its own reader from the same PDDL, unless its problem is given."""

    def __init__(self, world: World, problem: Any = None) -> None:
        self._world = world
        with _as_world_error(world, "unified-planning's reader cannot read this world ({reason})"):
            self.problem = problem or _reader().parse_problem_string(world.task.domain.text, world.task.text)

    def plan(self, *, optimal: bool) -> tuple[str, ...] | None:
        """Return the planner's plan, checked first."""
        factory = _environment().factory
        with _as_world_error(self._world), factory.OneshotPlanner(name=_PLANNER, params=_SEARCH[optimal]) as planner:
            solution = planner.solve(self.problem).plan
        if solution is None:
            return None
        steps = tuple(" ".join((step.action.name, *map(str, step.actual_parameters))) for step in solution.actions)
        if not (checked := self._world.check(steps)).valid:
            raise WorldError(f"{self._world.task.name}: {_PLANNER}'s plan is wrong here: {checked.sentence()}")
        return steps

    def is_valid(self, steps: Sequence[str]) -> bool:
        """Validate steps, which name existing actions and objects, by the library's own validator."""
        from unified_planning.engines import SequentialPlanValidator
        from unified_planning.plans import SequentialPlan

        with _as_world_error(self._world, "unified-planning cannot validate plans here ({reason})"):
            instances = [self.instance(step) for step in steps]
            return bool(SequentialPlanValidator().validate(self.problem, SequentialPlan(instances)))

    def instance(self, step: str) -> Any:
        """Convert a step to the library's own object."""
        from unified_planning.plans import ActionInstance

        name, *objects = step.split()
        as_object = self.problem.environment.expression_manager.ObjectExp
        return ActionInstance(self.problem.action(name), tuple(as_object(self.problem.object(obj)) for obj in objects))

    def simulator(self) -> Any:
        """Create the library's own simulator."""
        from unified_planning.engines import UPSequentialSimulator

        with _as_world_error(self._world, "unified-planning cannot simulate this world ({reason})"):
            return UPSequentialSimulator(self.problem)


@contextmanager
def _as_world_error(
    world: World,
    what: str = f"{_PLANNER} cannot plan here ({{reason}}). It takes STRIPS with types: leave out negative conditions "
    "and equality, or learn from random walks",
) -> Iterator[None]:
    """Turn the libraries' errors, which are of many kinds, into a WorldError of one sentence."""
    env = _environment()
    from pyparsing import ParseBaseException
    from unified_planning.exceptions import UPException

    # Otherwise it prints the planner's credits each time, and a type and a predicate must not share a name. Its
    # simulator only works in this environment.
    before = env.credits_stream, env.error_used_name
    env.credits_stream, env.error_used_name = None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what they then refuse anyway, or names used twice
            yield
    except PlantuneError:
        raise
    except (
        UPException,
        ParseBaseException,
        SyntaxError,
        ValueError,
        LookupError,
        AssertionError,
        NotImplementedError,
    ) as error:
        reason = printable(" ".join(str(error).split()) or type(error).__name__, limit=80)
        raise WorldError(f"{world.task.name}: {what.format(reason=reason)}") from error
    finally:
        env.credits_stream, env.error_used_name = before


# --- built from our worlds, not read: the library reads ten times slower, and a corpus has many -----------------------


def _built(world: World) -> Any:
    """Build the library's problem from a world."""
    problem = _domain(world.task.domain.text).clone()
    problem.name = world.task.name
    for name, type in world.task.objects.items():
        if not problem.has_object(name):  # the domain's constants are there already
            problem.add_object(_object(world.task.domain, name, type))
    for atom in world.task.start:
        problem.set_initial_value(_fact(problem, atom), True)
    for literal in world.task.goal:
        problem.add_goal(_condition(problem, literal))
    return problem


@cache
def _domain(text: str) -> Any:
    """Build a problem of a domain, with no objects but the domain's."""
    from unified_planning.model import Fluent, InstantaneousAction, Parameter, Problem

    domain, env = domain_of(text), _environment()
    a_truth = env.type_manager.BoolType()
    problem = Problem(domain.name, env, initial_defaults={a_truth: False})
    for predicate, types in _widened(domain).items():
        terms = [Parameter(f"?{place}", _kind(domain, type), env) for place, type in enumerate(types)]
        problem.add_fluent(Fluent(predicate, a_truth, terms, env))
    for name, type in domain.constants.items():
        problem.add_object(_object(domain, name, type))
    for schema in domain.schemas:
        parameters = OrderedDict((name, _kind(domain, type)) for name, type in schema.parameters)
        action = InstantaneousAction(schema.name, parameters, env)
        for need in schema.needs:
            action.add_precondition(_condition(problem, need, action))
        for atom in dict.fromkeys(schema.adds):
            action.add_effect(_fact(problem, atom, action), True)
        for atom in dict.fromkeys(schema.deletes):
            if atom not in schema.adds:  # what is both deleted and added is added
                action.add_effect(_fact(problem, atom, action), False)
        problem.add_action(action)
    return problem


def _widened(domain: Domain) -> dict[str, tuple[str, ...]]:
    """Widen the types of each predicate's terms to those of the parameters used there, as the library requires."""
    types_of = {predicate: list(types) for predicate, types in domain.predicates.items()}
    for schema in domain.schemas:
        types = dict(schema.parameters)
        for atom in (*(need.atom for need in schema.needs if need.atom[0] != EQUAL), *schema.adds, *schema.deletes):
            for place, term in enumerate(atom[1:]):
                if term in types and domain.is_a(types_of[atom[0]][place], types[term]):
                    types_of[atom[0]][place] = types[term]
    return {predicate: tuple(types) for predicate, types in types_of.items()}


def _kind(domain: Domain, type: str) -> Any:
    parent = None if type == OBJECT else _kind(domain, domain.parents[type])
    return _environment().type_manager.UserType(type, parent)


def _object(domain: Domain, name: str, type: str) -> Any:
    from unified_planning.model import Object

    return Object(name, _kind(domain, type), _environment())


def _condition(problem: Any, literal: Literal, action: Any = None) -> Any:
    fact = _fact(problem, literal.atom, action)
    return fact if literal.holds else problem.environment.expression_manager.Not(fact)


def _fact(problem: Any, atom: Atom, action: Any = None) -> Any:
    applied = problem.environment.expression_manager.Equals if atom[0] == EQUAL else problem.fluent(atom[0])
    return applied(*(action.parameter(term) if term.startswith("?") else problem.object(term) for term in atom[1:]))


def _environment() -> Any:
    try:
        import up_pyperplan  # noqa: F401
        from unified_planning.environment import get_environment
    except ImportError:
        raise MissingError("planners need unified-planning and pyperplan: pip install 'plantune-lite[lab]'") from None
    return get_environment()


@cache
def _reader() -> Any:
    """Create the library's reader once: it takes longer to create than a problem takes to read."""
    from unified_planning.io import PDDLReader

    return PDDLReader()
