"""The stories that are told in tests only: they join the skills of the training ones in new ways.

Written as in practice_train.py.
"""

from random import Random

from plantune_lite.problems.practice.parts import (
    BAKED,
    BASINS,
    FLOWERS,
    JEWELS,
    NAMES,
    RIDES,
    SHOWS,
    Story,
    draw,
    either,
    minus,
    over,
    plus,
    spare,
    times,
    times_as,
    worked,
)


def tickets(rng: Random, level: int) -> Story:
    """What children pay at a show, and a gift; what adults pay; what is left after the rent."""
    show = rng.choice(SHOWS)
    children, price, adults, adult_price, gift = draw(rng, (2, 6), (2, 5), (2, 4), (3, 8), (2, 9))
    young, old = times(children, price), times(adults, adult_price)
    income = plus(young, gift if level == 1 else old)
    rent = rng.randint(2, income - 2)
    left = minus(income, rent)
    steps = worked(
        "Multiply the number of children by their price to find what the children pay.",
        f"The children pay {young.work} dollars.",
        "Multiply the number of adults by their price to find what the adults pay.",
        f"The adults pay {old.work} dollars.",
        f"Add {'the gift to what the children pay' if level == 1 else 'what both pay'} to find the income.",
        f"The income is {income.work} dollars.",
        "Subtract the rent from the income to find what is left.",
        f"There are {left.work} dollars left.",
    )
    known = either(rng, f"At a {show} {children} children pay", f"{children} children come to a {show} and pay")
    known = f"{known} {price} dollars each."
    ask = either(rng, "How many dollars does the show take in?", "How many dollars does the show get?")
    if level == 1:
        return Story(f"{known} A neighbor gives {gift} dollars. {ask}", income, (steps[0], steps[2]))
    known = f"{known} {adults} adults pay {adult_price} dollars each."
    if level == 2:
        return Story(f"{known} {ask}", income, steps[:3])
    ask = either(rng, "How many dollars are left?", "How many dollars does the show keep?")
    return Story(f"{known} The rent is {rent} dollars. {ask}", left, steps)


def baking(rng: Random, level: int) -> Story:
    """Trays of buns in bags; some of them burnt; the bags sold."""
    who, what = rng.choice(NAMES), rng.choice(BAKED)
    trays, tray, bag, price = draw(rng, (2, 4), (3, 6), (2, 4), (2, 5))
    if level == 1:
        tray = bag * rng.randint(2, 3)
    baked = times(trays, tray)
    burnt = spare(baked, bag)
    good = minus(baked, burnt)
    bags = over(baked if level == 1 else good, bag)
    income = times(bags, price)
    steps = worked(
        f"Multiply the number of trays by the {what} on each to find all the {what}.",
        f"There are {baked.work} {what}.",
        f"Subtract the burnt {what} from all the {what} to find the {what} left.",
        f"There are {good.work} {what} left.",
        f"Divide the {what} by the number in a bag to find the bags.",
        f"They fill {bags.work} bags.",
        "Multiply the number of bags by their price to find the income.",
        f"The bags bring {income.work} dollars.",
    )
    known = f"{who} {either(rng, 'bakes', 'makes')} {trays} trays of {tray} {what} each"
    ask = either(rng, "How many bags are filled?", f"How many bags does {who} fill?")
    if level == 1:
        return Story(f"{known} and puts {bag} into each bag. {ask}", bags, (steps[0], steps[2]))
    known = f"{known}. {burnt} of them are burnt. The rest goes into bags of {bag}."
    if level == 2:
        return Story(f"{known} {ask}", bags, steps[:3])
    ask = either(rng, "How many dollars do all the bags bring?", f"How many dollars does {who} take in?")
    return Story(f"{known} Each bag is sold for {price} dollars. {ask}", income, steps)


