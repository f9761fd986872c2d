"""The stories that practice problems are told by in training.

A template is a function of a random generator and a level. Level 1 takes one or two steps, level 2 two or three, level
3 three or four. Quantities are whole numbers small enough for the head; a story with a one or a zero is drawn again.
"""

from random import Random

from plantune_lite.problems.practice.parts import (
    ANIMALS,
    DISHES,
    FRUIT,
    GOODS,
    HALLS,
    NAMES,
    TEXTS,
    TREASURES,
    WARES,
    WISHES,
    WORKPLACES,
    Story,
    draw,
    either,
    listed,
    minus,
    over,
    plus,
    spare,
    times,
    times_as,
    worked,
)


def shopping(rng: Random, level: int) -> Story:
    """Things at a price each; things of two kinds; what is left of a note."""
    who, (a, b) = rng.choice(NAMES), rng.sample(GOODS, 2)
    n, price, m, other_price = draw(rng, (2, 5), (2, 6), (2, 4), (2, 5))
    first, second = times(n, price), times(m, other_price)
    total = plus(first, second)
    note = 20 if total <= 16 else 50
    change = minus(note, total)
    steps = worked(
        f"Multiply the number of {a} by their price to find the cost of the {a}.",
        f"The {a} cost {first.work} dollars.",
        f"Multiply the number of {b} by their price to find the cost of the {b}.",
        f"The {b} cost {second.work} dollars.",
        "Add both costs to find the total cost.",
        f"Together they cost {total.work} dollars.",
        "Subtract the total cost from the note to find the change.",
        f"{who} gets back {change.work} dollars.",
    )
    basket = f"{who} {either(rng, 'buys', 'orders', 'pays for')} {n} {a} for {price} dollars each"
    ask = either(rng, f"How many dollars does {who} pay?", "How many dollars is that in all?")
    if level == 1:
        return Story(f"{basket}. {ask}", first, steps[:1])
    basket = f"{basket} and {m} {b} for {other_price} dollars each."
    if level == 2:
        return Story(f"{basket} {ask}", total, steps[:3])
    ask = either(rng, f"How many dollars does {who} get back?", "How many dollars is the change?")
    return Story(f"{basket} {who} pays with a note of {note} dollars. {ask}", change, steps)


def legs(rng: Random, level: int) -> Story:
    """The legs of one, two or three kinds of animals."""
    who, kinds = rng.choice(NAMES), rng.sample(sorted(ANIMALS), level)
    counts = draw(rng, *[(2, 6)] * level)
    found = [times(count, ANIMALS[kind]) for count, kind in zip(counts, kinds, strict=True)]
    lines = []
    for kind, part in zip(kinds, found, strict=True):
        lines.append(f"Multiply the number of {kind} by the legs of each to find the legs of the {kind}.")
        lines.append(f"The {kind} have {part.work} legs.")
    answer = found[0]
    if level > 1:
        answer = plus(*found)
        lines += ["Add the legs of all kinds to find all the legs.", f"Together they have {answer.work} legs."]
    herd = listed([f"{count} {kind}" for count, kind in zip(counts, kinds, strict=True)])
    question = either(
        rng,
        f"{who} draws {herd}. How many legs does {who} draw?",
        f"In a picture there are {herd}. How many legs are in the picture?",
        f"{who} sees {herd}. How many legs is that in all?",
    )
    return Story(question, answer, worked(*lines))


def ages(rng: Random, level: int) -> Story:
    """Who is older or younger; who is so many times as old; what the ages add up to."""
    (a, b, c), older = rng.sample(NAMES, 3), rng.random() < 0.5
    age, gap, factor = draw(rng, (6, 12), (2, 4), (2, 3))
    second = plus(age, gap) if older else minus(age, gap)
    third = times(second, factor)
    total = plus(age, second, third)
    steps = worked(
        f"{'Add the years to' if older else 'Subtract the years from'} the age of {a} to find the age of {b}.",
        f"{b} is {second.work} years old.",
        f"Multiply the age of {b} by the given factor to find the age of {c}.",
        f"{c} is {third.work} years old.",
        "Add all the ages to find their sum.",
        f"The sum is {total.work} years.",
    )
    known = f"{a} is {age} years old. {b} is {gap} years {'older' if older else 'younger'} than {a}."
    if level == 1:
        return Story(f"{known} {either(rng, f'How old is {b}?', f'What is the age of {b}?')}", second, steps[:1])
    known = f"{known} {c} is {times_as(factor)} old as {b}."
    if level == 2:
        return Story(f"{known} {either(rng, f'How old is {c}?', f'What is the age of {c}?')}", third, steps[:2])
    ask = either(rng, "What is the sum of their ages?", "What do their ages add up to?")
    return Story(f"{known} {ask}", total, steps)


