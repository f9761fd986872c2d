"""The rounds of CPL: with a policy that knows its way and a tiny student that learns, then the embedded student."""

import json
import shutil
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
from fake_openai import FakeOpenAI
from sft_child import make_base
from toy_cpl import WAYS, knows_its_way

from plantune_lite import plan
from plantune_lite.files import read_jsonl, read_records, write_records
from plantune_lite.lab.cpl import report_section, reuse, search, value_head
from plantune_lite.lab.cpl.pairs import StepPair
from plantune_lite.lab.cpl.stage import _questions, _Round, run_cpl
from plantune_lite.lab.cpl.tree import Node, Tree, expand
from plantune_lite.pipeline import runner
from plantune_lite.pipeline.stages import STAGES
from plantune_lite.pipeline.state import inputs_of
from plantune_lite.plan import CLOSE
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.recipe.schema import CPL
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import Summaries, read_manifest
from plantune_lite.student.load import Loaded
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.types import Problem, RecipeError, Reply, RunError

POOL = list(practice_problems("train", seed=0, limit=6, levels=(2,)))
ANSWERS = {problem.question: problem.answer for problem in POOL}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"), "llama")


PART = CPL(iterations=12, root_width=8, width=6, leaf="value", learning_rate=1e-3)


def job(run, base, part=PART, hours=None, **changes):
    settings = ["grpo=none", "sft=none", f"student.model={base}", "student.bits=32", "student.lora_rank=4"]
    recipe = replace(override(load_recipe("smollm2_135m"), settings), cpl=part, **changes)
    (run / "cpl").mkdir(parents=True, exist_ok=True)
    write_records(run / "problems" / "pool.jsonl", POOL)
    write_records(run / "corpus" / "prompts.jsonl", [{"problem_id": one.id, "kind": one.kind} for one in POOL])
    folder = RunFolder(run)
    return Job(run=folder, stage="cpl", out=run / "cpl", recipe=recipe, earlier=Summaries(), hours_left=hours)


@pytest.fixture
def knowing(monkeypatch):
    policy = knows_its_way(ANSWERS)
    monkeypatch.setattr(Loaded, "generate", lambda self, prompts, sampling: policy(prompts, sampling))


def stamps(folder):
    """When each file was written, but for what the report is to show, which is drawn again."""
    shown = ("section.json", "loss.svg", "preference.svg")
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name not in shown}


