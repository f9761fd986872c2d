"""The stories that practice problems are told by: 14 for training, 7 held out that join the same skills in new ways.

A template is a function of a random generator and a level that returns a `Story`: the question, and each step as what a
plan would say and what the worked solution says. Level 1 takes one or two steps, level 2 two or three, level 3 three or
four. Every quantity is a whole number from 2 up, small enough to work out in the head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Split = Literal["train", "test"]
LEVELS = (1, 2, 3)


@dataclass(frozen=True)
class Step:
    """One step, as a plan says it and as a solution works it out."""

    plan: str  # what to find and how; no digit, no result
    work: str


@dataclass(frozen=True)
class Story:
    """One telling of a template."""

    question: str
    steps: tuple[Step, ...]
    answer: int


@dataclass(frozen=True)
class Template:
    """A kind of problem."""

    name: str
    split: Split
    tell: Callable[[Random, int], Story]
    levels: tuple[int, ...] = LEVELS


_told: list[Template] = []


def _template(split: Split) -> Callable[[Callable[[Random, int], Story]], Callable[[Random, int], Story]]:
    def register(tell: Callable[[Random, int], Story]) -> Callable[[Random, int], Story]:
        _told.append(Template(tell.__name__, split, tell))
        return tell

    return register


# --- words ------------------------------------------------------------------------------------------------------------

NAMES = tuple(
    "Ada Ben Clara David Ella Farid Grace Hugo Ines Jonas Kira Liam Mia Noah Olga Pablo Rosa Sam Tara Victor".split()
)
GOODS = ("pens", "pencils", "notebooks", "erasers", "rulers", "folders", "brushes", "markers")
TREASURES = ("stamps", "stickers", "marbles", "coins", "shells", "cards", "buttons", "badges")
FRUIT = ("apples", "pears", "plums", "peaches", "lemons", "oranges", "cherries", "figs")
STOCK = ("bikes", "lamps", "kites", "chairs", "clocks", "balls", "puzzles", "vases")
WISHES = ("game", "book", "jacket", "backpack", "skateboard", "watch")
ANIMALS = {"cats": 4, "dogs": 4, "cows": 4, "sheep": 4, "hens": 2, "ducks": 2, "ants": 6, "bees": 6, "spiders": 8}
DISHES = {"cakes": "eggs", "pies": "apples", "omelets": "eggs", "salads": "tomatoes", "soups": "carrots"}
BAKED = ("buns", "rolls", "cookies", "muffins", "pretzels", "scones")
JEWELS = ("necklaces", "bracelets", "key rings", "earrings")
FLOWERS = ("roses", "tulips", "lilies", "daisies", "poppies", "asters")
ITEMS = frozenset(
    (*GOODS, *TREASURES, *FRUIT, *STOCK, *WISHES, *ANIMALS, *DISHES, *DISHES.values(), *BAKED, *JEWELS, *FLOWERS)
)


# --- arithmetic -------------------------------------------------------------------------------------------------------


class Found(int):
    """A result that remembers how it was found: `times(3, 4)` is 12, its `work` is "3 x 4 = 12"."""

    work: str


def _found(value: int, work: str) -> Found:
    found = Found(value)
    found.work = f"{work} = {value}"
    return found


def _plus(*numbers: int) -> Found:
    return _found(sum(numbers), " + ".join(map(str, numbers)))


def _minus(number: int, less: int) -> Found:
    return _found(number - less, f"{number} - {less}")


def _times(number: int, factor: int) -> Found:
    return _found(number * factor, f"{number} x {factor}")


def _over(number: int, parts: int) -> Found:
    return _found(number // parts, f"{number} / {parts}")


def _draw(rng: Random, *bounds: tuple[int, int]) -> list[int]:
    """A whole number within each pair of bounds, both included."""
    return [rng.randint(low, high) for low, high in bounds]


def _spare(total: int, parts: int) -> int:
    """What to take away from a total, two at least, so that the rest divides into the parts."""
    return (total - 2) % parts + 2


# --- train ------------------------------------------------------------------------------------------------------------


@_template("train")
def shopping(rng: Random, level: int) -> Story:
    """Things at a price each, then two kinds of them, then what is left of a note."""
    who, (a, b) = rng.choice(NAMES), rng.sample(GOODS, 2)
    n, price, m, other_price = _draw(rng, (2, 6), (2, 9), (2, 5), (2, 6))
    first, second = _times(n, price), _times(m, other_price)
    total = _plus(first, second)
    note = 50 if total <= 45 else 100
    change = _minus(note, total)
    verb = rng.choice(("buys", "pays for", "orders"))
    steps = (
        Step(f"Multiply the number of {a} by the price of each to find the cost of the {a}.", f"The {a} cost {first.work} dollars."),
        Step(f"Multiply the number of {b} by the price of each to find the cost of the {b}.", f"The {b} cost {second.work} dollars."),
        Step("Add both costs to find the total cost.", f"Together they cost {total.work} dollars."),
        Step(f"Subtract the total cost from the note that {who} pays with to find the change.", f"{who} gets back {change.work} dollars."),
    )
    if level == 1:
        ask = rng.choice((f"How many dollars does {who} pay?", f"How many dollars do the {a} cost in all?"))
        return Story(f"{who} {verb} {n} {a} for {price} dollars each. {ask}", steps[:1], first)
    basket = f"{who} {verb} {n} {a} for {price} dollars each and {m} {b} for {other_price} dollars each."
    if level == 2:
        ask = rng.choice((f"How many dollars does {who} pay?", "How many dollars does everything cost?"))
        return Story(f"{basket} {ask}", steps[:3], total)
    return Story(f"{basket} {who} pays with a note of {note} dollars. How many dollars does {who} get back?", steps, change)


@_template("train")
def legs(rng: Random, level: int) -> Story:
    """The legs of one, two or three kinds of animals."""
    who, kinds = rng.choice(NAMES), rng.sample(sorted(ANIMALS), level)
    counts = _draw(rng, *[(2, 9)] * level)
    found = [_times(count, ANIMALS[kind]) for count, kind in zip(counts, kinds, strict=True)]
    steps = [
        Step(f"Multiply the number of {kind} by the legs of each to find the legs of the {kind}.", f"The {kind} have {part.work} legs.")
        for kind, part in zip(kinds, found, strict=True)
    ]
    answer = found[0]
    if level > 1:
        answer = _plus(*found)
        steps.append(Step("Add the legs of all kinds to find all legs.", f"Together they have {answer.work} legs."))
    herd = _listed([f"{count} {kind}" for count, kind in zip(counts, kinds, strict=True)])
    question = rng.choice(
        (
            f"{who} draws {herd}. How many legs does {who} draw?",
            f"In a picture there are {herd}. How many legs are in the picture?",
            f"{who} sees {herd}. How many legs do they have in all?",
        )
    )
    return Story(question, tuple(steps), answer)


@_template("train")
def ages(rng: Random, level: int) -> Story:
    """Someone older or younger, someone a multiple as old, all of them together."""
    a, b, c = rng.sample(NAMES, 3)
    age, gap, factor = _draw(rng, (8, 20), (2, 5), (2, 3))
    older = rng.random() < 0.5
    second = _plus(age, gap) if older else _minus(age, gap)
    third = _times(second, factor)
    total = _plus(age, second, third)
    steps = (
        Step(f"{'Add' if older else 'Subtract'} the difference {'to' if older else 'from'} the age of {a} to find the age of {b}.", f"{b} is {second.work} years old."),
        Step(f"Multiply the age of {b} by how many times as old {c} is to find the age of {c}.", f"{c} is {third.work} years old."),
        Step("Add the three ages to find the sum.", f"Their ages add up to {total.work} years."),
    )
    known = f"{a} is {age} years old. {b} is {gap} years {'older' if older else 'younger'} than {a}."
    if level == 1:
        return Story(f"{known} {rng.choice((f'How old is {b}?', f'How many years old is {b}?'))}", steps[:1], second)
    known = f"{known} {c} is {_times_as(factor)} old as {b}."
    if level == 2:
        return Story(f"{known} {rng.choice((f'How old is {c}?', f'How many years old is {c}?'))}", steps[:2], third)
    return Story(f"{known} {rng.choice(('What is the sum of their ages?', 'What do the three ages add up to?'))}", steps, total)


@_template("train")
def recipes(rng: Random, level: int) -> Story:
    """What several dishes need, what is still missing, and how many packs that is."""
    who, dish = rng.choice(NAMES), rng.choice(sorted(DISHES))
    need = DISHES[dish]
    n, each, pack = _draw(rng, (3, 9), (3, 6), (2, 4))
    all_needed = _times(n, each)
    at_home = _spare(all_needed, pack)
    missing = _minus(all_needed, at_home)
    packs = _over(missing, pack)
    steps = (
        Step(f"Multiply the number of {dish} by the {need} in each to find the {need} needed.", f"The {dish} need {all_needed.work} {need}."),
        Step(f"Subtract the {need} at home from the {need} needed to find the {need} to buy.", f"{who} has to buy {missing.work} {need}."),
        Step(f"Divide the {need} to buy by the {need} in a bag to find the bags.", f"That is {missing.work and packs.work} bags."),
    )
    verb = rng.choice(("makes", "prepares", "cooks"))
    known = f"{who} {verb} {n} {dish}. Each of the {dish} takes {each} {need}."
    if level == 1:
        return Story(f"{known} {rng.choice((f'How many {need} does {who} need?', f'How many {need} is that in all?'))}", steps[:1], all_needed)
    known = f"{known} There are {at_home} {need} at home."
    if level == 2:
        ask = rng.choice((f"How many {need} does {who} have to buy?", f"How many more {need} does {who} need?"))
        return Story(f"{known} {ask}", steps[:2], missing)
    return Story(f"{known} The shop sells {need} in bags of {pack}. How many bags does {who} have to buy?", steps, packs)


@_template("train")
def schedules(rng: Random, level: int) -> Story:
    """Lessons of equal length, with a break or with sports, and what is left of the time."""
    who = rng.choice(NAMES)
    n, length, rest, games = rng.randint(2, 5), rng.choice((20, 30, 40)), rng.choice((10, 15, 20)), rng.randint(2, 4)
    lessons, play = _times(n, length), _times(games, rest)
    with_break, busy = _plus(lessons, rest), _plus(lessons, play)
    free = rng.choice((20, 30, 40, 50))
    left = _minus(busy + free, busy)
    first = Step("Multiply the number of lessons by the minutes of each to find the time of the lessons.", f"The lessons take {lessons.work} minutes.")
    known = rng.choice((f"{who} has {n} lessons of {length} minutes each", f"{who} takes {n} lessons that last {length} minutes each"))
    if level == 1:
        add = Step("Add the break to the time of the lessons to find the whole time.", f"With the break it is {with_break.work} minutes.")
        return Story(f"{known} and a break of {rest} minutes. How many minutes is that in all?", (first, add), with_break)
    steps = (
        first,
        Step("Multiply the number of games by the minutes of each to find the time of the games.", f"The games take {play.work} minutes."),
        Step("Add both times to find the whole time.", f"Together it is {busy.work} minutes."),
        Step("Subtract the whole time from the time at school to find the free time.", f"{who} has {left.work} minutes free."),
    )
    known = f"{known} and plays {games} games of {rest} minutes each."
    if level == 2:
        return Story(f"{known} {rng.choice(('How many minutes is that in all?', 'How many minutes does it all take?'))}", steps[:3], busy)
    return Story(f"{known} {who} is at school for {busy + free} minutes. How many minutes are free?", steps, left)


@_template("train")
def sharing(rng: Random, level: int) -> Story:
    """Dividing a heap, after some is given away, after it was bought in packs."""
    who, what = rng.choice(NAMES), rng.choice(TREASURES)
    friends, share, packs, size = _draw(rng, (2, 6), (3, 9), (3, 6), (5, 9))
    whole = _times(packs, size) if level == 3 else friends * share
    lost = _spare(whole, friends) if level == 3 else rng.randint(2, 9)
    start = whole + lost if level == 2 else whole
    rest = _minus(start, lost)
    each = _over(rest if level > 1 else start, friends)
    steps = (
        Step(f"Multiply the number of packs by the {what} in each to find the {what} bought.", f"{who} buys {whole.work if level == 3 else ''} {what}."),
        Step(f"Subtract the lost {what} from all of them to find the {what} left.", f"There are {rest.work} {what} left."),
        Step(f"Divide the {what} {'left' if level > 1 else 'there are'} by the number of friends to find the share of each.", f"Each friend gets {each.work} {what}."),
    )
    ask = rng.choice((f"How many {what} does each friend get?", f"How many {what} are there for each friend?"))
    has = f"{who} buys {packs} packs of {size} {what}" if level == 3 else f"{who} has {start} {what}"
    if level == 1:
        verb = rng.choice(("shares them equally among", "gives the same number of them to each of"))
        return Story(f"{has} and {verb} {friends} friends. {ask}", steps[2:], each)
    known = f"{has}, loses {lost} of them and shares the rest equally among {friends} friends."
    return Story(f"{known} {ask}", steps[3 - level :], each)


@_template("train")
def savings(rng: Random, level: int) -> Story:
    """Saving the same each week, then buying something, then earning in two ways."""
    who, wish = rng.choice(NAMES), rng.choice(WISHES)
    start, weekly, extra, weeks = _draw(rng, (5, 30), (2, 9), (2, 6), (3, 9))
    rate = _plus(weekly, extra)
    saved = _times(rate if level == 3 else weekly, weeks)
    total = _plus(start, saved)
    price = rng.randint(5, total - 5)
    left = _minus(total, price)
    steps = (
        Step("Add the two amounts of a week to find what is saved in a week.", f"A week brings {rate.work} dollars."),
        Step("Multiply what is saved in a week by the number of weeks to find the savings.", f"The savings are {saved.work} dollars."),
        Step("Add the savings to the dollars at the start to find all the dollars.", f"{who} then has {total.work} dollars."),
        Step(f"Subtract the price of the {wish} from all the dollars to find what is left.", f"After buying the {wish}, {who} has {left.work} dollars left."),
    )
    has = rng.choice((f"{who} has {start} dollars", f"{who} starts with {start} dollars"))
    if level == 3:
        known = f"{has}. Each week {who} saves {weekly} dollars of pocket money and {extra} dollars from a job."
        known += f" After {weeks} weeks {who} buys a {wish} for {price} dollars."
        return Story(f"{known} How many dollars are left?", steps, left)
    known = f"{has} and saves {weekly} dollars each week."
    if level == 1:
        ask = rng.choice((f"How many dollars does {who} have after {weeks} weeks?", f"How many dollars are there after {weeks} weeks?"))
        return Story(f"{known} {ask}", steps[1:3], total)
    return Story(f"{known} After {weeks} weeks {who} buys a {wish} for {price} dollars. How many dollars are left?", steps[1:], left)


@_template("train")
def stock(rng: Random, level: int) -> Story:
    """A shop that sells on two days, then is sent more, then is sent crates of them."""
    what, (monday, tuesday, new, crates, size) = rng.choice(STOCK), _draw(rng, (2, 12), (2, 12), (3, 20), (2, 5), (3, 9))
    start = monday + tuesday + rng.randint(5, 40)
    one, two = _minus(start, monday), _minus(start - monday, tuesday)
    sent = _times(crates, size)
    now = _plus(two, sent if level == 3 else new)
    steps = (
        Step(f"Subtract the {what} sold on Monday from the {what} at the start to find what is left after Monday.", f"After Monday there are {one.work} {what}."),
        Step(f"Subtract the {what} sold on Tuesday from what is left to find what is left after Tuesday.", f"After Tuesday there are {two.work} {what}."),
        Step(f"Multiply the number of crates by the {what} in each to find the new {what}.", f"The crates bring {sent.work} {what}."),
        Step(f"Add the new {what} to what is left to find the {what} in the shop.", f"Now there are {now.work} {what}."),
    )
    known = rng.choice((f"A shop has {start} {what}. It sells", f"There are {start} {what} in a shop. It sells"))
    known = f"{known} {monday} of them on Monday and {tuesday} on Tuesday."
    if level == 1:
        return Story(f"{known} {rng.choice((f'How many {what} are left?', f'How many {what} does the shop still have?'))}", steps[:2], two)
    ask = rng.choice((f"How many {what} are in the shop now?", f"How many {what} does the shop have now?"))
    if level == 2:
        return Story(f"{known} On Wednesday {new} new {what} arrive. {ask}", (*steps[:2], steps[3]), now)
    return Story(f"{known} On Wednesday {crates} crates with {size} {what} each arrive. {ask}", steps, now)


@_template("train")
def collections(rng: Random, level: int) -> Story:
    """Who has more, how many they have together, and what is left when they give some away."""
    (a, b, c), what = rng.sample(NAMES, 3), rng.choice(TREASURES)
    first, more, fewer, gone = _draw(rng, (10, 30), (2, 9), (2, 8), (5, 15))
    second, third = _plus(first, more), _minus(first + more, fewer)
    pair, trio = _plus(first, second), _plus(first, second, third)
    left = _minus(trio, gone)
    verb = rng.choice(("has", "owns", "collects"))
    steps = (
        Step(f"Add the difference to the {what} of {a} to find the {what} of {b}.", f"{b} {verb} {second.work} {what}."),
        Step(f"Subtract the difference from the {what} of {b} to find the {what} of {c}.", f"{c} {verb} {third.work} {what}."),
        Step(f"Add the {what} of all three to find the {what} together.", f"Together they have {trio.work} {what}."),
        Step(f"Subtract the {what} given away from the {what} together to find what is left.", f"There are {left.work} {what} left."),
    )
    known = f"{a} {verb} {first} {what}. {b} {verb} {more} more {what} than {a}."
    if level == 1:
        both = Step(f"Add the {what} of both to find the {what} together.", f"Together they have {pair.work} {what}.")
        ask = rng.choice((f"How many {what} do they have together?", f"How many {what} do {a} and {b} have in all?"))
        return Story(f"{known} {ask}", (steps[0], both), pair)
    known = f"{known} {c} {verb} {fewer} fewer {what} than {b}."
    if level == 2:
        return Story(f"{known} {rng.choice((f'How many {what} do they have together?', f'How many {what} do the three have in all?'))}", steps[:3], trio)
    return Story(f"{known} Together they give away {gone} {what}. How many {what} are left?", steps, left)


@_template("train")
def picking(rng: Random, level: int) -> Story:
    """A multiple of someone's fruit, the fruit of both, what is left of it, how many bowls it fills."""
    (a, b), what = rng.sample(NAMES, 2), rng.choice(FRUIT)
    first, factor, bowl = _draw(rng, (4, 12), (2, 5), (3, 6))
    second = _times(first, factor)
    total = _plus(first, second)
    eaten = _spare(total, bowl)
    left = _minus(total, eaten)
    bowls = _over(left, bowl)
    steps = (
        Step(f"Multiply the {what} of {a} by how many times as many {b} picks to find the {what} of {b}.", f"{b} picks {second.work} {what}."),
        Step(f"Add the {what} of both to find all the {what}.", f"Together they pick {total.work} {what}."),
        Step(f"Subtract the eaten {what} from all the {what} to find the {what} left.", f"There are {left.work} {what} left."),
        Step(f"Divide the {what} left by the {what} in a bowl to find the bowls.", f"They fill {bowls.work} bowls."),
    )
    verb = rng.choice(("picks", "gathers"))
    known = f"{a} {verb} {first} {what}. {b} {verb} {_times_as(factor)} many {what} as {a}."
    if level == 1:
        return Story(f"{known} {rng.choice((f'How many {what} do they have together?', f'How many {what} is that in all?'))}", steps[:2], total)
    known = f"{known} They eat {eaten} of the {what}"
    if level == 2:
        return Story(f"{known}. {rng.choice((f'How many {what} are left?', f'How many {what} do they still have?'))}", steps[:3], left)
    return Story(f"{known} and put the others into bowls of {bowl}. How many bowls do they fill?", steps, bowls)


