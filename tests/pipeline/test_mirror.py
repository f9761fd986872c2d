import asyncio
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from manifests import mark

from plantune_lite.files import copy_whole, write_whole
from plantune_lite.pipeline import mirror as mirroring
from plantune_lite.pipeline.mirror import Mirror, bring_back
from plantune_lite.runs.folder import outputs_of
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.types import Reply, RunError


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "r"
    for name in (
        "recipe.json",
        "trajectories.jsonl",
        "sft/adapter.safetensors",
        "sft/checkpoint-10/optimizer.pt",
        "sft/checkpoint-10/trainer_state.json",
        "sft/checkpoint-20/optimizer.pt",
        "sft/checkpoint-20/trainer_state.json",
        "sft/checkpoint-30/optimizer.pt",
        "merged/model.safetensors",
        "gguf/model.gguf",
        "old/sft/adapter.safetensors",
    ):
        write_whole(folder / name, name)
    mark(folder, id="mine")
    return folder


def mirrored(run, target, say=print):
    Mirror(target, run, say).close(20)


def copy_by(copy, monkeypatch):
    """Let the mirror copy in another way."""
    monkeypatch.setattr(mirroring, "copy_whole", lambda source, target: copy_whole(source, target, copy))


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_small_things_and_the_whole_checkpoints_are_copied(run, tmp_path):
    mirrored(run, tmp_path / "m")
    assert names(tmp_path / "m" / "r") - {".mirror.json"} == {
        "manifest.json",
        "recipe.json",
        "trajectories.jsonl",
        "sft/adapter.safetensors",
        "sft/checkpoint-10/optimizer.pt",
        "sft/checkpoint-10/trainer_state.json",
        "sft/checkpoint-20/optimizer.pt",
        "sft/checkpoint-20/trainer_state.json",
    }


def test_what_is_gone_here_goes_there_and_only_what_changed_is_copied(run, tmp_path, monkeypatch):
    mirrored(run, tmp_path / "m")
    shutil.rmtree(run / "sft" / "checkpoint-20")
    write_whole(run / "trajectories.jsonl", "more")
    copied = []
    copy_by(lambda a, b: (copied.append(a.name), shutil.copyfile(a, b)), monkeypatch)
    mirrored(run, tmp_path / "m")
    assert copied == ["trajectories.jsonl"]
    assert not (tmp_path / "m/r/sft/checkpoint-20/optimizer.pt").exists()


def test_an_empty_machine_is_restored_and_a_full_one_is_left_alone(run, tmp_path):
    mirrored(run, tmp_path / "m")
    assert bring_back(tmp_path / "m", run) == 0
    shutil.rmtree(run)
    assert bring_back(tmp_path / "m", run) == 8
    assert (run / "sft" / "adapter.safetensors").read_text() == "sft/adapter.safetensors"


def test_the_manifest_never_promises_more_than_the_mirror_holds(run, tmp_path, monkeypatch):
    def finish_meanwhile(source, target):
        write_whole(run / "corpus.jsonl", "all of it")
        mark(run, {"corpus": {"status": "done"}})
        shutil.copyfile(source, target)

    copy_by(finish_meanwhile, monkeypatch)
    Mirror(tmp_path / "m", run, print).close(20)
    assert read_manifest(tmp_path / "m" / "r").stages == {}


# --- the way back -----------------------------------------------------------------------------------------------------


@pytest.fixture
def distilled(tmp_path):
    """A run after distilling, and its mirror."""
    here, drive = tmp_path / "a" / "r", tmp_path / "drive"
    for name in ("distill/plans.jsonl", "merged/model.safetensors"):
        write_whole(here / name, name)
    done = {"status": "done", "outputs": outputs_of(here, ("distill", "merged"))}
    mark(here, {"distill": done}, id="mine", resumed=1.0)
    mirrored(here, drive)
    return here, drive


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("half a li")])
def test_a_missing_or_damaged_file_of_a_finished_stage_comes_back(distilled, damage):
    here, drive = distilled
    damage(here / "distill" / "plans.jsonl")
    assert bring_back(drive, here) == 1
    assert (here / "distill" / "plans.jsonl").read_text() == "distill/plans.jsonl"


@pytest.mark.parametrize("text", ["", '{"format": 1, "stages": {"sft": null}}', '{"form'])
def test_a_damaged_manifest_comes_back_with_the_run_that_it_belongs_to(distilled, text):
    here, drive = distilled
    whole = (here / "manifest.json").read_text()
    (here / "manifest.json").write_text(text)
    assert bring_back(drive, here) == 2
    assert (here / "manifest.json").read_text() == whole and (here / "distill" / "plans.jsonl").exists()
    (old,) = (here / "old").iterdir()
    assert (old / "manifest.json").read_text() == text
    (drive / "r" / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"the mirror's .*drive/r/manifest.json is damaged: move .* away"):
        bring_back(drive, here)


