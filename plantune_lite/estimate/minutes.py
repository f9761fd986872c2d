"""Estimate how long each stage of a run takes, from a device's data sheet and one fitted factor per mode.

    stage_minutes(RECIPE, device("Tesla T4"), problems=1000) -> {"sft": 71.0, "evaluate": 204.0}

Training is arithmetic: 2 x parameters x tokens for each pass (forward, the gradient of activations, and forward again
where activations are recomputed; frozen weights have no gradient), times `Factors.training`, which data sheets omit.

Inference is steps: each decodes the next token of all replies of a batch. A step reads the weights and the cache from
memory once; 4-bit weights are also unpacked, which writes 16 bits and reads them again. Added to that is the time to
launch each layer's kernels (`Factors.layer`), which dominates for small models; vLLM captures them once, and takes
`Factors.vllm` times the memory traffic. A batch runs until its longest reply ends; with vLLM a reply that ends makes
room for the next, so there the mean length counts.

The factors are fitted to timings that others have published, and benchmarks/estimate.md says how far off they are when
each timing is left out in turn. We measured nothing on a GPU.
"""

import math
from collections.abc import Iterator, Mapping

from plantune_lite.estimate import shapes
from plantune_lite.estimate.devices import AS_OF, Device
from plantune_lite.estimate.shapes import Shape
from plantune_lite.recipe.schema import CHOSEN_ON, Recipe
from plantune_lite.runs.job import share_of
from plantune_lite.student.generate import AT_ONCE

ROW = 350  # tokens of a row of the corpus
PROMPT = 200  # tokens of a question and the turns around it
WRITTEN = 0.4  # mean length of a reply, as a share of its maximum
CALLS = 2  # of a self teacher per problem, at least: a plan and its execution
LINE = 30  # tokens of one step of a plan
TAUGHT = (2, 3)  # right paths and pairs of steps per searched question, as for SmolLM2
PAIR_EPOCHS = 3
VLLM_STARTS = 90  # seconds until it is ready
UNTUNED_PROMPTS = 3  # of which the untuned student's best is chosen
WITHIN = 2  # every published timing is within this factor


ASSUMED = (
    f"Minutes are from data sheets ({AS_OF}) and one factor per mode, fitted to published timings, all of which are "
    f"within a factor of {WITHIN}; unmeasured by us. Assumed are {ROW} tokens a row, {PROMPT} a question, replies of "
    f"{WRITTEN:.0%} of their maximum tokens."
)


def training_seconds(shape: Shape, on: Device, tokens: float, *, passes: int) -> float:
    """Estimate the seconds of training on this many tokens."""
    return on.factors.training * 2 * passes * shape.parameters * tokens / (on.teraflops * 1e12)


def step_seconds(shape: Shape, on: Device, *, bits: int, rows: float, length: float, vllm: bool = False) -> float:
    """Estimate the seconds for one more token in each of `rows` replies, `length` tokens long with their prompts."""
    state = shape.cache(1, 0)  # the part that does not grow
    read = shape.weights(bits) + rows * (state + (shape.cache(1, 1) - state) * length)
    if bits == 4:
        read += 2 * 2 * shape.in_linears
    traffic = read / (on.gigabytes_a_second * 1e9)
    if vllm:
        return on.factors.vllm * max(traffic, 2 * shape.parameters * rows / (on.teraflops * 1e12))
    return traffic + shape.layers * on.factors.layer


def stage_minutes(recipe: Recipe, on: Device, *, problems: int) -> dict[str, float]:
    """Estimate the minutes of each stage that loads a model."""
    model = shapes.of(recipe.student.model)
    part = recipe.student
    passes = 3 if part.checkpointing else 2

    def training(rows: float, length: int, passes: int = passes) -> float:
        return training_seconds(model, on, rows * length, passes=passes)

    def answering(replies: float, most: int, vllm: bool = part.engine == "vllm") -> float:
        written = WRITTEN * most
        rows = min(replies, AT_ONCE if vllm else on.rows)
        steps = replies / rows * (written if vllm or on.name == "CPU" else most)
        wrote = steps * step_seconds(model, on, bits=part.bits, rows=rows, length=PROMPT + written / 2, vllm=vllm)
        # With this many rows at once, prompts take as long as replies.
        return wrote + (VLLM_STARTS + training(replies, PROMPT, passes=1) if vllm else 0)

    seconds: dict[str, float] = {}
    evaluate = recipe.evaluate
    if recipe.headroom:
        seconds["headroom"] = answering(min(recipe.headroom, problems), evaluate.max_tokens)
    if recipe.distill.teacher == "self":
        seconds["distill"] = answering(CALLS * problems, recipe.distill.max_tokens)
    if sft := recipe.sft:
        rows = sft.epochs * problems * recipe.corpus.per_problem
        if sft.max_steps:
            rows = sft.max_steps * sft.batch_size * sft.accumulate
        seconds["sft"] = training(rows, min(ROW, part.max_length))
        if recipe.has_baseline:
            seconds["baseline"] = seconds["sft"]  # at most: its rows are shorter
    if cpl := recipe.cpl:
        questions = min(cpl.questions or problems, problems)
        tried = questions * cpl.iterations
        solution = part.max_length // 2
        tokens = tried * (cpl.width * LINE + cpl.rollouts * WRITTEN * solution)
        share = min(1.0, (cpl.max_tokens or math.inf) / (cpl.rounds * tokens))
        searching = answering(tried * cpl.width, LINE) + answering(tried * cpl.rollouts, solution)
        paths, pairs = (each * questions for each in TAUGHT)
        rows = (sft.epochs if sft else 1) * paths + PAIR_EPOCHS * 2 * pairs
        seconds["cpl"] = cpl.rounds * (share * searching + training(rows, min(ROW, part.max_length)))
    if grpo := recipe.grpo:
        replies, most = grpo.prompts_per_step * grpo.group, grpo.max_completion or part.max_length // 2
        learned = training(replies, round(PROMPT + WRITTEN * most), passes + 1)  # and the sampler's log probabilities
        seconds["grpo"] = grpo.steps * (answering(replies, most, vllm=False) + learned)
    answers = len(evaluate.suites) * (evaluate.limit or problems) * evaluate.samples
    arms = 2 + recipe.has_baseline + evaluate.before_grpo + evaluate.plan_use
    seconds["evaluate"] = answering(arms * answers + UNTUNED_PROMPTS * CHOSEN_ON, evaluate.max_tokens)
    return {stage: took / 60 for stage, took in seconds.items()}


def left_out(recipe: Recipe, minutes: Mapping[str, float]) -> Iterator[str]:
    """Yield the stages that max_hours would cut short, if the estimate is right."""
    left = 60 * (recipe.max_hours or math.inf)
    for stage, took in minutes.items():
        share = share_of(recipe, stage) * left
        if took > share:
            yield f"max_hours={recipe.max_hours:g} ends {stage} after {share:.0f} of {took:.0f} min"
        left -= min(took, share)


def in_words(minutes: float) -> str:
    """Put minutes in words: `about 40 min`, `about 2.5 h`."""
    if minutes < 1:
        return "under a minute"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
