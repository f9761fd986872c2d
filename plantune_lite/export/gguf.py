"""Write the merged model as GGUF files, and run each with llama.cpp, where it is installed, before it gets its name.

    model = Model(merged=Path("runs/mine/merged"), name="mine", preset=presets.find("qwen3_4b"), prompts=prompts)
    export_gguf(model, Path("runs/mine/gguf"), ("q8_0", "q4_k_m"), say=print)
    -> {"gguf": {"mine-Q8_0.gguf": {"ran": True, "agreement": "the same likeliest token on 99.4% of 512 positions", ...
        "line": "2 GGUF files: 12.4 GB"}

Input: a merged model's folder, and prompts as token ids. Output: the files, and Ollama's files next to them. After an
interruption it starts over.
"""

import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.export import llama_cpp, ollama
from plantune_lite.export.check_gguf import check_file, read_expected
from plantune_lite.export.llama_cpp import GGUFError
from plantune_lite.export.model_files import check_free_space
from plantune_lite.export.safetensors_io import tensors_in
from plantune_lite.files import write_whole
from plantune_lite.student.chat import read_config
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import size
from plantune_lite.types import present

_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 1.07, "q6_k": 0.9, "q5_k_m": 0.8, "q4_k_m": 0.7, "lora_gguf": 0.1}
_ORDER = tuple(_BYTES)  # the largest first
_CONVERTED = ("f16", "bf16", "q8_0")  # by llama.cpp's converter; k-quants are made from such a file


@dataclass(frozen=True, kw_only=True)
class Model:
    """A merged model, and what naming, describing and checking its GGUF files needs."""

    merged: Path
    name: str
    preset: Preset | None
    prompts: Sequence[Sequence[int]]  # token ids
    adapter: Path | None = None  # these two for lora_gguf
    base: Path | None = None

    @property
    def file_name(self) -> str:
        """Return the name with only characters that a file name may have."""
        return re.sub(r"[^\w.-]+", "-", self.name)

    def file_of(self, kind: str) -> str:
        """Name a format's file; a LoRA's omits its type, or the Hub would offer it as a quantised model."""
        return f"{self.file_name}-{'lora' if kind == 'lora_gguf' else kind.upper()}.gguf"


def export_gguf(
    model: Model, out: Path, formats: Sequence[str], *, say: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Write and check the files; replace all earlier ones, since a push takes every file."""
    kinds = sorted(set(formats), key=_ORDER.index)
    _refuse_other_vocabulary(model.merged)
    whole, values = _dtype_of(model.merged)
    work = out / ".work"
    shutil.rmtree(work, ignore_errors=True)  # of an export that was killed
    work.mkdir(parents=True)
    for left in out.glob("*.gguf"):
        left.unlink()
    made_of = 0 if set(kinds) <= {*_CONVERTED} else _BYTES[whole]  # for k-quants, or a LoRA's base
    try:
        check_free_space(out, int(values * (sum(_BYTES[kind] for kind in kinds) + made_of)), ", ".join(kinds), say)
        expected = read_expected(model.merged, model.prompts) if llama_cpp.runs_llama() else None
        files = {}
        for kind in kinds:
            target = out / model.file_of(kind)
            say(f"writing {target.name}")
            part = _written(model, kind, whole, work / target.name, say)
            under = _base(model, work, say) if expected and kind == "lora_gguf" else None
            check = check_file(kind, part, expected, under) if expected else {"ran": False}
            part.replace(target)
            files[target.name] = {"bytes": target.stat().st_size, **check}
            unrun = "not run by llama.cpp: pip install 'plantune-lite[gguf]' and --again export checks it"
            say(f"{target.name}: {size(target.stat().st_size)}, {check.get('agreement', unrun)}")
    finally:
        shutil.rmtree(work)
    return _summary(model, out, files, say)


def _refuse_other_vocabulary(merged: Path) -> None:
    """Raise where the converter would take Gemma's vocabulary for GPT-2's, and fail or write a garbled file."""
    gemma = read_config(merged / "config.json")["model_type"] == "gemma3_text"
    if gemma and not (merged / "tokenizer.model").is_file():
        raise GGUFError(
            f"{merged} has no tokenizer.model, without which a GGUF file cannot have Gemma's vocabulary: copy it from "
            "google/gemma-3-1b-it (or unsloth/gemma-3-1b-it) into the student's folder, then --again export; "
            "export.formats=merged does not need it"
        )


def _written(model: Model, kind: str, whole: str, target: Path, say: Callable[[str], object]) -> Path:
    """Write one file; a k-quant is made from a temporary lossless one."""
    if kind == "lora_gguf":
        llama_cpp.convert_lora(present(model.adapter), present(model.base), target, say=say)
        return target
    if kind in _CONVERTED:
        llama_cpp.convert(model.merged, target, kind, name=model.file_name, say=say)
        return target
    source = target.with_name("whole.gguf")
    if not source.is_file():
        llama_cpp.convert(model.merged, source, whole, name=model.file_name, say=say)
    llama_cpp.quantise(source, target, kind)
    return target


def _base(model: Model, work: Path, say: Callable[[str], object]) -> Path:
    """Write the base for running a LoRA's file."""
    target = work / "base.gguf"
    llama_cpp.convert(present(model.base), target, "bf16", name=model.file_name, say=say)
    return target


def _summary(model: Model, out: Path, files: dict[str, dict[str, Any]], say: Callable[[str], object]) -> dict[str, Any]:
    """Return the manifest's summary, and say the commands to run; write Ollama's files next to the GGUF files."""
    models = [name for name in files if name != model.file_of("lora_gguf")]
    smallest = models[-1] if models else None
    run = [f"llama-cli -m {out / smallest} --jinja -cnv --temp 0"] if smallest else []
    if smallest:
        run.append(f"lms import --copy {out / smallest}")  # LM Studio's
    if smallest and model.preset is not None:
        for name, text in ollama.files_for(model.preset, smallest).items():
            write_whole(out / name, text)
        run = [f"ollama create {model.file_name} -f {out / 'Modelfile'}", f"ollama run {model.file_name}", *run]
    elif smallest:
        say("no Modelfile: this model is not a preset, so its template in Ollama's language is not known")
    for command in run:
        say(command)
    unrun = [name for name, check in files.items() if not check["ran"]]
    line = f"{len(files)} GGUF files: {size(sum(check['bytes'] for check in files.values()))}"
    return {"line": line + (f"; not run by llama.cpp: {', '.join(unrun)}" if unrun else ""), "gguf": files}


def _dtype_of(merged: Path) -> tuple[str, int]:
    """Return a model's lossless type, and its number of parameters."""
    tensors = tensors_in(merged).values()
    dtypes = {tensor.dtype for tensor in tensors}
    whole = "bf16" if dtypes == {"BF16"} else "f16" if dtypes == {"F16"} else "f32"
    return whole, sum(math.prod(tensor.shape) for tensor in tensors)
