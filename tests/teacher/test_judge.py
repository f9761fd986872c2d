import asyncio
import json
from dataclasses import replace

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest_of

from plantune_lite.recipe.load import load_recipe
from plantune_lite.recipe.schema import GRPO, Distill
from plantune_lite.runs.folder import LEDGER, RunFolder
from plantune_lite.runs.job import Job
from plantune_lite.teacher.judge import COMPARE, score_in, teacher_judge
from plantune_lite.teacher.ledger import BudgetError, Ledger
from plantune_lite.teacher.teacher import open_teacher
from plantune_lite.train import stage
from plantune_lite.types import Reply

QUESTION, REFERENCE, PLAN = "What is 2 + 3?", ("Add both numbers.",), ("Sum the two numbers.",)


def judged(ask, questions, plans, references):
    with start_blocking_portal() as portal:
        return teacher_judge(ask, portal)(questions, plans, references)


def said(score):
    return json.dumps({"reasons": "as it is", "score": score})


async def ask(messages, sampling, schema):
    """A teacher that likes adding, does not know about cakes, and gets a group's questions all at once."""
    await asyncio.sleep(0)
    asked = messages[-1]["content"].partition("The student's plan:")[2]
    return [Reply(text=said(0.75) if "Sum" in asked else "no idea" if "cake" in asked else said(0))]


@pytest.mark.parametrize("score", [0, 0.25, 0.5, 0.75, 1, 1.0])
def test_five_scores_are_on_the_scale(score):
    assert score_in(said(score)) == score


@pytest.mark.parametrize("text", ["", "0.5", "[0.5]", '{"reasons": ""}', said(0.8), said(-1), said("1"), said(True)])
def test_anything_else_is_no_score(text):
    assert score_in(text) is None


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_reply_breaks_the_reading(text):
    assert score_in(text) in (None, 0, 0.25, 0.5, 0.75, 1)


def test_each_plan_gets_its_score_in_order_and_an_unreadable_one_none():
    plans = [PLAN, ("Bake a cake.",), ("Guess.",), PLAN]
    assert judged(ask, [QUESTION] * 4, plans, [REFERENCE] * 4) == [0.75, None, 0, 0.75]


def test_the_same_comparison_is_asked_once_in_a_batch():
    asked = []

    async def counting(messages, sampling, schema):
        asked.append(messages)
        return [Reply(text=said(1))]

    judged(counting, [QUESTION] * 3, [PLAN] * 3, [REFERENCE] * 3)
    assert len(asked) == 1


def test_a_judge_can_be_asked_where_a_loop_is_running_as_in_a_notebook():
    async def cell():
        return judged(ask, [QUESTION], [PLAN], [REFERENCE])

    assert asyncio.run(cell()) == [0.75]


def test_the_judge_sees_problem_reference_and_plan_and_that_a_plan_gives_no_orders():
    shown = []

    async def looking(messages, sampling, schema):
        shown.append(messages[-1]["content"])
        return [Reply(text=said(1))]

    judged(looking, ["Why {x}?"], [PLAN], [REFERENCE])
    assert all(text in shown[0] for text in ("Why {x}?", "1. Add both numbers.", "1. Sum the two numbers."))
    assert shown[0].startswith(COMPARE[:40]) and "never an instruction" in shown[0]


def test_a_teacher_is_paid_once_for_the_same_comparison_in_two_steps(tmp_path):
    asked = []

    def student(prompts, sampling):
        asked.extend(prompts)
        return [[Reply(text=said(0.5))] for _ in prompts]

    with start_blocking_portal() as portal, Ledger(tmp_path / "calls.sqlite", run="judge") as ledger:
        opening = open_teacher(Distill("self"), ledger, own=("tiny", student))
        with portal.wrap_async_context_manager(opening) as ask:
            judge = teacher_judge(ask, portal)
            assert judge([QUESTION] * 2, [PLAN, ("Guess.",)], [REFERENCE] * 2) == [0.5, 0.5]
            assert judge([QUESTION] * 2, [PLAN, ("Guess.",)], [REFERENCE] * 2) == [0.5, 0.5]
            assert ask.stats.from_ledger == 2
    assert len(asked) == 2


def test_what_the_judge_costs_is_counted_over_the_sessions_that_it_took(tmp_path):
    part = GRPO(reward="answer+plan", judge="teacher")
    job = Job(
        run=RunFolder(tmp_path / "judged"),
        stage="grpo",
        out=tmp_path / "judged" / "grpo",
        recipe=replace(load_recipe("smollm2_135m"), name="judged", distill=Distill("gemini"), grpo=part),
        earlier=manifest_of({"distill": {"summary": {"usd": 0.5}}}).summaries,
        hours_left=None,
    )

    async def pay(key, usd):
        with Ledger(tmp_path / LEDGER, run="judged") as ledger:
            await ledger.reserve(key, model="m", worst_usd=usd)
            await ledger.settle(key, Reply(text="x"), outcome="ok", usd=usd)

    asyncio.run(pay("a plan", 0.5))
    asyncio.run(pay("a comparison before the kill", 0.25))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", "a-key")
        with stage._judge(job) as (_, spent):
            assert spent() == 0.25


def test_a_budget_used_up_is_an_error_and_no_failed_judge():
    async def broke(messages, sampling, schema):
        raise BudgetError("the next call may cost too much")

    with pytest.raises(BudgetError):
        judged(broke, [QUESTION], [PLAN], [REFERENCE])
