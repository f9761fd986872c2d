"""From a corpus's rows to what a trainer is fed: token ids, which of them are learned, and in which order.

    taught = lessons(student, rows, max_length=1024)
    taught.kept[0]     Lesson(ids=(1, 9690, ...), learned=57, row=0)   the last 57: the completion and its turn's end
    taught.dropped     {"longer than 1024 tokens": 3}

Only the completion is learned. Its last token ends the turn, so a student learns to stop; padding is another token, so
that nothing masks this one.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from plantune_lite.plan import completion_text
from plantune_lite.student import chat
from plantune_lite.types import LoadedStudent, PlantuneError, Problem

NOT_LEARNED = -100  # what cross entropy leaves out
_SORTED_TOGETHER = 32  # batches whose rows are sorted by length; more would make the order less random


class LessonError(PlantuneError, ValueError):
    """Rows that nothing can be learned from."""


@dataclass(frozen=True)
class Lesson:
    """One row in token ids."""

    ids: tuple[int, ...]
    learned: int  # so many at the end
    row: int = 0  # its place among the rows it was made from
    rank: float = 0  # a lower one comes earlier


@dataclass(frozen=True)
class Taught:
    """Rows that can be learned from, and counts of those that cannot, by reason."""

    kept: tuple[Lesson, ...]
    dropped: Mapping[str, int]


def lessons(student: LoadedStudent, rows: Sequence[Mapping[str, Any]], max_length: int) -> Taught:
    """Encode rows {prompt, completion}; leave out the over-long and those that carry the chat's own control tokens."""
    tokenizer, end = student.tokenizer, student.tokenizer.convert_tokens_to_ids(student.preset.turn_end)
    control = set(tokenizer.convert_tokens_to_ids(chat.control_tokens(tokenizer)))
    kept, dropped = [], Counter[str]()
    for place, row in enumerate(rows):
        prompt = student.encode_chat(tuple(row["prompt"]), for_reply=True)
        completion = chat.encode(tokenizer, completion_text(row).rstrip())
        data = {id for message in row["prompt"] for id in chat.encode(tokenizer, message["content"])}
        if not completion:
            dropped["nothing to learn"] += 1
        elif control & (data | set(completion)):  # a question that ends its own turn would speak as the student
            dropped["control tokens in the text"] += 1
        elif len(prompt) + len(completion) + 1 > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
        else:
            kept.append(Lesson((*prompt, *completion, end), len(completion) + 1, place, row.get("rank", 0)))
    return Taught(tuple(kept), dict(dropped))


def check_left(
    how: str, kept: Sequence[Any], dropped: Mapping[str, int], file: str, say: Callable[[str], object]
) -> None:
    """Say how many rows are left out, and why; raise where none is left."""
    count = len(kept) + sum(dropped.values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
    if not kept:
        raise LessonError(
            f"none of the {count} rows can be {how}: {reasons or 'there are none'}. Look at {file}, or raise "
            "student.max_length"
        )
    if dropped:
        say(f"{count - len(kept)} of {count} rows left out: {reasons}")


def labels_of(lesson: Lesson) -> list[int]:
    """Label each position with the token to learn, NOT_LEARNED for the prompt."""
    asked = len(lesson.ids) - lesson.learned
    return [NOT_LEARNED] * asked + list(lesson.ids[asked:])


def ranks(
    order: Literal["easy_first", "by_source"], rows: Sequence[Mapping[str, Any]], problems: Sequence[Problem]
) -> list[float]:
    """Rank the rows of a curriculum, lower ones first.

    Easy is a low level or, if a problem has none or all have the same, a short completion.
    """
    by_id = {problem.id: problem for problem in problems}
    asked = [by_id[row["problem_id"]] for row in rows]
    if order == "by_source":
        sources = list(dict.fromkeys(problem.source for problem in problems))
        return [sources.index(problem.source) for problem in asked]
    levels = [problem.extra.get("level") for problem in asked]
    numbers: list[float] = [level for level in levels if isinstance(level, int | float)]
    if len(set(levels)) > 1 and len(numbers) == len(levels):
        return numbers
    return [len(completion_text(row)) for row in rows]


def order(lengths: Sequence[int], batch: int, rows: int, seed: int) -> list[int]:
    """List row indices in training order: epochs shuffled, rows of similar length together, the longest of all first.

    The longest comes first so that a batch which does not fit in memory fails at step 0 and not after an hour.
    """
    dice = random.Random(seed)
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    placed: list[int] = []
    waiting: list[int] = []  # rows of an epoch that were too few for a batch: the next one begins with them
    while len(placed) + len(waiting) < rows:
        epoch = list(range(len(lengths)))
        dice.shuffle(epoch)
        if not placed:  # not among those that wait
            epoch.remove(longest)
            epoch.insert(0, longest)
        waiting = (waiting + epoch)[: rows - len(placed)]
        whole = len(waiting) // batch * batch
        batches = []
        for start in range(0, whole, batch * _SORTED_TOGETHER):
            together = sorted(waiting[start : min(whole, start + batch * _SORTED_TOGETHER)], key=lengths.__getitem__)
            batches += [together[at : at + batch] for at in range(0, len(together), batch)]
        dice.shuffle(batches)
        if not placed:
            batches.sort(key=lambda one: longest not in one)
        placed += [row for one in batches for row in one]
        waiting = waiting[whole:]
    return placed + waiting


def shown(tokenizer: Any, lesson: Lesson) -> str:
    """One row for a person, what is learned between ⟦ and ⟧."""
    asked = len(lesson.ids) - lesson.learned
    return f"{tokenizer.decode(list(lesson.ids[:asked]))}⟦{tokenizer.decode(list(lesson.ids[asked:]))}⟧"
