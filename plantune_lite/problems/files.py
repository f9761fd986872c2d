"""A data file of any common format as rows of named cells, each row known by its place in the file.

    my.csv:  Frage;Antwort                 read(Path("my.csv")).rows[0]
             Was ist 6 mal 7?;42           -> Row("my.csv line 2", {"Frage": "Was ist 6 mal 7?", "Antwort": "42"})

Nothing is interpreted here but the format: a cell stays what the file says, text in CSV, any JSON value elsewhere.
"""

import codecs
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plantune_lite.files import SUFFIXES
from plantune_lite.types import ProblemError

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


class BadRow(ValueError):
    """Why a row is no problem."""


Draft = tuple[str, str, Mapping[str, Any] | BadRow]  # where it stands, its id if it names none, its fields by our names


@dataclass(frozen=True)
class Row:
    """One row and where it stands; `fault` says why it is no row of the table, where it is none."""

    where: str  # "my.csv line 14"
    cells: dict[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """A whole file."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sha256: str
    notes: tuple[str, ...] = field(default=())


def read_table(path: Path) -> Table:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ProblemError(
            f"{path}: problems are read from {', '.join(SUFFIXES)} files, not {suffix or 'a file without a suffix'}"
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ProblemError(f"no file {path} (looked in {Path.cwd()})") from None
    except OSError as error:
        raise ProblemError(f"{path} cannot be read: {error.strerror or error}") from None
    notes: list[str] = []
    if suffix == ".parquet":
        columns, rows = _parquet(path.name, data)
    elif suffix in (".csv", ".tsv"):
        columns, rows = _csv(path.name, _text(path.name, data), notes, "\t" if suffix == ".tsv" else None)
    else:
        columns, rows = _json(path.name, _text(path.name, data), lines=suffix == ".jsonl")
    if not rows:
        raise ProblemError(
            f"{path} has no rows: one problem a {'line' if suffix != '.json' else 'list item'} is expected"
        )
    return Table(path, columns, tuple(rows), hashlib.sha256(data).hexdigest(), tuple(notes))


def _text(name: str, data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ProblemError(f"{name} line 1: the file is UTF-16; save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')")
    try:
        return data.decode("utf-8-sig")  # Excel's "CSV UTF-8" begins with a byte order mark
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark; the bytes before the bad one tell the line either way
        start = error.start + (len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0)
        line = data.count(b"\n", 0, start) + 1
        byte = error.object[error.start]
        raise ProblemError(
            f"{name} line {line}: byte 0x{byte:02X} is not UTF-8; save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        ) from None


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv(name: str, text: str, notes: list[str], delimiter: str | None) -> tuple[tuple[str, ...], list[Row]]:
    delimiter = delimiter or _delimiter(text)
    records = _records(name, text, delimiter)
    if not records:
        return (), []
    header_line, header = records[0]
    columns = tuple(cell.strip() or f"column {number}" for number, cell in enumerate(header, 1))
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        raise ProblemError(f"{name} line {header_line}: two columns are named {twice[0]!r}; rename one")
    notes += [
        f"{name} line {header_line}: {column} has no name in the header"
        for column, cell in zip(columns, header, strict=True)
        if not cell.strip()
    ]
    rows = []
    for line, cells in records[1:]:
        fault = ""
        if len(cells) != len(columns):
            mark = _DELIMITERS[delimiter]
            fault = f"{len(cells)} cells under {len(columns)} column names; a cell with a {mark} in it needs quotes"
        rows.append(Row(f"{name} line {line}", dict(zip(columns, cells, strict=False)), fault))
    return columns, rows


def _records(name: str, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Every record with the line it begins on; blank lines are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records, begins = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ProblemError(
            f"{name} line {begins}: {error}; look for a quote that is not closed or not doubled"
        ) from None
    return records


def _delimiter(text: str) -> str:
    """The delimiter that cuts the first records into equally many cells; the most cells where several do."""

    def agreement(delimiter: str) -> tuple[float, int]:
        reader = csv.reader(io.StringIO(text[:65536], newline=""), delimiter=delimiter)
        widths = [len(cells) for cells, _ in zip(reader, range(50), strict=False) if cells]
        if not widths or widths[0] < 2:
            return 0.0, 0
        return widths.count(widths[0]) / len(widths), widths[0]

    return max(_DELIMITERS, key=agreement)


# --- JSON and Parquet -------------------------------------------------------------------------------------------------


def _json(name: str, text: str, *, lines: bool) -> tuple[tuple[str, ...], list[Row]]:
    if lines:
        items = [(f"{name} line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = [_json_row(where, _parsed(where, line)) for where, line in items]
    else:
        data = _parsed(name, text)
        data = data.get("data", data) if isinstance(data, dict) else data
        if not isinstance(data, list):
            raise ProblemError(f'{name}: a list of problems or {{"data": [...]}} is expected, not {_kind(data)}')
        rows = [_json_row(f"{name} item {number}", item) for number, item in enumerate(data, 1)]
    columns = dict.fromkeys(column for row in rows for column in row.cells)  # in the order they first appear
    return tuple(columns), rows


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if " line " in where else f"{where} line {error.lineno}"
        raise ProblemError(f"{place}: not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise ProblemError(f"{where}: not a problem: the JSON is nested too deeply") from None


def _json_row(where: str, item: Any) -> Row:
    if isinstance(item, dict):
        return Row(where, item)
    return Row(where, {}, f"a JSON object is expected, not {_kind(item)}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _parquet(name: str, data: bytes) -> tuple[tuple[str, ...], list[Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise ProblemError(f"{name} is not a Parquet file: {str(error).splitlines()[0]}") from None
    rows = [Row(f"{name} row {number}", cells) for number, cells in enumerate(table.to_pylist(), 1)]
    return tuple(table.column_names), rows
