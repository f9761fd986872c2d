r"""Compare two values as answers, as leniently as the benchmarks, rule by rule.

compare_answers(read("10 %"), read("0.1"), ask) -> Verdict(same=True, how="equal as a percentage")
compare_answers(read("5 km"), read("5 m"), ask) -> Verdict(same=False, how="the units differ: km and m")

A unit, name or pair of brackets on one side only is ignored; on both sides they must agree. Decimals are equal if they
agree rounded to 6 places, as in math-verify (below 0.001: to 6 digits); others are exact. Two expressions that need
symbolic math are passed to `ask`.
"""

import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from plantune_lite.grading import units
from plantune_lite.grading.values import (
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
from plantune_lite.types import Verdict

_MOST_COMPARED = 100  # elements of an unordered list that have no identical match

Ask = Callable[[str, str], Verdict]  # two expressions in LaTeX, given and gold


def yes(how: str) -> Verdict:
    """Return the verdict "the same"."""
    return Verdict(same=True, how=how)


def no(how: str) -> Verdict:
    """Return the verdict "another answer"."""
    return Verdict(same=False, how=how)


def unsure(how: str) -> Verdict:
    """Return the verdict "undecided"."""
    return Verdict(same=None, how=how)


def decided(same: bool, how_same: str, how_not: str) -> Verdict:
    """Return yes or no."""
    return Verdict(same=same, how=how_same if same else how_not)


def compare_answers(given: Value, gold: Value, ask: Ask) -> Verdict:
    """Return whether the given value is the gold one, and by which rule."""
    match given, gold:
        case (Unreadable(why=why), _) | (_, Unreadable(why=why)):
            return yes("same text") if given.latex and given.latex == gold.latex else unsure(f"cannot be read: {why}")
        case Equation(), Equation():
            return _equations(given, gold, ask)
        case (Equation(), Expression()) | (Expression(), Equation()) if "=" in given.latex and "=" in gold.latex:
            return ask(given.latex, gold.latex)
        case Equation(), _:
            return compare_answers(given.value, gold, ask)
        case _, Equation():
            return compare_answers(given, gold.value, ask)
        case Group(), Group():
            return _groups(given, gold, ask)
        case (Group(), _) | (_, Group()):
            return _group_and_one(given, gold, ask)
        case Letter(), Letter():
            same_rest = not (given.rest and gold.rest) or fold(given.rest) == fold(gold.rest)
            return decided(given.letter == gold.letter and same_rest, "same letter", "different letters")
        case (Letter(rest=""), Expression()) | (Expression(), Letter(rest="")):
            return ask(given.latex, gold.latex)
        case Letter(), _ if given.rest:
            return compare_answers(read(given.rest), gold, ask)
        case _, Letter() if gold.rest:
            return compare_answers(given, read(gold.rest), ask)
        case (Number() | Expression(), Number() | Expression()) if not units.agree(given.unit, gold.unit):
            return no(f"the units differ: {' '.join(given.unit)} and {' '.join(gold.unit)}")
        case Number(), Number():
            return _numbers(given, gold)
        case Number() | Expression(), Number() | Expression():
            return _expressions(given, gold, ask)
        case (Letter(latex=symbol), Number()) | (Number(), Letter(latex=symbol)) if symbol.islower():
            return no("a symbol is not a number")
        case (LongNumber(), LongNumber() | Number()) | (Number(), LongNumber()):
            return decided(given.latex == gold.latex, "equal as numbers", "different numbers")
        case Time(), Time():
            return _times(given, gold)
        case YesNo(), YesNo():
            return decided(given.yes == gold.yes, "both are " + ("yes" if gold.yes else "no"), "yes is not no")
        case _, Text():
            return decided(fold(given.latex) == fold(gold.latex), "same text", "different texts")
        case _:
            return unsure(f"cannot be compared with the gold answer: {shortened(given.latex)}")


def shortened(text: str) -> str:
    """Shorten a text for a message."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _numbers(given: Number, gold: Number) -> Verdict:
    rounded = "decimal" in (given.form, gold.form)
    if _close(given.value, gold.value, rounded):
        return yes("equal as numbers")
    if ("%" in given.unit) != ("%" in gold.unit):  # 10 % is 0.1 as well as 10
        left, right = (value.value / 100 if "%" in value.unit else value.value for value in (given, gold))
        return decided(_close(left, right, rounded), "equal as a percentage", "different numbers")
    return no("different numbers")


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
    return decided(same, "the same time", "different times")


def _minutes(time: Time) -> Fraction:
    return time.minutes % 720 + (720 if time.half == "pm" else 0) if time.half else time.minutes % 1440


def _expressions(given: Number | Expression, gold: Number | Expression, ask: Ask) -> Verdict:
    verdict = ask(_latex(given), _latex(gold))
    if verdict.same is False and any(
        isinstance(value, Number) and len("".join(value.unit)) == 1 for value in (given, gold)
    ):
        written = [value.written if isinstance(value, Number) else value.latex for value in (given, gold)]
        return ask(*written) if all(written) else verdict  # "6 m" against "6m": a symbol after all
    return verdict


def _latex(value: Value) -> str:
    if isinstance(value, Number) and value.form != "decimal" and value.value.numerator.bit_length() < 3000:
        top, bottom = value.value.numerator, value.value.denominator
        return str(top) if bottom == 1 else rf"{'-' if top < 0 else ''}\frac{{{abs(top)}}}{{{bottom}}}"
    return value.latex


def _equations(given: Equation, gold: Equation, ask: Ask) -> Verdict:
    left, right = (name if len(name) < 3 else name.casefold() for name in (given.name, gold.name))
    if left and right and left != right:
        return no(f"different names: {given.name} and {gold.name}")
    value = given.value
    if given.argument != gold.argument and len(given.argument) == len(gold.argument) == 1:  # f(n)=n is f(x)=x
        letters = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
        value = read(letters.sub(lambda m: gold.argument if m[0] == given.argument else m[0], value.latex))
    return compare_answers(value, gold.value, ask)


# --- several values ---------------------------------------------------------------------------------------------------


def _groups(given: Group, gold: Group, ask: Ask) -> Verdict:
    given, gold = _as_vector(given, gold), _as_vector(gold, given)
    if "∪" in (given.opening, gold.opening):
        verdict = _unordered(given, gold, ask) if given.opening == gold.opening else None
        return verdict if verdict and verdict.same else ask(given.latex, gold.latex)
    ordered = [group.opening in ("(", "[") for group in (given, gold)]
    if any(ordered) and "{" in (given.opening, gold.opening):
        return no("a set is not a tuple")
    if not any(ordered):
        return _unordered(given, gold, ask)
    if len(given.items) != len(gold.items):
        return no(f"{len(given.items)} answers against {len(gold.items)}")
    brackets = [group.opening + group.closing for group in (given, gold)]
    if len(given.items) == 2 and brackets[0] != brackets[1]:
        if all(ordered):
            return no(f"the brackets differ: {given.opening}{given.closing} and {gold.opening}{gold.closing}")
        if "()" not in brackets:
            return unsure("ambiguous: an interval or a list")
    return _all([compare_answers(left, right, ask) for left, right in zip(given.items, gold.items, strict=True)])


def _as_vector(group: Group, other: Group) -> Group:
    """Turn a matrix of one row or column into a tuple, where the other side is not a matrix."""
    if group.opening != "[" or any(isinstance(item, Group) for item in other.items):
        return group
    if len(group.items) == 1 and isinstance(row := group.items[0], Group):
        return Group(group.latex, "(", row.items, ")")
    rows = [item for item in group.items if isinstance(item, Group) and len(item.items) == 1]
    if len(rows) == len(group.items):
        return Group(group.latex, "(", tuple(row.items[0] for row in rows), ")")
    return group


def _unordered(given: Group, gold: Group, ask: Ask) -> Verdict:
    left, right = list(given.items), list(gold.items)
    if given.opening == gold.opening == "{":
        left, right = list(dict.fromkeys(left)), list(dict.fromkeys(right))
    if len(left) != len(right):
        return no(f"{len(left)} answers against {len(right)}")
    alike = Counter(left) & Counter(right)
    left, right = (list((Counter(items) - alike).elements()) for items in (left, right))
    if len(right) > _MOST_COMPARED:
        return unsure(f"{len(right)} answers are too many to compare one by one")
    return _all([_take(left, wanted, ask) for wanted in right])


def _take(items: list[Value], wanted: Value, ask: Ask) -> Verdict:
    """Return whether one of the values is the wanted one, and remove it."""
    undecided = None
    for item in items:
        verdict = compare_answers(item, wanted, ask)
        if verdict.same:
            items.remove(item)
            return verdict
        undecided = verdict if verdict.same is None else undecided
    return undecided or no(f"{shortened(wanted.latex)} is missing")


def _all(verdicts: list[Verdict]) -> Verdict:
    return min(verdicts, key=lambda verdict: (False, None, True).index(verdict.same), default=yes("both are empty"))


def _group_and_one(given: Value, gold: Value, ask: Ask) -> Verdict:
    group, single = (given, gold) if isinstance(given, Group) else (gold, given)
    assert isinstance(group, Group)
    if len(group.items) == 1 and group.opening in ("[", "{"):
        [several] = group.items
    elif isinstance(single, Number) and group.opening == "" and "," in single.written:  # 100,200 against 100, 200
        several, single = group, read(single.written, thousands=False)
    elif isinstance(single, Expression) and re.search(r"[<>]|\\(?:le|ge|ne|cup)(?![A-Za-z])", single.latex):
        return ask(given.latex, gold.latex)
    elif group.opening == "or" or (single is given and isinstance(single, Text | YesNo | Letter)):
        return unsure(f"ambiguous: {shortened(group.latex)} and {shortened(single.latex)}")
    else:
        return no(f"{len(group.items)} answers against one")
    return compare_answers(several, single, ask) if given is group else compare_answers(single, several, ask)
