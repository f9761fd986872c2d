"""An adapter and the original 16-bit base become one model, in little memory: read, add in float32, write, all at once.

    merge(Path("runs/mine/sft"), base, Path("runs/mine/merged"), preset=presets.find("qwen2_5_7b"), say=print)
    merging needs 15.2 GB in runs/mine/merged, where 78.1 GB are free
    -> {"line": "merged 196 layers: 15.2 GB in 8 files, 1 min 2 s", "files": {"model-00001-of-00008.safetensors": ...

What comes in: an adapter folder in PEFT's format, and the folder of the base. What goes out: a folder that transformers
loads. Interrupted, it goes on at the next file: what is finished stands in .merge.json by name, size and hash. Whether
the model is its adapter's equal is for agreement.compare to say.
"""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plantune_lite.export.adapter import CONFIG, WEIGHTS, Layer, Opened, Part, open_adapter
from plantune_lite.export.model_files import write_companions
from plantune_lite.export.safetensors_io import (
    FLOATS,
    PIECE_BYTES,
    Reader,
    Shard,
    ShardFile,
    Tensor,
    index_of,
    shards_of,
    stream,
    torch_dtype,
)
from plantune_lite.files import write_whole
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import duration, size
from plantune_lite.types import PlantuneError

SHARD_BYTES = 2_000_000_000
PROGRESS = ".merge.json"
_BLOCK_VALUES = 1 << 18  # merged at once: three such blocks in float32 fit into a core's own cache
_SPARE_BYTES = 64_000_000  # for what stands beside the weights
_FULL = {errno.ENOSPC, errno.EDQUOT}


class ExportError(PlantuneError, RuntimeError):
    """A merge that cannot go on here."""


