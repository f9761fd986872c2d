"""Merge an adapter into the original 16-bit base, a file at a time: add in float32, round once, write.

    merge_adapter(Path("runs/mine/sft"), base, Path("runs/mine/merged"), preset=presets.find("qwen2_5_7b"), say=print)
    merging needs 15.2 GB in runs/mine/merged, where 78.1 GB are free
    -> {"line": "merged 196 layers: 15.2 GB in 8 files, 1 min 2 s", "files": {"model-00001-of-00008.safetensors": ...

What comes in: an adapter folder in PEFT's format, and the folder of the base. What goes out: a folder that transformers
loads. Interrupted, it goes on at the next file: what is finished stands in .merge.json. At most one file is in memory.
Whether the model is its adapter's equal is for check_merge.compare to say.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from plantune_lite.export.adapter import CONFIG, WEIGHTS, Opened, Part, open_adapter
from plantune_lite.export.model_files import check_free_space, write_companions
from plantune_lite.export.safetensors_io import ExportError
from plantune_lite.files import write_whole
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import duration, size

SHARD_BYTES = 2_000_000_000
INDEX, PROGRESS = "model.safetensors.index.json", ".merge.json"


def merge_adapter(
    adapter: Path,
    base: Path,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    preset: Preset | None = None,  # whose template and turn end the model shall have; None: the base's own
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write the adapter merged into its base as a model's folder; the same call goes on after an interruption."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards

    began = time.monotonic()
    opened = open_adapter(adapter, base)
    planned = {name: torch.empty_like(part.source.read(), device="meta") for name, part in opened.parts.items()}
    split = split_torch_state_dict_into_shards(planned, max_shard_size=shard_bytes)
    shards = split.filename_to_tensors
    progress = _Progress(out, _fingerprint(opened, adapter, {"shards": shards}))
    todo = [file for file in shards if not progress.has(file)]
    needed = sum(planned[name].nbytes for file in todo for name in shards[file])
    check_free_space(out, needed, "merging", say)
    for file in todo:
        tensors = {name: _merged(name, opened.parts[name]) for name in shards[file]}
        progress.write(file, tensors, f"{len(progress.done)} of {len(shards)} files")
        del tensors  # before the next ones are there
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        write_whole(out / INDEX, json.dumps(index, indent=2) + "\n")
    write_companions(base, adapter, out, untied=opened.untied, preset=preset)
    if opened.untied:
        say("embedding and output layer were one tensor and are two now, because the adapter changes one of them")
    total = split.metadata["total_size"]
    seconds = time.monotonic() - began
    return {
        "line": f"merged {opened.layers} layers: {size(total)} in {len(shards)} files, {duration(seconds)}",
        "files": {file: state["bytes"] for file, state in progress.done.items()},
        "bytes": total,
        "layers": opened.layers,
        "untied": opened.untied,
        "kept": len(shards) - len(todo),
        "seconds": round(seconds, 2),
    }


def _merged(name: str, part: Part) -> Any:
    """Return a tensor of the output; refuse one that the adapter filled with what is no number."""
    result = part.read()
    if part.layer is not None and not all(bound.isfinite() for bound in result.aminmax()):
        raise ExportError(
            f"{name} does not hold finite numbers once merged: the training went wrong, or they do not fit into "
            f"{result.dtype}. Export an earlier checkpoint, or train again with a lower learning rate."
        )
    return result


# --- going on where it was cut off ------------------------------------------------------------------------------------


class _Progress:
    """Record of finished files, kept next to them; valid only for the same base, adapter and plan."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self._out, self._path, self._fingerprint = out, out / PROGRESS, fingerprint
        self.done: dict[str, dict[str, int]] = {}
        out.mkdir(parents=True, exist_ok=True)
        for part in out.glob(".*.part"):  # of a merge that was killed
            part.unlink()
        known = None
        with suppress(FileNotFoundError, ValueError):
            known = json.loads(self._path.read_text(encoding="utf-8"))
        if known is None and any(out.iterdir()):
            raise ExportError(f"{out} holds files that no merge wrote: name a new folder, or empty this one")
        if known is not None and known["fingerprint"] == fingerprint:
            self.done = known["files"]
        elif known is not None:
            for name in [*known["files"], INDEX]:
                (out / name).unlink(missing_ok=True)
        self._keep()

    def has(self, file: str) -> bool:
        """Check that a file is there as it was finished."""
        known = self.done.pop(file, None)
        with suppress(FileNotFoundError):
            if known == _identity(self._out / file):
                self.done[file] = known
        return file in self.done

    def write(self, file: str, tensors: Mapping[str, Any], finished: str) -> None:
        """Bring a file to the disk, under another name until it is whole, and write down that it is there."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        part = self._out / f".{file}.part"
        try:
            save_file(tensors, part, metadata={"format": "pt"})
            with open(part, "rb") as written:
                os.fsync(written.fileno())
            part.replace(self._out / file)
            self.done[file] = _identity(self._out / file)
            self._keep()
        except (OSError, SafetensorError) as error:
            raise ExportError(
                f"{self._out / file} cannot be written ({error}). {finished} are finished and kept: where the disk is "
                "full, free some space and start again, it goes on with the next one."
            ) from None
        finally:
            part.unlink(missing_ok=True)  # so that a full disk has room again

    def _keep(self) -> None:
        write_whole(self._path, json.dumps({"fingerprint": self._fingerprint, "files": self.done}, indent=1) + "\n")


def _identity(file: Path) -> dict[str, int]:
    state = file.stat()
    return {"bytes": state.st_size, "written": state.st_mtime_ns}


def _fingerprint(opened: Opened, adapter: Path, plan: Mapping[str, Any]) -> str:
    """Return what the bytes of the output depend on; a base is too long to be read twice: its date stands for it."""
    digest = hashlib.sha256(json.dumps(plan).encode())
    for file in sorted({part.source.file for part in opened.parts.values()} - {adapter / WEIGHTS}):
        digest.update(f"{file.name} {_identity(file)}".encode())
    for name in (CONFIG, WEIGHTS):
        with open(adapter / name, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
