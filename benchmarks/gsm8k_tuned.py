"""What is planning worth on gsm8k for 135 million parameters? SFT on solutions, on plans, on plans turned round.

    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k_tuned --work DIR                   # all, or what is left of it
    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k_tuned --work DIR --arm m1 --seed 0 # one arm of one seed
    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k_tuned --page                       # the page of what there is

The analysis, planned before the first training:

- Model and data. SmolLM2-135M-Instruct, float32. Tested on all 1,319 test problems of gsm8k, greedy, one reply each. Of
  the 7,473 train problems 300 are the validation split, which no arm learns from. Every arm learns from all the others,
  but for those whose plan gives the answer away and one that copies a problem of the validation split: 7,159.
- Validation alone decides: the untuned model's prompt, and which arm is called the best. What is tried later (rates,
  ranks, epochs, other plans, GRPO) becomes an arm of its own here, and is chosen by validation too. The test problems
  choose nothing; every arm answers them once and is on the page whatever came of it.
- Primary figure: the share right of the arm that is best on validation, beside the goal of 7.5 %. Primary comparison:
  M1 minus the baseline, the same problems and as many steps. All comparisons are PAIRS, p values corrected by Holm.
- Unit: the seed. An arm's figure is the mean of its seeds; arms are compared on the seeds that both have. Two intervals
  are shown, over problems and, from two seeds on, over seeds (Student's t), and what is claimed must hold in both. One
  seed says nothing of the next, and the page says so. All arms of seed 0 come before those of seed 1.
- Where a plan should matter, in intervals without p values: by steps in the data set's solution, and for problems with
  a number in digits that this solution does not use.
- A plan makes a row longer, so M1 learns 1.6 times the tokens in as many steps: baseline_longer has more epochs
  instead, as many as make up for the tokens.

Sized by what was measured before: training reads some 53 tokens in a second of one core, so an epoch takes 7 hours of a
core on solutions and 9.5 on plans. Hence one epoch, at rank 64 and our other benchmarks' rate, in steps
of 16 rows. They are computed 2 at once, since that takes 3.1 GB of memory and 4 at once take 6.1.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.report import HERE, machine
from plantune_lite import corpus, evaluate, lessons, problems, sft, student, tally, worked
from plantune_lite.recipe import SFT, Corpus, Problems, Student
from plantune_lite.records import JsonlWriter, Problem, Score, Trajectory, read_jsonl, read_records, write_whole

PUBLISHED = HERE / "gsm8k_tuned"
SEEDS = (0, 1, 2)
EPOCHS, LEARNING_RATE, RANK, BATCH, ACCUMULATE = 1.0, 1e-3, 64, 2, 8
CURVE = (1 / 3, 2 / 3)  # of the steps, after which the validation problems are answered in between
PART = Student("smollm2_135m", bits=32, max_length=704, lora_rank=RANK, lora_alpha=RANK, checkpointing=False)
MAX_TOKENS, ROOM = 320, 2048  # of a reply; of a conversation with worked examples in it
TEXTS = 400  # test problems, seeded, of which wrong replies are published too: wins and losses are shown from them


@dataclass(frozen=True)
class Arm:
    """What an arm learns; `mode` is how it answers."""

    target: str
    mode: evaluate.Mode
    about: str
    backwards: bool = False
    longer: bool = False


TRAINED = {
    "baseline": Arm("solution", "plain", "the data set's solutions"),
    "m1": Arm("plan+solution", "m1", "a plan, then the solution"),
    "m1_backwards": Arm("plan+solution", "m1", "a plan from the question backwards, then the solution", backwards=True),
    "baseline_longer": Arm("solution", "plain", "solutions, as many learned tokens as M1", longer=True),
}
ARMS = ("untuned", *TRAINED)
PAIRS = (("m1", "baseline"), ("m1_backwards", "baseline"), ("m1", "baseline_longer"), ("baseline", "untuned"))


def main() -> None:
    """Do what is left, or write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--seed", type=int, choices=SEEDS)
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    if arguments.page:
        from benchmarks import gsm8k_tuned_page  # it reads this file's arms

        return gsm8k_tuned_page.write_page()
    if arguments.work is None:
        parser.error("--work is needed: where adapters, checkpoints and answers are kept")
    for seed in SEEDS if arguments.seed is None else (arguments.seed,):
        for arm in ARMS if arguments.arm is None else (arguments.arm,):
            name = f"{arm}.{seed}"
            if (PUBLISHED / name / "scores.jsonl").is_file() or (arm == "untuned" and seed):
                continue  # done; and without training there is nothing that a seed could change
            out = arguments.work / name
            settings = untuned(out) if arm == "untuned" else trained(out, TRAINED[arm], seed, arguments.work)
            publish(out, {"arm": arm, "seed": seed, **settings})


