"""Measure what GRPO adds to a plan-tuned student, and which reward adds most: smollm2_135m_grpo, seed after seed.

    python -m benchmarks.grpo_rewards --work DIR                          # resumes where it was cut off
    python -m benchmarks.grpo_rewards --work DIR --runs answer0 guided0   # these; the others stay on the page

Each run is a `plantune run smollm2_135m_grpo` with another seed or reward. Rewards are those of `plantune ablate
reward`: 2 for a right answer, at most 1 for a plan. The seed is the unit. Plans are compared by their words, since the
worked teacher cannot judge.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.demo import over_seeds, plantune
from benchmarks.report import HERE, machine, markdown, write
from plantune_lite.evaluate import compare
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.recipe.load import load_recipe
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.studies.definitions import study

SEEDS = (0, 1, 2)
REWARDS = ("answer", "alignment", "guided")
TUNED_ON = ("answer100",)  # the seed that the settings were chosen on
NAMES = {"answer": "right answers", "alignment": "answers + plans like the reference", "guided": "guided groups"}


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", nargs="*", default=[f"{reward}{seed}" for reward in REWARDS for seed in SEEDS])
    written = json.loads((HERE / "grpo_rewards.json").read_text(encoding="utf-8"))
    parser.add_argument("--note", default=written["note"], help="what the tables must not be read without")
    arguments = parser.parse_args()
    known = written["runs"]
    variants = {
        variant.name: variant.settings for variant in study("reward", load_recipe("smollm2_135m_grpo")).variants
    }
    for name in arguments.runs:
        if name not in known:
            reward = name.rstrip("0123456789")
            settings = (f"seed={name.removeprefix(reward)}", f"name={name}", *variants[reward])
            plantune(arguments.work, *settings, recipe="smollm2_135m_grpo")
            known[name] = figures(arguments.work / name)
            write_page(known, arguments.note)


def figures(run: Path) -> dict[str, Any]:
    """Read the results of a finished run."""
    manifest = read_manifest(run)
    standing = compare.standing([run])
    added = next(pair for pair in standing.comparisons if (pair.model, pair.reference) == ("grpo", "m1"))
    return {
        "right": {row.model: vars(row.accuracy) for row in standing.rows},
        "added": vars(added.paired.difference),
        "won": added.paired.won,
        "lost": added.paired.lost,
        "seconds": {name: entry.seconds for name, entry in manifest.stages.items()},
        "line": manifest.line("grpo"),
        "rewards": manifest.summaries.grpo.rewards,
        "recipe": json.loads((run / "recipe.json").read_text(encoding="utf-8")),
    }


def write_page(results: dict[str, Any], note: str) -> None:
    """Write the page; the seed that the settings were tuned on has its own table."""
    columns = ("run", "untuned", "after SFT", "after GRPO", "added", "won", "lost", "minutes")
    parts = []
    for reward in REWARDS:
        runs = {f"{reward}{seed}": results[f"{reward}{seed}"] for seed in SEEDS if f"{reward}{seed}" in results}
        if not runs:
            continue
        parts += [f"## {NAMES[reward]}", markdown(columns, [_row(name, run) for name, run in runs.items()])]
        if len(runs) > 1:
            mean = over_seeds([run["added"]["value"] for run in runs.values()])
            parts.append(f"Over {len(runs)} seeds GRPO added {mean.points()}, by the t interval.")
        parts.append("\n".join(f"- {name}: {run['line']}" for name, run in runs.items()))
    if tuned := [_row(name, results[name]) for name in TUNED_ON if name in results]:
        parts += ["## The seed that the settings were tuned on", markdown(columns, tuned)]
    write(
        "grpo_rewards",
        command="python -m benchmarks.grpo_rewards --work DIR",
        about=(
            "What does GRPO add to a plan-tuned student, and which reward adds most? `smollm2_135m_grpo`, the same 200 "
            "fresh problems before and after; points with their 95 % intervals."
        ),
        found={"machine": machine("torch", "transformers", "trl", "peft"), "note": note, "runs": results},
        text="\n\n".join([*parts, note]),
    )


def _row(name: str, run: dict[str, Any]) -> tuple[Any, ...]:
    right = [f"{100 * run['right'][model]['value']:.1f} %" for model in ("untuned", "m1", "grpo")]
    minutes = sum(run["seconds"].values()) / 60
    added = Estimate(**run["added"]).points().replace(" points", "")
    return (name, *right, added, run["won"], run["lost"], f"{minutes:.1f}")


if __name__ == "__main__":
    main()
