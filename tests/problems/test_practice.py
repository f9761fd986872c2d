"""Practice problems: always the same, always right, readable, with plans that run backwards, and the splits apart."""

import re
from collections import Counter
from itertools import islice

import pytest

from plantune_lite.files import from_row, to_row
from plantune_lite.plan import ask_plainly, clean_step, parse, render, spoiler, with_answer
from plantune_lite.problems.practice import generate, stories
from plantune_lite.problems.practice.generate import (
    KINDS,
    LEVELS,
    LIMIT,
    LONGEST,
    __doc__,
    fingerprint,
    practice_problems,
)
from plantune_lite.types import Problem, ProblemError

TRAIN = list(practice_problems("train", seed=0, limit=1_000))
TEST = list(practice_problems("test", seed=0, limit=300))
WORDS = list(practice_problems("words", seed=0, limit=300))
LONGER = list(practice_problems("test", seed=0, limit=100, levels=(LONGEST,)))
STORIES = list(stories.generate("train", seed=0, limit=200))
CHAINS = TRAIN + TEST + WORDS + LONGER
ALL = CHAINS + STORIES
WORK = re.compile(r"(\d+(?: [-+x/] \d+)+) = (\d+)")


# --- an evaluator that knows English and not the generator ------------------------------------------------------------

WHO = r"((?:[Tt]he )?\w+)"
HAS = r"(?:has|have|holds?|sells?|scored)"
TIMES = {"twice": 2, "half": 2, "a third": 3, "a quarter": 4}
TELLS = [
    (rf"{WHO} {HAS} (\d+) (?:\w+ )?more (?:\w+ )?than {WHO}", lambda b, n, a: (b, [a], lambda x: x + n)),
    (rf"{WHO} {HAS} (\d+) (?:\w+ )?fewer (?:\w+ )?than {WHO}", lambda b, n, a: (b, [a], lambda x: x - n)),
    (rf"{WHO} {HAS} (twice|\d+ times) as many (?:\w+ )?as {WHO}", lambda b, n, a: (b, [a], lambda x: x * n)),
    (rf"{WHO} {HAS} (half|a third|a quarter) as many as {WHO}", lambda b, n, a: (b, [a], lambda x: x / n)),
    (rf"{WHO} {HAS} one of (\d+) equal shares of what {WHO} {HAS}", lambda b, n, a: (b, [a], lambda x: x / n)),
    (rf"{WHO} {HAS} as many as {WHO} and {WHO} together", lambda b, a, c: (b, [a, c], lambda x, y: x + y)),
    (rf"Together, {WHO} and {WHO} {HAS} as many as {WHO}", lambda a, c, b: (b, [a, c], lambda x, y: x + y)),
    (rf"Add (\d+) to what {WHO} {HAS}, .* what {WHO} {HAS}", lambda n, a, b: (b, [a], lambda x: x + n)),
    (rf"{WHO} {HAS} all that {WHO} {HAS} and (\d+) besides", lambda b, a, n: (b, [a], lambda x: x + n)),
    (rf"Take (\d+) from what {WHO} {HAS}, .* what {WHO} {HAS}", lambda n, a, b: (b, [a], lambda x: x - n)),
    (rf"{WHO} is (\d+) short of what {WHO} {HAS}", lambda b, n, a: (b, [a], lambda x: x - n)),
    (rf"For each one that {WHO} {HAS}, {WHO} {HAS} (\d+)", lambda a, b, n: (b, [a], lambda x: x * n)),
    (rf"Multiply what {WHO} {HAS} by (\d+), .* what {WHO} {HAS}", lambda a, n, b: (b, [a], lambda x: x * n)),
    (rf"Share what {WHO} {HAS} equally among (\d+): {WHO} {HAS} one share", lambda a, n, b: (b, [a], lambda x: x / n)),
    (rf"{WHO} {HAS} (\d+) for each one that {WHO} {HAS}", lambda a, n, b: (b, [a], lambda x: x / n)),
    (rf"Put together what {WHO} and {WHO} {HAS}, .* what {WHO} {HAS}", lambda a, c, b: (b, [a, c], lambda x, y: x + y)),
    (rf"{WHO} {HAS} (\d+) \w+", lambda b, n: (b, [], lambda: n)),
]


def read(fact):
    """Whose quantity a sentence tells, from whose it follows, and how."""
    for pattern, meaning in TELLS:
        if match := re.fullmatch(pattern, fact):
            return meaning(*(TIMES.get(part) or number_or_name(part) for part in match.groups()))
    raise AssertionError(fact)


def number_or_name(part):
    first = part.split()[0]
    return int(first) if first.isdigit() else part.lower()


def solved(question):
    """All quantities that follow from the facts, by holder, and how many hops each is from a given one; the asked."""
    *facts, asks = re.split(r"\. ", question)
    told = {whose: (of, how) for whose, of, how in map(read, facts)}
    assert len(told) == len(facts)
    values, hops = {}, {}
    while len(values) < len(told):
        for whose, (of, how) in told.items():
            if whose not in values and all(one in values for one in of):
                values[whose] = how(*(values[one] for one in of))
                hops[whose] = 1 + max(hops[one] for one in of) if of else 0
    [asked] = re.findall(rf"How many \w+ (?:does|did) {WHO} \w+\?", asks)
    return values, hops, {whose: of for whose, (of, _) in told.items()}, asked.lower()


