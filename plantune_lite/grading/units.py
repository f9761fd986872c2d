"""Split units and counted things from a number, as canonical words.

split("5 square meters") -> ("5", ("²", "m"))     split("18 duck eggs") -> ("18", ("duck", "egg"))
split("5x") -> ("5x", ())
"""

import re
import string

_SPELLINGS = {
    "m": "m meter metre", "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre",
    "km": "km kilometer kilometre", "in": "in inch", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
    "g": "g gm gram gramme", "kg": "kg kilo kilogram", "mg": "mg milligram", "lb": "lb pound", "oz": "oz ounce",
    "ton": "ton tonne", "L": "l liter litre", "ml": "ml milliliter millilitre", "gal": "gal gallon",
    "s": "s sec second", "min": "min minute", "h": "h hr hour", "week": "wk week", "year": "yr year",
    "$": "$ dollar usd buck", "€": "€ eur euro", "£": "£ gbp quid", "¥": "¥ yen jpy", "₹": "₹ rs inr rupee",
    "¢": "¢ cent", "%": "% percent percentage pct", "°": "° deg degree", "rad": "rad radian", "Hz": "hz hertz",
    "²": "² square sq", "³": "³ cubic cu", "mi/h": "mph", "km/h": "kph kmh kmph",
    "person": "person people", "child": "child children", "man": "man men", "woman": "woman women",
}  # fmt: skip
_CANONICAL = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_FILLERS = frozenset(
    ("a", "an", "the", "of", "per", "each", "every", "in", "for", "total", "altogether", "us", "/", "-")
)
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "csc", "cot", "log", "ln", "exp", "sqrt", "pi", "mod", "gcd", "lcm", "max", "infty")
)
_CURRENCY = re.compile(r"([-+]?)\s*(?:US|C|A)?([$€£¥₹]|(?:Rs\.?|USD|EUR|GBP|INR)(?![A-Za-z]))\s*(?=[-+0-9.\\(])")
_TOKEN = re.compile(r"°\s*[CFK](?![A-Za-z])|[A-Za-z][A-Za-z.]*(?:['-][A-Za-z]+)*|[%°$€£¥₹¢/-]")
_TAIL_CHARACTERS = string.ascii_letters + " %°$€£¥₹¢/.'-"
_MAX_WORDS = 6


def split(text: str) -> tuple[str, tuple[str, ...]]:
    """Split off the currency sign before and the unit after a number; return the rest and the unit, () if none."""
    before: tuple[str, ...] = ()
    if match := _CURRENCY.match(text):
        word = match[2].rstrip(".")
        before = (_CANONICAL.get(word.lower(), word),)
        text = match[1] + text[match.end() :]
    body, power = text, ""
    if (match := re.search(r"(?<=[A-Za-z])\s*\^\s*\{?\s*([23])\s*\}?$", text)) is not None:
        body, power = text[: match.start()], " square" if match[1] == "2" else " cubic"
    core = body.rstrip(_TAIL_CHARACTERS)
    tail = body[len(core) :]
    if core.endswith("\\"):  # the tail begins with the name of a command: "2\\pi cm"
        command = re.match(r"[A-Za-z]+", tail)
        core, tail = (core + command[0], tail[command.end() :]) if command else (text, "")
    unit = _unit(tail + power) if core and tail.strip() and core[-1] not in "+*=<>^_|&" else ()
    if (tail.strip() or power) and not unit:
        return (text, before)
    return (core.rstrip() if unit else text, (*before, *unit))


def _unit(tail: str) -> tuple[str, ...]:
    tokens = _TOKEN.findall(tail)
    attached = tail[:1].isalpha()
    if attached and len(tokens[0]) < 4 and (len(tokens[0]) < 2 or _fold(tokens[0]) not in _CANONICAL):
        return ()  # 5x, 2ab
    if len(tokens) > _MAX_WORDS or "".join(tokens) != re.sub(r"\s+", "", tail).rstrip(".") and "." not in tail:
        return ()
    words = [_fold(token) for token in tokens]
    for word, token in zip(words, tokens, strict=True):
        known = word in _CANONICAL or word in _FILLERS or token.startswith("°")
        if word in _FUNCTIONS or not (known or len(word) >= 3):
            return ()
    kept = [word for word in words if word not in _FILLERS] or [word for word in words if word in _CANONICAL]
    return tuple(part for word in kept for part in _CANONICAL.get(word.lower(), word).split("/"))


def _fold(token: str) -> str:
    """Fold a word: lower case, without dots, singular."""
    word = token.replace(".", "").lower()
    if token.startswith("°"):
        return token.replace(" ", "")
    if word in _CANONICAL or len(word) <= 3 and word.removesuffix("s") not in _CANONICAL:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def agree(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    """Return whether two units agree; one may be more specific (duck eggs, eggs), and no unit agrees with any."""
    if not left or not right:
        return True
    if {"²", "³"} & set(left) != {"²", "³"} & set(right):
        return False
    return set(left) <= set(right) or set(right) <= set(left)
