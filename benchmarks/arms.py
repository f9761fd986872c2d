"""Compare ways to answer the same chains of relations, over several seeds: why do plans help?

    python -m benchmarks.arms --work DIR                    # all seeds; resumes where it was cut off
    python -m benchmarks.arms --work DIR --seeds 0 1        # only these; results of other seeds stay on the page

The recipe is the embedded default, smollm2_135m: its problems, steps and learning rate. One baseline takes as many
steps as the plan-tuned student, another learns as many tokens. Plans run backwards from the question or, with the same
lines reversed, forwards. M2 learns plans alone; the untuned or the plan-tuned model executes them. With the worked
teacher the control (the teacher's working without its plan) equals the baseline word for word, so it is not an arm.
The unit is the seed, which sets the problems, the initial adapter and the order.
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
OWN, OTHERS = 200, 60  # problems: fresh ones of the trained kind, and of each other suite
SUITES = {
    "own": "fresh, 2 hops",
    "practice_longer": "3 hops",
    "four": "4 hops",
    "practice_words": "new wordings",
    "practice_stories": "stories",
}


class Arm(NamedTuple):
    """Describe one training."""

    target: str
    forwards: bool = False
    as_many_tokens: bool = False  # learns as many tokens as M1; else as many steps


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
    "m2": "plans alone, untuned executes",
    "m2_m1": "plans alone, tuned executes",
}


def main() -> None:
    """Train, answer and write the page, seed by seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", nargs="*", choices=SEEDS, default=SEEDS)
    arguments = parser.parse_args()
    known = json.loads((HERE / "arms.json").read_text(encoding="utf-8")).get("seeds", {})
    for seed in arguments.seeds:
        if seed not in known:
            known[seed] = run_seed(arguments.work / f"seed{seed}", int(seed))
            write_page(known)


def run_seed(work: Path, seed: int) -> dict[str, Any]:
    """Train every arm of one seed and measure its share of right answers on each suite."""
    count = RECIPE.problems.limit
    problems = list(practice_problems("train", seed=seed, limit=count + OWN, levels=RECIPE.problems.levels))
    pool, fresh = problems[:count], problems[count:]
    suites = {"own": fresh, "four": list(practice_problems("test", seed=seed, limit=OTHERS, levels=(4,)))}
    for name in ("practice_longer", "practice_words", "practice_stories"):
        suites[name] = list(load_suite(name, limit=OTHERS, seed=seed, own=fresh, pool=pool).problems)
    results: dict[str, Any] = {"right": {}, "first_line": {}, "training": {}}

    def add(arm: str, suite: str, file: Path) -> None:
        scores = {score.problem_id: score for score in read_records(Score, file)}
        results["right"].setdefault(arm, {})[suite] = fmean(scores[each.id].same is True for each in suites[suite])
        if suite == "own":
            results["first_line"][arm] = fmean(first_line(scores[each.id].text) == each.steps[0] for each in fresh)

    evaluate = evaluator(seed)
    for arm, settings in TRAINED.items():
        loaded, results["training"][arm] = trained(work / arm, settings, pool, seed)
        out = work / arm
        if arm == "m1":
            for suite, problems in suites.items():
                file = work / "untuned" / f"{suite}.jsonl"
                evaluate(loaded.generate_untuned, problems, "few_shot", file, examples=pool)
                add("untuned", suite, file)
        if arm == "m2":
            evaluate(loaded.generate, fresh, "m2", out / "own.jsonl", executor=loaded.generate_untuned)
            add(arm, "own", out / "own.jsonl")
            evaluate(plan_then_execute(loaded, work / "m1"), fresh, "m1", out / "own.m1.jsonl")
            add("m2_m1", "own", out / "own.m1.jsonl")
            continue
        mode = "plain" if settings.target == "solution" else "m1"
        for suite, problems in suites.items():
            evaluate(loaded.generate, problems, mode, out / f"{suite}.jsonl")
            add(arm, suite, out / f"{suite}.jsonl")
        if arm == "m1":
            plan_use = interventions.intervene(
                interventions.as_beginning(loaded.generate),
                fresh,
                read_records(Score, out / "own.jsonl"),
                out=out / "swapped.jsonl",
                conditions=interventions.PLAN_USE,
                how=Asking(sampling=Sampling(max_tokens=RECIPE.evaluate.max_tokens, seed=seed), model=str(out)),
            )
            results["right"]["swapped"] = {"own": plan_use["conditions"]["swapped"]["value"]}
    return results


# --- training ---------------------------------------------------------------------------------------------------------


def trained(out: Path, arm: Arm, pool: Sequence[Problem], seed: int) -> tuple[Any, dict[str, Any]]:
    """Load the student with an arm's adapter, trained first if needed, and the summary of its training."""
    part, student = RECIPE.sft, RECIPE.student
    file = out / "summary.json"
    if file.is_file():
        return load_student(student, adapter=out), json.loads(file.read_text(encoding="utf-8"))
    loaded = load_student(student, training=True, seed=seed)
    rows = rows_of(pool, arm.target, out / "corpus", forwards=arm.forwards, seed=seed)
    steps = part.max_steps
    if arm.as_many_tokens:
        planned = rows_of(pool, TRAINED["m1"].target, out / "corpus.m1", seed=seed)
        steps = round(steps * learned(loaded, planned) / learned(loaded, rows))
    reporter = Reporter(say=lambda line: None, show=lambda line, last: print(out.name, line, flush=True))
    training = Training(seed=seed, max_length=student.max_length, reporter=reporter)
    summary = sft.train(loaded, rows, replace(part, target=arm.target, max_steps=steps), out, training)
    summary = {name: summary[name] for name in ("steps", "trained_tokens", "loss_first", "loss_last")}
    summary["learned_tokens"] = round(learned(loaded, rows) * steps * part.batch_size * part.accumulate)
    write_whole(file, json.dumps(summary))
    return loaded, summary


