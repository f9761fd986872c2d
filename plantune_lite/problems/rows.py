"""Turn rows into problems, or into the reason why a row is not one.

    {"question": "Was ist 6 mal 7?", "answer": "#### 42"} -> Problem(question="Was ist 6 mal 7?", answer="42", ...)
    {"question": "Was ist 6 mal 7?", "answer": ""}        -> BadRow("answer is empty")

Files, functions, benchmarks and generators all pass through here, so that the same checks hold for all of them.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from plantune_lite.files import encodable
from plantune_lite.grading.answers import can_check, final_answer
from plantune_lite.grading.compare import shortened
from plantune_lite.problems.files import BadRow, Draft
from plantune_lite.types import Kind, Problem

_PROSE_WORDS = 20  # more than in answers that must match to the letter: sorted words, a reordered sentence
_SENTENCE = re.compile(r"[^\W\d_][\"')\]]*[.!?](?:\s|$)|[。！？]")


Checked = tuple[list[tuple[str, Problem]], list[tuple[str, str]]]  # (position, problem); (position, reason)


def checked_problems(drafts: Iterable[Draft], *, source: str, split: str, kind: Kind | None = None) -> Checked:
    """Turn each draft (position, default id, fields) into a problem or the reason why not; ids are unique."""
    good: list[tuple[str, Problem]] = []
    bad: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for where, id, fields in drafts:
        try:
            if isinstance(fields, BadRow):
                raise fields
            row_problem = problem(fields, id=id, source=source, split=split, kind=kind)
            if row_problem.id in seen:
                raise BadRow(f"id {row_problem.id!r} is also the id of {seen[row_problem.id]}")
            seen[row_problem.id] = where
            good.append((where, row_problem))
        except BadRow as fault:
            bad.append((where, str(fault)))
    return good, bad


def problem(fields: Mapping[str, Any], *, id: str, source: str, split: str, kind: Kind | None = None) -> Problem:
    """Build the Problem from fields with our names; raise BadRow if they are invalid."""
    as_is = (kind or fields.get("kind")) == "code"  # white space matters in code
    question = _text(fields.get("question"), "question", required=True, as_is=as_is)
    if not isinstance(fields["question"], str):
        raise BadRow(f"question is {fields['question']!r:.40}, not text")
    answer = _text(fields.get("answer"), "answer", required=True, as_is=as_is)
    solution = _text(fields.get("solution"), "solution", as_is=as_is)
    choices = _choices(fields.get("choices"))
    if not as_is and _is_worked(answer) and answer not in choices:
        solution = solution or _working(answer)
        if not (final := final_answer(answer)):
            raise BadRow("answer is a worked solution, but its final answer cannot be found")
        answer = final
    if choices:
        answer = _letter(answer, choices)
    extra = _rest(fields)
    if "level" in extra and (
        level := re.fullmatch(r"(?:level\s*)?(\d+)(?:\.0)?", str(extra["level"]).strip(), re.IGNORECASE)
    ):
        extra["level"] = int(level[1])
    steps = fields.get("steps")
    return Problem(
        id=_text(fields.get("id"), "id") or id,
        question=question,
        answer=answer,
        solution=solution or None,
        steps=tuple(map(str, steps)) if isinstance(steps, list | tuple) else tuple(str(steps or "").splitlines()),
        choices=choices,
        source=source,
        split=split,
        kind=kind or (fields["kind"] if fields.get("kind") in get_args(Kind) else "choice" if choices else "text"),
        extra=_plain(extra),
    )


def is_prose(problem: Problem) -> bool:
    """Return whether the answer is an explanation, which a model would not repeat in the same words."""
    if problem.kind != "text" or len(problem.answer.split()) <= _PROSE_WORDS or not _SENTENCE.search(problem.answer):
        return False
    return not can_check(problem.answer)


def _rest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Collect a row's other fields, including an unknown `kind` and an `extra` that is not an object."""
    known = {"id", "question", "answer", "solution", "steps", "choices", "split"}
    rest = {name: value for name, value in fields.items() if name not in known}
    if rest.get("kind") in get_args(Kind):
        del rest["kind"]
    if isinstance(rest.get("extra"), Mapping):
        rest |= rest.pop("extra")
    return {name: value for name, value in rest.items() if not _empty(value)}


