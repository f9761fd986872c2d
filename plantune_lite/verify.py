r"""The grader: the final answer in a text, and whether two answers are the same.

final_answer(r"... so she pays \boxed{\$12.50}.") -> r"\$12.50"
same_answer("$12.50", "12.5") -> Verdict(True, "equal as numbers")       same_answer("5 km", "5 m") -> Verdict(False, "the units differ ...")

None instead of True or False means: empty, unreadable, ambiguous or timed out; `how` says which. Decimals count as equal when
they agree rounded to 6 places, as in math-verify (below 0.001: to 6 digits); whole numbers and fractions are compared exactly.
Whatever needs symbols goes to math-verify in a worker process, `python -m plantune_lite.verify`; see symbols.py.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from plantune_lite import symbols, units
from plantune_lite.records import Verdict
from plantune_lite.spelling import clean
from plantune_lite.values import (
    Equation,
    Expression,
    Group,
    Letter,
    LongNumber,
    Number,
    Text,
    Time,
    Unreadable,
    Value,
    YesNo,
    fold,
    read,
)

DEADLINE_SECONDS = 1.0  # the worker's, for one pair of answers

# --- the final answer of a text ---------------------------------------------------------------------------------------

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"(?<!#)####(?!#)([^\n]*)")
_HEADING = re.compile(r"\W*(?:step|final answer|answer|solution|conclusion|summary)\b", re.IGNORECASE)
_SAID = re.compile(
    r"\b(?:answer|correct (?:option|choice))(?:\*\*)?[ \t]*(?:is(?:\*\*)?[ \t]*:?|:)(?:\*\*)?[ \t]*(?:\n\s*)?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\.(?:\*\*)?\s+(?=[A-Z])|\.(?=\$?\s*$)")
_LETTER_ALONE = re.compile(r"[*_ ]*(\([A-Za-z]\)|[A-Z])[.)*_ ]*")


def final_answer(text: str) -> str | None:
    """The last boxed answer, else what stands after `####`, "Answer:" or "The answer is", else a choice letter alone on the last line."""
    for find in (_last_box, _after_hashes, _last_said, _last_letter):
        if answer := find(text):
            return answer
    return None


def _last_box(text: str) -> str | None:
    found = None
    open_: list[int] = []  # where the content of each open brace starts; 0 where it is no box
    for match in _BOX_OR_BRACE.finditer(text):
        if match[0] == "}":
            start = open_.pop() if open_ else 0
            if start and (content := text[start : match.start()].strip()):
                found = content
        elif match[0].endswith("{") and match[0] != r"\{":
            open_.append(match.end() if len(match[0]) > 1 else 0)
    return found


def _after_hashes(text: str) -> str | None:
    matches = [match for match in _HASHES.finditer(text) if match[1].strip() and not _HEADING.match(match[1])]
    for match in reversed(matches):
        if any(char.isdigit() for char in match[1]) or not text[match.end() :].strip():
            return match[1].strip()
    return None


def _last_said(text: str) -> str | None:
    ends = len(text)
    for match in reversed(list(_SAID.finditer(text))):
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


# --- whether two answers are the same ---------------------------------------------------------------------------------

Ask = Callable[[str, str], Verdict]  # two expressions in LaTeX, given and gold


def same_answer(given: str | None, gold: str, *, choices: Sequence[str] = ()) -> Verdict:
    """Whether an answer is the gold answer, as leniently as the benchmarks are."""
    if not given or not given.strip():
        return _unsure("no answer")
    if not gold.strip():
        return _unsure("no gold answer")
    if choices:
        return _same_choice(given, gold, choices, _within_deadline())
    if given.strip() == gold.strip():
        return _yes("same text")
    return _compare(read(given), read(gold), _within_deadline())


def _within_deadline() -> Ask:
    """The worker, with one deadline for all that one pair of answers needs of it."""
    left = DEADLINE_SECONDS

    def ask(given: str, gold: str) -> Verdict:
        nonlocal left
        if given.replace(" ", "") == gold.replace(" ", ""):
            return _yes("same text")
        if left <= 0:
            return _unsure(f"timed out after {DEADLINE_SECONDS:.2g} s")
        judged = symbols.same(given, gold, seconds=left)
        left -= judged.seconds
        return judged.verdict

    return ask


def _compare(given: Value, gold: Value, ask: Ask) -> Verdict:
    match given, gold:
        case (Unreadable(), _) | (_, Unreadable()):
            return _unreadable(given, gold)
        case Number(), Number():
            return _numbers(given, gold)
        case Equation(), Equation():
            return _equations(given, gold, ask)
        case (Equation(), Expression()) | (Expression(), Equation()) if "=" in given.latex and "=" in gold.latex:
            return ask(given.latex, gold.latex)
        case Equation(), _:
            return _compare(given.value, gold, ask)
        case _, Equation():
            return _compare(given, gold.value, ask)
        case Group(), Group():
            return _groups(given, gold, ask)
        case (Group(), _) | (_, Group()):
            return _group_and_one(given, gold, ask)
        case Letter(rest=""), Letter(rest=""):
            return _verdict(given.letter == gold.letter, "same letter", "different letters")
        case Letter(), Letter() if given.letter != gold.letter or not (given.rest and gold.rest):
            return _verdict(given.letter == gold.letter, "same letter", "different letters")
        case Letter(), Letter():
            return _verdict(fold(given.rest) == fold(gold.rest), "same text", "different texts")
        case (Letter(rest=""), Expression()) | (Expression(), Letter(rest="")):
            return ask(given.latex, gold.latex)
        case Letter(), _ if given.rest:
            return _compare(read(given.rest), gold, ask)
        case _, Letter() if gold.rest:
            return _compare(given, read(gold.rest), ask)
        case (Number() | Expression(), Expression()) | (Expression(), Number()):
            return _expressions(given, gold, ask)
        case LongNumber(), LongNumber():
            return _verdict(given.digits == gold.digits, "equal as numbers", "different numbers")
        case (Letter(latex=symbol), Number()) | (Number(), Letter(latex=symbol)) if symbol.islower():
            return _no("a symbol is not a number")
        case (LongNumber(), Number()) | (Number(), LongNumber()):
            return _no("different numbers")
        case Time(), Time():
            return _times(given, gold)
        case (Time(), Number()) | (Number(), Time()):
            return _unsure("ambiguous: a time or a ratio")
        case YesNo(), YesNo():
            return _verdict(given.yes == gold.yes, "both are " + ("yes" if gold.yes else "no"), "yes is not no")
        case Text(), Text():
            return _verdict(given.words == gold.words, "same text", "different texts")
        case _, Text():
            return _verdict(fold(given.latex) == gold.words, "same text", "different texts")
        case _:
            return _unsure(f"not {_a(gold)}: {_shortened(given.latex)}")


def _yes(how: str) -> Verdict:
    return Verdict(same=True, how=how)


def _no(how: str) -> Verdict:
    return Verdict(same=False, how=how)


def _unsure(how: str) -> Verdict:
    return Verdict(same=None, how=how)


def _verdict(same: bool, yes: str, no: str) -> Verdict:
    return Verdict(same=same, how=yes if same else no)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _a(value: Value) -> str:
    names = {
        Number: "a number",
        LongNumber: "a number",
        Expression: "an expression",
        Time: "a time of day",
        YesNo: "yes or no",
    }
    return names.get(type(value), "a choice letter" if isinstance(value, Letter) else "a list")


def _unreadable(given: Value, gold: Value) -> Verdict:
    if given.latex and given.latex == gold.latex:
        return _yes("same text")
    which, value = ("gold answer", gold) if isinstance(gold, Unreadable) else ("answer", given)
    return _unsure(f"the {which} cannot be read: {value.why}")


def _numbers(given: Number, gold: Number) -> Verdict:
    if not units.agree(given.unit, gold.unit):
        return _no(f"the units differ: {' '.join(given.unit)} and {' '.join(gold.unit)}")
    rounded = "decimal" in (given.form, gold.form)
    if _close(given.value, gold.value, rounded):
        return _yes("equal as numbers")
    if ("%" in given.unit) != ("%" in gold.unit):  # 10 % is 0.1 as well as 10
        left, right = (value.value / 100 if "%" in value.unit else value.value for value in (given, gold))
        return _verdict(_close(left, right, rounded), "equal as a percentage", "different numbers")
    return _no("different numbers")


def _close(left: Fraction, right: Fraction, rounded: bool) -> bool:
    if left == right or not rounded:
        return left == right
    largest = max(abs(left), abs(right))
    if largest < Fraction(1, 1000):
        return abs(left - right) <= largest / 1_000_000
    return abs(left - right) < 1 and round(left, 6) == round(right, 6)


def _times(given: Time, gold: Time) -> Verdict:
    (a, half_a), (b, half_b) = ((_minutes(time), time.half) for time in (given, gold))
    same = a == b
    if bool(half_a) != bool(half_b):  # 3:30 may be either half of the day, 15:30 only one
        same = same or max(a, b) % 720 == min(a, b) % 720 and (given if not half_a else gold).minutes < 13 * 60
    return _verdict(same, "the same time", "different times")


def _minutes(time: Time) -> Fraction:
    return time.minutes % 720 + (720 if time.half == "pm" else 0) if time.half else time.minutes % 1440


def _expressions(given: Number | Expression, gold: Number | Expression, ask: Ask) -> Verdict:
    if not units.agree(given.unit, gold.unit):
        return _no(f"the units differ: {' '.join(given.unit)} and {' '.join(gold.unit)}")
    verdict = ask(_latex(given), _latex(gold))
    if verdict.same is False and any(
        isinstance(value, Number) and len("".join(value.unit)) == 1 for value in (given, gold)
    ):
        written = [value.written if isinstance(value, Number) else value.latex for value in (given, gold)]
        return ask(*written) if all(written) else verdict  # "6 m" beside "6m": a symbol after all
    return verdict


def _latex(value: Value) -> str:
    if isinstance(value, Number) and value.form != "decimal" and value.value.numerator.bit_length() < 3000:
        top, bottom = value.value.numerator, value.value.denominator
        return str(top) if bottom == 1 else rf"{'-' if top < 0 else ''}\frac{{{abs(top)}}}{{{bottom}}}"
    return value.latex


def _equations(given: Equation, gold: Equation, ask: Ask) -> Verdict:
    left, right = (name if len(name) < 3 else name.casefold() for name in (given.name, gold.name))
    if left and right and left != right:
        return _no(f"different names: {given.name} and {gold.name}")
    value = given.value
    if given.argument != gold.argument and len(given.argument) == len(gold.argument) == 1:  # f(n)=n is f(x)=x
        letters = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
        value = read(letters.sub(lambda m: gold.argument if m[0] == given.argument else m[0], value.latex))
    return _compare(value, gold.value, ask)


# --- several values ---------------------------------------------------------------------------------------------------


def _groups(given: Group, gold: Group, ask: Ask) -> Verdict:
    given, gold = _as_vector(given, gold), _as_vector(gold, given)
    if "∪" in (given.opening, gold.opening):
        verdict = _unordered(given, gold, ask) if given.opening == gold.opening else None
        return verdict if verdict and verdict.same else ask(given.latex, gold.latex)
    ordered = [group.opening in ("(", "[") for group in (given, gold)]
    if any(ordered) and "{" in (given.opening, gold.opening):
        return _no("a set is not a tuple")
    if len(given.items) != len(gold.items) and not (given.opening == gold.opening == "{"):
        return _no(f"{len(given.items)} answers against {len(gold.items)}")
    if not any(ordered):
        return _unordered(given, gold, ask)
    brackets = [group.opening + group.closing for group in (given, gold)]
    if len(given.items) == 2 and brackets[0] != brackets[1]:
        if all(ordered):
            return _no(f"the brackets differ: {given.opening}{given.closing} and {gold.opening}{gold.closing}")
        if "()" not in brackets:
            return _unsure("ambiguous: an interval or a list")
    return _all([_compare(mine, theirs, ask) for mine, theirs in zip(given.items, gold.items, strict=True)])


def _as_vector(group: Group, other: Group) -> Group:
    """A matrix of one row or one column as a tuple, where the other side is no matrix."""
    if group.opening != "[" or any(isinstance(item, Group) for item in other.items):
        return group
    if len(group.items) == 1 and isinstance(row := group.items[0], Group):
        return Group(group.latex, "(", row.items, ")")
    if all(isinstance(item, Group) and len(item.items) == 1 for item in group.items):
        return Group(group.latex, "(", tuple(item.items[0] for item in group.items), ")")
    return group


def _unordered(given: Group, gold: Group, ask: Ask) -> Verdict:
    mine, theirs = list(given.items), list(gold.items)
    if given.opening == gold.opening == "{":
        mine, theirs = ([*{item.latex: item for item in items}.values()] for items in (mine, theirs))
    if len(mine) != len(theirs):
        return _no(f"{len(mine)} answers against {len(theirs)}")
    verdicts = []
    for wanted in theirs:
        undecided = None
        for item in sorted(mine, key=lambda item: item.latex != wanted.latex):
            verdict = _compare(item, wanted, ask)
            if verdict.same:
                mine.remove(item)
                break
            undecided = verdict if verdict.same is None else undecided
        else:
            verdict = undecided or _no(f"{_shortened(wanted.latex)} is missing")
        verdicts.append(verdict)
    return _all(verdicts)


def _all(verdicts: list[Verdict]) -> Verdict:
    for same in (False, None):
        for verdict in verdicts:
            if verdict.same is same:
                return verdict
    return _yes("equal one by one")


def _group_and_one(given: Value, gold: Value, ask: Ask) -> Verdict:
    group, one = (given, gold) if isinstance(given, Group) else (gold, given)
    if len(group.items) == 1 and group.opening in ("[", "{"):
        return _compare(*((group.items[0], one) if given is group else (one, group.items[0])), ask)
    if isinstance(one, Number) and group.opening == "" and "," in one.written:  # 100,200 beside 100, 200
        one = read(one.written, thousands=False)
        return _compare(*((group, one) if given is group else (one, group)), ask)
    if isinstance(one, Expression) and re.search(r"[<>]|\\(?:le|ge|ne|cup)(?![A-Za-z])", one.latex):
        return ask(given.latex, gold.latex)
    if group.opening == "or":
        return _unsure(f"ambiguous: {_shortened(group.latex)}")
    if one is given and isinstance(one, Text | YesNo | Letter):
        return _unsure(f"not a list: {_shortened(one.latex)}")
    return _no(f"{len(group.items)} answers against one")


# --- choices ----------------------------------------------------------------------------------------------------------


def _same_choice(given: str, gold: str, choices: Sequence[str], ask: Ask) -> Verdict:
    wanted, meant = _named(gold, choices, ask), _named(given, choices, ask)
    if len(wanted) != 1:
        return _unsure(f"the gold answer {_shortened(gold)} names {len(wanted) or 'none'} of the choices")
    if len(meant) > 1:
        return _unsure("ambiguous: may be " + " or ".join(chr(65 + number) for number in sorted(meant)))
    if meant:
        return _verdict(meant == wanted, "the same choice", "another choice")
    verdict = _compare(read(given), read(choices[wanted.pop()]), ask)
    return verdict if verdict.same is False else _unsure("names none of the choices")


def _named(text: str, choices: Sequence[str], ask: Ask) -> set[int]:
    """The choices that a text may mean, by letter or by text."""
    value = read(text)
    letter, rest = ({ord(value.letter) - 65}, value.rest) if isinstance(value, Letter) else (set(), text)
    letter &= set(range(len(choices)))
    words = fold(clean(text))
    exact = {number for number, choice in enumerate(choices) if fold(clean(choice)) == words}
    if isinstance(value, Letter):
        if not rest:
            return letter | exact
        return exact or letter | (_named(rest, choices, ask) - _letters_only(rest, choices))
    return exact or {number for number, choice in enumerate(choices) if _compare(value, read(choice), ask).same}


def _letters_only(text: str, choices: Sequence[str]) -> set[int]:
    value = read(text)
    return {ord(value.letter) - 65} if isinstance(value, Letter) and not value.rest else set()


# --- what kind of answer ----------------------------------------------------------------------------------------------

_PROSE_WORDS = 8


def answer_kind(gold: str, choices: Sequence[str] = ()) -> str:
    """What a gold answer is to the grader: "whole number", "choice", "interval" ... or "unchecked" where it could not be checked."""
    if choices:
        return "choice" if len(_named(gold, choices, _within_deadline())) == 1 else "unchecked"
    match read(gold) if gold.strip() else Unreadable("", "empty"):
        case Number(unit=unit, form=form):
            return "percent" if "%" in unit else "money" if {"$", "€", "£", "¥", "₹", "¢"} & set(unit) else form
        case LongNumber():
            return "whole number"
        case Time():
            return "time"
        case YesNo():
            return "yes/no"
        case Letter(rest=""):
            return "choice"
        case Group() as group:
            return _group_kind(group)
        case Equation():
            return "equation"
        case Expression(latex=latex):
            readable = symbols.same(latex, latex, seconds=DEADLINE_SECONDS).verdict.same
            return "expression" if readable else "unchecked"
        case Text() | Letter() if len(gold.split()) <= _PROSE_WORDS:
            return "text"
        case _:
            return "unchecked"


def _group_kind(group: Group) -> str:
    if (
        group.opening == "["
        and group.items
        and all(isinstance(row, Group) and row.opening == "[" for row in group.items)
    ):
        return "matrix"
    if group.opening == "∪" or "[" in group.opening + group.closing.replace("]", "[") and len(group.items) == 2:
        return "interval"
    if group.opening == "(" and any(r"\infty" in item.latex for item in group.items):
        return "interval"
    return "tuple" if group.opening in ("(", "[") else "set"


if __name__ == "__main__":
    symbols.serve()
