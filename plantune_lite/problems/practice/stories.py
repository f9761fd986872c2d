"""Generate word problems that are told in the order they are solved; those of generate.py need planning.

    A shop has 22 bikes. It sells 3 of them on Monday and 4 on Tuesday. On Wednesday 4 new bikes arrive. How many
    bikes are there then?
    1. Subtract the bikes sold on Monday from the bikes at the start to find what is left.
    2. Subtract the bikes sold on Tuesday from what is left to find what is still left.
    3. Add the new bikes to what is left to find all the bikes.
    After Monday there are 22 - 3 = 19 bikes.
    After Tuesday there are 19 - 4 = 15 bikes.
    Then there are 15 + 4 = 19 bikes.
    The answer is \\boxed{19}.

The numbers are used in the order in which they appear, and the kind of story determines the plan. Level 1 takes one or
two steps, level 2 two or three, level 3 three or four.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Literal

from plantune_lite.problems.practice.generate import LIMIT, is_for_tests
from plantune_lite.types import Problem, ProblemError

LEVELS = (1, 2, 3)
_TRIES = 500  # draws in a row without a new question: the story is used up


Step = tuple[str, str]  # what a plan says, without a number or a result, and the sentence that computes it


@dataclass(frozen=True)
class Story:
    """One generated story."""

    question: str
    answer: int
    steps: tuple[Step, ...]


NAMES: tuple[str, ...] = ("Ada", "Ben", "Clara", "David", "Ella", "Farid", "Grace", "Hugo", "Ines", "Jonas")
NAMES += ("Kira", "Liam", "Mia", "Noah", "Olga", "Pablo", "Rosa", "Sam", "Tara", "Victor")
GOODS = ("pens", "pencils", "notebooks", "erasers", "rulers", "folders", "brushes", "markers")
TREASURES = ("stamps", "stickers", "marbles", "coins", "shells", "cards", "buttons", "badges")
WARES = ("bikes", "lamps", "kites", "chairs", "clocks", "balls", "puzzles", "vases")
ANIMALS = {"cats": 4, "dogs": 4, "cows": 4, "sheep": 4, "hens": 2, "ducks": 2, "ants": 6, "bees": 6, "spiders": 8}
TEXTS = ("book", "comic", "magazine")


# --- numbers and words ------------------------------------------------------------------------------------------------


def spare(total: int, parts: int) -> int:
    """Compute what to take from a total, at least two, so that the rest divides by the parts."""
    return (total - 2) % parts + 2


def draw(rng: Random, *bounds: tuple[int, int]) -> list[int]:
    """Draw a whole number within each pair of bounds, both included."""
    return [rng.randint(low, high) for low, high in bounds]


def worked(*lines: str) -> tuple[Step, ...]:
    """Pair lines that alternate between a step's plan and its work."""
    return tuple(zip(lines[::2], lines[1::2], strict=True))


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# --- the stories ------------------------------------------------------------------------------------------------------


def shopping(rng: Random, level: int) -> Story:
    """Ask for the price of things; of things of two kinds; for the change from a note."""
    who, (a, b) = rng.choice(NAMES), rng.sample(GOODS, 2)
    n, price, m, other_price = draw(rng, (2, 5), (2, 6), (2, 4), (2, 5))
    first, second = n * price, m * other_price
    total = first + second
    note = 20 if total <= 16 else 50
    change = note - total
    steps = worked(
        f"Multiply the number of {a} by their price to find the cost of the {a}.",
        f"The {a} cost {n} x {price} = {first} dollars.",
        f"Multiply the number of {b} by their price to find the cost of the {b}.",
        f"The {b} cost {m} x {other_price} = {second} dollars.",
        "Add both costs to find the total cost.",
        f"Together they cost {first} + {second} = {total} dollars.",
        "Subtract the total cost from the note to find the change.",
        f"{who} gets back {note} - {total} = {change} dollars.",
    )
    basket = f"{who} {rng.choice(['buys', 'orders', 'pays for'])} {n} {a} for {price} dollars each"
    ask = rng.choice([f"How many dollars does {who} pay?", "How many dollars is that in all?"])
    if level == 1:
        return Story(f"{basket}. {ask}", first, steps[:1])
    basket = f"{basket} and {m} {b} for {other_price} dollars each."
    if level == 2:
        return Story(f"{basket} {ask}", total, steps[:3])
    ask = rng.choice([f"How many dollars does {who} get back?", "How many dollars is the change?"])
    return Story(f"{basket} {who} pays with a note of {note} dollars. {ask}", change, steps)


