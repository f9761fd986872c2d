"""Turn a corpus's rows into training data: token ids, which of them are learned, and in which order.

    taught = lessons(student, rows, max_length=1024)
    taught.kept[0]     Lesson(ids=(1, 9690, ...), learned=57, row=0)   the last 57: the completion and its turn's end
    taught.dropped     {"longer than 1024 tokens": 3}

Only the completion is learned. Its last token ends the turn, so a student learns to stop; padding is a different
token, so that this one is never masked.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from plantune_lite.plan import completion_text
from plantune_lite.student import chat
from plantune_lite.student.load import Loaded
from plantune_lite.types import PlantuneError, Problem

NOT_LEARNED = -100  # cross entropy's ignore_index
_SORTED_TOGETHER = 32  # batches whose rows are sorted by length; more would make the order less random


class LessonError(PlantuneError, ValueError):
    """Rows that cannot be trained on."""


@dataclass(frozen=True)
class Lesson:
    """One row in token ids."""

    ids: tuple[int, ...]
    learned: int  # number of tokens, at the end
    row: int = 0  # index of the row it was made from
    rank: float = 0  # a lower one comes earlier


@dataclass(frozen=True)
class Taught:
    """Rows that can be learned from, and counts of those that cannot, by reason."""

    kept: tuple[Lesson, ...]
    dropped: Mapping[str, int]


def lessons(student: Loaded, rows: Sequence[Mapping[str, Any]], max_length: int) -> Taught:
    """Encode rows {prompt, completion}; leave out those that are too long or contain the chat's control tokens."""
    tokenizer, end = student.tokenizer, student.tokenizer.convert_tokens_to_ids(student.preset.turn_end)
    control = set(tokenizer.convert_tokens_to_ids(chat.control_tokens(tokenizer)))
    kept, dropped = [], Counter[str]()
    for index, row in enumerate(rows):
        prompt = student.encode_chat(tuple(row["prompt"]), for_reply=True)
        completion = chat.encode(tokenizer, completion_text(row).rstrip())
        data = {id for message in row["prompt"] for id in chat.encode(tokenizer, message["content"])}
        if not completion:
            dropped["nothing to learn"] += 1
        elif control & (data | set(completion)):  # a question could end its turn and speak as the student
            dropped["control tokens in the text"] += 1
        elif len(prompt) + len(completion) + 1 > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
        else:
            kept.append(Lesson((*prompt, *completion, end), len(completion) + 1, index, row.get("rank", 0)))
    return Taught(tuple(kept), dict(dropped))


def check_left(
    how: str, kept: Sequence[Any], dropped: Mapping[str, int], file: str, say: Callable[[str], object]
) -> None:
    """Report how many rows are left out, and why; raise where none is left."""
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
    prompt_length = len(lesson.ids) - lesson.learned
    return [NOT_LEARNED] * prompt_length + list(lesson.ids[prompt_length:])


def ranks(
    order: Literal["easy_first", "by_source"], rows: Sequence[Mapping[str, Any]], problems: Sequence[Problem]
) -> list[float]:
    """Rank the rows of a curriculum, lower ones first.

    Easy is a low level or, if a problem has none or all have the same, a short completion.
    """
    by_id = {problem.id: problem for problem in problems}
    row_problems = [by_id[row["problem_id"]] for row in rows]
    if order == "by_source":
        sources = list(dict.fromkeys(problem.source for problem in problems))
        return [sources.index(problem.source) for problem in row_problems]
    levels = [problem.extra.get("level") for problem in row_problems]
    numbers: list[float] = [level for level in levels if isinstance(level, int | float)]
    if len(set(levels)) > 1 and len(numbers) == len(levels):
        return numbers
    return [len(completion_text(row)) for row in rows]


def order(lengths: Sequence[int], batch: int, rows: int, seed: int) -> list[int]:
    """List row indices in training order: epochs shuffled, rows of similar length together, the longest first.

    The longest comes first so that a batch which does not fit in memory fails at step 0 and not after an hour.
    """
    rng = random.Random(seed)
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    indices: list[int] = []
    waiting: list[int] = []  # rows of an epoch that did not fill a batch: the next epoch begins with them
    while len(indices) + len(waiting) < rows:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        if not indices:  # the longest must not wait
            epoch.remove(longest)
            epoch.insert(0, longest)
        waiting = (waiting + epoch)[: rows - len(indices)]
        whole = len(waiting) // batch * batch
        batches = []
        for start in range(0, whole, batch * _SORTED_TOGETHER):
            together = sorted(waiting[start : min(whole, start + batch * _SORTED_TOGETHER)], key=lengths.__getitem__)
            batches += [together[at : at + batch] for at in range(0, len(together), batch)]
        rng.shuffle(batches)
        if not indices:
            batches.sort(key=lambda group: longest not in group)
        indices += [row for group in batches for row in group]
        waiting = waiting[whole:]
    return indices + waiting


def shown(tokenizer: Any, lesson: Lesson) -> str:
    """Decode one row for display, the learned part between ⟦ and ⟧."""
    prompt_length = len(lesson.ids) - lesson.learned
    return f"{tokenizer.decode(list(lesson.ids[:prompt_length]))}⟦{tokenizer.decode(list(lesson.ids[prompt_length:]))}⟧"
