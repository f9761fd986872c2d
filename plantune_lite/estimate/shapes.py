"""Count parameters and bytes of weights, adapters and KV caches from a model's shape.

The model is a preset, a local folder, or a Hub id, of which only config.json is fetched.

    of("qwen3_4b").parameters -> 4_022_468_096        of("qwen3_4b").weights(4) -> 2_653_000_000 or so
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plantune_lite.files import as_path
from plantune_lite.student import presets, text_part
from plantune_lite.student.chat import read_config
from plantune_lite.student.weights import short
from plantune_lite.types import PlantuneError

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text", "qwen3_5_text", "gemma4_text")
NF4 = 0.5162  # bytes per weight: 4 bits, an 8-bit scale per 64 weights, a float32 scale per 256 of these


@dataclass(frozen=True)
class Shape:
    """Sizes of a student's layers."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    _: KW_ONLY
    tied: bool  # the head is the embedding

    @cached_property
    def linears(self) -> tuple[tuple[str, int, int, int], ...]:
        """List the linear layers: name, in, out, and in how many blocks."""
        return (*_attention(self, self.head_dim, self.layers, self.layers), *_mlp(self, self.intermediate, self.layers))

    @property
    def in_linears(self) -> int:
        """Count the weights of all blocks' linear layers, which 4 bits apply to."""
        return sum(wide * high * blocks for _, wide, high, blocks in self.linears)

    @property
    def elsewhere(self) -> int:
        """Count embedding, head, norms and biases: never fewer than 16 bits."""
        return (2 - self.tied) * self.vocab * self.hidden + self.hidden + self.between

    @property
    def between(self) -> int:
        """Count the norms and biases of all blocks."""
        block = (4 if self.family == "gemma3_text" else 2) * self.hidden
        if self.family in ("qwen3", "gemma3_text"):
            block += 2 * self.head_dim  # every head of query and key is normalised
        if self.family == "qwen2":
            block += (self.heads + 2 * self.kv_heads) * self.head_dim
        return self.layers * block

    @property
    def parameters(self) -> int:
        """Count all parameters, a tied head once."""
        return self.in_linears + self.elsewhere

    def weights(self, bits: int) -> int:
        """Count the bytes of the weights; 4 bits is NF4 with double quantisation, only for the linear layers."""
        return round(NF4 * self.in_linears) + 2 * self.elsewhere if bits == 4 else self.parameters * bits // 8

    def adapter(self, rank: int, targets: Sequence[str]) -> int:
        """Count the parameters of a LoRA adapter."""
        names = dict.fromkeys(name for name, *_ in self.linears)
        if unknown := [name for name in targets if name not in names]:
            raise PlantuneError(
                f"student.lora_targets names {unknown[0]!r}, whose size is not known: choose among {', '.join(names)}"
            )
        return rank * sum((wide + high) * blocks for name, wide, high, blocks in self.linears if name in targets)

    def cache(self, sequences: int, length: int) -> int:
        """Count the bytes of 16-bit keys and values, as if no layer had a window."""
        return sequences * length * self.layers * 2 * self.kv_heads * self.head_dim * 2


