"""The merged model as GGUF files, each run beside it before it bears its name, where a llama.cpp is installed.

    export_gguf(Path("runs/mine/merged"), Path("runs/mine/gguf"), ("q8_0", "q4_k_m"), name="mine",
                preset=presets.find("qwen3_4b"), prompts=prompts, say=print)
    -> {"gguf": {"mine-Q8_0.gguf": {"ran": True, "agreement": "12 of 12 prompts alike", "kl": 0.0032, ...}, ...},
        "run": ["ollama create mine -f ...", ...], "line": "2 GGUF files: 12.4 GB"}

What comes in: a merged model's folder, and prompts as token ids. What goes out: files, and what Ollama wants beside
them. Interrupted, it goes on at the next file: what is finished stands in .gguf.json.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from plantune_lite.export import llama_cpp, ollama
from plantune_lite.export.check_gguf import Acceptance
from plantune_lite.export.llama_cpp import GGUFError
from plantune_lite.export.safetensors_io import FLOATS, tensors_in
from plantune_lite.files import write_whole
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import size

PROGRESS = ".gguf.json"
FORMAT = 1  # counts up when the same model gives other files
CONTEXT = 4096
_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 1.07, "q6_k": 0.9, "q5_k_m": 0.8, "q4_k_m": 0.7, "lora_gguf": 0.1}
_ORDER = tuple(_BYTES)  # the 16-bit files first: the k-quants are made of one
_SPARE_BYTES = 64_000_000


def export_gguf(
    merged: Path,
    out: Path,
    formats: Sequence[str],
    *,
    name: str,
    preset: Preset | None,
    prompts: Sequence[Sequence[int]],
    adapter: Path | None = None,  # these two for lora_gguf
    base: Path | None = None,
    most: int = 512,  # tokens in which a k-quant is to end its turn; 0: not asked of this model
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write and check the files; the same call goes on after an interruption."""
    unknown = [kind for kind in formats if kind not in _BYTES or kind == "f32"]
    if unknown or not prompts:
        raise GGUFError(f"no GGUF format {unknown[0]!r}" if unknown else "GGUF files are checked on prompts: give some")
    if "lora_gguf" in formats and (adapter is None or base is None):
        raise GGUFError("lora_gguf needs the folders of the adapter and of its base")
    work = _Work(merged, out, re.sub(r"[^\w.-]+", "-", name), prompts, most, adapter, base, say)
    kinds = sorted(set(formats), key=_ORDER.index)
    todo = [kind for kind in kinds if not work.has(kind)]
    work.refuse_small_disk(todo)
    try:
        for kind in todo:
            work.make(kind)
    finally:
        work.sweep()
    return work.summary(kinds, preset)


