"""Mirror a run's small files to a folder that outlives the machine, such as a mounted Drive.

    bring_back(drive, run)              restores missing or damaged files of the run folder from DRIVE/NAME/
    copies = Mirror(drive, run, say)    updates DRIVE/NAME/ and DRIVE/calls.sqlite every minute
    copies.close()                      updates them once more

It copies recipe, manifest, JSONL, adapters, complete checkpoints and the report; never merged/ or gguf/, which can be
rebuilt. A mirror that is full, slow or gone is a warning, not an error. One machine works on a run at a time.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from plantune_lite.files import copy_whole, read_object, write_whole
from plantune_lite.runs.folder import LEDGER, changed_outputs, home, move_away, place_in_old
from plantune_lite.runs.manifest import Manifest, read_manifest
from plantune_lite.teacher.ledger import copy_ledger, merge_ledger
from plantune_lite.types import PlantuneError, RunError

INTERVAL_SECONDS = 60.0
_INDEX = ".mirror.json"  # file -> [size, modification time] of the copy, so that only what changed is copied
_WRITTEN_LAST = "trainer_state.json"  # of a checkpoint, and copied last
_NOT_COPIED = ("merged", "gguf", "old", "ablate")  # can be rebuilt (2); old results; mirrored by a study, run by run


class Mirror:
    """Copies in a separate thread, so that a slow folder blocks nothing."""

    def __init__(self, folder: Path, run: Path, say: Callable[[str], None]) -> None:
        self._target, self._run, self._say = folder / run.name, run, say
        self._ending = threading.Event()
        self._warned = ""
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def close(self, wait_seconds: float = 60.0) -> None:
        """Copy once more; warn where the mirror does not finish in time."""
        self._ending.set()
        self._thread.join(wait_seconds)
        if self._thread.is_alive():
            self._warn(f"the mirror {self._target} lags behind {self._run}: not done within {wait_seconds:.0f} s")

    def _work(self) -> None:
        last = False
        while not last:
            last = self._ending.wait(INTERVAL_SECONDS)
            try:
                self._copy_all()
                self._warned = ""
            except Exception as error:  # whatever it is, the run continues, and the next interval tries again
                why = getattr(error, "strerror", None) or error
                self._warn(f"the mirror {self._target} cannot be written ({why}); the run continues without it")

    def _warn(self, sentence: str) -> None:
        if sentence != self._warned:  # once, not every minute
            self._warned = sentence
            self._say(f"warning: {sentence}")

    def _copy_all(self) -> None:
        self._target.mkdir(parents=True, exist_ok=True)
        # The manifest lists what is complete: read first and written last, it never lists more than was copied.
        manifest = (self._run / "manifest.json").read_text(encoding="utf-8")
        index = _read_index(self._target)
        small = {file.relative_to(self._run).as_posix(): file for file in _small_files(self._run)}
        for name in sorted(small, key=lambda name: (name.endswith(_WRITTEN_LAST), name)):
            try:
                state = small[name].stat()
                identity = [state.st_size, state.st_mtime_ns]
                if index.get(name) == identity and (self._target / name).exists():
                    continue
                copy_whole(small[name], self._target / name)
            except FileNotFoundError:
                continue  # a checkpoint was deleted while we copied
            index[name] = identity
            write_whole(self._target / _INDEX, json.dumps(index))
        gone = set(index) - set(small)  # deleted or moved away since it was copied
        if gone:
            write_whole(self._target / _INDEX, json.dumps({name: index[name] for name in set(index) - gone}))
        for name in gone:
            (self._target / name).unlink(missing_ok=True)
        if (ledger := home(self._run) / LEDGER).is_file():
            copy_ledger(ledger, home(self._target) / LEDGER)
        write_whole(self._target / "manifest.json", manifest)


def _small_files(run: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(run):  # which skips what is deleted meanwhile
        place = Path(folder)
        left_out = (*_NOT_COPIED, "manifest.json") if place == run else ()
        inner[:] = [name for name in inner if name not in left_out and name[0] != "." and _is_whole(place / name)]
        yield from (place / name for name in names if name not in left_out and name[0] != ".")


def _is_whole(folder: Path) -> bool:
    """Return whether a folder is anything but a checkpoint that is still being written."""
    return not folder.name.startswith("checkpoint-") or (folder / _WRITTEN_LAST).is_file()


def _read_index(target: Path) -> dict[str, list[int]]:
    """Read the mirror's index; skip names that lead out of the mirror."""
    try:
        index = read_object(target / _INDEX)
    except (FileNotFoundError, PlantuneError):
        return {}
    return {
        name: state for name, state in index.items() if not Path(name).is_absolute() and ".." not in Path(name).parts
    }


# --- restoring --------------------------------------------------------------------------------------------------------


def bring_back(folder: Path, run: Path) -> int:
    """Restore missing or damaged files before a run starts or resumes; return their number.

    Raise for a mirror of another run, one that is ahead of the run folder, and one inside the run folder or around it.
    """
    source, here = (folder / run.name).resolve(), run.resolve()
    if source == here or here in source.parents or source in here.parents:
        raise RunError(f"--mirror {folder} and the run folder {run} overlap: mirror to another folder")
    local, mirrored = _manifest_of(run), _manifest_of(source)
    if mirrored is None and (source / "manifest.json").is_file():
        why = f"the mirror's {source / 'manifest.json'} is damaged"
        raise RunError(f"{why}: move {source} away to mirror the run again, or leave --mirror out")
    if local and mirrored and mirrored.id != local.id:
        raise RunError(f"{source} mirrors another run of this name: set name=OTHER, or move {run} away to restore it")
    if local and mirrored and mirrored.resumed > local.resumed:
        raise RunError(f"{source} is ahead of {run}: move {run} away to restore it, or mirror to another folder")
    if (ledger := home(source) / LEDGER).is_file():
        merge_ledger(ledger, home(here) / LEDGER)
    if mirrored is None:
        return 0
    return _repair(source, run, local) if local else _restore(source, run)


def _manifest_of(run: Path) -> Manifest | None:
    """Read a run's manifest; None where it is missing or damaged: the mirror has it."""
    try:
        return read_manifest(run) if (run / "manifest.json").is_file() else None
    except RunError:
        return None


def _restore(source: Path, run: Path) -> int:
    """Fetch the whole run, its manifest last: half a copy is not a run."""
    names = sorted(_read_index(source))  # half a checkpoint too: training removes it
    move_away(run, {"manifest.json", *(Path(name).parts[0] for name in names)}, place_in_old(run))
    return _fetch(source, run, [*names, "manifest.json"])


def _repair(source: Path, run: Path, manifest: Manifest) -> int:
    """Fetch finished stages' outputs that are missing or damaged here and intact in the mirror."""
    done = (entry for entry in manifest.stages.values() if entry.status == "done")
    outputs = {name: known for entry in done for name, known in entry.outputs.items() if (source / name).is_file()}
    missing, damaged = changed_outputs(run, outputs, every_byte=True)
    lost = {name: outputs[name] for name in (*missing, *damaged)}
    unsound = {name for names in changed_outputs(source, lost, every_byte=True) for name in names}
    sound = sorted(set(lost) - unsound)
    move_away(run, sound, place_in_old(run))
    return _fetch(source, run, sound)


def _fetch(source: Path, run: Path, names: list[str]) -> int:
    for name in names:
        try:
            copy_whole(source / name, run / name, shutil.copy2)
        except OSError as error:
            raise RunError(f"the mirror cannot be read back ({error}): fix it, or leave --mirror out") from None
    return len(names)
