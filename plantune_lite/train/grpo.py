"""Reinforcement: a student, prompts and rewards become an adapter whose answers earn more (GRPO, over TRL's trainer).

    train(student, prompts, [("right_answer", right_answer, 1.0)], GRPO(steps=200), Path("runs/mine/grpo"))
        -> {"line": "200 steps on 61 prompts, reward 0.82 to 1.34", ...}

Of every prompt a group of answers is sampled, and those that earn more than their group are made likelier. What goes
out is the adapter with the tokenizer, samples.jsonl, calibration.json and pass_rates.jsonl; killed, the same call goes
on. `settings` says how: "paper" is PLAN-TUNING's, "pta" PTA-GRPO's, "stable" what holds for small models (Dr. GRPO's
loss, DAPO's clip).
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.recipe.schema import GRPO, GRPO_ROWS
from plantune_lite.train import callbacks, prompt_selection, rollouts, trl_args
from plantune_lite.train.reward_log import Rewarded, Signs, Weighed
from plantune_lite.train.rollouts import Sampled
from plantune_lite.train.trl_args import grpo_config
from plantune_lite.types import LoadedStudent, RecipeError, Reward

WARMUP = 0.1  # share of the steps
_NAMES = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "completions/clipped_ratio": "clipped",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "tokens_a_second": "tokens_a_second",
    "kl": "kl",
    "clip_ratio/region_mean": "clip_ratio",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "num_tokens": "tokens",
}
_REFERENCE = "ref"  # what TRL calls the adapter that the policy is kept near


def train(
    student: LoadedStudent,
    rows: Sequence[Mapping[str, Any]],
    rewards: Sequence[Weighed] | Callable[[int], Sequence[Weighed]],
    part: GRPO,
    out: Path,
    *,
    passed: Reward | None = None,
    max_length: int = 1024,
    checkpointing: bool = False,
    seed: int = 0,
    hours: float | None = None,
    metric: Callable[..., object] = lambda step, **figures: None,
    show: Callable[[str, bool], object] = lambda line, last: None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Reinforce the student's adapter on these prompts, or go on from the last checkpoint; what came of it.

    `rows` have a problem_id, a prompt, and the columns that rewards ask for. `rewards` may be a function of how many
    tokens a completion may have. `passed` says by a number above 0 that an answer is right; without it, the first
    reward does.
    """

    _refuse(part)
    settings = partial(grpo_config, student.model, part, out, seed=seed, checkpointing=checkpointing, rows=GRPO_ROWS)
    settings(most=prompt_selection.LEAST, steps=part.steps)  # what cannot be is refused before anything is sampled
    began = time.monotonic()
    checkpoint = callbacks.last_checkpoint(out)
    if checkpoint is not None:
        # Found there, the trainer would load the reference alone, and train on from where it began.
        shutil.rmtree(checkpoint.folder / _REFERENCE, ignore_errors=True)
    asked, most, room = _chosen_length(student, rows, part, out, max_length, seed, say)
    named = _named(rewards(most) if callable(rewards) else rewards)
    kept = prompt_selection.solved_at_times(
        student,
        asked,
        passed or named[0][1],
        out / "pass_rates.jsonl",
        answers=part.group,
        draws=part.steps * part.prompts_per_step,
        max_completion=most,
        temperature=part.temperature,
        seed=seed,
        hours=hours if checkpoint is None else 0.0,  # what was trained on so far stays what is trained on
        show=show,
        say=say,
    )
    watched = Rewarded(named, part.group, out / "samples.jsonl", after_step=checkpoint.step if checkpoint else 0)
    trainer, schedule = _trainer(student, kept, watched, part, partial(settings, most=most), seed, checkpoint)

    left = None if hours is None else hours - (time.monotonic() - began) / 3600
    signs = Signs(say, most, longer=_longer(part, most, room), rewards=[name for name, _, _ in named])
    names = watched.names
    names.update(_NAMES)
    parts = [name for name in names.values() if name not in _NAMES.values()]
    shown = ("reward", *parts, "spread", "clipped", "entropy", "length", "kl", "tokens_a_second")
    a_step = part.prompts_per_step * part.group
    figures = _Figures(schedule, metric, show, names, _steadier(part), shown, completions=a_step)
    less_memory = partial(_less_memory, part, trainer.args, most, checkpointing)
    callbacks.train(trainer, (callbacks.Clock(schedule, left, say), figures, signs), checkpoint, less_memory, say)
    summary = _summary(trainer, watched, schedule, len(kept), most, signs.stopped)
    if _REFERENCE in student.model.peft_config:
        student.model.delete_adapter(_REFERENCE)
    callbacks.keep(student, out)
    return summary