@_template("train")
def trips(rng: Random, level: int) -> Story:
    """So many kilometers an hour for so many hours, in one, two or more parts of a way."""
    who = rng.choice(NAMES)
    fast, hours, slow, more_hours, rest = _draw(rng, (8, 15), (2, 5), (3, 6), (2, 4), (5, 20))
    first, second = _times(fast, hours), _times(slow, more_hours)
    total = _plus(first, second)
    left = _minus(total + rest, total)
    ride, walk = rng.choice((("cycles", "walks"), ("rides", "hikes"), ("skates", "strolls")))
    steps = (
        Step(f"Multiply the kilometers an hour by the hours that {who} {ride} to find the first part.", f"The first part is {first.work} kilometers."),
        Step(f"Multiply the kilometers an hour by the hours that {who} {walk} to find the second part.", f"The second part is {second.work} kilometers."),
        Step("Add both parts to find the way so far.", f"Together that is {total.work} kilometers."),
        Step("Subtract the way so far from the whole way to find what is left.", f"There are {left.work} kilometers left."),
    )
    known = f"{who} {ride} {fast} kilometers an hour for {hours} hours"
    if level == 1:
        return Story(f"{known}. {rng.choice(('How many kilometers is that?', f'How many kilometers does {who} get?'))}", steps[:1], first)
    known = f"{known} and then {walk} {slow} kilometers an hour for {more_hours} hours."
    if level == 2:
        return Story(f"{known} {rng.choice(('How many kilometers is that in all?', 'How long is the way in kilometers?'))}", steps[:3], total)
    return Story(f"{known} The whole way is {total + rest} kilometers long. How many kilometers are left?", steps, left)


