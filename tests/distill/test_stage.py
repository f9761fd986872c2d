"""The distil verb as a user runs it, against a Gemini and an OpenAI-compatible server on this machine."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import pytest
from command import plantune
from fake_gemini import FakeGemini
from fake_openai import FakeOpenAI
from fake_teacher import Faults, Mind
from warm import warm_stages

from plantune_lite.cli.stages import _looks_first
from plantune_lite.files import read_jsonl
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.runs.manifest import read_manifest

SECRET = "a-key-that-must-stand-nowhere"
PROBLEMS = [
    {"question": problem.question, "answer": problem.answer}
    for problem in practice_problems("train", seed=0, limit=150, levels=(2,))  # the recipe's
]
SETTINGS = ["distill.teacher=gemini", "corpus.filter=both", "problems.limit=20", "evaluate.limit=3", "headroom=0"]


def gemini(**settings):
    return FakeGemini(key=SECRET, mind=Mind(PROBLEMS, settings.pop("acceptance", 0.7)), **settings)


def command(*settings):
    return [sys.executable, "-m", "plantune_lite.cli.main", "distill", "smollm2_135m", *SETTINGS, *settings]


def environ(folder, url, **more):
    given = {"PLANTUNE_RUNS": str(folder), "GEMINI_API_KEY": SECRET, "GOOGLE_GEMINI_BASE_URL": url, **more}
    return {**os.environ, **given}


def distil(folder, url, *settings, **more):
    return plantune(*command(*settings)[3:], environ=environ(folder, url, **more))


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Stages that start at once; the first run and those that are killed start as a user's."""
    with warm_stages("google.genai"):
        yield


def kept(folder):
    rows = read_jsonl(folder / "smollm2_135m" / "trajectories.jsonl")
    return sorted((row["problem_id"], row["sample"], row["answer"]) for row in rows)


