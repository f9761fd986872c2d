import json
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from benchmarks.spoilers import FIELDS, after, before, cases
from plantune_lite.plan import (
    SYSTEM,
    Planned,
    ask_plainly,
    ask_plan_then_solve,
    ask_step_by_step,
    ask_to_follow,
    clean_step,
    parse,
    question_text,
    render,
    split_steps,
    spoiler,
    with_answer,
)
from plantune_lite.types import Problem

ROOT = Path(__file__).parent.parent
CLIPS = Problem(
    id="clips",
    question="Natalia sold 48 clips in April and half as many in May. How many did she sell altogether?",
    answer="72",
)

pieces = st.sampled_from(
    ["<plan>", "</plan>", "</", "plan>", "1. ", "2) ", "- ", "**", "Step 3: ", "\n", " ", "\x85", "a", "½"]
)
texts = st.text() | st.lists(pieces | st.text(max_size=3)).map("".join)


@given(texts)
@example("<pl<plan>an>")
@example("1. 2. 3. x")
@example("1.")
@example("** 1. ** 2. a")
def test_a_cleaned_step_is_one_line_without_tags_and_cleaning_again_changes_nothing(text):
    step = clean_step(text)
    assert "\n" not in step and "<plan>" not in step.lower() and step == step.strip()
    assert clean_step(step) == step


@given(st.lists(texts, min_size=1), texts)
def test_what_is_rendered_is_parsed_back(texts, execution):
    steps = tuple(step for step in map(clean_step, texts) if step)
    assume(steps)
    assert parse(render(steps, execution)) == Planned(steps, execution)


@given(texts)
def test_what_parses_is_what_would_be_rendered(text):
    planned = parse(text)
    assert planned is None or text in (render(planned.plan, planned.execution), render(planned.plan).rstrip("\n"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 4.",
        "<plan>\n</plan>\n",
        "<plan>\n1. add\n",
        "<plan>\n2. add\n</plan>\n",
        "<plan>\n1. add\n3. halve\n</plan>\n",
        "<plan>\n1. add\n\n2. halve\n</plan>\n",
        "<plan>\n1.  add\n</plan>\n",
        "<plan>\n1. \n</plan>\n",
        "<plan>1. add</plan>\n",
        " <plan>\n1. add\n</plan>\n",
        "<plan>\n1. add\n</plan> and so 4",
        "<plan>\n1. a <plan> b\n</plan>\n",
    ],
)
def test_anything_else_is_no_plan(text):
    assert parse(text) is None


def test_a_reply_that_stops_at_the_closing_tag_is_a_plan_without_execution():
    assert parse("<plan>\n1. add\n</plan>") == Planned(("add",), "")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1. Find the May sales.\n2. Add both months.", ("Find the May sales.", "Add both months.")),
        ("Here is my plan:\n\n1) Halve.\n2) Add:\n   - April\n   - May", ("Halve.", "Add: April May")),
        ("**Step 1:** Halve.\n**Step 2:** Add.", ("Halve.", "Add.")),
        ("- Halve.\n- Add.", ("Halve.", "Add.")),
        ("Halve.\nAdd.", ("Halve.", "Add.")),
        ("1. Halve. 2. Add.", ("Halve.", "Add.")),
        ("Buy 3. Then 5 more.", ("Buy 3. Then 5 more.",)),
        ("thinking...\n<plan>\n1. Halve.\n</plan>\nThe rest", ("Halve.",)),
        ("1、先求五月。\n2、再相加。", ("先求五月。", "再相加。")),
        ("1.先求五月。\n2.再相加。", ("先求五月。", "再相加。")),
        ("1) 3：4の比を求める。\n2) 1.5倍する。", ("3：4の比を求める。", "1.5倍する。")),
        ("```\n1. Halve.\n2. Add.\n```", ("Halve.", "Add.")),
        ("1. Halve.\n2. Add.\n```\nI hope this helps!", ("Halve.", "Add.")),
        ("1. Halve.\n2. Add.\n\nLet me know if you need more!", ("Halve.", "Add.")),
        ("1. Halve.\n\nIt is less.\n\n2. Add.\n\nBoth months.", ("Halve. It is less.", "Add. Both months.")),
        ("1. Halve.\n2. Add:\n\n- April\n- May", ("Halve.", "Add: April May")),
        ("", ()),
    ],
)
def test_a_teachers_free_text_is_split_into_its_steps(text, steps):
    assert split_steps(text) == steps