def legs(rng: Random, level: int) -> Story:
    """Ask for the legs of one, two or three kinds of animals."""
    who, kinds = rng.choice(NAMES), rng.sample(sorted(ANIMALS), level)
    counts = draw(rng, *[(2, 6)] * level)
    legs_by_kind = [count * ANIMALS[kind] for count, kind in zip(counts, kinds, strict=True)]
    lines = []
    for count, kind, part in zip(counts, kinds, legs_by_kind, strict=True):
        lines.append(f"Multiply the number of {kind} by the legs of each to find the legs of the {kind}.")
        lines.append(f"The {kind} have {count} x {ANIMALS[kind]} = {part} legs.")
    answer = sum(legs_by_kind)
    if level > 1:
        lines.append("Add the legs of all kinds to find all the legs.")
        lines.append(f"Together they have {' + '.join(map(str, legs_by_kind))} = {answer} legs.")
    herd = listed([f"{count} {kind}" for count, kind in zip(counts, kinds, strict=True)])
    question = rng.choice(
        [
            f"{who} draws {herd}. How many legs does {who} draw?",
            f"In a picture there are {herd}. How many legs are in the picture?",
            f"{who} sees {herd}. How many legs is that in all?",
        ]
    )
    return Story(question, answer, worked(*lines))


def sharing(rng: Random, level: int) -> Story:
    """Divide a heap; divide it after a loss; divide it after it was bought in packs and partly lost."""
    who, what = rng.choice(NAMES), rng.choice(TREASURES)
    friends, share, packs, size = draw(rng, (2, 5), (2, 6), (2, 5), (3, 6))
    bought = packs * size
    start = friends * share if level == 1 else bought
    lost = spare(bought, friends)
    rest = start - lost
    shared = start if level == 1 else rest
    each = shared // friends
    steps = worked(
        f"Multiply the number of packs by the {what} in each to find all the {what}.",
        f"There are {packs} x {size} = {bought} {what}.",
        f"Subtract the lost {what} from all the {what} to find the {what} left.",
        f"There are {start} - {lost} = {rest} {what} left.",
        f"Divide the {what} by the number of friends to find the share of each.",
        f"Each friend gets {shared} / {friends} = {each} {what}.",
    )
    ask = rng.choice([f"How many {what} does each friend get?", f"How many {what} does each of them get?"])
    if level == 1:
        verb = rng.choice(["shares them equally among", "divides them equally among"])
        return Story(f"{who} has {start} {what} and {verb} {friends} friends. {ask}", each, steps[2:])
    has = f"{who} has {start} {what}" if level == 2 else f"{who} buys {packs} packs of {size} {what}"
    question = f"{has}, loses {lost} of them and shares the rest equally among {friends} friends. {ask}"
    return Story(question, each, steps[3 - level :])


def selling(rng: Random, level: int) -> Story:
    """Sell on two days; then more arrives; then more arrives in crates."""
    what = rng.choice(WARES)
    monday, tuesday, rest, new, crates, size = draw(rng, (2, 6), (2, 6), (3, 15), (3, 10), (2, 4), (2, 5))
    start = monday + tuesday + rest
    after_monday = start - monday
    after_tuesday = after_monday - tuesday
    brought = new if level == 2 else crates * size
    now = after_tuesday + brought
    steps = worked(
        f"Subtract the {what} sold on Monday from the {what} at the start to find what is left.",
        f"After Monday there are {start} - {monday} = {after_monday} {what}.",
        f"Subtract the {what} sold on Tuesday from what is left to find what is still left.",
        f"After Tuesday there are {after_monday} - {tuesday} = {after_tuesday} {what}.",
        f"Multiply the number of crates by the {what} in each to find the new {what}.",
        f"The crates bring {crates} x {size} = {brought} {what}.",
        f"Add the new {what} to what is left to find all the {what}.",
        f"Then there are {after_tuesday} + {brought} = {now} {what}.",
    )
    known = rng.choice([f"A shop has {start} {what}.", f"There are {start} {what} in a shop."])
    known = f"{known} It sells {monday} of them on Monday and {tuesday} on Tuesday."
    if level == 1:
        ask = rng.choice([f"How many {what} are left?", f"How many {what} does the shop still have?"])
        return Story(f"{known} {ask}", after_tuesday, steps[:2])
    ask = rng.choice([f"How many {what} are there then?", f"How many {what} does the shop have then?"])
    if level == 2:
        return Story(f"{known} On Wednesday {new} new {what} arrive. {ask}", now, (*steps[:2], steps[3]))
    return Story(f"{known} On Wednesday {crates} crates of {size} {what} arrive. {ask}", now, steps)


