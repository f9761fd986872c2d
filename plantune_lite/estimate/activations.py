"""What a training step holds beyond weights and optimiser: the tensors autograd saves, counted from a student's shape.

    batch = Batch(rows=2, length=1024, rank=32, targets=Student("qwen3_4b").lora_targets)
    peak(shapes.of("qwen3_4b"), batch) -> 1_030_000_000 or so, under autocast with checkpointing

What is counted is what transformers' and PEFT's own code keeps; tests hold it to what autograd really saves, on a CPU.
Unsloth's kernels keep less, so on CUDA this is an upper bound, unmeasured. The first block, where nothing trained comes
before, is counted as whole.
"""

from dataclasses import dataclass
from typing import Literal

from plantune_lite.estimate.shapes import Shape

LOGITS_AT_ONCE = 256  # tokens whose logits are there together: TRL's chunk; Unsloth's is as large as memory allows
Precision = Literal["float32", "mixed", "autocast"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One forward and backward pass: how many rows of how many tokens, and how they are computed."""

    rows: int
    length: int  # tokens, padding included
    rank: int
    targets: tuple[str, ...]
    precision: Precision = "autocast"  # mixed: 16-bit weights beside a float32 adapter, without autocast
    checkpointing: bool = True
    padded: bool = True  # with a mask keys and values are repeated for every head
    eager: bool = False  # attention that keeps its scores
    dropout: bool = False
    chunked: bool = True  # the loss: a chunk of logits at a time; False: all of them
    answer: int | None = None  # tokens of a row whose logits are wanted; None = all

    @property
    def tokens(self) -> int:
        """All tokens of the batch."""
        return self.rows * self.length

    @property
    def answers(self) -> int:
        """The tokens whose logits are wanted."""
        return self.rows * (self.length if self.answer is None else self.answer)

    @property
    def wide(self) -> int:
        """Bytes of an activation of the base model."""
        return 4 if self.precision == "float32" else 2


def block(shape: Shape, batch: Batch) -> int:
    """Bytes that one block saves for its backward pass."""
    fixed, a_token, a_score = 0, 0, 0.0
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    a_token += shape.norms * 4 * (shape.hidden + 1)  # a norm keeps its input in float32, and one scale
    if shape.qk_norm:
        a_token += 4 * (query + key + shape.heads + shape.kv_heads)
    if shape.family == "gemma3_text":
        fixed += 4 * (shape.norms * shape.hidden + 2 * shape.head_dim)  # it adds one to each norm's weights

    if batch.eager:
        a_token += batch.wide * 3 * query  # query, and keys and values repeated for every head
        a_score += shape.heads * (4 if batch.precision == "float32" else 4 + batch.wide)  # softmax is in float32
    else:
        a_token += batch.wide * (2 * query + 2 * (query if batch.padded else key)) + 4 * shape.heads
        a_score += batch.wide * batch.padded  # the mask, one for all heads

    a_token += batch.wide * 3 * shape.intermediate  # gate, its activation, up
    adapters, casts = _adapters(shape, batch)
    return round(batch.tokens * (a_token + adapters) + batch.tokens * batch.length * a_score) + fixed + casts


def _adapters(shape: Shape, batch: Batch) -> tuple[int, int]:
    """Bytes a token, and bytes in all, that LoRA adds to a block: only an adapted layer keeps its input."""
    computed = 2 if batch.precision == "autocast" else 4  # bytes in which A and B are multiplied
    own_input = batch.dropout or batch.precision != "float32"  # else q, k and v share what the norm made
    inputs = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "gate_proj": "mlp", "up_proj": "mlp"}
    kept, a_token, casts = {}, 0, 0
    for name in batch.targets:
        wide, high = shape.linears[name]
        a_token += batch.rank * computed
        kept[name if own_input else inputs.get(name, name)] = wide
        if batch.dropout:
            a_token += 4 * wide  # its mask
        if batch.precision == "autocast":
            casts += 2 * batch.rank * (wide + high)
    if "o_proj" in kept and not own_input and not batch.eager:
        del kept["o_proj"]  # attention has saved it already
    return a_token + computed * sum(kept.values()), casts


def saved(shape: Shape, batch: Batch) -> int:
    """Bytes that autograd holds when the forward pass is done."""
    return held(shape, batch) + (0 if batch.chunked else 4 * shape.vocab * batch.answers)


def held(shape: Shape, batch: Batch) -> int:
    """The same without logits: what is there through the whole backward pass."""
    stream = batch.tokens * shape.hidden
    last_norm = 4 * (stream + batch.tokens)
    blocks = shape.layers * (batch.wide * stream if batch.checkpointing else block(shape, batch))
    if not batch.checkpointing:  # before the first adapter nothing is saved: its norm's place is the last norm's
        blocks -= last_norm
    loss = batch.wide * stream + 16 * batch.tokens if batch.chunked else 8 * batch.tokens
    return blocks + last_norm + loss


def logits(shape: Shape, batch: Batch) -> int:
    """Bytes of logits and what comes of them at their worst: log-probabilities and gradients, in float32."""
    if batch.chunked:
        return 4 * 4 * shape.vocab * min(LOGITS_AT_ONCE, batch.tokens)
    return 3 * 4 * shape.vocab * batch.answers


def backward(shape: Shape, batch: Batch) -> int:
    """Bytes that come and go while one block is gone through backward: through down_proj there are most."""
    gradients = 2 * batch.wide + (0 if batch.precision == "float32" else 4)
    recomputed = block(shape, batch) if batch.checkpointing else 0
    return recomputed + batch.tokens * shape.intermediate * gradients


def peak(shape: Shape, batch: Batch) -> int:
    """The most bytes there are at once in a step: while the loss is made, or in a block's backward pass."""
    return held(shape, batch) + max(logits(shape, batch), backward(shape, batch))