@pytest.mark.parametrize("problems", [TRAIN, TEST, WORDS, LONGER])
def test_the_answer_and_the_hops_are_what_the_facts_say(problems):
    for problem in problems:
        values, hops, _, asked = solved(problem.question)
        assert problem.answer == f"{values[asked]:g}" and hops[asked] == problem.extra["level"], problem
        assert all(value == int(value) and 2 <= value <= 30 for value in values.values())


def test_a_working_runs_forwards_through_what_is_needed_and_nothing_else():
    for problem in CHAINS:
        values, _, of, asked = solved(problem.question)
        known = set()
        for line in problem.steps:
            whose = re.match(rf"{WHO} {HAS} ", line)[1].lower()
            assert set(of[whose]) <= known, problem
            known.add(whose)
            if of[whose]:
                [(work, result)] = WORK.findall(line)
                assert eval(work.replace("x", "*")) == int(result) == values[whose], problem
            else:
                assert line in problem.question
        assert known == needed_for(asked, of) and whose == asked


def needed_for(asked, of):
    needed = {asked}
    while more := {one for whose in needed for one in of[whose]} - needed:
        needed |= more
    return needed


def test_a_plan_runs_backwards_from_the_question_to_what_is_given():
    for problem in CHAINS:
        _, _, of, asked = solved(problem.question)
        named = re.compile(rf"\b(?:{'|'.join(sorted(of, key=len, reverse=True))})\b", re.IGNORECASE)
        facts = {read(fact)[0]: fact for fact in re.split(r"\. ", problem.question)[:-1]}
        reached = [asked]
        for line in problem.extra["plan"]:
            [whose] = [one for one, fact in facts.items() if line.startswith(fact)]
            assert whose in reached, problem
            told_next = [name.lower() for name in named.findall(line.removeprefix(facts[whose]))]
            assert told_next in ([], of[whose]), problem
            reached += of[whose]
        assert set(reached) == needed_for(asked, of) and len(problem.extra["plan"]) == len(reached)


def test_the_same_plan_turned_round_points_from_each_fact_to_the_next():
    for problem in CHAINS:
        _, _, of, _ = solved(problem.question)
        named = re.compile(rf"\b(?:{'|'.join(sorted(of, key=len, reverse=True))})\b", re.IGNORECASE)
        facts = {read(fact)[0]: fact for fact in re.split(r"\. ", problem.question)[:-1]}
        about = [
            [next(one for one, fact in facts.items() if line.startswith(fact)) for line in problem.extra[way]]
            for way in ("plan", "plan_forwards")
        ]
        assert about[1] == about[0][::-1], problem
        pointers = [
            [name.lower() for name in named.findall(line.removeprefix(facts[whose]))]
            for whose, line in zip(about[1], problem.extra["plan_forwards"], strict=True)
        ]
        assert pointers in ([[]] * len(pointers), [*([one] for one in about[1][1:]), []]), problem


def test_a_plan_has_the_numbers_of_its_facts_and_computes_nothing():
    for problem in CHAINS:
        told = set(re.findall(r"\d+", problem.question))
        assert all(set(re.findall(r"\d+", line)) <= told and "=" not in line for line in problem.extra["plan"])
        assert spoiler(problem.extra["plan"], problem) is None


def test_there_is_always_more_than_is_needed():
    assert all(len(solved(one.question)[0]) >= len(one.steps) + generate.CHAINS - 1 for one in CHAINS)


def test_the_higher_levels_branch_and_join():
    def shapes(level):
        asked = [solved(one.question) for one in TRAIN if one.extra["level"] == level]
        joins = sum(any(len(needs) > 1 for needs in of.values()) for _, _, of, _ in asked)
        branches = sum(
            max(Counter(one for needs in of.values() for one in needs).values()) > 1 for _, _, of, _ in asked
        )
        return joins / len(asked), branches / len(asked)

    assert shapes(2) == (0, 0)
    assert shapes(3)[0] == 0 < shapes(3)[1]
    assert min(shapes(5)) > 0.2


# --- what it promises -------------------------------------------------------------------------------------------------


def test_the_docstring_opens_with_a_problem_that_is_still_made():
    shown = __doc__.split("\n\n")[1]
    same = [problem for problem in islice(TRAIN, 60) if problem.question in " ".join(shown.split())]
    assert len(same) == 1 and all(f"    {line}\n" in shown + "\n" for line in same[0].solution.splitlines())


def test_the_same_seed_makes_the_same_problems_and_another_seed_others():
    assert list(practice_problems("test", seed=0, limit=300)) == TEST
    assert not {p.question for p in practice_problems("test", seed=1, limit=50)} & {p.question for p in TEST}


def test_a_larger_limit_only_appends():
    assert list(practice_problems("train", seed=0, limit=70)) == TRAIN[:70]
    assert sum(1 for _ in practice_problems("train", seed=3, levels=(2,))) == LIMIT


