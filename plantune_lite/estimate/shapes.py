"""Count parameters and bytes of weights, adapters and KV caches from a model's shape.

The model is a preset, a local folder, or a Hub id; of that its config.json is fetched, and nothing else.

    of("qwen3_4b").parameters -> 4_022_468_096        of("qwen3_4b").weights(4) -> 2_653_000_000 or so
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plantune_lite.files import as_path
from plantune_lite.student import presets
from plantune_lite.student.weights import short
from plantune_lite.types import PlantuneError

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")
NF4 = 0.5162  # bytes a weight: 4 bits, a scale of 8 bits for each 64, a float32 scale of these for each 256


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
    def linears(self) -> dict[str, tuple[int, int]]:
        """Map the linear layers of one block: name -> (in, out)."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def in_linears(self) -> int:
        """Count the weights of all blocks' linear layers: what 4 bits apply to."""
        return self.layers * sum(wide * high for wide, high in self.linears.values())

    @property
    def elsewhere(self) -> int:
        """Count embedding, head, norms and biases: never fewer than 16 bits."""
        block = (4 if self.family == "gemma3_text" else 2) * self.hidden
        if self.family in ("qwen3", "gemma3_text"):
            block += 2 * self.head_dim  # every head of query and key is normalised
        if self.family == "qwen2":
            block += sum(self.linears[name][1] for name in ("q_proj", "k_proj", "v_proj"))
        return (2 - self.tied) * self.vocab * self.hidden + self.layers * block + self.hidden

    @property
    def parameters(self) -> int:
        """Count all parameters, a tied head once."""
        return self.in_linears + self.elsewhere

    def weights(self, bits: int) -> int:
        """Count the bytes of the weights; 4 bits is NF4 with double quantisation, of the linear layers alone."""
        return round(NF4 * self.in_linears) + 2 * self.elsewhere if bits == 4 else self.parameters * bits // 8

    def adapter(self, rank: int, targets: Sequence[str]) -> int:
        """Count the parameters of a LoRA adapter."""
        if unknown := [name for name in targets if name not in self.linears]:
            raise PlantuneError(
                f"student.lora_targets names {unknown[0]!r}, and what it needs is not known here: "
                f"choose among {', '.join(self.linears)}"
            )
        return self.layers * rank * sum(sum(self.linears[name]) for name in targets)

    def cache(self, sequences: int, length: int) -> int:
        """Count the bytes of 16-bit keys and values, as if no layer had a window."""
        return sequences * length * self.layers * 2 * self.kv_heads * self.head_dim * 2


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
                f"what {model} needs cannot be estimated: it is no preset, no folder with a config.json, and the Hub "
                f"does not give its config.json ({short(error)}). Private or gated: set HF_TOKEN"
            ) from None
    return from_config(json.loads(file.read_text(encoding="utf-8")))


def from_config(config: Mapping[str, Any]) -> Shape:
    """Read the shape from a model's config.json, with the family's defaults for what it leaves out."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise PlantuneError(
            f"what a model of the family {family!r} needs cannot be estimated. "
            f"Known are {', '.join(FAMILIES)}; training may still work."
        )
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return Shape(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=hidden,
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocab=config["vocab_size"],
        tied=config.get("tie_word_embeddings", family == "gemma3_text"),
    )


# family, layers, hidden, intermediate, heads, kv_heads, head_dim, vocab: as each repository's config.json has them
_PRESETS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape("llama", 30, 576, 1536, 9, 3, 64, 49152, tied=True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": Shape("llama", 32, 960, 2560, 15, 5, 64, 49152, tied=True),
    "google/gemma-3-270m-it": Shape("gemma3_text", 18, 640, 2048, 4, 1, 256, 262144, tied=True),
    "google/gemma-3-1b-it": Shape("gemma3_text", 26, 1152, 6912, 4, 1, 256, 262144, tied=True),
    "Qwen/Qwen3-4B-Instruct-2507": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, tied=False),
}
