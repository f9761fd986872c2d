"""Write the merged model as GGUF files, and run each by llama.cpp, where one is installed, before it bears its name.

    model = Model(merged=Path("runs/mine/merged"), name="mine", preset=presets.find("qwen3_4b"), prompts=prompts)
    export_gguf(model, Path("runs/mine/gguf"), ("q8_0", "q4_k_m"), say=print)
    -> {"gguf": {"mine-Q8_0.gguf": {"ran": True, "agreement": "the same likeliest token on 99.4% of 512 positions", ...
        "run": ["ollama create mine -f ...", ...], "line": "2 GGUF files: 12.4 GB"}

What comes in: a merged model's folder, and prompts as token ids. What goes out: files, and what Ollama wants next to
them. Interrupted, it goes on at the next file: what is finished stands in .gguf.json.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plantune_lite.export import llama_cpp, ollama
from plantune_lite.export.check_gguf import Expected, check_file, read_expected
from plantune_lite.export.model_files import check_free_space
from plantune_lite.export.safetensors_io import FLOATS, tensors_in
from plantune_lite.files import write_whole
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import size

PROGRESS = ".gguf.json"
FORMAT = 1  # counts up when the same model gives other files
CONTEXT = 4096
_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 1.07, "q6_k": 0.9, "q5_k_m": 0.8, "q4_k_m": 0.7}
_ORDER = tuple(_BYTES)  # the 16-bit files first: the k-quants are made of one


@dataclass(frozen=True, kw_only=True)
class Model:
    """A merged model, and what its GGUF files are named, rendered and checked by."""

    merged: Path
    name: str
    preset: Preset | None
    prompts: Sequence[Sequence[int]]  # token ids


def export_gguf(
    model: Model, out: Path, formats: Sequence[str], *, say: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Write and check the files; the same call goes on after an interruption."""
    work = _Work(model, out, say)
    kinds = sorted(set(formats), key=_ORDER.index)
    todo = [kind for kind in kinds if not work.has(kind)]
    if todo:
        check_free_space(out, work.needed(todo), ", ".join(todo), say)
    try:
        for kind in todo:
            work.make(kind)
    finally:
        work.sweep()
    return work.summary(kinds)