def recipes(rng: Random, level: int) -> Story:
    """What several dishes take; what is still missing; how many bags to buy."""
    who, (dish, need) = rng.choice(NAMES), rng.choice(DISHES)
    n, each, bag = draw(rng, (2, 5), (2, 6), (2, 4))
    needed = times(n, each)
    at_home = spare(needed, bag)
    missing = minus(needed, at_home)
    bags = over(missing, bag)
    steps = worked(
        f"Multiply the number of {dish}s by the {need} in each to find the {need} needed.",
        f"The {dish}s take {needed.work} {need}.",
        f"Subtract the {need} at home from the {need} needed to find the {need} to buy.",
        f"{who} has to buy {missing.work} {need}.",
        f"Divide the {need} to buy by the {need} in a bag to find the bags.",
        f"That makes {bags.work} bags.",
    )
    known = f"{who} {either(rng, 'makes', 'prepares')} {n} {dish}s. Each {dish} takes {each} {need}."
    if level == 1:
        ask = either(rng, f"How many {need} does {who} need?", f"How many {need} do the {dish}s take?")
        return Story(f"{known} {ask}", needed, steps[:1])
    known = f"{known} There are {at_home} {need} at home."
    if level == 2:
        ask = either(rng, f"How many {need} does {who} have to buy?", f"How many more {need} does {who} need?")
        return Story(f"{known} {ask}", missing, steps[:2])
    ask = either(rng, "How many bags are needed?", f"How many bags does {who} have to buy?")
    return Story(f"{known} A bag holds {bag} {need}. {ask}", bags, steps)


def schedules(rng: Random, level: int) -> Story:
    """Lessons and a break; lessons and games; what is left of the time."""
    who, length = rng.choice(NAMES), rng.choice((10, 20, 30))
    short = rng.choice((5, 10))
    n, games, tens = draw(rng, (2, 4), (2, 4), (1, 4))
    lessons, play = times(n, length), times(games, short)
    total = plus(lessons, short if level == 1 else play)
    school = total + 10 * tens
    free = minus(school, total)
    first, *others = worked(
        "Multiply the number of lessons by the minutes of each to find the time of the lessons.",
        f"The lessons take {lessons.work} minutes.",
        "Multiply the number of games by the minutes of each to find the time of the games.",
        f"The games take {play.work} minutes.",
        "Add both times to find the time in all.",
        f"Together that is {total.work} minutes.",
        "Subtract the time in all from the time at school to find the free time.",
        f"There are {free.work} minutes left.",
    )
    known = f"{who} {either(rng, 'has', 'takes')} {n} lessons of {length} minutes each"
    ask = either(rng, "How many minutes is that in all?", "How many minutes does all of it take?")
    if level == 1:
        return Story(f"{known} and then a break of {short} minutes. {ask}", total, (first, others[1]))
    known = f"{known} and plays {games} games of {short} minutes each."
    if level == 2:
        return Story(f"{known} {ask}", total, (first, *others[:2]))
    ask = either(rng, "How many minutes are left?", "How many minutes are free?")
    question = f"{known} {who} is at school for {school} minutes. {ask}"
    return Story(question, free, (first, *others))


def sharing(rng: Random, level: int) -> Story:
    """Dividing a heap; dividing it after a loss; dividing it after it was bought in packs."""
    who, what = rng.choice(NAMES), rng.choice(TREASURES)
    friends, share, packs, size = draw(rng, (2, 5), (2, 6), (2, 5), (3, 6))
    bought = times(packs, size)
    start = friends * share if level == 1 else bought
    lost = spare(bought, friends)
    rest = minus(start, lost)
    each = over(start if level == 1 else rest, friends)
    steps = worked(
        f"Multiply the number of packs by the {what} in each to find all the {what}.",
        f"There are {bought.work} {what}.",
        f"Subtract the lost {what} from all the {what} to find the {what} left.",
        f"There are {rest.work} {what} left.",
        f"Divide the {what} by the number of friends to find the share of each.",
        f"Each friend gets {each.work} {what}.",
    )
    ask = either(rng, f"How many {what} does each friend get?", f"How many {what} does each of them get?")
    if level == 1:
        verb = either(rng, "shares them equally among", "divides them equally among")
        return Story(f"{who} has {start} {what} and {verb} {friends} friends. {ask}", each, steps[2:])
    has = f"{who} has {start} {what}" if level == 2 else f"{who} buys {packs} packs of {size} {what}"
    question = f"{has}, loses {lost} of them and shares the rest equally among {friends} friends. {ask}"
    return Story(question, each, steps[3 - level :])


