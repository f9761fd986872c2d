"""What a run needs of memory and disk, stage by stage, before anything is downloaded.

    needs(RECIPE) -> [Need("sft", parts={"weights": 3_080_000_000, "activations": 1_050_000_000, ...}, disk=...), ...]

What comes in: a recipe, and the shape of its student. Weights, adapter and optimiser are counted to the byte
(shapes.py), activations are held to what autograd saves (activations.py), the rest is assumed and stands below.
Peaks on CUDA are unmeasured: benchmarks/gpu compares them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from plantune_lite.estimate import activations, shapes
from plantune_lite.estimate.activations import Batch, Precision
from plantune_lite.estimate.shapes import Shape
from plantune_lite.recipe.schema import GRPO, GRPO_ROWS, SFT, Recipe
from plantune_lite.student import presets
from plantune_lite.terminal import size

On = Literal["cuda", "cpu"]

# Assumed, until a card has said otherwise.
CUDA_BYTES = 700_000_000  # the context, cuBLAS' workspace, compiled kernels
CPU_BYTES = 1_000_000_000  # Python with torch, transformers and trl, and what their allocators keep
SLACK = 1.1  # for rounding and fragmentation of what comes and goes within a step
OWN_4BIT = 1.2  # Unsloth's own 4-bit copies keep some layers in 16 bits
PROMPT = 256  # tokens of a question and the turns around it
MERGING = 3_000_000_000  # of main memory, whatever the model's size
EMBEDDED = 98_000_000  # the wheel that the embedded student comes in

ASSUMED = (
    "Memory is counted for transformers' own kernels, Unsloth's need less, and for rows as long as they may be. "
    f"Assumed: {size(CUDA_BYTES)} for CUDA itself, {size(CPU_BYTES)} for Python and torch on a CPU, "
    f"{SLACK - 1:.0%} lost between allocations, {OWN_4BIT - 1:.0%} more for Unsloth's own 4-bit copies, "
    f"{PROMPT} tokens a question, {GRPO_ROWS} completions trained at once. Answering takes more where there is more. "
    "Unmeasured on CUDA."
)


@dataclass(frozen=True)
class Need:
    """What one stage needs."""

    stage: str
    parts: dict[str, int]  # bytes of memory, by what they are for
    disk: int  # bytes that the stage adds at its worst
    where: Literal["GPU", "RAM"]

    @property
    def memory(self) -> int:
        """All parts together, in bytes."""
        return sum(self.parts.values())

    @property
    def most(self) -> str:
        """The largest part's name."""
        return max(self.parts, key=lambda name: self.parts[name])


def needs(
    recipe: Recipe, *, shape: Shape | None = None, on: On = "cuda", bf16: bool = True, longest: int | None = None
) -> list[Need]:
    """What each stage that holds a model needs.

    `bf16` is whether the device computes in it, `longest` the tokens of the longest row, where that is known already.
    """
    return list(_Run(recipe, shape or shapes.of(recipe.student.model), on, bf16, longest).stages())


def rows(found: Sequence[Need], minutes: Mapping[str, str], money: str) -> list[tuple[str, ...]]:
    """The needs as rows of a table: stage, minutes, money, memory, what most of it is for, disk."""
    table = []
    if "distill" not in {need.stage for need in found}:
        table.append(("distill", "", money, "", "", ""))
    for need in found:
        memory = size(need.memory) + (" of RAM" if need.where == "RAM" else "")
        cost = money if need.stage == "distill" else ""
        most = f"{need.most} {size(need.parts[need.most])}"
        table.append((need.stage, minutes.get(need.stage, "unmeasured"), cost, memory, most, size(need.disk)))
    return table


