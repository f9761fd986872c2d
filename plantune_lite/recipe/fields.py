"""Typed fields of frozen dataclasses: what a field may hold, and how it is written on the command line.

parse("1e-4", float) -> 0.0001    parse("none", int | None) -> None    parse("a,b", tuple[str, ...]) -> ("a", "b")
"""

import json
import math
from collections.abc import Iterable
from dataclasses import field
from typing import Any, Literal, get_args, get_origin

from plantune_lite.files import encodable, fits


def knob(default: Any, *, low: float | None = None, high: float | None = None, pace: bool = False) -> Any:
    """Declare a field with bounds; a `pace` field sets only speed or duration, so changing it keeps the run."""
    return field(default=default, metadata={"low": low, "high": high, "pace": pace})


def describe(hint: Any) -> str:
    """Spell a type as the schema does; a closed set of words as those words."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def parse(text: str, hint: Any) -> Any:
    """Parse a text as a value of the hinted type; raise ValueError if it is none."""
    if get_origin(hint) is tuple:
        items = "" if text.strip() == "()" else text  # as a recipe's file has it
        return tuple(parse(item.strip(), get_args(hint)[0]) for item in items.split(",") if item.strip())
    for value in (_literal(text), text):  # "none" is None before it is text
        if fits(value, hint):
            return float(value) if hint is float else value
    raise ValueError(text)


_WORDS = {"none": None, "null": None, "true": True, "yes": True, "false": False, "no": False}


def _literal(text: str) -> Any:
    """Return the value that a text spells, or the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for read in (int, float, json.loads):  # 1_000 is a whole number in Python too
        try:
            value = read(text)
        except (ValueError, RecursionError):
            continue
        return text if isinstance(value, str) else value  # quotes are part of a text
    return text


def written(value: Any) -> str:
    """Format a value for the command line, so that `parse` reads it back."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`; if no name is near, the list of names, unless it is too long."""
    import difflib

    names = list(names)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= 40 else ""


def is_json(value: Any, levels: int = 20) -> bool:
    """Tell whether a value survives being stored as JSON, at most so many levels deep, more than a setting needs."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and is_json([*value, *value.values()], levels)
    if isinstance(value, list):
        return levels > 0 and all(is_json(item, levels - 1) for item in value)
    if isinstance(value, str):
        return encodable(value) == value
    return value is None or isinstance(value, int) or isinstance(value, float) and math.isfinite(value)
