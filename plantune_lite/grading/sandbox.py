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
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from plantune_lite.types import PlantuneError

SECONDS = 5  # of CPU time; three times as long by the clock
MEMORY = 1 << 30  # bytes
_PATIENCE_SECONDS = 30  # with the keeper, which keeps to its own time


class SandboxError(PlantuneError):
    """Programs cannot be run here without harm, so they are not run."""


class Ran(NamedTuple):
    """Whether a program passed its tests, and what came of it."""

    ok: bool
    how: str


def why_not() -> str | None:
    """Why programs cannot be run in isolation on this machine; None where they can."""
    if sys.platform != "linux":
        return f"programs are run only where Linux can isolate them, and this is {sys.platform}: use Linux or WSL2"
    return _why_not()


@functools.cache
def _why_not() -> str | None:
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
        raise SandboxError(why_not())
    job = {"before": before, "program": program, "tests": tests, "seconds": seconds, "memory": memory}
    said = _ask_child(json.dumps(job).encode() + b"\n", 3 * seconds + _PATIENCE_SECONDS)
    if "cannot" in said:
        raise SandboxError(_sentence(said["cannot"]))
    return Ran(said["ok"], said["how"])


_COMMAND = ["-S", "-s", "-P", "-B", "-X", "utf8", str(Path(__file__).with_name("sandbox_child.py"))]


def _ask_child(line: bytes, seconds: float) -> dict[str, Any]:
    with subprocess.Popen(
        [sys.executable, *_COMMAND],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "0"},  # the same verdict each time, and nobody's keys
        cwd="/",
        start_new_session=True,
    ) as keeper:
        try:
            left = memoryview(line)
            while left:
                left = left[keeper.stdin.write(left) :]
        except BrokenPipeError:
            pass  # it ended early, and says why or leaves its status
        try:  # stdin stays open meanwhile: it closes when we are gone, and the keeper ends
            answers = select.poll()
            answers.register(keeper.stdout, select.POLLIN)
            if not answers.poll(1000 * seconds):
                return {"cannot": f"it said nothing in {seconds:.0f} seconds"}
            said = keeper.stdout.read()
        finally:
            keeper.kill()
    return json.loads(said) if said else {"cannot": f"it ended with status {keeper.returncode}"}


_SETTINGS = {
    "user/max_user_namespaces": ("0", "sudo sysctl -w user.max_user_namespaces=10000"),
    "kernel/unprivileged_userns_clone": ("0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}


def _sentence(reason: str) -> str:
    """What the kernel refused, and what may be done about it."""
    ways = []
    for name, (forbids, command) in _SETTINGS.items():
        path = Path("/proc/sys") / name
        if path.is_file() and path.read_text(encoding="ascii").strip() == forbids:
            ways.append(f"`{command}` allows it")
    if not ways:
        ways = ["it takes Linux 5.12 or newer, and in a container its owner's leave to make user namespaces and mounts"]
    return (
        f"programs are not run here, because they cannot be isolated ({reason}): {'; '.join(ways)}. "
        "Without it, leave out problems whose answers are programs"
    )