class _Work:
    """One export: what is finished, and the 16-bit file the k-quants are made of."""

    def __init__(
        self,
        merged: Path,
        out: Path,
        name: str,
        prompts: Sequence[Sequence[int]],
        most: int,
        adapter: Path | None,
        base: Path | None,
        say: Callable[[str], object],
    ) -> None:
        self.merged, self.out, self.name, self.say = merged, out, name, say
        self.adapter, self.base = adapter, base
        self.acceptance = Acceptance(merged, prompts, most=most, out=out, whole=self._whole)
        self.dtype, self.values = _dtype_of(merged)
        self.done: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)
        self.sweep()
        self.fingerprint = _fingerprint(merged, adapter)
        with suppress(FileNotFoundError, ValueError):
            known = json.loads((out / PROGRESS).read_text(encoding="utf-8"))
            if known["fingerprint"] == self.fingerprint:
                self.done = known["files"]
            else:
                for left in known["files"]:  # of another model: a push takes every file that lies here
                    (out / left).unlink(missing_ok=True)

    def file(self, kind: str) -> Path:
        """Where a format's file lies."""
        # A LoRA's file does not say its type: the Hub would offer it as a quantised model.
        return self.out / f"{self.name}-{'lora' if kind == 'lora_gguf' else kind.upper()}.gguf"

    def has(self, kind: str) -> bool:
        """Whether the file is there, and was run if it can be."""
        there = self._there(self.file(kind))
        return there and (self.done[self.file(kind).name]["ran"] or not llama_cpp.runs_llama())

    def _there(self, path: Path) -> bool:
        known = self.done.get(path.name)
        return known is not None and path.is_file() and path.stat().st_size == known["bytes"]

    def refuse_small_disk(self, todo: Sequence[str]) -> None:
        """Say what the files need, and stop before the first if it is not there."""
        if not todo:
            return
        extra = 0.0
        if any(kind.endswith(("_k", "_k_m")) for kind in todo) and self.dtype not in todo:
            extra = _BYTES[self.dtype]
        if "lora_gguf" in todo:
            extra = max(extra, 2)
        needed = int(self.values * (sum(_BYTES[kind] for kind in todo) + extra)) + _SPARE_BYTES
        free = shutil.disk_usage(self.out).free
        self.say(f"{', '.join(todo)} need {size(needed)} in {self.out}, where {size(free)} are free")
        if free < needed:
            raise GGUFError(
                f"{self.out} has {size(free)} free and {', '.join(todo)} need {size(needed)}: free "
                f"{size(needed - free)} there, or ask for fewer in export.formats"
            )

    def make(self, kind: str) -> None:
        """Write one file under another name, run it, and give it its own."""
        target = self.file(kind)
        part = self.out / f".{target.name}.part"
        if self._there(target):  # written where no llama.cpp was; refused now, it must not keep its name
            target.replace(part)
        else:
            self.say(f"writing {target.name}")
            self._write(kind, part)
        found = self._check(kind, part) if llama_cpp.runs_llama() else {"ran": False}
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        self.done[target.name] = {"bytes": target.stat().st_size, **found}
        write_whole(self.out / PROGRESS, json.dumps({"fingerprint": self.fingerprint, "files": self.done}) + "\n")
        self.say(f"{target.name}: {size(target.stat().st_size)}, {_said(found)}")

    def _write(self, kind: str, target: Path) -> None:
        if kind == "lora_gguf":
            llama_cpp.convert_lora(self.adapter, self.base, target, say=self.say)
        elif kind in ("f16", "bf16", "q8_0"):
            llama_cpp.convert(self.merged, target, kind, name=self.name, say=self.say)
        else:
            llama_cpp.quantise(self._whole(), target, kind)

    def _whole(self) -> Path:
        """The file that loses nothing of the merged model: the one that was asked for, or one for the time being."""
        asked, own = self.file(self.dtype), self.out / f".{self.name}.whole.gguf"
        if self._there(asked):
            return asked
        if not own.is_file():
            part = own.with_suffix(".part")
            llama_cpp.convert(self.merged, part, self.dtype, name=self.name, say=self.say)
            part.replace(own)
        return own

    def _check(self, kind: str, file: Path) -> dict[str, Any]:
        if kind != "lora_gguf":
            return self.acceptance.of(kind, file)
        under = self.out / f".{self.name}.base.part"
        llama_cpp.convert(self.base, under, "bf16", name=self.name, say=self.say)
        return self.acceptance.of_lora(file, under)

    def sweep(self) -> None:
        """Remove what is for the time being, of this export or of one that was killed."""
        for pattern in (".*.part", ".*.whole.gguf", ".check-*"):
            for left in self.out.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def summary(self, kinds: Sequence[str], preset: Preset | None) -> dict[str, Any]:
        """What the manifest keeps, with the lines to run; beside the files, what Ollama wants."""
        files = {self.file(kind).name: self.done[self.file(kind).name] for kind in kinds}
        models = [self.file(kind).name for kind in kinds if kind != "lora_gguf"]
        run: list[str] = []
        if models:
            run = [f"llama-cli -m {self.out / models[-1]} --jinja -cnv --temp 0"]
        if models and preset is not None:
            config = json.loads((self.merged / "config.json").read_text(encoding="utf-8"))
            context = min(CONTEXT, config.get("max_position_embeddings", CONTEXT))
            for name, text in ollama.files_for(preset, models[-1], context=context).items():
                write_whole(self.out / name, text)
            run = [f"ollama create {self.name} -f {self.out / 'Modelfile'}", f"ollama run {self.name}", *run]
        elif models:
            self.say("no Modelfile: this model is no preset, so its template in Ollama's language is not known")
        unrun = [name for name, found in files.items() if not found["ran"]]
        total = sum(found["bytes"] for found in files.values())
        line = f"{len(files)} GGUF files: {size(total)}"
        return {
            "line": line + (f"; no llama.cpp has run {', '.join(unrun)}" if unrun else ""),
            "gguf": files,
            "run": run,
        }


def _said(found: dict[str, Any]) -> str:
    if not found["ran"]:
        return "which no llama.cpp has run: pip install 'plantune-lite[gguf]' and export again checks it"
    ended = f", {found['ended']} replies ended" if "ended" in found else ""
    return f"{found['agreement']}, mean KL {found['kl']:.2g}{ended}"


def _dtype_of(merged: Path) -> tuple[str, int]:
    """The type that loses nothing of a model, and how many numbers it has."""
    tensors = list(tensors_in(merged).values())
    kinds = {FLOATS.get(tensor.dtype) for tensor in tensors}
    whole = {"bfloat16": "bf16", "float16": "f16"}.get(kinds.pop() if len(kinds) == 1 else None, "f32")
    return whole, sum(tensor.values for tensor in tensors)


def _fingerprint(merged: Path, adapter: Path | None) -> str:
    """What the files are made from; the weights' dates stand for their content, which is too long to read again."""
    digest = hashlib.sha256(f"{FORMAT} {llama_cpp.VERSION}".encode())
    for folder in (merged, *([adapter] if adapter else [])):
        for file in sorted(folder.iterdir()):
            if file.suffix == ".safetensors":
                digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
            elif file.suffix in (".json", ".jinja", ".model", ".txt") and not file.name.startswith("."):
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
