"""Why does planning pay? Nine ways to answer the same chains of relations, seed after seed.

    python -m benchmarks.arms --work DIR                    # all seeds; resumes where it was cut off
    python -m benchmarks.arms --work DIR --seeds 0 1        # these; what the others came to stays on the page

The recipe is the embedded default, smollm2_135m: its problems, steps and learning rate. A baseline has as many steps as
the plan-tuned student, another as many learned tokens. Plans run backwards from the question or, the same lines turned
round, forwards. M2 learns plans alone, which the untuned model carries out, or the plan-tuned one. With the worked
teacher the control (the teacher's working without its plan) is word for word the baseline, so it is no arm of its own.
The unit is the seed: other problems, another adapter at the start and another order.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.demo import over_seeds
from benchmarks.report import HERE, machine, markdown, write
from plantune_lite.distill import corpus
from plantune_lite.distill.problem import worked
from plantune_lite.evaluate import interventions
from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.modes import evaluate_problems, plan_alone
from plantune_lite.files import read_jsonl, read_records, write_whole
from plantune_lite.plan import CLOSE, render
from plantune_lite.problems.load import load_suite
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe
from plantune_lite.report import charts
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student.load import load_student
from plantune_lite.train import data, sft
from plantune_lite.types import Generate, Problem, Sampling, Score

RECIPE = load_recipe("smollm2_135m")
SEEDS = ("0", "1", "2", "3", "4")
OWN, OTHERS = 200, 60  # problems asked: fresh ones of the trained kind, and of each other suite
SUITES = {
    "own": "fresh, 2 hops",
    "practice_longer": "3 hops",
    "four": "4 hops",
    "practice_words": "new wordings",
    "practice_stories": "stories",
}


class Arm(NamedTuple):
    """One training."""

    target: str
    forwards: bool = False
    as_many_tokens: bool = False  # learned, as M1 has; else as many steps


TRAINED = {
    "m1": Arm("plan+solution"),
    "m1_forwards": Arm("plan+solution", forwards=True),
    "baseline": Arm("solution"),
    "baseline_tokens": Arm("solution", as_many_tokens=True),
    "m2": Arm("plan"),
}
SHOWN = {
    "untuned": "untuned, 3 examples",
    "baseline": "solutions, equal steps",
    "baseline_tokens": "solutions, equal tokens",
    "m1_forwards": "plans forwards",
    "m1": "plans backwards",
    "swapped": "another problem's plan",
    "m2": "plans alone, untuned works",
    "m2_m1": "plans alone, tuned works",
}


def main() -> None:
    """Train, answer and write down, seed after seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", nargs="*", choices=SEEDS, default=SEEDS)
    arguments = parser.parse_args()
    known = json.loads((HERE / "arms.json").read_text(encoding="utf-8")).get("seeds", {})
    for seed in arguments.seeds:
        if seed not in known:
            known[seed] = one_seed(arguments.work / f"seed{seed}", int(seed))
            write_down(known)


