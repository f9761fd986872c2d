"""Supervised training: a loaded student and a corpus's rows become an adapter.

    train(student, rows, SFT(epochs=1), Path("runs/mine/sft")) -> {"line": "60 steps, loss 1.94 to 0.41 ...", ...}

Which arm this is (baseline, control, M1, M2) is what the rows say, not the trainer: corpus.py wrote them. What goes out
is adapter_model.safetensors with the tokenizer, and checkpoints while it works; killed, the same call goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.recipe.schema import SFT
from plantune_lite.terminal import printable
from plantune_lite.train import callbacks, data, trl_args
from plantune_lite.train.data import Lesson, LessonError
from plantune_lite.types import LoadedStudent, Sampling

VALIDATED = 64  # rows at most: a validation is a pause in the training
SAMPLED = 8  # replies looked at in the end
_NAMES = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "num_tokens": "tokens",
    "entropy": "entropy",
    "eval_loss": "validation_loss",
    "eval_mean_token_accuracy": "validation_token_accuracy",
}
_OURS = {  # TRL's name -> what decides it
    "max_steps": "sft.max_steps",
    "num_train_epochs": "sft.epochs",
    "per_device_train_batch_size": "sft.batch_size",
    "gradient_accumulation_steps": "sft.accumulate",
    "learning_rate": "sft.learning_rate",
    "lr_scheduler_type": "max_hours, which can shorten our own schedule and no other,",
    "warmup_steps": "sft.warmup",
    "warmup_ratio": "sft.warmup",
    "weight_decay": "sft.weight_decay",
    "save_steps": "sft.save_steps",
    "report_to": "sft.logger",
    "max_length": "student.max_length",
    "gradient_checkpointing": "student.checkpointing",
    "seed": "the recipe's seed",
    "output_dir": "the name of the run",
    **dict.fromkeys(("save_strategy", "eval_strategy", "eval_steps", "load_best_model_at_end"), "sft.save_steps"),
    **dict.fromkeys(("packing", "padding_free", "dataset_kwargs", "remove_unused_columns"), "our own encoder of rows"),
    **dict.fromkeys(("completion_only_loss", "assistant_only_loss"), "our own mask, the completion alone,"),
    "train_sampling_strategy": "our own order, the longest batch first,",
    "logging_nan_inf_filter": "the stop at a loss that is no number",
}
_ADVICE = "Try a lower sft.learning_rate (a third of it), and student.bits=32 on a card without bf16, with --again sft."


def train(
    student: LoadedStudent,
    rows: Sequence[Mapping[str, Any]],
    part: SFT,
    out: Path,
    *,
    validation: Sequence[Mapping[str, Any]] = (),
    ranks: Sequence[float] | None = None,
    max_length: int = 1024,
    checkpointing: bool = False,
    seed: int = 0,
    hours: float | None = None,
    metric: Callable[..., object] = lambda step, **figures: None,
    show: Callable[[str, bool], object] = lambda line, last: None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Train the student's adapter on the rows, or go on from the last checkpoint; what came of it.

    `ranks`, one a row, says which rows come earlier: those of a lower rank.
    """
    taught = data.lessons(student, rows, max_length)
    _say_dropped(taught, len(rows), max_length, say)
    data.refuse_unlearnable(taught.kept, student.tokenizer, student.preset.turn_end)
    validated = _validated(data.lessons(student, validation, max_length).kept, part.batch_size, seed)
    example = min(taught.kept, key=lambda one: len(one.ids))
    say("one row, what is learned in ⟦ ⟧:\n" + printable(data.shown(student.tokenizer, example), limit=2000))

    checkpoint = callbacks.last_checkpoint(out)
    trainer, schedule = _trainer(
        student, taught.kept, validated, part, out, max_length, checkpointing, seed, checkpoint, ranks
    )
    a_step = part.batch_size * part.accumulate
    clock = callbacks.Clock(schedule, hours, say, validation=len(validated) / a_step, agree=trl_args.first_says)
    figures = callbacks.Figures(schedule, metric, show, _NAMES, _ADVICE)
    less_memory = partial(_less_memory, part, max_length, checkpointing)
    callbacks.train(trainer, (clock, figures), checkpoint, less_memory, say)
    summary = _summary(trainer, taught, schedule, len(validated))
    trainer.accelerator.wait_for_everyone()  # another process may still read the best checkpoint
    if trainer.is_world_process_zero():
        _stops(student, [rows[one.row] for one in taught.kept[:SAMPLED]], taught.kept, summary, say)
        callbacks.keep(student, out)
    return summary


