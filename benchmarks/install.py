"""Measure the size of fresh installs, pip included: the sizes that the README gives next to its commands."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import HERE, machine, markdown, write

INSTALLS = {
    "the core": [["-e", "."]],
    "[demo] on torch's CPU build": [["torch==2.13.0"], ["-e", ".[demo]"]],
    "[demo] as pip resolves it": [["-e", ".[demo]"]],
}


def installed(steps: list[list[str]]) -> tuple[float, str]:
    """Install into a fresh environment; return its gigabytes and its torch version."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "venv", "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", str(Path(folder, "venv"))], check=True)
        for step in steps:
            subprocess.run([python, "-m", "pip", "install", "-q", *step], cwd=HERE.parent, check=True)
        size = sum(file.lstat().st_size for file in Path(folder).rglob("*") if file.is_file())
        listing = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    torch = [line.split()[1] for line in listing.splitlines() if line.startswith("torch ")]
    return size / 1e9, torch[0] if torch else "none"


def main() -> None:
    sizes = {name: installed(steps) for name, steps in INSTALLS.items()}
    write(
        "install",
        command="python -m benchmarks.install",
        about="Size of a fresh virtual environment after installing from a checkout: the sum of its files.",
        found={"machine": machine(), "gigabytes": {name: size for name, (size, _) in sizes.items()}},
        text=markdown(("install", "GB", "torch"), [(name, f"{gb:.1f}", torch) for name, (gb, torch) in sizes.items()]),
    )


if __name__ == "__main__":
    main()