def one_seed(work: Path, seed: int) -> dict[str, Any]:
    """Every arm of one seed: how it was trained, and how much of each suite it answers right."""
    count = RECIPE.problems.limit
    problems = list(practice_problems("train", seed=seed, limit=count + OWN, levels=RECIPE.problems.levels))
    pool, fresh = problems[:count], problems[count:]
    suites = {"own": fresh, "four": list(practice_problems("test", seed=seed, limit=OTHERS, levels=(4,)))}
    for name in ("practice_longer", "practice_words", "practice_stories"):
        suites[name] = list(load_suite(name, limit=OTHERS, seed=seed, own=fresh, pool=pool).problems)
    found: dict[str, Any] = {"right": {}, "first_line": {}, "training": {}}

    def keep(arm: str, suite: str, file: Path) -> None:
        scores = {one.problem_id: one for one in read_records(Score, file)}
        found["right"].setdefault(arm, {})[suite] = fmean(scores[one.id].same is True for one in suites[suite])
        if suite == "own":
            found["first_line"][arm] = fmean(first_line(scores[one.id].text) == one.steps[0] for one in fresh)

    ask = asking(seed)
    for arm, settings in TRAINED.items():
        loaded, found["training"][arm] = trained(work / arm, settings, pool, seed)
        out = work / arm
        if arm == "m1":
            for suite, asked in suites.items():
                ask(loaded.generate_untuned, asked, "few_shot", work / "untuned" / f"{suite}.jsonl", examples=pool)
                keep("untuned", suite, work / "untuned" / f"{suite}.jsonl")
        if arm == "m2":
            ask(loaded.generate, fresh, "m2", out / "own.jsonl", executor=loaded.generate_untuned)
            keep(arm, "own", out / "own.jsonl")
            ask(both(loaded, work / "m1"), fresh, "m1", out / "own.m1.jsonl")
            keep("m2_m1", "own", out / "own.m1.jsonl")
            continue
        for suite, asked in suites.items():
            ask(loaded.generate, asked, "plain" if settings.target == "solution" else "m1", out / f"{suite}.jsonl")
            keep(arm, suite, out / f"{suite}.jsonl")
        if arm == "m1":
            use = interventions.intervene(
                interventions.as_beginning(loaded.generate),
                fresh,
                read_records(Score, out / "own.jsonl"),
                out=out / "swapped.jsonl",
                conditions=interventions.PLAN_USE,
                how=Asking(sampling=Sampling(max_tokens=RECIPE.evaluate.max_tokens, seed=seed), model=str(out)),
            )
            found["right"]["swapped"] = {"own": use["conditions"]["swapped"]["value"]}
    return found


# --- training ---------------------------------------------------------------------------------------------------------


def trained(out: Path, arm: Arm, pool: Sequence[Problem], seed: int) -> tuple[Any, dict[str, Any]]:
    """The student with the adapter of an arm, and how it was trained."""
    part, wanted = RECIPE.sft, RECIPE.student
    done = out / "summary.json"
    if done.is_file():
        return load_student(wanted, adapter=out), json.loads(done.read_text(encoding="utf-8"))
    loaded = load_student(wanted, training=True, seed=seed)
    rows = rows_of(pool, arm.target, out / "corpus", forwards=arm.forwards, seed=seed)
    steps = part.max_steps
    if arm.as_many_tokens:
        planned = rows_of(pool, TRAINED["m1"].target, out / "corpus.m1", seed=seed)
        steps = round(steps * learned(loaded, planned) / learned(loaded, rows))
    reporter = Reporter(say=lambda line: None, show=lambda line, last: print(out.name, line, flush=True))
    training = Training(seed=seed, max_length=wanted.max_length, reporter=reporter)
    summary = sft.train(loaded, rows, replace(part, target=arm.target, max_steps=steps), out, training)
    summary = {name: summary[name] for name in ("steps", "trained_tokens", "loss_first", "loss_last")}
    summary["learned_tokens"] = round(learned(loaded, rows) * steps * part.batch_size * part.accumulate)
    write_whole(done, json.dumps(summary))
    return loaded, summary