_SAYS = re.compile(r"\banswer\**\s*(?:is\b|:)", re.IGNORECASE)
_ONLY_SAYS = re.compile(r"\W*(?:(?:so|the|final|correct)\s+)*answer\**\s*(?:is\b|:)[^\n]*", re.IGNORECASE)


def _is_worked(answer: str) -> bool:
    """Return whether an answer is marked within its working: `#### 72`, a box, or "so the answer is 72" at its end."""
    if "####" in answer or "\\boxed" in answer:
        return True
    stated = final_answer(answer) if _SAYS.search(answer) else None
    return bool(stated and answer.rstrip(" .*").endswith(stated.rstrip(" .*")))


def _working(worked: str) -> str:
    """Return a worked solution without the `#### 72` below it, which is the answer; "" for a bare statement."""
    before, hashes, after = worked.rpartition("####")
    if hashes and "\\boxed" not in after:
        return before.strip()
    return "" if _ONLY_SAYS.fullmatch(worked) else worked.strip()


def _text(value: Any, name: str, *, required: bool = False, as_is: bool = False) -> str:
    if isinstance(value, list | tuple | Mapping | bytes):
        raise BadRow(f"{name} is {value!r:.40}, not text or a number")
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float) and not math.isnan(value):
        text = str(int(value)) if value.is_integer() else str(value)  # one gap in a column turns every 12 into 12.0
    else:
        text = "" if _empty(value) else str(value)
    if required and not text.strip():
        raise BadRow(f"{name} is empty")
    if text != encodable(text) or "\0" in text:
        raise BadRow(f"{name} contains half of a character (a lone surrogate) or a NUL")
    return text if as_is else text.strip()


def _empty(value: Any) -> bool:
    return value is None or value in ("", [], ()) or isinstance(value, float) and math.isnan(value)


def _choices(value: Any) -> tuple[str, ...]:
    """Read choices in any form: a list, letter -> text, ARC's text and label, or one cell of CSV."""
    if isinstance(value, str):
        value = _cut(value.strip())
    if isinstance(value, Mapping):
        value = value["text"] if "text" in value else [value[key] for key in sorted(value)]
    if _empty(value):
        return ()
    if not isinstance(value, list | tuple):
        raise BadRow(f"choices is {value!r:.40}, not a list of choices")
    choices = tuple(_text(item, "choices") for item in value)
    if len(choices) < 2 or not all(choices) or len(choices) > 26:
        raise BadRow(f"choices must be 2 to 26 texts, none of them empty, but is {shortened(' | '.join(choices))}")
    return choices


def _cut(cell: str) -> Any:
    if not cell:
        return None
    if cell.startswith(("[", "{")):
        try:
            return json.loads(cell)
        except json.JSONDecodeError:
            raise BadRow("choices begins like JSON but is not") from None
    if "|" not in cell:
        raise BadRow("choices cannot be split at |; write red | blue, or a JSON list")
    return [text.strip() for text in cell.split("|")]


def _letter(answer: str, choices: tuple[str, ...]) -> str:
    last = chr(ord("A") + len(choices) - 1)
    if (letter := re.fullmatch(r"\(?([A-Za-z])[).:]?", answer)) and letter[1].upper() <= last:
        return letter[1].upper()
    same = [number for number, choice in enumerate(choices) if choice.casefold() == answer.casefold()]
    if len(same) != 1:
        raise BadRow(f"answer is {shortened(answer)}, but the choices are A to {last}")
    return chr(ord("A") + same[0])


def _plain(value: Any) -> Any:
    """Convert a value to what JSON can hold: Parquet has dates and decimals."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, int | float | bool) else encodable(str(value))
