import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from plantune_lite import GRPO, Distill
from plantune_lite.distill.cost import distillation, judging, over_budget, rows
from plantune_lite.distill.problem import distil
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe
from plantune_lite.teacher.ledger import Ledger, call_key, recorded
from plantune_lite.types import Reply

PROBLEMS = list(practice_problems("train", seed=0, limit=20))


def test_the_first_rule_asks_for_four_calls_at_least_and_sixteen_at_most():
    first = distillation(PROBLEMS, Distill("gemini"), {})[0]
    assert first.calls == (20 * 4, 20 * 16) and first.teacher.startswith("gemini-")


def test_the_papers_rule_asks_for_twelve_at_least():
    assert distillation(PROBLEMS, Distill("gemini", keep="best"), {})[0].calls == (20 * 12, 20 * 16)


def test_plans_and_scores_in_one_call_are_fewer_calls():
    assert distillation(PROBLEMS, Distill("gemini", plans_per_call=5), {})[0].calls == (20 * 4, 20 * 8)


def test_the_bill_is_proportional_to_the_problems_and_halved_in_batch_mode():
    some, many = PROBLEMS[:10], list(practice_problems("train", seed=0, limit=1000))
    one, hundred = (distillation(problems, Distill("gemini"), {})[0].usd[1] for problems in (some, many))
    assert 90 < hundred / one < 110
    assert distillation(some, Distill("gemini", batch=True), {})[0].usd[1] == one / 2


def test_other_teachers_stand_beside_it_and_worked_costs_nothing():
    costs = distillation(PROBLEMS, Distill("gemini"), {})
    assert [cost.teacher for cost in costs][-2:] == ["self", "worked"] and len(costs) >= 4
    assert rows(costs)[-1][3] == "free" and "20 problems have a worked solution" in costs[-1].note


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "[::1]"])
def test_a_server_of_ones_own_is_free(host):
    assert distillation(PROBLEMS, Distill(f"http://{host}:8080/v1"), {})[0].usd == (0.0, 0.0)


def test_a_server_whose_name_only_looks_like_this_machine_is_not_free():
    part = Distill("https://localhost.example.org/v1", model="gemini-2.5-pro")
    assert distillation(PROBLEMS, part, {})[0].usd[1] > 0


JUDGED = GRPO(steps=50, prompts_per_step=4, group=8, reward="answer+plan", judge="teacher")


def test_a_judge_is_priced_by_the_answers_of_all_steps_and_only_where_there_is_one():
    wanted = replace(load_recipe("smollm2_135m"), distill=Distill("gemini"), grpo=JUDGED)
    one = judging(wanted, {})
    assert one.calls[1] == 50 * 4 * 8 and one.usd[1] > 0
    assert judging(replace(wanted, grpo=replace(JUDGED, steps=100)), {}).usd[1] == pytest.approx(2 * one.usd[1])
    assert judging(replace(wanted, distill=Distill("http://[::1]:8080/v1")), {}).usd == (0.0, 0.0)
    assert judging(replace(wanted, grpo=replace(JUDGED, judge="alignment")), {}) is None
    assert judging(replace(wanted, grpo=None), {}) is None


def test_a_range_that_passes_the_budget_is_said_with_the_judges_part_in_it():
    first = distillation(PROBLEMS, Distill("gemini"), {})[0]
    judge = judging(replace(load_recipe("smollm2_135m"), distill=Distill("gemini"), grpo=JUDGED), {})
    assert over_budget(first, None, None) == over_budget(first, None, first.usd[1]) == ""
    assert f"it can come to ${first.usd[1]:.2f}" in over_budget(first, None, first.usd[1] / 2)
    assert "judge" in over_budget(first, judge, first.usd[1])


