"""Do plans help a student of this size? Untuned, baseline SFT and plan SFT (M1) on `practice`, three seeds.

    python -m benchmarks.arms --work DIR              # goes on where it was cut off
    python -m benchmarks.arms --work DIR --seed 1     # only this seed: a process a core, and then the line above

Both trained arms see the same problems, the same number of optimiser steps and as many learned tokens: a plan makes a
row longer, so the baseline gets more rows a step. Tested on templates that training never saw. With the worked teacher
the control (the teacher's execution without its plan) is word for word the baseline, so it is no arm of its own.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, mean

import torch

from benchmarks.report import machine, markdown, write
from plantune_lite.distill import corpus, worked
from plantune_lite.evaluate import metrics, stats
from plantune_lite.evaluate.modes import evaluate_problems
from plantune_lite.files import read_jsonl, read_records, write_whole
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.schema import SFT, Corpus, Student
from plantune_lite.student.load import load_student
from plantune_lite.train import sft
from plantune_lite.types import Problem, Score, Trajectory

SEEDS = (0, 1, 2)
LEVELS = (2,)
TRAIN_PROBLEMS, TEST_PROBLEMS, KNOWN_PROBLEMS = 320, 200, 200
STEPS, M1_ROWS, LEARNING_RATE, RANK = 40, 8, 1e-3, 32
MAX_TOKENS = 160
PART = Student("smollm2_135m", bits=32, max_length=512, lora_rank=RANK, lora_alpha=RANK, checkpointing=False)


def main() -> None:
    """Train, answer, compare, write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, choices=SEEDS)
    arguments = parser.parse_args()
    work = arguments.work
    train = list(practice_problems("train", seed=0, limit=TRAIN_PROBLEMS, levels=LEVELS))
    test = list(practice_problems("test", seed=0, limit=TEST_PROBLEMS, levels=LEVELS))
    seen = {problem.question for problem in train}
    fresh = practice_problems("train", seed=1, limit=400, levels=LEVELS)
    known = [problem for problem in fresh if problem.question not in seen][:KNOWN_PROBLEMS]
    suites = {"held-out templates": test, "known templates": known}
    rows = {target: rows_of(train, target, work) for target in ("solution", "plan+solution")}
    a_row = {target: learned_a_row(rows[target]) for target in rows}
    batch = {"plan+solution": M1_ROWS, "solution": round(M1_ROWS * a_row["plan+solution"] / a_row["solution"])}

    if arguments.seed is None:
        untuned(work, test, train)
    for seed in SEEDS if arguments.seed is None else (arguments.seed,):
        for arm, target in (("baseline", "solution"), ("m1", "plan+solution")):
            tuned(work / f"{arm}{seed}", rows[target], batch[target], seed, "m1" if arm == "m1" else "plain", suites)
    if arguments.seed is None:
        write_down(work, test, known, batch, a_row)


def rows_of(problems: list[Problem], target: str, work: Path) -> list[dict]:
    """The corpus's own rows for one target."""
    found = [(problem, worked.plan_of(problem)) for problem in problems]
    trajectories = [
        Trajectory(
            problem_id=problem.id,
            sample=0,
            question=problem.question,
            plan=one.plan,
            execution=one.execution,
            answer=problem.answer,
            teacher="worked",
        )
        for problem, one in found
    ]
    out = work / f"corpus {target}"
    if (out / "stats.json").is_file():
        return list(read_jsonl(out / "train.jsonl"))
    # Near copies stay: the generator's problems differ in names and numbers, and that is what is learned from here.
    part = Corpus(filter="answer", validation=0.0, dedup="exact")
    corpus.build_corpus(trajectories, problems, {}, corpus.Wanted(part, target=target), out)
    return list(read_jsonl(out / "train.jsonl"))


def learned_a_row(rows: list[dict]) -> float:
    """Tokens that a row teaches."""
    tokenizer = load_student(PART).tokenizer
    return mean(len(tokenizer(row["completion"])["input_ids"]) + 1 for row in rows)


def untuned(work: Path, test: list[Problem], train: list[Problem]) -> None:
    """The student as it comes, at each of its prompts."""
    loaded = load_student(PART)
    for mode in ("zero_shot_cot", "few_shot"):
        answer(loaded, test, mode, work / "untuned" / f"{mode}.jsonl", train)


def tuned(out: Path, rows: list[dict], batch: int, seed: int, mode: str, suites: dict[str, list[Problem]]) -> None:
    """One trained arm of one seed, and its answers."""
    torch.manual_seed(seed)
    done = out / "summary.json"
    if done.is_file():
        loaded = load_student(PART, adapter=out)
    else:
        loaded = load_student(PART, training=True, seed=seed)
        part = SFT(max_steps=STEPS, batch_size=batch, accumulate=1, learning_rate=LEARNING_RATE, save_steps=10)
        summary = sft.train(
            loaded,
            rows,
            part,
            out,
            max_length=PART.max_length,
            seed=seed,
            show=lambda line, last: print(out.name, line),
        )
        write_whole(done, json.dumps(summary))
    for suite, problems in suites.items():
        answer(loaded, problems, mode, out / f"{suite}.jsonl")


