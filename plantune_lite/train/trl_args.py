"""Set TRL's arguments: options whose default we change or Unsloth changes; a recipe's `extra` comes last.

common(model, out, Training(seed=1), steps=60)        {"max_steps": 60, "optim": "adamw_8bit", ...}
config(SFTConfig, settings, {"neftune_noise_alpha": 5}, "sft")      an SFTConfig, or an error that says why not
"""

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.schema import GRPO, GRPO_ROWS, SFT
from plantune_lite.runs.job import Training
from plantune_lite.types import MissingError, RecipeError


def common(model: Any, out: Path, training: Training, steps: int) -> dict[str, Any]:
    """Return the settings that all trainings share."""
    import torch

    logger = training.logger
    if logger != "none" and find_spec(logger) is None:
        raise MissingError(f"sft.logger is {logger!r}, which is not installed: pip install {logger}")
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out),
        "max_steps": steps,
        "optim": "adamw_8bit" if on_gpu else "adamw_torch_fused",
        # On a T4 Unsloth keeps Gemma in bf16, which a T4 cannot compute, and trains it in float32 by itself.
        "bf16": model.dtype == torch.bfloat16
        and (not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False)),
        "fp16": on_gpu and model.dtype == torch.float16,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": training.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if training.checkpointing else None,
        "dataloader_pin_memory": on_gpu,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "seed": training.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would hide the values we stop at
        "disable_tqdm": True,
        "report_to": [] if logger == "none" else [logger],
        "run_name": out.parent.name,
        "project": "plantune",
        "trackio_space_id": None,  # older versions would create a Space on the Hub
        "save_total_limit": 2,
    }


# Refused in a recipe's `extra`: its other fields or our rows, order and schedule decide these.
_OURS = {
    *("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio"),
    *("gradient_accumulation_steps", "gradient_checkpointing", "seed", "output_dir", "logging_nan_inf_filter"),
    *("save_strategy", "save_steps", "eval_strategy", "eval_steps", "load_best_model_at_end", "remove_unused_columns"),
    *("max_length", "train_sampling_strategy", "packing", "padding_free", "dataset_kwargs", "completion_only_loss"),
    *("assistant_only_loss", "num_generations", "temperature", "max_completion_length", "reward_weights"),
    *("shuffle_dataset", "steps_per_generation", "generation_batch_size", "chat_template_kwargs"),
}
_OURS_IN_SFT = {"per_device_train_batch_size", "weight_decay", "report_to"}


def config(kind: Any, settings: Mapping[str, Any], extra: Mapping[str, Any], part: str) -> Any:
    """Build TRL's config from our settings and the recipe's extra ones."""
    known = set(kind.__dataclass_fields__)
    for name in extra:
        if name in _OURS or (part == "sft" and name in _OURS_IN_SFT):
            raise RecipeError(f"{part}.extra has {name!r}, which the recipe's own fields decide")
        if name not in known:
            raise RecipeError(f"{part}.extra has {name!r}, but TRL's {kind.__name__} does not{nearest(name, known)}")
    try:
        return kind(**{**settings, **extra})
    except (TypeError, ValueError) as error:
        if not extra:
            raise
        raise RecipeError(f"{part}.extra is {dict(extra)}, which TRL refuses: {error}") from error


def refuse_extra(part: SFT | GRPO, name: str) -> None:
    """Raise for an `extra` that TRL would refuse, by a config without a model; if TRL is missing, training raises."""
    if not part.extra or find_spec("trl") is None:
        return
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it announces kernels that it cannot download
    if part.extra.get("use_vllm") and find_spec("vllm") is None:
        raise MissingError(f"{name}.extra.use_vllm needs vLLM: pip install 'plantune-lite[vllm]'")
    import trl

    dry: dict[str, Any] = {"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": []}
    if isinstance(part, GRPO):
        at_once = {"per_device_train_batch_size": part.group}  # _at_once checks the recipe's own number
        config(trl.GRPOConfig, {**dry, "num_generations": part.group}, {**part.extra, **at_once}, name)
        _at_once(part, part.prompts_per_step * part.group)
    else:
        config(trl.SFTConfig, dry, part.extra, name)


