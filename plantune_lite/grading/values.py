r"""Parse an answer into a typed value; nothing is compared, simplified or run here.

read("$1{,}234.50") -> Number(1234.5, unit "$")        read("(0, 5]") -> Group("(", (Number(0), Number(5)), "]")
read(r"x=2\sqrt{3} \text{ cm}") -> Equation("x", Expression(r"2\sqrt{3}", unit "cm"))
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from plantune_lite.grading import units
from plantune_lite.grading.arithmetic import evaluate
from plantune_lite.grading.normalize import CLOSE_SET, OPEN_SET, clean, closing, outside_brackets

MAX_CHARACTERS = 2_000  # of an answer; a longer one is read only if it is one plain number
_MAX_DIGITS = 4_000  # of a number; Python refuses to parse more than 4,300
_MAX_NESTING = 20


@dataclass(frozen=True)
class Value:
    """A parsed answer."""

    latex: str  # normalised, without unit: the input of a LaTeX parser


@dataclass(frozen=True)
class Number(Value):
    """An exact number."""

    value: Fraction
    form: str = "whole number"  # or "decimal", "fraction"
    unit: tuple[str, ...] = ()
    written: str = ""  # with its unit


@dataclass(frozen=True)
class LongNumber(Value):
    """A number with more digits than Python parses: compared digit by digit."""


@dataclass(frozen=True)
class Expression(Value):
    """An expression that needs symbolic math."""

    unit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Time(Value):
    """A time of day; `half` is "am", "pm" or, where it is not given, ""."""

    minutes: Fraction
    half: str


@dataclass(frozen=True)
class YesNo(Value):
    """Yes or true, no or false."""

    yes: bool


@dataclass(frozen=True)
class Letter(Value):
    """One letter, as of a choice, and the text that may follow it: "(B) 42"."""

    letter: str
    rest: str = ""


@dataclass(frozen=True)
class Equation(Value):
    """A name and its value; `f(x)=2x` has the name f and the argument x."""

    name: str
    argument: str
    value: Value


@dataclass(frozen=True)
class Group(Value):
    """Several values. `opening` is one of ( [ { and, where there are no brackets, "", "or" or "∪"."""

    opening: str
    items: tuple[Value, ...]
    closing: str = ""


@dataclass(frozen=True)
class Text(Value):
    """Words; case, outer punctuation and a leading article do not matter."""


@dataclass(frozen=True)
class Unreadable(Value):
    """A value that cannot be checked, and why."""

    why: str


def read(text: str, *, thousands: bool = True) -> Value:
    """Parse an answer into its value; without `thousands`, 1,234 is a list of two numbers."""
    if thousands and (match := _PLAIN.fullmatch(text)):  # most answers: no need to look for anything else
        return _plain_number(match)
    if len(text) > MAX_CHARACTERS:
        return _read_long(text)
    cleaned = clean(text)
    try:
        return _read(cleaned, 0, thousands) if cleaned else Unreadable("", "empty")
    except OverflowError:
        return Unreadable(cleaned, "a number too large to compute")


_OUTER = " .,;:!?'\"`()[]{}*_~"  # without signs: -1 is not 1


def fold(text: str) -> str:
    """Fold a text for comparison; keep punctuation where there are no words: `> ) ]` is an answer too."""
    if not any(char.isalnum() for char in text):
        return "".join(text.split())
    folded = text.casefold().strip(_OUTER)
    for article in ("the ", "a ", "an "):
        folded = folded.removeprefix(article)
    return " ".join(folded.split())


# --- numbers ----------------------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"\s*(-?)(\$?)([0-9]{1,3}(?:,[0-9]{3}){1,100}|[0-9]{1,400})(\.[0-9]{1,400})?(%?)\.?\s*")
_LONG = re.compile(r"\s*(-?)([0-9][0-9,]*)(?:\.([0-9]*))?\.?\s*")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_ONE_WITH_THOUSANDS = re.compile(r"[-+$€£¥₹ ]*[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?[^0-9,;]*")
_RATIO = re.compile(r"([0-9]{1,9})\s*(?::|out of|to)\s*([0-9]{1,9})")
_NUMBER_WORD = re.compile(r"(minus |negative )?([A-Za-z]+)(.*)", re.DOTALL)
_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty"""
_NUMBER_WORDS = {word: number for number, word in enumerate(_TO_TWENTY.split())}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def _plain_number(match: re.Match[str]) -> Number:
    minus, dollar, whole, decimals, percent = match.groups()
    digits = minus + whole.replace(",", "") + (decimals or "")
    unit = ("$",) if dollar else ("%",) if percent else ()
    form = "decimal" if decimals else "whole number"
    return Number(digits, Fraction(digits), form, unit, whole if "," in whole else "")


def _read_long(text: str) -> Value:
    if not (match := _LONG.fullmatch(text)):
        return Unreadable("", f"{len(text):,} characters are too long for an answer")
    whole, decimals = match[2].replace(",", "").lstrip("0") or "0", (match[3] or "")[:1000].rstrip("0")
    digits = match[1] + whole + (decimals and "." + decimals)
    if len(digits) > _MAX_DIGITS:
        return LongNumber(digits)
    return Number(digits, Fraction(digits), "decimal" if decimals else "whole number")


def _read_number(text: str) -> Value | None:
    if (match := _RATIO.fullmatch(text)) and int(match[2]):
        return Number(rf"\frac{{{match[1]}}}{{{match[2]}}}", Fraction(int(match[1]), int(match[2])), "fraction")
    if (match := _NUMBER_WORD.fullmatch(text)) and match[2].lower() in _NUMBER_WORDS:
        text = f"{'-' if match[1] else ''}{_NUMBER_WORDS[match[2].lower()]}{match[3]}"
    core, unit = units.split(text)
    core = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), core)
    if (value := evaluate(core)) is None:
        return None
    for word in unit:
        value *= _SCALES.get(word, 1)
    form = "decimal" if "." in core else "whole number" if value.denominator == 1 else "fraction"
    return Number(core, value, form, tuple(word for word in unit if word not in _SCALES), text)


# --- words, times, letters --------------------------------------------------------------------------------------------

_YES_NO = re.compile(r"(yes|true|no|false)(?:\s*[.,;:!-]\s.*)?", re.IGNORECASE | re.DOTALL)
_TIME = re.compile(
    r"(?P<h>[0-9]{1,2}):(?P<m>[0-5][0-9])(?::(?P<s>[0-5][0-9]))?\s*(?:(?P<half>[ap])\.?\s?m\.?|o'?clock)?"
    r"|(?P<hour>[0-9]{1,2})\s*(?:(?P<half_>[ap])\.?\s?m\.?|o'?clock)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?:(?:option|choice|answer)\s+)?(?:\(\s*([a-z])\s*\)|([a-z])\)?)", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
    r"(?:(?:option|choice)\s+)?(?:\(([A-Za-z])\)[:.]?|([A-Z])[.):])\s*(?![-+*/^=<>(]|[A-Za-z][.):])(\S.*)", re.DOTALL
)


def _read_word(text: str) -> Value | None:
    if match := _YES_NO.fullmatch(text):
        return YesNo(text, match[1].lower() in ("yes", "true"))
    if match := _TIME.fullmatch(text):
        hour, half = int(match["h"] or match["hour"]), (match["half"] or match["half_"] or "").lower()
        if hour <= (12 if half else 24):
            minutes = Fraction(60 * hour + int(match["m"] or 0)) + Fraction(int(match["s"] or 0), 60)
            return Time(text, minutes, half and half + "m")
    if match := _LETTER.fullmatch(text):
        return Letter(match[1] or match[2], (match[1] or match[2]).upper())
    if match := _LETTER_AND_TEXT.fullmatch(text):
        return Letter(text, (match[1] or match[2]).upper(), match[3])
    return None


# --- lists, brackets, equations ---------------------------------------------------------------------------------------

_SEPARATOR = re.compile(
    rf"[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\cup(?![A-Za-z])|(?<=[)\]{CLOSE_SET}]) [uU] (?=[(\[{OPEN_SET}])"
)
_SUBSCRIPT = re.compile(r"_\s*(?:\{[^{}]*\}|[A-Za-z0-9])")
_NAME = re.compile(r"([^-0-9+*/^<>()|=,]*)(?:\(\s*([A-Za-z](?:\s*,\s*[A-Za-z])*)\s*\))?")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")


def _split(text: str, separator: re.Pattern[str]) -> tuple[list[str], set[str]]:
    """Split at the separators outside all brackets; return the parts and the separators."""
    outside = set(outside_brackets(text))
    parts, seen, last = [], set(), 0
    for match in separator.finditer(text):
        if match.start() in outside:
            parts.append(text[last : match.start()].strip())
            seen.add(match[0].strip().lower())
            last = match.end()
    return [part for part in [*parts, text[last:].strip()] if part], seen


def _read_items(parts: list[str], depth: int) -> tuple[Value, ...]:
    items: list[Value] = []
    for part in parts:
        value = _read(part.strip("'\" ") or part, depth + 1)
        items += value.items if isinstance(value, Group) and value.opening == "" and r"\pm" in part else [value]
    return tuple(items)


def _read_list(text: str, parts: list[str], separators: set[str], depth: int) -> Value:
    items = _read_items(parts, depth)
    if all(isinstance(item, Text | Letter) for item in items) and separators <= {",", ";", "and", "or"}:
        return Text(text)  # prose; a list of words keeps its order
    opening = "∪" if separators <= {"\\cup", "u"} else "or" if "or" in separators else ""
    return items[0] if len(items) == 1 else Group(text, opening, items)


def _read_brackets(text: str, depth: int) -> Value | None:
    parts, _ = _split(text[1:-1], _SEPARATOR)
    if text[0] == "(" and len(parts) < 2:
        return None  # (5), (x+1)
    return Group(
        text, {OPEN_SET: "{"}.get(text[0], text[0]), _read_items(parts, depth), text[-1].replace(CLOSE_SET, "}")
    )


def _read_equation(text: str, depth: int) -> Value | None:
    sides, _ = _split(text, _EQUALS)
    if len(sides) < 2 or not all(sides):
        return None
    left, right = sides[0], sides[-1]
    if not (match := _NAME.fullmatch(_SUBSCRIPT.sub("", left))):
        if evaluate(left) is not None and not _NAME.fullmatch(right):
            return _read(right, depth + 1)  # 2+3=5
        left, right = right, left  # 5=x
        if len(sides) > 2 or evaluate(right) is None or not (match := _NAME.fullmatch(_SUBSCRIPT.sub("", left))):
            return None
    argument = re.sub(r"\s", "", match[2] or "")
    name = re.sub(r"[\s{}]", "", left if not argument else left[: left.rindex("(")])
    return Equation(text, name, argument, _read(right, depth + 1))


def _read(text: str, depth: int, thousands: bool = True) -> Value:
    if not text:
        return Unreadable("", "a part of it is empty")
    if depth > _MAX_NESTING:
        return Unreadable(text, f"more than {_MAX_NESTING} brackets inside one another")
    if value := _read_word(text):
        return value
    parts, separators = _split(text, _SEPARATOR)
    one_number = thousands and depth == 0 and separators == {","} and _ONE_WITH_THOUSANDS.fullmatch(text)
    if separators and not one_number and parts:
        return _read_list(text, parts, separators, depth)
    if "=" in text and (equation := _read_equation(text, depth)):
        return equation
    if text[0] in "([" + OPEN_SET and closing(text) == len(text) - 1 and (group := _read_brackets(text, depth)):
        return group
    if r"\pm" in text:
        signs = (("+", "-"), ("-", "+"))
        both = [text.replace(r"\pm", plus).replace(r"\mp", minus).strip() for plus, minus in signs]
        return Group(text, "", tuple(_read(each, depth + 1) for each in both))
    return _read_number(text) or _read_expression(text)


# --- expressions or text ----------------------------------------------------------------------------------------------

_MATHEMATICAL = re.compile(r"[0-9\\^_+*/=<>|!-]|\)")
_NO_LETTERS = re.compile(r"\\[A-Za-z]+|_\s*\{[^{}]*\}")
_LONG_NAMES = frozenset(
    ("sqrt", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "alpha", "beta", "gamma", "theta")
)


def _read_expression(text: str) -> Value:
    core, unit = units.split(text)
    return Expression(core, unit) if _is_mathematics(core) else Text(text)


def _is_mathematics(text: str) -> bool:
    """Return whether letters are symbols here; words of four letters or more, and two words in a row, are prose."""
    bare = _NO_LETTERS.sub(" 0 ", text)
    runs = re.findall(r"[A-Za-z]+", bare)
    return (
        _MATHEMATICAL.search(text) is not None
        and any(char.isalnum() for char in text)
        and all(len(run) <= 3 or run.lower() in _LONG_NAMES for run in runs)
        and re.search(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}", bare) is None
    )
