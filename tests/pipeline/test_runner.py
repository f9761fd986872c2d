import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import toy_stages
from loopback_hub import LoopbackHub, point_at
from manifests import manifest_of
from toy_stages import ALL, HERE, RECIPE, stages, toy
from warm import warm_stages

from plantune_lite import CPL, GRPO
from plantune_lite.files import read_jsonl
from plantune_lite.pipeline import process, runner
from plantune_lite.pipeline.runner import run
from plantune_lite.pipeline.stages import STAGES, active_stages
from plantune_lite.pipeline.state import fingerprint, inputs_of, states
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.recipe.schema import PARTS, Recipe, is_pace, leaves
from plantune_lite.runs.folder import locked
from plantune_lite.runs.manifest import read_manifest, write_manifest
from plantune_lite.types import PlantuneError, RunError

FULL = replace(RECIPE, sft=RECIPE.sft, cpl=CPL(), grpo=GRPO(), evaluate=replace(RECIPE.evaluate, baseline=True))
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Stages that start at once; those of a run that is killed start as a user's."""
    with warm_stages():
        yield


def run_toy(folder, *settings, names=ALL, **options):
    lines = []
    run(override(RECIPE, settings), to=folder, stages=stages(*names), say=lines.append, **options)
    return lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of the toy recipe, brought to its end."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    run_toy(folder)
    return folder


@pytest.fixture
def done(whole, tmp_path):
    """The same in a folder of the test's own; to make it there takes six processes."""
    return shutil.copytree(whole, tmp_path / "r")


@pytest.fixture
def untrained(done):
    """The same up to its corpus."""
    manifest = read_manifest(done)
    for name, folder in (("sft", "sft"), ("evaluate", "eval")):
        del manifest.stages[name]
        shutil.rmtree(done / folder)
    write_manifest(done, manifest)
    return done


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_field_of_every_part_is_read_by_a_stage():
    read = [entry for stage in STAGES for entry in stage.reads]
    for name, _ in leaves(FULL):
        covered = any(name == entry or name.startswith(entry + ".") for entry in read)
        assert covered or is_pace(name), f"no stage reads {name}: drop it, or add it to the stage that honours it"


def test_the_table_names_only_fields_and_stages_that_exist():
    names = {name for name, _ in leaves(FULL)} | set(PARTS) | {f.name for f in fields(Recipe)}
    seen = set()
    for stage in STAGES:
        assert set(stage.reads) <= names
        assert set(stage.after) | set(stage.also) <= seen, "a stage can only read those before it"
        seen.add(stage.name)


def test_changing_a_training_knob_leaves_the_distillation_alone():
    changed = replace(RECIPE, student=replace(RECIPE.student, lora_rank=4))
    same = [stage.name for stage in STAGES if inputs_of(RECIPE, stage) == inputs_of(changed, stage)]
    assert "distill" in same and "corpus" in same and "sft" not in same


def test_a_budget_or_a_deadline_makes_no_other_run(done):
    lines = run_toy(done, "max_hours=3", "distill.max_usd=1")
    assert all("done before" in line for line in lines)


def test_a_part_that_is_left_out_has_no_stage():
    assert "grpo" not in [stage.name for stage in active_stages(RECIPE)]
    assert [stage.name for stage in active_stages(FULL)] == [stage.name for stage in STAGES]


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_folder_that_says_everything(tmp_path, capfd):
    lines = run_toy(tmp_path / "r")
    manifest = read_manifest(tmp_path / "r")
    assert [manifest.stages[name].status for name in ALL] == ["done"] * 6
    assert manifest.final == "sft" and manifest.usd == 0.25 and "python" in manifest.versions
    assert manifest.stages["sft"].outputs.keys() == {"sft/adapter.txt"}
    assert len(list(read_jsonl(tmp_path / "r" / "metrics.jsonl"))) == 12
    assert lines[-1].startswith("[6/6] evaluate  done in ")
    assert "[b]not markup[/b]" in capfd.readouterr().out
    assert "from step 0" in (tmp_path / "r" / "log.txt").read_text()


def test_what_is_done_is_not_done_again(done):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.jsonl")}
    assert all("done before" in line for line in run_toy(done))
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.jsonl")} == before


