"""Run a benchmark's processes: each measures one thing and prints it as JSON; results are kept, not measured again.

results = measured([Job("qwen3_4b_sft 22.5", "benchmarks.gpu.fits", ("--one", ...))], work, "fits", at_once=6, ends=...)
    -> {"qwen3_4b_sft 22.5": {"fits": True, "allocated_gib": 5.1, ...}}         and work/fits.jsonl has it

They run at once where only memory or answers matter, one after the other where seconds do. A job that would not end
before `ends` is not started, and a failed one runs again next time. Their output goes to work/logs.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.files import read_jsonl

_TAIL = 1500  # characters of a log, kept as the error
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Job:
    """Describe a process."""

    name: str
    module: str
    arguments: tuple[str, ...]
    needs: float = 60.0  # seconds; it is not started with less left
    limit: float = 400.0  # seconds
    environ: tuple[tuple[str, str], ...] = ()
    makes: Path | None = None  # a file that others need: if it is lost, the job runs again


def measured(
    jobs: Sequence[Job], work: Path, name: str, *, at_once: int = 1, ends: float = math.inf
) -> dict[str, dict[str, Any]]:
    """Return each job's result, from this call or an earlier one; failed jobs have an "error"."""
    earlier = whole(known(work, name))
    done = [job for job in jobs if job.name in earlier and (job.makes is None or job.makes.is_file())]
    results = {job.name: earlier[job.name] for job in done}
    work.mkdir(parents=True, exist_ok=True)
    for job, result in _done([job for job in jobs if job.name not in results], work, at_once, ends):
        results[job.name] = {"job": job.name, **result}
        print(json.dumps(results[job.name])[:400], flush=True)
        with open(work / f"{name}.jsonl", "a", encoding="utf-8") as out:
            out.write(json.dumps(results[job.name]) + "\n")
    return results


def known(work: Path, name: str) -> dict[str, dict[str, Any]]:
    """Read the results of earlier calls; of a job that ran again, the last."""
    file = work / f"{name}.jsonl"
    return {row["job"]: row for row in read_jsonl(file)} if file.is_file() else {}


def whole(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Keep the results without an error."""
    return {name: result for name, result in results.items() if "error" not in result}


def _done(jobs: Sequence[Job], work: Path, at_once: int, ends: float) -> Iterable[tuple[Job, dict[str, Any]]]:
    with ThreadPoolExecutor(at_once) as pool:
        waiting = {pool.submit(_run, job, work, at_once, ends): job for job in jobs}
        for future in as_completed(waiting):
            if (result := future.result()) is not None:
                yield waiting[future], result


def _run(job: Job, work: Path, at_once: int, ends: float) -> dict[str, Any] | None:
    """Run a process; return None if no time is left for it."""
    left = ends - time.monotonic()
    if left < job.needs:
        return None
    log = work / "logs" / f"{re.sub(r'[^A-Za-z0-9.]+', '_', job.name)}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", job.module, *job.arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**_environ(log, at_once), **dict(job.environ)},
        )
        try:
            process.wait(min(left, job.limit))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return {"error": f"not finished after {min(left, job.limit):.0f} s"}
    return _read(log, process.returncode, round(time.monotonic() - began, 1))


def _environ(log: Path, at_once: int) -> dict[str, str]:
    own = {**_QUIET, "UNSLOTH_COMPILE_LOCATION": str(log.parent.absolute() / f"compiled_{log.stem}")}
    if at_once > 1:
        cores = str(max(1, (os.cpu_count() or 1) // at_once))
        own |= {"OMP_NUM_THREADS": cores, "TORCHINDUCTOR_COMPILE_THREADS": cores}
    return {**os.environ, **own}


def _read(log: Path, code: int, seconds: float) -> dict[str, Any]:
    """Parse the last line of JSON that a process printed."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if code == 0:
        for line in reversed(text.splitlines()):
            if line.startswith('{"'):
                return {**json.loads(line), "process_seconds": seconds}
    return {"error": text[-_TAIL:] or f"exit status {code}, no output"}
