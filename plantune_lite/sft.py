"""Supervised training: a loaded student and a corpus's rows become an adapter.

    train(student, rows, SFT(epochs=1), Path("runs/mine/sft")) -> {"line": "60 steps, loss 1.94 to 0.41 ...", ...}

Which arm this is (baseline, control, M1, M2) is what the rows say, not the trainer: corpus.py wrote them. What goes out
is adapter_model.safetensors with the tokenizer, and checkpoints while it works; killed, the same call goes on.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plantune_lite import lessons, watch
from plantune_lite.lessons import Lesson, LessonError
from plantune_lite.recipe import SFT
from plantune_lite.records import LoadedStudent, Sampling
from plantune_lite.terminal import printable
from plantune_lite.typed import nearest

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
_ADVICE = "Try a lower sft.learning_rate (a third of it), and student.bits=32 on a card without bf16."


def train(
    student: LoadedStudent,
    rows: Sequence[Mapping[str, Any]],
    part: SFT,
    out: Path,
    *,
    validation: Sequence[Mapping[str, Any]] = (),
    max_length: int = 1024,
    checkpointing: bool = False,
    seed: int = 0,
    hours: float | None = None,
    metric: Callable[..., object] = lambda step, **figures: None,
    show: Callable[[str, bool], object] = lambda line, last: None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Train the student's adapter on the rows, or go on from the last checkpoint; what came of it."""
    from transformers import PrinterCallback

    taught = lessons.lessons(student, rows, max_length)
    _say_dropped(taught, len(rows), max_length, say)
    lessons.refuse_unlearnable(taught.kept, student.tokenizer, student.preset.turn_end)
    validated = lessons.lessons(student, validation, max_length).kept[:VALIDATED]
    example = min(taught.kept, key=lambda one: len(one.ids))
    say("one row, what is learned in ⟦ ⟧:\n" + printable(lessons.shown(student.tokenizer, example), limit=2000))

    trainer, schedule = _trainer(student, taught.kept, validated, part, out, max_length, checkpointing, seed)
    trainer.remove_callback(PrinterCallback)  # the lines are ours
    trainer.add_callback(watch.callback(watch.Clock(schedule, hours, say)))
    trainer.add_callback(watch.callback(watch.Figures(schedule, metric, show, _NAMES, _ADVICE)))
    checkpoint = watch.last_checkpoint(out)
    if checkpoint is not None:
        say(f"goes on from {checkpoint.name.replace('-', ' at step ')}")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    except Exception as error:
        if watch.out_of_memory(error):
            raise watch.TrainingError(
                _less_memory(part, max_length, checkpointing, trainer.state.global_step)
            ) from error
        raise
    summary = _summary(trainer, taught, schedule, len(validated))
    if trainer.is_world_process_zero():
        _stops(student, rows, taught.kept, summary, say)
        student.save(out)
        for folder in out.glob("checkpoint-*"):
            shutil.rmtree(folder)  # what they were for is done
    return summary


