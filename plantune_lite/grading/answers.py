r"""Grade answers: extract the final answer from a text, and decide whether two answers are the same.

final_answer(r"... so she pays \boxed{\$12.50}.") -> r"\$12.50"
same_answer("$12.50", "12.5") -> Verdict(same=True, how="equal as numbers")
same_answer("5 or 6", "5") -> Verdict(same=None, how="ambiguous: '5 or 6'")

None instead of True or False means: empty, unreadable, ambiguous or timed out; `how` says which. An answer is parsed
into a typed value (values.py) and compared by rules (compare.py); only symbolic expressions go to math-verify, in a
worker process, `python -m plantune_lite.grading.sympy_worker`.
"""

import re
from collections.abc import Sequence

from plantune_lite.grading import sympy_worker
from plantune_lite.grading.compare import Ask, compare_answers, decided, shortened, unsure, yes
from plantune_lite.grading.normalize import clean
from plantune_lite.grading.values import Expression, Letter, Text, Unreadable, fold, read
from plantune_lite.types import Verdict

DEADLINE_SECONDS = 1.0  # for the worker and one pair of answers

# --- the final answer of a text ---------------------------------------------------------------------------------------

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"(?<!#)####(?!#)([^\n]*)")
_HEADING = re.compile(r"\W*(?:step|final answer|answer|solution|conclusion|summary)\b", re.IGNORECASE)
_STATED = re.compile(
    r"\b(?:answer|correct (?:option|choice))(?:\*\*)?[ \t]*(?:is(?:\*\*)?[ \t]*:?|:)(?:\*\*)?[ \t]*(?:\n\s*)?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\.(?:\*\*)?\s+(?=[A-Z])|\.(?=\$?\s*$)")
_LETTER_ALONE = re.compile(r"[*_ ]*(\([A-Za-z]\)|[A-Z])[.)*_ ]*")


def final_answer(text: str) -> str | None:
    """Return the last boxed answer, else what follows `####`, else "The answer is", else a lone letter as last line."""
    for find in (_last_box, _after_hashes, _last_stated, _last_letter):
        if answer := find(text):
            return answer
    return None


def _last_box(text: str) -> str | None:
    last = None
    open_: list[int] = []  # where the content of each open brace starts; 0 where it is not a box
    for match in _BOX_OR_BRACE.finditer(text):
        if match[0] == "}":
            start = open_.pop() if open_ else 0
            if start and (content := text[start : match.start()].strip()):
                last = content
        elif match[0].endswith("{") and match[0] != r"\{":
            open_.append(match.end() if len(match[0]) > 1 else 0)
    return last


def _after_hashes(text: str) -> str | None:
    matches = [match for match in _HASHES.finditer(text) if match[1].strip() and not _HEADING.match(match[1])]
    for match in reversed(matches):
        if any(char.isdigit() for char in match[1]) or not text[match.end() :].strip():
            return match[1].strip()
    return None


def _last_stated(text: str) -> str | None:
    ends = len(text)
    for match in reversed(list(_STATED.finditer(text))):
        if answer := _first_sentence(text[match.end() : ends].partition("\n")[0]):
            return answer
        ends = match.start()
    return None


def _first_sentence(line: str) -> str:
    line = line.strip()
    end = _SENTENCE_END.search(line)
    return (line[: end.start()] if end else line).strip().strip("*").strip()


def _last_letter(text: str) -> str | None:
    match = _LETTER_ALONE.fullmatch(text.rstrip().rpartition("\n")[2].strip()[:12])
    return match[1] if match else None


# --- comparing two answers --------------------------------------------------------------------------------------------


def same_answer(given: str | None, gold: str, *, choices: Sequence[str] = ()) -> Verdict:
    """Return whether an answer is the gold answer, as leniently as the benchmarks do."""
    if not given or not given.strip():
        return unsure("no answer")
    if not gold.strip():
        return unsure("no gold answer")
    if choices:
        return _same_choice(given, gold, choices, _within_deadline())
    if given.strip() == gold.strip():
        return yes("same text")
    return compare_answers(read(given), read(gold), _within_deadline())


def _within_deadline() -> Ask:
    """Give the worker one deadline, shared by all calls for one pair of answers."""
    left = DEADLINE_SECONDS

    def ask(given: str, gold: str) -> Verdict:
        nonlocal left
        if given.replace(" ", "") == gold.replace(" ", ""):
            return yes("same text")
        if left <= 0:
            return unsure(f"timed out after {DEADLINE_SECONDS:.2g} s")
        judged = sympy_worker.same(given, gold, seconds=left)
        left -= judged.seconds
        return judged.verdict

    return ask


# --- choices ----------------------------------------------------------------------------------------------------------


def _same_choice(given: str, gold: str, choices: Sequence[str], ask: Ask) -> Verdict:
    wanted = _gold_choice(gold, choices, ask)
    meant = _by_letter_or_text(given, choices, ask)
    if len(wanted) != 1:
        return unsure(f"the gold answer {shortened(gold)} names {len(wanted) or 'none'} of the choices")
    if len(meant) > 1:
        return unsure("ambiguous: may be " + " or ".join(chr(65 + number) for number in sorted(meant)))
    if meant:
        return decided(meant == wanted, "the same choice", "another choice")
    verdict = compare_answers(read(given), read(choices[wanted.pop()]), ask)
    return verdict if verdict.same is False else unsure("names none of the choices")


def _gold_choice(gold: str, choices: Sequence[str], ask: Ask) -> set[int]:
    named = _by_letter_or_text(gold, choices, ask)
    return named & _by_letter(gold, choices) if len(named) > 1 else named  # a gold letter means the letter


def _by_letter(text: str, choices: Sequence[str]) -> set[int]:
    value = read(text)
    number = ord(value.letter) - ord("A") if isinstance(value, Letter) else -1
    return {number} & set(range(len(choices)))


def _by_text(text: str, choices: Sequence[str], ask: Ask) -> set[int]:
    """Return the choices with exactly this text, else with other case or formatting, else with the same value."""
    wanted = read(text)
    values = [read(choice) for choice in choices]
    for same in (
        lambda value: value.latex == wanted.latex,
        lambda value: isinstance(wanted, Text) and fold(value.latex) == fold(wanted.latex),
        lambda value: compare_answers(wanted, value, ask).same,
    ):
        if matching := {number for number, value in enumerate(values) if same(value)}:
            return matching
    return set()


def _by_letter_or_text(text: str, choices: Sequence[str], ask: Ask) -> set[int]:
    """Return the choices that a text may mean; more than one where its letter and its text disagree."""
    value = read(text)
    exact = {number for number, choice in enumerate(choices) if clean(choice) == clean(text)}
    if not isinstance(value, Letter):
        return exact or _by_text(text, choices, ask)
    if not value.rest:
        return exact | _by_letter(text, choices)
    return exact or _by_letter(text, choices) | _by_text(value.rest, choices, ask)  # exact: "E. coli"


# --- answers that can be checked --------------------------------------------------------------------------------------

_PROSE_WORDS = 8


def can_check(gold: str, choices: Sequence[str] = ()) -> bool:
    """Tell whether the grader can check answers against this gold answer."""
    if choices:
        return len(_gold_choice(gold, choices, _within_deadline())) == 1
    value = read(gold)
    if isinstance(value, Expression):
        return sympy_worker.same(value.latex, value.latex, seconds=DEADLINE_SECONDS).verdict.same is True
    prose = isinstance(value, Text | Letter) and len(gold.split()) > _PROSE_WORDS
    return not (prose or isinstance(value, Unreadable))
