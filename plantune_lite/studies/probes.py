"""What the variants of a study know of their worlds: `plantune probe` of each, as columns of the table.

    probe_all([Path("runs/mine/ablate/world/walks")], 100, print) -> {}         run -> why it could not be probed
    columns({"walks": (Path(...),)}) -> {"walks": {"can a step be done? probe": "91.0 % (84.2 to 95.9)", ...}, ...}

Figures are AUROC: of a linear probe, and of the probability that the model itself gives the step.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from plantune_lite.evaluate.results import UNTUNED
from plantune_lite.evaluate.stats import Estimate, of_trainings
from plantune_lite.recipe import user_code
from plantune_lite.runs.folder import locked
from plantune_lite.runs.job import Progress
from plantune_lite.types import PlantuneError

_LEAST, _MOST = 10, 100  # problems that a probe asks about; between them as many as evaluation asks


def probe_all(runs: Sequence[Path], limit: int | None, say: Callable[[str], object]) -> dict[str, str]:
    """Probe each run that has not been probed, on as many problems as are evaluated; return why some could not be."""
    probe = user_code.load_from_lab("probe_once")
    failed, problems = {}, max(_LEAST, min(_MOST, limit or _MOST))
    for run in runs:
        say(f"\nprobe of {run.name}")
        try:
            with locked(run / ".stage" / "lock"):
                probe(run, problems=problems, say=say, show=Progress())
        except PlantuneError as error:
            failed[run.name] = str(error)
    return failed


def columns(arms: Mapping[str, Sequence[Path | None]]) -> dict[str, dict[str, str]]:
    """Arm -> its columns, the mean over its seeds; for the untuned model what the first arm's probes say of it."""
    found = {name: worlds for name, runs in arms.items() if (worlds := _worlds(runs))}
    cells = {name: _cells(worlds, "tuned") for name, worlds in found.items()}
    first = next(iter(found.values()), [])
    if first and "untuned" in first[0]["validity"]:
        cells[UNTUNED] = _cells(first, "untuned")
    return cells


def _worlds(runs: Sequence[Path | None]) -> list[dict[str, Any]]:
    files = [run / "probe" / "probe.json" for run in runs if run]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return [one["worlds"] for one in found if "worlds" in one]


def _cells(worlds: Sequence[Mapping[str, Any]], model: str) -> dict[str, str]:
    return {
        "can a step be done? probe": _mean([one["validity"][model]["auroc"] for one in worlds]),
        "its own probability": _mean([one["output_probability"][model]["mean"]["auroc"] for one in worlds]),
    }


def _mean(measured: Sequence[Mapping[str, float]]) -> str:
    values = [one["value"] for one in measured]
    if len(values) == 1:
        return Estimate(values[0], measured[0]["low"], measured[0]["high"]).percent()
    return of_trainings(values, Estimate(*[fmean(values)] * 3)).percent()