def test_estimate_prints_what_the_judge_asks_and_that_the_budget_may_not_suffice():
    settings = [
        "problems.limit=20",
        "distill.teacher=gemini",
        "distill.max_usd=0.01",
        "grpo=default",
        "grpo.judge=teacher",
    ]
    command = [sys.executable, "-m", "plantune_lite.cli.main", "estimate", "smollm2_135m", *settings, "grpo.steps=10"]
    environ = {**os.environ, "GEMINI_API_KEY": "x"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert "judge: grpo.judge=teacher asks gemini-3.8-flash up to 320 times" in done.stdout, done.stdout + done.stderr
    assert "distill.max_usd=0.01 may not suffice" in done.stdout


def test_estimate_prints_the_table_and_what_is_assumed():
    command = [sys.executable, "-m", "plantune_lite.cli.main", "estimate", "smollm2_135m", "problems.limit=20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "worked" in done.stdout and "assumed" in done.stdout, done.stderr
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, env={**os.environ})
    assert json.loads(done.stdout)["teachers"][0]["teacher"] == "self"


def test_what_cannot_fit_a_card_is_refused_and_what_can_is_said():
    command = [sys.executable, "-m", "plantune_lite.cli.main", "estimate", "qwen2_5_7b_sft", "problems.source=practice"]
    levels = ["problems.levels=2,3", "corpus.filter=both", "evaluate.suites=own"]
    small = subprocess.run([*command, *levels, "--gpu", "8"], capture_output=True, text=True, check=False)
    assert small.returncode == 1 and "choose a smaller student.model, or a larger card" in small.stdout, small.stderr
    large = subprocess.run([*command, *levels, "--gpu", "12"], capture_output=True, text=True, check=False)
    assert large.returncode == 0 and "Unmeasured on CUDA" in large.stdout, large.stderr


def test_what_the_ledger_holds_is_not_priced_again(tmp_path):
    """Distilled at 95 all plans fall; at 80 what is missing is the executions alone, and that many are asked."""
    server = "http://127.0.0.1:9/v1"

    async def reply(messages, sampling, schema):
        """Constraints, a plan, a score of 85, an execution."""
        text = messages[-1]["content"]
        if schema is not None:
            return [Reply(text='{"reasons": "fine", "score": 85}')]
        if text.startswith("Solve the problem by following"):
            return [Reply(text="\\boxed{0}")]
        return [Reply(text=f"1. Think about it, {'again ' * number}.") for number in range(sampling.n)]

    def distilled(min_score):
        part = Distill(server, model="m", min_score=min_score, plans=2)
        path = tmp_path / "calls.sqlite"
        with recorded(path) as known:
            first = distillation(PROBLEMS, part, {}, recorded=known)[0]
        asked = asyncio.run(_through_the_ledger(path, reply, part))
        return first, asked

    strict, asked_strictly = distilled(95)
    assert strict.calls[0] <= asked_strictly <= strict.calls[1] and "ledger" not in strict.note
    lenient, asked_leniently = distilled(80)
    assert lenient.calls[0] <= asked_leniently <= lenient.calls[1] < strict.calls[1]
    assert f"60 to {asked_strictly} are answered in the ledger" in lenient.note
    again, asked_again = distilled(80)
    assert again.calls == (0, 0) and asked_again == 0


async def _through_the_ledger(path, reply, part):
    """How many calls a distillation asked that were not in the ledger."""
    asked = 0
    with Ledger(path, run="r") as ledger:

        async def ask(messages, sampling, schema):
            nonlocal asked
            replies = await reply(messages, sampling, schema)
            for sample, one in enumerate(replies):
                key = call_key(part.model, messages, sampling, schema, sample=sample, thinking=part.thinking)
                if ledger.reply(key) is None:
                    asked += 1
                    await ledger.reserve(key, model=part.model, worst_usd=0.0)
                    await ledger.settle(key, one, outcome="ok", usd=0.0, seconds=0.0)
            return replies

        for problem in PROBLEMS:
            await distil(problem, ask, part, part.model)
    return asked


def test_a_ledger_that_another_plantune_holds_is_not_looked_into(tmp_path):
    path = tmp_path / "calls.sqlite"
    with recorded(path) as none_yet:
        assert none_yet is None
    with Ledger(path, run="r"), recorded(path) as held:
        assert held is None
    with recorded(path) as free:
        assert free("no such key") is None
