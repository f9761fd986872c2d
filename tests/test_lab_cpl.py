"""The rounds of CPL: with a policy that knows its way and a tiny student that learns, then the embedded student."""

import shutil
from dataclasses import replace
from random import Random

import pytest
from sft_child import make_base

from plantune_lite import plans, student
from plantune_lite.job import Job
from plantune_lite.lab import cpl_stage, search, value
from plantune_lite.plans import CLOSE
from plantune_lite.practice import generate
from plantune_lite.recipe import CPL
from plantune_lite.recipe_files import load, override
from plantune_lite.records import Problem, Reply, RunError, StepPair, read_jsonl, read_records, write_records

POOL = list(generate("train", seed=0, limit=6, levels=(1,)))
ANSWERS = {problem.question: problem.answer for problem in POOL}
WAYS = ("Count them.", "Guess.", "Add them.")


def knows_its_way(self, prompts, sampling):
    """Replies of a policy that takes two steps and is right where both are the right ones."""
    assert sampling.n * len(prompts) > 0
    return [[_reply(messages, sampling, at) for at in range(sampling.n)] for messages in prompts]


def _reply(messages, sampling, at):
    dice = Random(repr((messages, sampling.seed, sampling.max_tokens, at)))
    before = messages[-1]["content"] if messages[-1]["role"] == "assistant" else "<plan>\n"
    taken = [line.partition(". ")[2] for line in before.splitlines()[1:] if line != CLOSE]
    if sampling.stop:
        text = CLOSE if len(taken) == 2 else f"{len(taken) + 1}. {dice.choice(WAYS)}"
        return Reply(text=text, mean_logprob=-dice.random(), tokens_out=5)
    closed = before.endswith(f"{CLOSE}\n")
    ways = taken if closed else [*taken, *dice.choices(WAYS, k=2 - len(taken))]
    asked = next(question for question in ANSWERS if question in messages[1]["content"])
    right = ways == ["Count them.", "Add them."] and dice.random() < 0.8
    text = f"\\boxed{{{ANSWERS[asked] if right else dice.randrange(1000, 9000)}}}"
    return Reply(text=text if closed else f"{len(taken) + 1}. x\n{CLOSE}\n{text}", tokens_out=9)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"), "llama")


PART = CPL(iterations=12, root_width=8, width=6, leaf="value", learning_rate=1e-3)


def job(run, base, part=PART, hours=None, **changes):
    settings = ["grpo=none", "sft=none", f"student.model={base}", "student.bits=32", "student.lora_rank=4"]
    recipe = replace(override(load("smollm2_135m"), settings), cpl=part, **changes)
    (run / "cpl").mkdir(parents=True, exist_ok=True)
    write_records(run / "problems" / "pool.jsonl", POOL)
    write_records(run / "corpus" / "prompts.jsonl", [{"problem_id": one.id, "kind": one.kind} for one in POOL])
    return Job(run=run, stage="cpl", out=run / "cpl", recipe=recipe, earlier={}, hours_left=hours)


@pytest.fixture
def knowing(monkeypatch):
    monkeypatch.setattr(student.Loaded, "generate", knows_its_way)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "round" in str(path)}


def test_two_rounds_search_imitate_prefer_and_judge_and_leave_the_last_adapter(base, tmp_path, knowing, monkeypatch):
    asked = []
    value_of = value.value_of
    monkeypatch.setattr(value, "value_of", lambda *about: asked.append(about[1]) or value_of(*about))
    done = cpl_stage.cpl(job(tmp_path, base))
    out = tmp_path / "cpl"
    for number in (1, 2):
        trees = list(search.trees_of(out / f"round{number}"))
        assert len(trees) == 6 and (out / f"round{number}" / "trees.html").stat().st_size > 5_000
        assert read_records(StepPair, out / f"round{number}" / "pairs.jsonl")
        rows = list(read_jsonl(out / f"round{number}" / "rows.jsonl"))
        assert {plans.parse(row["completion"]).plan for row in rows} == {("Count them.", "Add them.")}
    assert asked == [out / "round1" / "apo"], "the second round's leaves are judged by the first one's head"
    adapter = (out / "adapter_model.safetensors").read_bytes()
    assert adapter == (out / "round2" / "apo" / "adapter_model.safetensors").read_bytes()
    assert adapter != (out / "round2" / "sft" / "adapter_model.safetensors").read_bytes()
    assert "2 rounds, solved while searching: 5 of 6, then 6 of 6; " in done["line"] and done["base"]["repo"]
    metrics = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert {row["round"] for row in metrics} == {1, 2}
    assert any("apo_preference" in row for row in metrics) and any("sft_loss" in row for row in metrics)