def rows_of(
    pool: Sequence[Problem], target: str, out: Path, *, forwards: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Build the rows of the recipe's own corpus for a target."""
    trajectories = [worked(problem, "forwards" if forwards else None) for problem in pool]
    corpus.build_corpus(trajectories, pool, {}, corpus.Wanted(RECIPE.corpus, target=target, seed=seed), out)
    return list(read_jsonl(out / "train.jsonl"))


def learned(loaded: Any, rows: Sequence[dict[str, Any]]) -> float:
    """Average the tokens that a row teaches."""
    return fmean(lesson.learned for lesson in data.lessons(loaded, rows, RECIPE.student.max_length).kept)


# --- answering --------------------------------------------------------------------------------------------------------


def evaluator(seed: int) -> Callable[..., None]:
    """Return a function that answers greedily, as the recipe does, and grades."""
    greedy = Sampling(max_tokens=RECIPE.evaluate.max_tokens, seed=seed)

    def evaluate(generate: Generate, problems: Sequence[Problem], mode: str, out: Path, **settings: Any) -> None:
        figures = evaluate_problems(
            generate, problems, mode=mode, out=out, how=Asking(sampling=greedy, model=str(out.parent), **settings)
        )
        print(figures["line"], flush=True)

    return evaluate


def plan_then_execute(planner: Any, executor: Path) -> Generate:
    """Plan with this student, then continue each plan with the same model and another adapter."""

    def generate(prompts: Sequence[Any], sampling: Any) -> list[list[Any]]:
        plans = [plan_alone(reply) for [reply] in planner.generate(prompts, replace(sampling, stop=(CLOSE,)))]
        with_plans = [
            (*prompt, {"role": "assistant", "content": render(plan)})
            for prompt, plan in zip(prompts, plans, strict=True)
        ]
        with planner.wearing(executor):
            replies = planner.generate(with_plans, sampling)
        return [[replace(reply, text=render(plan, reply.text))] for plan, [reply] in zip(plans, replies, strict=True)]

    return generate


def first_line(text: str) -> str:
    """Return the first line of the working, after the plan."""
    return next((line.strip() for line in text.rpartition(CLOSE)[2].splitlines() if line.strip()), "")


# --- the page ---------------------------------------------------------------------------------------------------------


def write_page(results: dict[str, dict[str, Any]]) -> None:
    """Write the page and the chart over the seeds measured so far."""
    seeds = [results[seed] for seed in sorted(results)]

    def right(arm: str, suite: str = "own") -> list[float]:
        return [seed["right"][arm][suite] for seed in seeds]

    def percent(values: Sequence[float]) -> str:
        return f"{100 * fmean(values):.1f} %"

    arms = [
        (
            SHOWN[arm],
            mean_text(right(arm), "percent"),
            ", ".join(f"{100 * value:.0f}" for value in right(arm)),
            percent([seed["first_line"][arm] for seed in seeds]) if arm in seeds[0]["first_line"] else "",
        )
        for arm in SHOWN
    ]
    differences = [
        (
            f"{SHOWN['m1']} minus {SHOWN[arm]}",
            mean_text([ours - theirs for ours, theirs in zip(right("m1"), right(arm), strict=True)], "points"),
        )
        for arm in SHOWN
        if arm != "m1"
    ]
    on_all_suites = [arm for arm in SHOWN if len(seeds[0]["right"][arm]) > 1]
    suites = [(SHOWN[arm], *(percent(right(arm, suite)) for suite in SUITES)) for arm in on_all_suites]
    trainings = [
        (
            SHOWN[arm],
            *(f"{fmean(seed['training'][arm][name] for seed in seeds):,.0f}" for name in ("steps", "learned_tokens")),
            f"{fmean(seed['training'][arm]['loss_last'] for seed in seeds):.3f}",
        )
        for arm in TRAINED
    ]
    if len(seeds) > 1:
        rows = [(SHOWN[arm], over_seeds(right(arm))) for arm in SHOWN]
        chart = charts.shares(f"SmolLM2-135M on chains of relations, {len(seeds)} seeds", rows)
        (HERE / "arms.svg").write_text(chart + "\n", encoding="utf-8")
    parts = [
        "![right answers by arm](arms.svg)",
        markdown((f"{OWN} fresh problems of 2 hops", "right", "each seed", "first line of the working right"), arms),
        markdown(("difference", "points, t interval over seeds"), differences),
        "## Other kinds of problems",
        markdown((f"{OTHERS} problems per suite and seed", *SUITES.values()), suites),
        "## Training",
        markdown(("arm", "steps", "learned tokens", "last loss"), trainings),
    ]
    write(
        "arms",
        command="python -m benchmarks.arms --work DIR",
        about=(
            "Why do plans help? The recipe smollm2_135m in several arms. A worked solution must begin where the "
            "chain begins, two hops from the question; a plan that runs backwards from the question finds that line."
        ),
        found={"machine": machine("torch", "transformers", "trl", "peft"), "seeds": results},
        text="\n\n".join(parts),
    )


def mean_text(values: Sequence[float], kind: str) -> str:
    """Format a mean over seeds with its t interval; the figure alone for one seed."""
    if len(values) == 1:
        return f"{100 * values[0]:.1f}, one seed"
    return getattr(over_seeds(list(values)), kind)()


if __name__ == "__main__":
    main()
