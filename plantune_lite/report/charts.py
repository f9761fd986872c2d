"""Draw small charts as SVG text: curves, and shares with their intervals. They follow the page's light or dark mode.

curves("loss", {"training": [(1, 2.1), (2, 1.7)], "validation": [(2, 1.9)]}, across="step") -> "<svg ...>"
shares("own", [("untuned", Estimate(0.03, 0.01, 0.06)), ("m1", ...)]) -> "<svg ...>"

Each is self-contained: the same text goes into a report and, as a file, into a model card.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

from plantune_lite.evaluate.stats import Estimate
from plantune_lite.terminal import printable

Points = Sequence[tuple[float, float]]

_WIDTH, _LEFT, _RIGHT = 640, 64, 16
_HIGH, _TOP, _BOTTOM = 260, 34, 36
_A_LINE = 3  # names of curves
_ROW = 30  # of a chart of shares
_COLOURS = 6
_STYLE = (
    "<style>.c{font:12px system-ui,sans-serif}.c text{fill:#333}.c .g{stroke:#ddd}.c .t{font-weight:600;font-size:13px}"
    ".c0{--c:#2563a8}.c1{--c:#c2571a}.c2{--c:#2e7d4f}.c3{--c:#8a4fa3}.c4{--c:#a8324a}.c5{--c:#5b6770}"
    ".c path{fill:none;stroke:var(--c);stroke-width:1.6}.c .i{stroke:var(--c);stroke-width:2}.c .d{fill:var(--c)}"
    "@media(prefers-color-scheme:dark){.c text{fill:#ddd}.c .g{stroke:#444}.c0{--c:#7db3e8}.c1{--c:#f0a06a}"
    ".c2{--c:#7fcf9f}.c3{--c:#c9a0dc}.c4{--c:#ee8fa0}.c5{--c:#a9b4bd}}</style>"
)


def curves(title: str, series: Mapping[str, Points], *, across: str = "step") -> str:
    """Draw one line per series over the same axes; leave out what is not a finite number."""
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in series.items()}
    drawn = {name: points for name, points in finite.items() if points}
    if not drawn:
        return ""
    legend = 6 + 14 * math.ceil(len(drawn) / _A_LINE)
    every = [point for points in drawn.values() for point in points]
    (left, right), (low, high) = (_span([point[axis] for point in every]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = _LEFT + (point[0] - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        y = _HIGH - _BOTTOM - (point[1] - low) / (high - low) * (_HIGH - _TOP - legend - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [_text(_LEFT, 16, title, "t")]
    for value in _ticks(low, high):
        _, y = place((left, value))
        parts.append(f'<line class="g" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(value), anchor="end"))
    for value in _ticks(left, right):
        x, _ = place((value, low))
        parts.append(_text(x, _HIGH - _BOTTOM + 16, _number(value), anchor="middle"))
    parts.append(_text(_WIDTH - _RIGHT, _HIGH - 4, across, anchor="end"))
    for number, (name, points) in enumerate(drawn.items()):
        colour = f"c{number % _COLOURS}"
        places = [place(point) for point in points]
        if len(places) == 1:
            parts.append(f'<circle class="d {colour}" cx="{places[0][0]}" cy="{places[0][1]}" r="3"/>')
        else:
            line = "L".join(f"{x} {y}" for x, y in places)
            parts.append(f'<path class="{colour}" d="M{line}"/>')
        x, y = _LEFT + 185 * (number % _A_LINE), 28 + 14 * (number // _A_LINE)
        parts.append(f'<rect class="d {colour}" x="{x}" y="{y}" width="10" height="10"/>' + _text(x + 15, y + 9, name))
    return _svg(title, _HIGH, parts)


def shares(title: str, rows: Sequence[tuple[str, Estimate]]) -> str:
    """Draw a dot and its interval per row, on a scale that begins at 0."""
    if not rows:
        return ""
    labels, height = 190, _TOP + _ROW * len(rows) + _BOTTOM
    top = min(1.0, max(0.1, math.ceil(10 * max(estimate.high for _, estimate in rows)) / 10))

    def across(share: float) -> float:
        return round(labels + max(0.0, share) / top * (_WIDTH - labels - 110), 1)

    parts = [_text(0, 16, title, "t")]
    for value in _ticks(0.0, top):
        x = across(value)
        parts.append(f'<line class="g" x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(_text(x, height - _BOTTOM + 16, f"{round(100 * value, 1):g} %", anchor="middle"))
    for number, (name, estimate) in enumerate(rows):
        y, colour = _TOP + _ROW * number + _ROW / 2, f"c{number % _COLOURS}"
        low, middle, high = map(across, (estimate.low, estimate.value, estimate.high))
        parts.append(_text(labels - 10, y + 4, printable(name, limit=27), anchor="end"))
        parts.append(f'<line class="i {colour}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="d {colour}" cx="{middle}" cy="{y}" r="4.5"/>')
        parts.append(_text(_WIDTH, y + 4, f"{100 * estimate.value:.1f} %", anchor="end"))
    return _svg(title, height, parts)


# --- SVG parts --------------------------------------------------------------------------------------------------------


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg class="c" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img">'
    return f"{head}<title>{_safe(title)}</title>{_STYLE}{''.join(parts)}</svg>"


def _text(x: float, y: float, words: str, kind: str = "", *, anchor: str = "start") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{_safe(words)}</text>'


def _safe(words: str) -> str:
    return escape(printable(words, limit=60))


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) / 10 or 1.0
        return low - room, high + room
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """List about four round numbers between two others."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 or value != round(value) else f"{value:,.0f}"
