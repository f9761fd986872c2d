"""Read and write files: JSONL of records, atomic writes, and the folders of runs and caches."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from plantune_lite.types import PlantuneError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


def to_row(record: Any) -> dict[str, Any]:
    """Convert a record to a JSON object, without empty optional fields."""
    required = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}
    return {name: value for name, value in asdict(record).items() if name in required or value not in ((), {}, "")}


def default_of(field: "Field[Any]") -> Any:
    """Return the default of a dataclass field; MISSING where it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


type_hints: Callable[[type], dict[str, Any]] = cache(get_type_hints)


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of the hinted type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if origin in (tuple, list, Sequence):
        return isinstance(value, tuple if origin is tuple else (list, tuple)) and all(
            fits(item, inner[0]) for item in value
        )
    if origin is dict:
        return isinstance(value, dict) and all(type(key) is str and fits(value[key], inner[1]) for key in value)
    if hint in (Any, object):
        return True
    if hint is float and type(value) is int:
        return abs(value) < 2**1000  # fits into a float
    return type(value) is hint


def from_row(kind: type[Record], row: Mapping[str, Any]) -> Record:
    """Rebuild the record that `to_row` wrote; lists become tuples."""
    known = type_hints(kind)
    if unknown := sorted(set(row) - known.keys()):
        raise PlantuneError(f"{kind.__name__} has no field {unknown[0]!r}; its fields are {', '.join(sorted(known))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    if wrong := next((name for name in values if not fits(values[name], known[name])), None):
        raise PlantuneError(f"{wrong} is {values[wrong]!r:.40}, which is not valid in a {kind.__name__}")
    try:
        return kind(**values)
    except TypeError as error:
        raise PlantuneError(f"{kind.__name__} lacks {str(error).partition(': ')[2]}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a file with one JSON object, as we write them; raise an error with its path if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PlantuneError(
            f"{path} is not a JSON object: it was damaged or changed. Remove it; --mirror FOLDER restores what a run's "
            "mirror has, and --again STAGE reruns the stage that wrote it"
        )
    return value


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file that we wrote; drop an incomplete last line, raise on any other bad line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # the process was killed while writing this line
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise PlantuneError(f"{path} line {number}: not a JSON object. Delete the line or the file.")
            yield row


def read_records(kind: type[Record], path: Path) -> list[Record]:
    """Read all records of a JSONL file."""
    records = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            records.append(from_row(kind, row))
        except PlantuneError as error:
            raise PlantuneError(f"{path} line {number}: {error}. Delete the line or the file.") from None
    return records


def encodable(text: str) -> str:
    """Replace unpaired surrogates, which JSON can spell but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


class JsonlWriter:
    """Appends records, flushing each line; drops an incomplete line that an earlier kill left."""

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
        """Sync everything to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def sha256_of(file: Path) -> str:
    """Hash a file's content in chunks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: temporary name, fsync, rename."""
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
    """Copy a file atomically: temporary name, rename."""
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


def as_path(text: str | os.PathLike[str]) -> Path:
    """Return a path with ~ expanded, which a shell does not do in `--mirror=~/drive`; an unknown user's ~ stays."""
    return Path(os.path.expanduser(text))


def runs_folder() -> Path:
    """Return the folder of runs: $PLANTUNE_RUNS, else ./runs."""
    return as_path(os.environ.get("PLANTUNE_RUNS") or "runs")


SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def is_data_file(text: str) -> bool:
    """Return whether a text names a file that `read_table` can read."""
    return text.lower().endswith(SUFFIXES)


def cache_folder() -> Path:
    """Return the folder that keeps SmolLM2's file: $PLANTUNE_CACHE/smollm2, or one in the user's cache."""
    if chosen := os.environ.get("PLANTUNE_CACHE"):
        return Path(chosen).expanduser().absolute() / "smollm2"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "plantune" / "smollm2"