def savings(rng: Random, level: int) -> Story:
    """Saving so much a week; buying something with it; saving from two sources."""
    who, wish = rng.choice(NAMES), rng.choice(WISHES)
    start, weekly, job, weeks = draw(rng, (3, 12), (2, 6), (2, 4), (2, 5))
    rate = plus(weekly, job)
    saved = times(rate if level == 3 else weekly, weeks)
    total = plus(start, saved)
    price = rng.randint(2, total - 2)
    left = minus(total, price)
    steps = worked(
        "Add the pocket money and the pay to find the savings of a week.",
        f"A week brings {rate.work} dollars.",
        "Multiply the savings of a week by the number of weeks to find all the savings.",
        f"All the savings are {saved.work} dollars.",
        "Add the savings to the dollars at the start to find the dollars in all.",
        f"{who} then has {total.work} dollars.",
        f"Subtract the price of the {wish} from the dollars in all to find what is left.",
        f"There are {left.work} dollars left.",
    )
    has = f"{who} {either(rng, 'has', 'starts with')} {start} dollars"
    if level == 1:
        ask = either(rng, f"How many dollars does {who} have", "How many dollars are there")
        return Story(f"{has} and saves {weekly} dollars a week. {ask} after {weeks} weeks?", total, steps[1:3])
    source = f" and saves {weekly} dollars a week."
    if level == 3:
        source = f". Each week {who} saves {weekly} dollars of pocket money and {job} dollars of pay."
    ask = either(rng, "How many dollars are left?", f"How many dollars does {who} still have?")
    question = f"{has}{source} After {weeks} weeks {who} buys a {wish} for {price} dollars. {ask}"
    return Story(question, left, steps[3 - level :])


def selling(rng: Random, level: int) -> Story:
    """A shop sells on two days; more is brought; more is brought in crates."""
    what = rng.choice(WARES)
    monday, tuesday, rest, new, crates, size = draw(rng, (2, 6), (2, 6), (3, 15), (3, 10), (2, 4), (2, 5))
    start = monday + tuesday + rest
    after_monday = minus(start, monday)
    after_tuesday = minus(after_monday, tuesday)
    brought = times(crates, size)
    now = plus(after_tuesday, new if level == 2 else brought)
    steps = worked(
        f"Subtract the {what} sold on Monday from the {what} at the start to find what is left.",
        f"After Monday there are {after_monday.work} {what}.",
        f"Subtract the {what} sold on Tuesday from what is left to find what is still left.",
        f"After Tuesday there are {after_tuesday.work} {what}.",
        f"Multiply the number of crates by the {what} in each to find the new {what}.",
        f"The crates bring {brought.work} {what}.",
        f"Add the new {what} to what is left to find all the {what}.",
        f"Then there are {now.work} {what}.",
    )
    known = either(rng, f"A shop has {start} {what}.", f"There are {start} {what} in a shop.")
    known = f"{known} It sells {monday} of them on Monday and {tuesday} on Tuesday."
    if level == 1:
        ask = either(rng, f"How many {what} are left?", f"How many {what} does the shop still have?")
        return Story(f"{known} {ask}", after_tuesday, steps[:2])
    ask = either(rng, f"How many {what} are there then?", f"How many {what} does the shop have then?")
    if level == 2:
        return Story(f"{known} On Wednesday {new} new {what} arrive. {ask}", now, (*steps[:2], steps[3]))
    return Story(f"{known} On Wednesday {crates} crates of {size} {what} arrive. {ask}", now, steps)


def collections(rng: Random, level: int) -> Story:
    """Who has more; who has fewer; what is left of all when some are given away."""
    (a, b, c), what = rng.sample(NAMES, 3), rng.choice(TREASURES)
    first, more, fewer, gone = draw(rng, (6, 15), (2, 5), (2, 5), (2, 9))
    second = plus(first, more)
    third = minus(second, fewer)
    total = plus(first, second) if level == 1 else plus(first, second, third)
    left = minus(total, gone)
    verb = either(rng, "has", "owns")
    add, subtract, together, give = worked(
        f"Add the difference to the {what} of {a} to find the {what} of {b}.",
        f"{b} {verb} {second.work} {what}.",
        f"Subtract the difference from the {what} of {b} to find the {what} of {c}.",
        f"{c} {verb} {third.work} {what}.",
        f"Add the {what} of {listed([a, b] if level == 1 else [a, b, c])} to find all the {what}.",
        f"Together they have {total.work} {what}.",
        f"Subtract the {what} given away from all the {what} to find the {what} left.",
        f"There are {left.work} {what} left.",
    )
    known = f"{a} {verb} {first} {what}. {b} {verb} {more} more {what} than {a}."
    ask = either(rng, f"How many {what} do they have together?", f"How many {what} do they have in all?")
    if level == 1:
        return Story(f"{known} {ask}", total, (add, together))
    known = f"{known} {c} {verb} {fewer} fewer {what} than {b}."
    if level == 2:
        return Story(f"{known} {ask}", total, (add, subtract, together))
    ask = either(rng, f"How many {what} are left?", f"How many {what} do they keep?")
    return Story(f"{known} They give away {gone} {what}. {ask}", left, (add, subtract, together, give))


