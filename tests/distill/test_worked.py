import pytest

from plantune_lite.distill.worked import plan_of
from plantune_lite.plan import spoiler
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.types import Problem


def problem(question="How many?", answer="9", steps=(), **more):
    return Problem(id="p", question=question, answer=answer, steps=tuple(steps), **more)


def test_a_sub_question_and_what_its_step_does_are_a_step_of_the_plan():
    found = plan_of(
        problem(
            steps=["Janet sells 16 - 3 - 4 = 9 eggs.", "She makes 9 * 2 = $18."],
            answer="18",
            extra={"subquestions": ["How many eggs does Janet sell?", "How much does she make?"]},
        )
    )
    assert found.plan == ("How many eggs does Janet sell? Subtract.", "How much does she make? Multiply.")
    assert found.execution.endswith("The answer is \\boxed{18}.")


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("There are 3 * 4 = 12 apples in the boxes.", "Multiply to find the apples in the boxes."),
        ("That is 10 + 5 × 2 = 20 dollars.", "Add, then multiply to find the dollars."),
        ("He reads 7 pages/day * 6 days = 42 pages.", "Multiply to find the pages."),
    ],
)
def test_a_bare_step_becomes_its_operation_and_what_it_finds(step, line):
    assert plan_of(problem(steps=[step])).plan == (line,)


def test_a_plan_runs_the_way_that_is_asked_for():
    steps = ["There are 3 * 4 = 12 apples.", "Left are 12 - 5 = 7 apples."]
    onwards = ("Multiply to find the apples.", "Subtract to find the apples.")
    assert plan_of(problem(steps=steps)).plan == plan_of(problem(steps=steps), "forwards").plan == onwards
    assert plan_of(problem(steps=steps), "backwards").plan == onwards[::-1]
    [chain] = practice_problems("train", seed=0, limit=1)
    assert plan_of(chain).plan == plan_of(chain, "backwards").plan == tuple(chain.extra["plan"])
    assert plan_of(chain, "forwards").plan == tuple(chain.extra["plan_forwards"])
    given = problem(steps=steps, extra={"plan": ["Note the apples.", "Subtract."]})
    assert plan_of(given, "backwards").plan == ("Note the apples.", "Subtract."), "nobody knows which way it runs"


@pytest.mark.parametrize("given", ["1. Note the pens.\n2. Add both.", ["Note the pens.", "2. Add both."]])
def test_a_plan_that_the_row_brings_is_taken_as_it_is_written(given):
    made = problem(solution="3 + 4 = 7 pens", answer="7", extra={"plan": given})
    assert plan_of(made).plan == ("Note the pens.", "Add both.")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (problem(), "no worked solution"),
        (problem(steps=["It follows."]), "no plan in the worked solution"),
        (problem(steps=["4 + 5 = 9 in all."]), "no plan in the worked solution"),
        (problem(steps=["1+1=2 x"], extra={"subquestions": []}), None),
        (problem(steps=["1+1=2 x"], extra={"subquestions": ["a?", "b?"]}), None),
    ],
)
def test_where_there_is_no_plan_it_says_why(made, reason):
    assert plan_of(made).reason == reason


def test_every_practice_problem_has_a_plan_that_spoils_nothing():
    for one in practice_problems("train", seed=3, limit=200):
        found = plan_of(one)
        assert len(found.plan) == len(one.steps) and spoiler(found.plan, one) is None
