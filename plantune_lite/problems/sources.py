"""Get problems from code: a user's function, or the reasoning-gym library.

    def ten_sums(seed):                                   # problems.source="own_problems.py:ten_sums"
        for number in range(10):
            yield {"question": f"What is {number} + {seed}?", "answer": number + seed}

gym_drafts("gsm_symbolic", size=100, seed=0) -> 100 of (where, id, {"question": ..., "answer": 28080, "steps": [...],
                                                        "template": "variables currency days_per_week ..."})
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from plantune_lite.problems.files import BadRow, Draft
from plantune_lite.recipe import user_code
from plantune_lite.recipe.fields import nearest
from plantune_lite.types import MissingError, Problem, ProblemError

_ENDLESS = 1_000_000


def function_drafts(name: str, *, seed: int, limit: int | None) -> tuple[Iterator[Draft], dict[str, Any]]:
    """Call a reference's function, with `seed` and `limit` if it takes them; return its drafts and their origin."""
    function = user_code.load(name)
    accepts = inspect.signature(function).parameters
    items = function(**{name: value for name, value in (("seed", seed), ("limit", limit)) if name in accepts})
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise ProblemError(f"{name} returned one {type(items).__name__}; it must return or yield Problems or dicts")
    return _drafts(name, items), {"function": name, "sha256": user_code.source_hash(name)}


def _drafts(name: str, items: Iterable[Any]) -> Iterator[Draft]:
    stem = name.rpartition(":")[2]
    for number, item in enumerate(items, 1):
        if number > _ENDLESS:
            raise ProblemError(f"{name} yielded more than {_ENDLESS:,} problems; let it take `limit` and stop there")
        where, id = f"{name} item {number}", f"{stem}/{number}"
        if isinstance(item, Problem):
            yield where, id, asdict(item)
        elif isinstance(item, Mapping):
            yield where, id, item
        else:
            yield where, id, BadRow(f"expected a Problem or a dict, not a {type(item).__name__}")


# --- reasoning-gym ----------------------------------------------------------------------------------------------------


def gym_drafts(generator: str, *, size: int, seed: int) -> tuple[list[tuple[str, str, dict[str, Any]]], dict[str, Any]]:
    """Generate the first problems of a generator for a seed; return them and their origin."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingError(
            f"gym:{generator} needs reasoning-gym ({error}): pip install 'plantune-lite[gym]'. "
            "One of its parts, pycosat, is built from source and needs a C compiler."
        ) from None
    from importlib.metadata import version

    if generator not in DATASETS:
        raise ProblemError(f"reasoning-gym has no generator {generator!r}{nearest(generator, sorted(DATASETS))}")
    dataset = reasoning_gym.create_dataset(generator, size=size, seed=seed)
    rows = [
        (f"gym:{generator} item {number}", f"{generator}/{seed}/{number}", _fields(entry))
        for number, entry in enumerate(dataset)
    ]
    return rows, {"generator": f"gym:{generator}", "version": version("reasoning-gym"), "seed": seed}


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Map an entry to our fields; gsm_symbolic's have worked steps, and variables that identify the template."""
    about = entry.get("metadata", {})
    lines = [line.strip() for line in str(about.get("answer_cot") or "").split("\n")]
    steps = [line for line in lines if line and not line.startswith("####")]
    variables = about.get("variables")
    return {
        "question": entry["question"],
        "answer": about.get("answer_value", entry["answer"]),
        "solution": "\n".join(steps),
        "steps": steps,
        "template": "variables " + " ".join(sorted(variables)) if steps and variables else "",
    }
