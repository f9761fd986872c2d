"""Probe a run's final model (`plantune probe RECIPE`): figures as JSON, charts, and a section of the report.

    probe_run(Path("runs/mine")) -> {"line": "Whether its plan will come out right is predicted by a probe on ...", ...}

Writes probe/probe.json (all figures), probe/*.svg (AUROC by layer), probe/judge.json (tells weak plans from good ones,
for `ask` and `evaluate --resample`) and probe/section.json, which the report shows: a title, sentences, tables, chart
names. A run on worlds is also probed for what it knows of its worlds; any other run only for whether it knows which of
its plans will come out right.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from plantune_lite.evaluate import modes
from plantune_lite.evaluate.answers import Asking, Show
from plantune_lite.evaluate.ask import final_student
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.files import write_whole
from plantune_lite.lab.probes import resample, saved_judge
from plantune_lite.lab.probes.plan_probe import knows, tried
from plantune_lite.lab.probes.saved_judge import FOLDER
from plantune_lite.lab.probes.world_probe import probe
from plantune_lite.problems.split import normalised
from plantune_lite.recipe.schema import Recipe
from plantune_lite.report import charts
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student.load import Loaded
from plantune_lite.types import PlantuneError, Problem, Sampling

PROBLEMS, SAMPLES, PER_PROBLEM = 100, 8, 8
TEMPERATURE = 0.7
Say = Callable[[str], object]


def probe_run(
    run: Path,
    *,
    problems: int = PROBLEMS,
    samples: int = SAMPLES,
    per_problem: int = PER_PROBLEM,
    say: Say = print,
    show: Show = lambda line, last: None,
) -> dict[str, Any]:
    """Probe a run's final model on its own held-out problems; its "line" is the first finding.

    The world figures of an interrupted probe, and the replies it has drawn, are reused.
    """
    recipe, _, loaded = final_student(run, say)
    most = recipe.evaluate.max_tokens
    if modes.mode_of(recipe, read_manifest(run).summaries) == "plain":
        raise PlantuneError(f"{run} was trained without plans (sft.target=solution): there is no plan to probe")
    held_out, tested = _held_out(run, problems)
    out, in_worlds = run / FOLDER, all(problem.kind == "plan" for problem in held_out)
    results: dict[str, Any] = {"run": recipe.name, "seed": recipe.seed, "of": saved_judge.weights_of(run)}
    if in_worlds:
        wanted = {**results, "asked": [len(held_out), per_problem]}
        results = _begun(out, wanted)
        if "worlds" not in results:
            results["worlds"] = probe(
                loaded, held_out, out, per_problem=per_problem, max_tokens=most, seed=recipe.seed, say=say, show=show
            )
            _write(out, results)
    keep = None
    try:
        results["plans"], keep = _of_plans(run, recipe, loaded, held_out, tested, samples, say, show)
    except PlantuneError as error:  # a model that is never or always right must not lose the rest
        if not in_worlds:
            raise
        say(f"the probe of its plans is left out: {error}")
        results["plans_left_out"] = str(error)
    drawn = figures(results)
    for name, svg in drawn.items():
        write_whole(out / f"{name}.svg", svg + "\n")
    _write(out, results)
    if keep is not None:  # last: where there is a judge, there are its figures
        keep()
    return {"line": section(results)["sentences"][0], **results}


def probe_once(run: Path, **how: Any) -> dict[str, Any]:
    """Probe a run, or return the figures of a probe of the same weights."""
    file = run / FOLDER / "probe.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    finished = "plans" in before or "plans_left_out" in before
    return before if finished and before["of"] == saved_judge.weights_of(run) else probe_run(run, **how)


def _begun(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Load the world figures of an interrupted probe with the same weights and settings, else return `wanted`."""
    file = out / "probe.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    cut_off = "plans" not in before and "plans_left_out" not in before
    return before if cut_off and before.items() >= wanted.items() else wanted


def add(run: Path, name: str, value: Any) -> None:
    """Add a result to a finished probe of a run."""
    out = run / FOLDER
    _write(out, {**json.loads((out / "probe.json").read_text(encoding="utf-8")), name: value})