def _refuse(part: GRPO) -> None:
    if part.reward == "guided" and part.group != part.plans * part.continuations:
        size = part.plans * part.continuations
        raise RecipeError(
            f"grpo.group is {part.group}, but grpo.reward='guided' makes grpo.plans x grpo.continuations = {size}: "
            f"set grpo.group={size}"
        )
    if trl_args.processes() > 1:
        raise RecipeError(
            f"{trl_args.processes()} processes were asked for, but grpo works in one: unset PLANTUNE_PROCESSES"
        )


def _named(rewards: Sequence[Weighed]) -> list[Weighed]:
    names = [name for name, _, _ in rewards]
    taken = {*_NAMES.values(), "spread", "planned"}
    if not names or len(set(names)) < len(names) or taken & set(names):
        raise RecipeError(
            f"the rewards are called {', '.join(names) or 'nothing'}: each needs a name of its own, and none of "
            f"{', '.join(sorted(taken))}, which are figures already"
        )
    return list(rewards)


def _chosen_length(
    student: LoadedStudent,
    rows: Sequence[Mapping[str, Any]],
    part: GRPO,
    out: Path,
    max_length: int,
    seed: int,
    say: Callable[[str], object],
) -> tuple[list[Mapping[str, Any]], int, int]:
    """The prompts that can be asked, how many tokens an answer may have, and how many it could have."""
    asked, room = prompt_selection.askable(student, rows, max_length, say)
    if part.max_completion is None:
        file = out / "calibration.json"
        most = prompt_selection.calibrated(student, asked, room, file, temperature=part.temperature, seed=seed, say=say)
        return asked, most, room
    if part.max_completion > room:
        say(f"grpo.max_completion={part.max_completion} is more than student.max_length={max_length} leaves: {room}")
    return asked, min(part.max_completion, room), room


# --- the trainer ------------------------------------------------------------------------------------------------------


def _trainer(
    student: LoadedStudent,
    rows: Sequence[Mapping[str, Any]],
    watched: Rewarded,
    part: GRPO,
    settings: Callable[..., Any],
    seed: int,
    checkpoint: callbacks.Checkpoint | None,
) -> tuple[Any, callbacks.Schedule]:
    """TRL's trainer over our prompts in our order, and the schedule of its learning rate."""
    from datasets import Dataset, disable_progress_bars
    from torch.optim.lr_scheduler import LambdaLR

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is known to be
    from trl import GRPOTrainer

    warmup = 0 if part.settings == "pta" else round(WARMUP * part.steps)
    schedule = callbacks.Schedule(part.steps, warmup=warmup)
    if checkpoint is not None and checkpoint.planned < part.steps:
        schedule.shorten(checkpoint.planned)  # max_hours did, before the kill
    disable_progress_bars()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    model = student.model
    weights = {one: one.data for one in model.parameters() if one.requires_grad}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=watched.functions,
        args=settings(steps=schedule.steps, weights=watched.weights),
        train_dataset=Dataset.from_dict(columns).select(order(len(rows), part.prompts_per_step * schedule.steps, seed)),
        processing_class=student.tokenizer,
        rollout_func=_rollout(student, part, seed),
    )
    for one, was in weights.items():
        one.data = was.float()  # TRL makes them bf16 in 4-bit runs, where small updates round to nothing
    if trainer.beta:
        _keep_reference(model)
    trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(trainer.optimizer, schedule)
    return trainer, schedule


def _rollout(student: Any, part: GRPO, seed: int) -> Any:
    """Who samples: the student, plans first where they are shared; under Unsloth its own trainer."""
    if part.reward == "guided":
        return rollouts.Guided(student, part.plans, part.continuations)
    return Sampled(student, part.group, seed) if student.source.backend == "plain" else None


def order(count: int, draws: int, seed: int) -> list[int]:
    """Which prompt comes when: epoch after epoch, each shuffled anew; the trainer's own order is lost by a kill."""
    dice, placed = Random(seed), list[int]()
    while len(placed) < draws:
        placed += dice.sample(range(count), count)
    return placed[:draws]


