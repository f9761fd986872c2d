"""Programs that a model wrote, run where they can do no harm, and judged by tests.

    run("def double(x):\n    return x + x\n", "assert double(4) == 8") -> Ran(True, "passed the tests")
    run("while True: pass")                                             -> Ran(False, "ran out of time")

Each program gets a process of its own in user, network, mount, process and IPC namespaces of its own: no network, no
other process in sight, and a file system that holds Python's library and an empty /tmp. It is nobody, without
capabilities; time, memory, files and system calls are limited (sandbox_child.py). Where the kernel does not give all of
that, nothing is run: `why_not` says so in a sentence, and `run` raises it.

What it does not do: it shares the kernel with us, so that a hole in the kernel is a hole in it; and a program that sets
out to cheat its own tests, in whose process it is, can (sandbox_child.inmate says how).
"""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from plantune_lite.types import PlantuneError

SECONDS = 5  # of CPU time; three times as long by the clock
MEMORY = 1 << 30  # bytes
_PATIENCE_SECONDS = 30  # with the keeper, which keeps to its own time


class SandboxError(PlantuneError):
    """Programs cannot be run here without harm, so they are not run."""


class Ran(NamedTuple):
    """Result of a program: whether it passed its tests, and how it ended."""

    ok: bool
    how: str


@functools.cache
def why_not() -> str | None:
    """Say why programs cannot be run in isolation on this machine; None where they can."""
    try:
        ran = run("import bisect, collections, datetime, decimal, fractions, hashlib, math, random, re", "assert math")
    except SandboxError as error:
        return str(error)
    return (
        None if ran.ok else f"programs cannot be run here: in isolation, Python does not find its library ({ran.how})"
    )


def run(program: str, tests: str = "", *, before: str = "", seconds: int = SECONDS, memory: int = MEMORY) -> Ran:
    """Run `before`, the program and its tests, one after another as one module; the tests pass if nothing is raised."""
    if sys.platform != "linux":
        raise SandboxError(
            f"programs are run only where Linux can isolate them, and this is {sys.platform}: use Linux or WSL2"
        )
    job = {"before": before, "program": program, "tests": tests, "seconds": seconds, "memory": memory}
    try:
        keeper = subprocess.run(
            [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", str(Path(__file__).with_name("sandbox_child.py"))],
            input=json.dumps(job).encode() + b"\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0"},  # the same verdict each time, and nobody's keys
            cwd="/",
            start_new_session=True,
            timeout=3 * seconds + _PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        raise SandboxError(_refusal(f"no verdict in {late.timeout:.0f} seconds")) from None
    said = json.loads(keeper.stdout) if keeper.stdout else {"cannot": f"it ended with status {keeper.returncode}"}
    if "cannot" in said:
        raise SandboxError(_refusal(said["cannot"]))
    return Ran(bool(said["ok"]), said["how"])


def _refusal(reason: str) -> str:
    return (
        f"programs are not run here, because they cannot be isolated ({reason}). It takes Linux 5.12 or newer and "
        "leave to make user namespaces and mounts, which in a container its owner gives and on Ubuntu "
        "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`. Without it, leave out problems "
        "whose answers are programs"
    )
