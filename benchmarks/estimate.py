"""Measure how far off `plantune estimate` is from published timings, each left out of the fit in turn.

    python -m benchmarks.estimate

The timings are the stored outputs of unslothai/notebooks (August 2026), all but one on Colab's T4; we measured none.
They state steps, rows and tokens of a completion; the tokens of a prompt (200), of a row of FineTome (350) and of
Alpaca (150) are assumed. Phi-4's GRPO is left out because its tokens are not given. Nothing here needs a GPU.
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

SHAPES = {  # not all are presets: family, layers, hidden, intermediate, heads, kv_heads, head_dim, vocab
    "Qwen2.5-3B": Shape("qwen2", 36, 2048, 11008, 16, 2, 128, 151936, tied=True),
    "Llama-3.1-8B": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128256, tied=False),
    "Mistral-7B": Shape("llama", 32, 4096, 14336, 32, 8, 128, 32768, tied=False),
    "Gemma-4-E2B": Shape("gemma3_text", 35, 1536, 6144, 8, 1, 256, 262144, tied=True),
    "Qwen3-4B": shapes.of("qwen3_4b"),
    "Qwen2.5-7B": shapes.of("qwen2_5_7b"),
    "Gemma-3-1B": shapes.of("gemma3_1b"),
}
GPUS = ("T4", "RTX 4070", "RTX 4090")
# Settings of the recipes before they were cut to fit an evening (2026-11-29).
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
    """Describe a run whose time was published."""

    model: str
    mode: str  # the factor it says most about
    gpu: str
    bits: int
    steps: int
    rows: int
    tokens: int  # of a row, or of a completion
    seconds: float

    def estimate(self, factors: Factors) -> float:
        """Estimate the seconds by our formulas."""
        shape, gpu = SHAPES[self.model], replace(_on(self.gpu), factors=factors)
        if self.mode == "training":
            return self.steps * training_seconds(shape, gpu, self.rows * self.tokens, passes=3)
        learned = training_seconds(shape, gpu, self.rows * (PROMPT + self.tokens), passes=4)
        length = PROMPT + self.tokens / 2
        vllm = self.mode == "vllm"
        a_token = step_seconds(shape, gpu, bits=self.bits, rows=self.rows, length=length, vllm=vllm)
        return self.steps * (learned + self.tokens * a_token)

    def off(self, factors: Factors) -> float:
        """Divide the estimate by the measured time; above 1 the estimate is too long."""
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
    """Fit with each timing left out, and write the page."""
    fitted = fit(TIMINGS)
    left_out = [timing.off(fit([other for other in TIMINGS if other is not timing])) for timing in TIMINGS]
    rows = [
        (
            f"{timing.model}, {'SFT' if timing.mode == 'training' else 'GRPO'}, {timing.bits} bits, {timing.gpu}"
            + (", vLLM" if timing.mode == "vllm" else ""),
            f"{timing.steps} x {timing.rows} x {timing.tokens}",
            f"{timing.seconds / 60:.0f} min",
            f"{timing.estimate(CUDA) / 60:.0f} min",
            f"{off:.2f}",
        )
        for timing, off in zip(TIMINGS, left_out, strict=True)
    ]
    errors = [max(off, 1 / off) for off in left_out]
    hours = {
        (teacher, name, gpu, when): total(name, gpu, f"distill.teacher={teacher}", *(BEFORE[name] if when else ()))
        for teacher in ("gemini", "self")
        for name in BEFORE
        for gpu in GPUS
        for when in ("before", "")
    }

    def cell(teacher: str, name: str, gpu: str) -> str:
        return f"{hours[teacher, name, gpu, '']:.1f} h, was {hours[teacher, name, gpu, 'before']:.1f}"

    by_gpu = [(name, *(cell(teacher, name, gpu) for teacher in ("gemini", "self") for gpu in GPUS)) for name in BEFORE]
    totals = {
        (name, gpu, engine): total(name, gpu, "distill.teacher=self", f"student.engine={engine}")
        for name in BEFORE
        for gpu in GPUS[1:]
        for engine in ("unsloth", "vllm")
    }
    by_vllm = [
        (name, *(f"{totals[name, gpu, 'vllm']:.1f} h, Unsloth {totals[name, gpu, 'unsloth']:.1f}" for gpu in GPUS[1:]))
        for name in BEFORE
    ]
    columns = ("recipe", *GPUS, *(f"{gpu}, no key" for gpu in GPUS))
    write(
        "estimate",
        command="python -m benchmarks.estimate",
        about="How far off is `plantune estimate`? Published timings, each left out of the fit in turn.",
        found={
            "machine": machine(),
            "factors": vars(fitted),
            "off": dict(zip((f"{timing.model} {timing.mode}" for timing in TIMINGS), left_out, strict=True)),
            "worst": max(errors),
            "median": median(errors),
            "hours": {" ".join(filter(None, key)): value for key, value in hours.items()},
        },
        text="\n\n".join(
            (
                markdown(("published", "steps x rows x tokens", "measured", "estimate", "ratio when left out"), rows),
                f"The largest error is a factor of {max(errors):.2f}, the median {median(errors):.2f}. Fitted to all: "
                f"training {fitted.training:.2f} times the arithmetic, {1000 * fitted.layer:.2f} ms per layer and "
                f"step, vLLM {fitted.vllm:.2f} times the memory traffic.",
                "## Hours per recipe",
                markdown(columns, by_gpu),
                "With a key a server writes the plans, using no GPU; without one the student does. Estimates of whole "
                "runs without export, none measured. 'was': earlier settings, when the student also scored its plans "
                "(4 calls per problem, counted as 2). A batch lasts as long as its longest reply.",
                "## With vLLM (student.engine=vllm), no key",
                markdown(("recipe", *GPUS[1:]), by_vllm),
                "vLLM generates for the teacher, before training and in evaluation; GRPO's own completions, the larger "
                "part of those recipes, still come from the trainer. A T4 is too old for it. Its factor is fitted to "
                "timings with few rows at once; 128 rows, the prompts and 90 s of start-up are computed or guessed.",
            )
        ),
    )


def fit(timings: Sequence[Timing]) -> Factors:
    """Fit each mode's factor by least squares of log(estimate / measured), training first."""
    factors = CUDA
    for mode in ("training", "layer", "vllm"):
        of_mode = [timing for timing in timings if timing.mode == mode]
        guesses = [getattr(CUDA, mode) * 1.01**power for power in range(-150, 151)]
        candidates = [replace(factors, **{mode: guess}) for guess in guesses]
        factors = min(candidates, key=lambda each: sum(math.log(timing.off(each)) ** 2 for timing in of_mode))
    return factors


def total(name: str, gpu: str, *settings: str) -> float:
    """Estimate the hours of a recipe on a GPU."""
    recipe = override(load_recipe(name), settings)
    return sum(stage_minutes(recipe, _on(gpu), problems=recipe.problems.limit or 0).values()) / 60


def _on(gpu: str) -> Device:
    known = device(gpu)
    assert known in DEVICES
    return known


if __name__ == "__main__":
    main()
