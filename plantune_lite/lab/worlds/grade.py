r"""Worlds as problems like any other: a question, a plan as the reply, validation as the grade, and rewards for it.

    problem = problem_of(world, ("unstack b a", "put-down b"), id="blocksworld/train/0")
    problem.question    "Blocksworld. Actions: pick-up ?x, put-down ?x, stack ?x ?y, unstack ?x ?y.
                         Objects: a b
                         Start: clear b, handempty, on b a, ontable a
                         Goal: ontable b"
    grade(problem, "<plan>\n1. unstack b a\n2. put-down b\n</plan>").verdict
        -> Verdict(same=True, how="valid, 2 steps")

The plan is the whole answer: there is nothing to work out after it. The answer field is the goal in words, which says
what a plan is for and gives none away. `extra["world"]` is the PDDL of domain and problem, so that a grader needs only
the problem, and a reward only that column.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from plantune_lite.lab.worlds.pddl import Atom
from plantune_lite.lab.worlds.simulator import World, WorldError, world_of
from plantune_lite.plan import CLOSE, OPEN, clean_step, written_plan
from plantune_lite.types import Graded, Problem, Verdict

# --- a question -------------------------------------------------------------------------------------------------------


def problem_of(world: World, steps: Sequence[str] = (), *, id: str, split: str = "train", **extra: Any) -> Problem:
    """Build a problem from a world; `steps` is a plan for it, if one is known, and `extra` is recorded with it."""
    task = world.task
    return Problem(
        id=id,
        question=question(world),
        answer=", ".join(map(str, task.goal)),
        steps=tuple(steps),
        source=task.domain.name,
        split=split,
        kind="plan",
        extra={"world": [task.domain.text, task.text], "plan": list(steps), **extra},
    )


def question(world: World) -> str:
    """Describe a world completely, in few tokens and in the words that its steps are made of."""
    task = world.task
    actions = ", ".join(" ".join((act.name, *(name for name, _ in act.parameters))) for act in task.domain.schemas)
    return "\n".join(
        (
            f"{task.domain.name.capitalize()}. Actions: {actions}.",
            f"Objects: {_objects(world)}",
            f"Start: {_facts(task.start)}",
            f"Goal: {', '.join(map(str, task.goal))}",
        )
    )


def _objects(world: World) -> str:
    """Format objects: `a b c` if there are no types, else `ball: ball1 ball2; room: room1 room2`."""
    of = world.task.objects
    if not world.task.domain.parents:
        return " ".join(of)
    groups = groupby(sorted(of, key=lambda name: of[name]), key=lambda name: of[name])
    return "; ".join(f"{type}: {' '.join(names)}" for type, names in groups)


def _facts(facts: frozenset[Atom]) -> str:
    return ", ".join(sorted(" ".join(fact) for fact in facts))


def world_in(problem: Problem) -> World:
    """Build the world that a problem is about."""
    pddl = problem.extra.get("world")
    if not isinstance(pddl, Sequence) or isinstance(pddl, str) or len(pddl) != 2:
        raise WorldError(
            f"{problem.id} asks for a plan and has no 'world', the PDDL of domain and problem: only the lab makes "
            "problems of kind 'plan'"
        )
    return world_of(*map(str, pddl))


# --- a grade ----------------------------------------------------------------------------------------------------------

_STEP = re.compile(r"^\W*(?:\d+\s*[.):]\s*)?\(?\s*([a-z][\w-]*)\b", re.IGNORECASE)


def steps_in(world: World, text: str) -> tuple[str, ...]:
    """Extract the plan from a reply: between its tags if actions are there, else lines that begin with one."""
    names = {schema.name for schema in world.task.domain.schemas}

    def names_one(line: str) -> bool:
        first = _STEP.match(line)
        return first is not None and first[1].lower() in names

    written = written_plan(text)
    if any(map(names_one, written)):
        return written
    lines = filter(names_one, text.replace(OPEN, "").replace(CLOSE, "").splitlines())
    return tuple(filter(None, map(clean_step, lines))) or written


def grade(problem: Problem, text: str) -> Graded:
    """Validate the plan in a reply; its format does not matter, so having learned ours is no advantage."""
    world = world_in(problem)
    if not (steps := steps_in(world, text)):
        return Graded(None, Verdict(same=None, how="no plan in the reply"))
    checked = world.check(steps)
    return Graded("; ".join(steps), Verdict(same=checked.valid, how=checked.sentence()))


# --- rewards: plain functions that any TRL trainer takes --------------------------------------------------------------


def valid_prefix(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    world: Sequence[Any],
    plan: Sequence[Sequence[str]] | None = None,
    **_: Any,
) -> list[float]:
    """Return 1 for a valid plan, else its steps before the first that cannot be done, as a share of those it needs.

    It needs as many as it has, or as the reference, `plan`, if that is longer: otherwise one step that can be done
    would earn as much as a whole plan of them, and stopping there would be learned. And it needs to reach the goal,
    which counts as one more: otherwise picking something up and putting it down forever would be as good as a plan.
    """
    rewards = []
    for (simulator, text), reference in zip(_each(completions, world), plan or [()] * len(completions), strict=True):
        steps = steps_in(simulator, text)
        checked = simulator.check(steps)
        most = max(len(steps), len(reference)) + 1
        rewards.append(1.0 if steps and checked.valid else checked.good_steps / most)
    return rewards


def _each(completions: Sequence[Any], worlds: Sequence[Any]) -> list[tuple[World, str]]:
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [(world_of(*pddl), text) for pddl, text in zip(worlds, texts, strict=True)]
