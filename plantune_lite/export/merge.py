"""Merge an adapter into the original 16-bit base, a file at a time: add in float32, round once, write.

    merge_adapter(Path("runs/mine/sft"), base, Path("runs/mine/merged"), preset=presets.find("qwen2_5_7b"), say=print)
    merging needs 15.2 GB in runs/mine/merged, where 78.1 GB are free
    -> {"line": "merged 196 layers: 15.2 GB in 8 files, 1 min 2 s", "bytes": 15231233024, "untied": False}

Input: an adapter folder in PEFT's format, and the folder of the base. Output: a folder that transformers loads. If
interrupted, it starts over. At most one file is in memory.
check_merge.compare checks that the model equals its adapter.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plantune_lite.export.adapter import Part, open_adapter
from plantune_lite.export.model_files import check_free_space, write_companions
from plantune_lite.export.safetensors_io import ExportError
from plantune_lite.files import write_whole
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import duration, size

SHARD_BYTES = 2_000_000_000
INDEX = "model.safetensors.index.json"


def merge_adapter(
    adapter: Path,
    base: Path,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    preset: Preset | None = None,  # of the model's template and turn end; None: the base's own
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write the adapter merged into its base as a model folder; replace an earlier one, config after weights."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards

    began = time.monotonic()
    opened = open_adapter(adapter, base)
    planned = {name: torch.empty_like(part.source.read(), device="meta") for name, part in opened.parts.items()}
    split = split_torch_state_dict_into_shards(planned, max_shard_size=shard_bytes)
    out.mkdir(parents=True, exist_ok=True)
    for left in [*out.glob("*.safetensors"), out / INDEX, out / "config.json"]:
        left.unlink(missing_ok=True)
    total = split.metadata["total_size"]
    check_free_space(out, total, "merging", say)
    for file, names in split.filename_to_tensors.items():
        _write(out / file, {name: _merged(name, opened.parts[name]) for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        write_whole(out / INDEX, json.dumps(index, indent=2) + "\n")
    write_companions(base, adapter, out, untied=opened.untied, preset=preset)
    if opened.untied:
        say("embedding and output layer were one tensor and are now two, because the adapter changes one of them")
    files, took = len(split.filename_to_tensors), duration(time.monotonic() - began)
    line = f"merged {opened.layers} layers: {size(total)} in {files} files, {took}"
    return {"line": line, "bytes": total, "untied": opened.untied}


def _merged(name: str, part: Part) -> Any:
    """Return a tensor of the output; raise for one with values that are not finite."""
    result = part.read()
    if part.layer is not None and not all(bound.isfinite() for bound in result.aminmax()):
        raise ExportError(
            f"{name} does not hold finite numbers once merged: the training diverged, or they do not fit into "
            f"{result.dtype}. Export an earlier checkpoint, or train again with a lower learning rate."
        )
    return result


def _write(file: Path, tensors: Mapping[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        file.unlink(missing_ok=True)  # so that a full disk has room again
        raise ExportError(
            f"{file} cannot be written ({error}): where the disk is full, free some space, then rerun the command"
        ) from None