def test_a_run_of_a_version_without_a_field_goes_on_while_the_field_says_nothing_new(done):
    manifest = read_manifest(done)
    earlier = {}
    for stage in stages(*ALL):  # as a version wrote it that had no sft.order
        entry = manifest.stages[stage.name]
        entry.inputs.pop("sft.order", None)
        alone = replace(stage, after=tuple(name for name in stage.after if name in ALL))
        entry.fingerprint = earlier[stage.name] = fingerprint(alone, entry.inputs, earlier)
    write_manifest(done, manifest)
    assert all("done before" in line for line in run_toy(done))
    with pytest.raises(RunError, match="sft.order was 'absent' and is now 'easy_first'"):
        run_toy(done, "sft.order=easy_first")


def test_a_search_made_before_the_length_of_a_step_was_a_field_is_the_one_asked_for(tmp_path):
    stage = replace(next(stage for stage in STAGES if stage.name == "cpl"), after=())
    inputs = {name: value for name, value in inputs_of(FULL, stage).items() if name != "cpl.step_tokens"}
    entry = {"inputs": inputs, "fingerprint": fingerprint(stage, inputs, {}), "status": "done", "outputs": {}}
    manifest = manifest_of({"cpl": entry})
    for recipe, wanted in ((FULL, "done"), (override(FULL, ["cpl.step_tokens=64"]), "differs")):
        [(_, state, _)] = states(tmp_path, recipe, manifest, [stage])
        assert state == wanted


def test_another_recipe_is_refused_with_the_field_and_the_three_ways_on(done):
    with pytest.raises(RunError) as caught:
        run_toy(done, "sft.max_steps=3")
    assert "sft.max_steps was 12 and is now 3" in str(caught.value)
    ways = (f"{done} as the RECIPE", "name=OTHER", "another --to", "--again sft")
    assert all(way in str(caught.value) for way in ways)


def test_again_puts_the_old_away_and_makes_it_anew_with_what_follows(done):
    lines = run_toy(done, "sft.max_steps=3", again="sft")
    assert [line for line in lines if "done before" in line][-1].startswith("[4/6] corpus")
    assert (done / "sft" / "adapter.txt").exists()
    assert {path.name for path in (done / "old").glob("*/*")} == {"sft", "eval"}


def test_another_suite_leaves_the_corpus_and_what_was_trained_on_it(done):
    lines = run_toy(done, "evaluate.suites=own,practice", again="suites")
    assert "[5/6] sft       done before: 12 steps" in lines
    assert {path.name for path in (done / "old").glob("*/*")} == {"suites", "eval"}


def test_what_is_made_anew_and_was_stopped_goes_on_with_the_same_command(tmp_path):
    anew = {"again": "sft", "only": ("sft",)}
    run_toy(tmp_path / "r", "sft.max_steps=8")
    broken = (*stages(*ALL[:4]), own_stage(tmp_path, "sft", STOPPED), toy("evaluate", "evaluate"))
    with pytest.raises(RunError, match="stopped at step 4"):
        run(RECIPE, to=tmp_path / "r", stages=broken, say=lambda line: None, **anew)
    lines = run_toy(tmp_path / "r", **anew)
    assert "was stopped and resumes (remove sft from" in lines[0] and "[5/6] sft       resumes" in lines
    assert not any("moved" in line for line in lines)
    assert "from step 4" in (tmp_path / "r" / "log.txt").read_text()
    lines = run_toy(tmp_path / "r", **anew)
    assert "[5/6] sft       starts" in lines and any("moved sft" in line for line in lines), "it had come to its end"


def test_what_is_made_anew_otherwise_than_when_it_was_stopped_is_made_anew(done, tmp_path):
    broken = (*stages(*ALL[:4]), own_stage(tmp_path, "sft", STOPPED), toy("evaluate", "evaluate"))
    with pytest.raises(RunError, match="stopped at step 4"):
        run(RECIPE, to=done, stages=broken, say=lambda line: None, again="sft")
    lines = run_toy(done, "sft.max_steps=5", again="sft")
    assert any("moved sft" in line for line in lines) and "[5/6] sft       starts" in lines


STOPPED = """
    write_whole(job.out / "checkpoint-4" / "state.txt", "")
    write_whole(job.out / "checkpoint-4" / "trainer_state.json", "{}")
    raise RunError("stopped at step 4")
"""


