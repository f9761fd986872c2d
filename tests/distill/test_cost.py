import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from plantune_lite import GRPO, Distill
from plantune_lite.distill.cost import distillation, judging, over_budget
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe
from plantune_lite.teacher.models import DEFAULT_MODEL

PROBLEMS = list(practice_problems("train", seed=0, limit=20))


def test_the_first_rule_asks_for_four_calls_at_least_and_sixteen_at_most():
    first = distillation(PROBLEMS, Distill("gemini"), {})
    assert first.calls == (20 * 4, 20 * 16) and first.teacher.startswith("gemini-")


def test_the_papers_rule_asks_for_twelve_at_least():
    assert distillation(PROBLEMS, Distill("gemini", keep="best"), {}).calls == (20 * 12, 20 * 16)


def test_plans_and_scores_in_one_call_are_fewer_calls():
    assert distillation(PROBLEMS, Distill("gemini", plans_per_call=5), {}).calls == (20 * 4, 20 * 8)


def test_the_bill_is_proportional_to_the_problems():
    some, many = PROBLEMS[:10], list(practice_problems("train", seed=0, limit=1000))
    one, hundred = (distillation(problems, Distill("gemini"), {}).usd[1] for problems in (some, many))
    assert 90 < hundred / one < 110


def test_the_untuned_student_and_worked_solutions_cost_nothing():
    own, none = (distillation(PROBLEMS, Distill(teacher), {}) for teacher in ("self", "worked"))
    assert own.usd == none.usd == (0.0, 0.0) and own.calls[1] > none.calls[1] == 0
    assert str(none) == "worked: 0 calls, 0 tokens, free"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "[::1]"])
def test_a_server_of_ones_own_is_free(host):
    assert distillation(PROBLEMS, Distill(f"http://{host}:8080/v1"), {}).usd == (0.0, 0.0)


def test_a_server_whose_name_only_looks_like_this_machine_is_not_free():
    part = Distill("https://localhost.example.org/v1", model=DEFAULT_MODEL)
    assert distillation(PROBLEMS, part, {}).usd[1] > 0


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
    first = distillation(PROBLEMS, Distill("gemini"), {})
    judge = judging(replace(load_recipe("smollm2_135m"), distill=Distill("gemini"), grpo=JUDGED), {})
    assert over_budget(first, None, None) == over_budget(first, None, first.usd[1]) == ""
    assert f"the bill can reach ${first.usd[1]:.2f}" in over_budget(first, None, first.usd[1] / 2)
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
    assert f"judge (grpo.judge=teacher): {DEFAULT_MODEL}: 0 to 320 calls" in done.stdout, done.stdout + done.stderr
    assert "distill.max_usd=0.01 may not suffice" in done.stdout


def test_estimate_prints_the_bill_and_what_is_assumed():
    command = [sys.executable, "-m", "plantune_lite.cli.main", "estimate", "smollm2_135m", "problems.limit=20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "worked" in done.stdout and "assumed" in done.stdout, done.stderr
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, env={**os.environ})
    assert json.loads(done.stdout)["teacher"]["teacher"] == "worked"


def test_what_cannot_fit_a_card_is_refused_and_what_can_is_said():
    command = [sys.executable, "-m", "plantune_lite.cli.main", "estimate", "qwen2_5_7b_sft", "problems.source=practice"]
    levels = ["problems.levels=2,3", "corpus.filter=both", "evaluate.suites=own"]
    small = subprocess.run([*command, *levels, "--gpu", "8"], capture_output=True, text=True, check=False)
    assert small.returncode == 1 and "choose a smaller student.model, or a larger GPU" in small.stdout, small.stderr
    large = subprocess.run([*command, *levels, "--gpu", "12"], capture_output=True, text=True, check=False)
    assert large.returncode == 0 and "Unmeasured on CUDA" in large.stdout, large.stderr
