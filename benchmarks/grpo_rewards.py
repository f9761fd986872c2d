"""Which reward teaches a small student more? The answer, answer and plan, or guided groups (PTA-GRPO); three seeds.

    python -m benchmarks.grpo_rewards --work DIR              # goes on where it was cut off
    python -m benchmarks.grpo_rewards --work DIR --seed 1     # only this seed (or --arm): a process a core, then all

All arms start from the same adapter (a short SFT on plans), have the same prompts, steps and completions a step, and
differ in the reward alone. Tested on fresh problems of templates that training has seen, where a student of this size
can move. The judge arm takes a teacher that can judge plans, and there is none here: it is not among them.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

import torch

from benchmarks import arms
from benchmarks.report import machine, markdown, write
from plantune_lite.evaluate import stats
from plantune_lite.files import read_jsonl, write_whole
from plantune_lite.plan import ask_plainly
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.schema import GRPO, SFT, Student
from plantune_lite.student.load import load_student
from plantune_lite.train import grpo, rewards
from plantune_lite.types import Problem

ARMS = {"answer": "answer", "answer + plan": "answer+plan", "guided": "guided"}
SEEDS = (0, 1, 2)
PROBLEMS, TESTED, WARM_STEPS = 240, 120, 20
STEPS, PROMPTS, GROUP, PLANS, CAP, LEARNING_RATE = 16, 2, 6, 3, 96, 1e-4
SMOOTH = 5  # steps
PART = Student("smollm2_135m", bits=32, max_length=512, checkpointing=False)


def main() -> None:
    """Reinforce, answer, compare, write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, choices=SEEDS)
    parser.add_argument("--arm", choices=ARMS)
    arguments = parser.parse_args()
    work = arguments.work
    train = list(practice_problems("train", seed=0, limit=PROBLEMS, levels=arms.LEVELS))
    seen = {problem.question for problem in train}
    fresh = [
        p for p in practice_problems("train", seed=1, limit=2 * TESTED, levels=arms.LEVELS) if p.question not in seen
    ]
    fresh = fresh[:TESTED]
    warm = work / "sft"
    if not (warm / "fresh.jsonl").is_file():
        warmed_up(warm, train, work)
        arms.answer(load_student(PART, adapter=warm), fresh, "m1", warm / "fresh.jsonl")
    for seed in SEEDS if arguments.seed is None else (arguments.seed,):
        for reward in ARMS.values() if arguments.arm is None else (ARMS[arguments.arm],):
            reinforced(work / f"{reward}{seed}", warm, train, fresh, reward, seed)
    if arguments.seed is None and arguments.arm is None:
        write_down(work, fresh)


def warmed_up(out: Path, train: list[Problem], work: Path) -> None:
    """The adapter that all arms start from."""
    from plantune_lite.train import sft

    loaded = load_student(PART, training=True)
    part = SFT(max_steps=WARM_STEPS, batch_size=8, accumulate=1, learning_rate=1e-3, save_steps=10)
    sft.train(loaded, arms.rows_of(train, "plan+solution", work), part, out, max_length=PART.max_length)


def asked(problems: list[Problem]) -> list[dict]:
    """Prompts as corpus/prompts.jsonl has them."""
    return [
        {
            "problem_id": one.id,
            "prompt": list(ask_plainly(one)),
            "answer": one.answer,
            "choices": list(one.choices),
            "kind": one.kind,
            "plan": list(one.extra["plan"]),
        }
        for one in problems
    ]