def picking(rng: Random, level: int) -> Story:
    """So many times as much fruit; what is left of it; how many bowls it fills."""
    (a, b), what = rng.sample(NAMES, 2), rng.choice(FRUIT)
    first, factor, bowl = draw(rng, (3, 8), (2, 3), (2, 4))
    second = times(first, factor)
    total = plus(first, second)
    eaten = spare(total, bowl)
    left = minus(total, eaten)
    bowls = over(left, bowl)
    steps = worked(
        f"Multiply the {what} of {a} by the given factor to find the {what} of {b}.",
        f"{b} picks {second.work} {what}.",
        f"Add the {what} of {a} and {b} to find all the {what}.",
        f"Together they pick {total.work} {what}.",
        f"Subtract the eaten {what} from all the {what} to find the {what} left.",
        f"There are {left.work} {what} left.",
        f"Divide the {what} left by the {what} in a bowl to find the bowls.",
        f"They fill {bowls.work} bowls.",
    )
    known = f"{a} picks {first} {what}. {b} picks {times_as(factor)} many {what} as {a}."
    if level == 1:
        ask = either(rng, f"How many {what} do they pick together?", f"How many {what} do they have in all?")
        return Story(f"{known} {ask}", total, steps[:2])
    known = f"{known} They eat {eaten} {what}"
    if level == 2:
        ask = either(rng, f"How many {what} are left?", f"How many {what} do they still have?")
        return Story(f"{known}. {ask}", left, steps[:3])
    ask = either(rng, "How many bowls do they fill?", "How many bowls are filled?")
    return Story(f"{known} and put the rest into bowls of {bowl}. {ask}", bowls, steps)


def trips(rng: Random, level: int) -> Story:
    """So many kilometers an hour for some hours; then slower; what is left of the way."""
    who, (ride, walk) = rng.choice(NAMES), rng.choice((("cycles", "walks"), ("rides", "hikes"), ("skates", "runs")))
    fast, hours, slow, more_hours, rest = draw(rng, (5, 10), (2, 4), (2, 4), (2, 3), (3, 12))
    first, second = times(fast, hours), times(slow, more_hours)
    total = plus(first, second)
    left = minus(total + rest, total)
    steps = worked(
        f"Multiply the kilometers an hour by the hours to find how far {who} {ride}.",
        f"{who} {ride} {first.work} kilometers.",
        f"Multiply the kilometers an hour by the hours to find how far {who} {walk}.",
        f"{who} {walk} {second.work} kilometers.",
        "Add both parts to find the way so far.",
        f"Together that is {total.work} kilometers.",
        "Subtract the way so far from the whole way to find what is left.",
        f"There are {left.work} kilometers left.",
    )
    known = f"{who} {ride} {fast} kilometers an hour for {hours} hours"
    ask = either(rng, "How many kilometers is that in all?", "How many kilometers long is the way?")
    if level == 1:
        return Story(f"{known}. {ask}", first, steps[:1])
    known = f"{known} and then {walk} {slow} kilometers an hour for {more_hours} hours."
    if level == 2:
        return Story(f"{known} {ask}", total, steps[:3])
    ask = either(rng, "How many kilometers are left?", f"How many kilometers does {who} still have to go?")
    return Story(f"{known} The whole way is {total + rest} kilometers long. {ask}", left, steps)


