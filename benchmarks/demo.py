"""Measure whether plans help, and how soon it shows: the embedded default from beginning to end, over several seeds.

    python -m benchmarks.demo --work DIR                       # all seeds; resumes where it was cut off
    python -m benchmarks.demo --work DIR --seeds seed0 seed1   # only these; results of other seeds stay on the page

Each seed is a `plantune run smollm2_135m` with other problems, another initial adapter and another order. For
comparison, the same recipe runs on practice_stories, which need little planning. Minutes are those of the machine named
on the page, which must be idle; tokens are the same on any. The chart is demo.svg.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.report import HERE, machine, markdown, write
from plantune_lite.evaluate import compare, results, stats
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.files import read_records
from plantune_lite.report import charts
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.types import Problem, Score

SEEDS = ("seed0", "seed1", "seed2", "seed3", "seed4")
TUNED_ON = ("seed100",)  # the settings were chosen on these seeds: no evidence, so a table of their own
ON_STORIES = ("stories0",)  # the same recipe where little planning is needed
ARMS = {"untuned": "untuned, best prompt", "baseline": "trained on solutions", "m1": "trained on plans"}


def main() -> None:
    """Run the seeds that have no results yet, and write the page of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", nargs="*", default=[*SEEDS, *ON_STORIES, *TUNED_ON])
    parser.add_argument("--note", default="", help="a caveat about the minutes")
    arguments = parser.parse_args()
    known = json.loads((HERE / "demo.json").read_text(encoding="utf-8")).get("seeds", {})
    for name in arguments.seeds:
        if name not in known:
            on_stories = name in ON_STORIES
            run = arguments.work / f"smollm2_135m_{name}"
            settings = [f"seed={re.sub(r'[a-z]', '', name)}", f"name={run.name}"]
            plantune(arguments.work, *settings, *["problems.source=practice_stories"] * on_stories)
            known[name] = figures(run)
            write_page(known, arguments.note)


def plantune(work: Path, *settings: str, recipe: str = "smollm2_135m") -> None:
    """Run a recipe, with its run folders under `work`."""
    command = [sys.executable, "-c", "from plantune_lite.cli.main import main; main()", "run", recipe, *settings]
    subprocess.run(command, env={**os.environ, "PLANTUNE_RUNS": str(work)}, check=True)


def figures(run: Path) -> dict[str, Any]:
    """Read the figures of a finished run."""
    manifest = read_manifest(run)
    standing = compare.standing([run])
    plan_use = next((use for _, _, use in results.plan_uses([run])), None)  # None: max_hours left no time for it
    swapped = run / "eval" / "interventions" / "own.m1.summary.json"
    minus = {each.reference: each.paired.difference for each in standing.comparisons if each.model == "m1"}
    answers = [answer for path in (run / "eval").rglob("*.jsonl") for answer in read_records(Score, path)]
    return {
        "right": {row.model: vars(row.accuracy) for row in standing.rows},
        "swapped": plan_use and json.loads(swapped.read_text(encoding="utf-8"))["conditions"]["swapped"],
        "prompt": next(row.mode for row in standing.rows if row.model == "untuned"),
        "problems": standing.rows[0].problems,
        "minus": {
            "baseline": vars(minus["baseline"]),
            "untuned": vars(minus["untuned"]),
            "swapped": plan_use and plan_use["difference"],
        },
        "seconds": {name: entry.seconds for name, entry in manifest.stages.items()},
        "trained_tokens": {name: getattr(manifest.summaries, name).trained_tokens for name in ("sft", "baseline")},
        "answered_tokens": sum(answer.tokens for answer in answers),
        "prompt_tokens": sum(answer.tokens_in for answer in answers),
        "recipe": json.loads((run / "recipe.json").read_text(encoding="utf-8")),
        "example": _example(run),
    }


