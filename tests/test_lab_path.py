"""Worlds go the path that all problems go: drawn, planned, made into rows, rewarded and graded, by the core itself."""

import asyncio

import pytest
from click.testing import CliRunner
from tiny import trained_run

from plantune_lite import corpus, distill, graders, problems, rewards
from plantune_lite.cli import cli
from plantune_lite.lab import world_sources
from plantune_lite.lab.domains import BLOCKSWORLD, generate
from plantune_lite.lab.planning import problem_of
from plantune_lite.lab.worlds import world_of
from plantune_lite.plans import parse, render
from plantune_lite.recipe import Corpus, Distill, Problems
from plantune_lite.recipe_files import load
from plantune_lite.records import Problem, Trajectory, read_jsonl, read_records, write_records
from plantune_lite.report import report

SWAP = """(define (problem swap) (:domain blocksworld) (:objects a b)
  (:init (ontable a) (on b a) (clear b) (handempty)) (:goal (on a b)))"""
PLAN = ("unstack b a", "put-down b", "pick-up a", "stack a b")


def test_a_plan_is_graded_by_its_world_and_an_answer_as_ever():
    problem = problem_of(world_of(BLOCKSWORLD, SWAP), id="x")
    assert graders.grade(problem, render(PLAN)).verdict.same is True
    assert graders.grade(problem, render(PLAN[:2])).verdict.same is False
    assert graders.grade(Problem(id="y", question="?", answer="7"), "It is 7.").verdict.same is True


def test_a_right_answer_to_a_world_is_a_valid_plan_beside_other_problems():
    world = problem_of(world_of(BLOCKSWORLD, SWAP), id="x").extra["world"]
    columns = {"answer": ["on a b", "on a b", "7"], "kind": ["plan", "plan", "text"], "world": [world, world, None]}
    texts = [render(PLAN), render(PLAN[:2]), "\\boxed{7}"]
    assert rewards.right_answer(["", "", ""], texts, **columns) == [2.0, 0.0, 2.0]


def test_a_recipe_of_worlds_goes_from_a_generator_to_rows_and_prompts(tmp_path, monkeypatch):
    pytest.importorskip("up_pyperplan", reason="needs the extra [lab]")
    monkeypatch.setattr(world_sources, "TESTS", 6)
    part = Problems("plantune_lite.lab.world_sources:blocksworld", limit=6)
    loaded = problems.load(part, seed=0)
    assert loaded.pool and len(loaded.own) == 6
    assert {one.split for one in loaded.own} == {"test"} and any("larger" in one.id for one in loaded.own)
    assert not {one.question for one in loaded.pool} & {one.question for one in loaded.own}
    asyncio.run(distill.distill(loaded.pool, None, Distill(teacher="worked"), tmp_path, teacher="worked"))
    kept = read_records(Trajectory, tmp_path / "trajectories.jsonl")
    assert len(kept) == len(loaded.pool)
    made = Corpus(filter="none", dedup="exact", decontaminate=100, validation=0.0)
    corpus.build(kept, loaded.pool, {"own": loaded.own}, made, tmp_path / "corpus")
    rows = list(read_jsonl(tmp_path / "corpus" / "train.jsonl"))
    by_id = {one.id: one for one in loaded.pool}
    assert rows and all(parse(row["completion"]).execution == "" for row in rows)
    assert all(graders.grade(by_id[row["problem_id"]], row["completion"]).verdict.same for row in rows)
    prompts = list(read_jsonl(tmp_path / "corpus" / "prompts.jsonl"))
    columns = {name: [row[name] for row in prompts] for name in ("answer", "choices", "kind", "world")}
    asked, said = [row["prompt"] for row in prompts], [row["completion"] for row in rows]
    assert set(rewards.right_answer(asked, said, **columns)) == {2.0}


def test_probe_is_a_verb_and_what_it_found_is_a_section_of_the_report(tmp_path):
    run = tmp_path / "mine"
    trained_run(run, max_tokens=16)
    worlds = generate("blocksworld", sizes=(3,), seed=0, count=10)
    own = [problem_of(world, id=f"own/{number}", split="test") for number, world in enumerate(worlds)]
    write_records(run / "problems" / "own.jsonl", own)
    done = CliRunner().invoke(cli, ["probe", str(run), "--problems", "10"], catch_exceptions=False)
    assert done.exit_code == 0 and "is told by a probe on layer" in done.output.splitlines()[-1]
    report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Does the model know?" in page and "can the step be done? AUROC by layer" in page


def test_the_shipped_recipes_of_worlds_are_whole():
    for name in ("smollm2_135m_worlds", "qwen3_4b_worlds"):
        assert load(name).problems.source == "plantune_lite.lab.world_sources:blocksworld"
