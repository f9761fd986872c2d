"""Hold out problems from training and sample up to a limit: exact, repeatable, and stable when a file grows.

    hold_out(problems, share=0.2, seed=0) -> Split(pool=(...), own=(...))   sample(problems, 100, seed=0) -> 100 of them

Problems of one group never end up on both sides. A group is a question as `normalised` sees it; for generated problems
it is their template, so that a test problem is not a training problem with other numbers.
"""

import hashlib
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from plantune_lite.types import Problem

T = TypeVar("T")
MOST = 300  # held out per recipe: more would cost time, and a score on 300 is within 6 points at worst


@dataclass(frozen=True)
class Split:
    """Both sides of a split; `left_out` are problems of a held-out group that was larger than the maximum."""

    pool: tuple[Problem, ...]
    own: tuple[Problem, ...]
    left_out: tuple[Problem, ...] = ()


def normalised(problem: Problem) -> str:
    """Normalise the question and its choices, ignoring case, spacing, width and end punctuation."""
    text = " ".join((problem.question, *problem.choices))
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", text).strip(" .?!:")


def group_of(problem: Problem) -> str:
    """Return what must not be on both sides: the template of a generated problem, else the question."""
    return str(problem.extra.get("template") or normalised(problem))


def hold_out(problems: Sequence[Problem], *, share: float, seed: int, most: int = MOST) -> Split:
    """Hold out a share of the groups, at most `most` problems.

    Each group draws its own number from (seed, group) and is held out when that lies below the share, so a row that is
    added to a file later does not affect the rows before it. Where more than `most` problems would be held out, those
    with the lowest numbers are: a growing file can lower that threshold, which moves a test problem to training, but
    never raise it, so no problem that was once trained on becomes a test problem.
    """
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(group_of(problem), []).append(problem)
    if share <= 0 or most <= 0 or len(groups) < 2:
        return Split(tuple(problems), ())
    numbers = sorted((drawn_number(seed, name), name) for name in groups)
    held_out: set[str] = set()
    count = 0
    for number, name in numbers:
        size = len(groups[name])
        if held_out and (number >= share or count + size > most):
            break  # the lowest number is always held out: a small file needs a test problem too
        held_out.add(name)
        count += size
    own = [problem for problem in problems if group_of(problem) in held_out]
    pool = tuple(problem for problem in problems if group_of(problem) not in held_out)
    return Split(pool, tuple(own[:most]), tuple(own[most:]))


def drawn_number(seed: int, text: str) -> float:
    """Draw a number from 0 to 1 that depends on the seed and the text alone."""
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sample(items: Sequence[T], limit: int | None, *, seed: int) -> tuple[T, ...]:
    """Draw a seeded sample in the order of the source; a larger limit contains a smaller one's items."""
    if limit is None or limit >= len(items):
        return tuple(items)
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)  # random.sample(range(n), k) would not nest
    return tuple(items[index] for index in sorted(order[:limit]))


def shares(limit: int | None, parts: int) -> list[int | None]:
    """Divide a limit as evenly as possible."""
    if limit is None:
        return [None] * parts
    return [limit // parts + (number < limit % parts) for number in range(parts)]
