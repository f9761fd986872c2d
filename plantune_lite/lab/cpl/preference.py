"""Encode pairs as token ids and train on them with TRL's DPO trainer, set up so that its loss is Step-APO's.

    rows, dropped = encoded(student, pairs, ask, max_length=1024)
    trainer(student, rows, CPL(alpha=1.0), config(...)).train()

TRL encodes text itself, closing the turn after every step, and has no margin. So it gets only placeholder text: the
collator puts in our ids, encoded as they were generated, and raises the reference log-probability of the better step,
which TRL computes before the first step, by alpha * gap / beta. The trainer itself is unchanged.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plantune_lite.lab.cpl.pairs import StepPair
from plantune_lite.recipe.schema import CPL
from plantune_lite.runs.job import Training
from plantune_lite.student import chat
from plantune_lite.student.load import Loaded
from plantune_lite.train import trl_args
from plantune_lite.types import Messages, RecipeError

_REFERENCE = "ref"  # TRL's name for the copy of the adapter that it computes the reference with


class Batches(NamedTuple):
    """Pairs per batch, batches per optimizer step, and steps per checkpoint."""

    size: int = 2
    accumulate: int = 4
    save_steps: int = 50


def encoded(
    student: Loaded, pairs: Sequence[StepPair], ask: Mapping[str, Messages], max_length: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Encode pairs as token ids, as they were generated, each with its gap; count what is left out, by reason."""
    kept, dropped = [], Counter[str]()
    for pair in pairs:
        begun = ({"role": "assistant", "content": pair.prompt},) if pair.prompt else ()
        row: dict[str, Any] = {
            "prompt_tokens": student.encode_chat((*ask[pair.problem_id], *begun), for_reply=True),
            "better_tokens": chat.encode(student.tokenizer, pair.better),
            "worse_tokens": chat.encode(student.tokenizer, pair.worse),
            "gap": float(pair.q_better - pair.q_worse),
        }
        if row["better_tokens"] == row["worse_tokens"] or not all(both(row)):
            dropped["identical or empty"] += 1
        elif len(row["prompt_tokens"]) + max(map(len, both(row))) > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
        else:
            kept.append(row)
    return kept, dropped


def both(row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the token ids of the better and of the worse text."""
    return row["better_tokens"], row["worse_tokens"]


# --- the trainer ------------------------------------------------------------------------------------------------------


def trainer(student: Loaded, rows: Sequence[Mapping[str, Any]], part: CPL, settings: Any) -> Any:
    """Build TRL's trainer over encoded pairs, the reference computed and shifted; it trains on the rows in order."""
    from datasets import Dataset, disable_progress_bars
    from trl import DPOTrainer

    disable_progress_bars()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    nothing = {"prompt": ["a"] * len(rows), "chosen": [" b"] * len(rows), "rejected": [" c"] * len(rows)}
    weights = {parameter: parameter.data for parameter in student.model.parameters() if parameter.requires_grad}
    quiet, os.environ["TQDM_DISABLE"] = os.environ.get("TQDM_DISABLE"), "1"
    try:
        built = DPOTrainer(
            model=student.model,
            args=settings,
            train_dataset=Dataset.from_dict({**nothing, **columns}),
            data_collator=collate(student.tokenizer.pad_token_id, part.alpha, part.beta),
            processing_class=student.tokenizer,
        )
    finally:
        os.environ.pop("TQDM_DISABLE") if quiet is None else os.environ.update(TQDM_DISABLE=quiet)
    if _REFERENCE in student.model.peft_config:
        student.model.delete_adapter(_REFERENCE)  # its log-probabilities are in the rows
    for parameter, was in weights.items():
        parameter.data = was.float() if was.element_size() < 4 else was  # TRL makes them bf16 in 4-bit runs
        parameter.requires_grad_(True)
    return built


def collate(pad: int, alpha: float, beta: float) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """Batch rows with TRL's own collator, the better step's reference raised by alpha * gap / beta."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    together = DataCollatorForPreference(pad_token_id=pad)

    def batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        examples = [
            {
                "prompt_ids": row["prompt_tokens"],
                "chosen_ids": row["better_tokens"],
                "rejected_ids": row["worse_tokens"],
                **(
                    {
                        "ref_chosen_logps": row["ref_chosen_logps"] + alpha * row["gap"] / beta,
                        "ref_rejected_logps": row["ref_rejected_logps"],
                    }
                    if "ref_chosen_logps" in row  # not while the reference is being computed
                    else {}
                ),
            }
            for row in rows
        ]
        return together(examples)

    return batch


def config(
    model: Any,
    part: CPL,
    out: Path,
    training: Training,
    steps: int,
    batches: Batches,
) -> Any:
    """Build the config of TRL's DPO trainer."""
    from trl import DPOConfig

    if part.beta == 0:
        raise RecipeError("cpl.beta is 0, so nothing ties the student to the reference: set the paper's cpl.beta=0.3")
    settings = {
        **trl_args.common(model, out, training, steps),
        "learning_rate": part.learning_rate,
        "weight_decay": 0.0,
        "save_steps": batches.save_steps,
        "per_device_train_batch_size": batches.size,
        "gradient_accumulation_steps": batches.accumulate,
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": batches.size,
        "beta": part.beta,
        "loss_type": ["sigmoid"],
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "use_weighting": False,
        "disable_dropout": True,
        "sync_ref_model": False,
        "use_liger_kernel": False,
        "padding_free": False,
        "max_length": training.max_length,  # longer pairs were left out, so nothing is cut
        "train_sampling_strategy": "sequential",  # the order is data.order's
        "eval_strategy": "no",
    }
    return trl_args.config(DPOConfig, settings, {}, "cpl")
