"""Compare our GRPO with the plain script of TRL's documentation: seconds per step for equally many sampled tokens.

    python -m benchmarks.grpo --work DIR        # CPU: a regression check, about 20 minutes; the machine must be idle

Both sides train SmolLM2-135M from one adapter (an SFT on plans, trained here once), with the same prompts in the same
order, rewards, dtype, batch, group, length cap, loss and optimiser, in turn, each in its own process. Ours adds its own
sampler, checkpoints, samples and metrics. Tokens are equal in two ways: "full", where no answer may end, so that every
completion fills the cap; and "natural", where answers end by themselves and each side's time is divided by the tokens
it sampled. Calibration of length and pass rates comes before the first step and is not timed; what a calibrated cap
saves is measured for ours alone.
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

ROUNDS, STEPS, PROMPTS, GROUP, ROWS, CAP, ROOM, RANK, LENGTH = 3, 4, 2, 8, 2, 96, 384, 32, 512
SIDES, ENDS = ("ours", "plain"), ("full", "natural")
UNCALIBRATED = "room"  # like natural, capped only by student.max_length


def main() -> None:
    """Run each side in turn, several rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--ends", choices=(*ENDS, UNCALIBRATED))
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(run(options.side, options.ends, options.work)))
        return
    warmed_up(options.work)
    turns = [(side, ends) for ends in ENDS for side in SIDES] + [("ours", UNCALIBRATED)]
    results: dict[str, list[dict]] = {f"{side}, {ends}": [] for side, ends in turns}
    for number in range(ROUNDS):
        for side, ends in turns if number % 2 == 0 else reversed(turns):
            command = [sys.executable, "-m", "benchmarks.grpo", "--work", str(options.work)]
            command += ["--side", side, "--ends", ends]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[f"{side}, {ends}"].append(json.loads(done.stdout.splitlines()[-1]))
            print(number, side, ends, results[f"{side}, {ends}"][-1], flush=True)
    write_down(results)


def rows() -> list[dict]:
    """Build the corpus prompts of the easiest practice problems."""
    from plantune_lite.plan import ask_plainly
    from plantune_lite.problems.practice.generate import practice_problems

    return [
        {
            "problem_id": problem.id,
            "prompt": list(ask_plainly(problem)),
            "answer": problem.answer,
            "choices": [],
            "kind": problem.kind,
            "plan": list(problem.extra["plan"]),
        }
        for problem in practice_problems("train", seed=0, limit=STEPS * PROMPTS, levels=(2,))
    ]


def warmed_up(work: Path) -> Path:
    """Train the adapter that both sides start from: the embedded default's SFT on plans."""
    from benchmarks import arms
    from plantune_lite.problems.practice.generate import practice_problems

    out, count = work / "sft", arms.RECIPE.problems.limit
    train = list(practice_problems("train", seed=0, limit=count, levels=arms.RECIPE.problems.levels))
    arms.trained(out, arms.TRAINED["m1"], train, 0)
    return out


def run(side: str, ends: str, work: Path) -> dict:
    """Train one side; time its steps, without the first."""
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return (ours if side == "ours" else plain)(Path(folder), ends, warmed_up(work))


def never_ending(model: object, end: int) -> None:
    """Keep the model from sampling the end of a turn, on both sides alike."""
    model.get_output_embeddings().register_forward_hook(
        lambda module, given, logits: logits.index_fill(-1, logits.new_tensor([end]).long(), -1e4)
    )


class Shares:
    """Record the seconds and tokens of each step, and the seconds of sampling."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.tokens: list[int] = []
        self.sampling: list[float] = []

    def sampled(self, trainer: object) -> None:
        """Time the trainer's generation of completions."""
        inner = trainer._generate

        def timed(*given, **named):
            began = time.perf_counter()
            completions = inner(*given, **named)
            self.sampling.append(time.perf_counter() - began)
            return completions

        trainer._generate = timed

    def figures(self) -> dict:
        """Sum up all steps but the first."""
        seconds = self.ended[-1] - self.ended[0]
        return {"seconds": seconds, "tokens": sum(self.tokens[1:]), "sampling": sum(self.sampling[1:]) / seconds}


