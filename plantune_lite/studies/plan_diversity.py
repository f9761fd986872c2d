"""How different the plans of each arm are: what a filter lets through may be many plans, or one plan many times.

    diversity({"unfiltered": (Path("runs/mine/ablate/filter/unfiltered"),), ...})
        -> {"unfiltered": {"distinct plans": "412", "steps a plan": "4", "alike, one problem": "0.31", ...}, ...}

Steps are the median. Two plans are as alike as the share of three-word runs they have in common, among all that pass
the filter: within a problem and across problems.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

Runs = Mapping[str, Sequence[Path | None]]  # arm -> its runs, a seed each


def diversity(arms: Runs) -> dict[str, dict[str, str]]:
    """Read the corpora of each arm; the mean over its seeds."""
    return {name: _cells(found) for name, runs in arms.items() if (found := list(_stats(runs)))}


def older_choice(arms: Runs) -> Iterator[str]:
    """Name the arms whose plans an older version ranked by the verifier, though their filter leaves it out."""
    for name, runs in arms.items():
        for stats in _stats(runs):
            if "chosen_by" not in stats and stats["score"] and stats["part"]["filter"] in ("none", "answer"):
                yield f"{name}: an older version ranked its plans by the verifier's score; delete its folder and rerun."
                break


def _stats(runs: Sequence[Path | None]) -> Iterator[dict[str, Any]]:
    for run in runs:
        if run and (file := run / "corpus" / "stats.json").is_file():
            yield json.loads(file.read_text(encoding="utf-8"))


def _cells(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    def mean(values: Sequence[float | None], digits: int) -> str:
        measured = [value for value in values if value is not None]
        return f"{fmean(measured):.{digits}f}" if measured else ""

    similar = [stats["self_similarity"] for stats in found]
    return {
        "distinct plans": mean([stats["distinct_plans"] for stats in found], 0),
        "steps a plan": mean([stats["steps"]["median"] for stats in found], 0),
        "alike, one problem": mean([one["same_problem"] for one in similar], 2),
        "alike, across": mean([one["across_problems"] for one in similar], 2),
    }
