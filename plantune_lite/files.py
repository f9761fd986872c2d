"""Read and write files: JSONL of records, texts written whole, and the folders where runs and caches live."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from plantune_lite.types import PlantuneError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


def to_row(record: Any) -> dict[str, Any]:
    """A record as a JSON object, without the optional fields that are empty."""
    required = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}
    return {name: value for name, value in asdict(record).items() if name in required or value not in ((), {}, "")}


def default_of(field: "Field[Any]") -> Any:
    """Return what a field of a dataclass holds where nobody says it; MISSING where it must be said."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def from_row(kind: type[Record], row: Mapping[str, Any]) -> Record:
    """Rebuild the record that `to_row` wrote; lists become tuples."""
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(row) - known):
        raise PlantuneError(f"{kind.__name__} has no field {unknown[0]!r}; its fields are {', '.join(sorted(known))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return kind(**values)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file that we wrote; drop a torn last line, raise an error on any other bad line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # the process was killed while it wrote this line, perhaps within a character
            try:
                yield json.loads(line)
            except ValueError as error:
                raise PlantuneError(f"{path} line {number}: not JSON ({error}). Delete the line or the file.") from None


def read_records(kind: type[Record], path: Path) -> list[Record]:
    """All records of a JSONL file."""
    return [from_row(kind, row) for row in read_jsonl(path)]


def encodable(text: str) -> str:
    """Replace unpaired surrogates: JSON can spell them, but no UTF-8 file can hold them."""
    return text.encode("utf-8", "replace").decode()


class JsonlWriter:
    """Appends records, each line handed to the system before the next; drops the torn line an earlier kill left."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab+")  # noqa: SIM115 - closed by close()
        self._file.seek(0)
        self._file.truncate(sum(len(line) for line in self._file if line.endswith(b"\n")))

    def write(self, record: Any) -> None:
        """Append one record, or one plain dict."""
        row = record if isinstance(record, dict) else to_row(record)
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Bring everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old text or the new, never half: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def copy_whole(source: Path, target: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    """Copy a file so that a reader sees the old one or the new, never half: temporary name, rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        copy(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write a whole JSONL file of records or dicts."""
    rows = (record if isinstance(record, dict) else to_row(record) for record in records)
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def runs_folder() -> Path:
    """Return the folder of runs: $PLANTUNE_RUNS, else ./runs."""
    return Path(os.environ.get("PLANTUNE_RUNS") or "runs").expanduser()


SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def is_data_file(text: str) -> bool:
    """Tell whether a text names a file that `read_table` can read."""
    return text.lower().endswith(SUFFIXES)


def cache_folder() -> Path:
    """Return the folder that keeps SmolLM2's file: $PLANTUNE_CACHE/smollm2, or one in the user's cache."""
    if chosen := os.environ.get("PLANTUNE_CACHE"):
        return Path(chosen).expanduser().absolute() / "smollm2"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "plantune" / "smollm2"
