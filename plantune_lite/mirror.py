"""A second copy of a run's small things in a folder that outlives the machine, such as a mounted Drive.

What comes in: a run folder. What goes out: MIRROR/NAME/ with recipe, manifest, JSONL, adapters, the newest checkpoint
and the report, and MIRROR/calls.sqlite. Never merged/ or gguf/. A mirror that is full, slow or gone is a warning, never
a stop.
"""

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from plantune_lite.records import RunError, write_whole

INTERVAL_SECONDS = 60.0
_INDEX = ".mirror.json"  # file -> [size, modification time] of the copy, so that only what changed is copied
_LARGE = ("merged", "gguf", "old")


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
        self._ledger = folder / "calls.sqlite"
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
            except OSError as error:
                why = error.strerror or error
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
        for name in set(index) - set(wanted):
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
        """The ledger through SQLite's backup; while a stage holds it, that stage keeps the copy (PLANTUNE_MIRROR)."""
        ledger = self._run.parent / "calls.sqlite"
        if ledger.is_file():
            backup_ledger(ledger, self._ledger)


def backup_ledger(ledger: Path, target: Path) -> bool:
    """Copy a ledger whole and rename it into place; false while another process holds it."""
    temporary = target.with_name(f".{target.name}.part")
    source = sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=0, isolation_level=None)
    try:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master")  # takes the read lock or fails; backup itself would wait
        copy = sqlite3.connect(temporary)
        try:
            source.backup(copy)
        finally:
            copy.close()
        os.replace(temporary, target)
        return True
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return False
        raise OSError(str(error)) from None  # a full or missing folder
    finally:
        source.close()
        temporary.unlink(missing_ok=True)


def _small_things(run: Path) -> Iterator[Path]:
    for file in run.rglob("*"):
        parts = file.relative_to(run).parts
        hidden = any(part.startswith(".") for part in parts)
        if not file.is_file() or hidden or parts[0] in (*_LARGE, "manifest.json"):
            continue
        checkpoint = _checkpoint_of(file)
        if checkpoint is None or checkpoint == _newest_checkpoint(checkpoint.parent):
            yield file


def _checkpoint_of(file: Path) -> Path | None:
    return next((folder for folder in file.parents if folder.name.startswith("checkpoint-")), None)


def _checkpoint_mark_last(name: str) -> tuple[bool, str]:
    return name.endswith("/trainer_state.json"), name


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is complete: trainer_state.json is written last."""
    complete = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _read_index(target: Path) -> dict[str, list[int]]:
    try:
        return json.loads((target / _INDEX).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def restore(folder: Path, run: Path) -> int:
    """Bring a run that is not here back from its mirror; the number of files, 0 where the mirror has none."""
    source = folder / run.name
    if (run / "manifest.json").exists() or not (source / "manifest.json").is_file():
        return 0
    names = [*sorted(_read_index(source)), "manifest.json"]  # last here too: half a copy is no run
    for name in names:
        checkpoint = _checkpoint_of(source / name)
        if checkpoint is not None and not (checkpoint / "trainer_state.json").is_file():
            continue  # its copy was cut off; training goes on from the one before
        target = run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary = target.with_name(f".{target.name}.part")
            shutil.copy2(source / name, temporary)
            os.replace(temporary, target)
        except OSError as error:
            why = error.strerror or error
            raise RunError(f"{source / name} cannot be read back ({why}); mend the mirror, or go without it") from None
    ledger, here = folder / "calls.sqlite", run.parent / "calls.sqlite"
    if ledger.is_file() and not here.exists():
        backup_ledger(ledger, here)
    return len(names)
