"""Compare our GRPO on a CUDA GPU (Unsloth) with plain TRL + PEFT + bitsandbytes; random weights of the true shapes.

    python -m benchmarks.gpu.grpo --work DIR                            # about 15 minutes; resumes after a stop
    python -m benchmarks.gpu.grpo --work DIR --students gemma3_1b
    python -m benchmarks.gpu.grpo --work DIR --tiny                     # on a CPU, in miniature: does the script run?

Both sides: the same prompts, 4-bit NF4, LoRA rank 32 on seven projections in float32, groups of 8, checkpointing,
adamw_8bit, bf16, the loss and rewards of settings "stable"; in turn, each in its own process. Random weights do not end
answers, so all reach the cap; sampled tokens are counted. Measures sampled tokens per second of the steps after the
first, the share of sampling in them, and torch's peak allocation. Unmeasured so far.
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
from benchmarks.grpo import Shares
from benchmarks.report import markdown

STUDENTS = ("qwen3_4b", "gemma3_1b")
SIDES = ("unsloth", "plain")
ROUNDS, STEPS, PROMPTS, GROUP, ROWS, PROMPT, CAP, RANK = 2, 3, 4, 8, 2, 192, 256, 32
LEARN = {"mask_truncated_completions": False}  # all answers reach the cap, and some must be learned from


def main(given: list[str] | None = None) -> None:
    """Run each student, its sides in turn, several rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.grpo")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--write", action="store_true", help="only write the page, from what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("STUDENT", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.one:
        print(json.dumps(run(*options.one, options.work, options.tiny)))
        return
    if not options.write:
        measure(options)
    write_down(options.work, options.tiny)


def measure(options: argparse.Namespace) -> None:
    """Measure what is missing, one process after the other."""
    from benchmarks.gpu.shapes import written

    ends = time.monotonic() + 60 * options.minutes
    card.noted(options.work)
    for student in options.students:
        written(student, options.work, tiny=options.tiny)
    jobs = []
    for number in range(options.rounds):
        for student in options.students:
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                arguments = ("--work", str(options.work), "--one", student, side, *["--tiny"] * options.tiny)
                jobs.append(Job(f"{student} {side} {number}", "benchmarks.gpu.grpo", arguments, needs=100))
    measured(jobs, options.work, "grpo", ends=ends)


# --- in the process ---------------------------------------------------------------------------------------------------


def run(student: str, side: str, work: Path, tiny: bool) -> dict[str, Any]:
    """Train on one side."""
    from benchmarks.gpu.shapes import written

    folder, shares = written(student, work, tiny=tiny), Shares()
    with tempfile.TemporaryDirectory() as out:
        (ours if side == "unsloth" else plain)(folder, shares, Path(out), tiny)
    figures = shares.figures()
    return {
        "student": student,
        "side": side,
        **{name: round(value, 4) for name, value in figures.items()},
        "tokens_a_second": round(figures["tokens"] / figures["seconds"], 1),
        "asked_tokens": (len(shares.ended) - 1) * PROMPTS * GROUP * CAP,
        **card.taken(),
    }


def ours(folder: Path, shares: Shares, out: Path, tiny: bool) -> None:
    """Train as the recipes do: with Unsloth if there is a GPU."""
    from benchmarks.gpu.shapes import asked
    from plantune_lite.recipe.schema import GRPO, Student
    from plantune_lite.runs.job import Reporter, Training
    from plantune_lite.student.load import load_student
    from plantune_lite.train import grpo, reward_log, rewards

    reward_log.OF_PLANS = ()  # random weights write no plans, which would stop the run
    length = PROMPT + CAP
    part = Student(str(folder), bits=32 if tiny else 4, max_length=length, lora_rank=RANK, lora_alpha=RANK)
    loaded = load_student(part, training=True)
    card.loaded()
    settings = GRPO(
        steps=STEPS,
        group=GROUP,
        prompts_per_step=PROMPTS,
        max_completion=CAP,
        learning_rate=5e-6,
        save_steps=STEPS,
        extra=LEARN,
    )
    rows = asked(loaded, STEPS * PROMPTS, PROMPT)
    grpo.prompt_selection.solved_at_times = lambda student, rows, *given, **named: list(rows)
    grpo.order = lambda count, draws, seed: list(range(draws))  # as on the plain side
    make_trainer = grpo._trainer

    def watched(*given: Any) -> Any:
        trainer = make_trainer(*given)
        shares.sampled(trainer)
        return trainer

    grpo._trainer = watched

    def metric(step: int, **figures: float) -> None:
        shares.ended.append(time.perf_counter())
        shares.tokens.append(round(figures["length"] * PROMPTS * GROUP))

    grpo.train(
        loaded,
        rows,
        grpo.Rewards(lambda limit: rewards.of(settings, rows, max_completion=limit), rewards.right_answer),
        settings,
        out,
        Training(max_length=length, checkpointing=True, reporter=Reporter(metric=metric, say=lambda line: None)),
    )