@_template("train")
def seats(rng: Random, level: int) -> Story:
    """Rows of seats, some of them taken, with more seats on a balcony."""
    rows, each, more_rows, more_each, balcony = _draw(rng, (3, 9), (4, 9), (2, 4), (3, 6), (5, 20))
    place = rng.choice(("hall", "cinema", "theater", "circus tent"))
    hall, upstairs = _times(rows, each), _times(more_rows, more_each)
    total = _plus(hall, upstairs if level == 3 else balcony)
    seats_there = hall if level == 1 else total
    taken = rng.randint(2, seats_there - 2)
    free = _minus(seats_there, taken)
    count = Step("Multiply the number of rows by the seats in each to find the seats in the rows.", f"The rows have {hall.work} seats.")
    above = Step("Multiply the rows of the balcony by the seats in each to find the seats of the balcony.", f"The balcony has {upstairs.work} seats.")
    both = Step("Add the seats of the balcony to the seats in the rows to find all seats.", f"In all there are {total.work} seats.")
    last = Step("Subtract the taken seats from all seats to find the free seats.", f"There are {free.work} free seats.")
    known = rng.choice((f"A {place} has {rows} rows with {each} seats each.", f"In a {place} there are {rows} rows of {each} seats."))
    ask = f"{taken} seats are taken. How many seats are free?"
    if level == 1:
        return Story(f"{known} {ask}", (count, last), free)
    if level == 2:
        return Story(f"{known} The balcony has {balcony} seats. In all, {ask}", (count, both, last), free)
    return Story(f"{known} The balcony has {more_rows} rows with {more_each} seats each. In all, {ask}", (count, above, both, last), free)


