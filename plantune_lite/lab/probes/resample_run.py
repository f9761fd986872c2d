"""Measure whether redrawing weak plans pays off on a run's test problems (`plantune evaluate RUN --resample N`).

    resample_run(Path("runs/mine"), tries=4) -> {"line": "own: judged 41.2 % ...", "suites": {"own": {...}}, ...}

Compares four ways with the same model and problems, none of which the judge was fitted on: `judged` draws up to N plans
until the judge accepts one; `one` is a single reply, as evaluation asks for it; `plain` is the mean of N replies drawn
at the temperature at which plans are redrawn; `majority` is the vote of as many of these as cost what `judged` costs.
Answers are kept in probe/resampled/, one file per suite and kind of reply; the same call resumes an interrupted one.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from plantune_lite.evaluate import metrics, modes, stats
from plantune_lite.evaluate.answers import Asking, Show, answered
from plantune_lite.evaluate.ask import final_student
from plantune_lite.evaluate.stats import Estimate, p_text
from plantune_lite.files import write_whole
from plantune_lite.lab.probes import resample, saved_judge
from plantune_lite.lab.probes.run import add
from plantune_lite.lab.probes.saved_judge import Kept
from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student.load import Loaded
from plantune_lite.terminal import table
from plantune_lite.types import Generate, Problem, RunError, Sampling, Score

LEAST = 5  # problems that are new to the judge: fewer say nothing about it
OTHERS = ("one", "plain", "majority")  # what the judged way is compared with


def resample_run(
    run: Path,
    *,
    tries: int,
    say: Callable[[str], object] = print,
    show: Show = lambda line, last: None,
) -> dict[str, Any]:
    """Answer a run's test problems in the four ways and compare them."""
    kept = saved_judge.judge_of(run)  # before anything is loaded
    suites = dict(_suites(run, kept, say))
    recipe, _, loaded = final_student(run, say)
    results: dict[str, Any] = {"tries": tries, "suites": {}}
    for name, (problems, left_out) in suites.items():
        out = run / saved_judge.FOLDER / "resampled"
        scores = _answered(run, recipe, loaded, kept, name, problems, tries, out, show)
        results["suites"][name] = {"left_out": left_out, **compared(scores, problems, seed=recipe.seed)}
    results["line"] = "; ".join(f"{name}: {line(figures)}" for name, figures in results["suites"].items())
    file = run / saved_judge.FOLDER / "resampled" / f"results.{tries}.json"
    write_whole(file, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    add(run, "live", {"tries": tries, "columns": COLUMNS, "rows": list(rows(results))})
    return results


def _suites(run: Path, kept: Kept, say: Callable[[str], object]) -> Iterator[tuple[str, tuple[list[Problem], int]]]:
    """Yield every suite without the problems that the judge was fitted on, and their number."""
    suites = RunFolder(run).suite_problems()
    if not suites:
        raise RunError(f"{run} has no test problems yet: plantune evaluate {run} makes them")
    there = False
    for name, suite in suites.items():
        if any(problem.kind == "code" for problem in suite):
            say(f"{name} is left out: its answers are programs, which have no plan to judge")
            continue
        unknown = [problem for problem in suite if not kept.knows(problem)]
        count = len(suite) - len(unknown)
        if len(unknown) < LEAST:
            say(f"{name} is left out: {len(unknown)} of its {len(suite)} problems are new to the judge, {LEAST} needed")
            continue
        if count:
            say(f"{name}: {count} of {len(suite)} problems are left out: the judge was fitted on them")
        there = True
        yield name, (unknown, count)
    if not there:
        raise RunError(
            f"no suite has {LEAST} problems that are new to the judge, so it cannot be measured: add a suite "
            "(evaluate.suites), or hold out more problems than are tested on (problems.held_out, evaluate.limit)"
        )


# --- asking -----------------------------------------------------------------------------------------------------------


def _answered(
    run: Path,
    recipe: Recipe,
    loaded: Loaded,
    kept: Kept,
    suite: str,
    problems: Sequence[Problem],
    tries: int,
    out: Path,
    show: Show,
) -> dict[str, list[Score]]:
    """Score the judged replies, the single ones, and several drawn ones of each problem."""
    part, seed = recipe.evaluate, recipe.seed
    mode = modes.mode_of(recipe, read_manifest(run).summaries)
    as_asked = Sampling(temperature=part.temperature, max_tokens=part.max_tokens, seed=seed)
    heat = max(part.temperature, resample.TEMPERATURE)
    drawn = Sampling(temperature=heat, n=tries, max_tokens=part.max_tokens, seed=seed)
    again = resample.resampling(loaded, kept.judge, tries=tries, plan_is_all=kept.plan_is_all)
    ways: dict[str, tuple[Generate, Sampling, str]] = {
        "judged": (again, as_asked, f"judged{tries}.{kept.identity}"),
        "one": (loaded.generate, as_asked, "one"),
        "drawn": (loaded.generate, drawn, f"drawn{tries}"),
    }
    weights, scores = saved_judge.weights_of(run), {}
    for name, (generate, sampling, file) in ways.items():
        how = Asking(sampling=sampling, model=weights, executor=loaded.generate_untuned, show=show)
        answer, prompt = modes.way_to_answer(mode, generate, problems, how)
        written = out / f"{suite}.{file}.jsonl"
        scores[name] = answered(problems, answer, mode=name, out=written, how=how, settings={"prompt": prompt})
    return scores


# --- comparing --------------------------------------------------------------------------------------------------------


def compared(scores: Mapping[str, Sequence[Score]], problems: Sequence[Problem], *, seed: int) -> dict[str, Any]:
    """Compare right answers and tokens of the four ways, and the judged way with each other one by problem."""
    of = {name: metrics.by_problem(these) for name, these in scores.items()}
    ids = [problem.id for problem in problems]
    spent = fmean(score.tokens for score in scores["judged"])
    drawn = [of["drawn"][id] for id in ids]
    voting = resample.voters(drawn, spent, lambda score: score.tokens)
    right = {
        "judged": [float(of["judged"][id][0].same is True) for id in ids],
        "one": [float(of["one"][id][0].same is True) for id in ids],
        "plain": [fmean(score.same is True for score in some) for some in drawn],
        "majority": [
            float(metrics.majority_is_right(some, item.choices)) for some, item in zip(voting, problems, strict=True)
        ],
    }
    tokens = {
        "judged": spent,
        "one": fmean(score.tokens for score in scores["one"]),
        "plain": fmean(score.tokens for score in scores["drawn"]),
        "majority": fmean(sum(score.tokens for score in some) for some in voting),
    }
    paired = {name: stats.paired(right["judged"], right[name], seed=seed) for name in OTHERS}
    corrected = dict(zip(paired, stats.holm([test.p for test in paired.values()]), strict=True))
    return {
        "problems": len(ids),
        "ways": {
            name: {**asdict(stats.of_problems(values, seed=seed)), "tokens": round(tokens[name], 1)}
            for name, values in right.items()
        },
        "votes": round(fmean(map(len, voting)), 2),
        "judged_minus": {name: {**asdict(test), "p": corrected[name]} for name, test in paired.items()},
    }


# --- in words ---------------------------------------------------------------------------------------------------------

COLUMNS = ("suite", "way", "right (95 %)", "tokens a problem", "judged minus it", "p")
_WAYS = {
    "judged": "weak plans drawn again",
    "one": "a single reply",
    "plain": "a drawn reply",
    "majority": "majority",
}


def rows(results: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table, one per suite and way."""
    for suite, figures in results["suites"].items():
        for name, way in figures["ways"].items():
            many = f" of {figures['votes']:.1f}" if name == "majority" else ""
            right = Estimate(way["value"], way["low"], way["high"]).percent()
            paired = figures["judged_minus"].get(name)
            points = Estimate(**paired["difference"]).points() if paired else ""
            p = p_text(paired["p"]) if paired else ""
            yield f"{suite}, {figures['problems']}", f"{_WAYS[name]}{many}", right, f"{way['tokens']:.0f}", points, p


def as_text(results: Mapping[str, Any]) -> str:
    """Format the table for a terminal."""
    return table(f"up to {results['tries']} plans", COLUMNS, list(rows(results)))


def line(figures: Mapping[str, Any]) -> str:
    """Summarise one suite in a line."""
    ways = figures["ways"]
    listed = (f"{_WAYS[name]} {100 * ways[name]['value']:.1f} %" for name in ("judged", *OTHERS))
    minus = figures["judged_minus"]["majority"]
    points = Estimate(**minus["difference"]).points()
    return f"{', '.join(listed)} right; at equal tokens judged minus majority {points}, p {p_text(minus['p'])}"