def riding(rng: Random, level: int) -> Story:
    """People get off and on at a stop; get off at a second one; get on there too."""
    ride = rng.choice(RIDES)
    off, on, later_off, later_on, stay = draw(rng, (2, 6), (2, 6), (2, 6), (2, 6), (6, 15))
    start = off + stay
    first = minus(start, off)
    second = plus(first, on)
    third = minus(second, later_off)
    last = plus(third, later_on)
    steps = worked(
        "Subtract the people who get off from the people at the start to find who is left.",
        f"There are {first.work} people left.",
        f"Add the people who get on to find the people on the {ride}.",
        f"Then there are {second.work} people.",
        "Subtract the people who get off at the next stop to find who is left.",
        f"There are {third.work} people left.",
        "Add the people who get on at the next stop to find the people in the end.",
        f"In the end there are {last.work} people.",
    )
    known = either(rng, f"There are {start} people on a {ride}.", f"A {ride} starts with {start} people.")
    known = f"{known} At a stop {off} get off and {on} get on."
    ask = either(rng, f"How many people are on the {ride} then?", f"How many people does the {ride} carry then?")
    if level == 1:
        return Story(f"{known} {ask}", second, steps[:2])
    known = f"{known} At the next stop {later_off} get off"
    if level == 2:
        return Story(f"{known}. {ask}", third, steps[:3])
    return Story(f"{known} and {later_on} get on. {ask}", last, steps)


def scoring(rng: Random, level: int) -> Story:
    """Points for hits and a penalty; hits of two kinds; how far ahead that is."""
    who, rival = rng.sample(NAMES, 2)
    red, worth, blue, other_worth, penalty = draw(rng, (2, 5), (4, 6), (2, 5), (2, 3), (2, 3))
    first, second = times(red, worth), times(blue, other_worth)
    score = minus(first, penalty) if level == 1 else plus(first, second)
    behind = rng.randint(2, score - 2)
    lead = minus(score, behind)
    steps = worked(
        "Multiply the number of red hits by the points of each to find the points for red.",
        f"Red brings {first.work} points.",
        "Multiply the number of blue hits by the points of each to find the points for blue.",
        f"Blue brings {second.work} points.",
        f"{'Subtract the lost points from the points for red' if level == 1 else 'Add both'} to find the score.",
        f"The score is {score.work} points.",
        "Subtract the lower score from the higher score to find the lead.",
        f"The lead is {lead.work} points.",
    )
    target = either(rng, "ring", "bucket")
    known = f"{who} hits the red {target} {red} times for {worth} points each"
    ask = either(rng, f"How many points does {who} have?", f"How many points does {who} score?")
    if level == 1:
        return Story(f"{known} and loses {penalty} points. {ask}", score, (steps[0], steps[2]))
    known = f"{known} and the blue {target} {blue} times for {other_worth} points each."
    if level == 2:
        return Story(f"{known} {ask}", score, steps[:3])
    ask = either(rng, f"How many points is {who} ahead?", f"By how many points does {who} lead?")
    return Story(f"{known} {rival} has {behind} points. {ask}", lead, steps)


def filling(rng: Random, level: int) -> Story:
    """Water flows in; some is used; some leaks out minute by minute."""
    where = rng.choice(BASINS)
    start, inflow, minutes, leak, leak_minutes = draw(rng, (6, 15), (2, 6), (2, 5), (2, 3), (2, 3))
    added, leaked = times(inflow, minutes), times(leak, leak_minutes)
    full = plus(start, added)
    used = rng.randint(3, full - 3)
    left = minus(full, used if level == 2 else leaked)
    flow, fill, drain, rest = worked(
        "Multiply the liters a minute by the minutes to find the water that flows in.",
        f"{added.work} liters flow in.",
        "Add the water that flows in to the water at the start to find all the water.",
        f"Then there are {full.work} liters.",
        "Multiply the liters a minute by the minutes to find the water that leaks out.",
        f"{leaked.work} liters leak out.",
        f"Subtract the {'used' if level == 2 else 'lost'} water from all the water to find what is left.",
        f"There are {left.work} liters left.",
    )
    known = either(rng, f"A {where} has {start} liters of water.", f"There are {start} liters in a {where}.")
    known = f"{known} For {minutes} minutes {inflow} liters a minute flow in."
    ask = either(rng, f"How many liters are in the {where} then?", f"How many liters does the {where} hold then?")
    if level == 1:
        return Story(f"{known} {ask}", full, (flow, fill))
    if level == 2:
        return Story(f"{known} {used} liters are used. {ask}", left, (flow, fill, rest))
    question = f"{known} For {leak_minutes} minutes {leak} liters a minute leak out. {ask}"
    return Story(question, left, (flow, fill, drain, rest))