@given(texts)
def test_split_steps_are_always_clean(text):
    assert all(step and clean_step(step) == step for step in split_steps(text))


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (("Halve the April sales.", "Add both months."), None),
        (("Halve the 48 clips.", "Add."), None),
        (("Halve the 48 clips to get 24.", "Add to get 72."), "step 2 states the answer 72"),
        (("48 / 2 = 24 clips in May.", "Add."), "step 1 computes '= 24'"),
        (("Let April = 48.", "Add."), None),
        (("The answer is \\boxed{x}.",), "step 1 boxes an answer"),
    ],
)
def test_a_plan_that_computes_or_states_the_answer_is_a_spoiler(plan, reason):
    assert spoiler(plan, CLIPS) == reason


ROOTS = Problem(id="roots", question="If y = x^2 - 8x + c has one root, what is c?", answer="16")


@pytest.mark.parametrize(
    "step",
    [
        "Use sin^2 x + cos^2 x = 1.",
        "Rearrange it to ax^2 + bx + c = 0.",
        "Set y = 0 and x = 1.",
        "Let x + y = 25 and x - 2y = 7.",
        "Apply $\\sin^2\\theta + \\cos^2\\theta = 1$.",
        "Substitute n = 6 into f(n) = 12n.",
        "The angles in a triangle sum = 180.",
        "Write 40 as a power, 40 = 2^k.",
        "Compare the slope with y = 3x + 2.",
        "Write AB = 5 and BC = 12, then use the theorem of Pythagoras.",
    ],
)
def test_an_equation_of_unknowns_is_set_up_and_no_spoiler(step):
    assert spoiler((step,), ROOTS) is None


@pytest.mark.parametrize(
    ("step", "result"),
    [
        ("Multiply: 3 x 4 = 12.", "12"),
        ("5 m * 3 m = 15 m", "15"),
        ("The pens left = 12.", "12"),
        ("Solve it, so x = 4.", "4"),
        ("Let x + y = 3 * 4 = 12.", "12"),
        ("Choose two, C(5, 2) = 10.", "10"),
        ("Take \\sqrt{81} = 9.", "9"),
        ("Take $\\frac{48}{2} = 24$.", "24"),
        ("48 clips / 2 = 24", "24"),
        ("May = 24", "24"),
        ("五月=24个", "24"),
        ("Größe = 24", "24"),
    ],
)
def test_a_computed_result_is_a_spoiler_whatever_stands_beside_it(step, result):
    assert spoiler((step,), ROOTS) == f"step 1 computes '= {result}'"


def test_the_number_of_the_answer_is_a_spoiler_but_for_an_exponent_a_coefficient_and_what_is_set_to_0_or_1():
    of = lambda answer, step: spoiler((step,), Problem(id="p", question="How many?", answer=answer))  # noqa: E731
    assert of("2", "Use x^2 and a_2 of 2x, as in step 2.") is None and of("0", "Set y = 0.") is None
    assert of("2", "There are 2 of them.") == "step 1 states the answer 2"
    assert of("16", "Set c = 16.") == "step 1 states the answer 16"
    assert of("3/8", "Divide 8 by 3.") is None and of("3/8", "It is 3/8.") == "step 1 states the answer 3 8"


def test_set_up_is_kept_and_spoilers_are_caught_as_the_benchmark_says():
    figures = json.loads((ROOT / "benchmarks" / "spoilers.json").read_text(encoding="utf-8"))["figures"]
    for column, name in ((2, "all set-up"), (3, "all spoilers")):
        plans = [case for rows in FIELDS.values() for case in cases(rows, column)]
        found = {"before": sum(before(*case) for case in plans), "after": sum(after(*case) for case in plans)}
        assert {"plans": len(plans), **found} == figures[name]


