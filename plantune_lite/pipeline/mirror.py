"""A second copy of a run's small things in a folder that outlives the machine, such as a mounted Drive.

What comes in: a run folder. What goes out: MIRROR/NAME/ with recipe, manifest, JSONL, adapters, the newest checkpoint
and the report, and MIRROR/calls.sqlite. Never merged/ or gguf/. A mirror that is full, slow or gone is a warning, never
a stop.

Several machines may go on with one run in turn. Each working session leaves its mark at the end of the manifest's
"sessions", so that of two copies one can tell which came from the other, or that both went on apart from each other:
the mirror is written only from a folder that has all that the mirror has.
"""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plantune_lite.files import write_whole
from plantune_lite.runs.folder import BATCHES, LEDGER, home, read_manifest
from plantune_lite.teacher.ledger import copy_ledger, merge_ledger
from plantune_lite.types import RunError

INTERVAL_SECONDS = 60.0
_INDEX = ".mirror.json"  # file -> [size, modification time] of the copy, so that only what changed is copied
_APART = ("old", "ablate")  # what is of another time, or has a mirror of its own
_LARGE = ("merged", "gguf", *_APART)
_INCOMING = ".incoming"  # in the run folder: what is being brought back


class Mirror:
    """Copies in a thread of its own, so that a slow folder holds nothing up."""

    def __init__(
        self,
        folder: Path,
        run: Path,
        say: Callable[[str], None],
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        copy: Callable[[Path, Path], object] = shutil.copyfile,
    ) -> None:
        self._target = folder / run.name
        self._ledger = home(run) / LEDGER
        self._run = run
        self._say = say
        self._copy = copy
        self._interval = interval_seconds
        self._wanted = threading.Event()
        self._copied = threading.Event()
        self._ending = False
        self._warned = ""
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin copying, now and at every interval."""
        self._thread.start()

    def sync(self, wait_seconds: float = 0.0) -> bool:
        """Ask for a copy now; true when one was finished within the time given."""
        self._copied.clear()
        self._wanted.set()
        return self._copied.wait(wait_seconds) if wait_seconds else False

    def close(self, wait_seconds: float = 60.0) -> None:
        """Copy once more; a mirror that does not answer in time is left behind with a warning."""
        self._ending = True
        self._wanted.set()
        self._thread.join(wait_seconds)
        if self._thread.is_alive():
            self._warn(f"the mirror {self._target} lags behind {self._run}: not done within {wait_seconds:.0f} s")

    def _work(self) -> None:
        while True:
            self._wanted.wait(self._interval)
            self._wanted.clear()
            last = self._ending
            try:
                self._copy_all()
                self._warned = ""
            except Exception as error:  # whatever it is, the run goes on, and the next interval tries again
                why = getattr(error, "strerror", None) or error
                self._warn(f"the mirror {self._target} cannot be written ({why}); the run goes on without it")
            self._copied.set()
            if last:
                return

    def _warn(self, sentence: str) -> None:
        if sentence != self._warned:  # once, not every minute
            self._warned = sentence
            self._say(f"warning: {sentence}")

    def _copy_all(self) -> None:
        self._target.mkdir(parents=True, exist_ok=True)
        # The manifest says what is complete: read first and written last, it never promises more than is here.
        manifest = (self._run / "manifest.json").read_text(encoding="utf-8")
        if (self._target / "manifest.json").is_file():
            there = read_manifest(self._target)
            if not _comes_from(json.loads(manifest), there):
                raise RunError(f"another machine has gone on with {self._run.name} there")
        index = _read_index(self._target)
        wanted = {file.relative_to(self._run).as_posix(): file for file in _small_things(self._run)}
        for name in sorted(wanted, key=_checkpoint_mark_last):
            try:
                state = wanted[name].stat()
                identity = [state.st_size, state.st_mtime_ns]
                if index.get(name) == identity and (self._target / name).exists():
                    continue
                self._replace(wanted[name], self._target / name)
            except FileNotFoundError:
                if self._target.is_dir():
                    continue  # a checkpoint was rotated away while we copied
                raise
            index[name] = identity
            write_whole(self._target / _INDEX, json.dumps(index))
        for name in set(index) - set(wanted):  # it was here once, as all that is there, and was rotated or moved away
            (self._target / name).unlink(missing_ok=True)
            del index[name]
        write_whole(self._target / _INDEX, json.dumps(index))
        self._copy_ledger()
        write_whole(self._target / "manifest.json", manifest)

    def _replace(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        try:
            self._copy(source, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _copy_ledger(self) -> None:
        """While a stage holds the ledger, that stage keeps the copy: PLANTUNE_MIRROR."""
        if self._ledger.is_file():
            copy_ledger(self._ledger, home(self._target) / LEDGER)


def _small_things(run: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(run):  # which passes over what is rotated away meanwhile
        for name in names:
            file = Path(folder, name)
            parts = file.relative_to(run).parts
            hidden = any(part.startswith(".") for part in parts)
            if hidden or parts[0] in (*_LARGE, "manifest.json"):
                continue
            checkpoint = _checkpoint_of(file)
            if checkpoint is None or checkpoint in _needed_checkpoints(checkpoint.parent):
                yield file


_CHECKPOINT = re.compile(r"checkpoint-([0-9]+)")


def _checkpoint_of(file: Path) -> Path | None:
    return next((folder for folder in file.parents if _CHECKPOINT.fullmatch(folder.name)), None)


def _checkpoint_mark_last(name: str) -> tuple[bool, str]:
    return name.endswith("/trainer_state.json"), name


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is complete: trainer_state.json is written last."""
    numbered = {path: _CHECKPOINT.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    complete = {
        path: int(name[1]) for path, name in numbered.items() if name and (path / "trainer_state.json").is_file()
    }
    return max(complete, key=complete.__getitem__, default=None)


def _needed_checkpoints(folder: Path) -> list[Path]:
    """The newest, and the best so far: the training ends with that one's weights."""
    newest = _newest_checkpoint(folder)
    if newest is None:
        return []
    try:
        best = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8")).get("best_global_step")
    except (OSError, ValueError):
        best = None
    return [newest, *([folder / f"checkpoint-{best}"] if best else [])]


def _read_index(target: Path) -> dict[str, list[int]]:
    """What the mirror holds; a name that leads out of it is none of ours."""
    try:
        index = json.loads((target / _INDEX).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {
        name: state for name, state in index.items() if not Path(name).is_absolute() and ".." not in Path(name).parts
    }


def bring_back(folder: Path, run: Path, say: Callable[[str], object] = print) -> int:
    """Before a run starts or goes on: its ledger, and of the run what is not here; the number of files.

    Where the mirror has come further, what is here moves to old/. Refuses a mirror that would be overwritten by another
    run of the same name, one that went on apart from what is here, and one that lies in the run or around it.
    """
    source, here = (folder / run.name).resolve(), run.resolve()
    if source == here or here in source.parents or source in here.parents:
        raise RunError(f"--mirror {folder} and the run folder {run} lie in each other; mirror to another folder")
    theirs, ours = home(source), home(here)
    if (theirs / LEDGER).is_file():
        merge_ledger(theirs / LEDGER, ours / LEDGER)
    if (theirs / BATCHES).is_file() and not (ours / BATCHES).exists():
        shutil.copyfile(theirs / BATCHES, ours / BATCHES)
    if not (source / "manifest.json").is_file():
        return 0
    there = read_manifest(source)
    if not (run / "manifest.json").exists():
        return _restore(source, run)
    mine = read_manifest(run)
    if mine.get("id") != there.get("id"):
        raise RunError(
            f"{source} mirrors another run of this name, created {there.get('created')}. Two ways on: name=OTHER; "
            f"or move {run} away, and the mirrored run is restored"
        )
    if _comes_from(mine, there) and (there.get("sessions") or _done(there) <= _done(mine)):
        return _mend(source, run, mine, there)
    if not _comes_from(there, mine) or not _done(mine) <= _done(there):
        raise RunError(
            f"{source} and {run} went on apart from each other, so neither may replace the other. Two ways on: the "
            f"same command without --mirror, or with another folder for it; or move {run} away, and the mirrored run "
            "is restored"
        )
    say(f"{source} has come further than {run}, whose files move to {run / 'old'}")
    return _restore(source, run)


def _comes_from(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether a copy of a run is the other one, or went on from it."""
    passed = earlier.get("sessions", [])
    return later.get("id") == earlier.get("id") and later.get("sessions", [])[: len(passed)] == passed


def _done(manifest: Mapping[str, Any]) -> set[str]:
    return {name for name, entry in manifest["stages"].items() if entry["status"] == "done"}


def _restore(source: Path, run: Path) -> int:
    """The whole run; what is here of it makes way once all of the mirror was read."""
    incoming = run / _INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    names = [name for name in sorted(_read_index(source)) if not _cut_off(source / name)]
    for name in (*names, "manifest.json"):
        _fetch(source / name, incoming / name)
    old = run / "old" / time.strftime("%Y%m%d-%H%M%S-mirror")
    a_run = (run / "manifest.json").exists()
    for one in list(run.iterdir()):
        stays = one.name.startswith(".") or one.name in _APART
        if not stays and (a_run or (incoming / one.name).exists()):
            old.mkdir(parents=True, exist_ok=True)
            os.replace(one, old / one.name)
    for one in sorted(incoming.iterdir(), key=lambda one: one.name == "manifest.json"):  # last: half a copy is no run
        os.replace(one, run / one.name)
    incoming.rmdir()
    return len(names) + 1


def _cut_off(file: Path) -> bool:
    """Whether it is of a checkpoint whose copy was cut off: training goes on from the one before."""
    checkpoint = _checkpoint_of(file)
    return checkpoint is not None and not (checkpoint / "trainer_state.json").is_file()


def _mend(source: Path, run: Path, mine: Mapping[str, Any], there: Mapping[str, Any]) -> int:
    """What a finished stage left, this folder has lost, and the mirror still has; the number of files."""
    index = _read_index(source)
    lost = [
        name
        for stage in sorted(_done(mine) & _done(there))
        for name, identity in mine["stages"][stage].get("outputs", {}).items()
        if name in index and there["stages"][stage].get("outputs", {}).get(name) == identity
        if not (run / name).exists()
    ]
    for name in lost:
        _fetch(source / name, run / name)
    return len(lost)


def _fetch(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        shutil.copy2(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        why = error.strerror or error
        raise RunError(f"{source} cannot be read back ({why}); mend the mirror, or go without it") from None
