"""Models beside a run's own: a tiny random student as adapter and merged, SmolLM2 as GGUF, a loopback server."""

import importlib.util

import pytest
import torch
from fake_openai import FakeOpenAI
from tiny import tiny_student

from plantune_lite import export, other_model, presets, runs, smollm2, student
from plantune_lite.practice import generate
from plantune_lite.recipe_files import load, override, to_json
from plantune_lite.records import PlantuneError, RunError, Score, read_records, write_records

PROBLEMS = list(generate("test", seed=0, limit=4))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an adapter, the merged model, and test problems."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    base = tiny_student(folder / "base", "llama", dtype=torch.float32, initializer_range=0.2)
    (base / "chat_template.jinja").write_text(presets.find("smollm2_135m").chat_template, encoding="utf-8")
    settings = [f"student.model={base}", "student.bits=32", "evaluate.max_tokens=16", "name=mine"]
    recipe = override(load("smollm2_135m"), settings)
    loaded = student.load(recipe.student, training=True, environ={})
    for name, values in loaded.model.named_parameters():
        if "lora_B" in name:
            values.data = 0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    loaded.save(folder / "sft")
    export.merge(folder / "sft", base, folder / "merged", preset=None, say=lambda line: None)
    (folder / "recipe.json").write_text(to_json(recipe), encoding="utf-8")
    runs.write_manifest(folder, {**runs.read_manifest(folder), "final": "sft"})
    write_records(folder / "suites" / "own.jsonl", PROBLEMS)
    return folder


def answers(run, name):
    return read_records(Score, run / "eval" / f"own.{name}.jsonl")


def test_an_adapter_and_the_model_merged_from_it_say_the_same(run):
    for where in ("sft", "merged"):
        other_model.evaluate_model(run, str(run / where), say=lambda line: None)
    adapter, merged = answers(run, "mine-sft"), answers(run, "mine-merged")
    assert [one.text for one in adapter] == [one.text for one in merged]
    assert {one.mode for one in adapter} == {"m1"} and len(adapter) == len(PROBLEMS)


def test_a_server_is_asked_as_an_untuned_model_is_and_once(run):
    with FakeOpenAI(models=("a",)) as server:
        found = other_model.evaluate_model(run, f"{server.url}#a", say=lambda line: None)
        asked = len(server.requests)
        other_model.evaluate_model(run, f"{server.url}#a", say=lambda line: None)
        assert len(server.requests) == asked
    assert {row.mode for row in found.rows if row.model == "a"} == {"zero_shot_cot", "plan_then_solve"}


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
def test_a_gguf_file_answers_through_llama_cpp(run):
    found = other_model.evaluate_model(run, str(smollm2.gguf_path()), say=lambda line: None)
    (row,) = [row for row in found.rows if row.model.startswith("SmolLM2")]
    assert row.problems == len(PROBLEMS) and row.truncated == 1.0  # 16 tokens are too few for it


@pytest.mark.parametrize(
    ("where", "words"),
    [("nowhere", "is no model"), ("http://127.0.0.1:1/v1", "which model of"), ("missing.gguf", "is no model")],
)
def test_what_is_no_model_is_a_sentence(run, where, words):
    with pytest.raises(PlantuneError, match=words):
        other_model.evaluate_model(run, where)


def test_without_test_problems_it_says_which_verb_makes_them(run, tmp_path):
    (tmp_path / "recipe.json").write_text((run / "recipe.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(RunError, match="plantune evaluate mine makes them"):
        other_model.evaluate_model(tmp_path, "anything")