def _say_dropped(taught: lessons.Taught, count: int, max_length: int, say: Callable[[str], object]) -> None:
    reasons = ", ".join(f"{number} {reason}" for reason, number in taught.dropped.items())
    if not taught.kept:
        raise LessonError(f"none of the {count} rows can be learned from: {reasons}. Raise student.max_length.")
    if taught.dropped:
        longest = max(len(one.ids) for one in taught.kept)
        say(
            f"{sum(taught.dropped.values())} of {count} rows left out: {reasons}; the longest kept has {longest} tokens"
        )


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
) -> tuple[Any, watch.Schedule]:
    """TRL's trainer over our rows in our order, and the schedule of its learning rate."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR
    from trl import SFTTrainer

    workers = int(os.environ.get("WORLD_SIZE", "1"))
    a_step = part.batch_size * part.accumulate
    accumulate = max(1, part.accumulate // workers)  # more cards: the same rows a step, each its share
    wanted = part.max_steps * a_step if part.max_steps else round(part.epochs * len(taught))
    steps = max(1, part.max_steps or -(-wanted // a_step))
    lengths = [len(one.ids) for one in taught]
    places = lessons.order(lengths, part.batch_size, max(1, wanted), seed)
    trainer = SFTTrainer(
        model=student.model,
        args=_settings(part, out, max_length, checkpointing, seed, steps, accumulate, bool(validated)),
        train_dataset=_dataset(taught).select(places),
        eval_dataset=_dataset(validated) if validated else None,
        data_collator=lessons.collate(student.tokenizer.pad_token_id),
        processing_class=student.tokenizer,
    )
    for weights in trainer.model.parameters():
        if weights.requires_grad and weights.dtype != torch.float32:
            weights.data = weights.data.float()  # TRL leaves bf16 in 4-bit runs, where small updates round to nothing
    schedule = watch.Schedule(steps, warmup=round(part.warmup * steps))
    trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(trainer.optimizer, schedule)
    return trainer, schedule


def _dataset(taught: Sequence[Lesson]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {"input_ids": [list(one.ids) for one in taught], "labels": [lessons.labels_of(one) for one in taught]}
    )


def _settings(
    part: SFT, out: Path, max_length: int, checkpointing: bool, seed: int, steps: int, accumulate: int, validates: bool
) -> Any:
    """TRL's config with every knob that differs between backends or versions said."""
    import torch
    from trl import SFTConfig

    on_gpu = torch.cuda.is_available()
    bf16 = on_gpu and torch.cuda.is_bf16_supported()
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": steps,
        "per_device_train_batch_size": part.batch_size,
        "per_device_eval_batch_size": part.batch_size,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": part.learning_rate,
        "weight_decay": part.weight_decay,
        "optim": "adamw_8bit" if on_gpu else "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "bf16": bf16,
        "fp16": on_gpu and not bf16,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        "loss_type": loss_type(),
        "max_length": max_length,
        "packing": False,
        "padding_free": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # the rows are encoded already, by the one encoder
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",  # the order is lessons.order's
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would hide what we stop at
        "disable_tqdm": True,
        "report_to": [] if part.logger == "none" else [part.logger],
        "run_name": out.parent.name,
        "save_strategy": "steps",
        "save_steps": part.save_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": part.save_steps,
        "load_best_model_at_end": validates,
        "metric_for_best_model": "eval_loss" if validates else None,
        "greater_is_better": False if validates else None,
        "push_to_hub": False,
    }
    known = set(SFTConfig.__dataclass_fields__)
    for name, value in part.extra.items():
        if name not in known:
            raise LessonError(f"sft.extra has {name!r}, which TRL's SFTConfig does not know{nearest(name, known)}")
        settings[name] = value
    return SFTConfig(**settings)


def loss_type() -> str:
    """The same loss either way: TRL's chunks skip the prompt's logits, Unsloth has kernels of its own for plain nll."""
    import sys

    return "nll" if "unsloth" in sys.modules else "chunked_nll"


def _less_memory(part: SFT, max_length: int, checkpointing: bool, step: int) -> str:
    ways = []
    if not checkpointing:
        ways.append("student.checkpointing=true")
    if part.batch_size > 1:
        ways.append(f"sft.batch_size={part.batch_size // 2} sft.accumulate={part.accumulate * 2} (the same steps)")
    ways.append(f"student.max_length={max_length * 3 // 4 // 64 * 64} (longer rows are left out and counted)")
    return (
        f"memory ran out at step {step}, where the longest batch is. With less of it: {', or '.join(ways)}, "
        "together with --again sft. plantune estimate says what fits."
    )


# --- what came of it --------------------------------------------------------------------------------------------------


def _summary(trainer: Any, taught: lessons.Taught, schedule: watch.Schedule, validated: int) -> dict[str, Any]:
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
        "validated": validated,
        "loss_first": first,
        "loss_last": last,
        "validation_loss": min(checked) if checked else None,
        "best_step": _step_of(trainer.state.best_model_checkpoint),
    }


def _step_of(checkpoint: str | None) -> int | None:
    return int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else None


def _stops(
    student: LoadedStudent,
    rows: Sequence[Mapping[str, Any]],
    taught: Sequence[Lesson],
    summary: dict[str, Any],
    say: Callable[[str], object],
) -> None:
    """Whether the tuned student ends its turns: a few replies to what it was trained on."""
    most = 2 * max(one.learned for one in taught)
    prompts = [tuple(row["prompt"]) for row in rows[:SAMPLED]]
    replies = [reply for [reply] in student.generate(prompts, Sampling(max_tokens=most))]
    ended = sum(reply.finish == "stop" for reply in replies)
    summary.update(sampled=len(replies), ended=ended, sample=asdict(replies[0])["text"])
    if ended * 2 < len(replies):
        say(
            f"warning: {len(replies) - ended} of {len(replies)} sampled replies did not end within {most} tokens, "
            "twice the longest row: too few steps, or too low an sft.learning_rate"
        )
