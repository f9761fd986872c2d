"""Generate word problems about quantities and their relations. One problem of `practice_problems("train", seed=0)`:

    Rose has 3 stamps. Robert has 3 more than Paul. Peter has 2 stamps more than Sam. Sam has twice as many as
    George. Luke has 3 times as many as Rose. Fred has 2 stamps more than Luke. Mary has 6 stamps. George has 5
    stamps. Paul has 3 more stamps than Mary. How many stamps does Fred have?
    1. Fred has 2 stamps more than Luke: next Luke.
    2. Luke has 3 times as many as Rose: next Rose.
    3. Rose has 3 stamps.
    Rose has 3 stamps.
    Luke has 3 x 3 = 9.
    Fred has 9 + 2 = 11.
    The answer is \\boxed{11}.

A worked solution runs forwards, so its first line must know the given quantity that the question leads back to, several
hops away. A plan runs backwards from the question, one hop a line, and ends where the solution begins. So these
problems need planning; `practice_stories` do not.

Input: a split, a seed, a limit, levels (hops from the asked quantity back to a given one). Output: problems with exact
steps and an exact plan, always the same ones in the same order. Splits: `train` and `test`, alike but separated by
`fingerprint`, and `words`, with wordings of relations that training never has.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from random import Random
from typing import Literal, NamedTuple

from plantune_lite.types import Problem, ProblemError

Split = Literal["train", "test", "words"]
LEVELS = (2, 3, 4, 5)
LONGEST = 6  # hops; one more than any level, for tests of more hops than in training
LIMIT = 1_000  # problems, by default
CHAINS = 3  # the question is about one, the others distract
_LEAST, _MOST = 2, 12  # of any quantity: these problems teach planning, not arithmetic
_AMOUNTS = range(2, 6)  # how many more, fewer or times as many
_TEST_SHARE = 5  # one fingerprint in five is for tests


# --- words ------------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """Holders, their things, and the phrases for who has what."""

    name: str
    holders: tuple[str, ...]
    things: tuple[str, ...]
    has: str
    have: str
    asks: str


_PEOPLE = "Adam Alex Alice Andrew Anna Ben Charles Chris Daniel David Edward Emily Frank Fred George Henry Jack James "
_PEOPLE += "Jane Jim John Lily Luke Maria Mark Martin Mary Max Michael Nick Paul Peter Richard Robert Rose Sam Sarah"
_TOWNS = "Berlin Boston Chicago Denver Dublin London Madrid Miami Moscow Munich Oxford Paris Rome Seattle Sydney Tokyo "
_TOWNS += "Toronto Vienna Houston Dallas Athens Cairo Geneva Milan"
_SHOPS = "bakery cafe market garage studio library museum hotel farm garden school store station theater pharmacy "
_SHOPS += "hospital church kitchen gym office bank club warehouse factory"
_BOXES = "bag bowl box jar cup tin chest drawer basket bucket case bin tray pot barrel bottle cabinet crate trunk vase "
_BOXES += "sack folder pocket wallet"


def _the(nouns: str) -> tuple[str, ...]:
    return tuple(f"the {noun}" for noun in nouns.split())


KINDS = (
    Kind(
        "people",
        tuple(_PEOPLE.split()),
        ("books", "cards", "coins", "eggs", "keys", "pens", "stamps", "apples", "shells", "marbles"),
        "has",
        "have",
        "How many {t} does {b} have?",
    ),
    Kind(
        "boxes",
        _the(_BOXES),
        ("balls", "beans", "buttons", "cookies", "lemons", "nuts", "seeds", "stones", "pencils", "stickers"),
        "holds",
        "hold",
        "How many {t} does {b} hold?",
    ),
    Kind(
        "shops",
        _the(_SHOPS),
        ("bikes", "cakes", "chairs", "cups", "hats", "lamps", "plates", "roses", "toys", "bottles"),
        "sells",
        "sell",
        "How many {t} does {b} sell?",
    ),
    Kind("teams", tuple(_TOWNS.split()), ("goals", "points"), "scored", "scored", "How many {t} did {b} score?"),
)


class Relation(NamedTuple):
    """Rule by which a quantity follows from another, with its wordings in training and those never used there."""

    sign: str
    level: int  # the lowest with it
    wordings: tuple[str, ...]
    unseen: tuple[str, ...]


# The quantity of b follows from that of a, by n, or from those of a and c.
RELATIONS = (
    Relation(
        "+",
        2,
        ("{B} {has} {n} more than {a}.", "{B} {has} {n} more {t} than {a}.", "{B} {has} {n} {t} more than {a}."),
        ("Add {n} to what {a} {has}, and you know what {b} {has}.", "{B} {has} all that {a} {has} and {n} besides."),
    ),
    Relation(
        "-",
        2,
        ("{B} {has} {n} fewer than {a}.", "{B} {has} {n} fewer {t} than {a}.", "{B} {has} {n} {t} fewer than {a}."),
        ("Take {n} from what {a} {has}, and you know what {b} {has}.", "{B} is {n} short of what {a} {has}."),
    ),
    Relation(
        "x",
        2,
        ("{B} {has} {times} as many as {a}.", "{B} {has} {times} as many {t} as {a}."),
        ("For each one that {a} {has}, {b} {has} {n}.", "Multiply what {a} {has} by {n}, and you know what {b} {has}."),
    ),
    Relation(
        "/",
        3,
        ("{B} {has} {part} as many as {a}.", "{B} {has} one of {n} equal shares of what {a} {has}."),
        ("Share what {a} {has} equally among {n}: {b} {has} one share.", "{A} {has} {n} for each one that {b} {has}."),
    ),
    Relation(
        "and",
        4,
        ("{B} {has} as many as {a} and {c} together.", "Together, {a} and {c} {have} as many as {b}."),
        ("Put together what {a} and {c} {have}, and you know what {b} {has}.",),
    ),
)
_GIVEN = "{B} {has} {n} {t}."
_PARTS = {2: "half", 3: "a third", 4: "a quarter"}

# How a plan states a fact and, where something is still unknown, what comes next.
PLANS = ("{fact}", "{fact}, so find {a}", "{fact}: next {a}")


# --- quantities -------------------------------------------------------------------------------------------------------


class Quantity(NamedTuple):
    """An amount: given, or following from one or two others."""

    holder: str
    value: int
    relation: Relation | None = None
    by: int = 0
    of: tuple["Quantity", ...] = ()


def _chain(rng: Random, holders: Iterator[str], first: Quantity, hops: int, level: int) -> list[Quantity]:
    """Chain `hops` quantities to the first, each from the one before it; at higher levels one adds another in."""
    chain = [first]
    while len(chain) <= hops:
        joined = any(len(quantity.of) > 1 for quantity in chain)
        chain.append(_following(rng, next(holders), chain[-1], holders, 3 if joined and level > 3 else level))
    return chain


def _following(rng: Random, holder: str, quantity: Quantity, holders: Iterator[str], level: int) -> Quantity:
    """Draw a quantity that follows from another by a relation of the level."""
    ways = []
    for relation in RELATIONS:
        values = {by: value for by in _AMOUNTS if (value := _value(relation.sign, quantity.value, by))}
        if relation.level <= level and values:
            ways.append((relation, values))
    relation, values = rng.choice(ways)
    by = rng.choice(list(values))
    of = (quantity, Quantity(next(holders), by)) if relation.sign == "and" else (quantity,)
    return Quantity(holder, values[by], relation, by, of)


def _value(sign: str, value: int, by: int) -> int | None:
    """Apply a relation to a value; None unless the result is small and whole."""
    if sign in "x/" and by not in _PARTS or sign == "/" and value % by:
        return None
    result = {"+": value + by, "and": value + by, "-": value - by, "x": value * by, "/": value // by}[sign]
    return result if _LEAST <= result <= _MOST else None


def _quantities(rng: Random, kind: Kind, level: int) -> tuple[Quantity, list[Quantity]]:
    """Draw the asked quantity, `level` hops from a given one, and all quantities of the problem in a shuffled order."""
    holders = iter(rng.sample(kind.holders, len(kind.holders)))
    chain = _chain(rng, holders, Quantity(next(holders), rng.randint(3, 9)), level, level)
    by_holder = {quantity.holder: quantity for quantity in chain}
    for _ in range(CHAINS - 1):
        branches = level > 2 and rng.random() < 0.25
        first = rng.choice(chain[1:-1]) if branches else Quantity(next(holders), rng.randint(3, 9))
        by_holder.update((q.holder, q) for q in _chain(rng, holders, first, rng.randint(1, level), level))
    by_holder.update((q.holder, q) for follows in list(by_holder.values()) for q in follows.of)
    return chain[-1], rng.sample(list(by_holder.values()), len(by_holder))


# --- wording ----------------------------------------------------------------------------------------------------------


def _worded(wording: str, kind: Kind, things: str, quantity: Quantity) -> str:
    """Put a quantity in words."""
    a, c = (*(other.holder for other in quantity.of), "", "")[:2]
    return wording.format(
        a=a,
        A=_capital(a),
        b=quantity.holder,
        B=_capital(quantity.holder),
        c=c,
        n=quantity.by or quantity.value,
        times="twice" if quantity.by == 2 else f"{quantity.by} times",
        part=_PARTS.get(quantity.by),
        t=things,
        has=kind.has,
        have=kind.have,
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _worked(kind: Kind, facts: Mapping[str, str], target: Quantity) -> list[str]:
    """Work forwards: what is given, then what follows from it."""
    if target.relation is None:
        return [facts[target.holder]]
    before = [line for quantity in target.of for line in _worked(kind, facts, quantity)]
    first, second = (*(quantity.value for quantity in target.of), target.by)[:2]
    sign = target.relation.sign.replace("and", "+")
    return [*before, f"{_capital(target.holder)} {kind.has} {first} {sign} {second} = {target.value}."]


def _planned(wording: str, facts: Mapping[str, str], target: Quantity) -> tuple[list[str], list[str]]:
    """Plan backwards, from the asked quantity to what it follows from and so on; and the same lines forwards."""
    needed = [target]
    for quantity in needed:
        needed += quantity.of
    backwards = [(quantity.holder, " and ".join(other.holder for other in quantity.of)) for quantity in needed]
    forwards = [(quantity.holder, after.holder) for quantity, after in zip(needed[:0:-1], needed[-2::-1], strict=True)]
    forwards.append((target.holder, ""))

    def lines(order: list[tuple[str, str]]) -> list[str]:
        pairs = [(facts[holder].rstrip("."), after) for holder, after in order]
        return [f"{wording.format(fact=fact, a=after) if after else fact}." for fact, after in pairs]

    return lines(backwards), lines(forwards)


def practice_problems(
    split: Split, *, seed: int, limit: int | None = None, levels: tuple[int, ...] = ()
) -> Iterator[Problem]:
    """Generate problems of a split, no two alike; a larger limit only appends, and no levels means all of them."""
    if unknown := sorted(set(levels) - {*LEVELS, LONGEST}):
        raise ProblemError(f"practice has the levels {', '.join(map(str, LEVELS))}, not {unknown[0]}")
    kinds = [(kind, level) for kind in KINDS for level in levels or LEVELS]
    return islice(_problems(split, kinds, Random(f"{split} {seed}")), LIMIT if limit is None else limit)


def _problems(split: Split, kinds: list[tuple[Kind, int]], rng: Random) -> Iterator[Problem]:
    seen: set[str] = set()
    while True:
        for kind, level in rng.sample(kinds, len(kinds)):  # in rounds, so that any stretch is balanced
            while True:
                problem = _problem(rng, split, kind, level, len(seen))
                alike = fingerprint(problem.question)
                if alike not in seen and is_for_tests(alike) == (split != "train"):
                    break
            seen.add(alike)
            yield problem


def _problem(rng: Random, split: Split, kind: Kind, level: int, number: int) -> Problem:
    target, quantities = _quantities(rng, kind, level)
    things = rng.choice(kind.things)
    facts = {}
    for q in quantities:
        wordings = (_GIVEN,) if q.relation is None else q.relation.unseen if split == "words" else q.relation.wordings
        facts[q.holder] = _worded(rng.choice(wordings), kind, things, q)
    steps = _worked(kind, facts, target)
    backwards, forwards = _planned(rng.choice(PLANS), facts, target)
    return Problem(
        id=f"practice/{split}/{number}",
        question=" ".join([*facts.values(), kind.asks.format(t=things, b=target.holder)]),
        answer=str(target.value),
        solution="\n".join([*steps, f"The answer is \\boxed{{{target.value}}}."]),
        steps=tuple(steps),
        source="practice",
        split="train" if split == "train" else "test",
        extra={"template": kind.name, "level": level, "plan": backwards, "plan_forwards": forwards},
    )


# --- which problems are alike -----------------------------------------------------------------------------------------

_NAMES = re.compile(
    rf"\b(?:{'|'.join(sorted({word for kind in KINDS for word in (*kind.holders, *kind.things)}))})\b", re.IGNORECASE
)


def fingerprint(question: str) -> str:
    """Reduce a question to its facts, without names and sorted: "_ has 3 more than _ | _ has 6 _ | ..."."""
    return " | ".join(sorted(_NAMES.sub("_", question).rstrip(".").split(". ")))


def is_for_tests(alike: str) -> bool:
    """Return whether problems of this fingerprint, or a story of this question, are for tests and not for training."""
    return zlib.crc32(alike.encode()) % _TEST_SHARE == 0
