"""Write the results of a study for a terminal, as Markdown (table.md) and as JSON (table.json).

Besides right answers a table has columns of its own, arm by arm: arm -> column -> cell.

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
class Found:
    """A study's outcome."""

    study: Study
    folder: Path
    recipe: str
    command: str
    beside: Standing  # its notes are the study's as well
    failed: Mapping[str, str]  # run -> why
    figures: Cells = field(default_factory=dict)  # arm -> more columns of its line


def study_text(found: Found) -> str:
    """Render for a terminal."""
    tables = standing_text(found.beside, lines=partial(_lines, found))
    return printable(f"{found.study.asks}\n{tables}")


def study_markdown(found: Found) -> str:
    """Render for a page: the terminal's, with what each variant is and how to make it again."""
    variants = [(one.name, one.tests, " ".join(one.settings)) for one in found.study.variants]
    parts = [
        f"# {found.study.what} of {found.recipe}",
        found.study.asks,
        standing_markdown(found.beside, lines=partial(_lines, found)).rstrip(),
        "## The variants",
        markdown_table(("variant", "what it learns", "settings"), variants),
        f"Made by `{found.command}`; rerun it to resume, or to make it again.",
    ]
    return "\n\n".join(parts) + "\n"


def study_json(found: Found) -> dict[str, Any]:
    """For programs."""
    return {
        "study": found.study.what,
        "folder": str(found.folder),
        "recipe": found.recipe,
        "command": found.command,
        **asdict(found.beside),
        "figures": found.figures,
        "variants": [{"name": one.name, "tests": one.tests, "settings": one.settings} for one in found.study.variants],
        "failed": dict(found.failed),
    }


def write(found: Found) -> list[Path]:
    """Write them all; the files."""
    texts = {
        "table.md": study_markdown(found),
        "table.json": json.dumps(study_json(found), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        write_whole(found.folder / name, text)
    return [found.folder / name for name in texts]


def _lines(found: Found, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Make the columns of a table and its lines."""
    more = list(dict.fromkeys(name for cells in found.figures.values() for name in cells))
    lines = []
    for row in rows:
        share, _, interval = row.accuracy.percent().partition(" (")
        seeds = ", ".join(f"{100 * one:.1f}" for one in row.by_seed)
        cells = [found.figures.get(row.model, {}).get(name, "") for name in more]
        lines.append([named(row.model, row.mode), str(row.problems), share, interval.rstrip(")"), seeds, *cells])
    return ["variant", "of", "right", "95 %", "seeds", *more], lines


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