def test_what_stood_in_the_place_of_a_restored_file_moves_to_old(distilled):
    here, drive = distilled
    (here / "distill" / "plans.jsonl").write_text("edited by hand")
    bring_back(drive, here)
    (old,) = (here / "old").iterdir()
    assert (old / "distill" / "plans.jsonl").read_text() == "edited by hand"


def test_what_is_missing_or_damaged_in_the_mirror_too_is_left_for_the_run_to_make_again(distilled):
    here, drive = distilled
    (drive / "r" / "distill" / "plans.jsonl").write_text("half a li")
    shutil.rmtree(here / "distill")
    shutil.rmtree(here / "merged")
    assert bring_back(drive, here) == 0


def test_what_is_made_anew_here_leaves_the_mirror(distilled):
    here, drive = distilled
    write_whole(here / "sft" / "adapter.safetensors", "of the first training")
    mirrored(here, drive)
    assert (drive / "r" / "sft" / "adapter.safetensors").exists()
    (here / "sft" / "adapter.safetensors").unlink()  # as --again moves it to old/
    assert bring_back(drive, here) == 0
    mirrored(here, drive)
    assert not (drive / "r" / "sft" / "adapter.safetensors").exists()


def test_a_mirror_that_is_ahead_of_the_run_is_refused(distilled):
    here, drive = distilled
    mark(drive / "r", resumed=2.0)
    with pytest.raises(RunError, match="is ahead of .*move .* away"):
        bring_back(drive, here)


def test_files_of_ones_own_stay_where_a_run_is_restored_and_half_a_run_makes_way(distilled, tmp_path):
    _, drive = distilled
    write_whole(tmp_path / "c" / "r" / "mine.csv", "mine")
    write_whole(tmp_path / "c" / "r" / "distill" / "checkpoint-1" / "state", "half")
    assert bring_back(drive, tmp_path / "c" / "r") == 2
    assert (tmp_path / "c" / "r" / "mine.csv").exists() and not (tmp_path / "c/r/distill/checkpoint-1").exists()


def test_a_mirror_that_cannot_be_read_back_leaves_what_is_here(distilled, tmp_path):
    _, drive = distilled
    (drive / "r" / "distill" / "plans.jsonl").unlink()
    write_whole(tmp_path / "c" / "r" / "mine.csv", "mine")
    with pytest.raises(RunError, match="cannot be read back"):
        bring_back(drive, tmp_path / "c" / "r")
    assert names(tmp_path / "c" / "r") == {"mine.csv"}


# --- the ledger -------------------------------------------------------------------------------------------------------


def ledger_with(path, *calls, run="r"):
    async def ask():
        with Ledger(path, run=run) as ledger:
            for call in calls:
                await ledger.reserve(call, model="m", worst_usd=1)
                await ledger.settle(call, Reply(text=call), outcome="ok", usd=0.5)

    asyncio.run(ask())


def replies_in(path, *calls):
    with Ledger(path, run="r") as ledger:
        return [call for call in calls if ledger.reply(call)]


def test_the_ledger_is_copied_while_a_stage_holds_it_too(run, tmp_path):
    said = []
    ledger_with(run.parent / "calls.sqlite", "paid")
    with Ledger(run.parent / "calls.sqlite", run="r"):
        mirrored(run, tmp_path / "m", said.append)
    assert said == [] and replies_in(tmp_path / "m" / "calls.sqlite", "paid") == ["paid"]


def test_an_empty_machine_takes_the_ledger_over_and_pays_for_no_call_again(run, tmp_path):
    ledger_with(run.parent / "calls.sqlite", "a", "b")
    mirrored(run, tmp_path / "m")
    shutil.rmtree(run.parent)
    bring_back(tmp_path / "m", run)
    assert replies_in(run.parent / "calls.sqlite", "a", "b") == ["a", "b"]
    with Ledger(run.parent / "calls.sqlite", run="r") as ledger:
        assert ledger.spent_usd == 1.0


def test_a_machine_that_is_new_to_a_mirror_takes_its_calls_over_and_loses_none(run, tmp_path):
    ledger_with(tmp_path / "m" / "calls.sqlite", "a", "b", run="other")
    ledger_with(run.parent / "calls.sqlite", "b", "c")
    bring_back(tmp_path / "m", run)
    mirrored(run, tmp_path / "m")
    for path in (run.parent / "calls.sqlite", tmp_path / "m" / "calls.sqlite"):
        assert replies_in(path, "a", "b", "c") == ["a", "b", "c"]
    with Ledger(run.parent / "calls.sqlite", run="r") as ledger:
        assert ledger.spent_usd == 1.0


