"""Estimate the memory and disk of each stage, before anything is downloaded.

    needs(RECIPE) -> [Need("sft", parts={"weights": 3_080_000_000, "activations": 1_050_000_000, ...}, disk=...), ...]

Weights and adapter follow exactly from the model's shape. Activations and KV cache are one formula each, times SAFETY;
tests compare them with what small models allocate on a CPU. Unmeasured on CUDA: benchmarks/gpu compares the peaks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plantune_lite.estimate import shapes
from plantune_lite.estimate.shapes import Shape
from plantune_lite.recipe.schema import GRPO, GRPO_ROWS, SFT, Recipe, Student
from plantune_lite.student import presets
from plantune_lite.terminal import size

On = Literal["cuda", "cpu"]
Precision = Literal["autocast", "mixed", "float32"]  # mixed: 16-bit weights, float32 adapter, no autocast

# Assumed, until measured on a GPU.
SAFETY = 1.25  # of activations and KV cache: rounding, fragmentation, and what the formulas leave out
BLOCK = {"autocast": 16, "mixed": 20, "float32": 24}  # bytes per token that a block saves, per hidden + intermediate
DROPOUT = 8  # the same, for the masks of LoRA's dropout and the inputs it saves separately
LOGITS_AT_ONCE = 256  # tokens per chunk of the loss
CUDA_BYTES = 700_000_000  # the context, cuBLAS's workspace, compiled kernels
CPU_BYTES = 1_000_000_000  # Python with torch, transformers and trl
OWN_4BIT = 1.2  # Unsloth's own 4-bit copies keep some layers in 16 bits
PROMPT = 256  # tokens of a question and the turns around it
MERGING = 3_000_000_000  # RAM, for a model of any size
GGUF_BITS = 8.5  # per weight: q8_0, the largest quantised type

ASSUMED = (
    f"Memory assumes {SAFETY - 1:.0%} on top of activations and KV cache, {size(CUDA_BYTES)} for CUDA itself, "
    f"{size(CPU_BYTES)} for Python and torch on a CPU, {OWN_4BIT - 1:.0%} more for Unsloth's own 4-bit copies, rows of "
    f"the maximum length, {PROMPT} tokens a question, {GRPO_ROWS} completions trained at once. Unsloth's kernels need "
    "less; inference uses more where more is free. Unmeasured on CUDA."
)


@dataclass(frozen=True)
class Need:
    """Memory and disk of one stage."""

    stage: str
    parts: dict[str, int]  # bytes of memory, by purpose
    disk: int  # bytes that the stage adds at its peak
    where: Literal["GPU", "RAM"]

    @property
    def memory(self) -> int:
        """Return the sum of the parts, in bytes."""
        return sum(self.parts.values())

    @property
    def most(self) -> str:
        """Return the name of the largest part."""
        return max(self.parts, key=lambda name: self.parts[name])


def needs(recipe: Recipe, *, on: On = "cuda", bf16: bool = True) -> list[Need]:
    """Estimate every stage that loads a model; `bf16`: the device supports it."""
    estimate = _Estimate(recipe, on, bf16)
    first, *rest = estimate.stages()
    return [replace(first, disk=first.disk + estimate.download()), *rest]


def rows(stages: Sequence[Need], minutes: Mapping[str, str], money: str) -> list[tuple[str, ...]]:
    """Format the stages as rows of a table: stage, minutes, money, memory, its largest part, disk."""
    table: list[tuple[str, ...]] = []
    if "distill" not in {need.stage for need in stages}:
        table.append(("distill", "", money, "", "", ""))
    for need in stages:
        memory = size(need.memory) + (" of RAM" if need.where == "RAM" else "")
        cost = money if need.stage == "distill" else ""
        most = f"{need.most} {size(need.parts[need.most])}"
        table.append((need.stage, minutes.get(need.stage, "unmeasured"), cost, memory, most, size(need.disk)))
    return table


def activations(
    shape: Shape, student: Student, rows: int, length: int, *, precision: Precision, chunked: bool = True
) -> int:
    """Count the bytes of a forward and backward pass, without SAFETY; `chunked`: the loss computes logits in chunks."""
    tokens = rows * length
    bytes_each = BLOCK[precision] + (DROPOUT if student.lora_dropout else 0)
    scores = 6 * shape.heads * length if shape.family == "gemma3_text" else 0  # its attention may be eager
    block = tokens * (bytes_each * (shape.hidden + shape.intermediate) + scores)
    stream = tokens * shape.hidden * (4 if precision == "float32" else 2)
    saved = (shape.layers + 3) * stream  # each block's input, and what the last norm and the loss save
    gradients = block // 2
    if student.checkpointing:
        backward = block + gradients  # one block at a time is recomputed
    else:
        saved += shape.layers * block
        backward = gradients
    # Float32 logits, log-probabilities and gradients; they are freed before the last block's backward pass.
    logits = 4 * 4 * shape.vocab * min(LOGITS_AT_ONCE, tokens) if chunked else 3 * 4 * shape.vocab * tokens
    return saved + max(backward, logits)


class _Estimate:
    """A recipe on a device."""

    def __init__(self, recipe: Recipe, on: On, bf16: bool) -> None:
        self.recipe, self.student, self.on = recipe, recipe.student, on
        self.shape = shapes.of(self.student.model)
        preset = presets.find(self.student.model)
        overflows = on == "cpu" or (preset is not None and not preset.float16)  # float16 cannot replace bf16
        float32 = self.student.bits == 32 or (not bf16 and overflows)
        self.precision: Precision = "float32" if float32 else "autocast" if on == "cuda" else "mixed"
        self.lora = self.shape.adapter(self.student.lora_rank, self.student.lora_targets)
        # Two moments of AdamW: in 8 bits with a float32 scale per 256, or in float32.
        self.optimiser = round((2 + 8 / 256 if on == "cuda" else 8) * self.lora)
        # Unsloth loads its own 4-bit copies of well-known models, unless a revision is set.
        self.own_4bit = on == "cuda" and self.student.bits == 4 and not self.student.revision and preset is not None

    def stages(self) -> Iterator[Need]:
        recipe, evaluate = self.recipe, self.recipe.evaluate
        if recipe.headroom:
            yield self._need("headroom", self._answering(1, evaluate.max_tokens))
        if recipe.distill.teacher == "self":
            yield self._need("distill", self._answering(1, recipe.distill.max_tokens))
        if recipe.sft:
            training = self._training(recipe.sft.batch_size, self.student.max_length, chunked=True)
            disk = self._checkpoints(3 if recipe.corpus.validation else 2)  # the last two, and the best
            yield self._need("sft", training, disk)
            if recipe.has_baseline:
                yield self._need("baseline", training, disk)
        if recipe.cpl:
            adapters = 2 * recipe.cpl.rounds * 4 * self.lora  # one of each training
            pairs = max(2, (recipe.sft or SFT()).batch_size)  # at least one pair; the search uses what is free
            preferring = self._training(pairs, self.student.max_length, chunked=self.on == "cuda")
            yield self._need("cpl", preferring, self._checkpoints(2) + adapters)
        if recipe.grpo:
            yield self._need("grpo", self._grpo(recipe.grpo), self._checkpoints(2))
        answering = self._answering(evaluate.samples, evaluate.max_tokens)
        if recipe.sft or recipe.cpl or recipe.grpo:
            answering["adapter"] = 4 * self.lora
        yield self._need("evaluate", answering)
        if any(format != "adapter" for format in recipe.export.formats):
            merging = {"merging": min(MERGING, 3 * self.shape.weights(16)), "overhead": CPU_BYTES}
            yield Need("export", merging, self._exported(), "RAM")

    def _need(self, stage: str, parts: dict[str, int], disk: int = 0) -> Need:
        overhead = CUDA_BYTES if self.on == "cuda" else CPU_BYTES
        return Need(stage, {**parts, "overhead": overhead}, disk, "GPU" if self.on == "cuda" else "RAM")

    # --- memory -------------------------------------------------------------------------------------------------------

    def _weights(self) -> int:
        if self.on == "cpu" and self.precision == "float32" and self.student.bits == 16:
            return self.shape.weights(32)
        weights = self.shape.weights(self.student.bits)
        return round(OWN_4BIT * weights) if self.own_4bit else weights

    def _answering(self, replies: int, tokens: int) -> dict[str, int]:
        """Count the minimum for inference: all samples of one question at once."""
        return {"weights": self._weights(), "cache": self._cache(replies, PROMPT + tokens)}

    def _cache(self, replies: int, length: int) -> int:
        wide = 2 if self.precision == "float32" else 1
        next_token = 2 * 4 * replies * self.shape.vocab  # logits and probabilities
        return round(SAFETY * (wide * self.shape.cache(replies, length) + next_token))

    def _training(self, rows: int, length: int, *, chunked: bool) -> dict[str, int]:
        step = activations(self.shape, self.student, rows, length, precision=self.precision, chunked=chunked)
        return {
            "weights": self._weights(),
            "adapter": 2 * 4 * self.lora,  # float32 weights and gradients
            "optimiser": self.optimiser,
            "activations": round(SAFETY * step),
        }

    def _grpo(self, part: GRPO) -> dict[str, int]:
        """Count the larger of training on the completions and sampling them."""
        rows = part.extra.get("per_device_train_batch_size")
        length = PROMPT + part.max_completion if part.max_completion else self.student.max_length
        training = self._training(rows if isinstance(rows, int) else GRPO_ROWS, length, chunked=self.on == "cuda")
        cache = self._cache(part.prompts_per_step * part.group, length)
        if cache > training["activations"]:
            del training["activations"]
            training["cache"] = cache
        return training

    # --- disk ---------------------------------------------------------------------------------------------------------

    def download(self) -> int:
        """Count the bytes of the student's weights, unless they are in a local folder."""
        if presets.find(self.student.model) is None and self.student.model.startswith((".", "/", "~")):
            return 0
        return self._weights() if self.own_4bit else self.shape.weights(16)

    def _checkpoints(self, copies: int) -> int:
        adapter = 4 * self.lora
        return copies * (adapter + self.optimiser) + adapter

    def _exported(self) -> int:
        formats = self.recipe.export.formats
        whole = 1 + self.own_4bit  # merged, and the 16-bit base where that is not downloaded yet
        whole += not {"adapter", "lora_gguf", "merged", "q8_0"}.issuperset(formats)  # others need a 16-bit file first
        quantised = sum(format.startswith("q") for format in formats)
        return whole * self.shape.weights(16) + round(quantised * GGUF_BITS / 8 * self.shape.parameters)
