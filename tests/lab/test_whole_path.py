"""Worlds go the path that all problems go: drawn, planned, made into rows, rewarded and graded, by the core itself."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from grpo_child import load as learner
from taught import taught
from tiny import trained_run

from plantune_lite.cli.main import cli
from plantune_lite.distill import corpus
from plantune_lite.distill.run import distill_all
from plantune_lite.files import read_jsonl, read_records, write_records
from plantune_lite.grading import grade
from plantune_lite.lab.worlds import corpora, sources
from plantune_lite.lab.worlds.domains import BLOCKSWORLD, generate
from plantune_lite.lab.worlds.grade import problem_of, steps_in
from plantune_lite.lab.worlds.simulator import world_of
from plantune_lite.plan import ask_plainly, completion_text, parse, render
from plantune_lite.problems.load import load_problems
from plantune_lite.recipe.load import load_recipe
from plantune_lite.recipe.schema import Corpus, Distill, Problems
from plantune_lite.report.page import write_report
from plantune_lite.runs.job import Training
from plantune_lite.train import grpo, rewards
from plantune_lite.types import Problem, Trajectory

SWAP = """(define (problem swap) (:domain blocksworld) (:objects a b)
  (:init (ontable a) (on b a) (clear b) (handempty)) (:goal (on a b)))"""
PLAN = ("unstack b a", "put-down b", "pick-up a", "stack a b")


def test_a_plan_is_graded_by_its_world_and_an_answer_as_ever():
    problem = problem_of(world_of(BLOCKSWORLD, SWAP), id="x")
    assert grade.grade_reply(problem, render(PLAN)).verdict.same is True
    assert grade.grade_reply(problem, render(PLAN[:2])).verdict.same is False
    assert grade.grade_reply(Problem(id="y", question="?", answer="7"), "It is 7.").verdict.same is True


def test_a_right_answer_to_a_world_is_a_valid_plan_beside_other_problems():
    world = problem_of(world_of(BLOCKSWORLD, SWAP), id="x").extra["world"]
    columns = {"answer": ["on a b", "on a b", "7"], "kind": ["plan", "plan", "text"], "world": [world, world, None]}
    texts = [render(PLAN), render(PLAN[:2]), "\\boxed{7}"]
    assert rewards.right_answer(["", "", ""], texts, **columns) == [2.0, 0.0, 2.0]


def test_a_recipe_of_worlds_goes_from_a_generator_to_rows_and_prompts(tmp_path, monkeypatch):
    pytest.importorskip("up_pyperplan", reason="needs the extra [lab]")
    monkeypatch.setattr(sources, "TESTS", 6)
    part = Problems("world:blocksworld", limit=6)
    loaded = load_problems(part, seed=0)
    assert loaded.pool and len(loaded.own) == 6
    assert {one.split for one in loaded.own} == {"test"} and any("larger" in one.id for one in loaded.own)
    assert not {one.question for one in loaded.pool} & {one.question for one in loaded.own}
    asyncio.run(distill_all(loaded.pool, None, Distill(teacher="worked"), tmp_path))
    kept = read_records(Trajectory, tmp_path / "trajectories.jsonl")
    assert len(kept) == len(loaded.pool)
    wanted = corpus.Wanted(Corpus(filter="none", dedup="exact", decontaminate=100, validation=0.0))
    corpus.build_corpus(kept, loaded.pool, {"own": loaded.own}, wanted, tmp_path / "corpus")
    rows = list(read_jsonl(tmp_path / "corpus" / "train.jsonl"))
    by_id = {one.id: one for one in loaded.pool}
    assert rows and all(parse(completion_text(row)).execution == "" for row in rows)
    assert all(grade.grade_reply(by_id[row["problem_id"]], completion_text(row)).verdict.same for row in rows)
    prompts = list(read_jsonl(tmp_path / "corpus" / "prompts.jsonl"))
    columns = {name: [row[name] for row in prompts] for name in ("answer", "choices", "kind", "world")}
    asked, said = [row["prompt"] for row in prompts], [completion_text(row) for row in rows]
    assert set(rewards.right_answer(asked, said, **columns)) == {2.0}


def test_a_step_of_grpo_in_a_world_rewards_valid_plans_and_how_far_others_can_be_carried_out(tmp_path):
    """The recipe's own rewards, on a tiny student that knows a valid plan by heart, half of it, and a wrong one."""
    part = replace(load_recipe("smollm2_135m_worlds").grpo, steps=1, group=8, extra={"per_device_train_batch_size": 16})
    world = world_of(BLOCKSWORLD, SWAP)
    problem = problem_of(world, id="x")
    texts = [render(PLAN), render(PLAN[:2]), render((*PLAN[:3], "fly b"))]
    row = {"problem_id": "x", "prompt": list(ask_plainly(problem)), "answer": problem.answer, "kind": "plan"}
    rows = [{**row, "choices": [], "plan": list(PLAN), "world": problem.extra["world"]}] * 2
    base = taught(tmp_path / "base", [(ask_plainly(problem), texts)], steps=200)
    rewarded = rewards.of(part, rows, max_completion=part.max_completion)
    assert [name for name, _, _ in rewarded] == ["right_answer", "soft_overlong", "valid_prefix"]
    out, judged = tmp_path / "grpo", grpo.Rewards(lambda most: rewarded, rewards.right_answer)
    done = grpo.train(learner(base), rows, judged, part, out, Training(max_length=512))
    samples = list(read_jsonl(out / "samples.jsonl"))
    for sample in samples:
        right = grade.grade_reply(problem, sample["text"]).verdict.same is True
        steps = steps_in(world, sample["text"])
        share = world.check(steps).good_steps / (max(len(steps), len(PLAN)) + 1)
        assert sample["rewards"]["right_answer"] == 2.0 * right
        assert sample["rewards"]["valid_prefix"] == (1.0 if right else pytest.approx(share))
    assert done["steps"] == 1 and set(done["rewards"]) == {"right_answer", "soft_overlong", "valid_prefix"}
    assert 0 < done["rewards"]["right_answer"][0] < 2 and 0 < done["rewards"]["valid_prefix"][0] <= 1