# --- problems and rows ------------------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Problems to learn from, to choose by, and to test on."""

    pool: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]


@cache
def split() -> Split:
    """All of gsm8k; recipes hold out 300 train problems for their suite `own`, and those are the validation split."""
    loaded = problems.load(Problems("gsm8k"), seed=0)
    return Split(loaded.pool, loaded.own, problems.load_suite("gsm8k", limit=None, seed=0, own=()).problems)


def rows_of(arm: Arm, work: Path) -> list[dict]:
    """The corpus's own rows; spoilers and overlaps are left out of all arms alike."""
    pool, validation, test = split()
    out = work / f"corpus.{arm.target}{'.backwards' if arm.backwards else ''}"
    if not (out / "stats.json").is_file():
        trajectories = [
            Trajectory(
                problem_id=problem.id,
                sample=0,
                question=problem.question,
                plan=solution.plan[::-1] if arm.backwards else solution.plan,
                execution=solution.execution,
                answer=problem.answer,
                teacher="worked",
            )
            for problem in pool
            if (solution := worked.plan_of(problem)).plan
        ]
        suites = {"gsm8k": test, "validation": validation}
        part = Corpus(filter="answer", validation=0.0, dedup="exact")
        corpus.build(trajectories, pool, suites, part, out, target=arm.target, solutions="dataset")
    return list(read_jsonl(out / "train.jsonl"))


# --- one arm ----------------------------------------------------------------------------------------------------------


def untuned(out: Path) -> dict[str, Any]:
    """The student as it comes: each prompt on validation, the best one on the test problems."""
    commits, loaded = [commit()], student.load(PART, room=ROOM)
    prompts = {mode: answer(loaded, "validation", mode, out) for mode in evaluate.PROMPTS}
    best = max(prompts, key=lambda mode: prompts[mode]["accuracy"]["value"])
    figures = {"validation": prompts[best], "test": answer(loaded, "test", best, out)}
    return {"commits": commits, "prompt": best, "prompts": prompts, **figures}


def trained(out: Path, arm: Arm, seed: int, work: Path) -> dict[str, Any]:
    """One training, from its last checkpoint where it was cut off, and its answers."""
    if not (out / "summary.json").is_file():
        train(out, arm, seed, work)
    loaded = student.load(PART, adapter=out)
    loaded.model.merge_adapter()  # sooner answered, and in float32 the same but for rounding
    figures = {suite: answer(loaded, suite, arm.mode, out) for suite in ("validation", "test")}
    pauses = sorted(out.glob("step*"), key=lambda folder: int(folder.name[4:]))
    curve = {folder.name: tally.shares(read_records(Score, folder / "validation.jsonl")) for folder in pauses}
    return {
        **json.loads((out / "settings.json").read_text(encoding="utf-8")),
        "training": json.loads((out / "summary.json").read_text(encoding="utf-8")),
        "curve": {step: round(fmean(right.values()), 4) for step, right in curve.items()},
        **figures,
    }