class _Work:
    """One export: what is finished, and the 16-bit file the k-quants are made of."""

    def __init__(self, model: Model, out: Path, say: Callable[[str], object]) -> None:
        self.model, self.out, self.say = model, out, say
        self.name = re.sub(r"[^\w.-]+", "-", model.name)
        self.dtype, self.values = _dtype_of(model.merged)
        self.done: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)
        self.sweep()
        self.fingerprint = _fingerprint(model)
        with suppress(FileNotFoundError, ValueError):
            known = json.loads((out / PROGRESS).read_text(encoding="utf-8"))
            if known["fingerprint"] == self.fingerprint:
                self.done = known["files"]
            else:
                for left in known["files"]:  # of another model: a push takes every file that lies here
                    (out / left).unlink(missing_ok=True)

    @cached_property
    def expected(self) -> Expected:
        """Ask the merged model once for what all its files must say."""
        return read_expected(self.model.merged, self.model.prompts)

    def file(self, kind: str) -> Path:
        """Name a format's file."""
        return self.out / f"{self.name}-{kind.upper()}.gguf"

    def has(self, kind: str) -> bool:
        """Check that the file is there, and was run if it can be."""
        there = self._there(self.file(kind))
        return there and (self.done[self.file(kind).name]["ran"] or not llama_cpp.runs_llama())

    def _there(self, path: Path) -> bool:
        known = self.done.get(path.name)
        return known is not None and path.is_file() and path.stat().st_size == known["bytes"]

    def needed(self, todo: Sequence[str]) -> int:
        """Estimate the bytes on the disk, with those of files for the time being."""
        made_of = 0 if set(todo) <= {"f16", "bf16", "q8_0"} else _BYTES[self.dtype]
        return int(self.values * (sum(_BYTES[kind] for kind in todo) + made_of))

    def make(self, kind: str) -> None:
        """Write one file under another name, run it, and give it its own."""
        target = self.file(kind)
        part = self.out / f".{target.name}.part"
        if self._there(target):  # written where no llama.cpp was; refused now, it must not keep its name
            target.replace(part)
        else:
            self.say(f"writing {target.name}")
            self._write(kind, part)
        found = check_file(kind, part, self.expected) if llama_cpp.runs_llama() else {"ran": False}
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        self.done[target.name] = {"bytes": target.stat().st_size, **found}
        write_whole(self.out / PROGRESS, json.dumps({"fingerprint": self.fingerprint, "files": self.done}) + "\n")
        unrun = "which no llama.cpp has run: pip install 'plantune-lite[gguf]' and export again checks it"
        self.say(f"{target.name}: {size(target.stat().st_size)}, {found.get('agreement', unrun)}")

    def _write(self, kind: str, target: Path) -> None:
        if kind in ("f16", "bf16", "q8_0"):
            llama_cpp.convert(self.model.merged, target, kind, name=self.name, say=self.say)
        else:
            llama_cpp.quantise(self._whole(), target, kind)

    def _whole(self) -> Path:
        """Find the file that loses nothing of the merged model: one that was asked for, or one for the time being."""
        asked, own = self.file(self.dtype), self.out / f".{self.name}.whole.gguf"
        if self._there(asked):
            return asked
        if not own.is_file():
            part = own.with_suffix(".part")
            llama_cpp.convert(self.model.merged, part, self.dtype, name=self.name, say=self.say)
            part.replace(own)
        return own

    def sweep(self) -> None:
        """Remove what is for the time being, of this export or of one that was killed."""
        for pattern in (".*.part", ".*.whole.gguf"):
            for left in self.out.glob(pattern):
                left.unlink()

    def summary(self, kinds: Sequence[str]) -> dict[str, Any]:
        """Return what the manifest keeps, with the lines to run; write what Ollama wants next to the files."""
        files = {self.file(kind).name: self.done[self.file(kind).name] for kind in kinds}
        smallest = self.file(kinds[-1])
        run = [f"llama-cli -m {smallest} --jinja -cnv --temp 0"]
        if self.model.preset is not None:
            config = json.loads((self.model.merged / "config.json").read_text(encoding="utf-8"))
            context = min(CONTEXT, config.get("max_position_embeddings", CONTEXT))
            for name, text in ollama.files_for(self.model.preset, smallest.name, context=context).items():
                write_whole(self.out / name, text)
            run = [f"ollama create {self.name} -f {self.out / 'Modelfile'}", f"ollama run {self.name}", *run]
        else:
            self.say("no Modelfile: this model is no preset, so its template in Ollama's language is not known")
        unrun = [name for name, found in files.items() if not found["ran"]]
        line = f"{len(files)} GGUF files: {size(sum(found['bytes'] for found in files.values()))}"
        return {
            "line": line + (f"; no llama.cpp has run {', '.join(unrun)}" if unrun else ""),
            "gguf": files,
            "run": run,
        }


def _dtype_of(merged: Path) -> tuple[str, int]:
    """Return the type that loses nothing of a model, and how many numbers it has."""
    tensors = list(tensors_in(merged).values())
    kinds = {FLOATS.get(tensor.dtype) for tensor in tensors}
    whole = {"bfloat16": "bf16", "float16": "f16"}.get((kinds.pop() if len(kinds) == 1 else None) or "", "f32")
    return whole, sum(tensor.values for tensor in tensors)


def _fingerprint(model: Model) -> str:
    """Return what the files are made from; the weights' dates stand for their content, too long to be read again."""
    digest = hashlib.sha256(f"{FORMAT} {llama_cpp.VERSION}".encode())
    for file in sorted(model.merged.iterdir()):
        if file.suffix == ".safetensors":
            digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
        elif file.suffix in (".json", ".jinja", ".model", ".txt") and not file.name.startswith("."):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