def rounds(run):
    """What each part of each round left of itself."""
    folders = sorted((run / "cpl").glob("round*"))
    return [{file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")} for folder in folders]


@pytest.fixture(scope="module")
def twice(base, tmp_path_factory):
    """Two rounds: their folder, what came of them, and whose heads judged leaves."""
    run, asked, value_of, policy = tmp_path_factory.mktemp("twice"), [], value_head.value_of, knows_its_way(ANSWERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loaded, "generate", lambda self, prompts, sampling: policy(prompts, sampling))
        patch.setattr(value_head, "value_of", lambda *about: asked.append(about[1]) or value_of(*about))
        return run, run_cpl(job(run, base)), asked


def test_two_rounds_search_imitate_prefer_and_judge_and_leave_the_last_adapter(twice):
    run, done, asked = twice
    out = run / "cpl"
    for number in (1, 2):
        trees = list(search.trees_of(out / f"round{number}"))
        assert len(trees) == 6 and (out / f"round{number}" / "trees.html").stat().st_size > 5_000
        assert read_records(StepPair, out / f"round{number}" / "pairs.jsonl")
        rows = list(read_jsonl(out / f"round{number}" / "rows.jsonl"))
        assert {plan.parse(plan.completion_text(row)).plan for row in rows} == {("Count them.", "Add them.")}
    assert asked == [out / "round1" / "apo"], "the second round's leaves are judged by the first one's head"
    adapter = (out / "adapter_model.safetensors").read_bytes()
    assert adapter == (out / "round2" / "apo" / "adapter_model.safetensors").read_bytes()
    assert adapter != (out / "round2" / "sft" / "adapter_model.safetensors").read_bytes()
    assert "2 rounds, solved while searching: 6 of 6, then 6 of 6; " in done.line and done.base["repo"]
    metrics = list(read_jsonl(run / "metrics.jsonl"))
    assert {row["round"] for row in metrics} == {1, 2}
    assert any("apo_preference" in row for row in metrics) and any("sft_loss" in row for row in metrics)


def test_without_pairs_each_round_is_a_search_and_an_sft_with_the_head_on_it(base, tmp_path, knowing, monkeypatch):
    asked, value_of, out = [], value_head.value_of, tmp_path / "cpl"
    monkeypatch.setattr(value_head, "value_of", lambda *about: asked.append(about[1]) or value_of(*about))
    done = run_cpl(job(tmp_path, base, replace(PART, pairs="none", iterations=8)))
    assert asked == [out / "round1" / "sft"] and not (out / "round2" / "value.json").exists()
    adapter = (tmp_path / "cpl" / "adapter_model.safetensors").read_bytes()
    assert adapter == (tmp_path / "cpl" / "round2" / "sft" / "adapter_model.safetensors").read_bytes()
    assert not (tmp_path / "cpl" / "round1" / "apo").exists() and "loss" in done.line


def test_pairs_may_be_whole_answers(base, tmp_path, knowing):
    run_cpl(job(tmp_path, base, replace(PART, rounds=1, pairs="answers", alpha=0.0)))
    found = read_records(StepPair, tmp_path / "cpl" / "round1" / "pairs.jsonl")
    assert found and all(pair.prompt == "" and plan.parse(pair.worse) for pair in found)


def test_what_a_round_has_finished_is_not_done_again(base, tmp_path, knowing):
    part = replace(PART, rounds=1, leaf="rollout")
    first = run_cpl(job(tmp_path, base, part))
    before, left = stamps(tmp_path / "cpl"), rounds(tmp_path)
    assert run_cpl(job(tmp_path, base, part)) == first
    assert stamps(tmp_path / "cpl") == before
    folder = tmp_path / "cpl" / "round1"
    (folder / "apo.json").unlink()
    shutil.rmtree(folder / "apo")
    run_cpl(job(tmp_path, base, part))
    assert rounds(tmp_path) == left
    changed = {path for path, stamp in stamps(folder).items() if before.get(path) != stamp}
    assert {path.relative_to(folder).parts[0] for path in changed} == {"apo", "apo.json"}


def test_a_search_that_ran_out_of_tokens_goes_on_and_is_learned_from_anew(base, tmp_path, knowing):
    part = replace(PART, max_tokens=9_000)
    partial = run_cpl(job(tmp_path, base, part))
    before, _ = rounds(tmp_path)
    assert partial.partial and before["search"]["tokens"] <= 4_500
    whole = run_cpl(job(tmp_path, base, replace(part, max_tokens=None)))
    after, second = rounds(tmp_path)
    assert not whole.partial and after["search"]["trees"] == second["search"]["trees"] == 6
    assert after["taught"]["rows"] > before["taught"]["rows"]
    assert f" on {after['taught']['rows']} rows" in after["sft"]["line"]
    assert after["value"]["states"] > before["value"]["states"]


def cut(*arguments, **named):
    raise KeyboardInterrupt


def test_a_kill_costs_no_training_though_the_search_before_it_was_cut_short(base, tmp_path, knowing, monkeypatch):
    part = replace(PART, rounds=1, leaf="rollout", max_tokens=4_500)
    folder, more = tmp_path / "cpl" / "round1", replace(part, max_tokens=None)
    with monkeypatch.context() as patch:
        patch.setattr(_Round, "_prefer", cut)
        with pytest.raises(KeyboardInterrupt):
            run_cpl(job(tmp_path, base, part))
    before = stamps(folder)
    ended = run_cpl(job(tmp_path, base, more))  # it could search on, but learns to the end first
    assert before.items() <= stamps(folder).items() and ended.partial
    [first] = rounds(tmp_path)
    assert not run_cpl(job(tmp_path, base, more)).partial
    [again] = rounds(tmp_path)
    assert again["taught"]["rows"] > first["taught"]["rows"] and again["sft"]["line"] != first["sft"]["line"]


def test_a_kill_in_the_value_head_costs_no_step_of_the_preference(base, tmp_path, knowing, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(value_head, "train", cut)
        with pytest.raises(KeyboardInterrupt):
            run_cpl(job(tmp_path, base))
    folder = tmp_path / "cpl" / "round1"
    before = stamps(folder)
    assert folder / "apo.json" in before
    run_cpl(job(tmp_path, base))
    found = rounds(tmp_path)
    changed = {path for path, stamp in stamps(folder).items() if before.get(path) != stamp}
    assert changed == {folder / "apo" / value_head.FILE, folder / "value.json"}
    assert found[0]["value"]["line"].startswith("off by ") and "value" not in found[1]


def test_a_search_that_finds_nothing_right_says_what_to_do(base, tmp_path, monkeypatch):
    monkeypatch.setattr(Loaded, "generate", lambda self, p, s: [[Reply(text="hm")] * s.n for _ in p])
    with pytest.raises(RunError, match=r"round 1 of the search found 0 right paths and 0 pairs in 6 trees"):
        run_cpl(job(tmp_path, base))


def test_a_server_may_search_in_the_students_place(base, tmp_path, monkeypatch):
    def mind(prompt, sample, schema):
        dice = Random(f"{prompt}/{sample}")
        asked, _, begun = prompt.rpartition("<plan>\n")
        taken = [line.partition(". ")[2] for line in begun.splitlines() if line != CLOSE]
        ways = taken if begun.endswith(f"{CLOSE}\n") else [*taken, *dice.choices(WAYS, k=2 - len(taken))]
        question = next(question for question in ANSWERS if question in asked)
        right = ways == ["Count them.", "Add them."]
        text = plan.render(tuple(ways), f"\\boxed{{{ANSWERS[question] if right else dice.randrange(1000, 9000)}}}")
        return text.removeprefix(f"<plan>\n{begun}")

    monkeypatch.setattr(_Round, "_a_student", None)  # nobody asks the student
    with FakeOpenAI() as server:
        server.mind = SimpleNamespace(reply=mind)
        part = replace(PART, rounds=1, leaf="rollout", policy=f"{server.url}#tiny-1b")
        run_cpl(job(tmp_path / "run", base, part))
        asked = len(server.requests)
    [found] = rounds(tmp_path / "run")
    assert found["search"]["solved"] >= 3 and found["taught"]["pairs"] > 0
    assert (tmp_path / "run" / "cpl" / "adapter_model.safetensors").is_file()
    with Ledger(tmp_path / "calls.sqlite", run="mine") as calls:  # beside the run, as a teacher's calls are
        assert asked > 0 and calls.spent_usd == 0.0


@pytest.mark.parametrize(
    "wrong", ["gpt", "http://localhost:11434/v1", "ftp://x/v1#y", "http://me:secret@x/v1#y", "a#b"]
)
def test_a_policy_that_is_no_server_and_model_is_refused(wrong):
    with pytest.raises(RecipeError, match="must be a server's address with the model after a #"):
        replace(load_recipe("smollm2_135m"), cpl=CPL(rounds=1, policy=wrong))


def test_a_head_on_the_student_does_not_judge_what_a_server_says():
    with pytest.raises(RecipeError, match="set cpl.leaf='rollout'"):
        replace(load_recipe("smollm2_135m"), cpl=CPL(rounds=1, policy="http://localhost:11434/v1#x", leaf="value"))


def test_a_server_searches_one_round_since_none_makes_it_better():
    with pytest.raises(RecipeError, match="set cpl.rounds=1"):
        replace(load_recipe("smollm2_135m"), cpl=CPL(rounds=2, policy="http://localhost:11434/v1#x"))


def test_without_time_or_questions_nothing_begins(base, tmp_path):
    with pytest.raises(RunError, match="is spent before the search began"):
        run_cpl(job(tmp_path, base, hours=0.0, max_hours=1.0))
    begun = job(tmp_path, base)
    rows = [{"problem_id": one.id, "kind": kind} for one, kind in zip(POOL[:2], ("code", "plan"), strict=True)]
    write_records(tmp_path / "corpus" / "prompts.jsonl", rows)
    with pytest.raises(RunError, match="no question to search"):
        run_cpl(begun)


def test_questions_are_the_corpus_s_and_no_more_than_asked_for(base, tmp_path):
    begun = job(tmp_path, base, replace(PART, questions=4))
    write_records(tmp_path / "corpus" / "prompts.jsonl", [{"problem_id": one.id, "kind": one.kind} for one in POOL[1:]])
    chosen = _questions(begun)
    assert len(chosen) == 4 and all(isinstance(one, Problem) for one in chosen) and POOL[0] not in chosen
    assert chosen == _questions(begun)


# --- one search for several runs --------------------------------------------------------------------------------------


def of_cpl(begun):
    """What the stage reads of a job's recipe."""
    return inputs_of(begun.recipe, next(stage for stage in STAGES if stage.name == "cpl"))


def test_who_takes_a_round_over_searches_and_imitates_nothing_and_learns_the_same_as_alone(base, tmp_path, knowing):
    part = replace(PART, rounds=1, leaf="rollout")
    alone, first, second = (job(tmp_path / name, base, part) for name in ("alone", "first", "second"))
    first = replace(first, recipe=replace(first.recipe, cpl=replace(part, pairs="none")))
    run_cpl(alone)
    run_cpl(first)
    begun, half = second.out / "round1" / "replies.jsonl", second.out / ".round1.part" / "trees.jsonl"
    write_records(begun, [{"what": "was begun here"}])
    write_records(half, [{"what": "a kill left of an earlier taking over"}])
    assert reuse.take(second.run.path, first.run.path, of_cpl(second), of_cpl(first)) == ["search", "sft"]
    assert not begun.exists() and not half.exists()
    before = stamps(second.out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loaded, "generate", None)  # nobody is asked
        run_cpl(second)
    assert before.items() <= stamps(second.out).items(), "what was taken over was not written again"
    for name in ("round1/trees.jsonl", "round1/sft/adapter_model.safetensors", "adapter_model.safetensors"):
        assert (second.out / name).read_bytes() == (alone.out / name).read_bytes()
    assert reuse.take(second.run.path, first.run.path, of_cpl(second), of_cpl(first)) == [], "it has its own by now"


def test_a_search_that_ran_out_of_tokens_is_not_taken_over(base, tmp_path, knowing):
    part = replace(PART, rounds=1, leaf="rollout", max_tokens=4_500, pairs="none")
    first, second = (job(tmp_path / name, base, part) for name in ("first", "second"))
    run_cpl(first)
    assert reuse.take(second.run.path, first.run.path, of_cpl(second), of_cpl(first)) == []
    file = first.out / "round1" / "search.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "partial": False}))
    assert reuse.take(second.run.path, first.run.path, of_cpl(second), of_cpl(first)) == ["search", "sft"]


# --- what the report shows --------------------------------------------------------------------------------------------


def test_the_section_has_each_round_in_numbers_its_curves_and_a_tree(twice):
    run, _, _ = twice
    shown = json.loads((run / "cpl" / "section.json").read_text())
    [table] = shown["tables"]
    assert table["columns"] == ["", "round 1", "round 2"]
    rows = {row[0]: row[1:] for row in table["rows"]}
    assert rows["of them solved"] == [str(one["search"]["solved"]) for one in rounds(run)] == ["6", "6"]
    assert rows["pairs to prefer by"] == [str(one["taught"]["pairs"]) for one in rounds(run)]
    assert [one.partition(":")[0] for one in shown["sentences"][:3]] == [
        "Round 1, search",
        "Round 1, SFT on right paths",
        "Round 1, preferences",
    ]
    assert shown["charts"] == ["loss.svg", "preference.svg"]
    assert "round 2, asked" in (run / "cpl" / "preference.svg").read_text()
    assert len(shown["folded"]) == 2 and " 2. Add them." in shown["folded"][0]["text"]


def test_rounds_and_trainings_that_count_from_one_are_curves_of_their_own_and_a_repeated_step_counts_once():
    rows = [
        {"step": step, "round": number, f"{name}_loss": value}
        for number, name, values in (
            (1, "sft", {1: 9, 2: 8}),
            (1, "apo", {1: 7, 2: 6, 3: 5}),
            (1, "apo", {2: 4}),  # killed after step 1 was saved
            (2, "sft", {1: 3}),
        )
        for step, value in values.items()
    ]
    assert report_section._course(rows, 1, "sft_loss") == [(1, 9), (2, 8)]
    assert report_section._course(rows, 1, "apo_loss") == [(1, 7), (2, 4)]
    assert report_section._course(rows, 2, "sft_loss") == [(1, 3)]


def test_a_tree_as_text_is_a_line_a_node_whatever_was_written_in_it():
    root, step = Node(visits=3), Node("step", "Count.", visits=3, total=1.0)
    expand(root, [Node("malformed", '<img src="x">\nno', reward=-1.0), step, Node("step", "Never seen.")])
    expand(step, [Node("solution", "3 * 2 = 6\n\n\\boxed{6} " + "long " * 99, reward=1.0)])
    lines = report_section.as_text(Tree("id", "How many?", "6", root=root)).split("\n")
    assert lines[:2] == ["answer: 6", "+0.50   4x  1. Count."]
    assert lines[2].startswith("+1.00   1x    solution: 3 * 2 = 6 \\boxed{6} long") and lines[2].endswith("…")
    assert lines[3] == '-1.00   1x  malformed: <img src="x"> no' and len(lines) == 4
    wide = Tree("id", "How many?", "6", root=Node())
    expand(wide.root, [Node("step", str(number), visits=1) for number in range(100)])
    assert report_section.as_text(wide).endswith("\nand 41 more")


# --- the embedded student ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shipped_recipe_in_miniature_goes_from_problems_to_a_report(tmp_path):
    settings = ["problems.limit=140", "sft.max_steps=32", "sft.batch_size=4", "student.max_length=256", "headroom=0"]
    settings += ["problems.source=practice_stories", "problems.levels=1"]  # what so short an SFT solves at times
    settings += ["cpl.questions=8", "cpl.iterations=4", "evaluate.suites=practice", "evaluate.limit=4"]
    settings += ["evaluate.max_tokens=48", "evaluate.prompts=zero_shot_cot"]
    run = runner.run(override(load_recipe("smollm2_135m_cpl"), settings), to=tmp_path / "mine", say=lambda line: None)
    trees, found = list(search.trees_of(run / "cpl" / "round1")), rounds(run)[0]
    assert len(trees) == 8 and sum(tree.solved for tree in trees) == found["search"]["solved"] >= 1
    assert len(read_records(StepPair, run / "cpl" / "round1" / "pairs.jsonl")) == found["taught"]["pairs"] >= 1
    adapters = [(run / at / "adapter_model.safetensors").read_bytes() for at in ("sft", "cpl/round1/sft", "cpl")]
    assert len(set(adapters)) == 3 and read_manifest(run).final == "cpl"
    assert len(list(read_jsonl(run / "eval" / "practice.cpl.jsonl"))) == 4
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What the search found" in page and "preference of the better step" in page and "A tree of round 1" in page