def train(out: Path, arm: Arm, seed: int, work: Path) -> None:
    """The adapter, the settings it was made with, and a row of figures a step."""
    loaded = student.load(PART, training=True, seed=seed)
    rows = rows_of(arm, work)
    learned, read = tokens(loaded, rows)
    epochs = round(EPOCHS * tokens(loaded, rows_of(TRAINED["m1"], work))[0] / learned, 2) if arm.longer else EPOCHS
    part = SFT(
        target=arm.target,
        solutions="dataset",
        epochs=epochs,
        learning_rate=LEARNING_RATE,
        batch_size=BATCH,
        accumulate=ACCUMULATE,
        save_steps=20,
    )
    beside = out / "settings.json"
    commits = json.loads(beside.read_text(encoding="utf-8"))["commits"] if beside.is_file() else []
    settings = {
        "commits": list(dict.fromkeys([*commits, commit()])),  # more than one where it was cut off
        "student": asdict(PART),
        "sft": asdict(part),
        "tokens_an_epoch": {"learned": learned, "read": read},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_whole(beside, json.dumps(settings, indent=1) + "\n")
    steps = sft.planned(part, len(rows))[1]
    pauses = [round(steps * share) for share in CURVE]
    with JsonlWriter(out / "metrics.jsonl") as file:
        summary = sft.train(
            loaded,
            rows,
            part,
            out,
            max_length=PART.max_length,
            seed=seed,
            metric=_watch(file, pauses, loaded, arm.mode, out),
            show=lambda line, last: print(out.name, line, flush=True),
        )
    write_whole(out / "summary.json", json.dumps(summary))


def tokens(loaded: student.Loaded, rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Learned and read in one epoch."""
    taught = lessons.lessons(loaded, rows, PART.max_length).kept
    return sum(lesson.learned for lesson in taught), sum(len(lesson.ids) for lesson in taught)


def _watch(
    file: JsonlWriter, pauses: Sequence[int], loaded: student.Loaded, mode: evaluate.Mode, out: Path
) -> Callable[..., None]:
    """Write each step down with its time, and answer the validation problems now and then."""
    since, cpu_since = time.perf_counter(), time.process_time()

    def metric(step: int, **figures: float) -> None:
        nonlocal since, cpu_since
        if "loss" not in figures:
            return
        seconds, cpu = time.perf_counter() - since, time.process_time() - cpu_since
        file.write(
            {"step": step, "loss": round(figures["loss"], 4), "seconds": round(seconds, 2), "cpu": round(cpu, 2)}
        )
        if step in pauses:
            answer(loaded, "validation", mode, out / f"step{step}")
        since, cpu_since = time.perf_counter(), time.process_time()

    return metric


def answer(loaded: student.Loaded, suite: str, mode: evaluate.Mode, out: Path) -> dict[str, Any]:
    """Greedy answers, graded; those on the disk are not asked again."""
    return evaluate.evaluate(
        loaded.generate,
        getattr(split(), suite),
        mode=mode,
        out=out / f"{suite}.jsonl",
        max_tokens=MAX_TOKENS,
        examples=split().pool,
        model=out.name,
        show=lambda line, last: print(out.name, line, flush=True),
    )


def commit() -> str:
    """The commit that trains; code that is in none cannot be named on the page."""
    code = ("--", "plantune_lite", f"benchmarks/{Path(__file__).name}")
    if _git("status", "--porcelain", *code):
        raise SystemExit("plantune_lite or this script holds changes that are in no commit: commit them, then train")
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def publish(out: Path, settings: dict[str, Any]) -> None:
    """What an arm has come to, small enough to be committed; its scores last, since they say that it is done."""
    folder = PUBLISHED / out.name
    folder.mkdir(parents=True, exist_ok=True)
    steps = list(read_jsonl(out / "metrics.jsonl")) if (out / "metrics.jsonl").is_file() else []
    scores = read_records(Score, out / "test.jsonl")
    settings["hours"] = {
        "training": round(sum(row["seconds"] for row in steps) / 3600, 2),
        "training_cpu": round(sum(row["cpu"] for row in steps) / 3600, 2),  # of all cores together
        "answering": round(sum(score.seconds for score in scores) / 3600, 2),
    }
    settings["machine"] = machine("torch", "transformers", "trl", "peft")
    write_whole(folder / "settings.json", json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in steps))
    shown = set(Random(0).sample(sorted(score.problem_id for score in scores), TEXTS))
    rows = [
        {
            "problem_id": score.problem_id,
            "right": score.same is True,
            "prediction": score.prediction,
            "finish": score.finish,
            "tokens": score.tokens,
            **({"text": score.text} if score.same is True or score.problem_id in shown else {}),
        }
        for score in scores
    ]
    write_whole(folder / "scores.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
