"""SFT on a CUDA card: Unsloth, as ours uses it, beside plain TRL + PEFT + bitsandbytes; random weights of true shapes.

    python -m benchmarks.gpu.sft --work DIR            # eight minutes; resumes where it was cut off
    python -m benchmarks.gpu.sft --work DIR --students qwen3_4b --lengths 2048
    python -m benchmarks.gpu.sft --work DIR --tiny     # on a CPU, in miniature: does the script run?

Both sides: 4-bit NF4, LoRA rank 32 on seven projections, batch 2, checkpointing on, adamw_8bit, bf16, no packing, the
same rows of one length, in turn, a process each. What is measured: label tokens a second over the steps after the
second, and the peak that torch has allocated after loading. Goal at 2,048 tokens: 1.5 times the speed at 0.6 of the
memory. Unmeasured so far.
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
    """Each length, student and side in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.sft")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--write", action="store_true", help="only write down what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("STUDENT", "LENGTH", "SIDE"), help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    if asked.one:
        student, length, side = asked.one
        print(json.dumps(run(student, int(length), side, asked.work, asked.tiny)))
        return
    if not asked.write:
        measure(asked)
    write_down(asked.work, asked.tiny)


def measure(asked: argparse.Namespace) -> None:
    """What is not measured yet, one process after the other."""
    from benchmarks.gpu.shapes import written

    ends = time.monotonic() + 60 * asked.minutes
    card.noted(asked.work)
    jobs = []
    for number in range(asked.rounds):
        for length in asked.lengths:
            for student in asked.students:
                for side in SIDES if number % 2 == 0 else reversed(SIDES):
                    one = ("--work", str(asked.work), "--one", student, str(length), side, *["--tiny"] * asked.tiny)
                    jobs.append(Job(f"{student} {length} {side} {number}", "benchmarks.gpu.sft", one, needs=75))
    for student in asked.students:
        written(student, asked.work, tiny=asked.tiny)
    measured(jobs, asked.work, "sft", ends=ends)


# --- in the process ---------------------------------------------------------------------------------------------------


def run(student: str, length: int, side: str, work: Path, tiny: bool) -> dict[str, Any]:
    """One training on one side."""
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
    """As the recipes train: Unsloth where there is a card."""
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
    sft.train(
        loaded,
        data,
        settings,
        out,
        Training(max_length=length + 64, checkpointing=True, reporter=reporter),
    )
    return ended


def plain(folder: Path, data: list[dict], length: int, out: Path, tiny: bool) -> list[float]:
    """TRL's documentation, with the same settings said."""
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


# --- writing it down --------------------------------------------------------------------------------------------------


def write_down(work: Path, tiny: bool) -> None:
    """Both sides of each shape and length, and their ratios."""
    found = whole(known(work, "sft"))
    table = []
    for student, length in dict.fromkeys((one["student"], one["length"]) for one in found.values()):
        sides = {
            side: [
                one for one in found.values() if (one["student"], one["length"], one["side"]) == (student, length, side)
            ]
            for side in SIDES
        }
        speed = {side: median(one["tokens_a_second"] for one in ones) for side, ones in sides.items() if ones}
        peak = {side: max(one["allocated_gib"] for one in ones) for side, ones in sides.items() if ones}
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
        about="QLoRA SFT through Unsloth beside plain TRL + PEFT + bitsandbytes, random weights of the true shapes.",
        command="python -m benchmarks.gpu.sft --work DIR",
        found={"found": found},
        text=markdown(columns, table)
        + f"\n\nBatch {BATCH}, rank {RANK} on seven projections, NF4, checkpointing, adamw_8bit, bf16, rows of one "
        f"length, {STEPS} steps of which {WARM} are left out. The plain side's loss is TRL's chunked_nll.",
    )


if __name__ == "__main__":
    main()