def answer(loaded, problems: list[Problem], mode: str, out: Path, examples: list[Problem] = ()) -> None:
    """Greedy answers, graded."""
    figures = evaluate_problems(
        loaded.generate,
        problems,
        mode=mode,
        out=out,
        max_tokens=MAX_TOKENS,
        examples=examples,
        model=str(out.parent.name),
    )
    print(figures["line"], flush=True)


# --- writing it down --------------------------------------------------------------------------------------------------


def write_down(work: Path, test: list[Problem], known: list[Problem], batch: dict, a_row: dict) -> None:
    """Each arm over its seeds, the problem as the unit, and the arms beside each other."""
    modes = {mode: shares([work / "untuned" / f"{mode}.jsonl"], test) for mode in ("zero_shot_cot", "few_shot")}
    best = max(modes, key=lambda mode: fmean(modes[mode]))
    arms = {f"untuned, {mode}": values for mode, values in modes.items()}
    by_seed = {}
    for arm in ("baseline", "m1"):
        files = [work / f"{arm}{seed}" / "held-out templates.jsonl" for seed in SEEDS]
        arms[arm] = shares(files, test)
        by_seed[arm] = [round(fmean(shares([file], test)), 3) for file in files]
    on_known = {
        arm: shares([work / f"{arm}{seed}" / "known templates.jsonl" for seed in SEEDS], known)
        for arm in ("baseline", "m1")
    }
    pairs = [("m1", "baseline"), ("m1", f"untuned, {best}"), ("baseline", f"untuned, {best}")]
    compared = [stats.paired(arms[one], arms[other]) for one, other in pairs]
    corrected = stats.holm([one.p for one in compared])
    compared_known = stats.paired(on_known["m1"], on_known["baseline"])

    rows = [(arm, stats.of_problems(values).percent(), by_seed.get(arm, "")) for arm, values in arms.items()]
    text = markdown(("arm, held-out templates", "right (95 %)", "each seed"), rows) + "\n\n"
    rows = [(arm, stats.of_problems(values).percent()) for arm, values in on_known.items()]
    text += markdown(("arm, known templates, fresh problems", "right (95 %)"), rows) + "\n\n"
    rows = [
        (f"{one} minus {other}", found.difference.points(), found.won, found.lost, stats.p_text(p))
        for (one, other), found, p in zip(pairs, compared, corrected, strict=True)
    ]
    rows.append(
        (
            "m1 minus baseline, known templates (not in the family)",
            compared_known.difference.points(),
            compared_known.won,
            compared_known.lost,
            stats.p_text(compared_known.p),
        )
    )
    text += markdown(("difference", "points (95 %)", "problems won", "lost", "p (Holm)"), rows)
    summaries = {
        f"{arm}{seed}": json.loads((work / f"{arm}{seed}" / "summary.json").read_text())
        for arm in ("baseline", "m1")
        for seed in SEEDS
    }
    text += (
        f"\n\n{TRAIN_PROBLEMS} problems of level {LEVELS[0]} of the train templates, {STEPS} steps, LoRA rank {RANK}, "
        f"learning rate {LEARNING_RATE}, float32. A row teaches {a_row['solution']:.0f} tokens in the baseline and "
        f"{a_row['plan+solution']:.0f} in M1, so the baseline has {batch['solution']} rows a step beside M1's "
        f"{batch['plan+solution']}. {len(test)} test problems of held-out templates and {len(known)} of known "
        f"ones, greedy, at most {MAX_TOKENS} tokens. An arm's share is the mean of its three seeds on each problem; "
        "intervals and p values are over problems, not seeds, of which three are too few: where they lie far apart "
        f"(m1: {', '.join(map(str, by_seed['m1']))}), another three could say otherwise. The untuned "
        "model is asked the held-out suite only. The last loss of each run: "
        + ", ".join(f"{name} {one['loss_last']}" for name, one in summaries.items())
        + "."
    )
    write(
        "arms",
        command="python -m benchmarks.arms --work DIR",
        about="Do plans help SmolLM2-135M on `practice`? The same problems, steps and learned tokens for both arms.",
        found={
            "machine": machine("torch", "transformers", "trl", "peft"),
            "arms": {arm: vars(stats.of_problems(values)) for arm, values in arms.items()},
            "by_seed": by_seed,
            "known": {arm: vars(stats.of_problems(values)) for arm, values in on_known.items()},
            "compared": {
                f"{one} minus {other}": {**vars(found), "difference": vars(found.difference), "p_holm": p}
                for (one, other), found, p in zip(pairs, compared, corrected, strict=True)
            },
            "training": summaries,
        },
        text=text,
    )


def shares(files: list[Path], problems: list[Problem]) -> list[float]:
    """For each problem the share of the files in which it is answered right."""
    found = [metrics.shares(read_records(Score, file)) for file in files]
    return [fmean(one[problem.id] for one in found) for problem in problems]


if __name__ == "__main__":
    main()
