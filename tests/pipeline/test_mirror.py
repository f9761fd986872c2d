import asyncio
import errno
import os
import shutil
import time

import pytest

from plantune_lite.files import write_whole
from plantune_lite.pipeline.mirror import Mirror, bring_back
from plantune_lite.runs.folder import outputs_of, read_manifest, write_manifest
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
    write_manifest(folder, {"format": 1, "id": "mine", "stages": {}})
    return folder


def mirrored(run, target, say=print, **options):
    mirror = Mirror(target, run, say, interval_seconds=60, **options)
    mirror.start()
    mirror.close(20)


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_small_things_and_the_newest_whole_checkpoint_are_copied(run, tmp_path):
    mirrored(run, tmp_path / "m")
    assert names(tmp_path / "m" / "r") - {".mirror.json"} == {
        "manifest.json",
        "recipe.json",
        "trajectories.jsonl",
        "sft/adapter.safetensors",
        "sft/checkpoint-20/optimizer.pt",
        "sft/checkpoint-20/trainer_state.json",
    }


def test_what_is_gone_here_goes_there_and_only_what_changed_is_copied(run, tmp_path):
    mirrored(run, tmp_path / "m")
    shutil.rmtree(run / "sft" / "checkpoint-20")
    write_whole(run / "trajectories.jsonl", "more")
    copied = []
    mirrored(run, tmp_path / "m", copy=lambda a, b: (copied.append(a.name), shutil.copyfile(a, b)))
    assert sorted(copied) == ["optimizer.pt", "trainer_state.json", "trajectories.jsonl"]
    assert not (tmp_path / "m/r/sft/checkpoint-20/optimizer.pt").exists()


def test_an_empty_machine_is_restored_and_a_full_one_is_left_alone(run, tmp_path):
    mirrored(run, tmp_path / "m")
    assert bring_back(tmp_path / "m", run) == 0
    shutil.rmtree(run)
    assert bring_back(tmp_path / "m", run) == 6
    assert (run / "sft" / "adapter.safetensors").read_text() == "sft/adapter.safetensors"


def test_a_checkpoint_whose_copy_was_cut_off_is_not_restored(run, tmp_path):
    mirrored(run, tmp_path / "m")
    (tmp_path / "m/r/sft/checkpoint-20/trainer_state.json").unlink()
    shutil.rmtree(run)
    bring_back(tmp_path / "m", run)
    assert not (run / "sft" / "checkpoint-20").exists()


def test_the_manifest_never_promises_more_than_the_mirror_holds(run, tmp_path):
    def finish_meanwhile(source, target):
        write_whole(run / "corpus.jsonl", "all of it")
        write_manifest(run, {"format": 1, "stages": {"corpus": "done"}})
        shutil.copyfile(source, target)

    mirror = Mirror(tmp_path / "m", run, print, interval_seconds=60, copy=finish_meanwhile)
    mirror._copy_all()
    assert read_manifest(tmp_path / "m" / "r")["stages"] == {}


# --- several machines -------------------------------------------------------------------------------------------------


def went_on(folder, session, *done, files=()):
    """A session on some machine that ended with these stages done."""
    for name in files:
        write_whole(folder / name, f"{name} of {session}")
    manifest = read_manifest(folder)
    manifest["sessions"] = [*manifest.get("sessions", []), session]
    manifest["stages"] = {
        name: {"status": "done", "outputs": outputs_of(folder, (name,))} if name in done else {"status": "running"}
        for name in ("distill", "sft")
    }
    write_manifest(folder, manifest)


@pytest.fixture
def machines(tmp_path):
    """The run on machine A after distilling, on machine B, which trained it, and their mirror."""
    here, there, drive = tmp_path / "a" / "r", tmp_path / "b" / "r", tmp_path / "drive"
    write_manifest(here, {"format": 1, "id": "mine", "stages": {}})
    went_on(here, "a1", "distill", files=("distill/plans.jsonl",))
    write_whole(here / "merged" / "model.safetensors", "of A")
    mirrored(here, drive)
    bring_back(drive, there)
    went_on(there, "b1", "distill", "sft", files=("sft/adapter.safetensors",))
    mirrored(there, drive)
    return here, there, drive


