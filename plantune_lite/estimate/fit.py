"""Whether a recipe fits into the memory there is, and if not, the nearest settings that make it fit.

    fit(RECIPE, free=7.9e9) -> Fit(False, ("sft.batch_size=1", "sft.accumulate=8"), "qwen3_4b_sft needs 8.4 GB ...")

What comes in: a recipe and free bytes. What goes out: overrides that recipe_files.override takes, from those that cost
only time to those that cost quality; each is tried on the estimate before it is named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plantune_lite.estimate import shapes
from plantune_lite.estimate.memory import Need, On, needs
from plantune_lite.estimate.shapes import Shape
from plantune_lite.recipe.load import override
from plantune_lite.recipe.schema import GRPO_ROWS, Recipe
from plantune_lite.terminal import size
from plantune_lite.types import RecipeError

_ROWS = "per_device_train_batch_size"


@dataclass(frozen=True)
class Fit:
    """Whether a recipe fits, and if not, with which settings it would."""

    fits: bool
    overrides: tuple[str, ...]  # the nearest that fit; empty where it fits as it is, and where nothing would
    sentence: str


def fit_to_gpu(
    recipe: Recipe,
    free: float,
    *,
    shape: Shape | None = None,
    on: On = "cuda",
    bf16: bool = True,
    longest: int | None = None,
) -> Fit:
    """Whether every stage fits in so many free bytes of the GPU (on a CPU: of main memory)."""
    shape = shape or shapes.of(recipe.student.model)

    def estimate(one: Recipe) -> dict[str, Need]:
        found = needs(one, shape=shape, on=on, bf16=bf16, longest=longest)
        return {need.stage: need for need in found if on == "cpu" or need.where == "GPU"}

    first = _largest(estimate(recipe))
    if first.memory <= free:
        sentence = f"{recipe.name} needs {size(first.memory)}, for {first.stage}, and {size(free)} are free."
        return Fit(True, (), sentence)
    changes: dict[str, str] = {}
    smaller, largest = recipe, first
    while largest.memory > free:
        settings, smaller = _one_less(smaller, largest, estimate)
        if not settings:
            break
        changes |= dict(setting.split("=", 1) for setting in settings)
        largest = _largest(estimate(smaller))
    overrides = tuple(f"{name}={value}" for name, value in sorted(changes.items()))
    too_much = (
        f"{recipe.name} needs {size(first.memory)} of {'memory' if on == 'cpu' else 'the GPU'} for {first.stage}, "
        f"most of it {first.most} ({size(first.parts[first.most])}), and {size(free)} are free. "
    )
    if largest.memory <= free:
        return Fit(False, overrides, too_much + f"With {' '.join(overrides)} it needs {size(largest.memory)}.")
    least = f"{largest.stage} still needs {size(largest.memory)} with all turned down: "
    return Fit(False, (), too_much + least + "choose a smaller student.model, or a larger card.")


def _largest(found: dict[str, Need]) -> Need:
    return max(found.values(), key=lambda need: need.memory)


def _one_less(recipe: Recipe, largest: Need, estimate: Callable[[Recipe], dict[str, Need]]) -> tuple[list[str], Recipe]:
    """The least painful settings that make that stage need less, and the recipe with them; none: as it was."""
    for rung in _LADDER:
        settings = rung(recipe, largest.stage)
        if not settings:
            continue
        try:
            smaller = override(recipe, settings)
        except RecipeError:
            continue  # another part of the recipe forbids it
        if estimate(smaller)[largest.stage].memory < largest.memory:
            return settings, smaller
    return [], recipe


# --- the ladder -------------------------------------------------------------------------------------------------------


def _checkpointing(recipe: Recipe, stage: str) -> list[str]:
    return [] if recipe.student.checkpointing else ["student.checkpointing=true"]


def _fewer_rows(recipe: Recipe, stage: str) -> list[str]:
    """The same rows a step, fewer of them at once."""
    if stage in ("sft", "cpl") and recipe.sft and recipe.sft.batch_size > 1:
        a_step = recipe.sft.batch_size * recipe.sft.accumulate
        rows = max(few for few in range(1, recipe.sft.batch_size // 2 + 1) if a_step % few == 0)
        return [f"sft.batch_size={rows}", f"sft.accumulate={a_step // rows}"]
    if stage == "grpo" and recipe.grpo and recipe.grpo.extra.get(_ROWS, GRPO_ROWS) != 1:
        return [f"grpo.extra.{_ROWS}=1"]
    return []


def _fewer_bits(recipe: Recipe, stage: str) -> list[str]:
    fewer = {32: 16, 16: 4}.get(recipe.student.bits)
    return [f"student.bits={fewer}"] if fewer else []


def _fewer_completions(recipe: Recipe, stage: str) -> list[str]:
    if stage == "evaluate" and recipe.evaluate.samples > 1:
        return [f"evaluate.samples={recipe.evaluate.samples // 2}"]
    part = recipe.grpo
    if stage != "grpo" or part is None:
        return []
    if part.prompts_per_step > 1:
        return [f"grpo.prompts_per_step={part.prompts_per_step // 2}"]
    if part.reward == "guided":
        plans = part.plans // 2
        return [f"grpo.plans={plans}", f"grpo.group={plans * part.continuations}"] if plans >= 2 else []
    return [f"grpo.group={part.group // 2}"] if part.group >= 4 else []


def _shorter(recipe: Recipe, stage: str) -> list[str]:
    name, tokens, least = "student.max_length", recipe.student.max_length, 384
    if stage == "distill":
        name, tokens = "distill.max_tokens", recipe.distill.max_tokens
    elif stage in ("headroom", "evaluate"):
        name, tokens = "evaluate.max_tokens", recipe.evaluate.max_tokens
    elif stage == "grpo" and recipe.grpo and recipe.grpo.max_completion:
        name, tokens, least = "grpo.max_completion", recipe.grpo.max_completion, 128
    shorter = tokens * 3 // 4 // 64 * 64
    return [f"{name}={shorter}"] if shorter >= least else []


def _lower_rank(recipe: Recipe, stage: str) -> list[str]:
    rank, alpha = recipe.student.lora_rank // 2, recipe.student.lora_alpha // 2  # both, so that the scale stays
    return [f"student.lora_rank={rank}", f"student.lora_alpha={alpha}"] if rank >= 8 and alpha >= 1 else []


_LADDER: Sequence[Callable[[Recipe, str], list[str]]] = (
    _checkpointing,
    _fewer_rows,
    _fewer_bits,
    _fewer_completions,
    _shorter,
    _lower_rank,
)
