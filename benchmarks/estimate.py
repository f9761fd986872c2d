"""How far off are the minutes of `plantune estimate`? Timings that others have published, each left out in turn.

    python -m benchmarks.estimate

The timings are the stored outputs of unslothai/notebooks (August 2026), all but one on Colab's T4: none was measured by
us. They say steps, rows and tokens of a completion; the tokens of a prompt (200), of a row of FineTome (350) and of
Alpaca (150) are assumed. Phi-4's GRPO is not among them, because its tokens are not said. Nothing here needs a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.report import machine, markdown, write
from plantune_lite.estimate import shapes
from plantune_lite.estimate.devices import CUDA, DEVICES, Device, Factors, device
from plantune_lite.estimate.minutes import PROMPT, stage_minutes, step_seconds, training_seconds
from plantune_lite.estimate.shapes import Shape
from plantune_lite.recipe.load import load_recipe, override

SHAPES = {  # that are no presets: family, layers, hidden, intermediate, heads, kv_heads, head_dim, vocab
    "Qwen2.5-3B": Shape("qwen2", 36, 2048, 11008, 16, 2, 128, 151936, tied=True),
    "Llama-3.1-8B": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128256, tied=False),
    "Mistral-7B": Shape("llama", 32, 4096, 14336, 32, 8, 128, 32768, tied=False),
    "Gemma-4-E2B": Shape("gemma3_text", 35, 1536, 6144, 8, 1, 256, 262144, tied=True),
    "Qwen3-4B": shapes.of("qwen3_4b"),
    "Qwen2.5-7B": shapes.of("qwen2_5_7b"),
    "Gemma-3-1B": shapes.of("gemma3_1b"),
}
GPUS = ("T4", "RTX 4070", "RTX 4090")
# What the recipes said before they were made to fit an evening (2026-11-29).
_MATH = ("problems.limit=1000", "evaluate.limit=300", "evaluate.max_tokens=2048", "distill.max_tokens=2048")
_GSM8K = ("student.bits=4", "evaluate.limit=300", "evaluate.max_tokens=1024", "distill.max_tokens=2048")
_GRPO = ("grpo.steps=120", "grpo.prompts_per_step=4")
BEFORE = {
    "gemma3_1b_sft": _GSM8K,
    "gemma3_1b_grpo": (*_GSM8K, "grpo.steps=150", "grpo.prompts_per_step=4"),
    "qwen3_4b_sft": _MATH,
    "qwen3_4b_grpo": (*_MATH, *_GRPO),
    "qwen3_4b_pta_grpo": _MATH,
    "qwen2_5_7b_sft": _MATH,
    "qwen2_5_7b_grpo": (*_MATH, *_GRPO),
}


@dataclass(frozen=True)
class Timing:
    """A run whose time was published."""

    model: str
    mode: str  # the factor that it tells most of
    gpu: str
    bits: int
    steps: int
    rows: int
    tokens: int  # of a row, or of a completion
    seconds: float

    def estimate(self, factors: Factors) -> float:
        """The seconds that our formulas say."""
        shape, on = SHAPES[self.model], replace(_on(self.gpu), factors=factors)
        if self.mode == "training":
            return self.steps * training_seconds(shape, on, self.rows * self.tokens, passes=3)
        learned = training_seconds(shape, on, self.rows * (PROMPT + self.tokens), passes=4)
        length = PROMPT + self.tokens / 2
        vllm = self.mode == "vllm"
        a_step = step_seconds(shape, on, bits=self.bits, rows=self.rows, length=length, vllm=vllm)
        return self.steps * (learned + self.tokens * a_step)

    def off(self, factors: Factors) -> float:
        """The factor by which the estimate misses; above 1 it says too much."""
        return self.estimate(factors) / self.seconds


TIMINGS = (
    Timing("Qwen3-4B", "training", "T4", 4, 60, 8, 350, 9 * 60 + 32),
    Timing("Qwen2.5-7B", "training", "T4", 4, 60, 8, 150, 7 * 60 + 27),
    Timing("Gemma-3-1B", "layer", "T4", 4, 14, 4, 768, 13 * 60 + 12),
    Timing("Gemma-4-E2B", "layer", "T4", 4, 100, 2, 650, 96 * 60 + 19),
    Timing("Qwen3-4B", "vllm", "T4", 16, 100, 4, 1846, 174 * 60 + 46),
    Timing("Qwen2.5-3B", "vllm", "T4", 4, 250, 8, 200, 100 * 60 + 29),
    Timing("Llama-3.1-8B", "vllm", "T4", 4, 250, 6, 250, 227 * 60 + 51),
    Timing("Mistral-7B", "vllm", "RTX 4090", 4, 250, 6, 260, 42 * 60 + 26),
)


def main() -> None:
    """Fit, leave each out, write down."""
    fitted = fit(TIMINGS)
    left_out = [one.off(fit([other for other in TIMINGS if other is not one])) for one in TIMINGS]
    rows = [
        (
            f"{one.model}, {'SFT' if one.mode == 'training' else 'GRPO'}, {one.bits} bits, {one.gpu}"
            + (", vLLM" if one.mode == "vllm" else ""),
            f"{one.steps} x {one.rows} x {one.tokens}",
            f"{one.seconds / 60:.0f} min",
            f"{one.estimate(CUDA) / 60:.0f} min",
            f"{off:.2f}",
        )
        for one, off in zip(TIMINGS, left_out, strict=True)
    ]
    misses = [max(off, 1 / off) for off in left_out]
    hours = {
        (teacher, name, gpu, when): total(name, gpu, f"distill.teacher={teacher}", *(BEFORE[name] if when else ()))
        for teacher in ("gemini", "self")
        for name in BEFORE
        for gpu in GPUS
        for when in ("before", "")
    }

    def cell(teacher: str, name: str, gpu: str) -> str:
        return f"{hours[teacher, name, gpu, '']:.1f} h, was {hours[teacher, name, gpu, 'before']:.1f}"

    shown = [(name, *(cell(teacher, name, gpu) for teacher in ("gemini", "self") for gpu in GPUS)) for name in BEFORE]
    engines = {
        (name, gpu, engine): total(name, gpu, "distill.teacher=self", f"student.engine={engine}")
        for name in BEFORE
        for gpu in GPUS[1:]
        for engine in ("unsloth", "vllm")
    }
    by_vllm = [
        (name, *(f"{engines[name, gpu, 'vllm']:.1f} h, else {engines[name, gpu, 'unsloth']:.1f}" for gpu in GPUS[1:]))
        for name in BEFORE
    ]
    columns = ("recipe", *GPUS, *(f"{gpu}, no key" for gpu in GPUS))
    write(
        "estimate",
        command="python -m benchmarks.estimate",
        about="How far off is the time `plantune estimate` says? Published timings, each left out of the fit in turn.",
        found={
            "machine": machine(),
            "factors": vars(fitted),
            "off": dict(zip((f"{one.model} {one.mode}" for one in TIMINGS), left_out, strict=True)),
            "worst": max(misses),
            "median": median(misses),
            "hours": {" ".join(filter(None, key)): value for key, value in hours.items()},
        },
        text="\n\n".join(
            (
                markdown(("published", "steps x rows x tokens", "took", "estimate", "off, when left out"), rows),
                f"The worst is off by a factor of {max(misses):.2f}, the median by {median(misses):.2f}. "
                f"Fitted to all: training {fitted.training:.2f} times the arithmetic, {1000 * fitted.layer:.2f} ms a "
                f"layer and step, vLLM {fitted.vllm:.2f} times the memory traffic.",
                "## Hours of the recipes",
                markdown(columns, shown),
                "With a key a server writes the plans, which takes no GPU; without one the student does. Estimates of "
                "whole runs without export, none measured; before, the student also scored its plans (4 calls a "
                "problem, here counted as 2). A batch is counted to its longest reply.",
                "## With vLLM (student.engine=vllm), no key",
                markdown(("recipe", *GPUS[1:]), by_vllm),
                "vLLM answers for the teacher, before training and in evaluation; GRPO's own answers, the larger part "
                "of those recipes, still come from the trainer. A T4 is too old for it. The timings that its factor is "
                "fitted to have few rows at once; 128, the prompts and 90 s until it answers are arithmetic and guess.",
            )
        ),
    )


def fit(timings: Sequence[Timing]) -> Factors:
    """The factors with the least squared logarithm of what each mode's timings are off by, training first."""
    factors = CUDA
    for mode in ("training", "layer", "vllm"):
        mine = [one for one in timings if one.mode == mode]
        guesses = [getattr(CUDA, mode) * 1.01**power for power in range(-150, 151)]
        tried = [replace(factors, **{mode: guess}) for guess in guesses]
        factors = min(tried, key=lambda one: sum(math.log(timing.off(one)) ** 2 for timing in mine))
    return factors


def total(name: str, gpu: str, *settings: str) -> float:
    """The hours of a recipe on a GPU."""
    recipe = override(load_recipe(name), settings)
    return sum(stage_minutes(recipe, _on(gpu), problems=recipe.problems.limit or 0).values()) / 60


def _on(gpu: str) -> Device:
    found = device(gpu)
    assert found in DEVICES
    return found


if __name__ == "__main__":
    main()