@dataclass(frozen=True)
class Qwen35(Shape):
    """Sizes where one block in four has attention, and the others a state that does not grow."""

    _: KW_ONLY
    value_heads: int
    key_heads: int = 16
    width: int = 128  # of these heads
    every: int = 4

    @cached_property
    def linears(self) -> tuple[tuple[str, int, int, int], ...]:
        """List the linear layers; the query projection includes its gate."""
        query, *others = _attention(self, self.head_dim, self.layers // self.every, self.layers // self.every)
        rest, out = self.layers - self.layers // self.every, self.value_heads * self.width
        return (
            (query[0], query[1], 2 * query[2], query[3]),
            *others,
            ("in_proj_qkv", self.hidden, 2 * self.key_heads * self.width + out, rest),
            ("in_proj_z", self.hidden, out, rest),
            ("in_proj_a", self.hidden, self.value_heads, rest),
            ("in_proj_b", self.hidden, self.value_heads, rest),
            ("out_proj", out, self.hidden, rest),
            *_mlp(self, self.intermediate, self.layers),
        )

    @property
    def between(self) -> int:
        """Count norms, convolutions over 4 tokens, and each head's decay."""
        full, mixed = self.layers // self.every, (2 * self.key_heads + self.value_heads) * self.width
        rest = (self.layers - full) * (4 * mixed + 2 * self.value_heads + self.width)
        return self.layers * 2 * self.hidden + full * 2 * self.head_dim + rest

    def cache(self, sequences: int, length: int) -> int:
        """Count the bytes of keys and values where there is attention, and of the other blocks' float32 states."""
        full = self.layers // self.every
        state = 4 * (self.layers - full) * self.value_heads * self.width**2
        return sequences * (length * full * 2 * self.kv_heads * self.head_dim * 2 + state)


@dataclass(frozen=True)
class Gemma4(Shape):
    """Sizes where every nth block has wider heads, and the last blocks reuse earlier ones' keys and values."""

    _: KW_ONLY
    shared: int  # blocks without their own keys and values
    every: int
    doubled: bool  # their MLP is twice as wide
    inputs: int = 256  # width of each token's second embedding, one per block
    wide: int = 512  # head_dim of the wider heads

    @cached_property
    def linears(self) -> tuple[tuple[str, int, int, int], ...]:
        """List the linear layers of both kinds of blocks."""
        full, own = self.layers // self.every, self.layers - self.shared
        own_full, doubled = own // self.every, self.shared if self.doubled else 0
        return (
            *_attention(self, self.head_dim, self.layers - full, own - own_full),
            *_attention(self, self.wide, full, own_full),
            *_mlp(self, self.intermediate, self.layers - doubled),
            *_mlp(self, 2 * self.intermediate, doubled),
            ("per_layer_input_gate", self.hidden, self.inputs, self.layers),
            ("per_layer_projection", self.inputs, self.hidden, self.layers),
            ("per_layer_model_projection", self.hidden, self.layers * self.inputs, 1),
        )

    @property
    def between(self) -> int:
        """Count norms and the second embedding."""
        full, own = self.layers // self.every, self.layers - self.shared
        normalised = self.head_dim * (self.layers - full + own - own // self.every)
        normalised += self.wide * (full + own // self.every)
        return self.layers * (5 * self.hidden + self.vocab * self.inputs) + self.inputs + normalised


def _attention(shape: Shape, width: int, blocks: int, own: int) -> Iterator[tuple[str, int, int, int]]:
    query, key = shape.heads * width, shape.kv_heads * width
    yield ("q_proj", shape.hidden, query, blocks)
    yield ("k_proj", shape.hidden, key, own)
    yield ("v_proj", shape.hidden, key, own)
    yield ("o_proj", query, shape.hidden, blocks)


def _mlp(shape: Shape, width: int, blocks: int) -> Iterator[tuple[str, int, int, int]]:
    yield ("gate_proj", shape.hidden, width, blocks)
    yield ("up_proj", shape.hidden, width, blocks)
    yield ("down_proj", width, shape.hidden, blocks)


# --- from a configuration ---------------------------------------------------------------------------------------------


def of(model: str) -> Shape:
    """Look up a preset's shape, or read config.json from a folder, the Hub's cache or the Hub."""
    if preset := presets.find(model):
        return _PRESETS[preset.repo]
    file = as_path(model) / "config.json"
    if not file.is_file():
        import httpx
        from huggingface_hub import errors, hf_hub_download

        try:
            file = Path(hf_hub_download(model, "config.json"))
        except (errors.HFValidationError, errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
            raise PlantuneError(
                f"what {model} needs cannot be estimated: it is not a preset or a folder with a config.json, and the "
                f"Hub does not give its config.json ({short(error)}). Private or gated: set HF_TOKEN"
            ) from None
    config = read_config(file)
    text_part.check(model, config)
    return from_config(config)


def from_config(config: Mapping[str, Any]) -> Shape:
    """Read the shape from a model's config.json, with the family's defaults for missing fields."""
    if text_part.is_part(config):
        config = {**config["text_config"], "model_type": f"{config['model_type']}_text"}
    family = config.get("model_type")
    if family not in FAMILIES:
        raise PlantuneError(
            f"what a model of the family {family!r} needs cannot be estimated. "
            f"Known families: {', '.join(FAMILIES)}; training may still work."
        )
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    sizes = {
        "family": family,
        "layers": config["num_hidden_layers"],
        "hidden": hidden,
        "intermediate": config["intermediate_size"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or hidden // heads,
        "vocab": config["vocab_size"],
        "tied": config.get("tie_word_embeddings", family in ("gemma3_text", "gemma4_text")),
    }
    if family == "qwen3_5_text":
        return Qwen35(
            **sizes,
            value_heads=config["linear_num_value_heads"],
            key_heads=config["linear_num_key_heads"],
            width=config["linear_value_head_dim"],
            every=_every(config, 4),
        )
    if family == "gemma4_text":
        return Gemma4(
            **sizes,
            shared=config["num_kv_shared_layers"],
            doubled=config["use_double_wide_mlp"],
            inputs=config["hidden_size_per_layer_input"],
            wide=_wide(config),
            every=_every(config, 6),
        )
    return Shape(**sizes)


def _every(config: Mapping[str, Any], usual: int) -> int:
    """Return n where every nth block has attention without a window."""
    kinds = config.get("layer_types")
    return kinds.index("full_attention") + 1 if kinds else usual


def _wide(config: Mapping[str, Any]) -> int:
    """Return the width of a head without a window, from the maker's field or transformers'."""
    of_blocks = config.get("per_layer_config") or {}
    return config.get("global_head_dim") or next(iter(of_blocks.values()))["head_dim"]


# family, layers, hidden, intermediate, heads, kv_heads, head_dim, vocab: from each repository's config.json
_PRESETS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape("llama", 30, 576, 1536, 9, 3, 64, 49152, tied=True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": Shape("llama", 32, 960, 2560, 15, 5, 64, 49152, tied=True),
    "google/gemma-3-270m-it": Shape("gemma3_text", 18, 640, 2048, 4, 1, 256, 262144, tied=True),
    "google/gemma-3-1b-it": Shape("gemma3_text", 26, 1152, 6912, 4, 1, 256, 262144, tied=True),
    "google/gemma-4-E2B-it": Gemma4(
        "gemma4_text", 35, 1536, 6144, 8, 1, 256, 262144, tied=True, shared=20, every=5, doubled=True
    ),
    "google/gemma-4-E4B-it": Gemma4(
        "gemma4_text", 42, 2560, 10240, 8, 2, 256, 262144, tied=True, shared=18, every=6, doubled=False
    ),
    "Qwen/Qwen3-0.6B": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, tied=True),
    "Qwen/Qwen3-1.7B": Shape("qwen3", 28, 2048, 6144, 16, 8, 128, 151936, tied=True),
    "Qwen/Qwen3.5-0.8B": Qwen35("qwen3_5_text", 24, 1024, 3584, 8, 2, 256, 248320, tied=True, value_heads=16),
    "Qwen/Qwen3.5-2B": Qwen35("qwen3_5_text", 24, 2048, 6144, 8, 2, 256, 248320, tied=True, value_heads=16),
    "Qwen/Qwen3.5-4B": Qwen35("qwen3_5_text", 32, 2560, 9216, 16, 4, 256, 248320, tied=True, value_heads=32),
    "Qwen/Qwen3-4B-Instruct-2507": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, tied=False),
}
