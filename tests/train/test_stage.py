"""GRPO as a stage of a run: a tiny base that writes a plan where it is asked for one, and else none."""

import json

import pytest
from taught import taught

from plantune_lite.evaluate.modes import mode_of
from plantune_lite.files import read_jsonl, write_records
from plantune_lite.plan import ask_plainly, ask_plan_then_solve, question_text, render, written_plan
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import Summaries
from plantune_lite.train import rewards, stage
from plantune_lite.train.callbacks import TrainingError
from plantune_lite.types import Problem

PROBLEMS = [Problem(id=f"p{number}", question=f"What is {number} + 2?", answer=str(number + 2)) for number in range(4)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Half of its answers are right, whatever it is asked."""
    replies = []
    for one in PROBLEMS:
        texts = tuple(f"\\boxed{{{answer}}}" for answer in (one.answer, "-1"))
        replies.append((ask_plainly(one), texts))
        replies.append((ask_plan_then_solve(one), tuple(render(("Add.",), text) for text in texts)))
    return taught(tmp_path_factory.mktemp("base") / "llama", replies)


def job(folder, base, *settings):
    small = ("steps=3", "group=4", "prompts_per_step=2", "max_completion=48", "start=base")
    recipe = override(
        load_recipe("smollm2_135m"),
        [
            "grpo=default",
            *(f"student.{setting}" for setting in (f"model={base}", "bits=32", "max_length=480")),
            *(f"grpo.{setting}" for setting in small),
            "evaluate.baseline=false",
            "sft=none",
            *settings,
        ],
    )
    row = {"choices": [], "kind": "text", "plan": ["Add the numbers."]}
    prompts = [
        {"problem_id": one.id, "prompt": list(ask_plainly(one)), "answer": one.answer, **row} for one in PROBLEMS
    ]
    write_records(folder / "problems" / "pool.jsonl", PROBLEMS)
    write_records(folder / "corpus" / "prompts.jsonl", prompts)
    (folder / "grpo").mkdir()
    run = RunFolder(folder)
    return Job(run=run, stage="grpo", out=folder / "grpo", recipe=recipe, earlier=Summaries(), hours_left=None)


def test_from_an_untuned_model_it_asks_for_plans_in_training_and_in_evaluation(base, tmp_path):
    made = job(tmp_path, base)
    summary = stage.run_grpo(made)
    samples = list(read_jsonl(tmp_path / "grpo" / "samples.jsonl"))
    assert sum(written_plan(row["text"]) == ("Add.",) for row in samples) > len(samples) / 2
    assert mode_of(made.recipe, Summaries(grpo=summary)) == "plan_then_solve"
    assert mode_of(made.recipe, Summaries()) == "m1"  # a run of before was asked the bare question


def test_a_run_whose_first_steps_show_no_plan_stops_with_what_to_do(base, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_must_ask_for_plans", lambda *_: False)
    with pytest.raises(TrainingError, match=r"none of the answers of the first 3 steps has a plan .*grpo.start=sft"):
        stage.run_grpo(job(tmp_path / "planless", base))
    summary = stage.run_grpo(job(tmp_path / "answers", base, "grpo.reward=answer"))  # which needs no plan
    assert summary.steps == 3


@pytest.mark.parametrize(
    ("settings", "reward", "asks"),
    [
        ([], "answer+plan", False),
        (["sft.target=solution"], "answer+plan", True),
        (["sft.target=solution"], "answer", False),
    ],
)
def test_whether_it_asks_for_plans_depends_on_what_its_start_has_learned(base, tmp_path, settings, reward, asks):
    begun = override(load_recipe("smollm2_135m"), ["grpo=default", *settings, f"grpo.reward={reward}"])
    other = tmp_path / "other"
    (other / "sft").mkdir(parents=True)
    (other / "recipe.json").write_text(to_json(begun))
    made = job(tmp_path / "mine", base, f"grpo.reward={reward}", f"grpo.start={other}")
    assert stage._must_ask_for_plans(made, other / "sft") is asks
    asked = {"grpo": {"summary": {"asks_for_plans": True}}}
    (other / "manifest.json").write_text(json.dumps({"format": 1, "stages": asked}))
    assert stage._must_ask_for_plans(made, other / "grpo") is True


def test_a_prompt_that_asks_for_a_plan_gives_a_spoiler_no_numbers():
    """The form that is asked for says 1 and 2, which are nobody's given numbers."""
    [problem] = [Problem(id="p", question="How many are left?", answer="2")]
    row = {"problem_id": "p", "prompt": list(ask_plainly(problem)), "answer": "2"}
    [asked] = stage._asking_for_plans([row], [problem])
    assert asked["prompt"] == list(ask_plan_then_solve(problem)) and asked["question"] == question_text(problem)
    told = {"completions": [render(("Get 4 - 2 = 2.",))], "answer": ["2"], "question": [asked["question"]]}
    assert rewards.spoiler_penalty(prompts=[asked["prompt"]], **told) == [-1]
