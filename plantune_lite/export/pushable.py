"""What of a folder may be published: an allow-list, the hashes to know it again by, and no key in any text.

    chosen, left_out = gather(Path("runs/mine/sft"), "model")
        -> {"adapter_model.safetensors": PosixPath(...), "adapter_config.json": ...}, ["checkpoint-50/optimizer.pt"]

Weights as safetensors or GGUF, tokenizer, card, rows of a data set; never a checkpoint (they hold pickles) or a log.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from plantune_lite.types import PlantuneError

Kind = Literal["model", "dataset"]
Content = Path | bytes

MARKER = "plantune.json"  # in every repository that we filled

_TEXTS = {".json", ".md", ".txt", ".jinja", ".jsonl", ".svg"}
_SUFFIXES = {
    "model": _TEXTS - {".jsonl"} | {".safetensors", ".gguf", ".model", ".png"},
    "dataset": _TEXTS - {".jinja"} | {".parquet", ".png"},
}
_BARE = {"LICENSE", "NOTICE", "Modelfile", "template", "system", "params"}  # the last four are Ollama's
_NEVER = {"manifest.json", "trainer_state.json", "log.txt", "metrics.jsonl", "rejected.jsonl"}
_NEVER |= {"base.json", "calibration.json"}  # of a training stage; the first says where on this machine the base lies
_NEVER |= {"section.json", "loss.svg", "preference.svg", "taught.json"}  # for the report
_NEVER_BELOW = re.compile(r"checkpoint-.*|\..*|round\d+")  # the last are CPL's: adapters on the way to the pushed one
_KEYS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|\bAIza[\w-]{35}|\bsk-(?:proj-|or-v1-)?[A-Za-z0-9]{32,}")
_SECRET = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")  # how variables end whose value is nobody's business


def gather(folder: Path, kind: Kind) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder that may be pushed, by their path in the repository; and those that stay here."""
    chosen, left_out = {}, []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if not file.is_file():
            continue
        fits = file.suffix in _SUFFIXES[kind] or kind == "model" and file.name in _BARE
        held_back = file.name in _NEVER or any(map(_NEVER_BELOW.fullmatch, inside.parts))
        if fits and not held_back and not file.is_symlink() and file.stat().st_size:  # the Hub stumbles over empty ones
            chosen[inside.as_posix()] = file
        else:
            left_out.append(inside.as_posix())
    return chosen, left_out


@dataclass(frozen=True)
class File:
    """What goes to one path of the repository."""

    path: str  # in the repository
    content: Content

    @cached_property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    @cached_property
    def sha256(self) -> str:
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        with open(self.content, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """What git calls a small file; a large one it knows by its sha256."""
        data = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def differs(self, there: Any) -> str | None:
        """Why what the Hub lists under this path is not this file; None where it is."""
        if there is None:
            return "is not there"
        if there.size != self.size:
            return f"has {there.size} bytes there and {self.size} here"
        same = there.lfs.sha256 == self.sha256 if there.lfs else there.blob_id == self.git_oid
        return None if same else "has another hash there than here"


def refuse_keys(files: Sequence[File], token: str | None) -> None:
    """Stop before a key is published: one of this machine's, or anything that looks like one."""
    secrets = {value for name, value in os.environ.items() if name.endswith(_SECRET) and len(value) >= 16}
    known = [re.escape(secret.encode()) for secret in secrets | ({token} if token else set())]
    pattern = re.compile(b"|".join([_KEYS.pattern, *known]))
    for file in files:
        if Path(file.path).suffix in _TEXTS or Path(file.path).name in _BARE:
            for number, line in enumerate(_lines(file.content), 1):
                if pattern.search(line):
                    raise PlantuneError(
                        f"{file.path} line {number} holds a key or what looks like one, so nothing was pushed. "
                        "Take it out (and have the key replaced if it has been anywhere else)."
                    )


def _lines(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield from content.splitlines()
    else:
        with open(content, "rb") as file:
            yield from file


def marker(files: Sequence[File], about: Mapping[str, str]) -> File:
    """What we pushed, and no time in it: the same push twice is the same file."""
    brought = {file.path: {"size": file.size, "sha256": file.sha256} for file in files}
    content = {"made_by": "plantune-lite", "version": version("plantune-lite"), **about, "files": brought}
    return File(MARKER, (json.dumps(content, indent=1) + "\n").encode())
