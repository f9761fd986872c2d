"""Replace a teacher without a model: turn a worked solution into a plan and its execution.

A plan says what to find next and how, without computing. Where a source has plan lines (practice) they are used, in the
direction they have or, where practice has both, in the one requested; where it has a sub-question to each step
(gsm8k's socratic release) each becomes a step:

    "How many eggs does Janet sell?" + "Janet sells 16 - 3 = 13 eggs." -> "How many eggs does Janet sell? Subtract."

where it has only steps (gsm_symbolic), each step's operation and what its result counts:

    "There are 3 * 4 = 12 apples in the boxes." -> "Multiply to find the apples in the boxes."

Sub-questions and steps run forwards; for a backwards plan they are reversed.

A solution with its numbers blanked is not a plan, so a problem gets none where a bare step has no operation or result.
"""

import re
from dataclasses import dataclass

from plantune_lite.plan import clean_step, split_steps, with_answer
from plantune_lite.recipe.schema import Direction
from plantune_lite.types import Problem, Reason

_OPERATIONS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
_NUMBER = r"[$€£]?\s?[0-9][0-9.,]*%?"
_SUM = re.compile(rf"\(?{_NUMBER}\)?(?:\s*[-+*/×÷x−]\s*\(*{_NUMBER}\)*)+\s*=")
_THING = re.compile(r"(?!(?:in|each|per|of|for|on|at|and|or|to|from|left|more|less|total|altogether)\b)[A-Za-z]")
_RESULT = re.compile(rf"=\s*{_NUMBER}\s*([^=.;\n]*)")


@dataclass(frozen=True)
class Worked:
    """A worked solution, split up; `reason` says why it has no plan, where it has none."""

    plan: tuple[str, ...]
    execution: str
    reason: Reason | None = None


def plan_of(problem: Problem, direction: Direction | None = None) -> Worked:
    """Extract the plan from a problem's worked solution, in the given direction."""
    steps = problem.steps
    if not steps and not problem.solution:
        return Worked((), "", Reason.NO_WORKED_SOLUTION)
    execution = with_answer("\n".join(steps) if steps else problem.solution or "", problem.answer)
    given = problem.extra.get("plan_forwards" if direction == "forwards" else "plan") or problem.extra.get("plan")
    if given:
        lines = list(split_steps(given)) if isinstance(given, str) else [str(line) for line in given]
    elif len(questions := problem.extra.get("subquestions", ())) == len(steps):
        lines = [_from_question(str(question), step) for question, step in zip(questions, steps, strict=True)]
    else:
        lines = [_from_step(step) for step in steps]
    if direction == "backwards" and not given:
        lines.reverse()
    plan = tuple(clean_step(line) for line in lines)
    if not plan or not all(plan):
        return Worked((), execution, Reason.NO_WORKED_PLAN)
    return Worked(plan, execution)


def _from_question(question: str, step: str) -> str:
    operations = _operations(step)
    return f"{question.strip()} {operations.capitalize()}." if operations else question.strip()


def _from_step(step: str) -> str:
    operations, results = _operations(step), _RESULT.findall(step)
    what = re.sub(r"\s+", " ", results[-1]).strip(" ,:") if results else ""  # the last is the step's own
    if not operations or not _THING.match(what) or re.search(r"[0-9]", what):
        return ""
    return f"{operations.capitalize()} to find the {what}."


def _operations(step: str) -> str:
    """Name a step's operations in the order they first appear: `add`, or `multiply, then subtract`."""
    sums = "".join(_SUM.findall(step)) or step.partition("=")[0]
    sums = re.sub(r"[×x](?=\s*[$(0-9])", "*", sums).replace("÷", "/").replace("−", "-")
    signs = re.findall(r"[-+*/](?=\s*[$€£(]*[.0-9])", sums)  # "7 stickers/page * 6 pages" has one
    return ", then ".join(_OPERATIONS[sign] for sign in dict.fromkeys(signs))
