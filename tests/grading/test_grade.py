import pytest

from plantune_lite.grading.grade import grade_answer
from plantune_lite.types import Problem


def asked(answer, choices=()):
    return Problem(id="1", question="?", answer=answer, choices=choices)


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("15", "so he needs 15 apples"),
        ("15", "The answer is that he has 15 apples left."),
        ("15", "**Answer:** 15"),
        ("15", r"10 + 5 = 15, that is \boxed{15 \text{ apples}}"),
        ("-3", "The result is -3."),
        ("3", "8-5=3"),
        ("1234", "in all it costs $1,234, which is much"),
        ("0.75", "she eats 3/4"),
        ("15", "<plan>\n1. Add.\n2. Add again.\n</plan>\n10 + 5 = 15"),
        ("15", "<plan>\n1. Add.\n</plan>\nWe get \\boxed{15}, not 16 or 17."),
        ("15", "<plan>\n1. Add.\n2. The answer is the total.\n</plan>\nHe has 10 + 5 = 15 apples."),
        ("15", "<plan>\n1. Write it as \\boxed{x}.\n</plan>\nHe has 10 + 5 = 15 apples."),
        ("2 cups", "That makes 2."),
    ],
)
def test_a_right_answer_is_right_however_it_is_written(gold, text):
    assert grade_answer(asked(gold), text).verdict.same is True


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("5", "The answer is 5 or 6."),
        ("2", "<plan>\n1. Add.\n2. Subtract.\n</plan>\n"),
        ("2", "<plan>\n1. Add.\n2. Subtr"),
        ("2", "I do not know."),
        ("2", ""),
        ("blue", "it was 2"),
    ],
)
def test_what_commits_to_no_answer_is_not_judged(gold, text):
    assert grade_answer(asked(gold), text).verdict.same is None


def test_an_answer_in_prose_votes_as_the_number_it_is():
    assert grade_answer(asked("15"), "The answer is that he has 15 apples left.").prediction == "15"


def test_what_is_only_a_plan_may_say_the_answer():
    assert grade_answer(asked("15"), "<plan>\n1. Add.\n2. The answer is 15.\n</plan>\n").verdict.same is True


def test_a_plan_that_speaks_of_the_answer_chooses_nothing():
    text = "<plan>\n1. The answer is the fruit that is green.\n</plan>\nIt is the pear."
    assert grade_answer(asked("B", FRUIT), text).verdict.same is True


def test_an_answer_that_is_marked_counts_before_the_last_number():
    assert grade_answer(asked("7"), r"\boxed{8} and not 7").verdict.same is False


def test_an_answer_that_nothing_marks_is_told_apart():
    assert grade_answer(asked("7"), "it is 7").verdict.how == "last number: same text"
    assert grade_answer(asked("7"), r"\boxed{7}").verdict.how == "same text"


FRUIT = ("apple", "pear", "plum")


@pytest.mark.parametrize(
    "text", ["B", "(B)", r"\boxed{B}", "The answer is (B).", "Let me see.\nB) pear", "It is the pear."]
)
def test_a_choice_is_its_letter_or_its_text(text):
    assert grade_answer(asked("B", FRUIT), text).verdict.same is True


@pytest.mark.parametrize("text", ["It is the apple or the pear.", "(A) or (B)", "no idea"])
def test_a_line_that_names_two_choices_or_none_names_no_choice(text):
    assert grade_answer(asked("B", FRUIT), text).verdict.same is None
