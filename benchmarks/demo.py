"""Does planning pay, and how soon is it seen? The embedded default from beginning to end, seed after seed.

    python -m benchmarks.demo --work DIR                       # all seeds; goes on where it was cut off
    python -m benchmarks.demo --work DIR --seeds 0 1           # these; what the others came to stays in the table

Each seed is a `plantune run smollm2_135m` with other problems, another adapter at the start and another order; when it
is done the same models answer three more suites, for which the minutes do not count. Minutes are those of the machine
that is named, which must be idle; tokens are the same on any. The chart is demo.svg.
"""

import argparse
import json
import math
import os
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
from plantune_lite.runs.folder import read_manifest
from plantune_lite.types import Score

SEEDS = (0, 1, 2, 3, 4)
TUNED_ON = (100,)  # the seeds that the settings were chosen on: no evidence, so they stand apart
BESIDE = ("practice_longer", "practice_words", "practice_stories")  # what is like the training, less and less
ARMS = {"untuned": "untuned, best prompt", "baseline": "trained on solutions", "m1": "trained on plans"}


def main() -> None:
    """Run what is not there yet, and write down all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[*SEEDS, *TUNED_ON])
    arguments = parser.parse_args()
    known = json.loads((HERE / "demo.json").read_text(encoding="utf-8")).get("seeds", {})
    runs = {str(seed): arguments.work / f"smollm2_135m_seed{seed}" for seed in arguments.seeds}
    for seed, run in runs.items():
        if seed not in known:
            plantune(arguments.work, "run", "smollm2_135m", f"seed={seed}", f"name={run.name}")
            known[seed] = figures(run)
            write_down(known)
    for seed, run in runs.items():
        if "beside" not in known[seed]:
            plantune(arguments.work, "evaluate", str(run), f"evaluate.suites={','.join(('own', *BESIDE))}")
            known[seed]["beside"] = beside(run)
            write_down(known)


def plantune(work: Path, *arguments: str) -> None:
    """The command, with its runs in a folder of ours."""
    command = [sys.executable, "-c", "from plantune_lite.cli.main import main; main()", *arguments]
    subprocess.run(command, env={**os.environ, "PLANTUNE_RUNS": str(work)}, check=True)


def figures(run: Path) -> dict[str, Any]:
    """What one finished run says."""
    stages = read_manifest(run)["stages"]
    stood = compare.standing([run])
    [(_, _, use)] = results.plan_uses([run])
    swapped = json.loads((run / "eval" / "interventions" / "own.m1.summary.json").read_text(encoding="utf-8"))
    minus = {one.reference: one for one in stood.comparisons if one.model == "m1"}
    answers = [one for path in (run / "eval").rglob("*.jsonl") for one in read_records(Score, path)]
    return {
        "right": {row.model: vars(row.accuracy) for row in stood.rows},
        "swapped": swapped["conditions"]["swapped"],
        "prompt": next(row.mode for row in stood.rows if row.model == "untuned"),
        "problems": stood.rows[0].problems,
        "minus": {
            "baseline": vars(minus["baseline"].paired.difference),
            "untuned": vars(minus["untuned"].paired.difference),
            "swapped": use["difference"],
        },
        "seconds": {name: entry["seconds"] for name, entry in stages.items()},
        "trained_tokens": {name: stages[name]["summary"]["trained_tokens"] for name in ("sft", "baseline")},
        "answered_tokens": sum(one.tokens for one in answers),
        "prompt_tokens": sum(one.tokens_in for one in answers),
        "recipe": json.loads((run / "recipe.json").read_text(encoding="utf-8")),
    }


def beside(run: Path) -> dict[str, dict[str, Any]]:
    """Right answers on the other suites."""
    rows = [row for row in compare.standing([run]).rows if row.suite in BESIDE]
    return {suite: {row.model: vars(row.accuracy) for row in rows if row.suite == suite} for suite in BESIDE}


def write_down(found: dict[str, Any]) -> None:
    """The table of seeds, those that were tuned on below a line of their own."""
    columns = ("seed", "untuned", "baseline", "plan-tuned", "minus baseline", "minus untuned", "minus swapped plan")
    columns += ("minutes", "trained tokens", "prompt + answered tokens")
    parts = []
    for title, seeds in (
        ("Seeds that nothing was chosen on", SEEDS),
        ("Seeds that the settings were tuned on", TUNED_ON),
    ):
        rows = [_row(seed, found[str(seed)]) for seed in seeds if str(seed) in found]
        if rows:
            parts += [f"## {title}", markdown(columns, rows)]
    measured = [found[str(seed)] for seed in SEEDS if str(seed) in found]
    if len(measured) > 1:
        parts.append(_over_seeds(measured))
        (HERE / "demo.svg").write_text(_chart(measured) + "\n", encoding="utf-8")
    if len(others := [one for one in measured if one.get("beside")]) > 1:
        parts += ["## Other problems", _others(others)]
    write(
        "demo",
        command="python -m benchmarks.demo --work DIR",
        about=(
            "Does planning pay, and how soon is it seen? `plantune run smollm2_135m`, seed after seed: problems that "
            "were chosen to need planning, 200 fresh ones, points with their 95 % intervals."
        ),
        found={"machine": machine("torch", "transformers", "trl", "peft"), "seeds": found},
        text="\n\n".join(parts),
    )


def _row(seed: int, one: dict[str, Any]) -> tuple[Any, ...]:
    right = [f"{100 * one['right'][model]['value']:.1f} %" for model in ("untuned", "baseline", "m1")]
    differences = [Estimate(**one["minus"][name]).points().replace(" points", "") for name in one["minus"]]
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


def _others(measured: list[dict[str, Any]]) -> str:
    """What the same models do elsewhere: the share of right answers, in points, over the seeds."""
    rows = []
    for suite in BESIDE:
        shares = {
            arm: [one["beside"][suite][arm]["value"] for one in measured] for arm in ("untuned", "baseline", "m1")
        }
        gained = [plans - none for plans, none in zip(shares["m1"], shares["baseline"], strict=True)]
        means = [f"{100 * fmean(values):.1f} %" for values in shares.values()]
        rows.append((suite, *means, over_seeds(gained).points()))
    return markdown(("suite", "untuned", "baseline", "plan-tuned", "plan-tuned minus baseline"), rows)


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
