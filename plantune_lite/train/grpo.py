"""Reinforce a student's adapter with rewards for its answers to prompts (GRPO, over TRL's trainer).

    rewarded = Rewards(lambda max_completion: [("right_answer", right_answer, 1.0)], passed=right_answer)
    train(student, prompts, rewarded, GRPO(steps=200), Path("runs/mine/grpo"), Training())
        -> {"line": "200 steps on 61 prompts, reward 0.82 to 1.34", ...}

For every prompt a group of answers is sampled, and those that earn more than their group are made likelier. Output:
the adapter with the tokenizer, samples.jsonl, calibration.json and pass_rates.jsonl; after a kill the same call
resumes. `settings`: "paper" is PLAN-TUNING's, "pta" PTA-GRPO's, "stable" suits small models (Dr. GRPO's loss, DAPO's
clip).
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from plantune_lite.recipe.schema import GRPO
from plantune_lite.runs.job import Training
from plantune_lite.student.load import Loaded
from plantune_lite.train import callbacks, prompt_selection, rollouts
from plantune_lite.train.reward_log import Rewarded, Signs, Weighed
from plantune_lite.train.rollouts import Sampled
from plantune_lite.train.trl_args import grpo_config
from plantune_lite.types import RecipeError, Reward, present

WARMUP = 0.1  # share of the steps
_NAMES = {
    "loss": "loss",
    "reward": "reward",
    "completions/clipped_ratio": "clipped",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "kl": "kl",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "num_tokens": "tokens",
}
_REFERENCE = "ref"  # TRL's name for the KL reference's adapter
_ADVICE = (
    "Try a lower grpo.learning_rate (a third of it) with --again grpo, or on a GPU without bf16 student.bits=32 with "
    "--again on the first training stage"
)
_LESS_MEMORY = (
    "set grpo.extra.per_device_train_batch_size=1, or a smaller grpo.max_completion or grpo.prompts_per_step, together "
    "with --again grpo; or student.checkpointing=true with --again on the first training stage"
)


class Rewards(NamedTuple):
    """Weighted reward functions, and the reward that is above 0 for a right answer."""

    weighed: Callable[[int], Sequence[Weighed]]  # of the maximum completion length in tokens
    passed: Reward


def train(
    student: Loaded,
    rows: Sequence[Mapping[str, Any]],
    rewards: Rewards,
    part: GRPO,
    out: Path,
    training: Training,
) -> dict[str, Any]:
    """Reinforce the student's adapter on these prompts, or resume from the last checkpoint; return a summary.

    `rows` have a problem_id, a prompt, and the columns that rewards use.
    """
    grpo_config(student.model, part, out, training, part.steps)  # refuse bad settings before anything is sampled
    began, say = time.monotonic(), training.reporter.say
    checkpoint = callbacks.last_checkpoint(out)
    if checkpoint is not None:
        # With this folder there, the trainer would load only the reference and train from the initial adapter.
        shutil.rmtree(checkpoint.folder / _REFERENCE, ignore_errors=True)
    # A resumed training keeps its prompts.
    looking = training if checkpoint is None else replace(training, hours=0.0)
    part, kept = select(student, rows, rewards, part, out, looking)
    most = present(part.max_completion)
    weighed = rewards.weighed(most)
    _refuse_names([name for name, _, _ in weighed])
    watched = Rewarded(weighed, part.group, out / "samples.jsonl", after_step=checkpoint.step if checkpoint else 0)
    schedule = callbacks.Schedule(part.steps, warmup=0 if part.settings == "pta" else round(WARMUP * part.steps))
    if checkpoint is not None and checkpoint.planned < part.steps:
        schedule.shorten(checkpoint.planned)  # max_hours did, before the kill
    settings = grpo_config(student.model, part, out, training, schedule.steps, watched.weights)
    placed = order(len(kept), part.prompts_per_step * schedule.steps, training.seed)
    trainer = _trainer(student, [kept[place] for place in placed], watched, part, settings, schedule)

    left = None if training.hours is None else training.hours - (time.monotonic() - began) / 3600
    signs = Signs(say, most, rewards=[name for name, _, _ in weighed])
    names = watched.names
    names.update(_NAMES)
    parts = [name for name in names.values() if name not in _NAMES.values()]
    shown = ("reward", *parts, "spread", "clipped", "entropy", "length", "kl")
    figures = callbacks.Figures(schedule, training.reporter, names, _ADVICE, shown)
    callbacks.train(trainer, (callbacks.Clock(schedule, left, say), figures, signs), checkpoint, _LESS_MEMORY, say)
    summary = _summary(trainer, watched, schedule, len(kept), signs.stopped)
    if _REFERENCE in student.model.peft_config:
        student.model.delete_adapter(_REFERENCE)
    callbacks.keep(student, out)
    return summary


def select(
    student: Any, rows: Sequence[Mapping[str, Any]], rewards: Rewards, part: GRPO, out: Path, training: Training
) -> tuple[GRPO, list[Mapping[str, Any]]]:
    """Return the part with the maximum answer length, and the prompts to train on; both are determined once."""
    asked, room = prompt_selection.askable(student, rows, training.max_length, training.reporter.say)
    most = part.max_completion
    if most is None:
        most = prompt_selection.calibrated(student, asked, room, out / "calibration.json", part, training)
    elif most > room:
        training.reporter.say(
            f"grpo.max_completion={most} is more than student.max_length={training.max_length} leaves: {room}"
        )
    part = replace(part, max_completion=min(most, room))
    file = out / "pass_rates.jsonl"
    return part, prompt_selection.solved_at_times(student, asked, rewards.passed, file, part, training)


def _refuse_names(names: Sequence[str]) -> None:
    taken = {*_NAMES.values(), "spread", "planned"}
    if not names or len(set(names)) < len(names) or taken & set(names):
        raise RecipeError(
            f"the rewards are named {', '.join(names) or 'nothing'}: each needs a unique name other than "
            f"{', '.join(sorted(taken))}, which are metrics already"
        )


# --- the trainer ------------------------------------------------------------------------------------------------------


def _trainer(
    student: Loaded,
    rows: Sequence[Mapping[str, Any]],
    watched: Rewarded,
    part: GRPO,
    settings: Any,
    schedule: callbacks.Schedule,
) -> Any:
    """Build TRL's trainer over our prompts in our order."""
    from datasets import Dataset, disable_progress_bars

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is experimental
    from trl import GRPOTrainer

    disable_progress_bars()
    return callbacks.build(
        GRPOTrainer,
        student,
        schedule,
        prepare=_keep_reference if settings.beta else lambda model: None,
        reward_funcs=watched.functions,
        args=settings,
        train_dataset=Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]}),
        rollout_func=_rollout(student, part, settings.seed),
    )