def plain(folder: Path, shares: Shares, out: Path, tiny: bool) -> None:
    """Train as in TRL's documentation, with the same settings."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from benchmarks.gpu.shapes import asked, plainly_loaded
    from plantune_lite.student import chat
    from plantune_lite.train import rewards
    from plantune_lite.train.plan_similarity import Alignment

    model, tokenizer = plainly_loaded(folder, tiny=tiny)
    card.loaded()
    encoder = type("Encoder", (), {"encode_chat": lambda self, messages: chat.encode_chat(tokenizer, messages)})()
    rows = asked(encoder, STEPS * PROMPTS, PROMPT)
    plans = [(row["prompt"][-1]["content"], row["plan"]) for row in rows]

    class Clock(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if "completions/mean_length" in (logs or {}):
                shares.ended.append(time.perf_counter())
                shares.tokens.append(round(logs["completions/mean_length"] * PROMPTS * GROUP))

    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[
            rewards.right_answer,
            rewards.plan_similarity(Alignment(plans)),
            rewards.plan_shape,
            rewards.spoiler_penalty,
            rewards.soft_overlong(CAP),
        ],
        args=GRPOConfig(
            output_dir=str(out),
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=PROMPTS * GROUP // ROWS,
            num_generations=GROUP,
            max_completion_length=CAP,
            learning_rate=5e-6,
            optim="adamw_torch_fused" if tiny else "adamw_8bit",
            loss_type="dr_grpo",
            beta=0.0,
            scale_rewards="none",
            epsilon_high=0.28,
            **LEARN,
            reward_weights=[1.0, 1.0, 0.25, 0.5, 0.5],
            shuffle_dataset=False,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            bf16=not tiny,
            use_cpu=tiny,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
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
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # as ours; TRL's adapters are bf16
    shares.sampled(trainer)
    trainer.train()


# --- the page ---------------------------------------------------------------------------------------------------------


def write_down(work: Path, tiny: bool) -> None:
    """Write the medians of the rounds, and the ratio of each round's pair."""
    results = whole(known(work, "grpo"))
    table = []
    for student in dict.fromkeys(run["student"] for run in results.values()):
        runs = {
            side: {name.split()[-1]: run for name, run in results.items() if name.startswith(f"{student} {side} ")}
            for side in SIDES
        }
        ratios = sorted(
            runs["unsloth"][number]["tokens_a_second"] / runs["plain"][number]["tokens_a_second"]
            for number in runs["unsloth"].keys() & runs["plain"].keys()
        )
        times = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else ""
        for side in (side for side in SIDES if runs[side]):
            rounds = list(runs[side].values())
            sampling = median(run["sampling"] for run in rounds)
            table.append(
                (
                    f"{student}, {side}",
                    len(rounds),
                    f"{sum(run['tokens'] for run in rounds) / sum(run['asked_tokens'] for run in rounds):.1%}",
                    f"{median(run['tokens_a_second'] for run in rounds):.1f}",
                    f"{sampling:.0%}",
                    f"{1 - sampling:.0%}",
                    f"{max(run['allocated_gib'] for run in rounds):.2f}",
                    times if side == "unsloth" else "",
                )
            )
    columns = ("student and side", "rounds", "share of the cap", "tokens per second of a step", "sampling")
    columns += ("training and the rest", "peak, GiB", "times as fast")
    card.write_down(
        "grpo",
        work,
        tiny=tiny,
        about="GRPO: Unsloth and plain TRL + PEFT + bitsandbytes compared, random weights of the true shapes.",
        command="python -m benchmarks.gpu.grpo --work DIR",
        found={"found": results},
        text=markdown(columns, table)
        + f"\n\n{PROMPTS} prompts of {PROMPT} tokens per step in groups of {GROUP}, {CAP} tokens per answer, "
        f"micro-batches of {ROWS}, NF4, rank {RANK} on seven projections, checkpointing, adamw_8bit, bf16; {STEPS} "
        "steps, the first not timed. Sampling is the time inside TRL's own generation call.",
    )


if __name__ == "__main__":
    main()
