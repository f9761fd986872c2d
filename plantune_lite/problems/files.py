"""Read a data file of any common format as rows of named cells, each with its position in the file.

    my.csv:  Frage;Antwort                 read(Path("my.csv")).rows[0]
             Was ist 6 mal 7?;42           -> Row("my.csv line 2", 2, {"Frage": "Was ist 6 mal 7?", "Antwort": "42"})

Only the format is interpreted: a cell stays as in the file, text in CSV, any JSON value elsewhere.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.types import ProblemError

_DELIMITERS = ",;\t|"


class BadRow(ValueError):
    """Reason why a row is not a problem."""


Draft = tuple[str, str, Mapping[str, Any] | BadRow]  # position, default id, fields by our names


@dataclass(frozen=True)
class Row:
    """One row and its position; `fault` says why it is not a valid row, where it is not."""

    where: str  # "my.csv line 14"
    number: int  # 14
    cells: dict[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """A whole file."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sha256: str


def read_table(path: Path) -> Table:
    """Read the rows of a JSONL, JSON, CSV, TSV or Parquet file."""
    suffix = path.suffix.lower()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProblemError(f"cannot read {path} (in {Path.cwd()}): {error.strerror}") from None
    if suffix == ".parquet":
        columns, rows = _parquet(path.name, data)
    elif suffix in (".csv", ".tsv"):
        columns, rows = _csv(path.name, _text(path.name, data), "\t" if suffix == ".tsv" else None)
    else:
        columns, rows = _json(path.name, _text(path.name, data), lines=suffix == ".jsonl")
    if not rows:
        raise ProblemError(f"{path} has no rows")
    return Table(path, columns, tuple(rows), hashlib.sha256(data).hexdigest())


def _text(name: str, data: bytes) -> str:
    try:
        text, offset = data.decode("utf-8-sig"), data.find(b"\0")  # Excel's "CSV UTF-8" begins with a byte order mark
    except UnicodeDecodeError as error:
        data, offset = error.object, error.start
    if offset >= 0:  # UTF-16 text has a NUL in every other byte
        line, byte = data.count(b"\n", 0, offset) + 1, data[offset]
        raise ProblemError(
            f"{name} line {line}: byte 0x{byte:02X} is not UTF-8; save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        )
    return text


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv(name: str, text: str, delimiter: str | None) -> tuple[tuple[str, ...], list[Row]]:
    """Read every record and the line it begins on; skip blank lines."""
    delimiter = delimiter or max(_DELIMITERS, key=text.lstrip().partition("\n")[0].count)  # of the header
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    begins = 1
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = tuple(cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1))
                continue
            fault = ""
            if len(cells) != len(columns):
                fault = f"{len(cells)} cells under {len(columns)} column names; quote a cell with {delimiter!r} in it"
            rows.append(Row(f"{name} line {line}", line, dict(zip(columns, cells, strict=False)), fault))
    except csv.Error as error:
        raise ProblemError(
            f"{name} line {begins}: {error}; look for a quote that is not closed or not doubled"
        ) from None
    _refuse_twice(name, columns)
    return columns, rows


def _refuse_twice(name: str, columns: Iterable[str]) -> None:
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        raise ProblemError(f"{name}: two columns are named {twice[0]!r}; rename one")


# --- JSON and Parquet -------------------------------------------------------------------------------------------------


def _json(name: str, text: str, *, lines: bool) -> tuple[tuple[str, ...], list[Row]]:
    if lines:
        lines_of = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = [_json_row(name, "line", number, _parsed(f"{name} line {number}", line)) for number, line in lines_of]
    else:
        data = _parsed(name, text)
        data = data.get("data", data) if isinstance(data, dict) else data
        if not isinstance(data, list):
            raise ProblemError(f'{name}: expected a list of problems or {{"data": [...]}}, not {data!r:.40}')
        rows = [_json_row(name, "item", number, item) for number, item in enumerate(data, 1)]
    columns = dict.fromkeys(column for row in rows for column in row.cells)  # in the order they first appear
    return tuple(columns), rows


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of more than 4,300 digits
        raise ProblemError(f"{where}: not JSON ({str(error).partition(';')[0]})") from None


def _json_row(name: str, unit: str, number: int, item: Any) -> Row:
    if isinstance(item, dict):
        return Row(f"{name} {unit} {number}", number, item)
    return Row(f"{name} {unit} {number}", number, {}, f"expected a JSON object, not {item!r:.40}")


def _parquet(name: str, data: bytes) -> tuple[tuple[str, ...], list[Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        _refuse_twice(name, pyarrow.parquet.read_schema(io.BytesIO(data)).names)
        table = pyarrow.parquet.read_table(io.BytesIO(data))
        cells = table.to_pylist()
    except ProblemError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError for text that is not UTF-8
        raise ProblemError(f"{name} is not a Parquet file: {str(error).splitlines()[0]}") from None
    rows = [Row(f"{name} row {number}", number, row) for number, row in enumerate(cells, 1)]
    return tuple(table.column_names), rows