def ours(out: Path, ends: str, adapter: Path) -> dict:
    """Train with grpo.train, keeping every prompt whatever its pass rate."""
    from plantune_lite.recipe.schema import GRPO, Student
    from plantune_lite.runs.job import Reporter, Training
    from plantune_lite.student.load import load_student
    from plantune_lite.train import grpo, rewards

    part = Student("smollm2_135m", bits=32, max_length=LENGTH, lora_rank=RANK, lora_alpha=RANK, checkpointing=False)
    loaded = load_student(part, training=True, adapter=adapter)
    if ends == "full":
        never_ending(loaded.model, loaded.tokenizer.convert_tokens_to_ids(loaded.preset.turn_end))
    shares = Shares()
    cap = ROOM if ends == UNCALIBRATED else CAP
    settings = GRPO(
        steps=STEPS, group=GROUP, prompts_per_step=PROMPTS, max_completion=cap, learning_rate=1e-6, save_steps=STEPS
    )
    data = rows()
    # The same prompts as the plain side.
    grpo.prompt_selection.solved_at_times = lambda student, rows, *given, **named: list(rows)
    grpo.order = lambda count, draws, seed: list(range(draws))
    make_trainer = grpo._trainer

    def watched(*given):
        trainer = make_trainer(*given)
        shares.sampled(trainer)
        return trainer

    grpo._trainer = watched

    def metric(step: int, **figures: float) -> None:
        shares.ended.append(time.perf_counter())
        shares.tokens.append(round(figures["length"] * PROMPTS * GROUP))

    grpo.train(
        loaded,
        data,
        grpo.Rewards(lambda limit: rewards.of(settings, data, max_completion=limit), rewards.right_answer),
        settings,
        out,
        Training(max_length=LENGTH, reporter=Reporter(metric=metric, say=lambda line: None)),
    )
    return shares.figures()


def plain(out: Path, ends: str, adapter: Path) -> dict:
    """Train as in TRL's documentation: a data set of prompts, reward functions, GRPOTrainer."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from plantune_lite.student import smollm2
    from plantune_lite.train import rewards
    from plantune_lite.train.plan_similarity import Alignment

    folder, data = str(smollm2.folder()), rows()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if ends == "full":
        never_ending(model, tokenizer.eos_token_id)
    plans = [(row["prompt"][-1]["content"], row["plan"]) for row in data]
    shares = Shares()

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
            learning_rate=1e-6,
            optim="adamw_torch_fused",
            loss_type="dr_grpo",
            beta=0.0,
            scale_rewards="none",
            epsilon_high=0.28,
            mask_truncated_completions=True,
            reward_weights=[1.0, 1.0, 0.25, 0.5, 0.5],
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_steps=STEPS,
            report_to=[],
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(data),
        callbacks=[Clock()],
    )
    shares.sampled(trainer)
    trainer.train()
    return shares.figures()


def write_down(results: dict[str, list[dict]]) -> None:
    """Write the page with ratios, since seconds vary between machines."""
    each = {name: [result["seconds"] / result["tokens"] for result in rounds] for name, rounds in results.items()}
    table, ratios = [], {}
    for ends in ENDS:
        pairs = zip(each[f"plain, {ends}"], each[f"ours, {ends}"], strict=True)
        ratio = ratios[ends] = sorted(theirs / ours for theirs, ours in pairs)
        for side in SIDES:
            rounds = results[f"{side}, {ends}"]
            table.append(
                (
                    f"{side}, {ends}",
                    f"{median(result['tokens'] for result in rounds) / ((STEPS - 1) * PROMPTS * GROUP):.0f}",
                    f"{median(1 / seconds for seconds in each[f'{side}, {ends}']):.1f}",
                    f"{median(result['sampling'] for result in rounds):.0%}",
                    f"{median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f})" if side == "ours" else "",
                )
            )
    capped, not_capped = (
        median(result["seconds"] for result in results[f"ours, {ends}"]) for ends in ("natural", UNCALIBRATED)
    )
    columns = ("side", "tokens per completion", "tokens per second of a step", "sampling share", "ours, times as fast")
    write(
        "grpo",
        command="python -m benchmarks.grpo --work DIR",
        about="Our GRPO compared with the plain script of TRL's documentation, on a CPU.",
        found={
            "machine": {
                **machine("torch", "transformers", "trl", "peft"),
                "threads": os.environ.get("OMP_NUM_THREADS"),
            },
            "runs": results,
            "ratio": ratios,
            "without a calibrated cap": not_capped / capped,
        },
        text=markdown(columns, table)
        + f"\n\nSmolLM2-135M, float32, {PROMPTS} prompts per step in groups of {GROUP}, micro-batches of {ROWS} "
        f"completions, at most {CAP} tokens each, {STEPS} steps, the first not timed, {ROUNDS} rounds in turn. 'full': "
        "no answer may end before the cap, so both sides sample exactly the same number of tokens; 'natural': answers "
        "end by themselves, and each side's time is divided by the tokens it sampled. Sampling is the time inside "
        f"TRL's own generation call; the rest is scoring, training and writing files. With a cap of {ROOM} tokens "
        f"instead of {CAP}, near what calibration sets, our step takes {not_capped / capped:.2f} times as long.",
    )


if __name__ == "__main__":
    main()
