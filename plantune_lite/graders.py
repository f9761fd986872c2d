"""How a reply is graded, by what its problem asks for: an answer, a program, or a plan that a world validates.

grade(problem, "<plan>\\n1. pick-up a\\n...") -> Graded("pick-up a; ...", Verdict(same=True, how="valid, 6 steps"))
"""

from plantune_lite import functions, lenient, programs
from plantune_lite.lenient import Graded
from plantune_lite.types import Problem


def grade(problem: Problem, text: str) -> Graded:
    """A program by its tests, a plan by carrying it out, anything else by its answer."""
    if problem.kind == "plan":
        return functions.load_from_lab("grade_plan")(problem, text)
    return (programs.grade_code if problem.kind == "code" else lenient.grade_answer)(problem, text)
