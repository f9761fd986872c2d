"""What the models of runs have answered so far, and what is to be known of it.

What comes in: run folders, of which eval/SUITE.MODEL.jsonl is read, with what was asked (suites/SUITE.jsonl), how
(eval/SUITE.MODEL.json), and what evaluation found out about it (eval/suites.json). What goes out, one of each suite,
model and mode:

    Answers(suite="own", run="runs/mine", model="m1", mode="m1", scores=[...], of=300, caveats=(), ...)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plantune_lite.evaluate import metrics
from plantune_lite.files import read_records
from plantune_lite.types import Problem, Score

UNTUNED, BASELINE, GRPO = "untuned", "baseline", "grpo"
OF_A_RUN = (UNTUNED, BASELINE, "control", "m1", "m2", "cpl", GRPO)  # models in the order of a run; others are not its
SUITES = "suites.json"  # in eval/: suite -> {"problems": 300, "answered": 128, "in_training": [id, ...], "words": 13}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One model in one mode on one suite, answer by answer."""

    suite: str
    run: str
    model: str
    mode: str
    where: str  # "" or "RUN/", where there are several
    scores: list[Score]
    problems: Mapping[str, Problem]  # the suite's, by id; none where the run has no suites/
    settings: Mapping[str, Any]  # how it was asked
    of: int  # problems that are to be asked; 0: not known
    caveats: tuple[str, ...]  # what no figure of this model on this suite must be read without

    @property
    def name(self) -> str:
        return self.where + self.model

    @cached_property
    def shares(self) -> dict[str, float]:
        """For each problem the share of its samples that are right."""
        return metrics.shares(self.scores)

    @property
    def unasked(self) -> int:
        return max(0, self.of - len(self.shares))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """One more caveat, where time was up or something else came between."""
        asked = f"only {len(self.shares)} of {self.of} problems of {self.suite}"
        return (f"{asked} have been asked so far",) if self.unasked else ()


def answers(runs: Sequence[Path]) -> Iterator[Answers]:
    """All that lies in the eval/ of these runs."""
    for run, where in zip(runs, _places(runs), strict=True):
        suites = known_of(run)
        for path in sorted((run / "eval").glob("*.jsonl")):
            suite, _, model = path.stem.partition(".")
            known, settings, problems = suites.get(suite), _json_of(path.with_suffix(".json")), problems_of(run, suite)
            for mode, scores in metrics.by_mode(read_records(Score, path)).items():
                yield Answers(
                    suite=suite,
                    run=str(run),
                    model=model,
                    mode=mode,
                    where=where,
                    scores=scores,
                    problems=problems,
                    settings=settings.get(mode, {}),
                    of=known["problems"] if known else 0,
                    caveats=tuple(_caveats(suite, model, known)) if known and model in OF_A_RUN else (),
                )


def plan_uses(runs: Sequence[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """For each suite and model whose plans were exchanged what own minus swapped came to, as interventions wrote it."""
    for run, where in zip(runs, _places(runs), strict=True):
        for path in sorted((run / "eval" / "interventions").glob("*.summary.json")):
            suite, _, model = path.name.removesuffix(".summary.json").partition(".")
            if use := _json_of(path).get("own_minus", {}).get("swapped"):
                yield suite, where + model, use


def problems_of(run: Path, suite: str) -> dict[str, Problem]:
    """The problems of a suite by their ids; none where the run has no suites/."""
    path = run / "suites" / f"{suite}.jsonl"
    return {one.id: one for one in read_records(Problem, path)} if path.is_file() else {}


def known_of(run: Path) -> dict[str, dict[str, Any]]:
    """What evaluation has found out about the suites of a run, beside their answers."""
    return _json_of(run / "eval" / SUITES)


def _json_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _places(runs: Sequence[Path]) -> list[str]:
    """What stands before a model's name: nothing for one run, the folder's name, the path where names are alike."""
    names = [run.resolve().name for run in runs]
    if len(runs) == 1:
        return [""]
    return [f"{name if names.count(name) == 1 else run}/" for run, name in zip(runs, names, strict=True)]


def _caveats(suite: str, model: str, known: Mapping[str, Any]) -> Iterator[str]:
    shared = len(known["in_training"])
    if shared and model != UNTUNED:
        yield (
            f"{shared} of {known['problems']} problems of {suite} share {known['words']} words in a row with the "
            "training rows"
        )
    if model == BASELINE and known.get("baseline"):
        yield known["baseline"]
