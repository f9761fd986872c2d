"""Models beside a run's own: a tiny random student as adapter and merged, SmolLM2 as GGUF, a loopback server."""

import importlib.util
from types import SimpleNamespace

import pytest
from fake_openai import FakeOpenAI
from tiny import trained_run

from plantune_lite.evaluate import other_models
from plantune_lite.export import merge
from plantune_lite.files import read_records, write_records
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.student import smollm2
from plantune_lite.types import PlantuneError, RunError, Score

PROBLEMS = list(practice_problems("test", seed=0, limit=4))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an adapter, the merged model, and test problems."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    trained_run(folder, max_tokens=16)
    merge.merge_adapter(folder / "sft", folder / "base", folder / "merged", preset=None, say=lambda line: None)
    write_records(folder / "suites" / "own.jsonl", PROBLEMS)
    return folder


def answers(run, name):
    return read_records(Score, run / "eval" / f"own.{name}.jsonl")


def test_an_adapter_and_the_model_merged_from_it_say_the_same(run):
    for where in ("sft", "merged"):
        other_models.evaluate_model(run, str(run / where), say=lambda line: None)
    adapter, merged = answers(run, "mine-sft"), answers(run, "mine-merged")
    assert [one.text for one in adapter] == [one.text for one in merged]
    assert {one.mode for one in adapter} == {"m1"} and len(adapter) == len(PROBLEMS)


def test_a_server_is_asked_as_an_untuned_model_is_and_once(run):
    with FakeOpenAI(models=("a",)) as server:
        said = []
        found = other_models.evaluate_model(run, f"{server.url}#a", say=said.append)
        asked = len(server.requests)
        other_models.evaluate_model(run, f"{server.url}#a", say=lambda line: None)
        assert len(server.requests) == asked
    assert {row.mode for row in found.rows if row.model == "a"} == {"zero_shot_cot"}
    assert "few_shot is left out: it needs 3 solved problems, and there are 0" in said


def test_a_server_whose_answers_are_moved_away_is_asked_anew(run, monkeypatch):
    with FakeOpenAI(models=("b",)) as server:
        for said, now in (("999", "2026-11-01T00:00:00Z"), ("777", "2026-11-02T00:00:00Z")):
            monkeypatch.setattr(other_models, "now", lambda now=now: now)
            server.mind = SimpleNamespace(reply=lambda *asked, said=said: f"\\boxed{{{said}}}")
            other_models.evaluate_model(run, f"{server.url}#b", say=lambda line: None)
            assert {one.prediction for one in answers(run, "b")} == {said}
            (run / "eval" / "own.b.jsonl").unlink()


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
def test_a_gguf_file_answers_through_llama_cpp(run):
    found = other_models.evaluate_model(run, str(smollm2.gguf_path()), say=lambda line: None)
    (row,) = [row for row in found.rows if row.model.startswith("SmolLM2")]
    assert row.problems == len(PROBLEMS) and row.truncated == 1.0  # 16 tokens are too few for it


@pytest.mark.parametrize(
    ("where", "words"),
    [("nowhere", "is not a model"), ("http://127.0.0.1:1/v1", "which model of"), ("missing.gguf", "is not a model")],
)
def test_what_is_no_model_is_a_sentence(run, where, words):
    with pytest.raises(PlantuneError, match=words):
        other_models.evaluate_model(run, where)


def test_without_test_problems_it_says_which_verb_makes_them(run, tmp_path):
    (tmp_path / "recipe.json").write_text((run / "recipe.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(RunError, match="plantune evaluate mine makes them"):
        other_models.evaluate_model(tmp_path, "anything")