def _example(run: Path) -> dict[str, str] | None:
    """Pick the shortest problem that only the plan-tuned model solves, with both answers."""
    questions = {problem.id: problem.question for problem in read_records(Problem, run / "suites" / "own.jsonl")}
    baseline, planned = (
        {score.problem_id: score for score in read_records(Score, run / "eval" / f"own.{arm}.jsonl")}
        for arm in ("baseline", "m1")
    )
    won = [id for id, score in planned.items() if score.same and not baseline[id].same]
    shown = min(won, key=lambda id: len(questions[id]), default=None)
    return shown and {"question": questions[shown], "baseline": baseline[shown].text, "m1": planned[shown].text}


def write_page(by_seed: dict[str, Any], note: str) -> None:
    """Write the page and the chart; seeds used for tuning have a table of their own."""
    columns = ("seed", "untuned", "baseline", "plan-tuned", "minus baseline", "minus untuned", "minus swapped plan")
    columns += ("minutes", "trained tokens", "prompt + answer tokens")
    parts = []
    for title, seeds in (
        ("Seeds not used to choose settings", SEEDS),
        ("The same recipe on practice_stories, told in the order they are solved", ON_STORIES),
        ("Seeds used to choose settings", TUNED_ON),
    ):
        rows = [_row(seed, by_seed[seed]) for seed in seeds if seed in by_seed]
        if rows:
            parts += [f"## {title}", markdown(columns, rows)]
    measured = [by_seed[seed] for seed in SEEDS if seed in by_seed]
    if len(measured) > 1:
        parts.insert(2, _over_seeds(measured))
        (HERE / "demo.svg").write_text(_chart(measured) + "\n", encoding="utf-8")
    write(
        "demo",
        command="python -m benchmarks.demo --work DIR",
        about=(
            "Do plans help, and how soon does it show? `plantune run smollm2_135m`, seed by seed: problems chosen to "
            "need planning, 200 fresh ones, points with 95 % intervals."
        ),
        found={"machine": machine("torch", "transformers", "trl", "peft"), "note": note, "seeds": by_seed},
        text="\n\n".join([*parts, note]),
    )


def _row(seed: str, run: dict[str, Any]) -> tuple[Any, ...]:
    right = [f"{100 * run['right'][model]['value']:.1f} %" for model in ("untuned", "baseline", "m1")]
    differences = [
        Estimate(**minus).points().replace(" points", "") if minus else "not run" for minus in run["minus"].values()
    ]
    trained = " + ".join(f"{run['trained_tokens'][name]:,}" for name in ("sft", "baseline"))
    answered = f"{run['prompt_tokens']:,} + {run['answered_tokens']:,}"
    return (seed, *right, *differences, f"{sum(run['seconds'].values()) / 60:.1f}", trained, answered)


def over_seeds(values: list[float]) -> Estimate:
    """Average a figure per seed, with its t interval."""
    mean, half = fmean(values), stats.t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def _chart(measured: list[dict[str, Any]]) -> str:
    rows = [(words, [run["right"][arm]["value"] for run in measured]) for arm, words in ARMS.items()]
    rows.append(("plan of another problem", [run["swapped"]["value"] for run in measured]))
    title = f"SmolLM2-135M, problems that need planning, {len(measured)} seeds"
    return charts.shares(title, [(words, over_seeds(values)) for words, values in rows])


def _over_seeds(measured: list[dict[str, Any]]) -> str:
    """Format each difference with the seed as the unit."""
    lines = []
    for name in ("baseline", "untuned", "swapped"):
        values = [run["minus"][name]["value"] for run in measured]
        lines.append(f"minus {name} {over_seeds(values).points()}, minimum {100 * min(values):+.1f}")
    lowest = min(run["right"]["m1"]["value"] for run in measured)
    return f"Over {len(measured)} seeds: plan-tuned {'; '.join(lines)}. Plan-tuned right: minimum {100 * lowest:.1f} %."


if __name__ == "__main__":
    main()