# --- more than one process --------------------------------------------------------------------------------------------


def processes() -> int:
    """Count the processes that share this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulated_by_each(accumulate: int) -> int:
    """Return each process's batches per step: with more GPUs a step has the same rows, shared among them."""
    count = processes()
    if accumulate % count:
        raise RecipeError(
            f"sft.accumulate is {accumulate}, but {count} processes share the batches of a step: set a multiple "
            f"of {count} (sft.batch_size x sft.accumulate are the rows of a step)"
        )
    return accumulate // count


def first_says(number: int) -> int:
    """Broadcast the first process's number to all, so that they stop at the same step."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([number])[0]


# --- GRPO -------------------------------------------------------------------------------------------------------------

# Where the paper says nothing, the defaults of TRL 0.16.1, which it used: the loss, and nothing masked.
_PAPER = {
    "loss_type": "bnpo",
    "beta": 0.04,
    "scale_rewards": "group",
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "mask_truncated_completions": False,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    # PTA-GRPO's: the standard loss, a mean of means, with clip and KL; it does not give their values.
    "pta": {**_PAPER, "loss_type": "grpo", "beta": 0.001, "weight_decay": 0.01},
    # No division by a group's spread, which inflates groups that are nearly alike, nor by an answer's length; a higher
    # upper clip, so that unlikely tokens can become likely; truncated answers masked; no second pass for a reference.
    "stable": {
        "loss_type": "dr_grpo",
        "beta": 0.0,
        "scale_rewards": "none",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "mask_truncated_completions": True,
    },
}


def grpo_config(
    model: Any, part: GRPO, out: Path, training: Training, steps: int, weights: Sequence[float] | None = None
) -> Any:
    """Build a GRPOConfig; `weights` are the rewards'."""
    from trl import GRPOConfig

    completions = part.prompts_per_step * part.group
    at_once = _at_once(part, completions)
    settings = {
        **common(model, out, training, steps),
        "learning_rate": part.learning_rate,
        "weight_decay": 0.0,
        "save_steps": part.save_steps,
        **_SETTINGS[part.settings],
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": completions // at_once,
        "num_generations": part.group,
        "max_completion_length": part.max_completion,
        "temperature": part.temperature,
        "top_k": 0,
        "generation_kwargs": {"use_cache": True},
        "reward_weights": None if weights is None else list(weights),
        "use_bias_correction_kl": False,
        "disable_dropout": True,  # else the model that scores an answer is not the one that sampled it
        "shuffle_dataset": False,  # the order is ours
    }
    if part.extra.get("use_vllm"):  # TRL's engine, or Unsloth's, which shares the weights: unmeasured by us
        settings |= {
            "generation_kwargs": {},
            "vllm_enable_sleep_mode": True,
            "vllm_max_model_length": training.max_length,
        }
    built = config(GRPOConfig, settings, part.extra, "grpo")
    if "scale_rewards" in part.extra:  # Unsloth resets it where loss_type is dr_grpo
        scaling = part.extra["scale_rewards"]
        named: dict[object, object] = {True: "group", False: "none"}
        built.scale_rewards = named.get(scaling, scaling)
    return built


def _at_once(part: GRPO, completions: int) -> int:
    """Return the micro-batch size in completions: the recipe's, or the largest that divides a step evenly."""
    batch = part.extra.get("per_device_train_batch_size")
    if batch is None:
        return next(rows for rows in range(GRPO_ROWS, 0, -1) if completions % rows == 0)
    if not isinstance(batch, int) or batch < 1 or completions % batch:
        raise RecipeError(
            f"grpo.extra has per_device_train_batch_size={batch!r}, but a step has grpo.prompts_per_step x grpo.group "
            f"= {completions} completions: set a number that divides it, or leave it out"
        )
    return batch