def _keep_reference(model: Any) -> None:
    """The adapter as training finds it, frozen, as what the policy is kept near; Unsloth would take the bare base."""
    if _REFERENCE not in model.peft_config:
        model.add_adapter(_REFERENCE, model.peft_config["default"])
    for name, values in model.named_parameters():
        if ".default." in name:
            copy = model.get_parameter(name.replace(".default.", f".{_REFERENCE}."))
            copy.data = values.data.clone()
            copy.requires_grad_(False)


class _Figures(callbacks.Figures):
    """The figures of a step with the tokens sampled a second."""

    def __init__(self, *args: Any, completions: int) -> None:
        super().__init__(*args)
        self._completions, self._last = completions, time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins by sampling its completions."""
        self._last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        """Written down and shown with the pace."""
        if "completions/mean_length" in logs:
            tokens = self._completions * logs["completions/mean_length"]
            logs = {**logs, "tokens_a_second": tokens / max(1e-9, time.monotonic() - self._last)}
        super().on_log(args, state, control, logs)


# --- advice -----------------------------------------------------------------------------------------------------------


def _student_again(part: GRPO) -> str:
    """How a setting of the student is changed: the SFT is of the same student, so that it is another one too."""
    return "--again sft (the SFT is made again too)" if part.start == "sft" else "--again grpo"


def _steadier(part: GRPO) -> str:
    return (
        "Try a lower grpo.learning_rate (a third of it) with --again grpo, and on a card without bf16 "
        f"student.bits=32 with {_student_again(part)}."
    )


def _longer(part: GRPO, most: int, room: int) -> str:
    """What allows longer answers than these, of which there is room for some."""
    if most < room:
        return f"grpo.max_completion={min(2 * most, room)} with --again grpo"
    return f"a larger student.max_length with {_student_again(part)}"


def _less_memory(part: GRPO, args: Any, most: int, checkpointing: bool, step: int) -> str:
    ways = []
    if args.per_device_train_batch_size > 1:
        same = "" if args.loss_type == "bnpo" else " (the same steps)"  # its mean is over what is learned from at once
        ways.append(f"grpo.extra.per_device_train_batch_size=1{same}")
    if (shorter := most * 3 // 4 // 16 * 16) >= prompt_selection.LEAST:
        ways.append(f"grpo.max_completion={shorter}")
    if part.prompts_per_step > 1:
        ways.append(f"grpo.prompts_per_step={part.prompts_per_step // 2}")
    advice = [f"{', or '.join(ways)}, together with --again grpo"] if ways else []
    if not checkpointing:
        advice.append(f"student.checkpointing=true, together with {_student_again(part)}")
    less = "; or ".join(advice) or "a smaller student.model, under another name=OTHER"
    return f"memory ran out at step {step}. With less of it: {less}. plantune estimate says what fits."


# --- what came of it --------------------------------------------------------------------------------------------------


def _summary(
    trainer: Any, watched: Rewarded, schedule: callbacks.Schedule, asked: int, most: int, stopped: str | None
) -> dict[str, Any]:
    history = [row for row in trainer.state.log_history if row.get("reward") is not None]
    few = max(1, len(history) // 10)

    def ends(name: str) -> tuple[float, float]:
        logged = [row[name] for row in history if row.get(name) is not None]
        first, last = (sum(some) / max(1, len(some)) for some in (logged[:few], logged[-few:]))
        return round(first, 4), round(last, 4)

    first, last = ends("reward")
    line = f"{trainer.state.global_step} steps on {asked} prompts, reward {first} to {last}"
    parts = {name: ends(logged) for logged, name in watched.names.items() if logged.startswith("rewards/")}
    if len(parts) > 1:
        line += f" ({', '.join(f'{name} {one} to {other}' for name, (one, other) in parts.items())})"
    if stopped:
        line += f"; stopped early: {stopped}"
    return {
        "line": line,
        "steps": trainer.state.global_step,
        "planned_steps": schedule.steps,
        "prompts": asked,
        "max_completion": most,
        "reward_first": first,
        "reward_last": last,
        "rewards": {name: list(both) for name, both in parts.items()},
        "clipped_last": ends("completions/clipped_ratio")[1],
        "spread_last": ends("spread")[1],
        "length_last": ends("completions/mean_length")[1],
        "stopped": stopped,
    }
