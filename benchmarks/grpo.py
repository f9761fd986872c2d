"""Our GRPO beside the plain script of TRL's documentation: seconds a step at equal sampled tokens, the same length cap.

    python -m benchmarks.grpo --work DIR        # CPU: a guard, about twenty minutes; the machine must be idle

Both sides reinforce SmolLM2-135M from the same adapter (an SFT on plans, made here once), with the same prompts in the
same order, rewards, weights' type, batch, group, loss and optimiser, each in a process of its own, in turn. What
differs is what ours adds: its own sampler, checkpoints, samples, metrics. Two ways to have equal tokens: "full", where
nobody may end an answer, so that every completion has exactly the cap; and "natural", where answers end by themselves
and the time of each side is divided by what it sampled. Calibration of the length and the look at pass rates come
before the first step and are not in the time; what a calibrated cap saves is a line of its own, ours alone.
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
UNCALIBRATED = "room"  # as natural, with all that student.max_length leaves as the cap


def main() -> None:
    """Each side in turn, several rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--ends", choices=(*ENDS, UNCALIBRATED))
    asked = parser.parse_args()
    if asked.side is not None:
        print(json.dumps(run(asked.side, asked.ends, asked.work)))
        return
    warmed_up(asked.work)
    turns = [(side, ends) for ends in ENDS for side in SIDES] + [("ours", UNCALIBRATED)]
    found: dict[str, list[dict]] = {f"{side}, {ends}": [] for side, ends in turns}
    for number in range(ROUNDS):
        for side, ends in turns if number % 2 == 0 else reversed(turns):
            command = [sys.executable, "-m", "benchmarks.grpo", "--work", str(asked.work)]
            command += ["--side", side, "--ends", ends]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[f"{side}, {ends}"].append(json.loads(done.stdout.splitlines()[-1]))
            print(number, side, ends, found[f"{side}, {ends}"][-1], flush=True)
    write_down(found)


def rows() -> list[dict]:
    """Prompts as the corpus has them, of the easiest practice problems."""
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
    """The adapter both sides start from: the SFT on plans of the embedded default."""
    from benchmarks import arms
    from plantune_lite.problems.practice.generate import practice_problems

    out, count = work / "sft", arms.RECIPE.problems.limit
    train = list(practice_problems("train", seed=0, limit=count, levels=arms.RECIPE.problems.levels))
    arms.trained(out, arms.TRAINED["m1"], train, 0)
    return out


def run(side: str, ends: str, work: Path) -> dict:
    """One reinforcement; the seconds are of the steps alone, the first left out."""
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return (ours if side == "ours" else plain)(Path(folder), ends, warmed_up(work))


def never_ending(model: object, end: int) -> None:
    """Take the end of a turn out of what the model can say, alike for both sides."""
    model.get_output_embeddings().register_forward_hook(
        lambda module, given, logits: logits.index_fill(-1, logits.new_tensor([end]).long(), -1e4)
    )


class Shares:
    """Seconds and tokens of each step, and what of them sampling took."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.tokens: list[int] = []
        self.sampling: list[float] = []

    def sampled(self, trainer: object) -> None:
        """Time what makes completions, whoever makes them."""
        inner = trainer._generate

        def timed(*given, **named):
            began = time.perf_counter()
            made = inner(*given, **named)
            self.sampling.append(time.perf_counter() - began)
            return made

        trainer._generate = timed

    def figures(self) -> dict:
        """Of all steps but the first."""
        seconds = self.ended[-1] - self.ended[0]
        return {"seconds": seconds, "tokens": sum(self.tokens[1:]), "sampling": sum(self.sampling[1:]) / seconds}


def ours(out: Path, ends: str, adapter: Path) -> dict:
    """Through grpo.train, with a look at pass rates that leaves no prompt out."""
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
    asked = GRPO(
        steps=STEPS, group=GROUP, prompts_per_step=PROMPTS, max_completion=cap, learning_rate=1e-6, save_steps=STEPS
    )
    data = rows()
    # The same prompts as the other side.
    grpo.prompt_selection.solved_at_times = lambda student, rows, *given, **named: list(rows)
    grpo.order = lambda count, draws, seed: list(range(draws))
    made = grpo._trainer

    def watched(*given):
        trainer = made(*given)
        shares.sampled(trainer)
        return trainer

    grpo._trainer = watched

    def metric(step: int, **figures: float) -> None:
        shares.ended.append(time.perf_counter())
        shares.tokens.append(round(figures["length"] * PROMPTS * GROUP))

    grpo.train(
        loaded,
        data,
        grpo.Rewards(lambda most: rewards.of(asked, data, max_completion=most), rewards.right_answer),
        asked,
        out,
        Training(max_length=LENGTH, reporter=Reporter(metric=metric, say=lambda line: None)),
    )
    return shares.figures()


def plain(out: Path, ends: str, adapter: Path) -> dict:
    """As TRL's documentation has it: a data set of prompts, reward functions, GRPOTrainer."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from plantune_lite.student import smollm2
    from plantune_lite.train import rewards
    from plantune_lite.train.plan_similarity import Alignment

    place, data = str(smollm2.folder()), rows()
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(place)
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


def write_down(found: dict[str, list[dict]]) -> None:
    """Ratios: machines are noisy, seconds mean little."""
    each = {name: [one["seconds"] / one["tokens"] for one in runs] for name, runs in found.items()}
    table, ratios = [], {}
    for ends in ENDS:
        pairs = zip(each[f"plain, {ends}"], each[f"ours, {ends}"], strict=True)
        ratio = ratios[ends] = sorted(theirs / ours for theirs, ours in pairs)
        for side in SIDES:
            runs = found[f"{side}, {ends}"]
            table.append(
                (
                    f"{side}, {ends}",
                    f"{median(one['tokens'] for one in runs) / ((STEPS - 1) * PROMPTS * GROUP):.0f}",
                    f"{median(1 / one for one in each[f'{side}, {ends}']):.1f}",
                    f"{median(one['sampling'] for one in runs):.0%}",
                    f"{median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f})" if side == "ours" else "",
                )
            )
    capped, not_capped = (
        median(one["seconds"] for one in found[f"ours, {ends}"]) for ends in ("natural", UNCALIBRATED)
    )
    columns = ("side", "tokens a completion", "tokens a second of a step", "of it sampling", "ours, times as fast")
    write(
        "grpo",
        command="python -m benchmarks.grpo --work DIR",
        about="Our GRPO beside the plain script of TRL's documentation, on a CPU.",
        found={
            "machine": {
                **machine("torch", "transformers", "trl", "peft"),
                "threads": os.environ.get("OMP_NUM_THREADS"),
            },
            "runs": found,
            "ratio": ratios,
            "without a calibrated cap": not_capped / capped,
        },
        text=markdown(columns, table)
        + f"\n\nSmolLM2-135M, float32, {PROMPTS} prompts a step in groups of {GROUP}, {ROWS} completions learned from "
        f"at once, at most {CAP} tokens each, {STEPS} steps of which the first is left out, {ROUNDS} rounds in turn. "
        "'full': no answer may end before the cap, so both sides sample exactly the same number of tokens; 'natural': "
        "answers end by themselves, and a side's time is divided by the tokens it sampled. Sampling is the time inside "
        f"TRL's own call for completions; the rest is scoring, learning, and writing down. With {ROOM} tokens as the "
        f"cap in place of {CAP}, which is near what calibration finds, a step of ours takes {not_capped / capped:.2f} "
        "times as long.",
    )


if __name__ == "__main__":
    main()
