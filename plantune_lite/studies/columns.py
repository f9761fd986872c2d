"""Compute what a study's table shows besides right answers, arm by arm: arm -> column -> cell.

    trained({"m1": (Path("runs/mine/ablate/target/m1"),)})        -> {"m1": {"rows": "256", "steps": "64"}}
    knowledge({"walks": (...,)})      -> {"walks": {"can a step be done? probe": "91.0 % (84.2 to 95.9)", ...}}

An arm has one run per seed, None where one failed. What a model knows is measured by AUROCs: of a linear probe, and
of the probability that the model itself gives a step.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from plantune_lite.evaluate.results import UNTUNED, Runs
from plantune_lite.evaluate.stats import Estimate, of_trainings
from plantune_lite.recipe import user_code
from plantune_lite.runs.folder import RunFolder, locked
from plantune_lite.runs.job import TRAININGS, Progress
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.types import PlantuneError

Arms = Mapping[str, Runs]
Cells = dict[str, dict[str, str]]


# --- how each arm was trained -----------------------------------------------------------------------------------------


def trained(arms: Arms) -> Cells:
    """Count the rows that each arm learned from and the steps of its trainings."""
    found = {}
    for name, runs in arms.items():
        made = [read_manifest(run).summaries for run in runs if run]
        rows = _span([one.corpus.train for one in made if "corpus" in one.made])
        steps = (_span([one.training(stage).steps for one in made if stage in one.made]) for stage in TRAININGS)
        found[name] = {"rows": rows, "steps": " + ".join(filter(None, steps))}
    return found


def _span(counts: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""


# --- what it knows of its world ---------------------------------------------------------------------------------------


def probe_all(arms: Arms, limit: int | None, say: Callable[[str], object]) -> Iterator[str]:
    """Probe each run that has not been probed; name those that cannot be, with the reason."""
    probe = user_code.load_from_lab("probe_once")
    problems = max(10, min(100, limit or 100))  # as many as are evaluated, within these
    for run in (run for runs in arms.values() for run in runs if run):
        say(f"\nprobe of {run.name}")
        try:
            with locked(RunFolder(run).at_work):
                probe(run, problems=problems, say=say, show=Progress())
        except PlantuneError as error:
            yield f"{run.name} could not be probed: {error}"


def knowledge(arms: Arms) -> Cells:
    """Read what the probes found; of the untuned model what the first arm's say."""
    found = {name: [one["worlds"] for one in _probes(runs) if "worlds" in one] for name, runs in arms.items()}
    cells = {name: _known(worlds, "tuned") for name, worlds in found.items() if worlds}
    first = next(filter(None, found.values()), [])
    if first and "untuned" in first[0]["validity"]:
        cells[UNTUNED] = _known(first, "untuned")
    return cells


def _probes(runs: Runs) -> list[dict[str, Any]]:
    files = [run / "probe/probe.json" for run in runs if run]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def _known(worlds: Sequence[Mapping[str, Any]], model: str) -> dict[str, str]:
    return {
        "can a step be done? probe": _over_seeds([one["validity"][model]["auroc"] for one in worlds]),
        "its own probability": _over_seeds([one["output_probability"][model]["mean"]["auroc"] for one in worlds]),
    }


def _over_seeds(measured: Sequence[Mapping[str, float]]) -> str:
    values = [one["value"] for one in measured]
    if len(values) == 1:
        return Estimate(values[0], measured[0]["low"], measured[0]["high"]).percent()
    return of_trainings(values, Estimate(*[fmean(values)] * 3)).percent()