def _write(out: Path, results: Mapping[str, Any]) -> None:
    for name, value in (("probe", results), ("section", section(results))):
        write_whole(out / f"{name}.json", json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _held_out(run: Path, most: int) -> tuple[list[Problem], set[str]]:
    """List held-out problems, those in a suite last, and the ids of these: no judge is measured on what it knows."""
    own = [problem for problem in RunFolder(run).own() if problem.kind != "code"]
    if not own:
        raise PlantuneError(f"{run} holds nothing out to probe on: set problems.held_out=0.2")
    questions = {normalised(problem) for suite in RunFolder(run).suite_problems().values() for problem in suite}
    tested = {problem.id for problem in own if normalised(problem) in questions}
    return sorted(own, key=lambda problem: problem.id in tested)[:most], tested


def _of_plans(
    run: Path,
    recipe: Recipe,
    loaded: Loaded,
    held_out: Sequence[Problem],
    tested: Collection[str],
    samples: int,
    say: Say,
    show: Show,
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Probe whether the model knows its plans; measure redrawing weak ones on problems of the third part.

    Return the figures, and a function that saves the judge.
    """
    say(f"{samples} replies to each of {len(held_out)} problems")
    tries = tried(
        loaded,
        held_out,
        run / FOLDER / f"tries.{samples}.jsonl",
        mode=modes.mode_of(recipe, read_manifest(run).summaries),
        how=Asking(
            sampling=Sampling(
                temperature=TEMPERATURE, n=samples, max_tokens=recipe.evaluate.max_tokens, seed=recipe.seed
            ),
            model=saved_judge.weights_of(run),
            show=show,
        ),
    )
    results, judge = knows(loaded, tries, run / FOLDER, seed=recipe.seed, spared=tested)
    reported_on = set(results["reported_on"])
    reported = [attempt for attempt in tries if attempt.problem.id in reported_on]
    scores = judge.scores(loaded, [attempt.messages for attempt in reported])
    results["resampled"] = resample.compare(reported, scores)
    known = [attempt.problem for attempt in tries if attempt.problem.id not in reported_on]
    in_worlds = all(problem.kind == "plan" for problem in held_out)
    return results, partial(saved_judge.keep, run, judge, fitted_on=known, plan_is_all=in_worlds)


# --- shown ------------------------------------------------------------------------------------------------------------


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw charts of AUROC by layer."""
    drawn = {}
    if worlds := results.get("worlds"):
        series = {name: list(enumerate(fit["by_layer"])) for name, fit in worlds["validity"].items()}
        for name in ("sum", "mean"):
            auroc = worlds["output_probability"]["tuned"][name]["auroc"]["value"]
            series[f"output probability, {name}"] = [(0, auroc), (worlds["layers"] - 1, auroc)]
        drawn["validity"] = charts.curves("can the step be done? AUROC by layer", series, across="layer")
    if plans := results.get("plans"):
        last = len(plans["by_layer"]) - 1
        series = {"probe": list(enumerate(plans["by_layer"]))}
        for name, estimate in plans["controls"].items():
            series[name.replace("_", " ")] = [(0, estimate["value"]), (last, estimate["value"])]
        drawn["plans"] = charts.curves("will the answer be right? AUROC by layer", series, across="layer")
    return drawn


def section(results: Mapping[str, Any]) -> dict[str, Any]:
    """Assemble the report section: sentences, tables and charts."""
    sentences, tables = [], []
    if worlds := results.get("worlds"):
        tuned = worlds["validity"]["tuned"]
        sentences.append(
            f"Whether a step can be done is predicted by a probe on layer {tuned['layer']} with an AUROC of "
            f"{_percent(tuned['auroc'])}, by the model's own probability of the step with "
            f"{_percent(worlds['output_probability']['tuned']['mean']['auroc'])}."
        )
        rows = [(f"probe, {name}", _percent(fit["auroc"])) for name, fit in worlds["validity"].items()]
        rows += [
            (f"rank among all steps of its kind, {name}", _percent(rank["auroc"]))
            for name, rank in worlds["rank"].items()
        ]
        rows += [(name.replace("_", " "), _percent(estimate)) for name, estimate in worlds["controls"].items()]
        tables.append({"columns": ["can the step be done?", "AUROC (95 %)"], "rows": rows})
        of_facts = {**worlds["predicates"], "by the step's words alone": worlds["predicates_by_words"]}
        for name, probed in of_facts.items():
            facts = [(fact, _percent(value)) for fact, value in probed["by_predicate"].items()]
            tables.append({"columns": [f"what holds now, {name}", "balanced accuracy (95 %)"], "rows": facts})
        columns = ["what it does", *worlds["generative"]]
        done = [
            (what.replace("_", " "), *(_percent(measured[what]) for measured in worlds["generative"].values()))
            for what in ("success", "executable", "prefix", "next_step")
        ]
        tables.append({"columns": columns, "rows": done})
    if plans := results.get("plans"):
        sentences.append(
            f"Whether its plan will come out right is predicted by a probe on layer {plans['layer']} with an AUROC of "
            f"{_percent(plans['auroc'])}, on {len(plans['reported_on'])} problems that it was not fitted on."
        )
        if within := plans["within_a_problem"]:
            sentences.append(f"Among the tries of one problem it is {_percent(within)}.")
        again = plans["resampled"]
        sentences.append(
            f"Among replies with a whole plan, weak ones drawn again: {_percent(again['probe'])} solved, a majority at "
            f"as many tokens {_percent(again['majority'])}, a plain draw {_percent(again['plain'])}."
        )
        rows = [("probe", _percent(plans["auroc"]))]
        rows += [(name.replace("_", " "), _percent(estimate)) for name, estimate in plans["controls"].items()]
        tables.append({"columns": ["will the answer be right?", "AUROC (95 %)"], "rows": rows})
    if left_out := results.get("plans_left_out"):
        sentences.append(f"The probe of its plans is left out: {left_out}.")
    if live := results.get("live"):
        sentences.append(
            f"On the test problems, weak plans are redrawn (up to {live['tries']} per reply), compared with single "
            "replies and a majority at as many tokens. Problems that the judge was fitted on are left out."
        )
        tables.append({"columns": live["columns"], "rows": live["rows"]})
    return {
        "title": "Does the model know?",
        "sentences": sentences,
        "tables": tables,
        "charts": [f"{name}.svg" for name in sorted(figures(results))],
    }


def _percent(estimate: Mapping[str, Any]) -> str:
    return Estimate(estimate["value"], estimate["low"], estimate["high"]).percent()
