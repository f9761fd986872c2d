"""Compare our SFT on a CUDA GPU (Unsloth) with plain TRL + PEFT + bitsandbytes; random weights of the true shapes.

    python -m benchmarks.gpu.sft --work DIR            # eight minutes; resumes after a stop
    python -m benchmarks.gpu.sft --work DIR --students qwen3_4b --lengths 2048
    python -m benchmarks.gpu.sft --work DIR --tiny     # on a CPU, in miniature: does the script run?

Both sides: 4-bit NF4, LoRA rank 32 on seven projections, batch 2, checkpointing on, adamw_8bit, bf16, no packing, the
same rows of one length, in turn, each in its own process. Measures label tokens per second of the steps after the
second, and torch's peak allocation after loading. Goal at 2,048 tokens: 1.5 times the speed at 0.6 of the memory.
Unmeasured so far.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu import card
from benchmarks.gpu.jobs import Job, known, measured, whole
from benchmarks.report import markdown

STUDENTS = ("qwen3_4b", "gemma3_1b", "qwen2_5_7b")
LENGTHS = (2048, 512)
SIDES = ("unsloth", "plain")
ROUNDS, BATCH, STEPS, WARM, RANK = 1, 2, 12, 2, 32


def main(given: list[str] | None = None) -> None:
    """Run each length, student and side in its own process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.sft")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--write", action="store_true", help="only write the page, from what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("STUDENT", "LENGTH", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.one:
        student, length, side = options.one
        print(json.dumps(run(student, int(length), side, options.work, options.tiny)))
        return
    if not options.write:
        measure(options)
    write_down(options.work, options.tiny)


def measure(options: argparse.Namespace) -> None:
    """Measure what is missing, one process after the other."""
    from benchmarks.gpu.shapes import written

    ends = time.monotonic() + 60 * options.minutes
    card.noted(options.work)
    jobs, shared = [], ("--work", str(options.work), *["--tiny"] * options.tiny)
    for number in range(options.rounds):
        for length in options.lengths:
            for student in options.students:
                for side in SIDES if number % 2 == 0 else reversed(SIDES):
                    arguments = (*shared, "--one", student, str(length), side)
                    jobs.append(Job(f"{student} {length} {side} {number}", "benchmarks.gpu.sft", arguments, needs=75))
    for student in options.students:
        written(student, options.work, tiny=options.tiny)
    measured(jobs, options.work, "sft", ends=ends)


# --- in the process ---------------------------------------------------------------------------------------------------


def run(student: str, length: int, side: str, work: Path, tiny: bool) -> dict[str, Any]:
    """Train on one side."""
    from benchmarks.gpu.shapes import rows, written

    folder = written(student, work, tiny=tiny)
    data = rows(STEPS * BATCH, length)
    with tempfile.TemporaryDirectory() as out:
        ended = (ours if side == "unsloth" else plain)(folder, data, length, Path(out), tiny)
    seconds = ended[STEPS - 1] - ended[WARM - 1]
    learned = (length // 2 - 7) * BATCH * (STEPS - WARM)
    return {
        "student": student,
        "length": length,
        "side": side,
        "tokens_a_second": round(learned / seconds, 1),
        "steps": len(ended),
        **card.taken(),
    }


def ours(folder: Path, data: list[dict], length: int, out: Path, tiny: bool) -> list[float]:
    """Train as the recipes do: with Unsloth if there is a GPU."""
    from plantune_lite.recipe.schema import SFT, Student
    from plantune_lite.runs.job import Reporter, Training
    from plantune_lite.student.load import load_student
    from plantune_lite.train import sft

    part = Student(str(folder), bits=32 if tiny else 4, max_length=length + 64, lora_rank=RANK, lora_alpha=RANK)
    loaded = load_student(part, training=True)
    card.loaded()
    ended: list[float] = []
    settings = SFT(max_steps=STEPS, batch_size=BATCH, accumulate=1, save_steps=10 * STEPS)
    reporter = Reporter(metric=lambda step, **figures: ended.append(time.perf_counter()), say=lambda line: None)
    sft.train(loaded, data, settings, out, Training(max_length=length + 64, checkpointing=True, reporter=reporter))
    return ended


def plain(folder: Path, data: list[dict], length: int, out: Path, tiny: bool) -> list[float]:
    """Train as in TRL's documentation, with the same settings."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from benchmarks.gpu.shapes import plainly_loaded

    model, tokenizer = plainly_loaded(folder, tiny=tiny)
    card.loaded()
    ended: list[float] = []

    class Clock(TrainerCallback):
        def on_log(self, args, state, control, **_):
            ended.append(time.perf_counter())

    rows = [{**row, "completion": [{"role": "assistant", "content": row["completion"]}]} for row in data]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=SFTConfig(
            output_dir=str(out),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=1,
            optim="adamw_torch_fused" if tiny else "adamw_8bit",
            max_length=None,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            loss_type="chunked_nll",
            bf16=not tiny,
            use_cpu=tiny,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    return ended


# --- the page ---------------------------------------------------------------------------------------------------------


def write_down(work: Path, tiny: bool) -> None:
    """Write both sides of each shape and length, and their ratios."""
    done = whole(known(work, "sft"))
    table = []
    for student, length in dict.fromkeys((run["student"], run["length"]) for run in done.values()):
        sides = {
            side: [
                run for run in done.values() if (run["student"], run["length"], run["side"]) == (student, length, side)
            ]
            for side in SIDES
        }
        speed = {side: median(run["tokens_a_second"] for run in runs) for side, runs in sides.items() if runs}
        peak = {side: max(run["allocated_gib"] for run in runs) for side, runs in sides.items() if runs}
        both = len(speed) == len(SIDES)
        table.append(
            (
                student,
                length,
                *(speed.get(side, "not measured") for side in SIDES),
                f"{speed['unsloth'] / speed['plain']:.2f}" if both else "",
                *(peak.get(side, "") for side in SIDES),
                f"{peak['unsloth'] / peak['plain']:.2f}" if both and peak["plain"] else "",
            )
        )
    columns = ("student", "length", "ours, label tokens/s", "plain", "ratio", "ours, peak GiB", "plain", "ratio")
    card.write_down(
        "sft",
        work,
        tiny=tiny,
        about="QLoRA SFT: Unsloth and plain TRL + PEFT + bitsandbytes compared, random weights of the true shapes.",
        command="python -m benchmarks.gpu.sft --work DIR",
        found={"found": done},
        text=markdown(columns, table)
        + f"\n\nBatch {BATCH}, rank {RANK} on seven projections, NF4, checkpointing, adamw_8bit, bf16, rows of one "
        f"length, {STEPS} steps, the first {WARM} not timed. The plain side's loss is TRL's chunked_nll.",
    )


if __name__ == "__main__":
    main()
