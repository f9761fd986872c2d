"""How soon a reinforcement learns: the share of its sampled answers that are right, step by step, arm beside arm.

    curves = learning({"answer": (Path("runs/mine/ablate/reward/answer"),), "guided": (...,)})
    reached(curves) -> (0.31, {"answer": 120, "guided": 85})

Every reward says how many answers are right, each in its own words: that share is what the arms have in common.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from plantune_lite.files import read_jsonl

Curve = list[tuple[float, float]]
_RIGHT = 2.0  # what the reward right_answer gives


def learning(arms: Mapping[str, Sequence[Path | None]]) -> dict[str, Curve]:
    """Draw each arm's curve: the mean of its seeds, smoothed."""
    found = {}
    for name, folders in arms.items():
        curves = [dict(_right(run)) for run in folders if run]
        if curves and all(curves):
            steps = sorted(set.intersection(*map(set, curves)))
            found[name] = _smoothed([(step, fmean(curve[step] for curve in curves)) for step in steps])
    return found


def reached(curves: Mapping[str, Curve]) -> tuple[float, dict[str, int]]:
    """Find the level that the lowest arm ends at, and the first step at which each arm has it."""
    level = min(points[-1][1] for points in curves.values())
    firsts = {}
    for name, points in curves.items():
        whole = points[min(_window(points), len(points)) - 1 :]  # a mean of fewer steps is luck
        firsts[name] = next(int(step) for step, value in whole if value >= level)
    return level, firsts


def columns(curves: Mapping[str, Curve]) -> dict[str, dict[str, str]]:
    """Arm -> its column of the table."""
    return {name: {"at step": str(step)} for name, step in reached(curves)[1].items()} if curves else {}


def _right(run: Path) -> Iterator[tuple[int, float]]:
    """Of two lines of a step the later one counts: after a kill, steps are made again."""
    path = run / "metrics.jsonl"
    for row in read_jsonl(path) if path.is_file() else ():
        if row["stage"] == "grpo" and "guided_outcome" in row:
            yield row["step"], row["guided_outcome"]
        elif row["stage"] == "grpo" and "right_answer" in row:
            yield row["step"], row["right_answer"] / _RIGHT


def _smoothed(points: Sequence[tuple[int, float]]) -> Curve:
    few = _window(points)
    values = [value for _, value in points]
    return [(step, fmean(values[max(0, at + 1 - few) : at + 1])) for at, (step, _) in enumerate(points)]


def _window(points: Sequence[Any]) -> int:
    """Steps whose mean is a point of a curve: a tenth of them, at least five."""
    return max(5, len(points) // 10)