def test_what_another_machine_trained_is_brought_back_before_anything_is_mirrored(machines):
    here, _, drive = machines
    said = []
    assert bring_back(drive, here, said.append) == 3 and "has come further" in said[0]
    mirrored(here, drive)
    for folder in (here, drive / "r"):
        assert (folder / "sft" / "adapter.safetensors").read_text() == "sft/adapter.safetensors of b1"
        assert read_manifest(folder)["sessions"] == ["a1", "b1"]
    (old,) = (here / "old").iterdir()
    assert names(old) == {"manifest.json", "distill/plans.jsonl", "merged/model.safetensors"}


def test_a_checkpoint_of_an_unfinished_training_elsewhere_is_brought_back_too(machines):
    here, there, drive = machines
    went_on(there, "b2", "distill", files=("sft/checkpoint-7/trainer_state.json",))
    mirrored(there, drive)
    bring_back(drive, here)
    assert (here / "sft" / "checkpoint-7" / "trainer_state.json").exists()


def test_a_run_that_went_on_in_two_places_is_refused_and_neither_is_overwritten(machines):
    here, _, drive = machines
    went_on(here, "a2", "distill", files=("distill/more.jsonl",))
    with pytest.raises(RunError, match="went on apart from each other.*without --mirror.*move .* away"):
        bring_back(drive, here)
    said = []
    mirrored(here, drive, said.append)
    assert len(said) == 1 and "another machine has gone on with r there" in said[0]
    assert (drive / "r" / "sft" / "adapter.safetensors").exists() and not (drive / "r" / "distill/more.jsonl").exists()


def test_what_is_finished_here_alone_never_makes_way(machines):
    here, _, drive = machines
    manifest = read_manifest(here)
    manifest["stages"]["corpus"] = {"status": "done", "outputs": {}}  # while the mirror was away
    write_manifest(here, manifest)
    with pytest.raises(RunError, match="went on apart"):
        bring_back(drive, here)


def test_without_marks_of_sessions_the_stages_that_are_done_say_who_is_ahead(machines):
    here, there, drive = machines
    for folder in (here, there, drive / "r"):
        write_manifest(folder, {**read_manifest(folder), "sessions": []})
    assert bring_back(drive, there) == 0 and bring_back(drive, here) == 3


def test_what_is_made_anew_here_leaves_the_mirror_and_what_is_lost_here_comes_back(machines):
    _, there, drive = machines
    (there / "distill" / "plans.jsonl").unlink()
    (there / "sft" / "adapter.safetensors").rename(there / "adapter.of.b1")  # as --again moves it to old/
    went_on(there, "b2", "distill")
    manifest = read_manifest(there)
    manifest["stages"]["distill"] = read_manifest(drive / "r")["stages"]["distill"]
    write_manifest(there, manifest)
    assert bring_back(drive, there) == 1
    mirrored(there, drive)
    assert (there / "distill" / "plans.jsonl").read_text() == "distill/plans.jsonl of a1"
    assert not (drive / "r" / "sft" / "adapter.safetensors").exists()


def test_files_of_ones_own_stay_where_a_run_is_restored_and_half_a_run_makes_way(machines, tmp_path):
    _, _, drive = machines
    write_whole(tmp_path / "c" / "r" / "mine.csv", "mine")
    write_whole(tmp_path / "c" / "r" / "sft" / "checkpoint-1" / "state", "half")
    assert bring_back(drive, tmp_path / "c" / "r") == 3
    assert (tmp_path / "c" / "r" / "mine.csv").exists() and not (tmp_path / "c/r/sft/checkpoint-1").exists()


def test_a_mirror_that_cannot_be_read_back_leaves_what_is_here(machines):
    here, _, drive = machines
    (drive / "r" / "sft" / "adapter.safetensors").unlink()
    before = names(here)
    with pytest.raises(RunError, match="cannot be read back"):
        bring_back(drive, here)
    assert {name for name in names(here) if not name.startswith(".")} == before


