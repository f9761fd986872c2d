"""Save and load the judge of a run's plans, next to its probes; refuse one that belongs to other weights.

    keep(Path("runs/mine"), judge, fitted_on=problems, plan_is_all=False)
                                                             writes probe/judge.json: plain numbers, no code
    kept = judge_of(Path("runs/mine"))                       kept.judge, kept.identity, kept.knows(problem)
    generate = judged(Path("runs/mine"), tries=4)(student)   the run's model with weak plans drawn again

A judge reads the residuals of one model. On weights that have changed since, even a little, it would give wrong scores
without an error: so it records which weights it belongs to.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from plantune_lite.files import sha256_of, write_whole
from plantune_lite.lab.probes import linear, resample
from plantune_lite.lab.probes.plan_probe import Judge
from plantune_lite.problems.split import normalised
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student.load import Loaded
from plantune_lite.types import Generate, Problem, RunError

FOLDER = "probe"
_FILE = "judge.json"


@dataclass(frozen=True)
class Kept:
    """A judge loaded from disk."""

    judge: Judge
    fitted_on: frozenset[str]  # fingerprints of questions
    plan_is_all: bool  # the plan is the whole reply, as in a world
    identity: str  # tells its scores from those of another judge

    def knows(self, problem: Problem) -> bool:
        """Tell whether it was fitted on this question, under any id: such a problem cannot test it."""
        return _question(problem) in self.fitted_on


def keep(run: Path, judge: Judge, *, fitted_on: Iterable[Problem], plan_is_all: bool) -> None:
    """Write a judge of the run's final model, which problems it must not be measured on, and what a reply is."""
    row = {
        "of": weights_of(run),
        "layer": judge.layer,
        "threshold": judge.threshold,
        "plan_is_all": plan_is_all,
        "fitted_on": sorted(set(map(_question, fitted_on))),
        "probe": judge.probe.to_row(),
    }
    write_whole(run / FOLDER / _FILE, json.dumps(row) + "\n")


def judge_of(run: Path) -> Kept:
    """Load the judge that `plantune probe` saved; refuse it where the run's model has changed since."""
    weights, file = weights_of(run), run / FOLDER / _FILE
    if not file.is_file():
        raise RunError(f"{run} has no judge of plans; plantune probe {run} makes one")
    try:
        text = file.read_text(encoding="utf-8")
        row = json.loads(text)
        judge = Judge(int(row["layer"]), linear.from_row(row["probe"]), float(row["threshold"]))
        of, fitted_on, plan_is_all = row["of"], frozenset(row["fitted_on"]), bool(row["plan_is_all"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is not a judge of plans ({error!r}); plantune probe {run} makes a new one") from None
    if of != weights:
        raise RunError(
            f"{file} belongs to other weights ({of}); the run's model is {weights}. "
            f"plantune probe {run} makes a new judge"
        )
    return Kept(judge, fitted_on, plan_is_all, hashlib.sha256(text.encode()).hexdigest()[:16])


def judged(run: Path, *, tries: int, tell: resample.Tell = lambda scores: None) -> Callable[[Loaded], Generate]:
    """Return a function that makes a Generate of a run's model, redrawing the plans that its judge calls weak.

    A missing judge is an error here, before the model is loaded.
    """
    kept = judge_of(run)
    return lambda student: resample.resampling(
        student, kept.judge, tries=tries, plan_is_all=kept.plan_is_all, tell=tell
    )


def weights_of(run: Path) -> str:
    """Identify the run's final model in a line: base, the stage that trained it last, and its adapter's hash."""
    trained = read_manifest(run).final
    if trained is None or not (adapter := run / trained / "adapter_model.safetensors").is_file():
        raise RunError(f"{run} has no trained model yet; plantune train {run} makes it")
    config = json.loads((adapter.parent / "adapter_config.json").read_text(encoding="utf-8"))
    base = "@".join(filter(None, (config["base_model_name_or_path"], config.get("revision"))))
    return f"{base}+{trained}:{sha256_of(adapter)[:16]}"


def _question(problem: Problem) -> str:
    return hashlib.sha256(normalised(problem).encode("utf-8", "surrogatepass")).hexdigest()[:16]
