"""Run programs that a model wrote in isolation, and grade them by tests.

    run("def double(x):\n    return x + x\n", "assert double(4) == 8") -> Ran(True, "passed the tests")
    run("while True: pass")                                             -> Ran(False, "ran out of time")

Each program gets its own process in its own user, network, mount, process and IPC namespaces: no network, no other
visible process, and a file system with Python's library and an empty /tmp. It runs as nobody, without capabilities;
time, memory, files and system calls are limited (sandbox_child.py). Where the kernel does not support all of that,
nothing is run: `why_not` returns the reason, and `run` raises it.

Limits: it shares the kernel with us, so a hole in the kernel is a hole in the sandbox; and a program that is written to
cheat its own tests, which run in its process, can (sandbox_child.inmate says how).
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
_PATIENCE_SECONDS = 30  # with the keeper, on top of the program's time


class SandboxError(PlantuneError):
    """Programs cannot be run safely here, so they are not run."""


class Ran(NamedTuple):
    """Result of a program: whether it passed its tests, and how it ended."""

    ok: bool
    how: str


@functools.cache
def why_not() -> str | None:
    """Return why programs cannot be run in isolation on this machine; None where they can."""
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
            env={"PYTHONHASHSEED": "0"},  # deterministic verdicts, and no keys
            cwd="/",
            start_new_session=True,
            timeout=3 * seconds + _PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        raise SandboxError(_refusal(f"no verdict in {late.timeout:.0f} seconds")) from None
    outcome = json.loads(keeper.stdout) if keeper.stdout else {"cannot": f"it ended with status {keeper.returncode}"}
    if "cannot" in outcome:
        raise SandboxError(_refusal(outcome["cannot"]))
    return Ran(bool(outcome["ok"]), outcome["how"])


def _refusal(reason: str) -> str:
    return (
        f"programs are not run here, because they cannot be isolated ({reason}). It takes Linux 5.12 or newer and "
        "permission to make user namespaces and mounts: in a container from its owner, on Ubuntu by "
        "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`. Without it, leave out problems "
        "whose answers are programs"
    )