def merge_adapter(
    adapter: Path,
    base: Path,
    out: Path,
    *,
    dtype: Literal["bfloat16", "float16", "float32"] | None = None,  # None: each tensor as the base has it
    shard_bytes: int = SHARD_BYTES,
    preset: Preset | None = None,  # whose template and turn end the model shall have; None: the base's own
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write the adapter merged into its base as a model's folder; the same call goes on after an interruption."""
    began = time.monotonic()
    opened = open_adapter(adapter, base)
    tensors = [
        Tensor(name=name, dtype=_stored_as(part.source.dtype, dtype), shape=part.source.shape)
        for name, part in opened.parts.items()
    ]
    shards = shards_of(tensors, shard_bytes)
    progress = _Progress(out, _fingerprint(shards, opened, adapter))
    todo = [shard for shard in shards if not progress.has(shard)]
    _refuse_small_disk(out, todo, len(shards), say)
    most = _most_used([tensor for tensor in tensors if tensor.dtype in FLOATS])
    with _full_disk_in_a_sentence(out, progress, len(shards)):
        progress.keep()
        _write(todo, opened.parts, out, progress)
        if len(shards) > 1:
            write_whole(out / "model.safetensors.index.json", index_of(shards))
        write_companions(base, adapter, out, dtype=most, untied=opened.untied, preset=preset)
    if opened.untied:
        say("embedding and output layer were one tensor and are two now, because the adapter changes one of them")
    total = sum(shard.size for shard in shards)
    seconds = time.monotonic() - began
    return {
        "line": f"merged {opened.layers} layers: {size(total)} in {len(shards)} files, {duration(seconds)}",
        "files": progress.done,
        "bytes": total,
        "dtype": FLOATS[most],
        "layers": opened.layers,
        "untied": opened.untied,
        "kept": len(shards) - len(todo),
        "seconds": round(seconds, 2),
    }


def _stored_as(dtype: str, wanted: str | None) -> str:
    """The safetensors word for a tensor of the output."""
    words = {torch_name: word for word, torch_name in FLOATS.items()}
    return words[wanted] if wanted is not None and dtype in FLOATS else dtype


def _most_used(tensors: Sequence[Tensor]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return max(sizes, key=lambda dtype: sizes[dtype])


# --- going on where it was cut off ------------------------------------------------------------------------------------


class _Progress:
    """Which files are finished; kept beside them, for the same base, adapter and plan only."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self._out, self._path, self._fingerprint = out, out / PROGRESS, fingerprint
        self.done: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)
        for part in out.glob(".*.part"):  # of a merge that was killed
            part.unlink()
        known = self._known()
        if known is None and any(out.iterdir()):
            raise ExportError(f"{out} holds files that no merge wrote: name a new folder, or empty this one")
        if known is not None and known["fingerprint"] == fingerprint:
            self.done = known["files"]
        elif known is not None:
            for name in [*known["files"], "model.safetensors.index.json"]:
                (out / name).unlink(missing_ok=True)

    def _known(self) -> dict[str, Any] | None:
        with suppress(FileNotFoundError, ValueError):
            return json.loads(self._path.read_text(encoding="utf-8"))
        return None

    def has(self, shard: Shard) -> bool:
        """Whether a file is there as it was finished, to the byte."""
        known, path = self.done.get(shard.name), self._out / shard.name
        if known is None or not path.is_file() or path.stat().st_size != known["bytes"]:
            self.done.pop(shard.name, None)
            return False
        with open(path, "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == known["sha256"]
        if not same:
            del self.done[shard.name]
        return same

    def finish(self, file: ShardFile) -> None:
        """Bring a file to the disk and write down that it is there."""
        digest = file.finish()
        self.done[file.shard.name] = {"bytes": file.shard.size, "sha256": digest}
        self.keep()

    def keep(self) -> None:
        """Write down what is finished."""
        write_whole(self._path, json.dumps({"fingerprint": self._fingerprint, "files": self.done}, indent=1) + "\n")


def _fingerprint(shards: Sequence[Shard], opened: Opened, adapter: Path) -> str:
    """What the bytes of the output depend on. A base's content is too long to read twice: its date stands for it."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(shard.name.encode() + shard.header)
    for file in sorted({part.source.file for part in opened.parts.values()} - {adapter / WEIGHTS}):
        state = file.stat()
        digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}".encode())
    for name in (CONFIG, WEIGHTS):
        with open(adapter / name, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _refuse_small_disk(out: Path, todo: Sequence[Shard], count: int, say: Callable[[str], object]) -> None:
    needed = sum(shard.size for shard in todo) + _SPARE_BYTES
    free = shutil.disk_usage(out).free
    kept = f" ({count - len(todo)} of {count} files are there already)" if len(todo) < count else ""
    say(f"merging needs {size(needed)} in {out}, where {size(free)} are free{kept}")
    if free < needed:
        raise ExportError(
            f"{out} has {size(free)} free and the merged model needs {size(needed)} more{kept}: free "
            f"{size(needed - free)} there or export to another disk. The adapter alone can be pushed as it is."
        )


@contextmanager
def _full_disk_in_a_sentence(out: Path, progress: _Progress, count: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ExportError(
            f"the disk of {out} became full. {len(progress.done)} of {count} files are finished and kept: free some "
            "space and start again, it goes on with the next one."
        ) from None


# --- the work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """A range of rows of one tensor (of values, where it is only copied); all of it where blocks are columns."""

    shard: Shard
    tensor: Tensor  # as it will be
    part: Part
    start: int
    stop: int
    width: int  # values a row

    @property
    def values(self) -> int:
        return (self.stop - self.start) * self.width


def _pieces(shard: Shard, parts: dict[str, Part]) -> Iterator[_Piece]:
    for tensor in shard.tensors:
        part = parts[tensor.name]
        length, width = tensor.shape if part.layer else (tensor.values, 1)
        widest = max(1, tensor.size, part.source.size) // max(1, tensor.values)  # bytes a value
        step = length if part.layer and part.layer.across else max(1, PIECE_BYTES // (width * max(1, widest)))
        for start in range(0, length, step):
            yield _Piece(shard, tensor, part, start, min(start + step, length), width)


def _write(todo: Sequence[Shard], parts: dict[str, Part], out: Path, progress: _Progress) -> None:
    """Write the shards; the three threads and a fourth, in which a finished file is brought to the disk."""
    import torch

    reader, merger = Reader(), _Merger()
    open_files: list[ShardFile] = []
    closing: list[Future[None]] = []

    def read(piece: _Piece, buffer: bytearray) -> memoryview:
        value = piece.part.source.size // piece.part.source.values
        if piece.values * value > len(buffer):
            buffer = bytearray(piece.values * value)
        view = memoryview(buffer)[: piece.values * value]
        reader.into(view, piece.part.source, piece.start * piece.width * value)
        return view

    def write(piece: _Piece, data: memoryview) -> None:
        if not open_files or open_files[-1].shard is not piece.shard:
            open_files.append(ShardFile(out, piece.shard))
        file = open_files[-1]
        file.write(data)
        if file.whole:
            closing.append(closer.submit(progress.finish, file))

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1, "closing") as closer:
        try:
            torch.set_num_threads(1)  # a second core is busy reading, hashing and writing
            stream((piece for shard in todo for piece in _pieces(shard, parts)), read=read, work=merger, write=write)
            for closed in closing:
                closed.result()
        finally:
            torch.set_num_threads(threads)
            wait(closing)  # what is whole is kept, whatever happened to the file after it
            for file in open_files:
                file.drop()
            with suppress(OSError):
                progress.keep()  # again: on a full disk there is room for it only now
            reader.close()
            merger.close()


class _Merger:
    """The arithmetic of one piece: float32 in between, rounded once."""

    def __init__(self) -> None:
        self._reader = Reader()  # its own: a file has one position, and pieces are read in another thread
        self._layer: Layer | None = None
        self._values: dict[str, Any] = {}

    def __call__(self, piece: _Piece, data: memoryview) -> memoryview:
        import torch

        source, layer = piece.part.source, piece.part.layer
        if layer is None and source.dtype == piece.tensor.dtype:
            return data
        given = torch.frombuffer(data, dtype=torch_dtype(source.dtype))
        wanted = torch_dtype(piece.tensor.dtype)
        if layer is None:
            result = given.to(wanted)
        else:
            result = given if given.dtype == wanted else torch.empty(piece.values, dtype=wanted)
            self._merge(piece, layer, given.view(-1, piece.width), result.view(-1, piece.width))
        if wanted == torch.float16 and not result.isfinite().all():
            raise ExportError(
                f"{piece.tensor.name} does not fit into float16, whose largest number is 65504: merge to bfloat16"
            )
        return memoryview(result.view(torch.uint8).numpy())

    def _merge(self, piece: _Piece, layer: Layer, given: Any, result: Any) -> None:
        if layer is not self._layer:
            self._layer, self._values = layer, layer.read(self._reader)
        axis = 1 if layer.across else 0
        length = given.shape[axis]
        step = max(1, _BLOCK_VALUES // given.shape[1 - axis])
        for start in range(0, length, step):
            count = min(step, length - start)
            first = piece.start + start
            block = given.narrow(axis, start, count).float().contiguous()
            merged = layer.merged(block, first, first + count, self._values)
            result.narrow(axis, start, count).copy_(merged)

    def close(self) -> None:
        """Close the adapter's file."""
        self._reader.close()