def reinforced(out: Path, warm: Path, train: list[Problem], fresh: list[Problem], reward: str, seed: int) -> None:
    """One arm of one seed, its figures and its answers."""
    if (out / "fresh.jsonl").is_file() and (out / "summary.json").is_file():
        return
    part = GRPO(
        reward=reward,
        steps=STEPS,
        group=GROUP,
        plans=PLANS,
        continuations=GROUP // PLANS,
        prompts_per_step=PROMPTS,
        learning_rate=LEARNING_RATE,
        max_completion=CAP,
        save_steps=10,
    )
    rows = asked(train)
    if not (out / "summary.json").is_file():
        torch.manual_seed(seed)
        right: dict[int, float] = {}

        def metric(step: int, **figures: float) -> None:
            right[step] = figures.get("right_answer", 2 * figures.get("guided_outcome", 0.0)) / 2
            out.mkdir(parents=True, exist_ok=True)
            with open(out / "right.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "right": right[step]}) + "\n")

        loaded = load_student(PART, training=True, adapter=warm, seed=seed)
        summary = grpo.train(
            loaded,
            rows,
            lambda most: rewards.of(part, rows, max_completion=most),
            part,
            out,
            passed=rewards.right_answer,
            max_length=PART.max_length,
            seed=seed,
            metric=metric,
            show=lambda line, last: print(out.name, line, flush=True),
        )
        write_whole(out / "summary.json", json.dumps(summary))
    arms.answer(load_student(PART, adapter=out), fresh, "m1", out / "fresh.jsonl")


# --- writing it down --------------------------------------------------------------------------------------------------


def write_down(work: Path, fresh: list[Problem]) -> None:
    """Each arm over its seeds, the problem as the unit; and the steps to the level that all arms reached."""
    start = arms.shares([work / "sft" / "fresh.jsonl"], fresh)
    files = {arm: [work / f"{reward}{seed}" / "fresh.jsonl" for seed in SEEDS] for arm, reward in ARMS.items()}
    found = {"before": start, **{arm: arms.shares(these, fresh) for arm, these in files.items()}}
    by_seed = {arm: [fmean(arms.shares([file], fresh)) for file in these] for arm, these in files.items()}
    curves = {
        arm: [smoothed(work / f"{reward}{seed}" / "right.jsonl") for seed in SEEDS] for arm, reward in ARMS.items()
    }
    level = min(fmean(curve[-1] for curve in these) for these in curves.values())
    steps = {arm: [reached(curve, level) for curve in these] for arm, these in curves.items()}
    rows = [
        (
            arm,
            stats.of_problems(values).percent(),
            ", ".join(f"{100 * one:.1f}" for one in by_seed.get(arm, [])),
            ", ".join(str(one or "never") for one in steps.get(arm, [])),
        )
        for arm, values in found.items()
    ]
    text = markdown(
        ("reward", "right (95 %)", "each seed, %", f"steps to {level:.0%} of training answers right, each seed"), rows
    )
    names = list(ARMS)
    pairs = [(arm, "before") for arm in names] + [(other, names[0]) for other in names[1:]]
    compared = [stats.paired(found[one], found[other]) for one, other in pairs]
    corrected = stats.holm([one.p for one in compared])
    rows = [
        (f"{one} minus {other}", pair.difference.points(), pair.won, pair.lost, stats.p_text(p))
        for (one, other), pair, p in zip(pairs, compared, corrected, strict=True)
    ]
    text += "\n\n" + markdown(("difference", "points (95 %)", "problems won", "lost", "p (Holm)"), rows)
    text += (
        f"\n\nSmolLM2-135M, float32, from an SFT of {WARM_STEPS} steps; then {STEPS} steps of {PROMPTS} prompts in "
        f"groups of {GROUP} (guided: {PLANS} plans with {GROUP // PLANS} continuations), at most {CAP} tokens, "
        f"learning rate {LEARNING_RATE}, settings 'stable', plans compared by alignment. {len(fresh)} fresh problems "
        "of known templates, greedy. An arm's share is the mean of its three seeds on each problem; intervals and p "
        f"values are over problems. Training answers are a mean over {SMOOTH} steps of {PROMPTS * GROUP} sampled "
        "completions; the level is the lowest arm's at the end. Trained on are the prompts solved at times."
    )
    write(
        "grpo_rewards",
        command="python -m benchmarks.grpo_rewards --work DIR",
        about="Answer, answer and plan, or guided groups: what each reward teaches SmolLM2-135M, three seeds.",
        found={
            "machine": machine("torch", "transformers", "trl", "peft"),
            "arms": {arm: vars(stats.of_problems(values)) for arm, values in found.items()},
            "by_seed": by_seed,
            "steps_to": {"level": level, "steps": steps},
            "compared": {
                f"{one} minus {other}": {**vars(pair), "difference": vars(pair.difference), "p_holm": p}
                for (one, other), pair, p in zip(pairs, compared, corrected, strict=True)
            },
            "curves": curves,
            "training": {
                f"{reward}{seed}": json.loads((work / f"{reward}{seed}" / "summary.json").read_text())
                for reward in ARMS.values()
                for seed in SEEDS
            },
        },
        text=text,
    )


def smoothed(file: Path) -> list[float]:
    """The share of right training answers, a mean over the last steps; a step that was made again counts once."""
    right = {row["step"]: row["right"] for row in read_jsonl(file)}
    values = [right[step] for step in sorted(right)]
    return [fmean(values[max(0, at + 1 - SMOOTH) : at + 1]) for at in range(len(values))]


def reached(curve: list[float], level: float) -> int | None:
    """The first step, of those with a whole mean behind them, at which a level is reached."""
    return next((step for step, value in enumerate(curve, 1) if step >= SMOOTH and value >= level), None)


if __name__ == "__main__":
    main()