@_template("train")
def reading(rng: Random, level: int) -> Story:
    """Pages read on some days, what is left of the book, how many days that takes."""
    who = rng.choice(NAMES)
    pages, days, faster, last_days = _draw(rng, (4, 9), (2, 7), (5, 9), (2, 6))
    read = _times(pages, days)
    book = read + faster * last_days
    left = _minus(book, read)
    to_go = _over(left, faster)
    steps = (
        Step("Multiply the pages of a day by the number of days to find the pages read.", f"{who} has read {read.work} pages."),
        Step("Subtract the pages read from the pages of the book to find the pages left.", f"There are {left.work} pages left."),
        Step("Divide the pages left by the new pages a day to find the days.", f"They take {to_go.work} days."),
    )
    kind = rng.choice(("book", "comic", "story"))
    known = f"A {kind} has {book} pages. {who} reads {pages} pages a day for {days} days"
    if level == 1:
        return Story(f"{known}. {rng.choice(('How many pages are left?', f'How many pages does {who} still have to read?'))}", steps[:2], left)
    ask = rng.choice(("How many more days does the rest take?", f"How many more days does {who} need?"))
    if level == 2:
        return Story(f"{known} and after that {faster} pages a day. {ask}", steps, to_go)
    bonus = rng.randint(2, 9)
    weekend = _plus(read, bonus)
    left = _minus(book + bonus, weekend)
    steps = (
        steps[0],
        Step("Add the pages of Sunday to the pages read to find all pages read.", f"With Sunday it is {weekend.work} pages."),
        Step("Subtract all pages read from the pages of the book to find the pages left.", f"There are {left.work} pages left."),
        steps[2],
    )
    known = f"A {kind} has {book + bonus} pages. {who} reads {pages} pages a day for {days} days, {bonus} pages on Sunday"
    return Story(f"{known} and after that {faster} pages a day. {ask}", steps, to_go)


