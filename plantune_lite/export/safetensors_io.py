"""Safetensors a piece at a time: what is in a folder, and a new folder of it, in little memory.

What comes in: folders whose files are read where they are needed, never mapped (a mapped page counts as memory used).
What goes out: the shards of another folder, each written whole, header first, while the next piece is being read.

    tensors = tensors_in(base)   # {"lm_head.weight": Tensor(dtype="BF16", shape=(151936, 3584), file=..., start=...)}
"""

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from plantune_lite.types import PlantuneError

PIECE_BYTES = 16 << 20  # read, worked on and written at once
_CALL_BYTES = 1 << 18  # read or written by one call: for more, Linux may look long for a page cache in one piece
_AHEAD = 3  # pieces being read before, and written after, the one that is worked on
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors' words and torch's


class WeightsFileError(PlantuneError, ValueError):
    """A folder or file that does not hold the weights it should."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor: where its bytes are, or how long they will be."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path | None = None
    start: int = 0  # in the file

    @property
    def values(self) -> int:
        """How many numbers it has."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.values * _BYTES[self.dtype]


# --- reading ----------------------------------------------------------------------------------------------------------


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model's folder, one file or many, in the order in which they lie there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        raise WeightsFileError(
            f"{folder} has no model.safetensors and no model.safetensors.index.json: name the folder of a model in "
            "16 bits. Pickles (pytorch_model.bin) are not read, because loading one runs what is in it."
        )
    return {tensor.name: tensor for name in names for tensor in tensors_of(folder / name)}


def tensors_of(file: Path) -> list[Tensor]:
    """The tensors of one safetensors file, in the order in which they lie in it."""
    try:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= size else None
    except FileNotFoundError:
        raise WeightsFileError(f"{file} is missing: fetch the model again") from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise WeightsFileError(f"{file} is no safetensors file ({size} bytes): fetch the model again")
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise WeightsFileError(f"{file} should have {end} bytes and has {size}: fetch the model again")
    found = []
    for name, entry in header.items():
        if entry["dtype"] not in _BYTES:
            raise WeightsFileError(
                f"{file} keeps {name} as {entry['dtype']}, which is no 16-bit model's: name the original in 16 bits"
            )
        start = 8 + length + entry["data_offsets"][0]
        found.append(Tensor(name=name, dtype=entry["dtype"], shape=tuple(entry["shape"]), file=file, start=start))
    return sorted(found, key=lambda tensor: tensor.start)


class Reader:
    """Reads from many files, each opened once."""

    def __init__(self) -> None:
        self._files: dict[Path, Any] = {}

    def into(self, buffer: memoryview, tensor: Tensor, offset: int = 0) -> None:
        """Fill the buffer with the tensor's bytes from that offset on."""
        if tensor.file not in self._files:
            self._files[tensor.file] = open(tensor.file, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        file = self._files[tensor.file]
        file.seek(tensor.start + offset)
        while len(buffer):
            got = file.readinto(buffer[:_CALL_BYTES])
            if not got:
                raise WeightsFileError(f"{tensor.file} became shorter while it was read: fetch the model again")
            buffer = buffer[got:]

    def whole(self, tensor: Tensor) -> Any:
        """All of a tensor, as torch has it."""
        import torch

        buffer = bytearray(tensor.size)
        self.into(memoryview(buffer), tensor)
        return torch.frombuffer(buffer, dtype=torch_dtype(tensor.dtype)).reshape(tensor.shape)

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()


def torch_dtype(dtype: str) -> Any:
    """Torch's type for one of the safetensors words that stand in FLOATS."""
    import torch

    return getattr(torch, FLOATS[dtype])


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One file of the new folder."""

    name: str
    tensors: tuple[Tensor, ...]

    @property
    def header(self) -> bytes:
        """What stands before the tensors; the same for the same tensors."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in self.tensors:
            start, end = end, end + tensor.size
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """The file's bytes."""
        return len(self.header) + sum(tensor.size for tensor in self.tensors)


def shards_of(tensors: Iterable[Tensor], limit_bytes: int) -> list[Shard]:
    """The tensors, in their order, in as few files as stay below the limit; a larger tensor has a file for itself."""
    groups: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if not groups or tensor.size > room:
            groups.append([])
            room = limit_bytes
        groups[-1].append(tensor)
        room -= tensor.size
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def index_of(shards: Sequence[Shard]) -> str:
    """The text of model.safetensors.index.json."""
    tensors = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.size for shard in shards for tensor in shard.tensors)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(tensors.items()))}, indent=2) + "\n"


class ShardFile:
    """A shard on its way to the disk: under another name until it is whole."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.shard = shard
        self._path = folder / shard.name
        self._part = folder / f".{shard.name}.part"
        self._file = open(self._part, "wb", buffering=0)  # noqa: SIM115 - closed by finish() or drop()
        self._digest = hashlib.sha256()
        self._left = shard.size
        self.write(memoryview(shard.header))

    @property
    def whole(self) -> bool:
        """Whether all bytes are written."""
        return self._left == 0

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        while len(data):
            written = self._file.write(data[:_CALL_BYTES])
            self._digest.update(data[:written])
            self._left -= written
            data = data[written:]

    def finish(self) -> str:
        """Bring the file to the disk under its own name; its sha256."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)
        return self._digest.hexdigest()

    def drop(self) -> None:
        """Forget what was written, so that a full disk has room again."""
        self._file.close()
        with suppress(FileNotFoundError):
            self._part.unlink()


# --- reading, working and writing at once -----------------------------------------------------------------------------

Piece = TypeVar("Piece")


def stream(
    pieces: Iterable[Piece],
    *,
    read: Callable[[Piece, bytearray], memoryview],
    work: Callable[[Piece, memoryview], memoryview],
    write: Callable[[Piece, memoryview], None],
) -> None:
    """Read, work on and write every piece, in order, the three side by side, in a fixed number of buffers."""
    source: Iterator[Piece] = iter(pieces)
    failed = threading.Event()
    buffers: SimpleQueue[bytearray] = SimpleQueue()
    for _ in range(2 * _AHEAD + 1):
        buffers.put(bytearray(PIECE_BYTES))

    def read_one(piece: Piece) -> tuple[bytearray, memoryview]:
        buffer = buffers.get()
        return buffer, read(piece, buffer)

    def write_one(piece: Piece, buffer: bytearray, data: memoryview) -> None:
        try:
            if not failed.is_set():  # what comes after a write that failed would stand in the wrong place
                write(piece, data)
        except BaseException:
            failed.set()
            raise
        finally:
            buffers.put(buffer)

    with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(1, "writing") as writer:
        try:
            reads = deque((piece, reader.submit(read_one, piece)) for piece in islice(source, _AHEAD))
            writes: deque[Any] = deque()
            while reads:
                piece, reading = reads.popleft()
                buffer, data = reading.result()
                reads.extend((after, reader.submit(read_one, after)) for after in islice(source, 1))
                writes.append(writer.submit(write_one, piece, buffer, work(piece, data)))
                if len(writes) > _AHEAD:
                    writes.popleft().result()
            for writing in writes:
                writing.result()
        except BaseException:
            for _ in range(_AHEAD):  # a read may be waiting for a buffer that no write will give back
                buffers.put(bytearray())
            reader.shutdown(wait=False, cancel_futures=True)
            writer.shutdown(wait=False, cancel_futures=True)
            raise
