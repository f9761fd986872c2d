"""How a reply is graded, by what its problem asks for: an answer, a program, or a plan that a world validates.

grade(problem, "<plan>\\n1. pick-up a\\n...") -> Graded("pick-up a; ...", Verdict(same=True, how="valid, 6 steps"))
"""

from plantune_lite.grading import code, lenient
from plantune_lite.grading.lenient import Graded
from plantune_lite.recipe import user_code
from plantune_lite.types import Problem


def grade_reply(problem: Problem, text: str) -> Graded:
    """A program by its tests, a plan by carrying it out, anything else by its answer."""
    if problem.kind == "plan":
        return user_code.load_from_lab("grade_plan")(problem, text)
    return (code.grade_code if problem.kind == "code" else lenient.grade_answer)(problem, text)
