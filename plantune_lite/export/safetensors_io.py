"""Read the tensors of a model's folder, one file or many; they are memory-mapped and read on use.

tensors = tensors_in(base)   # {"lm_head.weight": Tensor(dtype="BF16", shape=(151936, 3584), file=...)}
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.types import PlantuneError

FLOATS = {"BF16", "F16", "F32"}  # safetensors' names


class ExportError(PlantuneError, RuntimeError):
    """Weights that cannot be read, merged or written."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path

    def read(self) -> Any:
        """Map the tensor into memory; the map is closed when nothing uses the tensor."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:
            return opened.get_tensor(self.name)


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """List every tensor of a model's folder."""
    names = ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return {tensor.name: tensor for name in names for tensor in tensors_of(folder / name)}


def tensors_of(file: Path) -> list[Tensor]:
    """List the tensors of one safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is not a dictionary
            return [
                Tensor(name=name, dtype=part.get_dtype(), shape=tuple(part.get_shape()), file=file)
                for name, part in parts.items()
            ]
    except FileNotFoundError:
        raise ExportError(
            f"{file} is missing: name the folder of a model in 16 bits, or of an adapter in PEFT's format. Pickles "
            "(*.bin) are not read, because loading one runs its code."
        ) from None
    except SafetensorError as error:
        raise ExportError(f"{file} is not a whole safetensors file ({error}): fetch it again") from None