def _rollout(student: Any, part: GRPO, seed: int) -> Any:
    """Choose who samples: the student, plans first for the guided reward; None leaves it to the trainer."""
    if part.reward == "guided":
        return rollouts.Guided(student, part.plans, part.continuations, seed)
    ours = student.source.backend == "plain" and not part.extra.get("use_vllm")
    return Sampled(student, part.group, seed) if ours else None


def order(count: int, draws: int, seed: int) -> list[int]:
    """List prompt indices in training order, reshuffled every epoch; the trainer's own order is lost in a kill."""
    dice, placed = Random(seed), list[int]()
    while len(placed) < draws:
        placed += dice.sample(range(count), count)
    return placed[:draws]


def _keep_reference(model: Any) -> None:
    """Freeze a copy of the adapter before training, as KL reference; Unsloth would use the bare base."""
    if _REFERENCE not in model.peft_config:
        model.add_adapter(_REFERENCE, model.peft_config["default"])
    for name, values in model.named_parameters():
        if ".default." in name:
            copy = model.get_parameter(name.replace(".default.", f".{_REFERENCE}."))
            copy.data = values.data.clone()
            copy.requires_grad_(False)


# --- the summary ------------------------------------------------------------------------------------------------------


def _summary(
    trainer: Any, watched: Rewarded, schedule: callbacks.Schedule, prompts: int, stopped: str | None
) -> dict[str, Any]:
    history = [row for row in trainer.state.log_history if row.get("reward") is not None]

    def ends(name: str) -> tuple[float, float]:
        return callbacks.both_ends([row[name] for row in history if row.get(name) is not None])

    first, last = ends("reward")
    line = f"{trainer.state.global_step} steps on {prompts} prompts, reward {first} to {last}"
    parts = {name: ends(logged) for logged, name in watched.names.items() if logged.startswith("rewards/")}
    if len(parts) > 1:
        line += f" ({', '.join(f'{name} {start} to {end}' for name, (start, end) in parts.items())})"
    if stopped:
        line += f"; stopped early: {stopped}"
    return {
        "line": line,
        "steps": trainer.state.global_step,
        "planned_steps": schedule.steps,
        "rewards": {name: list(both) for name, both in parts.items()},
    }
