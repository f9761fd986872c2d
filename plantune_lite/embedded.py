"""The embedded student as an ordinary model folder: SmolLM2-135M-Instruct out of its GGUF, dequantised once.

    folder() -> ~/.cache/plantune/smollm2/SmolLM2-135M-Instruct-7f0532e1ca9a
                config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json

What comes in: smollm2.gguf_path(). What goes out: a folder that from_pretrained and llama.cpp's converter read like one
from the Hub, in bfloat16. transformers opens a GGUF by itself, but its tokenizer loses the pre-tokenizer, special
tokens and the end of a turn; so all of it is made here from the file's own metadata.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plantune_lite import files, presets, smollm2
from plantune_lite.types import MissingError

if TYPE_CHECKING:
    import numpy
    import torch

PRESET = "smollm2_135m"
NAME = "SmolLM2-135M-Instruct"
FORMAT = 1  # counts up when what is made here changes for the same GGUF
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

_TEMPORARY = ".dequantise-"
_ABANDONED_SECONDS = 3600  # dequantising takes seconds: an older temporary folder is of a process that was killed
_PARTS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def folder(*, say: Callable[[str], object] = print) -> Path:
    """The embedded student's folder, made where it is missing; after that only looked at."""
    place = files.cache_folder() / f"{NAME}-{_fingerprint()}"
    if _whole(place):
        return place
    gguf = smollm2.gguf_path()
    say(f"dequantising {NAME} once, to {place}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent)
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=place.parent, ignore_cleanup_errors=True) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            for name, content in _files(gguf).items():
                with open(made / name, "wb") as file:
                    file.write(content)
                    os.fsync(file.fileno())
            _put(made, place)
    except OSError as error:
        raise smollm2.WeightsError(
            f"SmolLM2 cannot be dequantised into {place.parent}: {error.strerror or error}. It needs about 300 MB "
            "there: make room, or set PLANTUNE_CACHE to another folder."
        ) from None
    return place


def _fingerprint() -> str:
    """Of everything the folder is made from: another template or another converter makes another folder."""
    preset = presets.find(PRESET)
    parts = [FORMAT, smollm2.SHA256, preset.chat_template, preset.pad]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _whole(place: Path) -> bool:
    return all((place / name).is_file() for name in FILES)


def _sweep(cache: Path) -> None:
    """Remove what killed processes left behind."""
    for left in cache.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process sweeps too
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _put(made: Path, place: Path) -> None:
    """Rename a whole folder into place; where another process was faster, its folder is as good."""
    if place.exists() and not _whole(place):  # somebody took files out of it
        with contextlib.suppress(FileNotFoundError):  # another process mends it too
            os.replace(place, made.with_name("damaged"))
    try:
        os.replace(made, place)
    except OSError:
        if not _whole(place):
            raise


# --- the files --------------------------------------------------------------------------------------------------------


def _files(gguf_file: Path) -> dict[str, bytes]:
    """What the folder holds, by name."""
    try:
        import gguf
        from safetensors.torch import save
    except ImportError as error:
        raise MissingError(f"the embedded student needs {error.name}: pip install 'plantune-lite[cpu]'") from None

    reader = gguf.GGUFReader(gguf_file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    words = facts["tokenizer.ggml.tokens"]
    preset, config = presets.find(PRESET), _config(facts)
    ids = {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        # Not the GGUF's own, which is the turn's end: a student padded with that never learns to end its turn.
        "pad_token_id": words.index(preset.pad),
    }
    tokenizer_config = {
        # To transformers 4 and 5 alike: just what tokenizer.json says. A class of its own rebuilds it, without digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name.removesuffix("_id"): words[id] for name, id in ids.items()},
        "unk_token": words[facts["tokenizer.ggml.unknown_token_id"]],
        "add_bos_token": facts["tokenizer.ggml.add_bos_token"],
        "add_prefix_space": facts["tokenizer.ggml.add_space_prefix"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
        "chat_template": preset.chat_template,
    }
    tokenizer = _tokenizer(words, facts["tokenizer.ggml.merges"], facts["tokenizer.ggml.token_type"])
    return {
        "config.json": _json(config | ids),
        "generation_config.json": _json(ids),
        "model.safetensors": save(_weights(reader.tensors, config), metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": _json(tokenizer_config),
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "max_position_embeddings": facts["llama.context_length"],
        "rope_theta": facts["llama.rope.freq_base"],
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # kept as a 32-bit 1e-5
        "hidden_act": "silu",
        "initializer_range": 1 / 24,  # the original's; the GGUF does not say
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,  # the GGUF has no output matrix of its own
        "dtype": "bfloat16",
    }


def _tokenizer(words: Sequence[str], merges: Sequence[str], kinds: Sequence[int]) -> Any:
    """GPT-2's byte-level BPE after every digit is split off: what the GGUF calls model gpt2, pre smollm."""
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {word: id for id, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    return tokenizer


def _weights(tensors: Sequence[Any], config: dict[str, Any]) -> dict[str, "torch.Tensor"]:
    """Every tensor under transformers' name, in bfloat16."""
    import torch
    from gguf import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in tensors:
        *block, part, kind = tensor.name.split(".")  # blk.7.attn_q.weight
        values = dequantize(tensor.data, tensor.tensor_type)
        if part in heads:
            values = _rotate_by_halves(values, heads[part])
        name = ".".join(["model", *(["layers", block[1]] if block else []), _PARTS[part], kind])
        weights[name] = torch.tensor(values).to(torch.bfloat16)
    return weights


def _rotate_by_halves(weight: "numpy.ndarray", heads: int) -> "numpy.ndarray":
    """Rows in transformers' order: llama.cpp turns a head's neighbours as pairs, transformers its two halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
