r"""Normalise the spelling of an answer: remove delimiters, emphasis and end punctuation, unify signs.

clean(r"$\boxed{\dfrac12}$.") -> r"\frac{1}{2}"      clean("**1½ m²**") -> "1 1/2 m^{2}"      clean("> ) ]") -> "> ) ]"
"""

import re
import unicodedata
from collections.abc import Iterator

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_UNICODE = str.maketrans({
    **dict.fromkeys("−‐‑‒–—﹣－", "-"),  # minus signs and dashes used as such
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),  # invisible
    "⁄": "/", "÷": "/", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "≤": r"\le ", "⩽": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ",
    "∩": r"\cap ", "±": r"\pm ", "√": r"\sqrt ", "∅": r"\emptyset ", "∈": "=", "“": '"', "”": '"', "’": "'", "‘": "'",
})  # fmt: skip

OPEN_SET, CLOSE_SET = "⦃", "⦄"  # \{ and \}: plain braces only hold LaTeX together
_DOLLAR = "\ue000"  # \$ is a currency, a bare $ may be a delimiter; a private character until delimiters are removed
_TEXT = "\ue001"  # stands for \text, \mathrm ... whose braces are removed too


def _each(commands: str, spelling: str) -> dict[str, str]:
    return dict.fromkeys(commands.split(), spelling)


_COMMANDS = {
    **_each(r"\dfrac \tfrac \cfrac", r"\frac"),
    **_each(r"\leq \leqslant", r"\le"),
    **_each(r"\geq \geqslant", r"\ge"),
    r"\neq": r"\ne",
    **_each(r"\left \right \big \Big \bigl \bigr \Bigl \Bigr \bigg \Bigg \displaystyle \textstyle", ""),
    **_each(r"\text \textbf \textit \textrm \mathrm \mathbf \mathit \mbox \boxed \fbox \bf \rm", _TEXT),
    **dict.fromkeys([r"\,", r"\;", r"\:", r"\ ", r"\\", r"\quad", r"\qquad", "\\\n"], " "),
    **dict.fromkeys([r"\(", r"\)", r"\[", r"\]", r"\!"], ""),
    **_each(r"\emptyset \varnothing", OPEN_SET + CLOSE_SET),
    **_each(r"\{ \lbrace", OPEN_SET),
    **_each(r"\} \rbrace", CLOSE_SET),
    **_each(r"\degree \textdegree", "°"),
    **_each(r"\ldots \dots \cdots", "..."),
    r"\%": "%", r"\$": _DOLLAR, r"\#": "#", r"\&": "&", r"\_": "_", r"\in": "=", r"\pounds": "£", r"\euro": "€",
}  # fmt: skip
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
_THIN_SPACE = re.compile(r"(?<=[0-9])(?:\\[,! ]|\{,\}|,\\!|[\u202f\u2009\xa0])(?=[0-9]{3}(?![0-9]))")
_TEXT_GROUP = re.compile(_TEXT + r"\s*\{([^{}]*)\}")
_SHORT_FORMS = (
    (re.compile(r"\\frac\s*([0-9A-Za-z])\s*([0-9A-Za-z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*([0-9A-Za-z])\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"\\frac\s*(\{[^{}]*\})\s*([0-9A-Za-z])"), r"\\frac\1{\2}"),
    (re.compile(r"\\sqrt\s*([0-9]+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)"), "°"),
)
_MATHEMATICS = re.compile(r"\$(?![0-9][^$]*\$[0-9])([^$]*)\$")  # "$x$ costs $5", but "$5 and $6" are two amounts
_EUROS = re.compile(r"(€ ?)?(-?[0-9]{1,3}(?:\.[0-9]{3})+|-?[0-9]+),([0-9]{2})( ?(?:€|EUR|[Ee]uros?))?")
_MATRIX = re.compile(
    r"(?:\\left\s*[\[(]\s*)?\\begin\{([bp]?matrix|array)\}(?:\{[clr|]*\})?([^\\]*(?:\\(?!begin|end)[^\\]*)*)"
    r"\\end\{(?:[bp]?matrix|array)\}(?:\s*\\right\s*[\])])?"
)


def clean(text: str) -> str:
    """Normalise an answer's spelling; empty where there is nothing."""
    if not text.isascii():
        text = re.sub(r"([0-9])([¼-¾⅐-⅞])", r"\1 \2", text)  # 1½ would become 11/2
        text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
        text = unicodedata.normalize("NFKC", _THIN_SPACE.sub(",", text)).translate(_UNICODE)
    if not text.isprintable():
        text = "".join(char if char.isprintable() or char in (_DOLLAR, _TEXT) else " " for char in text)
    if "\\" in text or "{,}" in text:
        text = _THIN_SPACE.sub(",", _MATRIX.sub(_nested_lists, text))
        text = _COMMAND.sub(lambda match: _COMMANDS.get(match[0], match[0]), text)
        while _TEXT in text:
            text, replaced = _TEXT_GROUP.subn(r" \1 ", text)
            text = text if replaced else text.replace(_TEXT, " ")
        for pattern, replacement in _SHORT_FORMS:
            text = pattern.sub(replacement, text)
    text = _MATHEMATICS.sub(r" \1 ", text.replace("$$", "$"))
    text = _trim(text.replace(_DOLLAR, "$").replace("~", " "))
    if (amount := _EUROS.fullmatch(text)) and (amount[1] or amount[4]):  # a bare 2,50 may be two numbers
        text = f"{amount[2].replace('.', '')}.{amount[3]} €"
    return OPEN_SET + CLOSE_SET if text in ("{}", "{ }") else text


def _nested_lists(match: re.Match[str]) -> str:
    rows = [row for row in match[2].replace(r"\hline", "").split(r"\\") if row.strip()]
    return "[" + ",".join(f"[{row.replace('&', ',')}]" for row in rows) + "]"


def _trim(text: str) -> str:
    while True:
        before = text
        text = " ".join(text.split())
        if text.startswith("**") and text.endswith("**."):
            text = text[:-1]
        for mark in ("**", "__", "*", "`", '"', "'"):
            if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
                text = text[len(mark) : -len(mark)]
        if any(char.isalnum() for char in text):  # else the punctuation is the answer
            text = text if text.endswith("...") else text.rstrip(".,;:? ")
            text = text.removeprefix(r"\approx ").lstrip(":= ")
            if text.startswith("{") and closing(text) == len(text) - 1:
                text = text[1:-1] if "," not in text else OPEN_SET + text[1:-1] + CLOSE_SET
        if text == before:
            return text


# --- brackets ---------------------------------------------------------------------------------------------------------

_CLOSED_BY = {"(": ")]", "[": "])", "{": "}", OPEN_SET: CLOSE_SET}  # an interval may be half open
_CLOSING = frozenset(")]}" + CLOSE_SET)


def closing(text: str, start: int = 0) -> int:
    """Return where the bracket at `start` is closed; -1 where it is not."""
    open_: list[str] = []
    for at in range(start, len(text)):
        char = text[at]
        if char in _CLOSED_BY:
            open_.append(_CLOSED_BY[char])
        elif char in _CLOSING:
            if not open_ or char not in open_.pop():
                return -1
            if not open_:
                return at
    return -1


def outside_brackets(text: str) -> Iterator[int]:
    """Yield the positions outside all brackets."""
    depth = 0
    for at, char in enumerate(text):
        if char in _CLOSED_BY:
            depth += 1
        elif char in _CLOSING:
            depth -= 1
        elif depth == 0:
            yield at
