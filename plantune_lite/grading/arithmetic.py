r"""Exact arithmetic as people write it: text in, a Fraction out; None where it would need symbols or is no arithmetic.

evaluate("1 1/2") -> 3/2      evaluate(r"2.5 \times 10^3") -> 2500      evaluate(r"\frac{4!}{2^{3}}") -> 3
"""

import math
import re
from fractions import Fraction

MAX_BITS = 400_000  # of a numerator or denominator: 120,000 digits, computed in milliseconds
MAX_DIGITS = 4_000  # of one literal; Python refuses to read more than 4,300
_MAX_NESTING = 60  # brackets and powers: keeps the recursion below far from Python's limit

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,6})?)"
    r"|(?P<sign>\\frac|\\cdot|\\times|\\div|\*\*|[-+*/^!(){}]))"
)
_SAME_SIGN = {r"\cdot": "*", r"\times": "*", r"\div": "/", "**": "^"}
_CLOSING = {"(": ")", "{": "}"}


class TooLargeError(ArithmeticError):
    """A number that nobody should compute: 9^9^9^9, 10^6!"""


def evaluate(text: str) -> Fraction | None:
    """Compute the exact value of a text; raise TooLargeError rather than compute for seconds."""
    tokens, at = [], 0
    text = text.strip()
    if text.count("(") + text.count("{") + text.count("^") + text.count("**") > _MAX_NESTING:
        return None
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match["number"] or _SAME_SIGN.get(match["sign"], match["sign"]))
        at = match.end()
    try:
        return _Arithmetic(tokens).whole()
    except (_NotArithmetic, ZeroDivisionError):
        return None


class _NotArithmetic(Exception):
    pass


class _Arithmetic:
    """Recursive descent over the tokens: sum, product, signed, power, atom."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.at = 0

    def whole(self) -> Fraction:
        value = self.sum()
        if self.next:
            raise _NotArithmetic
        return value

    @property
    def next(self) -> str:
        return self.tokens[self.at]

    def take(self, *wanted: str) -> str:
        token = self.next
        if wanted and token not in wanted:
            return ""
        self.at += 1
        return token

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.take("+", "-"):
            right = self.product()
            value = _bounded(value + right if sign == "+" else value - right)
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while self.next in ("*", "/", "("):
            sign = self.take("*", "/")  # "2(3)" has none
            right = self.signed()
            value = _bounded(value / right if sign == "/" else value * right)
        return value

    def signed(self) -> Fraction:
        if sign := self.take("+", "-"):
            value = self.signed() if self.next not in ("+", "-") else _refuse()
            return -value if sign == "-" else value
        return self.power()

    def power(self) -> Fraction:
        value = self.atom()
        while self.take("!"):
            value = _factorial(value)
        if self.take("^"):
            if self.next in ("-", "+"):
                _refuse()  # 2^-3 is said in many ways; in braces it is clear
            value = _power(value, self.power())
        return value

    def atom(self) -> Fraction:
        token = self.take()
        if token == r"\frac":
            top, bottom = self.braced(), self.braced()
            return top / bottom
        if token in _CLOSING:
            value = self.sum()
            return value if self.take(_CLOSING[token]) else _refuse()
        if not token or not (token[0].isdigit() or token[0] == "."):
            _refuse()
        value = _literal(token)
        return value + self.mixed_part() if token.isdigit() else value

    def mixed_part(self) -> Fraction:
        r"""Parse what follows the whole number of `1 1/2` or `1\frac{1}{2}`."""
        if self.next == r"\frac":
            return self.atom()
        if self.next.isdigit():
            top = _literal(self.take())
            if self.take("/") and self.next.isdigit():
                return top / _literal(self.take())
            _refuse()
        return Fraction(0)

    def braced(self) -> Fraction:
        return self.atom() if self.next == "{" else _refuse()


def _refuse() -> Fraction:
    raise _NotArithmetic


def _literal(token: str) -> Fraction:
    mantissa, _, exponent = token.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_DIGITS:
        raise TooLargeError(f"a number of more than {MAX_DIGITS:,} digits")
    return Fraction(token.rstrip(".") if "e" not in token.lower() else token)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLargeError("a number too large to compute")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _NotArithmetic  # a root: needs symbols
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) not in (0, 1) and bits * abs(exponent) > MAX_BITS:
        raise TooLargeError("a power too large to compute")
    return base**exponent.numerator


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise _NotArithmetic
    if value > 10_000:
        raise TooLargeError("a factorial too large to compute")
    return Fraction(math.factorial(value.numerator))