def beading(rng: Random, level: int) -> Story:
    """Beads become necklaces; the beads come in boxes; two kinds of things are made."""
    who, (a, b) = rng.choice(NAMES), rng.sample(JEWELS, 2)
    n, each, m, other, box, spare = draw(rng, (2, 4), (3, 6), (2, 3), (2, 4), (4, 8), (2, 9))
    first, second = times(n, each), times(m, other)
    both = plus(first, second)
    used = both if level == 3 else first
    boxes = used // box + 2
    bought = times(boxes, box)
    start = bought if level == 2 else used + spare
    left = minus(start, used)
    buy, string, string_more, add, rest = worked(
        "Multiply the number of boxes by the beads in each to find all the beads.",
        f"There are {bought.work} beads.",
        f"Multiply the number of {a} by the beads of each to find the beads of the {a}.",
        f"The {a} take {first.work} beads.",
        f"Multiply the number of {b} by the beads of each to find the beads of the {b}.",
        f"The {b} take {second.work} beads.",
        "Add both to find the used beads.",
        f"Together they take {both.work} beads.",
        "Subtract the used beads from all the beads to find the beads left.",
        f"There are {left.work} beads left.",
    )
    has = f"{who} {either(rng, 'has', 'buys')} {f'{boxes} boxes of {box}' if level == 2 else start} beads"
    makes = f"makes {n} {a} with {each} beads each"
    ask = either(rng, "How many beads are left?", f"How many beads does {who} still have?")
    if level == 1:
        return Story(f"{has} and {makes}. {ask}", left, (string, rest))
    if level == 2:
        return Story(f"{has} and {makes}. {ask}", left, (buy, string, rest))
    return Story(
        f"{has} and {makes} and {m} {b} with {other} beads each. {ask}", left, (string, string_more, add, rest)
    )


def planting(rng: Random, level: int) -> Story:
    """So many times as many flowers of another kind; fewer of a third kind; all of them in bunches."""
    a, b, c = rng.sample(FLOWERS, 3)
    first, factor, fewer, bunch = draw(rng, (3, 8), (2, 3), (2, 4), (2, 4))
    second = times(first, factor)
    if level == 3:
        fewer = spare(first + 2 * second, bunch)
    third = minus(second, fewer)
    more, total = minus(second, first), plus(first, second, third)
    bunches = over(total, bunch)
    multiply, compare, subtract, add, divide = worked(
        f"Multiply the number of {a} by the given factor to find the number of {b}.",
        f"There are {second.work} {b}.",
        f"Subtract the number of {a} from the number of {b} to find the difference.",
        f"There are {more.work} more {b}.",
        f"Subtract the difference from the number of {b} to find the number of {c}.",
        f"There are {third.work} {c}.",
        "Add all the kinds to find all the flowers.",
        f"Together there are {total.work} flowers.",
        "Divide all the flowers by the flowers in a bunch to find the bunches.",
        f"They make {bunches.work} bunches.",
    )
    known = either(rng, f"A gardener grows {first} {a} and", f"In a flower bed there are {first} {a} and")
    known = f"{known} {times_as(factor)} many {b}."
    if level == 1:
        ask = either(rng, f"How many more {b} than {a} are there?", f"By how many do the {b} outnumber the {a}?")
        return Story(f"{known} {ask}", more, (multiply, compare))
    known = f"{known} There are {fewer} fewer {c} than {b}."
    if level == 2:
        ask = either(rng, "How many flowers are there in all?", "How many flowers is that in all?")
        return Story(f"{known} {ask}", total, (multiply, subtract, add))
    ask = either(rng, "How many bunches is that?", "How many bunches are there?")
    question = f"{known} All of them are tied in bunches of {bunch}. {ask}"
    return Story(question, bunches, (multiply, subtract, add, divide))


HELD_OUT = (tickets, baking, riding, scoring, filling, beading, planting)
