"""Format terminal output: text that cannot control the terminal, tables, durations and sizes in words.

printable("[b]hi\\x1b[2J") -> "[b]hi\\\\u001b[2J"
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

_SHOWN = "\n\t\u00a0\u3000\u200c\u200d"  # harmless lines, spaces and joiners


def printable(text: str, *, limit: int | None = None) -> str:
    """Return model, teacher and data text safe to show: control characters spelled out, long text cut."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(char if char.isprintable() or char in _SHOWN else f"\\u{ord(char):04x}" for char in text)


def redrawn(line: str, *, last: bool = False) -> str:
    """Redraw a progress line, cut to one row: of two rows the terminal would clear only the second."""
    columns = int(os.environ.get("PLANTUNE_COLUMNS") or 80)
    return "\x1b[2K" + (printable(line) + "\n" if last else printable(line, limit=columns - 1) + "\r")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None = None) -> str:
    """Format a table as text; every cell is shown as it is, never as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = Table(
        title=Text(title, style="bold") if title else None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False
    )
    for number, column in enumerate(columns):
        body.add_column(Text(column), overflow="fold", no_wrap=number == 0 and len(columns) > 2)
    for row in rows:
        body.add_row(*(Text(printable(str(cell))) for cell in row))
    console = Console(width=width)
    with console.capture() as captured:
        console.print(body)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def duration(seconds: float) -> str:
    """Format seconds: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Format bytes: 640 B, 1.2 MB, 14.9 GB."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count:.0f} B"


def fence(text: str, language: str = "") -> str:
    """Put text in a code block that it cannot close."""
    ticks = "`" * max(3, _longest_ticks(text) + 1)
    return f"{ticks}{language}\n{printable(text)}\n{ticks}"


def code_span(text: str) -> str:
    """Put text in a one-line code span that it cannot close."""
    line = " ".join(printable(text).split())
    ticks = "`" * (_longest_ticks(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall(r"`+", text)), default=0)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table, with any cell content."""
    lines = (columns, ("---",) * len(columns), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