@_template("train")
def wages(rng: Random, level: int) -> Story:
    """Dollars an hour, hours a day, days, with a bonus and what is spent of it."""
    who = rng.choice(NAMES)
    rate, hours, days, bonus = _draw(rng, (3, 9), (2, 5), (2, 4), (3, 15))
    daily = _times(rate, hours)
    pay = _times(daily, days)
    total = _plus(pay, bonus)
    spent = rng.randint(4, total - 5)
    left = _minus(total, spent)
    job = rng.choice(("in a garden", "in a bakery", "at a farm", "in a cafe"))
    steps = (
        Step("Multiply the dollars an hour by the hours to find the pay of a day.", f"A day brings {daily.work} dollars."),
        Step("Multiply the pay of a day by the number of days to find the pay of all days.", f"All days bring {pay.work} dollars."),
        Step("Add the bonus to the pay of all days to find all the dollars.", f"With the bonus it is {total.work} dollars."),
        Step("Subtract the dollars spent from all the dollars to find what is left.", f"{who} has {left.work} dollars left."),
    )
    known = rng.choice((f"{who} earns {rate} dollars an hour {job}", f"Working {job}, {who} earns {rate} dollars an hour"))
    if level == 1:
        return Story(f"{known} and works {hours} hours. How many dollars does {who} earn?", steps[:1], daily)
    known = f"{known}. {who} works {hours} hours a day for {days} days and gets a bonus of {bonus} dollars."
    if level == 2:
        return Story(f"{known} {rng.choice((f'How many dollars does {who} get?', 'How many dollars is that in all?'))}", steps[:3], total)
    return Story(f"{known} {who} spends {spent} dollars. How many dollars are left?", steps, left)


