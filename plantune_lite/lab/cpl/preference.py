"""Pairs in token ids, and TRL's own DPO trainer over them, so told that its loss is Step-APO's.

    rows, dropped = encoded(student, pairs, ask, max_length=1024)
    trainer(student, rows, CPL(alpha=1.0), config(...)).train()

TRL encodes text by itself, closing the turn behind every step, and knows no margin. So it is given no text: the
collator puts in our ids, encoded as they were generated, and raises the reference log-probability of the better step,
which TRL reckons before the first step, by alpha * gap / beta. Nothing of the trainer is changed.
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
from plantune_lite.train import trl_args
from plantune_lite.types import LoadedStudent, Messages, RecipeError

_REFERENCE = "ref"  # what TRL calls the copy of the adapter that it reckons the reference with


class Batches(NamedTuple):
    """Pairs per batch, batches per optimizer step, and steps per checkpoint."""

    size: int = 2
    accumulate: int = 4
    save_steps: int = 50


def encoded(
    student: LoadedStudent, pairs: Sequence[StepPair], ask: Mapping[str, Messages], max_length: int
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
            dropped["that are alike or empty"] += 1
        elif len(row["prompt_tokens"]) + max(map(len, both(row))) > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
        else:
            kept.append(row)
    return kept, dropped


def both(row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the token ids of the better text and of the worse."""
    return row["better_tokens"], row["worse_tokens"]


# --- the trainer ------------------------------------------------------------------------------------------------------


def trainer(student: LoadedStudent, rows: Sequence[Mapping[str, Any]], part: CPL, settings: Any) -> Any:
    """TRL's trainer over encoded pairs, the reference reckoned and shifted; it trains the rows in their order."""
    from datasets import Dataset, disable_progress_bars
    from trl import DPOTrainer

    disable_progress_bars()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    nothing = {"prompt": ["a"] * len(rows), "chosen": [" b"] * len(rows), "rejected": [" c"] * len(rows)}
    weights = {one: one.data for one in student.model.parameters() if one.requires_grad}
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
        student.model.delete_adapter(_REFERENCE)  # what it was for is in the rows
    for one, was in weights.items():
        one.data = was.float() if was.element_size() < 4 else was  # TRL makes them bf16 in 4-bit runs
        one.requires_grad_(True)
    return built


def collate(pad: int, alpha: float, beta: float) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """Rows as TRL's own collator makes a batch of them, the better step's reference raised by what is asked."""
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
                    if "ref_chosen_logps" in row  # not while the reference is being reckoned
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
        raise RecipeError("cpl.beta is 0, which holds the student to nothing: set the paper's cpl.beta=0.3")
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
        "max_length": training.max_length,  # what is longer was left out whole, so nothing is cut
        "train_sampling_strategy": "sequential",  # the order is lessons.order's
        "eval_strategy": "no",
    }
    return trl_args.config(DPOConfig, settings, {}, "cpl")
