"""What `plantune push` says of a model is true of that model alone, and nothing says where a user keeps files."""

import json
import re

import pytest
from click.testing import CliRunner
from finished_run import finished_run
from huggingface_hub import ModelCard
from manifests import mark
from tiny import tiny_tokenizer

from plantune_lite.cli.main import cli
from plantune_lite.distill.stage import run_corpus as corpus_stage
from plantune_lite.distill.stage import run_distill as distill_stage
from plantune_lite.export import model_files
from plantune_lite.files import write_records
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.problems.stage import run_problems as problems_stage
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.recipe.redact import without_paths
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import Summaries
from plantune_lite.types import Score

SERVER = "gpt-oss-120b"  # what `evaluate --model` calls the answers of a server's model


def answers(right: int, mode: str, *, of: int = 100, samples: int = 1) -> list[Score]:
    """`right` is of answers, sample by sample."""
    return [
        Score(
            problem_id=f"p{number}",
            sample=sample,
            mode=mode,
            text="x",
            prediction="1",
            gold="1",
            same=number + of * sample < right,
            how="",
        )
        for number in range(of)
        for sample in range(samples)
    ]


def marked(run, **stages):
    """The manifest says so of these stages."""
    mark(run, stages)


@pytest.fixture
def run(tmp_path):
    """A run whose m1 has 25 of 100 right, and whose untuned student 30 at its best prompt."""
    run = finished_run(tmp_path / "mine", "grpo=none")
    write_records(run / "eval" / "own.untuned.jsonl", answers(20, "few_shot") + answers(30, "zero_shot_cot"))
    write_records(run / "eval" / "own.m1.jsonl", answers(25, "m1"))
    marked(run, evaluate={"status": "done", "summary": {"arm": "m1"}})
    return run


def pushed(run, *options: str) -> dict[str, str]:
    """What a push would bring, as texts."""
    dry = run.parent / "dry"
    asked = ["push", str(run), "alice/mine", "--dry-run", str(dry), *(options or ("--what", "adapter"))]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {"said": done.output} | {one.name: one.read_text() for one in dry.rglob("*") if one.is_file()}


def table(card: str) -> list[str]:
    return re.findall(r"^\| `(.*)` \| \d+ of", card, re.MULTILINE)


# --- whose scores -----------------------------------------------------------------------------------------------------


def test_another_model_that_was_asked_is_not_on_the_card(run):
    write_records(run / "eval" / f"own.{SERVER}.jsonl", answers(95, "plan_then_solve"))
    card = pushed(run)["README.md"]
    assert "**Not better than untuned** on `own`: 25 of 100 right, untuned at its best prompt 30 of 100." in card
    assert [one.metric_value for one in ModelCard(card).data.eval_results] == [25.0] and SERVER not in card
    assert table(card) == ["untuned, zero_shot_cot", "untuned, few_shot", "m1, m1"]


def test_a_suite_that_the_model_was_not_asked_on_is_left_out(run):
    write_records(run / "eval" / "gsm8k.untuned.jsonl", answers(30, "few_shot"))
    write_records(run / "eval" / f"gsm8k.{SERVER}.jsonl", answers(95, "plan_then_solve"))
    assert "`gsm8k`" not in pushed(run)["README.md"]


@pytest.mark.parametrize(
    "entry",
    [
        {"status": "running", "summary": {}},  # killed, on the way to m1 or earlier
        {"status": "stopped", "summary": {"arm": "m1"}, "anew": True},  # of the adapter before this one
        {"status": "done", "summary": {"arm": None}},  # of the untuned student alone
    ],
)
def test_figures_that_are_not_of_this_adapter_are_absent_and_that_is_said(run, entry):
    marked(run, evaluate=entry)
    there = pushed(run)
    assert "**Unmeasured:**" in there["README.md"] and "of 100" not in there["README.md"]
    assert "the card has no scores" in there["said"]


def test_an_evaluation_that_ended_in_the_first_prompt_is_no_reason_to_fail(run):
    (run / "eval" / "own.m1.jsonl").unlink()
    write_records(run / "eval" / "own.untuned.jsonl", answers(30, "zero_shot_cot"))
    assert "**Unmeasured:**" in pushed(run)["README.md"]


