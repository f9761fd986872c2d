"""A run folder: its manifest, its lock, and what a stage has put there.

runs/mine/  recipe.json  manifest.json  log.txt  problems/  trajectories.jsonl  corpus/  sft/  eval/  report.html

manifest.json: {"format": 1, "name": ..., "versions": {...}, "device": ..., "final": "sft", "stages": {"sft": {
"fingerprint": ..., "status": "running" | "done" | "failed" | "stopped", "started": ..., "ended": ..., "seconds": ...,
"summary": {...}, "outputs": {path: sha256 or size}}}}
"""

import hashlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

from plantune_lite.files import write_whole
from plantune_lite.types import RunError

FORMAT = 1
LEDGER = "calls.sqlite"  # beside the run folders: one for all runs
BATCHES = "batches.jsonl"  # beside the ledger: batches of calls that are under way
# RUN/ablate/STUDY/VARIANT is a run as well.
STUDIES = ("filter", "threshold", "target", "reward", "preference", "mixture", "domain", "world")
_HASHED_BELOW = 64 << 20  # larger outputs (weights) are known by their size


def home(run: Path) -> Path:
    """Where the ledger and the other runs are: the folder a run lies in, and for a variant the one of its run."""
    around = run.parent if run.parent.name else run.resolve().parent
    variant = around.name in STUDIES and around.resolve().parent.name == "ablate"
    return around.resolve().parents[2] if variant else around


def now() -> str:
    """The time as a manifest has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_manifest(run: Path) -> dict[str, Any]:
    """Return the manifest of a run folder, or an empty one."""
    path = run / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"format": FORMAT, "name": run.name, "id": uuid.uuid4().hex, "created": now(), "stages": {}}
    except ValueError:
        manifest = None
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("stages"), dict)
    ):
        raise RunError(
            f"{path} is no manifest of format {FORMAT}: restore it from the mirror, or start under another name"
        )
    return manifest


def summaries(run: Path) -> dict[str, dict[str, Any]]:
    """Return what each stage of a run says of itself: what a Job calls `earlier`."""
    return {name: entry.get("summary", {}) for name, entry in read_manifest(run)["stages"].items()}


def write_manifest(run: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest whole."""
    write_whole(run / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def locked(path: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock that the operating system takes back when the process dies, on every platform: SQLite's own."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(path, timeout=wait_seconds, isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.OperationalError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise RunError(f"{path.parent} is in use by another plantune. Wait for it, or choose name=OTHER") from None
        raise RunError(f"{path.parent} cannot be written ({error}); choose another folder with --to") from None
    try:
        yield
    finally:
        lock.close()


def outputs_of(run: Path, paths: tuple[str, ...]) -> dict[str, str | int]:
    """Return what a stage left: file -> sha256, or its size where it is large. Checkpoints come and go."""
    found: dict[str, str | int] = {}
    for file in _files(run, paths):
        inside = file.relative_to(run)
        if not any(part.startswith(("checkpoint-", ".")) for part in inside.parts):
            found[inside.as_posix()] = _identity(file)
    return found


def last_written(run: Path, paths: tuple[str, ...]) -> float:
    """Return when any of these files was last written to, in seconds since 1970."""
    return max((file.stat().st_mtime for file in _files(run, paths)), default=0.0)


def is_empty(run: Path, paths: tuple[str, ...]) -> bool:
    """Tell whether a stage has left nothing at all yet, not even a checkpoint."""
    return not any(file.stat().st_size for file in _files(run, paths))


def _files(run: Path, paths: tuple[str, ...]) -> list[Path]:
    """Return the files at these paths and under them, in order."""
    return sorted(file for name in paths for file in (run / name, *(run / name).rglob("*")) if file.is_file())


def place_in_old(run: Path) -> Path:
    """Return a folder under old/ in which nothing is yet, however soon after the one before."""
    now = run / "old" / time.strftime("%Y%m%d-%H%M%S")
    others = (now.with_name(f"{now.name}-{number}") for number in count(2))
    return next(place for place in chain([now], others) if not place.exists())


def move_away(run: Path, names: Iterable[str], old: Path) -> bool:
    """Move what is there of these files and folders; tell whether anything was."""
    there = [name for name in names if (run / name).exists()]
    for name in there:
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(run / name, old / name)
    return bool(there)


def _identity(file: Path) -> str | int:
    count = file.stat().st_size
    if count >= _HASHED_BELOW:
        return count
    return "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def changed_outputs(run: Path, outputs: dict[str, str | int]) -> tuple[list[str], list[str]]:
    """Of the outputs in a manifest: those that are missing, and those that are there but different."""
    missing = [name for name in outputs if not (run / name).is_file()]
    different = [
        name for name, identity in outputs.items() if name not in missing and _identity(run / name) != identity
    ]
    return missing, different