def own_stage(folder, name, body):
    """A stage that does what `body` says."""
    file = folder / f"own_{name}.py"
    head = "import errno, os\nfrom plantune_lite.files import write_whole\nfrom plantune_lite.types import RunError\n"
    head += "from plantune_lite.runs.manifest import Summary\ndef work(job):\n"
    file.write_text(head + textwrap.indent(textwrap.dedent(body), "    "))
    return replace(next(stage for stage in STAGES if stage.name == name), work=f"{file}:work")


def test_a_verb_makes_what_it_moves_away_of_what_it_needs(done):
    lines = run_toy(done, again="corpus", only=("sft",))
    assert [line.split()[1] for line in lines if line.endswith("starts")] == ["corpus", "sft"]
    run_toy(done)
    run_toy(done, again="evaluate", only=("problems", "suites"))
    assert (done / "eval" / "results.json").is_file()


def test_a_verb_that_cannot_be_done_moves_nothing_away(tmp_path):
    run_toy(tmp_path / "r", only=("problems", "suites"))
    with pytest.raises(RunError, match="no finished distill yet"):
        run_toy(tmp_path / "r", again="suites", only=("evaluate",))
    assert (tmp_path / "r" / "suites" / "own.jsonl").is_file() and not (tmp_path / "r" / "old").exists()


def test_an_unknown_stage_to_make_again_suggests_the_nearest(tmp_path):
    with pytest.raises(RunError, match="did you mean 'corpus'"):
        run_toy(tmp_path / "r", again="corpu")


def test_a_stage_that_a_recipe_leaves_out_for_a_while_does_not_come_back_stale(tmp_path):
    both = (*stages(*ALL[:-1]), toy("grpo", "evaluate"))
    with_grpo = replace(RECIPE, grpo=GRPO())
    run(with_grpo, to=tmp_path / "r", stages=both, say=lambda line: None)
    run(RECIPE, to=tmp_path / "r", stages=both, say=lambda line: None, again="sft")
    lines = []
    run(with_grpo, to=tmp_path / "r", stages=both, say=lines.append)
    assert "[6/6] grpo      starts" in lines


def test_nothing_is_moved_away_when_the_recipe_is_refused(done):
    with pytest.raises(RunError, match="distill.plans was 5 and is now 7"):
        run_toy(done, "distill.plans=7", again="evaluate")
    assert (done / "eval" / "results.json").exists() and not (done / "old").exists()