def reading(rng: Random, level: int) -> Story:
    """Ask for the pages left; for the days the rest takes; the same with a few pages more."""
    who, text = rng.choice(NAMES), rng.choice(TEXTS)
    pages, days, bonus, pace, more_days = draw(rng, (3, 8), (2, 5), (2, 6), (2, 6), (2, 5))
    in_days = pages * days
    read = in_days + bonus if level == 3 else in_days
    whole = read + pace * more_days
    left = whole - read
    last_days = left // pace
    multiply, add, subtract, divide = worked(
        "Multiply the pages a day by the number of days to find the pages read.",
        f"{who} reads {pages} x {days} = {in_days} pages.",
        "Add the pages of Sunday to the pages read to find all the pages read.",
        f"With Sunday it is {in_days} + {bonus} = {read} pages.",
        f"Subtract the pages read from the pages of the {text} to find the pages left.",
        f"There are {whole} - {read} = {left} pages left.",
        "Divide the pages left by the new pages a day to find the days.",
        f"They take {left} / {pace} = {last_days} days.",
    )
    known = f"A {text} has {whole} pages. {who} reads {pages} pages a day for {days} days"
    if level == 1:
        ask = rng.choice(["How many pages are left?", f"How many pages does {who} still have to read?"])
        return Story(f"{known}. {ask}", left, (multiply, subtract))
    ask = rng.choice(["How many days does the rest take?", f"How many days does {who} need for the rest?"])
    if level == 2:
        return Story(f"{known} and then {pace} pages a day. {ask}", last_days, (multiply, subtract, divide))
    question = f"{known}, another {bonus} pages on Sunday and then {pace} pages a day. {ask}"
    return Story(question, last_days, (multiply, add, subtract, divide))


STORIES = (shopping, legs, sharing, selling, reading)


# --- problems ---------------------------------------------------------------------------------------------------------


def generate(
    split: Literal["train", "test"], *, seed: int, limit: int | None = None, levels: tuple[int, ...] = ()
) -> Iterator[Problem]:
    """Generate problems of a split, all different; a larger limit only appends, and no levels means all of them."""
    if unknown := sorted(set(levels) - set(LEVELS)):
        raise ProblemError(f"practice_stories has the levels {', '.join(map(str, LEVELS))}, not {unknown[0]}")
    kinds = [(tell, level) for tell in STORIES for level in levels or LEVELS]
    return islice(_problems(split, kinds, Random(f"{split} {seed}")), LIMIT if limit is None else limit)


def _problems(split: str, kinds: list, rng: Random) -> Iterator[Problem]:
    seen: set[str] = set()
    while True:
        for tell, level in rng.sample(kinds, len(kinds)):  # in rounds, so that any stretch is balanced
            story = _new_story(split, tell, level, rng, seen)
            plan, work = zip(*story.steps, strict=True)
            seen.add(story.question)
            yield Problem(
                id=f"practice_stories/{split}/{len(seen) - 1}",
                question=story.question,
                answer=str(story.answer),
                solution="\n".join([*work, f"The answer is \\boxed{{{story.answer}}}."]),
                steps=work,
                source="practice_stories",
                split=split,
                extra={"template": tell.__name__, "level": level, "plan": list(plan)},
            )


_ONE_OR_NONE = re.compile(r"\b[01]\b")


def _new_story(split: str, tell: Callable[[Random, int], Story], level: int, rng: Random, seen: set[str]) -> Story:
    for _ in range(_TRIES):
        story = tell(rng, level)
        texts = (story.question, *(work for _, work in story.steps))
        # A count of 1 would need the singular, and 0 teaches nothing.
        if (
            is_for_tests(story.question) == (split == "test")
            and story.question not in seen
            and not any(map(_ONE_OR_NONE.search, texts))
        ):
            return story
    raise ProblemError(
        f"practice_stories cannot make more than {len(seen)} different problems: {tell.__name__!r} at level {level} is "
        "used up. Lower problems.limit or allow more levels."
    )
