r"""Evaluate arithmetic text exactly, as a Fraction; None where it needs symbols or is not arithmetic.

evaluate("1 1/2") -> 3/2      evaluate(r"2.5 \times 10^3") -> 2500      evaluate(r"\frac{4!}{2^{3}}") -> 3
"""

import math
import re
from fractions import Fraction

_MAX_BITS = 400_000  # of a numerator or denominator: 120,000 digits, computed in milliseconds
_MAX_EXPONENT = 4_000  # of one literal
_MAX_NESTING = 60  # brackets and powers: keeps the recursion below far from Python's limit

_TOKEN = re.compile(
    r"\s*(?:(?P<mixed>[0-9]+\s+[0-9]+\s*/\s*[0-9]+)(?![.0-9eE])"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,6})?)"
    r"|(?P<sign>\\frac|\\cdot|\\times|\\div|\*\*|[-+*/^!(){}]))"
)
_SAME_SIGN = {r"\cdot": "*", r"\times": "*", r"\div": "/", "**": "^"}
_CLOSING = {"(": ")", "{": "}"}


def evaluate(text: str) -> Fraction | None:
    """Compute the exact value of a text; OverflowError rather than compute for seconds: 9^9^9^9, 10^6!"""
    tokens, at = [], 0
    text = text.strip()
    if text.count("(") + text.count("{") + text.count("^") + text.count("**") > _MAX_NESTING:
        return None
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match["mixed"] or match["number"] or _SAME_SIGN.get(match["sign"], match["sign"]))
        at = match.end()
    arithmetic = _Arithmetic(tokens)
    try:
        value = arithmetic.sum()
    except (ValueError, ZeroDivisionError):
        return None
    return None if arithmetic.next else value


class _Arithmetic:
    """Recursive descent over the tokens: sum, product, signed, power, atom. A ValueError where it is not arithmetic."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at]

    def take(self, *wanted: str) -> str:
        """Take the next token if it is one of these; else return an empty one."""
        token = self.next if self.next in wanted else ""
        self.at += bool(token)
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
        sign = self.take("+", "-")
        return -self.power() if sign == "-" else self.power()

    def power(self) -> Fraction:
        value = self.atom()
        while self.take("!"):
            value = _factorial(value)
        if self.take("^"):
            value = _power(value, self.power())  # 2^-3 is ambiguous; 2^{-3} is read
        return value

    def atom(self) -> Fraction:
        if self.take(r"\frac"):
            return self.bracketed("{") / self.bracketed("{")
        if self.next in _CLOSING:
            return self.bracketed(self.next)
        token = self.next
        self.at += 1
        if abs(int(token.lower().partition("e")[2] or 0)) > _MAX_EXPONENT:
            raise OverflowError
        whole, _, rest = token.partition(" ")  # "1 1/2"
        value = Fraction(whole) + Fraction(rest.replace(" ", "") or 0)
        return value + self.atom() if token.isdigit() and self.next == r"\frac" else value

    def bracketed(self, opening: str) -> Fraction:
        if not self.take(opening):
            raise ValueError
        value = self.sum()
        if not self.take(_CLOSING[opening]):
            raise ValueError
        return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise OverflowError
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError  # a root: needs symbols
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) not in (0, 1) and bits * abs(exponent) > _MAX_BITS:
        raise OverflowError
    return base**exponent.numerator


def _factorial(value: Fraction) -> Fraction:
    if value > 10_000:
        raise OverflowError
    return Fraction(math.factorial(value.numerator if value.denominator == 1 else -1))
