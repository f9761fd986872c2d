"""Train a loaded student's adapter on a corpus's rows (supervised).

    train(student, rows, SFT(epochs=1), Path("runs/mine/sft"), Training()) -> {"line": "60 steps, loss 1.94 ...", ...}

The rows, written by corpus.py, decide which arm this is (baseline, control, M1, M2), not the trainer. Output:
adapter_model.safetensors with the tokenizer, and checkpoints meanwhile; after a kill the same call resumes.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.recipe.schema import SFT
from plantune_lite.runs.job import Training
from plantune_lite.student.load import Loaded
from plantune_lite.terminal import printable
from plantune_lite.train import callbacks, data, trl_args
from plantune_lite.train.data import Lesson

VALIDATED = 64  # rows at most: validation pauses training
_NAMES = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "num_tokens": "tokens",
    "eval_loss": "validation_loss",
    "eval_mean_token_accuracy": "validation_token_accuracy",
}
_ADVICE = "Try a lower sft.learning_rate (a third of it), on a GPU without bf16 student.bits=32, with --again sft."
_LESS_MEMORY = (
    "set student.checkpointing=true, half the sft.batch_size with twice the sft.accumulate (the same steps), or a "
    "smaller student.max_length (longer rows are left out and counted), together with --again sft"
)


def train(
    student: Loaded,
    rows: Sequence[Mapping[str, Any]],
    part: SFT,
    out: Path,
    training: Training,
    *,
    validation: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Train the student's adapter on the rows, or resume from the last checkpoint; return a summary.

    Rows of a lower `rank`, where they have one, come earlier.
    """
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    say = training.reporter.say
    taught = data.lessons(student, rows, training.max_length)
    data.check_left("learned from", taught.kept, taught.dropped, "corpus/train.jsonl", say)
    validated = _validated(data.lessons(student, validation, training.max_length).kept, part.batch_size, training.seed)
    example = min(taught.kept, key=lambda lesson: len(lesson.ids))
    say("one row, what is learned in ⟦ ⟧:\n" + printable(data.shown(student.tokenizer, example), limit=2000))

    checkpoint = callbacks.last_checkpoint(out)
    count, steps = planned(part, len(taught.kept))
    schedule = callbacks.Schedule(steps, warmup=round(part.warmup * steps))
    if checkpoint is not None and checkpoint.planned < steps:
        schedule.shorten(checkpoint.planned)  # max_hours did, before the kill
    settings = _settings(student.model, part, out, training, schedule.steps, bool(validated))
    a_step = part.batch_size * part.accumulate
    indices = data.order([len(lesson.ids) for lesson in taught.kept], part.batch_size, count, training.seed)
    indices.sort(key=lambda index: taught.kept[index].rank)
    dataset = _dataset(taught.kept).select(indices[: schedule.steps * a_step])
    trainer = callbacks.build(
        SFTTrainer,
        student,
        schedule,
        args=settings,
        train_dataset=dataset,
        eval_dataset=_dataset(validated) if validated else None,
        # Pads on the right, where the causal mask alone hides padding from the tokens before it.
        data_collator=DataCollatorForLanguageModeling(student.tokenizer.pad_token_id),
    )
    clock = callbacks.Clock(
        schedule, training.hours, say, validation=len(validated) / a_step, agree=trl_args.first_says
    )
    figures = callbacks.Figures(schedule, training.reporter, _NAMES, _ADVICE)
    callbacks.train(trainer, (clock, figures), checkpoint, _LESS_MEMORY, say)
    summary = _summary(trainer, taught, schedule)
    trainer.accelerator.wait_for_everyone()  # another process may still read the best checkpoint
    if trainer.is_world_process_zero():
        callbacks.keep(student, out)
    return summary


def _validated(kept: Sequence[Lesson], batch: int, seed: int) -> list[Lesson]:
    """Sample the validation rows; where processes share them, whole batches, or some would count twice."""
    count = min(VALIDATED, len(kept))
    if (processes := trl_args.processes()) > 1:
        count -= count % (batch * processes)
    return Random(seed).sample(kept, count)


def planned(part: SFT, rows: int) -> tuple[int, int]:
    """Return the number of rows drawn, repeats included, and of steps in a training on `rows` rows."""
    a_step = part.batch_size * part.accumulate
    count = part.max_steps * a_step if part.max_steps else max(1, round(part.epochs * rows))
    return count, -(-count // a_step)


# --- the trainer ------------------------------------------------------------------------------------------------------


def _dataset(taught: Sequence[Lesson]) -> Any:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()  # Unsloth goes through the validation rows before it uses them
    return Dataset.from_dict(
        {"input_ids": [list(lesson.ids) for lesson in taught], "labels": [data.labels_of(lesson) for lesson in taught]}
    )


def _settings(model: Any, part: SFT, out: Path, training: Training, steps: int, validates: bool) -> Any:
    from trl import SFTConfig

    settings = {
        **trl_args.common(model, out, training, steps),
        "learning_rate": part.learning_rate,
        "weight_decay": part.weight_decay,
        "save_steps": part.save_steps,
        "per_device_train_batch_size": part.batch_size,
        "per_device_eval_batch_size": part.batch_size,
        "gradient_accumulation_steps": trl_args.accumulated_by_each(part.accumulate),
        # The same loss either way: TRL's chunks skip the prompt's logits, Unsloth has nll kernels.
        "loss_type": "nll" if "unsloth" in sys.modules else "chunked_nll",
        "max_length": training.max_length,
        "padding_free": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # data.lessons has encoded the rows
        "train_sampling_strategy": "sequential",  # the order is data.order's
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": part.save_steps,
        "load_best_model_at_end": validates,
    }
    return trl_args.config(SFTConfig, settings, part.extra, "sft")


# --- the summary ------------------------------------------------------------------------------------------------------


def _summary(trainer: Any, taught: data.Taught, schedule: callbacks.Schedule) -> dict[str, Any]:
    history = trainer.state.log_history
    checked = [row["eval_loss"] for row in history if "eval_loss" in row]
    first, last = callbacks.both_ends([row["loss"] for row in history if "loss" in row])
    line = f"{trainer.state.global_step} steps on {len(taught.kept)} rows, loss {first} to {last}"
    if checked:
        line += f", validation loss {min(checked):.4g}"
    return {
        "line": line,
        "steps": trainer.state.global_step,
        "planned_steps": schedule.steps,
        "trained_tokens": next((int(row["num_tokens"]) for row in reversed(history) if "num_tokens" in row), None),
        "loss_first": first,
        "loss_last": last,
    }