# --- the ledger -------------------------------------------------------------------------------------------------------


def ledger_with(path, *calls, run="r"):
    async def ask():
        with Ledger(path, run=run) as ledger:
            for call in calls:
                await ledger.reserve(call, model="m", worst_usd=1)
                await ledger.settle(call, Reply(text=call), outcome="ok", usd=0.5, seconds=0)

    asyncio.run(ask())


def replies_in(path, *calls):
    with Ledger(path, run="r") as ledger:
        return [call for call in calls if ledger.reply(call)]


def test_the_ledger_is_copied_and_while_a_stage_holds_it_skipped_without_a_word(run, tmp_path):
    ledger_with(run.parent / "calls.sqlite", "paid")
    mirrored(run, tmp_path / "m")
    assert replies_in(tmp_path / "m" / "calls.sqlite", "paid") == ["paid"]
    said = []
    with Ledger(run.parent / "calls.sqlite", run="r"):
        mirrored(run, tmp_path / "m", said.append)
    assert said == []


def test_a_machine_that_is_new_to_a_mirror_takes_its_calls_over_and_loses_none(run, tmp_path):
    ledger_with(tmp_path / "m" / "calls.sqlite", "a", "b", run="other")
    ledger_with(run.parent / "calls.sqlite", "b", "c")
    bring_back(tmp_path / "m", run)
    mirrored(run, tmp_path / "m")
    for path in (run.parent / "calls.sqlite", tmp_path / "m" / "calls.sqlite"):
        assert replies_in(path, "a", "b", "c") == ["a", "b", "c"]
    with Ledger(run.parent / "calls.sqlite", run="r") as ledger:
        assert ledger.spent_usd == 1.0


def test_a_machine_that_is_new_to_a_mirror_knows_which_batches_are_under_way(run, tmp_path):
    ledger_with(tmp_path / "m" / "calls.sqlite", "a")
    (tmp_path / "m" / "batches.jsonl").write_text("theirs\n")
    bring_back(tmp_path / "m", run)
    assert (run.parent / "batches.jsonl").read_text() == "theirs\n"
    (run.parent / "batches.jsonl").write_text("ours\n")
    bring_back(tmp_path / "m", run)
    assert (run.parent / "batches.jsonl").read_text() == "ours\n"


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
    with pytest.raises(RunError, match="is no ledger"):
        bring_back(tmp_path / "m", run)
    (run.parent / "calls.sqlite").write_text("no database at all" * 100)
    said = []
    mirrored(run, tmp_path / "m2", said.append)
    assert len(said) == 1 and "the run goes on without it" in said[0]


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


def test_a_full_mirror_is_one_warning_and_leaves_the_last_good_copy(run, tmp_path):
    mirrored(run, tmp_path / "m")
    write_whole(run / "trajectories.jsonl", "more")

    def full(source, target):
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    mirror = Mirror(tmp_path / "m", run, said.append, interval_seconds=0.01, copy=full)
    mirror.start()
    time.sleep(0.2)
    mirror.close(20)
    assert len(said) == 1 and "No space left on device" in said[0]
    assert (tmp_path / "m/r/trajectories.jsonl").read_text() == "trajectories.jsonl"
    assert not [name for name in names(tmp_path / "m") if name.endswith(".part")]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0 or not shutil.which("mount"), reason="needs root and mount")
def test_a_mirror_on_a_disk_that_is_really_full_is_a_warning(run, tmp_path):
    import subprocess

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
    assert len(said) == 1 and "the run goes on without it" in said[0]


def test_a_slow_mirror_holds_nothing_up(run, tmp_path):
    said = []
    mirror = Mirror(tmp_path / "m", run, said.append, interval_seconds=60, copy=lambda a, b: time.sleep(1))
    mirror.start()
    began = time.monotonic()
    mirror.sync()
    assert time.monotonic() - began < 0.5
    mirror.close(0.1)
    assert "lags behind" in said[0] and time.monotonic() - began < 1