# --- test -------------------------------------------------------------------------------------------------------------


@_template("test")
def tickets(rng: Random, level: int) -> Story:
    """What a show takes from children and adults, and what is left after the rent."""
    children, price, adults, adult_price, gift = _draw(rng, (3, 8), (2, 5), (2, 6), (4, 9), (3, 15))
    show = rng.choice(("puppet show", "magic show", "school play", "concert"))
    young, old = _times(children, price), _times(adults, adult_price)
    with_gift, total = _plus(young, gift), _plus(young, old)
    rent = rng.randint(5, total - 5)
    left = _minus(total, rent)
    steps = (
        Step("Multiply the number of children by the price of a child's ticket to find what the children pay.", f"The children pay {young.work} dollars."),
        Step("Multiply the number of adults by the price of an adult's ticket to find what the adults pay.", f"The adults pay {old.work} dollars."),
        Step("Add what the children and the adults pay to find the income.", f"The income is {total.work} dollars."),
        Step("Subtract the rent from the income to find what is left.", f"There are {left.work} dollars left."),
    )
    known = rng.choice((f"{children} children come to a {show}", f"A {show} has {children} children as guests"))
    if level == 1:
        add = Step("Add the gift to what the children pay to find the income.", f"The income is {with_gift.work} dollars.")
        known = f"{known} and pay {price} dollars each. A neighbor gives {gift} dollars more."
        return Story(f"{known} How many dollars does the show take in?", (steps[0], add), with_gift)
    known = f"{known} who pay {price} dollars each. The {adults} adults pay {adult_price} dollars each."
    if level == 2:
        return Story(f"{known} {rng.choice(('How many dollars does the show take in?', 'How many dollars do they pay in all?'))}", steps[:3], total)
    return Story(f"{known} The rent of the room is {rent} dollars. How many dollars are left?", steps, left)