class _Run:
    """A recipe on a device."""

    def __init__(self, recipe: Recipe, shape: Shape, on: On, bf16: bool, longest: int | None) -> None:
        self.recipe, self.part, self.shape, self.on = recipe, recipe.student, shape, on
        self.longest = min(longest or self.part.max_length, self.part.max_length)
        self.preset = presets.find(self.part.model)
        overflows = on == "cpu" or (self.preset is not None and not self.preset.float16)  # float16 is no way out
        float32 = self.part.bits == 32 or (not bf16 and overflows)
        self.precision: Precision = "float32" if float32 else "autocast" if on == "cuda" else "mixed"
        self.lora = shape.adapter(self.part.lora_rank, self.part.lora_targets)
        self.optimiser = shapes.optimiser(self.lora, eight_bit=on == "cuda")
        self.embedded = self.preset is not None and self.preset.name == "smollm2_135m"
        known = self.preset is not None and not self.embedded
        # Of the well-known models Unsloth loads 4-bit copies of its own, unless a revision is asked for.
        self.own_4bit = on == "cuda" and self.part.bits == 4 and self.part.revision is None and known
        self.merges = any(format not in ("adapter", "lora_gguf") for format in recipe.export.formats)

    def stages(self) -> Iterator[Need]:
        recipe = self.recipe
        download = self._download()  # of whichever stage comes first
        if recipe.headroom:
            yield self._need("headroom", self._answering(1, recipe.evaluate.max_tokens), download)
            download = 0
        if recipe.distill.teacher == "self":
            yield self._need("distill", self._answering(1, recipe.distill.max_tokens), download)
            download = 0
        if recipe.sft:
            copies = 3 if recipe.corpus.validation else 2  # the last two, and the best
            yield self._need("sft", self._sft(recipe.sft), download + self._checkpoints(copies))
            download = 0
            if recipe.has_baseline:
                yield self._need("baseline", self._sft(recipe.sft), self._checkpoints(copies))
        if recipe.cpl:
            kept = 2 * recipe.cpl.rounds * 4 * sum(self.lora)  # an adapter of each training
            yield self._need("cpl", self._cpl(recipe.sft or SFT()), download + self._checkpoints(2) + kept)
            download = 0
        if recipe.grpo:
            yield self._need("grpo", self._grpo(recipe.grpo), download + self._checkpoints(2))
            download = 0
        evaluate = recipe.evaluate
        tuned = bool(recipe.sft or recipe.cpl or recipe.grpo)
        yield self._need("evaluate", self._answering(evaluate.samples, evaluate.max_tokens, tuned=tuned), download)
        if self.merges:
            merging = {"merging": min(MERGING, 3 * self.shape.weights(16)), "overhead": CPU_BYTES}
            yield Need("export", merging, self._exported(), "RAM")

    def _need(self, stage: str, parts: dict[str, int], disk: int) -> Need:
        overhead = CUDA_BYTES if self.on == "cuda" else CPU_BYTES
        return Need(stage, {**parts, "overhead": overhead}, disk, "GPU" if self.on == "cuda" else "RAM")

    # --- memory -------------------------------------------------------------------------------------------------------

    def _weights(self) -> int:
        wide = 32 if self.part.bits == 16 and self.on == "cpu" and self.precision == "float32" else self.part.bits
        weights = self.shape.weights(wide)
        if wide == 4:
            if self.own_4bit:
                weights += round((OWN_4BIT - 1) * (weights - 2 * self.shape.elsewhere))
            weights += 2 * max(rows * columns for rows, columns in self.shape.linears.values())  # one of them unpacked
        return weights

    def _answering(self, sequences: int, tokens: int, *, tuned: bool = False) -> dict[str, int]:
        """The least it takes: every sample of one question at once."""
        adapter = 4 * sum(self.lora) if tuned else 0
        return {"weights": self._weights(), "adapter": adapter, "cache": self._cache(sequences, PROMPT + tokens)}

    def _cache(self, sequences: int, length: int) -> int:
        wide = 2 if self.precision == "float32" else 1
        next_token = 2 * 4 * sequences * self.shape.vocab  # logits and probabilities
        return round(SLACK * (wide * self.shape.cache(sequences, length) + next_token))

    def _sft(self, part: SFT) -> dict[str, int]:
        loss = part.extra.get("loss_type", "chunked_nll")
        chunked = self.on == "cuda" or loss == "chunked_nll"
        return {**self._trained(), **self._step(part.batch_size, self.longest, chunked=chunked)}

    def _cpl(self, part: SFT) -> dict[str, int]:
        """The search takes what there is; a pair to prefer by is two rows, and there is one pair at least."""
        step = self._step(max(2, part.batch_size), self.longest, chunked=self.on == "cuda")
        return {**self._trained(), **step}

    def _grpo(self, part: GRPO) -> dict[str, int]:
        at_once = part.extra.get("per_device_train_batch_size")
        rows = at_once if isinstance(at_once, int) else GRPO_ROWS
        length = PROMPT + part.max_completion if part.max_completion else self.part.max_length
        step = self._step(rows, length, chunked=self.on == "cuda", answer=part.max_completion)
        made = {"cache": self._cache(part.prompts_per_step * part.group, length)}
        return {**self._trained(), **max(step, made, key=lambda parts: sum(parts.values()))}

    def _trained(self) -> dict[str, int]:
        adapter = 2 * 4 * sum(self.lora)  # float32, and as much again of gradients
        return {"weights": self._weights(), "adapter": adapter, "optimiser": self.optimiser}

    def _step(self, rows: int, length: int, *, chunked: bool, answer: int | None = None) -> dict[str, int]:
        batch = Batch(
            rows=rows,
            length=length,
            rank=self.part.lora_rank,
            targets=self.part.lora_targets,
            precision=self.precision,
            checkpointing=self.part.checkpointing,
            padded=rows > 1,
            eager=self.on == "cuda" and self.shape.family == "gemma3_text",  # the worst that Unsloth may choose
            dropout=self.part.lora_dropout > 0,
            chunked=chunked,
            answer=answer,
        )
        backward = activations.backward(self.shape, batch)
        logits = max(0, activations.logits(self.shape, batch) - backward)  # the two are not there together
        held = activations.held(self.shape, batch)
        return {"activations": round(SLACK * (held + backward)), "logits": round(SLACK * logits)}

    # --- disk ---------------------------------------------------------------------------------------------------------

    def _download(self) -> int:
        if self.preset is None and self.part.model.startswith((".", "/", "~")):
            return 0
        if self.own_4bit:
            return round(OWN_4BIT * self.shape.weights(4))
        return self.shape.weights(16) + (EMBEDDED if self.embedded else 0)

    def _checkpoints(self, copies: int) -> int:
        adapter = 4 * sum(self.lora)
        return copies * (adapter + self.optimiser) + adapter

    def _exported(self) -> int:
        formats, whole = self.recipe.export.formats, self.shape.weights(16)
        ggufs = [format for format in formats if format not in ("adapter", "merged")]
        total = whole + sum(self.shape.gguf(format, sum(self.lora)) for format in ggufs)
        if {"q6_k", "q5_k_m", "q4_k_m"} & set(ggufs) and not {"f16", "bf16"} & set(ggufs):
            total += whole  # they are made from a 16-bit file
        if self.own_4bit:
            total += whole  # the base to merge onto has not been downloaded yet
        return round(total)