REAL = tuple(stage for stage in STAGES if stage.name in ("problems", "suites", "distill", "corpus"))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run up to its corpus, by the real stages, and its mirror."""
    folder = tmp_path_factory.mktemp("real")
    run(RECIPE, to=folder / "r", stages=REAL, mirror=folder / "m", say=lambda line: None)
    return folder


@pytest.mark.parametrize("again", ["problems", "suites", "distill", "corpus"])
def test_every_stage_that_makes_data_can_be_made_again(real, tmp_path, again):
    shutil.copytree(real / "r", tmp_path / "r")
    run(RECIPE, to=tmp_path / "r", stages=REAL, say=lambda line: None, again=again)
    made = (tmp_path / "r" / "corpus" / "train.jsonl").read_text()
    assert made == (real / "r" / "corpus" / "train.jsonl").read_text()


def test_a_whole_number_is_the_number_it_stands_for(tmp_path):
    run_toy(tmp_path / "r", "sft.epochs=2", "sft.max_steps=12")
    same = replace(RECIPE, sft=replace(RECIPE.sft, epochs=2))
    lines = []
    run(same, to=tmp_path / "r", stages=stages(*ALL), say=lines.append)
    assert all("done before" in line for line in lines)


def test_a_changed_data_file_is_another_run_and_a_missing_one_is_not(tmp_path):
    data = tmp_path / "mine+more.csv"
    data.write_text("question,answer\n" + "".join(f"What is {n} plus {n}?,{2 * n}\n" for n in range(20)))
    settings, names = [f"problems.path={data}"], ("problems",)
    run_toy(tmp_path / "r", *settings, names=names)
    data.write_text(data.read_text() + "What is 1 plus 1?,2\n")
    with pytest.raises(RunError, match="content of .*more.csv.* has changed"):
        run_toy(tmp_path / "r", *settings, names=names)
    data.unlink()
    assert "done before" in run_toy(tmp_path / "r", *settings, names=names)[0]


def test_a_function_whose_file_is_gone_is_the_one_that_was_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Path("own_world.py")
    own.write_text(
        "def mine():\n    return [{'question': f'What is {n} plus {n}?', 'answer': 2 * n} for n in range(20)]\n"
    )
    settings, names = ["problems.source=own_world.py:mine"], ("problems",)
    run_toy(tmp_path / "r", *settings, names=names)
    own.rename("elsewhere.py")
    assert "done before" in run_toy(tmp_path / "r", *settings, names=names)[0]
    with pytest.raises(PlantuneError, match="own_world.py"):
        run_toy(tmp_path / "other", *settings, names=names)
    own.write_text("def mine():\n    return []\n")
    with pytest.raises(RunError, match="content of own_world.py:mine.* has changed"):
        run_toy(tmp_path / "r", *settings, names=names)


def test_what_was_found_out_about_a_model_goes_when_the_model_is_made_again(done):
    (done / "probe").mkdir()
    (done / "probe" / "section.json").write_text("{}")
    run_toy(done, again="evaluate")
    assert (done / "probe" / "section.json").is_file()
    run_toy(done, again="sft")
    assert not (done / "probe").exists() and list((done / "old").glob("*/probe/section.json"))


def test_an_output_that_was_edited_is_named_and_one_that_is_gone_is_made_again(done):
    rows = done / "corpus" / "train.jsonl"
    rows.write_text("edited\n")
    with pytest.raises(RunError, match=r"corpus/train.jsonl is not what corpus wrote.*--mirror FOLDER.*--again corpus"):
        run_toy(done)
    rows.unlink()
    assert "[4/6] corpus    resumes" in run_toy(done)


@pytest.mark.parametrize(
    ("function", "words"),
    [("fail", "the toy broke: 3 of 4 wheels"), ("crash", "ZeroDivisionError"), ("die", "memory ran out")],
)
def test_a_stage_that_fails_is_a_sentence_and_the_run_goes_on_when_it_is_mended(untrained, function, words):
    broken = (*stages("problems", "suites", "distill", "corpus"), toy("sft", function))
    with pytest.raises(RunError, match=words):
        run(RECIPE, to=untrained, stages=broken, say=lambda line: None)
    assert read_manifest(untrained).stages["sft"].status == "failed"
    assert "12 steps" in run_toy(untrained)[-3]


@pytest.mark.parametrize(
    "error",
    [
        "OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
        "RuntimeError('I/O error: No space left (os error 28)')",
        "RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0')",
    ],
)
def test_a_full_disk_is_said_in_a_sentence_and_not_in_a_traceback(tmp_path, error):
    full = own_stage(tmp_path, "problems", f"raise {error}")
    with pytest.raises(RunError, match=r"the disk is full \(.*rerun the command to resume"):
        run(RECIPE, to=tmp_path / "r", stages=[full], say=lambda line: None)
    assert "Traceback" not in (tmp_path / "r" / "log.txt").read_text()


def test_a_stage_that_failed_before_it_wrote_anything_may_be_asked_for_otherwise(tmp_path):
    with pytest.raises(RunError, match="missing.csv"):
        run_toy(tmp_path / "r", "problems.path=missing.csv", names=("problems",))
    run_toy(tmp_path / "r")


def test_a_stage_verb_says_which_stage_it_needs(tmp_path):
    with pytest.raises(RunError, match="no finished corpus yet"):
        run_toy(tmp_path / "r", only=("problems", "suites", "distill", "sft"))


def test_a_training_that_cannot_be_shared_takes_one_card(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTUNE_PROCESSES", "2")
    made = [toy("grpo", "train") if stage.name == "grpo" else stage for stage in stages(*ALL[:4], "grpo")]
    run(replace(RECIPE, grpo=GRPO(start="base")), to=tmp_path, stages=made, say=lambda line: None)
    assert (tmp_path / "log.txt").read_text().count("from step 0\n") == 1
    assert [stage.name for stage in STAGES if stage.shared] == ["sft"]


def test_a_stage_redraws_its_progress_in_one_row_of_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    told = own_stage(tmp_path, "problems", "job.progress()('x' * 200)\nreturn Summary()")
    run(RECIPE, to=tmp_path / "r", stages=[told], say=lambda line: None, stream=terminal)
    assert terminal.getvalue() == f"\x1b[2K{'x' * 48}…\r"


def test_two_runs_cannot_share_a_folder(tmp_path):
    (tmp_path / "r").mkdir()
    with locked(tmp_path / "r" / ".lock"), pytest.raises(RunError, match="in use by another plantune"):
        run_toy(tmp_path / "r")


def test_without_a_key_the_student_is_its_own_teacher_and_that_is_said():
    lines = []
    gemini = replace(RECIPE, distill=replace(RECIPE.distill, teacher="gemini"))
    for environ in ({}, {"GEMINI_API_KEY": " "}):
        assert runner.with_teacher(gemini, environ, manifest_of(), lines.append).distill.teacher == "self"
    assert "distill.teacher='self'" in lines[0]
    assert runner.with_teacher(gemini, {"GEMINI_API_KEY": "x"}, manifest_of(), lines.append) == gemini


def test_plans_from_gemini_stay_when_the_key_is_gone_and_unfinished_ones_ask_for_it():
    gemini = replace(RECIPE, distill=replace(RECIPE.distill, teacher="gemini"))
    entry = {"inputs": {"distill.teacher": "gemini"}, "status": "done"}
    assert runner.with_teacher(gemini, {}, manifest_of({"distill": entry}), print) == gemini
    with pytest.raises(RunError, match="set GEMINI_API_KEY and rerun"):
        runner.with_teacher(gemini, {}, manifest_of({"distill": {**entry, "status": "stopped"}}), print)


def test_a_key_that_comes_later_is_another_teacher_whom_again_asks(tmp_path, monkeypatch):
    asked = override(RECIPE, ["distill.teacher=gemini"])
    monkeypatch.setenv("GEMINI_API_KEY", "x")
    run_toy(tmp_path / "r", "distill.teacher=self")
    with pytest.raises(RunError, match="distill.teacher was 'self' and is now 'gemini'"):
        run(asked, to=tmp_path / "r", stages=stages(*ALL), say=lambda line: None)
    run(asked, to=tmp_path / "r", stages=stages(*ALL), say=lambda line: None, again="distill")
    assert read_manifest(tmp_path / "r").stages["distill"].inputs["distill.teacher"] == "gemini"


def test_the_hours_of_all_stages_are_counted_against_the_deadline():
    manifest = manifest_of({"distill": {"seconds": 7200.0}, "sft": {"seconds": 3600.0}})
    assert runner._hours_left(override(RECIPE, ["max_hours=4"]), manifest) == 1.0
    assert runner._hours_left(override(RECIPE, ["max_hours=2"]), manifest) == 0.0


def test_the_deadline_counts_what_earlier_stages_took(tmp_path):
    run_toy(tmp_path / "r", "max_hours=2")
    assert 1.9 < float((tmp_path / "r" / "hours_left.txt").read_text()) < 2


@pytest.mark.parametrize("text", ["{", '{"format": 99}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "manifest.json").write_text(text)
    with pytest.raises(PlantuneError, match="manifest.json"):
        run_toy(tmp_path / "r")


# --- killing ----------------------------------------------------------------------------------------------------------


def start(folder, mirror, calls, seconds="0.03"):
    environ = {**os.environ, "TOY_SECONDS": seconds, "TOY_CALLS": str(calls)}
    return subprocess.Popen(
        [sys.executable, HERE, folder, mirror],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_calls(calls, count, process):
    deadline = time.monotonic() + 60
    while not calls.exists() or calls.read_text().count("x") < count:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)


def results(folder):
    names = ("trajectories.jsonl", "corpus/train.jsonl", "sft/adapter.txt", "eval/results.json", "recipe.json")
    return [(folder / name).read_text() for name in names]


@posix
def test_killed_in_every_stage_with_its_folder_deleted_a_run_ends_the_same_from_the_mirror(whole, tmp_path):
    folder, mirror, calls = (tmp_path / name for name in ("here/r", "mirror", "calls"))
    for count in (3, 9, 16, 23, 25):  # while planning twice, while training twice, while evaluating
        process = start(folder, mirror, calls)
        wait_for_calls(calls, count, process)
        process.kill()
        process.wait()
        if count != 9:  # once the folder itself goes on
            shutil.rmtree(folder)
    process = start(folder, mirror, calls, seconds="0")
    assert process.wait(60) == 0, process.stderr.read()
    assert results(folder) == results(whole)
    # 12 plans, 12 steps and 1 evaluation; each kill repeats at most what the mirror had not seen yet
    assert calls.read_text().count("x") <= 25 + 5 * 6


@posix
def test_a_killed_run_leaves_no_stage_behind(tmp_path):
    folder, calls = tmp_path / "r", tmp_path / "calls"
    process = start(folder, tmp_path / "m", calls, seconds="0.2")
    wait_for_calls(calls, 2, process)
    process.kill()
    process.wait()
    with locked(folder / ".stage" / "lock", wait_seconds=5):
        pass
    process = start(folder, tmp_path / "m", calls, seconds="0")
    assert process.wait(60) == 0, process.stderr.read()
    assert read_manifest(folder).stages["distill"].seconds > 0.4, "the killed attempt was not counted"


def test_the_time_between_a_kill_and_the_next_command_is_nobodys(done):
    manifest = read_manifest(done)
    for name in ("distill", "evaluate"):
        del manifest.stages[name]
    killed = time.time() - 3600
    entry = manifest.stages["sft"]
    entry.status, entry.seconds, entry.began = "running", 1.0, killed - 60
    write_manifest(done, manifest)
    for file in (file for file in done.rglob("*") if file.is_file()):
        os.utime(file, (killed, killed))
    lines = run_toy(done, "max_hours=2")
    assert "[3/6] distill   starts" in lines and "[5/6] sft       resumes" in lines
    assert 61 <= read_manifest(done).stages["sft"].seconds < 120


@posix
def test_an_interrupt_leaves_a_folder_that_goes_on(tmp_path):
    folder, calls = tmp_path / "r", tmp_path / "calls"
    process = start(folder, tmp_path / "m", calls, seconds="0.1")
    wait_for_calls(calls, 3, process)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert read_manifest(folder).stages["distill"].status == "stopped"
    kept = len(list(read_jsonl(folder / "trajectories.jsonl")))
    assert kept >= 2
    assert "[3/6] distill   resumes" in run_toy(folder)


def test_a_half_distilled_run_is_restored_with_what_it_had(real, tmp_path):
    lines = []
    run(RECIPE, to=tmp_path / "r", stages=REAL, mirror=real / "m", say=lines.append)
    assert "restored" in lines[0] and all("done before" in line for line in lines[1:])
    rows = [(folder / "r" / "trajectories.jsonl").read_text() for folder in (real, tmp_path)]
    assert rows[0] == rows[1]


def test_a_mirror_at_home_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    run_toy(tmp_path / "r", names=("problems",), mirror=Path("~/drive"))
    assert (tmp_path / "home" / "drive" / "r" / "problems" / "pool.jsonl").is_file()


def test_a_mirror_of_another_run_of_the_same_name_is_not_overwritten(done, tmp_path):
    run_toy(done, mirror=tmp_path / "m")
    run_toy(tmp_path / "two" / "r", names=("problems",))
    with pytest.raises(RunError, match="mirrors another run of this name"):
        run_toy(tmp_path / "two" / "r", mirror=tmp_path / "m")
    assert (tmp_path / "m" / "r" / "sft" / "adapter.txt").exists()


def test_a_machine_that_only_distilled_does_not_overwrite_what_another_trained_and_mirrored(tmp_path):
    here, there, drive = tmp_path / "a" / "r", tmp_path / "b" / "r", tmp_path / "m"
    run_toy(here, mirror=drive, only=("problems", "suites", "distill", "corpus"))
    run_toy(there, mirror=drive)
    with pytest.raises(RunError, match="is ahead of"):
        run_toy(here, mirror=drive)
    shutil.rmtree(here)
    assert all("done before" in line for line in run_toy(here, mirror=drive)[2:])
    assert (drive / "r" / "sft" / "adapter.txt").read_text() == (here / "sft" / "adapter.txt").read_text()


def test_what_is_made_again_without_the_mirror_replaces_what_it_had(done, tmp_path):
    run_toy(done, mirror=tmp_path / "m")
    old = names_in(tmp_path / "m" / "r" / "sft")
    run_toy(done, "sft.max_steps=5", again="sft")
    run_toy(done, "sft.max_steps=5", mirror=tmp_path / "m")
    assert "checkpoint-12" in old and names_in(tmp_path / "m" / "r" / "sft") == {"checkpoint-4", "adapter.txt"}


def names_in(folder):
    return {path.name for path in folder.iterdir() if path.is_file() or any(path.iterdir())}


@pytest.mark.parametrize("mirror", ["r/m", "."])
def test_a_mirror_in_the_run_or_around_it_is_refused(tmp_path, mirror):
    with pytest.raises(RunError, match="run folder .* overlap: mirror"):
        run_toy(tmp_path / "r", mirror=tmp_path / mirror)


def test_a_run_in_the_working_folder_has_that_folders_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runner.folder_of(RECIPE, Path(".")) == tmp_path


def test_the_toy_file_is_found_by_other_processes():
    assert Path(HERE).is_file() and json.loads(json.dumps(HERE)) == toy_stages.HERE


def test_advice_never_stands_in_the_way_and_is_given_anew_for_another_model(tmp_path):
    def headroom_is(manifest, *settings):
        found = states(tmp_path, override(RECIPE, settings), manifest, active_stages(RECIPE))
        return next(state for stage, state, _ in found if stage.name == "headroom")

    stage = next(stage for stage in STAGES if stage.name == "headroom")
    entry = {"fingerprint": "old", "status": "done", "inputs": inputs_of(RECIPE, stage), "summary": {}, "outputs": {}}
    (tmp_path / "headroom").mkdir()
    (tmp_path / "headroom" / "untuned.jsonl").write_text("{}\n")
    manifest = manifest_of({"headroom": entry})
    assert headroom_is(manifest) == headroom_is(manifest, "evaluate.max_tokens=77", "headroom=9") == "done"
    assert headroom_is(manifest, "student.bits=4") == "to do"
    assert headroom_is(manifest_of({"headroom": {**entry, "summary": {"looked": False}}})) == "to do"


def test_an_evaluation_that_max_hours_ended_goes_on_with_the_next_command(done):
    manifest = read_manifest(done)
    manifest.stages["evaluate"].summary.partial = True
    write_manifest(done, manifest)
    assert "[6/6] evaluate  resumes" in run_toy(done)
    assert "[6/6] evaluate  done before: " in "\n".join(run_toy(done))


def test_what_was_trained_on_a_part_of_the_plans_is_trained_anew_when_there_are_more(done):
    manifest = read_manifest(done)
    said = manifest.summaries.distill
    said.partial, said.max_usd = True, 1.0
    write_manifest(done, manifest)
    assert all("done before" in line for line in run_toy(done, "distill.max_usd=1"))
    lines = run_toy(done, "distill.max_usd=2")
    assert "[3/6] distill   resumes" in lines and "[5/6] sft       starts" in lines
    assert "from step 12" not in (done / "log.txt").read_text()
    assert {path.name for path in (done / "old").glob("*/*")} == {"corpus", "sft", "eval"}
    assert all("done before" in line for line in run_toy(done, "distill.max_usd=2"))


def test_a_distillation_that_its_share_of_the_hours_ended_is_done_until_there_are_more(done):
    manifest = read_manifest(done)
    said = manifest.summaries.distill
    said.partial, said.max_hours = True, 1.0
    write_manifest(done, manifest)
    assert all("done before" in line for line in run_toy(done, "max_hours=1"))
    lines = run_toy(done, "max_hours=2")
    assert "[3/6] distill   resumes" in lines and "[5/6] sft       starts" in lines


def test_the_report_comes_whatever_export_does(tmp_path):
    report = own_stage(tmp_path, "report", "write_whole(job.run.report, 'a page')\nreturn Summary(line='a page')")
    broken = own_stage(tmp_path, "export", "raise RunError('the original weights are gated')")
    lines = []
    with pytest.raises(RunError, match="the original weights are gated"):
        run(RECIPE, to=tmp_path / "r", stages=[*stages(*ALL), broken, report], say=lines.append)
    assert (tmp_path / "r" / "report.html").is_file() and lines[-1].startswith("[8/8] report    done in ")
    assert "[7/8] export    failed: the original weights are gated" in lines
    whole = own_stage(tmp_path, "export", "return Summary(line='exported')")
    lines.clear()
    run(RECIPE, to=tmp_path / "r", stages=[*stages(*ALL), whole, report], say=lines.append)
    assert any("exported" in line for line in lines)


def test_a_recipe_that_wants_a_gpu_stops_before_anything_is_done_where_there_is_none(tmp_path, monkeypatch):
    why = "torch 2.13.0 is built for CUDA 13.0 and sees none, and the driver is 570.1: update it"
    monkeypatch.setattr("plantune_lite.estimate.devices.why_no_gpu", lambda: why)
    with pytest.raises(RunError, match="Qwen3-4B.* needs a GPU, and torch 2.13.0 .*570.1.* Nothing was spent"):
        run(load_recipe("qwen3_4b_sft"), to=tmp_path / "r", say=print)
    assert not (tmp_path / "r" / "problems").exists()
    run_toy(tmp_path / "small")  # SmolLM2 wants none


def test_weights_behind_a_gate_stop_a_run_before_anything_is_done(tmp_path, monkeypatch):
    with LoopbackHub() as hub:
        hub.commit("somebody/gated", {"config.json": "{}", "a.safetensors": b""}, kind="model", gated=True)
        point_at(hub.url, monkeypatch)
        with pytest.raises(PlantuneError, match="somebody/gated is gated: .* set HF_TOKEN"):
            run(override(load_recipe("gemma3_1b_sft"), ["student.model=somebody/gated"]), to=tmp_path / "r")
    assert not (tmp_path / "r" / "problems").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('sft.extra={"bogus":1}', "sft.extra has 'bogus', but TRL's SFTConfig does not$"),
        ('grpo.extra={"optim":"adamm"}', "grpo.extra is .*, which TRL refuses"),
        ('grpo.extra={"num_generations":4}', "grpo.extra has 'num_generations', which the recipe's own fields decide"),
        ("student.lora_targets=nope", "student.lora_targets names 'nope'"),
    ],
)
@pytest.mark.parametrize("only", [None, ["problems", "suites", "headroom", "distill", "corpus"]])
def test_what_a_training_would_refuse_is_refused_before_the_teacher_is_asked(tmp_path, setting, words, only):
    wanted = override(load_recipe("smollm2_135m_grpo"), [setting])
    with pytest.raises(PlantuneError, match=words):
        run(wanted, to=tmp_path / "r", only=only, say=print)
    assert not (tmp_path / "r" / "problems").exists()


def test_where_no_line_can_be_redrawn_a_silent_stage_is_said_to_be_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "SILENCE_SECONDS", 0.05)
    stream = io.StringIO()
    silent = [sys.executable, "-c", "import time; time.sleep(0.5); print('done')"]
    with subprocess.Popen(silent, stdout=subprocess.PIPE) as stage:
        process._stream(stage, "sft", tmp_path / "log.txt", stream)
    assert stream.getvalue().startswith("sft is running, 0.") and stream.getvalue().endswith("so far\ndone\n")
    assert (tmp_path / "log.txt").read_text() == "done\n"


def test_a_run_that_has_lost_its_manifest_is_not_mixed_with_another(tmp_path):
    run_toy(tmp_path / "r", names=("problems", "suites", "distill"))
    (tmp_path / "r" / "manifest.json").unlink()
    with pytest.raises(RunError, match="has lost its manifest.json, .*--mirror FOLDER .*--again problems moves all"):
        run_toy(tmp_path / "r", "problems.limit=8", names=("problems", "suites", "distill"))
    assert not (tmp_path / "r" / "manifest.json").exists()
    run_toy(tmp_path / "r", "problems.limit=8", names=("problems", "suites", "distill"), again="problems")
    assert len(list(read_jsonl(tmp_path / "r" / "trajectories.jsonl"))) == 8
    assert len(list(read_jsonl(next((tmp_path / "r" / "old").glob("*/trajectories.jsonl"))))) > 8
