"""Write the results of a study for a terminal, as Markdown (table.md) and as JSON (table.json).

Besides right answers a table has more columns: arm -> column -> cell.

    trained({"m1": (Path("runs/mine/ablate/target/m1"),)})        -> {"m1": {"rows": "256", "steps": "64"}}
    knowledge({"walks": (...,)})      -> {"walks": {"can a step be done? probe": "91.0 % (84.2 to 95.9)", ...}}

An arm has one run per seed, None where one failed. What a model knows is measured by AUROCs: of a linear probe, and
of the probability that the model itself gives a step.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from plantune_lite.evaluate.compare import Row, Standing, named, standing_markdown, standing_text
from plantune_lite.evaluate.results import UNTUNED, Runs
from plantune_lite.evaluate.stats import Estimate, of_trainings
from plantune_lite.files import write_whole
from plantune_lite.recipe import user_code
from plantune_lite.runs.folder import RunFolder, locked
from plantune_lite.runs.job import TRAININGS, Progress
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.studies.definitions import Study
from plantune_lite.terminal import markdown_table, printable
from plantune_lite.types import PlantuneError

Arms = Mapping[str, Runs]
Cells = dict[str, dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A study's outcome."""

    study: Study
    folder: Path
    recipe: str
    command: str
    beside: Standing  # its notes are the study's as well
    failed: Mapping[str, str]  # run -> why
    figures: Cells = field(default_factory=dict)  # arm -> more columns of its row


def study_text(outcome: Outcome) -> str:
    """Render for a terminal."""
    tables = standing_text(outcome.beside, lines=partial(_lines, outcome))
    return printable(f"{outcome.study.asks}\n{tables}")


def study_markdown(outcome: Outcome) -> str:
    """Render for a page: as for a terminal, with the variants and the command that makes it again."""
    variants = [(variant.name, variant.tests, " ".join(variant.settings)) for variant in outcome.study.variants]
    parts = [
        f"# {outcome.study.what} of {outcome.recipe}",
        outcome.study.asks,
        standing_markdown(outcome.beside, lines=partial(_lines, outcome)).rstrip(),
        "## The variants",
        markdown_table(("variant", "what it learns", "settings"), variants),
        f"Made by `{outcome.command}`; rerun it to resume, or to make it again.",
    ]
    return "\n\n".join(parts) + "\n"


def study_json(outcome: Outcome) -> dict[str, Any]:
    """Convert to JSON, for programs."""
    return {
        "study": outcome.study.what,
        "folder": str(outcome.folder),
        "recipe": outcome.recipe,
        "command": outcome.command,
        **asdict(outcome.beside),
        "figures": outcome.figures,
        "variants": [{"name": v.name, "tests": v.tests, "settings": v.settings} for v in outcome.study.variants],
        "failed": dict(outcome.failed),
    }


def write(outcome: Outcome) -> list[Path]:
    """Write table.md and table.json; return their paths."""
    texts = {
        "table.md": study_markdown(outcome),
        "table.json": json.dumps(study_json(outcome), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        write_whole(outcome.folder / name, text)
    return [outcome.folder / name for name in texts]


def _lines(outcome: Outcome, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Make the columns of a table and its rows."""
    more = list(dict.fromkeys(name for cells in outcome.figures.values() for name in cells))
    lines = []
    for row in rows:
        share, _, interval = row.accuracy.percent().partition(" (")
        seeds = ", ".join(f"{100 * value:.1f}" for value in row.by_seed)
        cells = [outcome.figures.get(row.model, {}).get(name, "") for name in more]
        lines.append([named(row.model, row.mode), str(row.problems), share, interval.rstrip(")"), seeds, *cells])
    return ["variant", "of", "right", "95 %", "seeds", *more], lines


# --- how each arm was trained -----------------------------------------------------------------------------------------


def trained(arms: Arms) -> Cells:
    """Count the rows that each arm learned from and the steps of its trainings."""
    cells = {}
    for name, runs in arms.items():
        summaries = [read_manifest(run).summaries for run in runs if run]
        rows = _span([summary.corpus.train for summary in summaries if "corpus" in summary.made])
        steps = (_span([s.training(stage).steps for s in summaries if stage in s.made]) for stage in TRAININGS)
        cells[name] = {"rows": rows, "steps": " + ".join(filter(None, steps))}
    return cells


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
    """Read what the probes measured; for the untuned model, use those of the first arm."""
    probed = {name: [probe["worlds"] for probe in _probes(runs) if "worlds" in probe] for name, runs in arms.items()}
    cells = {name: _known(worlds, "tuned") for name, worlds in probed.items() if worlds}
    first = next(filter(None, probed.values()), [])
    if first and "untuned" in first[0]["validity"]:
        cells[UNTUNED] = _known(first, "untuned")
    return cells


def _probes(runs: Runs) -> list[dict[str, Any]]:
    files = [run / "probe/probe.json" for run in runs if run]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def _known(worlds: Sequence[Mapping[str, Any]], model: str) -> dict[str, str]:
    return {
        "can a step be done? probe": _over_seeds([world["validity"][model]["auroc"] for world in worlds]),
        "its own probability": _over_seeds([world["output_probability"][model]["mean"]["auroc"] for world in worlds]),
    }


def _over_seeds(measured: Sequence[Mapping[str, float]]) -> str:
    values = [auroc["value"] for auroc in measured]
    if len(values) == 1:
        return Estimate(values[0], measured[0]["low"], measured[0]["high"]).percent()
    return of_trainings(values, Estimate(*[fmean(values)] * 3)).percent()
