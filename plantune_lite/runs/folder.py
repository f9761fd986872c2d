"""Find the files of a run folder, lock it, and check what a stage has left there.

    run = RunFolder(Path("runs/mine"))
    run.report, run.problems(), run.rows("train")

runs/mine/  recipe.json  manifest.json  log.txt  problems/  trajectories.jsonl  corpus/  sft/  eval/  report.html
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from plantune_lite.files import fits, read_jsonl, read_records, sha256_of
from plantune_lite.recipe.load import from_json, to_json
from plantune_lite.types import Problem, RunError

TRAJECTORIES, REJECTED = "trajectories.jsonl", "rejected.jsonl"  # what a distillation kept, and the rest
LEDGER = "calls.sqlite"  # next to the run folders: one for all runs
# RUN/ablate/STUDY/VARIANT is a run as well.
STUDIES = ("filter", "threshold", "target", "reward", "preference", "mixture", "domain", "world")
_HASHED_BELOW = 64 << 20  # larger outputs (weights) are mostly compared by size: hashing them takes minutes


def home(run: Path) -> Path:
    """Return the folder of the ledger and the other runs: a run's parent folder, and for a variant that of its run."""
    around = run.parent if run.parent.name else run.resolve().parent
    variant = around.name in STUDIES and around.resolve().parent.name == "ablate"
    return around.resolve().parents[2] if variant else around


class RunFolder:
    """Paths of a run's files, and the contents of those that several stages read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.json"
        self.manifest = path / "manifest.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.lock = path / ".lock"  # of the run; at_work is the lock of the process that writes its files
        self.at_work = path / ".stage" / "lock"
        self.job = path / ".stage" / "job.json"
        self.pool = path / "problems" / "pool.jsonl"
        self.held_out = path / "problems" / "own.jsonl"
        self.suites = path / "suites"
        self.trajectories = path / TRAJECTORIES
        self.rejected = path / REJECTED
        self.corpus = path / "corpus"
        self.stats = self.corpus / "stats.json"
        self.eval = path / "eval"
        self.interventions = self.eval / "interventions"
        self.merged = path / "merged"
        self.gguf = path / "gguf"
        self.figures = path / "figures"
        self.report = path / "report.html"
        self.probe = path / "probe"

    def result(self, stage: str) -> Path:
        """Return where the process of a stage leaves its summary."""
        return self.job.with_name(f"{stage}.json")

    def answers(self, suite: str, model: str) -> Path:
        """Return the file of a model's answers to a suite."""
        return self.eval / f"{suite}.{model}.jsonl"

    def adapter(self, stage: str) -> Path:
        """Return the folder of a training stage's adapter."""
        return self.path / stage

    def problems(self) -> list[Problem]:
        """Read the problems to learn from."""
        return read_records(Problem, self.pool)

    def own(self) -> list[Problem]:
        """Read the held-out problems."""
        return read_records(Problem, self.held_out)

    def suite_problems(self) -> dict[str, list[Problem]]:
        """Read the problems of each test suite."""
        return {path.stem: read_records(Problem, path) for path in sorted(self.suites.glob("*.jsonl"))}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Read the corpus's rows: train, validation or prompts."""
        return list(read_jsonl(self.corpus / f"{name}.jsonl"))

    def recipe_row(self) -> dict[str, Any]:
        """Read the recipe as data."""
        return json.loads(to_json(from_json(self.recipe.read_bytes(), str(self.recipe))))

    def metric_rows(self) -> list[dict[str, Any]]:
        """Read the metrics of the trainings, step by step; empty before any training."""
        rows = list(read_jsonl(self.metrics)) if self.metrics.is_file() else []
        for number, row in enumerate(rows, 1):
            figures = {"step": None, **row, "stage": 0}
            if type(row.get("stage")) is not str or not fits(figures, dict[str, float]):
                raise RunError(f"{self.metrics} line {number}: not the metrics of a step. Delete the line or the file.")
        return rows


@contextmanager
def locked(path: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock that the operating system releases when the process dies, on every platform: SQLite's own."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(path, timeout=wait_seconds, isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.DatabaseError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise RunError(f"{path.parent} is in use by another plantune. Wait for it, or choose name=OTHER") from None
        raise RunError(f"{path.parent} cannot be written ({error}): remove {path}, or choose another --to") from None
    try:
        yield
    finally:
        lock.close()


def outputs_of(run: Path, paths: tuple[str, ...]) -> dict[str, str | int]:
    """Map the files a stage left to sha256, preceded by the size if large; skip checkpoints, which come and go."""
    outputs: dict[str, str | int] = {}
    for file in _files(run, paths):
        inside = file.relative_to(run)
        if not any(part.startswith(("checkpoint-", ".")) for part in inside.parts):
            size = file.stat().st_size
            digest = f"sha256:{sha256_of(file)}"
            outputs[inside.as_posix()] = f"{size} {digest}" if size >= _HASHED_BELOW else digest
    return outputs


def last_written(run: Path, paths: tuple[str, ...]) -> float:
    """Return when any of these files was last written to, in seconds since 1970."""
    return max((file.stat().st_mtime for file in _files(run, paths)), default=0.0)


def is_empty(run: Path, paths: tuple[str, ...]) -> bool:
    """Tell whether a stage has left nothing yet, not even a checkpoint."""
    return not any(file.stat().st_size for file in _files(run, paths))


def _files(run: Path, paths: tuple[str, ...]) -> list[Path]:
    """Return the files at these paths and under them, in order."""
    return sorted(file for name in paths for file in (run / name, *(run / name).rglob("*")) if file.is_file())


def place_in_old(run: Path) -> Path:
    """Name a new folder under old/."""
    return run / "old" / f"{datetime.now():%Y%m%d-%H%M%S-%f}"


def move_away(run: Path, names: Iterable[str], old: Path) -> bool:
    """Move those of these files and folders that exist; tell whether any did."""
    there = [name for name in names if (run / name).exists()]
    for name in there:
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(run / name, old / name)
    return bool(there)


def changed_outputs(
    run: Path, outputs: dict[str, str | int], *, every_byte: bool = False
) -> tuple[list[str], list[str]]:
    """List the outputs in a manifest that are missing, and those that are there but different.

    Large files are compared by size alone, unless `every_byte` is set.
    """
    missing = [name for name in outputs if not (run / name).is_file()]
    there = {name: str(identity) for name, identity in outputs.items() if name not in missing}
    return missing, [name for name, identity in there.items() if _differs(run / name, identity, every_byte)]


def _differs(file: Path, identity: str, every_byte: bool) -> bool:
    size, _, digest = identity.partition(" ") if identity[:1].isdecimal() else ("", "", identity)
    if size and int(size) != file.stat().st_size:
        return True
    # A run made by an earlier version records only the size of a large file.
    return bool(digest) and (every_byte or not size) and digest != f"sha256:{sha256_of(file)}"
