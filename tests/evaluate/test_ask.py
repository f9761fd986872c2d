"""A question to a trained run: a tiny random student whose adapter is not nothing."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner
from manifests import mark
from tiny import trained_run

from plantune_lite import plan
from plantune_lite.cli.main import cli
from plantune_lite.evaluate import ask
from plantune_lite.evaluate.modes import examples_of
from plantune_lite.files import write_records
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.schema import Student
from plantune_lite.student.load import load_student
from plantune_lite.types import PlantuneError, Problem, RecipeError, Reply, RunError, Sampling, Score

QUESTION = "A pen costs 3 dollars. What do 4 pens cost?"
POOL = list(practice_problems("train", seed=0, limit=12))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as training leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    trained_run(folder, max_tokens=40)
    write_records(folder / "problems" / "pool.jsonl", POOL)
    return folder


def plantune(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


def base_of(run):
    return load_student(Student(str(run / "base"), bits=32))


def test_the_runs_model_and_beside_it_its_base_answer_one_question(run):
    tuned, untuned = ask.ask_student(run, QUESTION, beside_base=True, say=lambda line: None)
    assert (tuned.model, tuned.mode) == ("sft of mine", "m1")
    assert (untuned.model, untuned.mode) == ("untuned", "zero_shot_cot")
    asked = plan.chat(f"{QUESTION}\n\nWork through it step by step, then give the final answer in \\boxed{{}}.")
    [[reply]] = base_of(run).generate([asked], Sampling(max_tokens=40))
    assert untuned == ask.taken_apart("untuned", "zero_shot_cot", reply)
    assert tuned.working != untuned.working


def test_a_model_that_was_asked_for_plans_in_training_is_asked_for_one(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "asked")
    mark(copied, {"grpo": {"summary": {"asks_for_plans": True}}})
    [tuned] = ask.ask_student(copied, QUESTION, say=lambda line: None)
    recipe, trained, loaded = ask.final_student(copied, say=lambda line: None)
    problem = Problem(id="", question=QUESTION, answer="")
    [[reply]] = loaded.generate([plan.ask_plan_then_solve(problem)], Sampling(max_tokens=40, seed=recipe.seed))
    assert tuned == ask.taken_apart(f"{trained} of mine", "plan_then_solve", reply)


def test_the_base_gets_the_prompt_it_was_best_at(run, tmp_path):
    def score(mode, same):
        return Score(problem_id="p", sample=0, mode=mode, text="", prediction="1", gold="1", same=same, how="")

    write_records(run / "suites" / "own.jsonl", POOL[:2])
    write_records(run / "eval" / "math500.untuned.jsonl", [score("plan_then_solve", True)])
    write_records(run / "eval" / "own.untuned.jsonl", [score("zero_shot_cot", False), score("few_shot", True)])
    assert ask.best_prompt(run) == "few_shot" and examples_of(run) == POOL[2:]
    easy = [score("few_shot", True), replace(score("zero_shot_cot", False), problem_id="p2")]
    write_records(run / "eval" / "own.untuned.jsonl", [score("zero_shot_cot", True), *easy])
    assert ask.best_prompt(run) == "zero_shot_cot", "it was asked more, and no worse on what both were asked"
    for path in (run / "eval").iterdir():
        path.unlink()
    assert ask.best_prompt(run) == "zero_shot_cot"


def test_the_command_prints_plan_working_and_answer_and_json(run):
    done = plantune("ask", run, QUESTION, "--beside-base")
    assert done.exit_code == 0, done.output
    assert "sft of mine (m1, " in done.stdout and "untuned (zero_shot_cot, " in done.stdout
    assert done.stdout.count("answer\n") == 2
    one, other = json.loads(plantune("ask", run, QUESTION, "--beside-base", "--json").stdout)
    assert one["model"] == "sft of mine" and other["model"] == "untuned"


def test_without_a_trained_model_or_a_question_it_is_one_sentence(run, tmp_path):
    with pytest.raises(PlantuneError, match="the question is empty"):
        ask.ask_student(run, " \n")
    with pytest.raises(RecipeError, match="no recipe, file or run"):
        ask.ask_student(tmp_path / "nothing", QUESTION)
    (tmp_path / "recipe.json").write_text((run / "recipe.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(RunError, match="has no trained model yet; plantune train .* makes it"):
        ask.ask_student(tmp_path, QUESTION)


def test_a_reply_is_taken_apart_into_plan_working_and_answer():
    text = plan.render(("Multiply 3 by the number of pens.",), "4 * 3 = 12. The answer is \\boxed{12}.")
    found = ask.taken_apart("m", "m1", Reply(text=text, tokens_out=9))
    assert (found.plan, found.answer, found.cut_off) == (("Multiply 3 by the number of pens.",), "12", False)
    assert "\n".join(ask.lines(found)) == (
        "m (m1, 9 tokens)\nplan\n  1. Multiply 3 by the number of pens.\nworking\n"
        "  4 * 3 = 12. The answer is \\boxed{12}.\nanswer\n  12"
    )


def test_a_plan_that_is_the_whole_reply_is_not_said_to_lack_an_answer():
    found = ask.taken_apart("m", "m1", Reply(text=plan.render(("pick-up a", "stack a b")), tokens_out=9))
    assert list(ask.lines(found)) == ["m (m1, 9 tokens)", "plan", "  1. pick-up a", "  2. stack a b"]


def test_a_plan_that_is_nearly_in_our_format_is_shown_as_one():
    found = ask.taken_apart(
        "m", "plan_then_solve", Reply(text="Sure!\n<plan>\n- **Add** both.\n</plan>\n\nSo \\boxed{5}.")
    )
    assert (found.plan, found.working, found.answer) == (("Add both.",), "So \\boxed{5}.", "5")


def test_a_reply_without_plan_or_answer_says_so_and_cannot_steer_the_terminal():
    found = ask.taken_apart("m", "m1", Reply(text="I \x1b[2Jthink", finish="length", tokens_out=3))
    assert (found.plan, found.answer) == ((), None)
    shown = "\n".join(ask.lines(found))
    assert "working, without a plan\n  I \\u001b[2Jthink\n  ... cut off here" in shown
    assert shown.endswith("answer\n  none that can be read")