def test_a_distillation_runs_through_pays_its_way_and_writes_no_key_down(tmp_path):
    with gemini() as server:
        mirror = ("--mirror", str(tmp_path / "mirror"))
        first = command(*mirror)
        done = subprocess.run(first, env=environ(tmp_path, server.url), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = server.stats()["requests"]
        again = distil(tmp_path, server.url, *mirror, "--again", "distill")
        assert again.returncode == 0 and server.stats()["requests"] == asked, "a call was asked twice"
    manifest = read_manifest(tmp_path / "smollm2_135m")
    summary = manifest.summaries.distill
    assert "; teacher gemini-" in summary.line and summary.problems_kept >= 18 and manifest.usd > 0
    assert "rows to learn from" in manifest.line("corpus")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("max_usd", ["5", "0.1"])
def test_what_nobody_answered_is_told_apart_from_what_was_spent_in_the_runs_own_words(tmp_path, max_usd):
    with gemini(faults=Faults({"cut": 0.3})) as server:
        done = distil(tmp_path, server.url, "problems.limit=6", f"distill.max_usd={max_usd}")
    said = done.stdout + done.stderr
    assert re.search(r"\$0\.\d{4} spent and \$0\.\d{4} reserved for calls without a reply", said), said
    assert ("distill.max_usd=0.1" in said) is (max_usd == "0.1"), said


def test_again_asks_anew_what_failed_for_good_and_nothing_else(tmp_path):
    with gemini(faults=Faults({"blocked": 0.2})) as server:
        assert distil(tmp_path, server.url, "problems.limit=6").returncode == 0
        blocked = server.stats()["outcomes"]["blocked"]
        assert distil(tmp_path, server.url, "problems.limit=6").returncode == 0
        assert server.stats()["outcomes"]["blocked"] == blocked > 0
        server.faults.rates = {}
        done = distil(tmp_path, server.url, "problems.limit=6", "--again", "distill")
        assert done.returncode == 0, done.stdout + done.stderr
        stats = server.stats()
    assert stats["answered_again"] == 0 and stats["outcomes"]["ok"] == stats["requests"] - blocked
    assert read_manifest(tmp_path / "smollm2_135m").summaries.distill.problems_kept == 6


def test_while_it_works_the_mirror_gets_the_ledger(tmp_path):
    with gemini() as server:
        done = distil(tmp_path / "runs", server.url, "problems.limit=3", "--mirror", str(tmp_path / "m"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "m" / "calls.sqlite").exists() and (tmp_path / "m/smollm2_135m/distilled.jsonl").exists()
    with gemini() as server:
        again = distil(tmp_path / "elsewhere", server.url, "problems.limit=3", "--mirror", str(tmp_path / "m"))
        assert again.returncode == 0 and server.stats()["requests"] == 0, again.stdout + again.stderr


def test_a_spent_budget_leaves_a_corpus_of_what_was_kept_and_more_money_goes_on(tmp_path):
    def manifest():
        return read_manifest(tmp_path / "smollm2_135m")

    with gemini() as server:
        poor = distil(tmp_path, server.url, "distill.max_usd=0.06")
        assert poor.returncode == 0, poor.stdout + poor.stderr
        assert "raise distill.max_usd=... and rerun to resume" in poor.stdout
        few, rows = len(kept(tmp_path)), manifest().line("corpus")
        asked = server.stats()["requests"]
        again = distil(tmp_path, server.url, "distill.max_usd=0.06")
        assert again.returncode == 0 and server.stats()["requests"] == asked
        assert "distill   done before" in again.stdout and "corpus    done before" in again.stdout
        rich = distil(tmp_path, server.url, "distill.max_usd=5")
        assert rich.returncode == 0, rich.stderr
        assert server.stats()["answered_again"] == 0
    assert 0 < few < len(kept(tmp_path)) and not manifest().summaries.distill.partial
    assert manifest().line("corpus") != rows and not manifest().stages["corpus"].anew


def test_a_budget_for_nothing_at_all_is_a_sentence(tmp_path):
    with gemini() as server:
        done = distil(tmp_path, server.url, "distill.max_usd=0.0001")
    assert done.returncode == 1 and "raise distill.max_usd" in done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"GEMINI_API_KEY": "wrong"}, "GEMINI_API_KEY"),
        ({"setting": "distill.model=gemini-retired", "PLANTUNE_PRICE": "1,1"}, "distill.model="),
        ({"setting": "distill.model=gemini-nonsense", "PLANTUNE_PRICE": "1,1"}, "distill.model="),
        ({"setting": "distill.model=gemini-nonsense"}, "PLANTUNE_PRICE"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_sentence(tmp_path, change, words):
    settings = [change.pop("setting")] if "setting" in change else []
    with gemini() as server:
        done = distil(tmp_path, server.url, *settings, **change)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stdout, done.stdout + done.stderr


def test_all_rejected_is_a_sentence_with_the_reasons(tmp_path):
    with gemini(acceptance=0.0) as server:
        done = distil(tmp_path, server.url)
    assert done.returncode == 1 and "corpus is empty" in done.stderr and "plan score" in done.stderr


def test_an_openai_compatible_server_teaches_too(tmp_path):
    with FakeOpenAI(key=SECRET, mind=Mind(PROBLEMS, 0.7)) as server:
        settings = [f"distill.teacher={server.url}", "distill.model=tiny-1b"]
        done = distil(tmp_path, "http://127.0.0.1:9", *settings, OPENAI_API_KEY=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({problem for problem, _, _ in kept(tmp_path)}) >= 18


@pytest.fixture
def card(tmp_path):
    """A machine that seems to have a card: the folder of its driver's program, to be put first."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def test_with_a_card_the_untuned_student_is_asked_before_money_is_spent(tmp_path, card):
    with gemini() as server:
        done = distil(tmp_path, server.url, "problems.limit=3", "headroom=2", "evaluate.max_tokens=16", PATH=card)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = read_manifest(tmp_path / "smollm2_135m")
    assert list(manifest.stages) == ["problems", "suites", "headroom", "distill", "corpus"]
    assert " of 2 problems" in manifest.line("headroom")


@pytest.mark.parametrize(
    ("teacher", "looks"),
    [("gemini", True), ("self", True), ("https://example.org/v1", True), ("http://localhost:8000", False)],
)
def test_a_teacher_that_may_be_on_the_card_itself_keeps_it(monkeypatch, card, teacher, looks):
    wanted = override(load_recipe("smollm2_135m"), [f"distill.teacher={teacher}"])
    monkeypatch.setenv("PATH", card)
    assert _looks_first(wanted) is looks
    assert not _looks_first(load_recipe("smollm2_135m"))  # from worked solutions: nothing is spent
    monkeypatch.setenv("PATH", "")
    assert not _looks_first(wanted)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_storm_with_kills_keeps_what_a_calm_run_keeps_and_pays_for_little_twice(tmp_path):
    lasting = {"blocked": 0.02, "safety": 0.02}
    passing = dict.fromkeys(("429", "503", "reset", "torn", "html", "empty", "unfit"), 0.04)
    latency = {"latency_seconds": (0.03, 0.09), "retry_seconds": 0.02}
    with gemini(faults=Faults(lasting), **latency) as server:
        assert distil(tmp_path / "calm", server.url, "problems.limit=60").returncode == 0
    rng = random.Random(0)
    with gemini(faults=Faults({**lasting, **passing}), **latency) as server:
        for _ in range(8):
            process = subprocess.Popen(
                command("problems.limit=60"),
                env=environ(tmp_path / "storm", server.url),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(rng.uniform(0.8, 2.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        done = distil(tmp_path / "storm", server.url, "problems.limit=60")
        assert done.returncode == 0, done.stdout + done.stderr
        again = server.stats()["answered_again"]
    assert kept(tmp_path / "storm") == kept(tmp_path / "calm")
    assert again <= 8 * 64, "a kill repeats at most the calls in flight"
    assert (
        json.loads((tmp_path / "storm/smollm2_135m/manifest.json").read_text())["stages"]["corpus"]["status"] == "done"
    )