def test_every_round_is_balanced():
    kinds = [(problem.extra["template"], problem.extra["level"]) for problem in TEST[:32]]
    assert all(kinds.count(kind) == 2 for kind in kinds) and len(set(kinds)) == len(KINDS) * len(LEVELS)


@pytest.mark.parametrize("levels", [(2,), (5,), (2, 4)])
def test_levels_are_honoured(levels):
    assert {problem.extra["level"] for problem in practice_problems("train", seed=5, limit=40, levels=levels)} == set(
        levels
    )


def test_a_problem_is_a_record_that_survives_a_file():
    assert all(from_row(Problem, to_row(problem)) == problem for problem in ALL[:50])
    assert {(p.source, p.kind) for p in ALL} == {("practice", "text"), ("practice_stories", "text")}


def test_a_level_that_it_does_not_have_is_said_at_once():
    with pytest.raises(ProblemError, match="levels 2, 3, 4, 5, not 7"):
        practice_problems("train", seed=0, levels=(2, 7))


# --- the splits -------------------------------------------------------------------------------------------------------


def test_no_two_problems_are_alike_and_what_is_tested_is_not_trained_on():
    sides = [{fingerprint(one.question) for one in side} for side in (TRAIN, TEST)]
    assert [len(side) for side in sides] == [len(TRAIN), len(TEST)] and not sides[0] & sides[1]
    other = {fingerprint(one.question) for one in practice_problems("train", seed=7, limit=300)}
    assert not other & sides[1]


def test_tests_are_told_as_in_training_and_words_are_not():
    def relations(problems):
        facts = [fact for one in problems for fact in fingerprint(one.question).split(" | ")]
        return {re.sub(r"\d+", "#", fact) for fact in facts if fact.count("_") > 1 and "than" in fact or "what" in fact}

    assert relations(TEST) <= relations(TRAIN)
    assert not relations(WORDS) & relations(TRAIN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mark has 3 more than Rose. Rose has 6 pens.", "Adam has 6 coins. Jane has 3 more than Adam."),
        (
            "The jar holds 4 balls. The tin holds 2 fewer than the jar.",
            "The tin holds 4 nuts. The cup holds 2 fewer than the tin.",
        ),
    ],
)
def test_names_things_and_order_make_no_difference(one, other):
    assert fingerprint(one) == fingerprint(other)


def test_other_numbers_and_relations_make_a_difference():
    told = ("Mark has 3 more than Rose.", "Mark has 4 more than Rose.", "Mark has 3 fewer than Rose.")
    assert len(set(map(fingerprint, told))) == 3


# --- readable ---------------------------------------------------------------------------------------------------------


def test_the_solution_is_the_steps_and_the_answer():
    for problem in ALL:
        assert problem.solution == with_answer("\n".join(problem.steps), problem.answer)
        assert with_answer(problem.solution, problem.answer) == problem.solution


def test_the_plan_fits_the_wire_format():
    for problem in ALL:
        text = render(problem.extra["plan"], problem.solution)
        assert list(parse(text).plan) == problem.extra["plan"] and parse(text).execution == problem.solution
        assert all(clean_step(line) == line for line in problem.extra["plan"])


def test_everything_is_plain_english_typography():
    for problem in ALL:
        assert problem.question.endswith("?") and problem.question[0].isupper()
        for text in (problem.question, *problem.steps, *problem.extra["plan"]):
            assert not re.search(r"  | [.,?]|[.?][A-Z]|\b[01]\b|\b[Aa] [aeiou]|[{}]|\. [a-z]", text), text
            assert text[-1] in ".?" and text.isascii() and text == text.strip()
        assert "\n" not in ask_plainly(problem)[1]["content"]


# --- stories ----------------------------------------------------------------------------------------------------------


def test_the_stories_open_with_one_that_is_still_made_and_keep_their_tests_apart():
    shown = stories.__doc__.split("\n\n")[1]
    same = [one for one in stories.generate("train", seed=0) if one.question in " ".join(shown.split())]
    assert same and all(f"    {line}\n" in shown + "\n" for line in same[0].solution.splitlines())
    tests = {one.question for one in stories.generate("test", seed=0, limit=200)}
    assert not tests & {one.question for one in STORIES} and len(tests) == 200


def test_a_story_uses_its_numbers_in_the_order_they_are_told():
    for problem in STORIES:
        known = {int(number) for number in re.findall(r"\d+", problem.question)} | {2, 4, 6, 8}  # and legs
        for step in problem.steps:
            [(work, result)] = WORK.findall(step)
            assert {int(number) for number in re.findall(r"\d+", work)} <= known, problem
            assert eval(work.replace("x", "*")) == int(result) >= 2, problem
            known.add(int(result))
        assert result == problem.answer


@pytest.mark.parametrize("levels", [(1,), (3,)])
def test_stories_have_levels_of_their_own(levels):
    made = stories.generate("test", seed=1, limit=20, levels=levels)
    assert {one.extra["level"] for one in made} == set(levels)
    with pytest.raises(ProblemError, match="levels 1, 2, 3, not 5"):
        stories.generate("test", seed=1, levels=(5,))
