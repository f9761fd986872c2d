"""The page of benchmarks/gsm8k_tuned.py: its planned analysis over the arms that are published so far.

    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k_tuned --page

It reads gsm8k_tuned/ARM.SEED/ and the data set, and nothing of the machine that trained. What is missing is named.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean, stdev
from typing import Any

from benchmarks.gsm8k_tuned import ARMS, PAIRS, PUBLISHED, SEEDS, TRAINED, split
from benchmarks.report import markdown, write
from plantune_lite import intervals
from plantune_lite.records import Problem, read_jsonl

GOAL = 0.075
SHOWN = 10
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t by the number of seeds
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Published:
    """One arm of one seed as it was committed."""

    settings: dict[str, Any]
    scores: dict[str, dict[str, Any]]  # by problem


Runs = Mapping[str, Mapping[int, Published]]  # by arm, by seed


def write_page() -> None:
    """Write down what there is."""
    test, runs = split().test, published()
    if not runs:
        raise SystemExit("nothing is published yet: train an arm first")
    figures = {arm: of_arm(seeds, test) for arm, seeds in runs.items()}
    pairs = compared(runs, test)
    missing = [f"{arm}.{seed}" for seed in SEEDS for arm in ARMS if seed not in runs.get(arm, ())]
    missing = [name for name in missing if name not in [f"untuned.{seed}" for seed in SEEDS[1:]]]
    parts = [
        _arms(runs, figures),
        primary(figures),
        _pairs(pairs),
        _strata(runs, test),
        _training(runs),
        f"Not here yet: {', '.join(missing) or 'nothing that was planned'}; nor GRPO, other rates, ranks and plans.",
        *_examples(runs, test),
    ]
    write(
        "gsm8k_tuned",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k_tuned --work DIR, and the same with --page",
        about="What is planning worth on gsm8k for 135 million parameters? SmolLM2-135M-Instruct, all 1,319 test "
        "problems, greedy. The analysis was fixed in the script before the first training.",
        found={
            "machine": next(iter(runs[next(iter(runs))].values())).settings["machine"],
            "arms": {arm: _plain(one) for arm, one in figures.items()},
            "compared": [_plain(row) for row in pairs],
            "missing": missing,
        },
        text="\n\n".join(parts),
    )


def published() -> dict[str, dict[int, Published]]:
    """What there is, in the order of ARMS."""
    runs: dict[str, dict[int, Published]] = {}
    for arm in ARMS:
        for file in sorted(PUBLISHED.glob(f"{arm}.*/scores.jsonl")):
            settings = json.loads((file.parent / "settings.json").read_text(encoding="utf-8"))
            scores = {row["problem_id"]: row for row in read_jsonl(file)}
            runs.setdefault(arm, {})[settings["seed"]] = Published(settings, scores)
    return runs


# --- figures ----------------------------------------------------------------------------------------------------------


def shares(runs: Mapping[int, Published], problems: Sequence[Problem], seeds: Sequence[int] = ()) -> list[float]:
    """For each problem the share of the seeds that have it right; the untuned model is the same at every seed."""
    chosen = [runs.get(seed, runs[min(runs)]) for seed in seeds or runs]
    return [fmean(run.scores[problem.id]["right"] for run in chosen) for problem in problems]


def over_seeds(values: Sequence[float]) -> intervals.Estimate | None:
    """The mean and Student's t over seeds, from two of them on."""
    if len(values) < 2:
        return None
    half = T_975[len(values)] * stdev(values) / math.sqrt(len(values))
    return intervals.Estimate(fmean(values), fmean(values) - half, fmean(values) + half)


def of_arm(seeds: Mapping[int, Published], test: Sequence[Problem]) -> dict[str, Any]:
    """An arm's share right with both intervals, and what it took."""
    each = [fmean(shares(seeds, test, [seed])) for seed in seeds]
    settings = [run.settings for run in seeds.values()]
    return {
        "each": each,
        "over_problems": intervals.of_problems(shares(seeds, test)),
        "over_seeds": over_seeds(each),
        "validation": fmean(one["validation"]["accuracy"]["value"] for one in settings),
        "cut_off": fmean(one["test"]["truncated"] for one in settings),
        "tokens": fmean(one["test"]["tokens"] for one in settings),
        "training_hours": fmean(one["hours"]["training"] for one in settings),
        "answering_hours": fmean(one["hours"]["answering"] for one in settings),
        "commits": list(dict.fromkeys(commit for one in settings for commit in one["commits"])),
    }