def test_a_ledger_that_a_kill_left_within_a_write_is_copied_as_it_was_before(run, tmp_path):
    path = run.parent / "calls.sqlite"
    ledger_with(path, "a")
    write = "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); "
    write += "db.execute('PRAGMA cache_size = 1'); db.execute('BEGIN'); "
    write += "[db.execute('INSERT INTO calls (key, reply) VALUES (?, ?)', (str(n), 'x' * 900)) for n in range(200)]; "
    subprocess.run([sys.executable, "-c", write + "os._exit(9)", str(path)], check=False)
    assert path.with_name("calls.sqlite-journal").stat().st_size
    said = []
    mirrored(run, tmp_path / "m", said.append)
    assert said == [] and replies_in(tmp_path / "m" / "calls.sqlite", "a", "1") == ["a"]


def test_taking_calls_over_twice_counts_no_money_twice(run, tmp_path):
    ledger_with(run.parent / "calls.sqlite", "a")

    async def in_flight():
        with Ledger(run.parent / "calls.sqlite", run="r") as ledger:
            await ledger.reserve("b", model="m", worst_usd=0.25)

    asyncio.run(in_flight())
    mirrored(run, tmp_path / "m")
    for _ in range(2):
        bring_back(tmp_path / "m", run)
    with Ledger(run.parent / "calls.sqlite", run="r") as ledger:
        assert ledger.spent_usd == 0.75


def test_a_damaged_ledger_in_the_mirror_is_a_sentence_and_one_here_a_warning(run, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "calls.sqlite").write_text("no database at all" * 100)
    ledger_with(run.parent / "calls.sqlite", "a")
    with pytest.raises(RunError, match="cannot be read back"):
        bring_back(tmp_path / "m", run)
    (run.parent / "calls.sqlite").write_text("no database at all" * 100)
    said = []
    mirrored(run, tmp_path / "m2", said.append)
    assert len(said) == 1 and "the run continues without it" in said[0]


def test_a_name_that_leads_out_of_the_mirror_is_not_followed(run, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    mirrored(run, tmp_path / "m")
    index = tmp_path / "m" / "r" / ".mirror.json"
    index.write_text(index.read_text().replace("recipe.json", "../../victim.txt"))
    mirrored(run, tmp_path / "m")
    assert victim.read_text() == "mine"


def test_a_folder_that_is_no_numbered_checkpoint_stops_nothing(run, tmp_path):
    write_whole(run / "sft" / "checkpoint-best" / "trainer_state.json", "{}")
    said = []
    mirrored(run, tmp_path / "m", said.append)
    assert said == [] and (tmp_path / "m" / "r" / "sft" / "checkpoint-best" / "trainer_state.json").exists()


def test_a_full_mirror_is_one_warning_and_leaves_the_last_good_copy(run, tmp_path, monkeypatch):
    mirrored(run, tmp_path / "m")
    write_whole(run / "trajectories.jsonl", "more")

    def full(source, target):
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    copy_by(full, monkeypatch)
    monkeypatch.setattr(mirroring, "INTERVAL_SECONDS", 0.01)
    mirror = Mirror(tmp_path / "m", run, said.append)
    time.sleep(0.2)
    mirror.close(20)
    assert len(said) == 1 and "No space left on device" in said[0]
    assert (tmp_path / "m/r/trajectories.jsonl").read_text() == "trajectories.jsonl"
    assert not [name for name in names(tmp_path / "m") if name.endswith(".part")]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0 or not shutil.which("mount"), reason="needs root and mount")
def test_a_mirror_on_a_disk_that_is_really_full_is_a_warning(run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mount is not permitted here")
    try:
        (run / "trajectories.jsonl").write_bytes(b"x" * 200_000)
        said = []
        mirrored(run, disk, said.append)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert len(said) == 1 and "No space left" in said[0]


def test_a_mirror_that_is_gone_is_a_warning(run, tmp_path):
    (tmp_path / "m").write_text("a file where the folder was")
    said = []
    mirrored(run, tmp_path / "m", said.append)
    assert len(said) == 1 and "the run continues without it" in said[0]


def test_a_slow_mirror_holds_nothing_up(run, tmp_path, monkeypatch):
    said = []
    copy_by(lambda a, b: time.sleep(1), monkeypatch)
    mirror = Mirror(tmp_path / "m", run, said.append)
    began = time.monotonic()
    mirror.close(0.1)
    assert "lags behind" in said[0] and time.monotonic() - began < 1
