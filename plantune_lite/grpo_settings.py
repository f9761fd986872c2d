"""What TRL's GRPO trainer is told: the recipe's numbers, and every knob that versions or backends set differently.

    config(model, GRPO(settings="stable"), out, most=176, ...).loss_type -> "dr_grpo"

`settings` says how what was sampled is learned from: "paper" is PLAN-TUNING's way, "stable" what holds for small
models. Any single knob of theirs can be set in grpo.extra: beta, loss_type, multi_objective_aggregation ...
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plantune_lite import trl_config
from plantune_lite.recipe import GRPO
from plantune_lite.types import RecipeError

_SETTINGS: dict[str, dict[str, Any]] = {
    # TRL 0.16.1's, which the paper used, where the paper says nothing: the loss, and nothing masked.
    "paper": {
        "loss_type": "bnpo",
        "beta": 0.04,
        "scale_rewards": "group",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "mask_truncated_completions": False,
    },
    # No division by a group's spread, which makes much of groups that are nearly alike, nor by an answer's length;
    # room for what is unlikely to become likely; what was cut off teaches nothing; no second pass for a reference.
    "stable": {
        "loss_type": "dr_grpo",
        "beta": 0.0,
        "scale_rewards": "none",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "mask_truncated_completions": True,
    },
}
_OURS = {  # TRL's name -> what decides it
    "max_steps": "grpo.steps",
    "num_train_epochs": "grpo.steps",
    "num_generations": "grpo.group",
    "learning_rate": "grpo.learning_rate",
    "temperature": "grpo.temperature",
    "max_completion_length": "grpo.max_completion",
    "save_steps": "grpo.save_steps",
    "save_strategy": "grpo.save_steps",
    "reward_weights": "the list of rewards, which has their weights,",
    "lr_scheduler_type": "max_hours, which can shorten our own schedule and no other,",
    "gradient_checkpointing": "student.checkpointing",
    "seed": "the recipe's seed",
    "output_dir": "the name of the run",
    "shuffle_dataset": "our own order of prompts",
    "logging_nan_inf_filter": "the stop at a loss that is no number",
    **dict.fromkeys(("warmup_steps", "warmup_ratio"), "our own schedule"),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "steps_per_generation", "generation_batch_size"),
        "grpo.prompts_per_step (x grpo.group, answered at the start of each step)",
    ),
    **dict.fromkeys(("eval_strategy", "eval_steps", "load_best_model_at_end"), "the evaluation after it"),
    **dict.fromkeys(("chat_template_kwargs", "remove_unused_columns"), "our own encoder of prompts"),
}


def grpo_config(
    model: Any,
    part: GRPO,
    out: Path,
    *,
    most: int,
    checkpointing: bool,
    seed: int,
    steps: int,
    rows: int,
    weights: Sequence[float] | None = None,
) -> Any:
    """A GRPOConfig; `most` is how many tokens a completion may have, `rows` how many are learned from at once."""
    from trl import GRPOConfig

    completions = part.prompts_per_step * part.group
    at_once = _at_once(part, completions, rows)
    settings = {
        **trl_config.common(
            model,
            out,
            steps=steps,
            learning_rate=part.learning_rate,
            weight_decay=0.0,
            checkpointing=checkpointing,
            save_steps=part.save_steps,
            logger="none",
            seed=seed,
        ),
        **_SETTINGS[part.settings],
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": completions // at_once,
        "steps_per_generation": completions // at_once,
        "num_generations": part.group,
        "num_iterations": 1,
        "max_completion_length": most,
        "temperature": part.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "generation_kwargs": {"use_cache": True},
        "reward_weights": None if weights is None else list(weights),
        "multi_objective_aggregation": "sum_then_normalize",
        "importance_sampling_level": "token",
        "use_bias_correction_kl": False,
        "top_entropy_quantile": 1.0,
        "disable_dropout": True,  # else an answer is scored by another model than the one that gave it
        "shuffle_dataset": False,  # the order is ours
        "sync_ref_model": False,
        "use_liger_kernel": False,
        "log_completions": False,
        "use_vllm": False,  # the student answers for itself
        "eval_strategy": "no",
    }
    made = trl_config.config(GRPOConfig, settings, part.extra, "grpo", _OURS)
    if "scale_rewards" in part.extra:  # which Unsloth sets back where loss_type is dr_grpo
        asked = part.extra["scale_rewards"]
        made.scale_rewards = {True: "group", False: "none"}.get(asked, asked)
    return made


def _at_once(part: GRPO, completions: int, most: int) -> int:
    """How many completions are learned from at once: as asked, or the most that go into a step evenly."""
    asked = part.extra.get("per_device_train_batch_size")
    if asked is None:
        return next(rows for rows in range(most, 0, -1) if completions % rows == 0)
    if not isinstance(asked, int) or asked < 1 or completions % asked:
        raise RecipeError(
            f"grpo.extra has per_device_train_batch_size={asked!r}, but a step has grpo.prompts_per_step x grpo.group "
            f"= {completions} completions: take a number that divides it, or leave it out"
        )
    return asked
