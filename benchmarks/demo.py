"""Does planning pay, and how soon is it seen? The embedded default from beginning to end, seed after seed.

    python -m benchmarks.demo --work DIR                       # all seeds; resumes where it was cut off
    python -m benchmarks.demo --work DIR --seeds seed0 seed1   # these; what the others came to stays in the table

Each seed is a `plantune run smollm2_135m` with other problems, another adapter at the start and another order. The same
recipe on practice_stories, where little is to be planned, stands beside it. Minutes are those of the machine that is
named, which must be idle; tokens are the same on any. The chart is demo.svg.
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
TUNED_ON = ("seed100",)  # the seeds that the settings were chosen on: no evidence, so they stand apart
ON_STORIES = ("stories0",)  # the same recipe where little is to be planned
ARMS = {"untuned": "untuned, best prompt", "baseline": "trained on solutions", "m1": "trained on plans"}


def main() -> None:
    """Run what is not there yet, and write down all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", nargs="*", default=[*SEEDS, *ON_STORIES, *TUNED_ON])
    parser.add_argument("--note", default="", help="what the minutes must not be read without")
    arguments = parser.parse_args()
    known = json.loads((HERE / "demo.json").read_text(encoding="utf-8")).get("seeds", {})
    for name in arguments.seeds:
        if name not in known:
            on_stories = name in ON_STORIES
            run = arguments.work / f"smollm2_135m_{name}"
            settings = [f"seed={re.sub(r'[a-z]', '', name)}", f"name={run.name}"]
            plantune(arguments.work, *settings, *["problems.source=practice_stories"] * on_stories)
            known[name] = figures(run)
            write_down(known, arguments.note)


def plantune(work: Path, *settings: str, recipe: str = "smollm2_135m") -> None:
    """Run a recipe, with its runs in a folder of ours."""
    command = [
        sys.executable,
        "-c",
        "from plantune_lite.cli.main import main; main()",
        "run",
        recipe,
        *settings,
    ]
    subprocess.run(command, env={**os.environ, "PLANTUNE_RUNS": str(work)}, check=True)


def figures(run: Path) -> dict[str, Any]:
    """What one finished run says."""
    manifest = read_manifest(run)
    stood = compare.standing([run])
    use = next((one for _, _, one in results.plan_uses([run])), None)  # none where max_hours left no time for it
    swapped = run / "eval" / "interventions" / "own.m1.summary.json"
    minus = {one.reference: one for one in stood.comparisons if one.model == "m1"}
    answers = [one for path in (run / "eval").rglob("*.jsonl") for one in read_records(Score, path)]
    return {
        "right": {row.model: vars(row.accuracy) for row in stood.rows},
        "swapped": use and json.loads(swapped.read_text(encoding="utf-8"))["conditions"]["swapped"],
        "prompt": next(row.mode for row in stood.rows if row.model == "untuned"),
        "problems": stood.rows[0].problems,
        "minus": {
            "baseline": vars(minus["baseline"].paired.difference),
            "untuned": vars(minus["untuned"].paired.difference),
            "swapped": use and use["difference"],
        },
        "seconds": {name: entry.seconds for name, entry in manifest.stages.items()},
        "trained_tokens": {name: getattr(manifest.summaries, name).trained_tokens for name in ("sft", "baseline")},
        "answered_tokens": sum(one.tokens for one in answers),
        "prompt_tokens": sum(one.tokens_in for one in answers),
        "recipe": json.loads((run / "recipe.json").read_text(encoding="utf-8")),
        "example": _example(run),
    }


def _example(run: Path) -> dict[str, str] | None:
    """The shortest problem that only the plan-tuned model solves, where there is one, and what both wrote."""
    asked = {one.id: one.question for one in read_records(Problem, run / "suites" / "own.jsonl")}
    alone, planned = (
        {one.problem_id: one for one in read_records(Score, run / "eval" / f"own.{arm}.jsonl")}
        for arm in ("baseline", "m1")
    )
    won = [id for id, one in planned.items() if one.same and not alone[id].same]
    shown = min(won, key=lambda id: len(asked[id]), default=None)
    return shown and {"question": asked[shown], "baseline": alone[shown].text, "m1": planned[shown].text}


def write_down(found: dict[str, Any], note: str) -> None:
    """Write the page and the chart; seeds that were tuned on have a table of their own."""
    columns = ("seed", "untuned", "baseline", "plan-tuned", "minus baseline", "minus untuned", "minus swapped plan")
    columns += ("minutes", "trained tokens", "prompt + answered tokens")
    parts = []
    for title, seeds in (
        ("Seeds that nothing was chosen on", SEEDS),
        ("The same recipe on practice_stories, which are told in the order they are solved", ON_STORIES),
        ("Seeds that the settings were tuned on", TUNED_ON),
    ):
        rows = [_row(seed, found[seed]) for seed in seeds if seed in found]
        if rows:
            parts += [f"## {title}", markdown(columns, rows)]
    measured = [found[seed] for seed in SEEDS if seed in found]
    if len(measured) > 1:
        parts.insert(2, _over_seeds(measured))
        (HERE / "demo.svg").write_text(_chart(measured) + "\n", encoding="utf-8")
    write(
        "demo",
        command="python -m benchmarks.demo --work DIR",
        about=(
            "Does planning pay, and how soon is it seen? `plantune run smollm2_135m`, seed after seed: problems that "
            "were chosen to need planning, 200 fresh ones, points with their 95 % intervals."
        ),
        found={"machine": machine("torch", "transformers", "trl", "peft"), "note": note, "seeds": found},
        text="\n\n".join([*parts, note]),
    )


def _row(seed: str, one: dict[str, Any]) -> tuple[Any, ...]:
    right = [f"{100 * one['right'][model]['value']:.1f} %" for model in ("untuned", "baseline", "m1")]
    differences = [
        Estimate(**found).points().replace(" points", "") if found else "not asked" for found in one["minus"].values()
    ]
    trained = " + ".join(f"{one['trained_tokens'][name]:,}" for name in ("sft", "baseline"))
    answered = f"{one['prompt_tokens']:,} + {one['answered_tokens']:,}"
    return (seed, *right, *differences, f"{sum(one['seconds'].values()) / 60:.1f}", trained, answered)


def over_seeds(values: list[float]) -> Estimate:
    """The mean of one figure a seed, with its t interval."""
    middle, half = fmean(values), stats.t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(middle, middle - half, middle + half)


def _chart(measured: list[dict[str, Any]]) -> str:
    rows = [(words, [one["right"][arm]["value"] for one in measured]) for arm, words in ARMS.items()]
    rows.append(("plan of another problem", [one["swapped"]["value"] for one in measured]))
    title = f"SmolLM2-135M, problems that need planning, {len(measured)} seeds"
    return charts.shares(title, [(words, over_seeds(values)) for words, values in rows])


def _over_seeds(measured: list[dict[str, Any]]) -> str:
    """Each difference with the seed as the unit."""
    lines = []
    for name in ("baseline", "untuned", "swapped"):
        mean = over_seeds([one["minus"][name]["value"] for one in measured])
        least = min(one["minus"][name]["value"] for one in measured)
        lines.append(f"minus {name} {mean.points()}, the least {100 * least:+.1f}")
    least = min(one["right"]["m1"]["value"] for one in measured)
    return f"Over {len(measured)} seeds: plan-tuned {'; '.join(lines)}. Plan-tuned right at least {100 * least:.1f} %."


if __name__ == "__main__":
    main()