def test_a_baseline_beside_the_model_stands_between_and_one_that_is_the_model_stands_last(run):
    write_records(run / "eval" / "own.baseline.jsonl", answers(28, "plain"))
    assert table(pushed(run)["README.md"])[-2:] == ["baseline, plain", "m1, m1"]


def test_a_baseline_that_is_the_model_itself_stands_last(run):
    (run / "eval" / "own.m1.jsonl").rename(run / "eval" / "own.baseline.jsonl")
    marked(run, evaluate={"status": "done", "summary": {"arm": "baseline"}})
    assert table(pushed(run)["README.md"]) == ["untuned, zero_shot_cot", "untuned, few_shot", "baseline, m1"]


@pytest.mark.parametrize("status", ["done", "stopped"])
def test_a_chart_goes_along_where_the_report_is_of_this_evaluation(run, status):
    (run / "figures").mkdir()
    (run / "figures" / "scores_own.svg").write_text("<svg/>")
    marked(run, report={"status": status, "summary": {}})
    there = pushed(run)
    assert ("scores_own.svg" in there) is ("(scores_own.svg)" in there["README.md"]) is (status == "done")


# --- what a figure must not be read without ---------------------------------------------------------------------------


def test_what_a_figure_must_not_be_read_without_stands_beside_it(run):
    write_records(run / "eval" / "own.untuned.jsonl", answers(18, "few_shot", of=60))
    write_records(run / "eval" / "own.m1.jsonl", answers(50, "m1", of=60))
    write_records(run / "eval" / "own.baseline.jsonl", answers(20, "plain", of=60))
    seen = {"problems": 300, "answered": 60, "in_training": [f"p{n}" for n in range(40)], "words": 13}
    small = "the baseline had time for 3 of 9 steps"
    (run / "eval" / "suites.json").write_text(json.dumps({"own": {**seen, "baseline": small}}))
    card = pushed(run)["README.md"]
    first = next(line for line in card.splitlines() if line.startswith("**Better than untuned**"))
    assert "; but 40 of 300 problems of own share 13 words in a row" in first and "and only 60 of 300" in first
    [found] = ModelCard(card).data.eval_results
    assert "but 40 of 300 problems of own share 13 words" in found.metric_name
    assert small not in first and small in card.split("## Scores")[1].split("##")[0]


def test_of_several_samples_answers_are_counted_and_not_a_mean_that_is_rounded(run):
    write_records(run / "eval" / "own.untuned.jsonl", answers(30, "few_shot", of=10, samples=4))
    write_records(run / "eval" / "own.m1.jsonl", answers(33, "m1", of=10, samples=4))
    card = pushed(run)["README.md"]
    assert "33 of 40 (4 to a problem) right, untuned at its best prompt 30 of 40 (4 to a problem)" in card
    assert "| 33 of 40 (4 to a problem) | 82.5% |" in card


