"""What `plantune probe RECIPE` does with a run: probes of its final model, as JSON, charts and a section of the report.

    probe_run(Path("runs/mine")) -> {"line": "it knows its plans: AUROC 71.3 % (62.0 to 79.9) on layer 17", ...}

writes probe/probe.json (all figures), probe/*.svg (AUROC by layer) and probe/section.json, which the report shows:
a title, sentences, tables, names of charts. A run on worlds is asked what it knows of its worlds too; any other run is
asked only whether it knows which of its plans will come out right.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plantune_lite import charts, lenient, student
from plantune_lite.ask import final_student
from plantune_lite.intervals import Estimate
from plantune_lite.lab import linear, planning, weak_plans
from plantune_lite.lab.knows import Judge, knows, tried
from plantune_lite.lab.probe import probe
from plantune_lite.records import Generate, PlantuneError, Problem, RunError, read_records, write_whole

FOLDER = "probe"
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
) -> dict[str, Any]:
    """Probe a run's final model on its own held-out problems; its "line" says the first of what was found."""
    recipe, _, loaded = final_student(run, say)
    most = recipe.evaluate.max_tokens
    if recipe.sft and recipe.sft.target == "solution":
        raise PlantuneError(f"{run} was trained without plans (sft.target=solution): there is no plan to probe")
    held_out = read_records(Problem, run / "problems" / "own.jsonl")[:problems]
    if not held_out:
        raise PlantuneError(f"{run} holds nothing out to probe on: set problems.held_out=0.2")
    out, in_worlds = run / FOLDER, all(one.kind == "plan" for one in held_out)
    found: dict[str, Any] = {"run": recipe.name, "seed": recipe.seed}
    if in_worlds:
        found["worlds"] = probe(
            loaded, held_out, out, per_problem=per_problem, max_tokens=most, seed=recipe.seed, say=say
        )
    try:
        found["plans"] = _of_plans(loaded, held_out, out, in_worlds, samples, most, recipe.seed, say)
    except PlantuneError as error:  # a model that is never right, or always, is no reason to lose the rest
        if not in_worlds:
            raise
        say(f"whether it knows its plans is left out: {error}")
        found["plans_left_out"] = str(error)
    write_whole(out / "probe.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    drawn = figures(found)
    for name, svg in drawn.items():
        write_whole(out / f"{name}.svg", svg + "\n")
    shown = section(found, sorted(drawn))
    write_whole(out / "section.json", json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
    return {"line": shown["sentences"][0], **found}


def _of_plans(
    loaded: student.Loaded,
    held_out: Sequence[Problem],
    out: Path,
    in_worlds: bool,
    samples: int,
    most: int,
    seed: int,
    say: Say,
) -> dict[str, Any]:
    """Whether the model knows its plans, and what comes of drawing weak ones again, on problems of the third part."""
    say(f"{samples} replies to each of {len(held_out)} problems")
    grade = planning.grade if in_worlds else lenient.grade
    tries = tried(loaded, held_out, grade=grade, samples=samples, max_tokens=most, temperature=TEMPERATURE, seed=seed)
    found, judge = knows(loaded, tries, out, seed=seed)
    reported = [one for one in tries if one.problem.id in set(found["reported_on"])]
    scores = judge.scores(loaded, [one.messages for one in reported])
    found["resampled"] = weak_plans.compare(reported, scores, threshold=0.0)
    write_whole(out / "judge.json", json.dumps({"layer": judge.layer, "probe": judge.probe.to_row()}) + "\n")
    return found


def judge_of(run: Path) -> Judge:
    """The judge of plans that a run was given by `plantune probe`."""
    file = run / FOLDER / "judge.json"
    if not file.is_file():
        raise RunError(f"{run} has no judge of plans; plantune probe {run} makes it")
    row = json.loads(file.read_text(encoding="utf-8"))
    return Judge(row["layer"], linear.from_row(row["probe"]))


def judged(run: Path, loaded: student.Loaded, *, tries: int = 4) -> Generate:
    """A run's model with the plans that its judge calls weak drawn again: a Generate like any other."""
    return weak_plans.resampling(loaded, judge_of(run), threshold=0.0, tries=tries)


# --- shown ------------------------------------------------------------------------------------------------------------


def figures(found: Mapping[str, Any]) -> dict[str, str]:
    """Charts of AUROC by layer."""
    drawn = {}
    if worlds := found.get("worlds"):
        series = {name: list(enumerate(one["by_layer"])) for name, one in worlds["validity"].items()}
        for name in ("sum", "mean"):
            said = worlds["output_probability"]["tuned"][name]["auroc"]["value"]
            series[f"output probability, {name}"] = [(0, said), (worlds["layers"] - 1, said)]
        drawn["validity"] = charts.curves("can the step be done? AUROC by layer", series, across="layer")
    if plans := found.get("plans"):
        last = len(plans["by_layer"]) - 1
        series = {"probe": list(enumerate(plans["by_layer"]))}
        for name, one in plans["controls"].items():
            series[name.replace("_", " ")] = [(0, one["value"]), (last, one["value"])]
        drawn["plans"] = charts.curves("will the answer be right? AUROC by layer", series, across="layer")
    return drawn


def section(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What the report says of it."""
    sentences, tables = [], []
    if worlds := found.get("worlds"):
        tuned = worlds["validity"]["tuned"]
        sentences.append(
            f"Whether a step can be done is told by a probe on layer {tuned['layer']} with an AUROC of "
            f"{_percent(tuned['auroc'])}, by the model's own probability of the step with "
            f"{_percent(worlds['output_probability']['tuned']['mean']['auroc'])}."
        )
        rows = [(f"probe, {name}", _percent(one["auroc"])) for name, one in worlds["validity"].items()]
        rows += [(name.replace("_", " "), _percent(one)) for name, one in worlds["controls"].items()]
        tables.append({"columns": ["can the step be done?", "AUROC (95 %)"], "rows": rows})
        for name, one in worlds["predicates"].items():
            facts = [(fact, _percent(value)) for fact, value in one["by_predicate"].items()]
            tables.append({"columns": [f"what holds now, {name}", "balanced accuracy (95 %)"], "rows": facts})
        columns = ["what it does", *worlds["generative"]]
        done = [
            (what.replace("_", " "), *(_percent(one[what]) for one in worlds["generative"].values()))
            for what in ("success", "executable", "prefix", "next_step")
        ]
        tables.append({"columns": columns, "rows": done})
    if plans := found.get("plans"):
        sentences.append(
            f"Whether its plan will come out right is told by a probe on layer {plans['layer']} with an AUROC of "
            f"{_percent(plans['auroc'])}, on {len(plans['reported_on'])} problems that it was not fitted on."
        )
        if within := plans["within_a_problem"]:
            sentences.append(f"Among the tries of one problem it is {_percent(within)}.")
        again = plans["resampled"]
        sentences.append(
            f"Weak plans drawn again: {_percent(again['probe'])} solved, a majority at as many tokens "
            f"{_percent(again['majority'])}, a plain draw {_percent(again['plain'])}."
        )
        rows = [("probe", _percent(plans["auroc"]))]
        rows += [(name.replace("_", " "), _percent(one)) for name, one in plans["controls"].items()]
        tables.append({"columns": ["will the answer be right?", "AUROC (95 %)"], "rows": rows})
    if left_out := found.get("plans_left_out"):
        sentences.append(f"Whether it knows its plans is not known: {left_out}.")
    return {
        "title": "Does the model know?",
        "sentences": sentences,
        "tables": tables,
        "charts": [f"{name}.svg" for name in names],
    }


def _percent(estimate: Mapping[str, Any]) -> str:
    return Estimate(estimate["value"], estimate["low"], estimate["high"]).percent()
