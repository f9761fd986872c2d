import json

import pytest

from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.harness_json import write
from plantune_lite.evaluate.modes import evaluate_problems
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.types import Reply, Sampling

PROBLEMS = list(practice_problems("test", seed=0, limit=20))
EXAMPLES = list(practice_problems("train", seed=0, limit=3))
ANSWER = {problem.question: problem.answer for problem in PROBLEMS}


def right_on_every_other(prompts, sampling):
    texts = [ANSWER[messages[-1]["content"].split("\n\n")[0]] for messages in prompts]
    return [[Reply(text=f"\\boxed{{{text if number % 2 else -7}}}")] for number, text in enumerate(texts)]


def test_a_results_file_holds_what_the_harness_writes(tmp_path):
    out = tmp_path / "gsm8k.m1.jsonl"
    evaluate_problems(right_on_every_other, PROBLEMS, mode="m1", out=out, how=Asking(sampling=Sampling(max_tokens=99)))
    write(out, model="me/student")
    found = json.loads((tmp_path / "results_gsm8k.m1.json").read_text(encoding="utf-8"))
    assert found["results"]["gsm8k"] == {
        "name": "gsm8k",
        "alias": "gsm8k",
        "sample_len": 20,
        "exact_match,flexible-extract": 0.5,
        "exact_match_stderr,flexible-extract": pytest.approx((0.25 / 19) ** 0.5),
    }
    assert found["n-samples"] == {"gsm8k": {"original": 20, "effective": 20}}
    assert (found["versions"], found["n-shot"]) == ({"gsm8k": 1}, {"gsm8k": 0})
    assert found["configs"]["gsm8k"]["generation_kwargs"]["max_gen_toks"] == 99
    assert found["model_name_sanitized"] == "me__student"


def test_several_modes_are_several_tasks(tmp_path):
    out = tmp_path / "own.untuned.jsonl"
    for mode in ("zero_shot_cot", "few_shot"):
        evaluate_problems(right_on_every_other, PROBLEMS, mode=mode, out=out, how=Asking(examples=EXAMPLES))
    write(out, model="m")
    found = json.loads((tmp_path / "results_own.untuned.json").read_text(encoding="utf-8"))
    assert found["n-shot"] == {"own_zero_shot_cot": 0, "own_few_shot": 3}
    tables = ("results", "configs", "versions", "higher_is_better", "n-samples")
    assert {tuple(found[table]) for table in tables} == {("own_zero_shot_cot", "own_few_shot")}
