"""SFT on a CUDA card: Unsloth, as ours uses it, beside plain TRL + PEFT + bitsandbytes; random weights of true shapes.

    python -m benchmarks.gpu.sft --work DIR            # one student and length after the other, a process a side
    python -m benchmarks.gpu.sft --work DIR --students qwen3_4b --lengths 2048
    python -m benchmarks.gpu.sft --work DIR --tiny     # on a CPU, in miniature: does the script run?

Both sides: 4-bit NF4, LoRA rank 32 on seven projections, batch 2, checkpointing on, adamw_8bit, bf16, no packing, the
same rows of one length. What is measured: label tokens a second over the steps after the second, and the peak that
torch has allocated. Goal at 2,048 tokens: 1.5 times the speed at 0.6 of the memory. Unmeasured so far.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.shapes import STUDENTS, rows, written
from benchmarks.report import machine, markdown, write

LENGTHS = (512, 1024, 2048)
BATCH, STEPS, WARM, RANK = 2, 12, 2, 32
SIDES = ("unsloth", "plain")


def main() -> None:
    """Each shape, length and side in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--sides", nargs="+", default=list(SIDES))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(run(asked.students[0], asked.lengths[0], asked.sides[0], asked.work, asked.tiny)))
        return
    found = []
    for student in asked.students:
        written(student, asked.work, tiny=asked.tiny)
        for length in asked.lengths:
            for side in asked.sides:
                command = [sys.executable, "-m", "benchmarks.gpu.sft", "--one", "--work", str(asked.work)]
                command += ["--students", student, "--lengths", str(length), "--sides", side]
                done = subprocess.run(command + ["--tiny"] * asked.tiny, capture_output=True, text=True, check=False)
                last = done.stdout.splitlines()[-1] if done.returncode == 0 else None
                one = json.loads(last) if last else {"error": done.stderr[-800:]}
                found.append({"student": student, "length": length, "side": side, **one})
                print(found[-1], flush=True)
    if not asked.tiny:
        write_down(found)


def run(student: str, length: int, side: str, work: Path, tiny: bool) -> dict:
    """One training on one side."""
    folder = written(student, work, tiny=tiny)
    length = min(length, 512) if tiny else length
    data = rows(STEPS * BATCH, length)
    with tempfile.TemporaryDirectory() as out:
        ended = (ours if side == "unsloth" else plain)(folder, data, length, Path(out), tiny)
    seconds = ended[STEPS - 1] - ended[WARM - 1]
    learned = (length // 2 - 7) * BATCH * (STEPS - WARM)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"tokens_a_second": round(learned / seconds, 1), "peak_gb": round(peak / 1e9, 3), "steps": len(ended)}


def ours(folder: Path, data: list[dict], length: int, out: Path, tiny: bool) -> list[float]:
    """As the recipes train: Unsloth where there is a card."""
    from plantune_lite import sft, student
    from plantune_lite.recipe import SFT, Student

    part = Student(str(folder), bits=32 if tiny else 4, max_length=length + 64, lora_rank=RANK, lora_alpha=RANK)
    loaded = student.load(part, training=True)
    ended: list[float] = []
    settings = SFT(max_steps=STEPS, batch_size=BATCH, accumulate=1, save_steps=10 * STEPS)
    sft.SAMPLED = 1  # random weights have nothing to say
    sft.train(
        loaded,
        data,
        settings,
        out,
        max_length=length + 64,
        checkpointing=True,
        metric=lambda step, **figures: ended.append(time.perf_counter()),
        say=lambda line: None,
    )
    return ended


def plain(folder: Path, data: list[dict], length: int, out: Path, tiny: bool) -> list[float]:
    """TRL's documentation, with the same settings said."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32 if tiny else torch.bfloat16,
        quantization_config=None if tiny else nf4,
        device_map={"": "cpu" if tiny else "cuda:0"},
    )
    ended: list[float] = []

    class Clock(TrainerCallback):
        def on_log(self, args, state, control, **_):
            ended.append(time.perf_counter())

    rows = [{**row, "completion": [{"role": "assistant", "content": row["completion"]}]} for row in data]
    trainer = SFTTrainer(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(folder),
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


def write_down(found: list[dict]) -> None:
    """Both sides of each shape and length, and their ratios."""
    table = []
    for student in dict.fromkeys(one["student"] for one in found):
        for length in dict.fromkeys(one["length"] for one in found if one["student"] == student):
            sides = {one["side"]: one for one in found if (one["student"], one["length"]) == (student, length)}
            ours, theirs = (sides.get(side, {}) for side in SIDES)
            both = "tokens_a_second" in ours and "tokens_a_second" in theirs
            table.append(
                (
                    student,
                    length,
                    ours.get("tokens_a_second", "failed"),
                    theirs.get("tokens_a_second", "failed"),
                    f"{ours['tokens_a_second'] / theirs['tokens_a_second']:.2f}" if both else "",
                    ours.get("peak_gb", ""),
                    theirs.get("peak_gb", ""),
                    f"{ours['peak_gb'] / theirs['peak_gb']:.2f}" if both and theirs["peak_gb"] else "",
                )
            )
    columns = ("student", "length", "ours, label tokens/s", "plain", "ratio", "ours, peak GB", "plain", "ratio")
    packages = ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth")
    write(
        "gpu/sft",
        command="python -m benchmarks.gpu.sft --work DIR",
        about="QLoRA SFT through Unsloth beside plain TRL + PEFT + bitsandbytes, random weights of the true shapes.",
        found={"machine": {**machine(*packages), "card": torch.cuda.get_device_name()}, "found": found},
        text=markdown(columns, table)
        + f"\n\nBatch {BATCH}, rank {RANK} on seven projections, NF4, checkpointing, adamw_8bit, bf16, rows of one "
        f"length, {STEPS} steps of which {WARM} are left out. The plain side's loss is TRL's chunked_nll.",
    )


if __name__ == "__main__":
    main()
