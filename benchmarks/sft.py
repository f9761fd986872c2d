"""Compare our SFT with the plain script of TRL's documentation: label tokens per second and peak memory, same rows.

    python -m benchmarks.sft        # CPU: a regression check, about 10 minutes; the machine must be idle

Both sides train SmolLM2-135M with the same rows, dtype, rank, batch, checkpointing, loss and optimiser, in turn, each
in its own process. Ours adds batches of rows of similar length, the longest first, its own encoder, checkpoints and
metrics. The plain script also runs with TRL's default loss. Peak memory is VmHWM.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import machine, markdown, write

ROUNDS, STEPS, BATCH, RANK, LENGTH = 3, 8, 4, 32, 512
SIDES = ("ours", "plain", "plain, nll")


def main() -> None:
    """Run each side in turn, several rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=SIDES)
    side = parser.parse_args().side
    if side is not None:
        print(json.dumps(run(side)))
        return
    results: dict[str, list[dict]] = {side: [] for side in SIDES}
    for number in range(ROUNDS):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            command = [sys.executable, "-m", "benchmarks.sft", "--side", side]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(number, side, results[side][-1], flush=True)
    write_down(results)


def rows() -> list[dict]:
    """Build the corpus rows of practice problems of mixed length, with plans."""
    from plantune_lite.plan import ask_plainly, render
    from plantune_lite.problems.practice.generate import practice_problems

    return [
        {"prompt": list(ask_plainly(problem)), "completion": render(problem.extra["plan"], problem.solution)}
        for problem in practice_problems("train", seed=0, limit=STEPS * BATCH)
    ]


def run(side: str) -> dict:
    """Train one side; time its steps, without the first."""
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        seconds, learned = (ours if side == "ours" else plain)(Path(folder), "nll" if "nll" in side else "chunked_nll")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "learned": learned, "peak_mb": int(peak) / 1000}


def ours(out: Path, loss: str) -> tuple[float, int]:
    """Train with sft.train, which reports the end of each step."""
    from plantune_lite.recipe.schema import SFT, Student
    from plantune_lite.runs.job import Reporter, Training
    from plantune_lite.student.load import load_student
    from plantune_lite.train import sft
    from plantune_lite.train.data import lessons, order

    part = Student("smollm2_135m", bits=32, max_length=LENGTH, lora_rank=RANK, lora_alpha=RANK, checkpointing=False)
    loaded = load_student(part, training=True)
    ended: list[float] = []
    settings = SFT(max_steps=STEPS, batch_size=BATCH, accumulate=1, learning_rate=2e-4, save_steps=STEPS)
    reporter = Reporter(metric=lambda step, **figures: ended.append(time.perf_counter()), say=lambda line: None)
    sft.train(loaded, rows(), settings, out, Training(max_length=LENGTH, reporter=reporter))
    taught = lessons(loaded, rows(), LENGTH).kept
    indices = order([len(lesson.ids) for lesson in taught], BATCH, len(taught), 0)
    return ended[STEPS - 1] - ended[0], sum(taught[index].learned for index in indices[BATCH:])


def plain(out: Path, loss: str) -> tuple[float, int]:
    """Train as in TRL's documentation: a data set of prompts and completions, a LoraConfig, SFTTrainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from plantune_lite.student import smollm2

    folder = str(smollm2.folder())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = [
        {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": row["completion"]}]} for row in rows()
    ]
    ended: list[float] = []

    class Clock(TrainerCallback):
        def on_log(self, args, state, control, **_):
            ended.append(time.perf_counter())

    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=SFTConfig(
            output_dir=str(out),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=1,
            learning_rate=2e-4,
            optim="adamw_torch_fused",
            max_length=LENGTH,
            gradient_checkpointing=False,
            loss_type=loss,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_steps=STEPS,
            report_to=[],
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(data),
        peft_config=LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
        callbacks=[Clock()],
    )
    learned: list[int] = []
    collate = trainer.data_collator

    def counting(batch):
        batch_tensors = collate(batch)
        learned.append(int((batch_tensors["labels"] != -100).sum()))
        return batch_tensors

    trainer.data_collator = counting
    trainer.train()
    return ended[STEPS - 1] - ended[0], sum(learned[1:STEPS])


def write_down(results: dict[str, list[dict]]) -> None:
    """Write the page with ratios, since seconds vary between machines."""
    speed = {side: [result["learned"] / result["seconds"] for result in rounds] for side, rounds in results.items()}
    peak = {side: median(result["peak_mb"] for result in rounds) for side, rounds in results.items()}
    ratio = {
        side: sorted(ours / theirs for ours, theirs in zip(speed["ours"], speed[side], strict=True))
        for side in SIDES[1:]
    }
    table = [
        (
            side,
            f"{median(speed[side]):.1f}",
            f"{median(ratio[side]):.2f} ({ratio[side][0]:.2f} to {ratio[side][-1]:.2f})" if side in ratio else "",
            f"{peak[side]:.0f} MB",
            f"{peak['ours'] / peak[side]:.2f}" if side in ratio else "",
        )
        for side in SIDES
    ]
    columns = ("side", "label tokens per second", "ours, times as fast (range)", "peak memory", "memory ratio")
    write(
        "sft",
        command="python -m benchmarks.sft",
        about="Our SFT compared with the plain script of TRL's documentation, on a CPU.",
        found={
            "machine": {
                **machine("torch", "transformers", "trl", "peft"),
                "threads": os.environ.get("OMP_NUM_THREADS"),
            },
            "runs": results,
            "ratio": ratio,
            "peak_mb": peak,
        },
        text=markdown(columns, table)
        + f"\n\nSmolLM2-135M, float32, batch {BATCH}, rows up to {LENGTH} tokens, no checkpointing, SDPA attention, "
        f"LoRA rank {RANK} on seven projections, fused AdamW, {STEPS} steps, the first not timed, {ROUNDS} rounds in "
        "turn. 'plain' and ours use TRL's chunked_nll loss, 'plain, nll' TRL's default. Ours batches rows of similar "
        "length; neither side packs sequences. Ours also answers eight prompts at the end, which its peak memory "
        "includes.",
    )


if __name__ == "__main__":
    main()
