"""What TRL is told: every knob that differs between backends or versions is said, by us or by a recipe's `extra`.

common(model, out, steps=60, learning_rate=2e-4, ...)        {"max_steps": 60, "optim": "adamw_8bit", ...}
config(SFTConfig, settings, {"neftune_noise_alpha": 5}, "sft", OURS)      an SFTConfig, or a sentence that says why not
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plantune_lite.typed import nearest
from plantune_lite.types import MissingError, RecipeError


def common(
    model: Any,
    out: Path,
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    checkpointing: bool,
    save_steps: int,
    logger: str,
    seed: int,
) -> dict[str, Any]:
    """The settings of any training."""
    import torch

    if logger != "none" and find_spec(logger) is None:
        raise MissingError(f"sft.logger is {logger!r}, which is not installed: pip install {logger}")
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out),
        "max_steps": steps,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "optim": "adamw_8bit" if on_gpu else "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        # On a T4 Unsloth keeps Gemma in bf16, which a T4 cannot compute, and trains it in float32 by itself.
        "bf16": on_gpu and model.dtype == torch.bfloat16 and torch.cuda.is_bf16_supported(including_emulation=False),
        "fp16": on_gpu and model.dtype == torch.float16,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would hide what we stop at
        "disable_tqdm": True,
        "log_level_replica": "error",
        "report_to": [] if logger == "none" else [logger],
        "run_name": out.parent.name,
        "project": "plantune",
        "trackio_space_id": None,  # older versions make a Space on the Hub of it
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": 2,
        "push_to_hub": False,
    }


def config(
    kind: Callable[..., Any], settings: Mapping[str, Any], extra: Mapping[str, Any], part: str, ours: Mapping[str, str]
) -> Any:
    """TRL's config of our settings and the recipe's extra ones; `ours` names the fields that decide a knob already."""
    known = set(kind.__dataclass_fields__)
    for name in extra:
        if name in ours:
            raise RecipeError(f"{part}.extra has {name!r}, but {ours[name]} decides that")
        if name not in known:
            raise RecipeError(f"{part}.extra has {name!r}, which TRL's {kind.__name__} has not{nearest(name, known)}")
    try:
        return kind(**{**settings, **extra})
    except (TypeError, ValueError) as error:
        if not extra:
            raise
        raise RecipeError(f"{part}.extra is {dict(extra)}, which TRL refuses: {error}") from error


# --- more than one process --------------------------------------------------------------------------------------------


def processes() -> int:
    """How many processes share this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulated_by_each(part: str, accumulate: int) -> int:
    """Batches a step for each process: with more cards a step is of the same rows, each card its share."""
    count = processes()
    if accumulate % count:
        raise RecipeError(
            f"{part}.accumulate is {accumulate}, but {count} processes share the batches of a step: set a multiple "
            f"of {count} ({part}.batch_size x {part}.accumulate are the rows of a step)"
        )
    return accumulate // count


def first_says(number: int) -> int:
    """The first process's number in all of them, so that they end at the same step."""
    import torch

    told = [number]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(told)
    return told[0]
