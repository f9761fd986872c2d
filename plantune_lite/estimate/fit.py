"""Check whether a recipe fits into memory, and name the nearest settings that make it fit.

    fit_to_gpu(RECIPE, 7.9e9) -> Fit(False, ("sft.accumulate=8", "sft.batch_size=1"), "qwen3_4b_sft needs 8.4 GB ...")

Three settings are reduced, in this order: batch size (costs time), bits of the weights, length (leaves out long rows).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plantune_lite.estimate.memory import Need, On, needs
from plantune_lite.recipe.load import override
from plantune_lite.recipe.schema import Recipe
from plantune_lite.terminal import size
from plantune_lite.types import RecipeError


@dataclass(frozen=True)
class Fit:
    """Whether a recipe fits, and if not, the settings with which it would."""

    fits: bool
    overrides: tuple[str, ...]  # empty where it fits as it is, and where nothing helps
    sentence: str


def fit_to_gpu(recipe: Recipe, free: float, *, on: On = "cuda", bf16: bool = True) -> Fit:
    """Compare every stage's need with the GPU's free bytes (on a CPU: of RAM)."""

    def estimate(candidate: Recipe) -> dict[str, Need]:
        stages = needs(candidate, on=on, bf16=bf16)
        return {need.stage: need for need in stages if on == "cpu" or need.where == "GPU"}

    need = _largest(estimate(recipe))
    if need.memory <= free:
        return Fit(True, (), f"{recipe.name} needs {size(need.memory)}, for {need.stage}, and {size(free)} are free.")
    too_much = (
        f"{recipe.name} needs {size(need.memory)} of {'memory' if on == 'cpu' else 'the GPU'} for {need.stage}, "
        f"most of it {need.most} ({size(need.parts[need.most])}), and {size(free)} are free. "
    )
    smaller = recipe
    changes: dict[str, str] = {}
    while need.memory > free:
        settings = next((turn for turn in _rungs(smaller, need.stage) if _helps(smaller, turn, need, estimate)), None)
        if settings is None:
            least = f"{need.stage} still needs {size(need.memory)} with all of them reduced: "
            return Fit(False, (), too_much + least + "choose a smaller student.model, or a larger GPU.")
        smaller = override(smaller, settings)
        changes |= dict(setting.split("=", 1) for setting in settings)
        need = _largest(estimate(smaller))
    overrides = tuple(f"{name}={value}" for name, value in sorted(changes.items()))
    return Fit(False, overrides, too_much + f"With {' '.join(overrides)} it needs {size(need.memory)}.")


def _largest(stages: dict[str, Need]) -> Need:
    return max(stages.values(), key=lambda need: need.memory)


def _helps(recipe: Recipe, settings: list[str], need: Need, estimate: Callable[[Recipe], dict[str, Need]]) -> bool:
    try:
        return estimate(override(recipe, settings))[need.stage].memory < need.memory
    except RecipeError:
        return False  # another part of the recipe forbids it


def _rungs(recipe: Recipe, stage: str) -> Iterator[list[str]]:
    """Yield settings that reduce a stage's memory, least harmful first: batch size, bits, length."""
    sft, grpo, evaluate = recipe.sft, recipe.grpo, recipe.evaluate
    if stage in ("sft", "baseline", "cpl") and sft and sft.batch_size > 1:
        rows = sft.batch_size * sft.accumulate
        fewer = max(n for n in range(1, sft.batch_size // 2 + 1) if rows % n == 0)
        yield [f"sft.batch_size={fewer}", f"sft.accumulate={rows // fewer}"]
    elif stage == "grpo" and grpo and grpo.prompts_per_step > 1:
        yield [f"grpo.prompts_per_step={grpo.prompts_per_step // 2}"]
    elif stage == "grpo" and grpo and grpo.group >= 4:
        yield [f"grpo.group={grpo.group // 2}"]
    elif stage == "evaluate" and evaluate.samples > 1:
        yield [f"evaluate.samples={evaluate.samples // 2}"]
    if recipe.student.bits > 4:
        yield [f"student.bits={16 if recipe.student.bits == 32 else 4}"]
    name, tokens, least = "student.max_length", recipe.student.max_length, 384
    if stage == "distill":
        name, tokens = "distill.max_tokens", recipe.distill.max_tokens
    elif stage in ("headroom", "evaluate"):
        name, tokens = "evaluate.max_tokens", evaluate.max_tokens
    elif stage == "grpo" and grpo and grpo.max_completion:
        name, tokens, least = "grpo.max_completion", grpo.max_completion, 128
    shorter = tokens * 3 // 4 // 64 * 64
    if shorter >= least:
        yield [f"{name}={shorter}"]
