"""What practice stories are made of: their steps, their words, and numbers that remember how they were found.

>>> cost = times(3, 4)
>>> worked("Multiply the number of pens by their price to find the cost.", f"The pens cost {cost.work} dollars.")
(Step(plan='Multiply the number of pens ...', work='The pens cost 3 x 4 = 12 dollars.'),)
"""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Step:
    """One step of a solution, as a plan says it and as it is worked out."""

    plan: str  # what to find and how: no number, no result
    work: str  # the sentence that computes it


@dataclass(frozen=True)
class Story:
    """One telling of a template."""

    question: str
    answer: int
    steps: tuple[Step, ...]


# --- words ------------------------------------------------------------------------------------------------------------

NAMES = ("Ada", "Ben", "Clara", "David", "Ella", "Farid", "Grace", "Hugo", "Ines", "Jonas")
NAMES += ("Kira", "Liam", "Mia", "Noah", "Olga", "Pablo", "Rosa", "Sam", "Tara", "Victor")
GOODS = ("pens", "pencils", "notebooks", "erasers", "rulers", "folders", "brushes", "markers")
TREASURES = ("stamps", "stickers", "marbles", "coins", "shells", "cards", "buttons", "badges")
FRUIT = ("apples", "pears", "plums", "peaches", "lemons", "oranges", "cherries", "figs")
WARES = ("bikes", "lamps", "kites", "chairs", "clocks", "balls", "puzzles", "vases")
WISHES = ("game", "novel", "jacket", "backpack", "skateboard", "watch")
ANIMALS = {"cats": 4, "dogs": 4, "cows": 4, "sheep": 4, "hens": 2, "ducks": 2, "ants": 6, "bees": 6, "spiders": 8}
DISHES = (("cake", "eggs"), ("pie", "apples"), ("omelet", "eggs"), ("salad", "tomatoes"), ("soup", "carrots"))
HALLS = ("hall", "cinema", "theater", "tent")
TEXTS = ("book", "comic", "magazine")
WORKPLACES = ("garden", "bakery", "cafe", "library")
SHOWS = ("puppet show", "magic show", "school play", "concert")
BAKED = ("buns", "rolls", "cookies", "muffins", "pretzels", "scones")
RIDES = ("bus", "train", "ferry", "tram")
BASINS = ("tank", "barrel", "pool", "pond")
JEWELS = ("necklaces", "bracelets", "key rings", "earrings")
FLOWERS = ("roses", "tulips", "lilies", "daisies", "poppies", "asters")
ITEMS = frozenset().union(
    GOODS, TREASURES, FRUIT, WARES, WISHES, ANIMALS, HALLS, TEXTS, WORKPLACES, SHOWS, BAKED, RIDES
)
ITEMS |= {*BASINS, *JEWELS, *FLOWERS, *(form for dish, need in DISHES for form in (dish, f"{dish}s", need))}


# --- arithmetic -------------------------------------------------------------------------------------------------------


class Found(int):
    """A result that knows its computation: `times(3, 4)` is 12, and its `work` is "3 x 4 = 12"."""

    work: str


def _found(value: int, work: str) -> Found:
    found = Found(value)
    found.work = f"{work} = {value}"
    return found


def plus(*numbers: int) -> Found:
    return _found(sum(numbers), " + ".join(map(str, numbers)))


def minus(number: int, less: int) -> Found:
    return _found(number - less, f"{number} - {less}")


def times(number: int, factor: int) -> Found:
    return _found(number * factor, f"{number} x {factor}")


def over(number: int, parts: int) -> Found:
    return _found(number // parts, f"{number} / {parts}")


def spare(total: int, parts: int) -> int:
    """What to take from a total, two at least, so that the rest divides by the parts."""
    return (total - 2) % parts + 2


# --- telling ----------------------------------------------------------------------------------------------------------


def draw(rng: Random, *bounds: tuple[int, int]) -> list[int]:
    """A whole number within each pair of bounds, both included."""
    return [rng.randint(low, high) for low, high in bounds]


def either(rng: Random, *wordings: str) -> str:
    return rng.choice(wordings)


def worked(*lines: str) -> tuple[Step, ...]:
    """Lines that are by turns a step's plan and its work."""
    return tuple(Step(plan, work) for plan, work in zip(lines[::2], lines[1::2], strict=True))


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def times_as(factor: int) -> str:
    return "twice as" if factor == 2 else f"{factor} times as"