def seats(rng: Random, level: int) -> Story:
    """Rows of seats, some taken; a balcony; a balcony with rows of its own."""
    place = rng.choice(HALLS)
    rows, row, upper_rows, upper_row, upper = draw(rng, (2, 6), (3, 8), (2, 3), (2, 5), (3, 10))
    floor, balcony = times(rows, row), times(upper_rows, upper_row)
    total = floor if level == 1 else plus(floor, upper if level == 2 else balcony)
    taken = rng.randint(2, total - 2)
    free = minus(total, taken)
    down, up, both, last = worked(
        "Multiply the number of rows by the seats in each to find the seats of the floor.",
        f"The floor has {floor.work} seats.",
        "Multiply the rows of the balcony by the seats in each to find the seats of the balcony.",
        f"The balcony has {balcony.work} seats.",
        "Add the seats of the floor and of the balcony to find all the seats.",
        f"Together there are {total.work} seats.",
        "Subtract the taken seats from all the seats to find the free seats.",
        f"There are {free.work} free seats.",
    )
    known = f"The floor of a {place} has {rows} rows of {row} seats each."
    ask = f"In all, {taken} seats are taken. How many {either(rng, 'seats are free', 'free seats are there')}?"
    if level == 1:
        return Story(f"{known} {ask}", free, (down, last))
    if level == 2:
        return Story(f"{known} The balcony has {upper} seats. {ask}", free, (down, both, last))
    question = f"{known} The balcony has {upper_rows} rows of {upper_row} seats each. {ask}"
    return Story(question, free, (down, up, both, last))


def reading(rng: Random, level: int) -> Story:
    """Pages read; how many days the rest takes; the same with a few pages more."""
    who, text = rng.choice(NAMES), rng.choice(TEXTS)
    pages, days, bonus, pace, more_days = draw(rng, (3, 8), (2, 5), (2, 6), (2, 6), (2, 5))
    in_days = times(pages, days)
    read = plus(in_days, bonus) if level == 3 else in_days
    whole = read + pace * more_days
    left = minus(whole, read)
    last_days = over(left, pace)
    multiply, add, subtract, divide = worked(
        "Multiply the pages a day by the number of days to find the pages read.",
        f"{who} reads {in_days.work} pages.",
        "Add the pages of Sunday to the pages read to find all the pages read.",
        f"With Sunday it is {read.work} pages.",
        f"Subtract the pages read from the pages of the {text} to find the pages left.",
        f"There are {left.work} pages left.",
        "Divide the pages left by the new pages a day to find the days.",
        f"They take {last_days.work} days.",
    )
    known = f"A {text} has {whole} pages. {who} reads {pages} pages a day for {days} days"
    if level == 1:
        ask = either(rng, "How many pages are left?", f"How many pages does {who} still have to read?")
        return Story(f"{known}. {ask}", left, (multiply, subtract))
    ask = either(rng, "How many days does the rest take?", f"How many days does {who} need for the rest?")
    if level == 2:
        return Story(f"{known} and then {pace} pages a day. {ask}", last_days, (multiply, subtract, divide))
    question = f"{known}, another {bonus} pages on Sunday and then {pace} pages a day. {ask}"
    return Story(question, last_days, (multiply, add, subtract, divide))


def wages(rng: Random, level: int) -> Story:
    """The pay of a day; of several days with a bonus; what is left of it."""
    who, place = rng.choice(NAMES), rng.choice(WORKPLACES)
    rate, hours, days, bonus = draw(rng, (2, 6), (2, 4), (2, 3), (2, 9))
    daily = times(rate, hours)
    pay = times(daily, days)
    total = plus(pay, bonus)
    spent = rng.randint(2, total - 2)
    left = minus(total, spent)
    steps = worked(
        "Multiply the dollars an hour by the hours to find the pay of a day.",
        f"A day brings {daily.work} dollars.",
        "Multiply the pay of a day by the number of days to find the pay in all.",
        f"All the days bring {pay.work} dollars.",
        "Add the bonus to the pay in all to find all the dollars.",
        f"With the bonus it is {total.work} dollars.",
        "Subtract the spent dollars from all the dollars to find what is left.",
        f"There are {left.work} dollars left.",
    )
    known = f"{who} {either(rng, 'earns', 'gets')} {rate} dollars an hour in a {place}"
    ask = either(rng, f"How many dollars does {who} earn?", "How many dollars is that in all?")
    if level == 1:
        return Story(f"{known} and works {hours} hours. {ask}", daily, steps[:1])
    known = f"{known} and works {hours} hours a day for {days} days. The bonus is {bonus} dollars."
    if level == 2:
        return Story(f"{known} {ask}", total, steps[:3])
    ask = either(rng, "How many dollars are left?", f"How many dollars does {who} still have?")
    return Story(f"{known} {who} spends {spent} dollars. {ask}", left, steps)


TRAIN = (
    shopping,
    legs,
    ages,
    recipes,
    schedules,
    sharing,
    savings,
    selling,
    collections,
    picking,
    trips,
    seats,
    reading,
    wages,
)