def test_a_number_the_question_gives_is_no_spoiler_even_where_it_is_the_answer():
    problem = Problem(id="p", question="Of 12 eggs none breaks. How many are whole?", answer="12")
    assert spoiler(("Take the 12 eggs and subtract the broken ones.",), problem) is None


@pytest.mark.parametrize(
    ("answer", "step", "reason"),
    [
        ("Paris", "Recall that the capital is Paris.", "step 1 states the answer 'paris'"),
        ("yes", "Check whether it floats.", None),
        ("yes", "So the answer is yes.", "step 1 states the answer 'yes'"),
        ("72", "一共得到72个夹子。", "step 1 states the answer 72"),
        ("2", "用第2步的结果。", None),
        ("2", "Find the area in м2.", None),
        ("東京都庁前", "答えは東京都庁前である。", "step 1 states the answer '東京都庁前'"),
        ("Paris", "首都はParisです。", "step 1 states the answer 'paris'"),
        ("pari", "Go to Paris.", None),
        ("B", "Compare choice A and choice B.", None),
        ("B", "The answer is (B).", "step 1 states the answer 'b'"),
    ],
)
def test_a_plan_that_gives_an_answer_in_words_is_a_spoiler(answer, step, reason):
    assert spoiler((step,), Problem(id="p", question="Which?", answer=answer)) == reason


def test_our_system_turn_and_the_question_are_in_every_prompt():
    asked = [ask(CLIPS) for ask in (ask_plainly, ask_step_by_step, ask_plan_then_solve)]
    for messages in (*asked, ask_to_follow(CLIPS, ("Halve.",))):
        assert messages[0] == {"role": "system", "content": SYSTEM} and CLIPS.question in messages[1]["content"]


def test_the_form_that_an_untuned_model_is_shown_is_the_form_that_is_parsed():
    shown = ask_plan_then_solve(CLIPS)[1]["content"]
    assert parse(shown[shown.index("<plan>") :]).plan == ("first step", "next step")


def test_the_executor_sees_the_rendered_plan_in_its_user_turn():
    assert render(("Halve.", "Add.")) in ask_to_follow(CLIPS, ("Halve.", "Add."))[1]["content"]


def test_choices_are_lettered_below_the_question():
    problem = Problem(id="p", question="Which?", answer="B", choices=("one", "two"))
    assert question_text(problem) == "Which?\n(A) one\n(B) two"


def test_an_execution_is_given_its_boxed_answer_once():
    assert with_answer("So 72.", "72") == "So 72.\nThe answer is \\boxed{72}."
    assert with_answer("So \\boxed{72}.", "72") == "So \\boxed{72}."


DOUBLE = Problem(
    id="double",
    question='def double(xs):\n    """Twice 2 of xs."""\n',
    answer="    return [2 * x for x in xs]\n",
    kind="code",
)


def test_a_program_is_asked_for_in_a_block_and_not_in_a_box():
    for ask in (ask_step_by_step, ask_plan_then_solve, lambda problem: ask_to_follow(problem, ("Double each.",))):
        system, user = ask(DOUBLE)
        assert user["content"].startswith(f"Complete this function:\n```python\n{DOUBLE.question}```\n\n")
        assert "one ```python block; nothing is to be boxed" in user["content"] and "boxed{" not in user["content"]
    assert ask_plainly(DOUBLE)[1]["content"] == DOUBLE.question, "what goes on from the question is a reply too"


def test_a_plan_for_a_program_may_hold_its_numbers_but_no_line_of_it():
    assert spoiler(("Multiply each of xs by 2.",), DOUBLE) is None
    assert spoiler(("Go through xs.", "Then return [2 * x for x in xs]."), DOUBLE).startswith("step 2 states the line")
