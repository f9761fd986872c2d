"""Write the results of a benchmark: a JSON file with the machine and versions, and a Markdown page made from it."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any

from plantune_lite.evaluate import metrics
from plantune_lite.files import read_records
from plantune_lite.student.presets import DEQUANTISED
from plantune_lite.types import Problem, Score

HERE = Path(__file__).parent


def machine(*packages: str) -> dict[str, Any]:
    """Describe the machine and the versions that a figure depends on; no host names."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def write(name: str, *, command: str, about: str, found: dict[str, Any], text: str) -> None:
    """Write benchmarks/NAME.json and NAME.md, and print the latter."""
    (HERE / f"{name}.json").write_text(
        json.dumps({"command": command, "about": about, **found}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    versions = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    page = f"# {name}\n\n{about}\n\nMade by `{command}`; {versions}.\n\n{text.rstrip()}\n"
    if "smollm2" in page.lower():
        page += f"\n{DEQUANTISED}\n"
    (HERE / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def shares(files: Sequence[Path], problems: Sequence[Problem]) -> list[float]:
    """Compute for each problem the share of the files in which its answer is right."""
    by_file = [metrics.shares(read_records(Score, file)) for file in files]
    return [fmean(right[problem.id] for right in by_file) for problem in problems]
