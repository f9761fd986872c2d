"""Run a stage in a child process: start `python -m plantune_lite.pipeline.child`, stream its lines, read its result.

In its own process a stage frees its memory at the end, imports in its own order, and can be killed for memory without
the run, which reports it and can resume. The child's side is child.py. With $PLANTUNE_PROCESSES=2 a training stage is
two such processes under `accelerate launch`, one per GPU, which share every step's rows.
"""

import codecs
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import TextIO

from plantune_lite.files import read_object
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import Summary, read_summary
from plantune_lite.terminal import duration
from plantune_lite.types import RunError


def run_stage(
    folder: Path,
    stage: str,
    *,
    work: str | None = None,
    processes: int = 1,
    stream: TextIO | None = None,
) -> Summary:
    """Run the stage in its own process, stream its output to `stream` and log.txt, and return its summary."""
    run = RunFolder(folder)
    result = run.result(stage)
    result.unlink(missing_ok=True)
    launch = [] if processes == 1 else [*_LAUNCH, "--num_processes", str(processes)]
    module = ["-m", "plantune_lite.pipeline.child", str(folder), stage, *([work] if work else [])]
    command = [sys.executable, "-u", *launch, *module]
    environ = {**os.environ, "PLANTUNE_PARENT": "1", "PYTHONIOENCODING": "utf-8", **quiet_telemetry()}
    if stage != "export" and shutil.which("nvidia-smi") is None:
        environ = {**_KEEP_FREED_MEMORY, **environ}
    if (stream or sys.stdout).isatty():
        environ["PLANTUNE_TTY"] = "1"  # a stage may redraw its line of progress, in one row
        environ["PLANTUNE_COLUMNS"] = str(shutil.get_terminal_size().columns)
    if processes == 1:  # a trainer uses all visible GPUs, but 4-bit weights cannot be spread over several
        environ["CUDA_VISIBLE_DEVICES"] = environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    # In a new session: a Ctrl-C reaches the stage once, from us.
    with Popen(command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=environ, start_new_session=True) as process:
        try:
            _stream(process, stage, run.log, stream or sys.stdout)
            code = process.wait()
        except KeyboardInterrupt:
            _interrupt(process)
            raise
        except BaseException:
            process.kill()
            raise
    if result.is_file():
        outcome = read_object(result)
        if "summary" in outcome:
            return read_summary(stage, outcome["summary"])
        raise RunError(outcome["error"])
    raise RunError(_how_it_died(stage, code, folder))


# For glibc's malloc: returning large tensors to the system and fetching them again, page by page, is slow on a CPU.
# With a GPU other programs may need that memory, and a merge should use as little as possible.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}

# All set, so that it neither warns of defaults nor takes them from another project's file; --multi_gpu means several
# processes, on a CPU too.
_LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--main_process_port", "0"]
_LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def processes_asked(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes share a training, one per GPU, from $PLANTUNE_PROCESSES."""
    value = environ.get("PLANTUNE_PROCESSES") or "1"
    if not value.isdecimal() or int(value) < 1:
        raise RunError(f"PLANTUNE_PROCESSES is {value!r}, but must be a number of GPUs, say 2")
    return int(value)


SILENCE_SECONDS = 30.0


def _stream(process: Popen[bytes], stage: str, log: Path, stream: TextIO) -> None:
    """Pass on the stage's output; except on a terminal, report after each half minute of silence that it is running."""
    decoder, began = codecs.getincrementaldecoder("utf-8")(errors="replace"), time.monotonic()
    patience = None if stream.isatty() else SILENCE_SECONDS
    assert process.stdout is not None
    with open(log, "ab") as file:
        while True:
            if not select.select([process.stdout], [], [], patience)[0]:
                stream.write(f"{stage} is running, {duration(time.monotonic() - began)} so far\n")
            # In chunks, not whole lines: a progress bar redraws its line without ending it.
            elif chunk := os.read(process.stdout.fileno(), 65536):
                file.write(chunk)
                file.flush()
                stream.write(decoder.decode(chunk))
            else:
                return
            stream.flush()


def _interrupt(process: Popen[bytes]) -> None:
    """Let the stage end by itself; kill it after a second Ctrl-C, or half a minute."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except (KeyboardInterrupt, TimeoutExpired):
        process.kill()


def _how_it_died(stage: str, code: int, folder: Path) -> str:
    if code in (-9, 137):
        return (
            f"{stage} was killed from outside, most likely because memory ran out: rerun the command to resume. "
            f"`plantune estimate {folder}` says what takes less memory; other settings need --again"
        )
    return f"{stage} ended with status {code} and no result: see the end of {RunFolder(folder).log}"


def quiet_telemetry() -> dict[str, str]:
    """Return settings that keep libraries from sending telemetry, unless the user has set them."""
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    return {name: value for name, value in quiet.items() if name not in os.environ}
