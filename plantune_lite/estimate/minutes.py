"""How long a run will take, roughly: arithmetic and memory traffic over what a device is said to do.

    minutes(RECIPE, device("Tesla T4"), problems=1000) -> {"sft": (4.8, 14.4), "evaluate": (2.7, 8.1)}

Nothing here is measured on the cards: their figures are their makers', the share of them that is reached is a wide
guess, and so is how much a student writes. What comes out is whether it is minutes, an evening or a night.
"""

import math
from collections.abc import Iterable

from plantune_lite.estimate import shapes
from plantune_lite.estimate.devices import AS_OF, Device
from plantune_lite.estimate.shapes import Shape
from plantune_lite.recipe.schema import CHOSEN_ON, GRPO_ROWS, Recipe

Span = tuple[float, float]  # the least and the most

# Assumed.
REACHED = (0.15, 0.45)  # of the arithmetic, in training
TRAFFIC = (0.2, 0.7)  # of the memory's speed, in answering
A_LAYER = (0.0012, 0.0004)  # seconds to start one layer's kernels: what small models wait for on large cards
ROW = 350  # tokens of a row of the corpus
REPLY = 300  # tokens of an answer
CALLS = 4  # of a self teacher a problem, at least
LINE = 30  # tokens of one step of a plan
TAUGHT = (2, 3)  # right paths and pairs of steps that the search of one question leaves, as SmolLM2's does
PAIR_EPOCHS = 3
UNTUNED_PROMPTS = 3  # of which the untuned student's best is chosen

ASSUMED = (
    f"Minutes are rough and unmeasured: devices as their makers describe them ({AS_OF}), {REACHED[0]:.0%} to "
    f"{REACHED[1]:.0%} of their arithmetic reached in training, {TRAFFIC[0]:.0%} to {TRAFFIC[1]:.0%} of their memory's "
    f"speed in answering, {ROW} tokens a row, {REPLY} an answer."
)


def stage_minutes(recipe: Recipe, on: Device, *, problems: int, shape: Shape | None = None) -> dict[str, Span]:
    """Minutes of each stage that holds a model."""
    shape = shape or shapes.of(recipe.student.model)
    part = recipe.student

    def training(rows: float, length: int, together: int) -> Span:
        # Forward and the gradient of activations, perhaps forward again; frozen weights need no gradient.
        passes = 3 if part.checkpointing else 2
        seconds = 2 * passes * shape.parameters * rows * length / (on.teraflops * 1e12)
        layers = passes * shape.layers * rows / together
        return _span(max(seconds / share, layers * wait) for share, wait in zip(REACHED, A_LAYER, strict=True))

    def answering(replies: float, tokens: int) -> Span:
        # For every next token all weights are read once, for all replies that are written together.
        together = min(replies, on.together)
        traffic = shape.weights(part.bits) / (on.gigabytes_a_second * 1e9)
        arithmetic = 2 * shape.parameters * together / (on.teraflops * 1e12)
        times = tokens * replies / together
        waits = zip(TRAFFIC, REACHED, A_LAYER, strict=True)
        return _span(
            times * max(traffic / read, arithmetic / share, shape.layers * wait) for read, share, wait in waits
        )

    found: dict[str, Span] = {}
    if recipe.headroom:
        found["headroom"] = answering(recipe.headroom, min(REPLY, recipe.evaluate.max_tokens))
    if recipe.distill.teacher == "self":
        found["distill"] = answering(CALLS * problems, min(REPLY, recipe.distill.max_tokens))
    if sft := recipe.sft:
        rows = sft.epochs * problems * recipe.corpus.per_problem
        if sft.max_steps:
            rows = sft.max_steps * sft.batch_size * sft.accumulate
        found["sft"] = training(rows, min(ROW, part.max_length), sft.batch_size)
        if recipe.has_baseline:
            found["baseline"] = found["sft"]  # at most: its rows are shorter
    if cpl := recipe.cpl:
        questions = min(cpl.questions or problems, problems)
        tried = questions * cpl.iterations
        tokens = tried * (cpl.width * LINE + cpl.rollouts * REPLY)
        share = min(1.0, (cpl.max_tokens or math.inf) / (cpl.rounds * tokens))
        lines, rollouts = answering(tried * cpl.width, LINE), answering(tried * cpl.rollouts, REPLY)
        paths, pairs = (each * questions for each in TAUGHT)
        together = recipe.sft.batch_size if recipe.sft else 2
        rows = (recipe.sft.epochs if recipe.sft else 1) * paths + PAIR_EPOCHS * 2 * pairs
        learned = training(rows, min(ROW, part.max_length), together)
        spans = zip(lines, rollouts, learned, strict=True)
        least, most = (cpl.rounds * (share * (line + rollout) + step) for line, rollout, step in spans)
        found["cpl"] = least, most
    if grpo := recipe.grpo:
        replies = grpo.prompts_per_step * grpo.group
        reply = min(REPLY, grpo.max_completion or part.max_length)
        written = answering(replies, reply)
        learned = training(replies, min(ROW, part.max_length), GRPO_ROWS)
        least, most = (grpo.steps * (one + other) for one, other in zip(written, learned, strict=True))
        found["grpo"] = least, most
    evaluate = recipe.evaluate
    asked = len(evaluate.suites) * (evaluate.limit or problems) * evaluate.samples
    arms = 2 + recipe.has_baseline + evaluate.before_grpo + evaluate.plan_use
    found["evaluate"] = answering(arms * asked + UNTUNED_PROMPTS * CHOSEN_ON, min(REPLY, evaluate.max_tokens))
    return found


def _span(seconds: Iterable[float]) -> Span:
    least, most = sorted(second / 60 for second in seconds)
    return least, most


def in_words(span: Span | None) -> str:
    """`9 to 27 min`, `1.5 to 4 h`; a device that nobody described is unmeasured."""
    if span is None:
        return "unmeasured"
    least, most = span
    if most < 2:
        return "a minute or two"
    if most < 90:
        return f"{max(1, round(least))} to {round(most)} min"
    return f"{least / 60:.1f} to {most / 60:.1f} h"