def _validated(kept: Sequence[Lesson], batch: int, seed: int) -> list[Lesson]:
    """Some of the rows that are kept apart; where processes share them, whole batches, or one would count twice."""
    count = min(VALIDATED, len(kept))
    if (processes := trl_args.processes()) > 1:
        count -= count % (batch * processes)
    return Random(seed).sample(kept, count)


def _say_dropped(taught: data.Taught, count: int, max_length: int, say: Callable[[str], object]) -> None:
    reasons = ", ".join(f"{number} {reason}" for reason, number in taught.dropped.items())
    if not taught.kept:
        advice = "Raise student.max_length." if "longer" in reasons else "Look at what is in corpus/train.jsonl."
        raise LessonError(f"none of the {count} rows can be learned from: {reasons or 'there are none'}. {advice}")
    if taught.dropped:
        longest = max(len(one.ids) for one in taught.kept)
        say(
            f"{sum(taught.dropped.values())} of {count} rows left out: {reasons}; the longest kept has {longest} tokens"
        )


def planned(part: SFT, rows: int) -> tuple[int, int]:
    """How many rows a training of so many takes, one by one, and in how many steps."""
    a_step = part.batch_size * part.accumulate
    count = part.max_steps * a_step if part.max_steps else max(1, round(part.epochs * rows))
    return count, -(-count // a_step)


# --- the trainer ------------------------------------------------------------------------------------------------------


def _trainer(
    student: LoadedStudent,
    taught: Sequence[Lesson],
    validated: Sequence[Lesson],
    part: SFT,
    out: Path,
    max_length: int,
    checkpointing: bool,
    seed: int,
    checkpoint: callbacks.Checkpoint | None,
    ranks: Sequence[float] | None,
) -> tuple[Any, callbacks.Schedule]:
    """TRL's trainer over our rows in our order, and the schedule of its learning rate."""
    from torch.optim.lr_scheduler import LambdaLR
    from trl import SFTTrainer

    count, steps = planned(part, len(taught))
    places = data.order([len(one.ids) for one in taught], part.batch_size, count, seed)
    if ranks is not None:
        places.sort(key=lambda place: ranks[taught[place].row])
    schedule = callbacks.Schedule(steps, warmup=round(part.warmup * steps))
    if checkpoint is not None and checkpoint.planned < steps:
        schedule.shorten(checkpoint.planned)  # max_hours did, before the kill
        places = places[: schedule.steps * part.batch_size * part.accumulate]
    weights = {one: one.data for one in student.model.parameters() if one.requires_grad}
    trainer = SFTTrainer(
        model=student.model,
        args=_settings(student.model, part, out, max_length, checkpointing, seed, schedule.steps, bool(validated)),
        train_dataset=_dataset(taught).select(places),
        eval_dataset=_dataset(validated) if validated else None,
        data_collator=data.collate(student.tokenizer.pad_token_id),
        processing_class=student.tokenizer,
    )
    for one, was in weights.items():
        one.data = was.float()  # TRL makes them bf16 in 4-bit runs, where small updates round to nothing
    trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(trainer.optimizer, schedule)
    return trainer, schedule


def _dataset(taught: Sequence[Lesson]) -> Any:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()  # Unsloth goes through the validation rows before it uses them
    return Dataset.from_dict(
        {"input_ids": [list(one.ids) for one in taught], "labels": [data.labels_of(one) for one in taught]}
    )


def _settings(
    model: Any,
    part: SFT,
    out: Path,
    max_length: int,
    checkpointing: bool,
    seed: int,
    steps: int,
    validates: bool,
) -> Any:
    from trl import SFTConfig

    settings = {
        **trl_args.common(
            model,
            out,
            steps=steps,
            learning_rate=part.learning_rate,
            weight_decay=part.weight_decay,
            checkpointing=checkpointing,
            save_steps=part.save_steps,
            logger=part.logger,
            seed=seed,
        ),
        "per_device_train_batch_size": part.batch_size,
        "per_device_eval_batch_size": part.batch_size,
        "gradient_accumulation_steps": trl_args.accumulated_by_each("sft", part.accumulate),
        "loss_type": loss_type(),
        "max_length": max_length,
        "packing": False,
        "padding_free": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # the rows are encoded already, by the one encoder
        "train_sampling_strategy": "sequential",  # the order is lessons.order's
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": part.save_steps if validates else None,
        "load_best_model_at_end": validates,
        "metric_for_best_model": "eval_loss" if validates else None,
        "greater_is_better": False if validates else None,
    }
    return trl_args.config(SFTConfig, settings, part.extra, "sft", _OURS)


def loss_type() -> str:
    """The same loss either way: TRL's chunks skip the prompt's logits, Unsloth has kernels of its own for plain nll."""
    import sys

    return "nll" if "unsloth" in sys.modules else "chunked_nll"


def _less_memory(part: SFT, max_length: int, checkpointing: bool, step: int) -> str:
    ways = []
    if not checkpointing:
        ways.append("student.checkpointing=true")
    if part.batch_size > 1:
        smaller = part.batch_size // 2 if part.batch_size % 2 == 0 else 1
        same = part.accumulate * part.batch_size // smaller
        ways.append(f"sft.batch_size={smaller} sft.accumulate={same} (the same steps)")
    if (shorter := max_length * 3 // 4 // 64 * 64) >= 64:
        ways.append(f"student.max_length={shorter} (longer rows are left out and counted)")
    where = ", where the longest batch is" if step == 0 else ""
    return (
        f"memory ran out at step {step}{where}. With less of it: {', or '.join(ways) or 'a smaller student.model'}, "
        "together with --again sft. plantune estimate says what fits."
    )


# --- what came of it --------------------------------------------------------------------------------------------------


def _summary(trainer: Any, taught: data.Taught, schedule: callbacks.Schedule, validated: int) -> dict[str, Any]:
    history = trainer.state.log_history
    losses = [row["loss"] for row in history if "loss" in row]
    checked = [row["eval_loss"] for row in history if "eval_loss" in row]
    few = max(1, len(losses) // 10)
    first, last = (round(sum(some) / len(some), 4) for some in (losses[:few], losses[-few:]))
    line = f"{trainer.state.global_step} steps on {len(taught.kept)} rows, loss {first} to {last}"
    if checked:
        line += f", validation loss {min(checked):.4g}"
    return {
        "line": line,
        "steps": trainer.state.global_step,
        "planned_steps": schedule.steps,
        "rows": len(taught.kept),
        "dropped": dict(taught.dropped),
        "learned_tokens": sum(one.learned for one in taught.kept),
        "trained_tokens": next((int(row["num_tokens"]) for row in reversed(history) if "num_tokens" in row), None),
        "validated": validated,
        "loss_first": first,
        "loss_last": last,
        "validation_loss": min(checked) if checked else None,
        "best_step": callbacks.step_of(best) if (best := trainer.state.best_model_checkpoint) else None,
    }


def _stops(
    student: LoadedStudent,
    rows: Sequence[Mapping[str, Any]],
    taught: Sequence[Lesson],
    summary: dict[str, Any],
    say: Callable[[str], object],
) -> None:
    """Whether the tuned student ends its turns: a few replies to what it was trained on."""
    most = max(one.learned for one in taught) * 5 // 4
    replies = [reply for [reply] in student.generate([tuple(row["prompt"]) for row in rows], Sampling(max_tokens=most))]
    ended = sum(reply.finish == "stop" for reply in replies)
    summary.update(sampled=len(replies), ended=ended, sample=replies[0].text)
    if ended * 2 < len(replies):
        say(
            f"warning: {len(replies) - ended} of {len(replies)} sampled replies did not end within {most} tokens, "
            "a quarter more than the longest row: too few steps, or too low an sft.learning_rate"
        )
