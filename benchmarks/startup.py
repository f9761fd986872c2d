"""Time `plantune --help` against importing click alone and against trl's own command."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import machine, markdown, write

ROUNDS = 15
BIN = Path(sys.executable).parent
COMMANDS = {
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "import plantune_lite": [sys.executable, "-c", "import plantune_lite"],
    "plantune --help": [str(BIN / "plantune"), "--help"],
    "trl --help": [str(BIN / "trl"), "--help"],
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    for command in COMMANDS.values():
        seconds(command)  # warm the disk cache for all of them
    times = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    base = statistics.median(times["python -c 'import click'"])
    rows = []
    for name, taken in times.items():
        median = statistics.median(taken)
        rows.append((f"`{name}`", f"{median:.3f}", f"{min(taken):.3f} to {max(taken):.3f}", f"{median / base:.1f}x"))
    write(
        "startup",
        command="python -m benchmarks.startup",
        about=f"Seconds from process start to exit, {ROUNDS} rounds, alternating between the commands.",
        found={"machine": machine("plantune-lite", "click", "trl"), "seconds": times},
        text=markdown(("command", "median, s", "range, s", "relative to click"), rows),
    )


if __name__ == "__main__":
    main()