def test_without_pairs_each_round_is_a_search_and_an_sft(base, tmp_path, knowing):
    done = cpl_stage.cpl(job(tmp_path, base, replace(PART, pairs="none", iterations=8)))
    adapter = (tmp_path / "cpl" / "adapter_model.safetensors").read_bytes()
    assert adapter == (tmp_path / "cpl" / "round2" / "sft" / "adapter_model.safetensors").read_bytes()
    assert not (tmp_path / "cpl" / "round1" / "apo").exists() and "loss" in done["line"]


def test_pairs_may_be_whole_answers(base, tmp_path, knowing):
    cpl_stage.cpl(job(tmp_path, base, replace(PART, rounds=1, pairs="answers", alpha=0.0)))
    found = read_records(StepPair, tmp_path / "cpl" / "round1" / "pairs.jsonl")
    assert found and all(pair.prompt == "" and plans.parse(pair.worse) for pair in found)


def test_what_a_round_has_finished_is_not_done_again(base, tmp_path, knowing):
    part = replace(PART, rounds=1, leaf="rollout")
    first = cpl_stage.cpl(job(tmp_path, base, part))
    before = stamps(tmp_path / "cpl")
    assert cpl_stage.cpl(job(tmp_path, base, part)) == first
    assert stamps(tmp_path / "cpl") == before
    folder = tmp_path / "cpl" / "round1"
    (folder / "apo.json").unlink()
    shutil.rmtree(folder / "apo")
    again = cpl_stage.cpl(job(tmp_path, base, part))
    assert again["rounds"][0]["apo"] == first["rounds"][0]["apo"]
    changed = {path for path, stamp in stamps(folder).items() if before.get(path) != stamp}
    assert {path.relative_to(folder).parts[0] for path in changed} == {"apo", "apo.json"}


def test_a_search_that_ran_out_of_tokens_goes_on_and_is_learned_from_anew(base, tmp_path, knowing):
    part = replace(PART, rounds=1, leaf="rollout", max_tokens=4_500)
    partial = cpl_stage.cpl(job(tmp_path, base, part))
    assert partial["partial"] and partial["rounds"][0]["search"]["tokens"] <= 4_500
    whole = cpl_stage.cpl(job(tmp_path, base, replace(part, max_tokens=None)))
    assert not whole["partial"] and whole["rounds"][0]["search"]["trees"] == 6
    assert whole["rounds"][0]["search"]["rows"] > partial["rounds"][0]["search"]["rows"]
    assert whole["rounds"][0]["sft"]["rows"] == whole["rounds"][0]["search"]["rows"]


def test_a_search_that_finds_nothing_right_says_what_to_do(base, tmp_path, monkeypatch):
    monkeypatch.setattr(student.Loaded, "generate", lambda self, p, s: [[Reply(text="hm")] * s.n for _ in p])
    with pytest.raises(RunError, match=r"round 1 of the search found 0 right paths and 0 pairs in 6 trees"):
        cpl_stage.cpl(job(tmp_path, base))


def test_without_time_or_questions_nothing_begins(base, tmp_path):
    with pytest.raises(RunError, match="is spent before the search began"):
        cpl_stage.cpl(job(tmp_path, base, hours=0.0, max_hours=1.0))
    begun = job(tmp_path, base)
    write_records(tmp_path / "corpus" / "prompts.jsonl", [{"problem_id": POOL[0].id, "kind": "code"}])
    with pytest.raises(RunError, match="no question to search"):
        cpl_stage.cpl(begun)


def test_questions_are_the_corpus_s_and_no_more_than_asked_for(base, tmp_path):
    begun = job(tmp_path, base, replace(PART, questions=4))
    write_records(tmp_path / "corpus" / "prompts.jsonl", [{"problem_id": one.id, "kind": one.kind} for one in POOL[1:]])
    chosen = cpl_stage._questions(begun)
    assert len(chosen) == 4 and all(isinstance(one, Problem) for one in chosen) and POOL[0] not in chosen
    assert chosen == cpl_stage._questions(begun)