# --- where things lie -------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A run with all that a recipe may say of this machine, its stages really run up to the corpus."""
    home, run = tmp_path / "home" / "alice", finished_run(tmp_path / "mine")
    (home / "data").mkdir(parents=True)
    (home / "fn.py").write_text(
        "def make():\n    for n in range(9):\n"
        '        steps = [f"He has {n} + 12 = {n + 12} pens.", f"Then {n + 12} - 2 = {n + 10} pens are left."]\n'
        '        question = f"Tom has {n} pens, buys 12 more at market {n} and loses 2. How many has he?"\n'
        '        yield {"question": question, "answer": n + 10, "steps": steps}\n'
        "def rew(completions):\n    return [0.0 for _ in completions]\n"
    )
    few = [{"question": one.question, "answer": one.answer} for one in practice_problems("train", seed=0, limit=6)]
    (home / "data" / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    monkeypatch.chdir(home)
    settings = [
        f"problems.source=practice+{home}/fn.py:make+data/few.jsonl",
        "problems.limit=24",
        f"sft.start={home}/runs/old",
        "grpo=default",
        f"grpo.start={home}/runs/older",
        f"grpo.embedder={home}/models/embedder",
        f"grpo.rewards={home}/fn.py:rew",
        f"distill.model={home}/models/tiny.gguf",
    ]
    recipe = override(load_recipe("smollm2_135m"), settings)
    (run / "recipe.json").write_text(to_json(recipe))
    earlier = Summaries()
    for name, work in (("problems", problems_stage), ("distill", distill_stage), ("corpus", corpus_stage)):
        out = run if name == "distill" else run / name
        made = Job(run=RunFolder(run), stage=name, out=out, recipe=recipe, earlier=earlier, hours_left=None)
        setattr(earlier, name, work(made))
    marked(run, problems={"status": "done", "summary": earlier.problems.to_row()})
    return run


@pytest.mark.parametrize("options", [("--data",), ("--what", "adapter"), ("--what", "merged")])
def test_nothing_that_is_pushed_says_where_its_author_keeps_files(secret, options):
    there = pushed(secret, *options)
    del there["said"]
    assert [name for name, text in there.items() if "alice/" in text.replace("alice/mine", "") or "data/" in text] == []
    for said in ("practice+fn.py:make+few.jsonl", '"old"', '"older"', '"embedder"', '"fn.py:rew"', '"tiny.gguf"'):
        assert said in there["README.md"]


def test_a_corpuss_card_does_not_say_it_on_this_machine_either(secret):
    text = (secret / "corpus" / "README.md").read_text()
    assert "`fn.py:make`" in text and "alice" not in text


def test_a_corpuss_figures_keep_their_counts_without_folders(secret):
    there = pushed(secret, "--data")
    stats = json.loads((secret / "corpus" / "stats.json").read_text())
    assert "fn.py:make" in json.loads(there["stats.json"])["sources"]
    assert list(json.loads(there["stats.json"])["sources"].values()) == list(stats["sources"].values())


@pytest.mark.parametrize(
    ("part", "field", "said", "cut"),
    [
        ("problems", "source", "practice+/home/al/x.py:f", "practice+x.py:f"),
        ("problems", "source", "secret/dir/x.csv", "x.csv"),
        ("problems", "source", "practice + gym:leg_counting", "practice + gym:leg_counting"),
        ("problems", "source", "hf:openai/gsm8k/main+data/mine.csv", "hf:openai/gsm8k/main+mine.csv"),
        ("student", "model", "C:/Users/al/m", "m"),
        ("student", "model", r"models\tiny", "tiny"),
        ("student", "model", "work/models/tiny", "tiny"),
        ("student", "model", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("sft", "start", "runs/mine", "mine"),
        ("cpl", "policy", "http://localhost:8000/v1#/home/al/m.gguf", "http://localhost:8000/v1#m.gguf"),
        ("distill", "teacher", "https://somewhere.example/v1", "https://somewhere.example/v1"),
        ("distill", "model", "accounts/fireworks/models/x", "accounts/fireworks/models/x"),
    ],
)
def test_a_recipe_keeps_names_and_loses_folders(part, field, said, cut):
    assert without_paths({part: {field: said}}) == {part: {field: cut}}


def test_two_files_of_one_name_stay_two():
    assert without_paths({"sources": {"/a/x.csv": 3, "/b/x.csv": 4}}) == {"sources": {"x.csv": 3, "x.csv'": 4}}


def test_a_merged_models_files_do_not_say_where_its_base_lay(tmp_path):
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    for folder in (base, adapter, out):
        folder.mkdir()
    lay = {"name_or_path": "/home/alice/base", "tokenizer_file": "/home/alice/base/tokenizer.json"}
    (base / "config.json").write_text(json.dumps({"_name_or_path": "/home/alice/base", "model_type": "qwen2"}))
    tiny_tokenizer().save_pretrained(base)
    saved = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(saved | lay))
    model_files.write_companions(base, adapter, out, untied=False, preset=None)
    assert json.loads((out / "config.json").read_text()) == {"model_type": "qwen2"}
    assert not [file.name for file in out.iterdir() if b"alice" in file.read_bytes()]
