import json

import pytest

from plantune_lite.evaluate.harness_json import results, write
from plantune_lite.evaluate.modes import evaluate_problems
from plantune_lite.files import read_records
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.types import PlantuneError, Reply, Score

PROBLEMS = list(practice_problems("test", seed=0, limit=20))
EXAMPLES = list(practice_problems("train", seed=0, limit=3))
ANSWER = {problem.question: problem.answer for problem in PROBLEMS}


def boxing_every_other(prompts, sampling):
    """Right everywhere, with a box on every other problem."""
    texts = [ANSWER[messages[-1]["content"].split("\n\n")[0]] for messages in prompts]
    replies = [f"\\boxed{{{text}}}" if number % 2 else f"so {text}" for number, text in enumerate(texts)]
    return [[Reply(text=text)] * sampling.n for text in replies]


def test_a_results_file_holds_what_the_harness_writes(tmp_path):
    out = tmp_path / "gsm8k.m1.jsonl"
    evaluate_problems(boxing_every_other, PROBLEMS, mode="m1", out=out, max_tokens=99)
    path = write(out, model="me/student", version="0.1")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "results_gsm8k.m1.json"
    assert found["results"]["gsm8k"] == {
        "name": "gsm8k",
        "alias": "gsm8k",
        "sample_len": 20,
        "exact_match,flexible-extract": 1.0,
        "exact_match_stderr,flexible-extract": 0.0,
        "exact_match,strict-match": 0.5,
        "exact_match_stderr,strict-match": pytest.approx((0.25 / 19) ** 0.5),
    }
    assert found["n-samples"] == {"gsm8k": {"original": 20, "effective": 20}}
    assert (found["versions"], found["n-shot"]) == ({"gsm8k": 1}, {"gsm8k": 0})
    assert found["configs"]["gsm8k"]["generation_kwargs"]["max_gen_toks"] == 99
    assert found["model_name_sanitized"] == "me__student"


def test_several_modes_are_several_tasks(tmp_path):
    out = tmp_path / "own.untuned.jsonl"
    for mode in ("zero_shot_cot", "few_shot"):
        evaluate_problems(boxing_every_other, PROBLEMS, mode=mode, out=out, examples=EXAMPLES)
    found = json.loads(write(out, model="m").read_text(encoding="utf-8"))
    assert found["n-shot"] == {"own_zero_shot_cot": 0, "own_few_shot": 3}
    tables = ("results", "configs", "versions", "higher_is_better", "n-samples", "group_subtasks")
    assert {tuple(found[table]) for table in tables} == {("own_zero_shot_cot", "own_few_shot")}


def test_several_samples_have_pass_at_k(tmp_path):
    out = tmp_path / "own.m1.jsonl"
    evaluate_problems(boxing_every_other, PROBLEMS, mode="m1", out=out, samples=4, temperature=0.7)
    found = results(read_records(Score, out), suite="own", model="m")["results"]["own"]
    assert (found["pass@2,strict-match"], found["pass@4,flexible-extract"]) == (0.5, 1)


def test_nothing_answered_is_a_sentence(tmp_path):
    (tmp_path / "own.m1.jsonl").touch()
    with pytest.raises(PlantuneError, match="holds no answers yet"):
        write(tmp_path / "own.m1.jsonl", model="m")
