"""Render a self-contained HTML page: no script, nothing loaded from elsewhere, dark if the reader's screen is.

page("mine", [section("Scores", table(("model", "right"), [("m1", "40 %")]))]) -> "<!doctype html>..."

Whatever a model, a teacher or a file wrote goes through text() and is shown, never read as markup.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from plantune_lite.terminal import printable

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2329;--soft:#5b6770;--line:#d8dde2;--paper:#fff;--box:#f4f6f8;--good:#1c7a45}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8eb;--soft:#a3adb5;--line:#3a434b;--paper:#15191d;--box:#1e2429;
--good:#7fcf9f}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:860px;padding:24px 16px 64px;font:16px/1.55 system-ui,sans-serif;color:var(--ink);
background:var(--paper)}
h1{font-size:1.7rem;margin:0 0 .2em}h2{font-size:1.25rem;margin:2.2em 0 .6em;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.4em 0 .4em}
p.first{font-size:1.1rem;font-weight:600}p.soft,.soft{color:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:.4em 0 .8em;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3em .9em .3em 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--box);padding:.8em;border-radius:6px;font-size:.85rem;
margin:.4em 0}
details{border:1px solid var(--line);border-radius:6px;padding:.5em .8em;margin:.5em 0}
summary{cursor:pointer;overflow-wrap:anywhere}
.beside{display:grid;grid-template-columns:1fr 1fr;gap:12px}@media(max-width:640px){.beside{grid-template-columns:1fr}}
svg{width:100%;height:auto;max-width:680px;display:block;margin:.6em 0}
""".strip()

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str]) -> str:
    """Assemble the whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(filter(None, parts))
    ) + "\n</body></html>\n"


def text(words: Any, limit: int | None = None) -> str:
    """Escape untrusted words, to show them as they are."""
    return escape(printable(str(words), limit=limit))


def paragraph(words: str, kind: str = "") -> str:
    """Render a paragraph; `kind` is first or soft."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def section(title: str, *parts: str) -> str:
    """Render a heading and what is below it; empty if all parts are."""
    shown = [part for part in parts if part]
    return "\n".join([f"<h2>{text(title)}</h2>", *shown]) if shown else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Render a table that scrolls by itself on a narrow screen."""
    lines = ["".join(f"<td>{text(cell)}</td>" for cell in row) for row in rows]
    if not lines:
        return ""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(title: str, *parts: str) -> str:
    """Fold the parts behind a title that opens them."""
    return f"<details><summary>{text(title, 160)}</summary>{''.join(parts)}</details>"


def block(words: str, title: str = "") -> str:
    """Render a longer text with its line breaks."""
    head = f'<p class="soft">{text(title)}</p>' if title else ""
    return f"<div>{head}<pre>{text(words)}</pre></div>"


def beside(*parts: str) -> str:
    """Put parts next to each other, or one below the other on a phone."""
    return f'<div class="beside">{"".join(parts)}</div>'