def test_probe_is_a_verb_and_what_it_found_is_a_section_of_the_report(tmp_path):
    run = tmp_path / "mine"
    trained_run(run, max_tokens=16)
    worlds = generate("blocksworld", sizes=(3,), seed=0, count=10)
    own = [problem_of(world, id=f"own/{number}", split="test") for number, world in enumerate(worlds)]
    write_records(run / "problems" / "own.jsonl", own)
    done = CliRunner().invoke(cli, ["probe", str(run), "--problems", "10"], catch_exceptions=False)
    assert done.exit_code == 0 and "is predicted by a probe on layer" in done.output.splitlines()[-2]
    assert done.output.splitlines()[-1] == f"all of it: {run / 'report.html'}"
    never = CliRunner().invoke(cli, ["probe", "smollm2_135m", "--to", str(tmp_path / "never")])
    assert "is not a run folder" in str(never.exception) and not (tmp_path / "never").exists()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Does the model know?" in page and "can the step be done? AUROC by layer" in page


def test_the_shipped_recipes_of_worlds_are_whole():
    for name in ("smollm2_135m_worlds", "qwen3_4b_worlds"):
        recipe = load_recipe(name)
        assert recipe.problems.source == "world:blocksworld"
        assert [one for one, _, _ in rewards.of(recipe.grpo, [], max_completion=160)] == [
            "right_answer",
            "soft_overlong",
            "valid_prefix",
        ]


@pytest.mark.parametrize("name", sources.SIZES)
def test_every_world_has_as_many_problems_as_the_recipes_ask_for(name):
    sizes, larger = sources.SIZES[name]
    half = sources.TESTS // 2
    most = load_recipe("qwen3_4b_worlds").problems.limit
    drawn = corpora.drawn(name, sizes=sizes, larger=larger, seed=0, train=most, test=half)
    assert (len(drawn.train), len(drawn.test), len(drawn.larger)) == (most, half, half)


# --- on the real student ----------------------------------------------------------------------------------------------


def plantune(*arguments):
    command = [sys.executable, "-m", "plantune_lite.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_embedded_student_goes_through_a_world_and_is_probed(tmp_path):
    """Few problems learned nearly by heart, two steps of GRPO, the probes, and the judge if any plan is right."""
    pytest.importorskip("up_pyperplan", reason="needs the extra [lab]")
    settings = ("problems.limit=16", "sft.max_steps=24", "grpo.steps=2", "grpo.group=8", "evaluate.limit=8")
    settings += ("evaluate.max_tokens=96", "evaluate.prompts=zero_shot_cot", "export.formats=adapter")
    done = plantune("run", "smollm2_135m_worlds", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Path(os.environ["PLANTUNE_RUNS"], "smollm2_135m_worlds")
    summary = json.loads((run / "manifest.json").read_text())["stages"]["grpo"]["summary"]
    assert summary["steps"] == 2 and set(summary["rewards"]) == {"right_answer", "soft_overlong", "valid_prefix"}
    probed = plantune("probe", run, "--problems", 12)
    assert probed.returncode == 0 and "is predicted by a probe on layer" in probed.stdout, probed.stderr
    found = json.loads((run / "probe" / "probe.json").read_text())
    assert found["worlds"]["layers"] == 31 and found["worlds"]["problems"] == 12
    assert (run / "probe" / "validity.svg").read_text().startswith("<svg")
    if "plans" in found:  # so few steps may leave a student that is never right
        again = plantune("evaluate", run, "--resample", 2)
        assert again.returncode == 0 and "up to 2 plans" in again.stdout, again.stderr
        asked = plantune("ask", run, "Goal: on a b", "--resample", 2)
        assert asked.returncode == 0 and " drawn, judged " in asked.stdout, asked.stderr
    else:
        assert "has no judge of plans" in plantune("ask", run, "Goal: on a b", "--resample", 2).stderr
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Does the model know?" in page and "can the step be done? AUROC by layer" in page
