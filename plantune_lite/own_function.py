"""Problems that a user's own function gives: `problems.source="own_problems.py:ten_sums"`.

def ten_sums(seed):
    for number in range(10):
        yield {"question": f"What is {number} + {seed}?", "answer": number + seed}
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from plantune_lite import functions
from plantune_lite.tables import BadRow, Draft
from plantune_lite.types import Problem, ProblemError

_ENDLESS = 1_000_000


def function_drafts(name: str, *, seed: int, limit: int | None) -> tuple[Iterator[Draft], dict[str, Any]]:
    """What the function of a reference gives, and where it came from; it may take `seed` and `limit`."""
    function = functions.load(name)
    accepts = inspect.signature(function).parameters.values()
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepts)
    told = {"seed": seed, "limit": limit}
    items = function(**{key: value for key, value in told.items() if anything or any(p.name == key for p in accepts)})
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise ProblemError(f"{name} gave one {type(items).__name__}; it must return or yield Problems or dicts")
    return _drafts(name, items), {"function": name, "sha256": functions.source_hash(name)}


def _drafts(name: str, items: Iterable[Any]) -> Iterator[Draft]:
    stem = name.rpartition(":")[2]
    for number, item in enumerate(items, 1):
        if number > _ENDLESS:
            raise ProblemError(f"{name} gave more than {_ENDLESS:,} problems; let it take `limit` and stop there")
        where, id = f"{name} item {number}", f"{stem}/{number}"
        if isinstance(item, Problem):
            yield where, id, asdict(item)
        elif isinstance(item, Mapping):
            yield where, id, item
        else:
            yield where, id, BadRow(f"a Problem or a dict is expected, not a {type(item).__name__}")