@_template("test")
def bakery(rng: Random, level: int) -> Story:
    """Trays of baked things, the burnt ones taken away, packed in bags, the bags sold."""
    who, what = rng.choice(NAMES), rng.choice(BAKED)
    bag, trays, price = _draw(rng, (2, 6), (2, 6), (2, 5))
    each = bag * rng.randint(1, 2) if level == 1 else rng.randint(4, 9)
    all_baked = _times(trays, each)
    burnt = _spare(all_baked, bag)
    good = _minus(all_baked, burnt)
    bags = _over(all_baked if level == 1 else good, bag)
    income = _times(bags, price)
    steps = (
        Step(f"Multiply the number of trays by the {what} on each to find all the {what}.", f"{who} bakes {all_baked.work} {what}."),
        Step(f"Subtract the burnt {what} from all the {what} to find the good {what}.", f"There are {good.work} good {what}."),
        Step(f"Divide the {'' if level == 1 else 'good '}{what} by the {what} in a bag to find the bags.", f"They fill {bags.work} bags."),
        Step("Multiply the number of bags by the price of each to find the income.", f"The bags bring {income.work} dollars."),
    )
    known = rng.choice((f"{who} bakes {trays} trays of {each} {what}", f"{who} takes {trays} trays of {each} {what} out of the oven"))
    if level == 1:
        return Story(f"{known} and puts {bag} into each bag. How many bags are filled?", (steps[0], steps[2]), bags)
    known = f"{known}. {burnt} of them are burnt, and the others go into bags of {bag}."
    if level == 2:
        return Story(f"{known} {rng.choice(('How many bags are filled?', f'How many bags does {who} fill?'))}", steps[:3], bags)
    return Story(f"{known} Each bag is sold for {price} dollars. How many dollars does {who} take in?", steps, income)


@_template("test")
def bus(rng: Random, level: int) -> Story:
    """People who get off and on at one stop or two."""
    off, on, later_off, later_on = _draw(rng, (2, 9), (2, 12), (2, 9), (2, 12))
    start = off + rng.randint(8, 30)
    ride = rng.choice(("bus", "train", "ferry", "tram"))
    a = _minus(start, off)
    b = _plus(a, on)
    c = _minus(b, later_off)
    d = _plus(c, later_on)
    steps = (
        Step("Subtract the people who get off from the people at the start to find who stays.", f"There are {a.work} people."),
        Step("Add the people who get on to find the people after the first stop.", f"After the first stop there are {b.work} people."),
        Step("Subtract the people who get off at the second stop to find who stays.", f"Then there are {c.work} people."),
        Step("Add the people who get on at the second stop to find the people in the end.", f"In the end there are {d.work} people."),
    )
    ask = rng.choice((f"How many people are on the {ride} now?", f"How many people are now on the {ride}?"))
    known = rng.choice((f"There are {start} people on a {ride}.", f"A {ride} carries {start} people."))
    known = f"{known} At the first stop {off} get off and {on} get on."
    if level == 1:
        return Story(f"{known} {ask}", steps[:2], b)
    known = f"{known} At the second stop {later_off} get off"
    if level == 2:
        return Story(f"{known}. {ask}", steps[:3], c)
    return Story(f"{known} and {later_on} get on. {ask}", steps, d)


@_template("test")
def points(rng: Random, level: int) -> Story:
    """Points for hits of two kinds, and how far ahead that is."""
    who, rival = rng.sample(NAMES, 2)
    red, worth, blue, other_worth, penalty = _draw(rng, (3, 8), (4, 9), (2, 7), (2, 3), (2, 9))
    first, second = _times(red, worth), _times(blue, other_worth)
    rest, total = _minus(first, penalty), _plus(first, second)
    behind = rng.randint(2, total - 4)
    ahead = _minus(total, behind)
    steps = (
        Step("Multiply the number of red rings by the points of each to find the points for red.", f"The red rings give {first.work} points."),
        Step("Multiply the number of blue rings by the points of each to find the points for blue.", f"The blue rings give {second.work} points."),
        Step("Add the points for red and blue to find the score.", f"The score is {total.work} points."),
        Step(f"Subtract the score of {rival} from the score of {who} to find the lead.", f"{who} is ahead by {ahead.work} points."),
    )
    known = rng.choice((f"{who} hits the red ring {red} times for {worth} points each", f"In a game {who} hits the red ring {red} times for {worth} points each"))
    if level == 1:
        less = Step("Subtract the lost points from the points for red to find the score.", f"The score is {rest.work} points.")
        return Story(f"{known} and then loses {penalty} points. How many points does {who} have?", (steps[0], less), rest)
    known = f"{known} and the blue ring {blue} times for {other_worth} points each."
    if level == 2:
        return Story(f"{known} {rng.choice((f'How many points does {who} have?', f'How many points does {who} score?'))}", steps[:3], total)
    return Story(f"{known} {rival} has {behind} points. How many points is {who} ahead?", steps, ahead)


