"""Say what a run came to in the terminal: who answered how much, what to do next."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plantune_lite.evaluate import compare
from plantune_lite.runs.folder import read_manifest
from plantune_lite.terminal import table
from plantune_lite.types import PlantuneError


def ending(folder: Path, wanted: Any) -> Iterator[str]:
    """The lines, a blank one first."""
    manifest = read_manifest(folder)
    yield ""
    stood = _stood(folder)
    if stood is not None:
        yield scores(stood)
        yield from stood.sentences
    yield "next:"
    yield from (f"  {line}" for line in _next(folder, wanted, manifest, stood))


def _stood(folder: Path) -> compare.Standing | None:
    try:
        return compare.standing([folder])
    except PlantuneError:
        return None  # nothing was evaluated


def scores(stood: compare.Standing) -> str:
    """A line a model, a column a suite; of several prompts the best."""
    best: dict[tuple[str, str], compare.Row] = {}
    for row in stood.rows:
        known = best.get((row.model, row.suite))
        if known is None or row.accuracy.value > known.accuracy.value:
            best[row.model, row.suite] = row
    models, suites = (list(dict.fromkeys(names)) for names in zip(*best, strict=True))
    lines = [
        [model, *(best[model, suite].accuracy.percent() if (model, suite) in best else "" for suite in suites)]
        for model in models
    ]
    return table("right answers (95 %)", ["model", *suites], lines)


def _next(folder: Path, wanted: Any, manifest: dict[str, Any], stood: compare.Standing | None) -> Iterator[str]:
    run = shlex.quote(str(folder))
    if (folder / "report.html").is_file():
        yield f"open {run}/report.html        what was learned from, won and lost, and with which plans"
    if manifest.get("final"):
        yield f'plantune ask {run} "..." --beside-base        a question of your own'
        yield f"plantune push {run} USER/NAME --dry-run DIR        what would go to the Hub"
    if stood is not None and not wanted.evaluate.interventions and manifest.get("final"):
        yield f"plantune evaluate {run} evaluate.interventions=true --again evaluate        does the plan do the work?"
    if wanted.problems.source == "practice":
        own = "problems.path=my.csv evaluate.suites=own evaluate.baseline=false distill.teacher=self name=mine"
        yield "plantune show my.csv        your own questions and answers, then:"
        yield f"plantune run {wanted.name} {own}"
    yield "plantune recipes        what there is for a card of 8, 12 or 16 GB"