def rows_of(
    pool: Sequence[Problem], target: str, out: Path, *, forwards: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Make the rows that the recipe's own corpus has for a target."""
    trajectories = [worked(problem, "forwards" if forwards else None) for problem in pool]
    corpus.build_corpus(trajectories, pool, {}, corpus.Wanted(RECIPE.corpus, target=target, seed=seed), out)
    return list(read_jsonl(out / "train.jsonl"))


def learned(loaded: Any, rows: Sequence[dict[str, Any]]) -> float:
    """Tokens that a row teaches, on average."""
    lessons = data.lessons(loaded, rows, RECIPE.student.max_length).kept
    return fmean(one.learned for one in lessons)


# --- answering --------------------------------------------------------------------------------------------------------


def asking(seed: int) -> Callable[..., None]:
    """Ask greedily, as the recipe does, and grade."""

    greedy = Sampling(max_tokens=RECIPE.evaluate.max_tokens, seed=seed)

    def ask(generate: Generate, problems: Sequence[Problem], mode: str, out: Path, **settings: Any) -> None:
        figures = evaluate_problems(
            generate, problems, mode=mode, out=out, how=Asking(sampling=greedy, model=str(out.parent), **settings)
        )
        print(figures["line"], flush=True)

    return ask


def both(planner: Any, executor: Path) -> Generate:
    """Plans of the one student, each gone on from by the same model with another adapter."""

    def generate(prompts: Sequence[Any], sampling: Any) -> list[list[Any]]:
        planned = [reply for [reply] in planner.generate(prompts, replace(sampling, stop=(CLOSE,)))]
        plans = [plan_alone(reply) for reply in planned]
        begun = [
            (*prompt, {"role": "assistant", "content": render(plan)})
            for prompt, plan in zip(prompts, plans, strict=True)
        ]
        with planner.wearing(executor):
            worked_out = planner.generate(begun, sampling)
        return [
            [replace(reply, text=render(plan, reply.text))] for plan, [reply] in zip(plans, worked_out, strict=True)
        ]

    return generate


def first_line(text: str) -> str:
    """The first line of the working, behind the plan."""
    return next((line.strip() for line in text.rpartition(CLOSE)[2].splitlines() if line.strip()), "")


# --- writing it down --------------------------------------------------------------------------------------------------


def write_down(found: dict[str, dict[str, Any]]) -> None:
    """Write the page and the chart over the seeds that are known."""
    seeds = [found[seed] for seed in sorted(found)]

    def right(arm: str, suite: str = "own") -> list[float]:
        return [one["right"][arm][suite] for one in seeds]

    def percent(values: Sequence[float]) -> str:
        return f"{100 * fmean(values):.1f} %"

    arms = [
        (
            SHOWN[arm],
            over(right(arm), "percent"),
            ", ".join(f"{100 * value:.0f}" for value in right(arm)),
            percent([one["first_line"][arm] for one in seeds]) if arm in seeds[0]["first_line"] else "",
        )
        for arm in SHOWN
    ]
    minus = [
        (
            f"{SHOWN['m1']} minus {SHOWN[arm]}",
            over([ours - theirs for ours, theirs in zip(right("m1"), right(arm), strict=True)], "points"),
        )
        for arm in SHOWN
        if arm != "m1"
    ]
    everywhere = [arm for arm in SHOWN if len(seeds[0]["right"][arm]) > 1]
    others = [(SHOWN[arm], *(percent(right(arm, suite)) for suite in SUITES)) for arm in everywhere]
    trainings = [
        (
            SHOWN[arm],
            *(f"{fmean(one['training'][arm][name] for one in seeds):,.0f}" for name in ("steps", "learned_tokens")),
            f"{fmean(one['training'][arm]['loss_last'] for one in seeds):.3f}",
        )
        for arm in TRAINED
    ]
    if len(seeds) > 1:
        rows = [(SHOWN[arm], over_seeds(right(arm))) for arm in SHOWN]
        chart = charts.shares(f"SmolLM2-135M on chains of relations, {len(seeds)} seeds", rows)
        (HERE / "arms.svg").write_text(chart + "\n", encoding="utf-8")
    parts = [
        "![share right by arm](arms.svg)",
        markdown((f"{OWN} fresh problems of 2 hops", "right", "each seed", "first line of the working right"), arms),
        markdown(("difference", "points, t interval over seeds"), minus),
        "## Where the problems are of another kind",
        markdown((f"{OTHERS} problems a suite and seed", *SUITES.values()), others),
        "## What each learned from",
        markdown(("arm", "steps", "learned tokens", "last loss"), trainings),
    ]
    write(
        "arms",
        command="python -m benchmarks.arms --work DIR",
        about=(
            "Why does planning pay? The recipe smollm2_135m in several arms. A worked solution must begin where the "
            "asked chain begins, two hops from the question; a plan that runs backwards from it finds that line."
        ),
        found={"machine": machine("torch", "transformers", "trl", "peft"), "seeds": found},
        text="\n\n".join(parts),
    )


def over(values: Sequence[float], kind: str) -> str:
    """A mean over seeds with its t interval; of one seed the figure alone."""
    if len(values) == 1:
        return f"{100 * values[0]:.1f}, one seed"
    return getattr(over_seeds(list(values)), kind)()


if __name__ == "__main__":
    main()