@_template("test")
def tank(rng: Random, level: int) -> Story:
    """Water that flows into a tank, is used, and leaks out."""
    start, inflow, minutes, leak, leak_minutes = _draw(rng, (5, 30), (3, 9), (2, 8), (2, 3), (2, 5))
    added, leaked = _times(inflow, minutes), _times(leak, leak_minutes)
    full = _plus(start, added)
    used = rng.randint(3, full - 3)
    left = _minus(full, leaked if level == 3 else used)
    where = rng.choice(("tank", "barrel", "pool", "pond"))
    into = Step("Multiply the liters a minute by the minutes to find the water that flows in.", f"{added.work} liters flow in.")
    fill = Step("Add the water that flows in to the water at the start to find all the water.", f"Then there are {full.work} liters.")
    known = rng.choice((f"A {where} holds {start} liters of water.", f"There are {start} liters of water in a {where}."))
    known = f"{known} For {minutes} minutes, {inflow} liters a minute flow in."
    ask = rng.choice((f"How many liters are in the {where} now?", f"How many liters of water does the {where} hold now?"))
    if level == 1:
        return Story(f"{known} {ask}", (into, fill), full)
    if level == 2:
        use = Step("Subtract the water used from all the water to find what is left.", f"There are {left.work} liters left.")
        return Story(f"{known} Then {used} liters are used. {ask}", (into, fill, use), left)
    out = Step("Multiply the liters a minute by the minutes to find the water that leaks out.", f"{leaked.work} liters leak out.")
    rest = Step("Subtract the water that leaks out from all the water to find what is left.", f"There are {left.work} liters left.")
    return Story(f"{known} Then, for {leak_minutes} minutes, {leak} liters a minute leak out. {ask}", (into, fill, out, rest), left)


@_template("test")
def beads(rng: Random, level: int) -> Story:
    """Beads out of boxes that become necklaces, and what the rest is enough for."""
    who, (a, b) = rng.choice(NAMES), rng.sample(JEWELS, 2)
    n, each, small, more = _draw(rng, (2, 5), (4, 9), (2, 4), (2, 6))
    used = _times(n, each)
    box = rng.randint(5, 9)
    boxes = (used + small * more) // box + 1
    start = _times(boxes, box)
    left = _minus(start if level > 1 else used + more, used)
    steps = (
        Step("Multiply the number of boxes by the beads in each to find all the beads.", f"There are {start.work} beads."),
        Step(f"Multiply the number of {a} by the beads on each to find the beads used.", f"The {a} take {used.work} beads."),
        Step("Subtract the beads used from all the beads to find the beads left.", f"There are {left.work} beads left."),
    )
    makes = f"makes {n} {a} with {each} beads each"
    ask = rng.choice(("How many beads are left?", f"How many beads does {who} still have?"))
    if level == 1:
        has = rng.choice((f"{who} has {used + more} beads", f"{who} owns {used + more} beads"))
        return Story(f"{has} and {makes}. {ask}", steps[1:], left)
    has = rng.choice((f"{who} has {boxes} boxes of {box} beads", f"{who} buys {boxes} boxes of {box} beads"))
    if level == 2:
        return Story(f"{has} and {makes}. {ask}", steps, left)
    share = rng.choice([parts for parts in range(2, 10) if left % parts == 0 and left > parts] or [1])
    if share == 1:
        return beads(rng, level)  # a prime number of beads is left: no way to use them up
    many = _over(left, share)
    last = Step(f"Divide the beads left by the beads on each to find the {b}.", f"They are enough for {many.work} {b}.")
    return Story(f"{has} and {makes}. The rest becomes {b} with {share} beads each. How many {b} are there?", (*steps, last), many)


@_template("test")
def flower_beds(rng: Random, level: int) -> Story:
    """A multiple of some flowers, fewer of others, all of them in bunches."""
    where, (a, b, c) = rng.choice(("garden", "park", "shop", "field")), rng.sample(FLOWERS, 3)
    first, factor, fewer, bunch = _draw(rng, (4, 12), (2, 4), (2, 6), (2, 5))
    if level == 3:
        fewer = 2 + (2 * first * factor + first - 2) % bunch  # so that all the flowers divide into bunches
    second = _times(first, factor)
    third = _minus(second, fewer)
    difference, total = _minus(second, first), _plus(first, second, third)
    steps = (
        Step(f"Multiply the number of {a} by how many times as many {b} there are to find the {b}.", f"There are {second.work} {b}."),
        Step(f"Subtract the difference from the {b} to find the {c}.", f"There are {third.work} {c}."),
        Step("Add the three kinds to find all the flowers.", f"In all there are {total.work} flowers."),
    )
    known = rng.choice((f"A {where} has {first} {a} and {_times_as(factor)} many {b}.", f"In a {where} there are {first} {a} and {_times_as(factor)} many {b}."))
    if level == 1:
        less = Step(f"Subtract the {a} from the {b} to find how many more {b} there are.", f"There are {difference.work} more {b}.")
        return Story(f"{known} How many more {b} than {a} are there?", (steps[0], less), difference)
    known = f"{known} There are {fewer} fewer {c} than {b}."
    if level == 2:
        return Story(f"{known} {rng.choice(('How many of these flowers are there in all?', 'How many flowers is that in all?'))}", steps, total)
    bunches = _over(total, bunch)
    last = Step("Divide all the flowers by the flowers in a bunch to find the bunches.", f"They make {bunches.work} bunches.")
    return Story(f"{known} All of them are tied in bunches of {bunch}. How many bunches is that?", (*steps, last), bunches)


# --- saying it --------------------------------------------------------------------------------------------------------


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _times_as(factor: int) -> str:
    return "twice as" if factor == 2 else f"{factor} times as"


TEMPLATES = tuple(_told)
