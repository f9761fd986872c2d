"""Typed fields of frozen dataclasses: what a field may hold, and how it is written on the command line.

parse("1e-4", float) -> 0.0001    parse("none", int | None) -> None    parse("a,b", tuple[str, ...]) -> ("a", "b")
"""

import json
from collections.abc import Iterable
from dataclasses import field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def knob(default: Any, *, low: float | None = None, high: float | None = None, pace: bool = False) -> Any:
    """A field with bounds; a `pace` field says how fast or how long, so changing it makes no other run."""
    return field(default=default, metadata={"low": low, "high": high, "pace": pace})


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of the hinted type."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, get_args(hint)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, NoneType if hint is None else hint)


def describe(hint: Any) -> str:
    """Describe in words what a field accepts."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is tuple:
        return f"a comma-separated list, each {describe(get_args(hint)[0])}"
    if origin is dict:
        return "a JSON object"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def parse(text: str, hint: Any) -> Any:
    """Parse a text as a value of the hinted type; raises ValueError where it is none."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        options = sorted(get_args(hint), key=lambda option: option is not NoneType)  # "none" is None before it is text
        for option in options:
            try:
                return parse(text, option)
            except ValueError:
                continue
        raise ValueError(text)
    if origin is Literal:
        for option in get_args(hint):
            if text == str(option):
                return option
        raise ValueError(text)
    if origin is tuple:
        items = "" if text.strip() == "()" else text  # as a recipe's file has it
        return tuple(parse(item.strip(), get_args(hint)[0]) for item in items.split(",") if item.strip())
    if origin is dict:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(text)
        return value
    if hint is NoneType:
        if text.lower() not in ("none", "null"):
            raise ValueError(text)
        return None
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    return hint(text)  # 1_000 is a whole number in Python too


def written(value: Any) -> str:
    """A value as the command line takes it: what `parse` reads back."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`; where no name is near, the list of them, unless it is too long to read."""
    import difflib

    names = list(names)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(names)}" if len(names) <= 40 else ""


def is_json(value: Any) -> bool:
    """Tell whether a value survives being stored as JSON."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