def compared(runs: Runs, test: Sequence[Problem]) -> list[dict[str, Any]]:
    """The planned pairs, on the seeds that both have; p values are corrected for as many pairs as there are."""
    rows = []
    for arm, other in PAIRS:
        untuned = other == "untuned" and other in runs
        seeds = [seed for seed in runs.get(arm, ()) if untuned or seed in runs.get(other, ())]
        if not seeds:
            continue
        ours, theirs = shares(runs[arm], test, seeds), shares(runs[other], test, seeds)
        paired = intervals.paired(ours, theirs)
        each = [fmean(shares(runs[arm], test, [at])) - fmean(shares(runs[other], test, [at])) for at in seeds]
        rows.append(
            {"pair": f"{arm} minus {other}", "seeds": seeds, "each": each, "over_seeds": over_seeds(each)}
            | {"over_problems": paired.difference, "won": paired.won, "lost": paired.lost, "p": paired.p}
        )
    for row, p in zip(rows, intervals.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def strata(test: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Where a plan should matter."""
    return {
        "up to 2 steps": [problem for problem in test if len(problem.steps) <= 2],
        "3 steps": [problem for problem in test if len(problem.steps) == 3],
        "4 steps and more": [problem for problem in test if len(problem.steps) >= 4],
        "a number that the solution does not use": [problem for problem in test if unused(problem)],
    }


def unused(problem: Problem) -> set[float]:
    """Numbers of the question, in digits, that the solution does not use, as they are or as a percentage."""
    asked, solved = (
        {float(number.replace(",", "")) for number in NUMBER.findall(text)}
        for text in (problem.question, problem.solution or "")
    )
    return {number for number in asked if number not in solved and number / 100 not in solved}


# --- in words ---------------------------------------------------------------------------------------------------------


def primary(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The primary figure in a sentence."""
    tuned = [arm for arm in figures if arm in TRAINED]
    if not tuned:
        return "No trained arm is here yet, so there is no primary figure."
    best = max(tuned, key=lambda arm: figures[arm]["validation"])
    value = figures[best]["over_problems"].value
    low = min(one.low for one in (figures[best]["over_problems"], figures[best]["over_seeds"]) if one)
    return (
        f"Primary figure: {best}, the best of {len(tuned)} on validation, has {100 * value:.2f} % right; the goal of "
        f"{100 * GOAL:.1f} % is {'met' if value > GOAL else 'not met'}, and the lower bound, {100 * low:.2f} %, is "
        f"{'above' if low > GOAL else 'not above'} it."
        + ("" if figures[best]["over_seeds"] else " One seed: what another would give is not known.")
    )


def _arms(runs: Runs, figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for arm, one in figures.items():
        prompt = runs[arm][min(runs[arm])].settings.get("prompt")
        about = TRAINED[arm].about if arm in TRAINED else f"as it comes, prompt {prompt}"
        hours = f"{one['training_hours']:.1f} + {one['answering_hours']:.1f}"
        rows.append(
            (f"{arm}: {about}", one["over_problems"].percent(), _percent(one["over_seeds"]))
            + (" ".join(f"{100 * value:.1f}" for value in one["each"]), f"{100 * one['validation']:.1f} %")
            + (f"{one['cut_off']:.0%}", round(one["tokens"]), hours, " ".join(at[:7] for at in one["commits"]))
        )
    columns = ("arm", "right, over problems (95 %)", "over seeds (95 %)", "each seed", "validation", "cut off")
    return markdown((*columns, "tokens a reply", "hours to train + answer", "trained by commit"), rows)


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (row["pair"], row["over_problems"].points(), row["over_seeds"].points() if row["over_seeds"] else "one seed")
        + (row["won"], row["lost"], intervals.p_text(row["p_holm"]))
        for row in pairs
    ]
    columns = ("difference", "over problems (95 %)", "over seeds (95 %)", "problems won", "lost", "p (Holm)")
    return markdown(columns, rows)


def _strata(runs: Runs, test: Sequence[Problem]) -> str:
    rows = [
        (name, len(some), *(intervals.of_problems(shares(seeds, some)).percent() for seeds in runs.values()))
        for name, some in strata(test).items()
    ]
    return markdown(("problems with", "how many", *runs), rows)


def _training(runs: Runs) -> str:
    rows = []
    for name, one in ((f"{arm}.{seed}", run.settings) for arm, seeds in runs.items() for seed, run in seeds.items()):
        if one["arm"] in TRAINED:
            summary, epochs = one["training"], one["sft"]["epochs"]
            curve = {**one["curve"], "end": one["validation"]["accuracy"]["value"]}
            rows.append(
                (name, epochs, summary["steps"])
                + (f"{one['tokens_an_epoch']['learned'] * epochs / 1e6:.2f} million",)
                + (f"{summary['loss_first']} to {summary['loss_last']}",)
                + (", ".join(f"{name} {100 * value:.1f} %" for name, value in curve.items()),)
            )
    return markdown(("training", "epochs", "steps", "learned tokens", "loss", "right on validation"), rows)


def _examples(runs: Runs, test: Sequence[Problem]) -> list[str]:
    """A seeded sample of what M1 won and lost beside the baseline, of the problems with both replies."""
    both = [seed for seed in runs.get("m1", ()) if seed in runs.get("baseline", ())]
    if not both:
        return []
    plan, solution = (runs[arm][both[0]].scores for arm in ("m1", "baseline"))
    told = []
    for title, won in (("Won by plans", True), ("Lost by plans", False)):
        fit = [
            problem
            for problem in test
            if plan[problem.id]["right"] is won and solution[problem.id]["right"] is not won
            if "text" in plan[problem.id] and "text" in solution[problem.id]
        ]
        told.append(f"## {title}")
        told += [
            f"**{problem.id}**, gold {problem.answer}: {problem.question}\n\nWith a plan:\n\n"
            f"{_quoted(plan[problem.id]['text'])}\n\nWithout:\n\n{_quoted(solution[problem.id]['text'])}"
            for problem in Random(0).sample(fit, min(SHOWN, len(fit)))
        ]
    return told


def _percent(estimate: intervals.Estimate | None) -> str:
    return estimate.percent() if estimate else "one seed"


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(value) if isinstance(value, intervals.Estimate) else value for name, value in row.items()}
