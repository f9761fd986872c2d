"""Practice problems: always the same, always right, readable, and the test templates stay out of training."""

import re
from collections import defaultdict
from itertools import islice

import pytest

from plantune_lite.files import from_row, to_row
from plantune_lite.plan import ask_plainly, clean_step, parse, render, spoiler, with_answer
from plantune_lite.problems.practice import generate as practice
from plantune_lite.problems.practice.generate import LIMIT, TEMPLATES, fingerprint, practice_problems
from plantune_lite.types import Problem, ProblemError

TRAIN = list(practice_problems("train", seed=0, limit=2_000))
TEST = list(practice_problems("test", seed=0, limit=1_000))
BOTH = TRAIN + TEST
NUMBER_WORDS = re.compile(r"\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty)\b", re.I)
WORK = re.compile(r"(\d+(?: [-+x/] \d+)+) = (\d+)")

# The answer from the numbers in the order the question gives them, by level; "twice" is a 2, "younger" a minus.
EXPECTED = {
    "ages": (lambda a, d: a + d, lambda a, d, k: (a + d) * k, lambda a, d, k: a + (a + d) * (k + 1)),
    "baking": (
        lambda t, n, b: t * n / b,
        lambda t, n, x, b: (t * n - x) / b,
        lambda t, n, x, b, p: (t * n - x) / b * p,
    ),
    "beading": (lambda s, n, k: s - n * k, lambda b, z, n, k: b * z - n * k, lambda s, n, k, m, j: s - n * k - m * j),
    "collections": (
        lambda a, m: 2 * a + m,
        lambda a, m, f: 3 * a + 2 * m - f,
        lambda a, m, f, g: 3 * a + 2 * m - f - g,
    ),
    "filling": (lambda s, m, r: s + m * r, lambda s, m, r, u: s + m * r - u, lambda s, m, r, k, j: s + m * r - k * j),
    "legs": (lambda n, a: n * a, lambda n, a, m, b: n * a + m * b, lambda n, a, m, b, k, c: n * a + m * b + k * c),
    "picking": (lambda a, k: a + a * k, lambda a, k, e: a + a * k - e, lambda a, k, e, b: (a + a * k - e) / b),
    "planting": (lambda a, k: a * k - a, lambda a, k, f: a + 2 * a * k - f, lambda a, k, f, b: (a + 2 * a * k - f) / b),
    "reading": (
        lambda w, p, d: w - p * d,
        lambda w, p, d, q: (w - p * d) / q,
        lambda w, p, d, s, q: (w - p * d - s) / q,
    ),
    "recipes": (lambda n, k: n * k, lambda n, k, h: n * k - h, lambda n, k, h, b: (n * k - h) / b),
    "riding": (lambda n, a, b: n - a + b, lambda n, a, b, c: n - a + b - c, lambda n, a, b, c, d: n - a + b - c + d),
    "savings": (lambda s, w, k: s + w * k, lambda s, w, k, p: s + w * k - p, lambda s, w, j, k, p: s + (w + j) * k - p),
    "schedules": (lambda n, t, b: n * t + b, lambda n, t, g, m: n * t + g * m, lambda n, t, g, m, s: s - n * t - g * m),
    "scoring": (lambda n, w, x: n * w - x, lambda n, w, m, v: n * w + m * v, lambda n, w, m, v, r: n * w + m * v - r),
    "seats": (lambda r, s, t: r * s - t, lambda r, s, b, t: r * s + b - t, lambda r, s, q, b, t: r * s + q * b - t),
    "selling": (lambda s, m, t: s - m - t, lambda s, m, t, n: s - m - t + n, lambda s, m, t, c, z: s - m - t + c * z),
    "sharing": (lambda s, f: s / f, lambda s, x, f: (s - x) / f, lambda p, z, x, f: (p * z - x) / f),
    "shopping": (lambda n, p: n * p, lambda n, p, m, q: n * p + m * q, lambda n, p, m, q, b: b - n * p - m * q),
    "tickets": (lambda c, p, g: c * p + g, lambda c, p, a, q: c * p + a * q, lambda c, p, a, q, r: c * p + a * q - r),
    "trips": (lambda f, h: f * h, lambda f, h, s, m: f * h + s * m, lambda f, h, s, m, w: w - f * h - s * m),
    "wages": (lambda r, h: r * h, lambda r, h, d, b: r * h * d + b, lambda r, h, d, b, s: r * h * d + b - s),
}
LEGS = {"cats": 4, "dogs": 4, "cows": 4, "sheep": 4, "hens": 2, "ducks": 2, "ants": 6, "bees": 6, "spiders": 8}


def numbers_in(question: str) -> list[int]:
    question = re.sub(r"(\d+) years younger", r"-\1 years", question).replace("twice", "2 times")
    if "legs" in question:
        question = re.sub("|".join(LEGS), lambda match: str(LEGS[match[0]]), question)
    return [int(number) for number in re.findall(r"-?\d+", question)]


# --- what it promises -------------------------------------------------------------------------------------------------


def test_the_docstring_opens_with_a_problem_that_is_still_made():
    shown = practice.__doc__.split("\n\n")[1]
    same = [problem for problem in islice(TRAIN, 60) if problem.question in " ".join(shown.split())]
    assert len(same) == 1 and all(f"    {line}\n" in shown + "\n" for line in same[0].solution.splitlines())


def test_the_same_seed_makes_the_same_problems_and_another_seed_others():
    assert list(practice_problems("test", seed=0, limit=1_000)) == TEST
    assert not {p.question for p in practice_problems("test", seed=1, limit=50)} <= {p.question for p in TEST[:50]}


def test_a_larger_limit_only_appends():
    assert list(practice_problems("train", seed=0, limit=70)) == TRAIN[:70]
    assert sum(1 for _ in practice_problems("train", seed=3)) == LIMIT


def test_no_question_comes_twice():
    assert len({problem.question for problem in BOTH}) == len(BOTH) == 3_000
    assert len({problem.id for problem in BOTH}) == len(BOTH) and TRAIN[17].id == "practice/train/17"


def test_a_third_of_the_templates_is_for_tests_only():
    splits = [template.split for template in TEMPLATES]
    assert len(splits) >= 15 and splits.count("test") * 3 == len(splits)
    assert not {p.extra["template"] for p in TRAIN} & {p.extra["template"] for p in TEST}
    assert {p.extra["template"] for p in BOTH} == {template.name for template in TEMPLATES} == set(EXPECTED)


@pytest.mark.parametrize("levels", [(1,), (2,), (3,), (1, 3)])
def test_levels_are_honoured_and_say_how_many_steps(levels):
    steps = {1: (1, 2), 2: (2, 3), 3: (3, 4)}
    for problem in practice_problems("train", seed=5, limit=90, levels=levels):
        assert problem.extra["level"] in levels and len(problem.steps) in steps[problem.extra["level"]]


def test_every_round_is_balanced():
    kinds = [(problem.extra["template"], problem.extra["level"]) for problem in TEST[:42]]
    assert all(kinds.count(kind) == 2 for kind in kinds)


def test_a_problem_is_a_record_that_survives_a_file():
    assert all(from_row(Problem, to_row(problem)) == problem for problem in BOTH[:50])
    assert {(p.source, p.split, p.kind) for p in BOTH} == {("practice", s, "text") for s in ("train", "test")}


@pytest.mark.parametrize(
    ("split", "levels", "sentence"),
    [("validation", (), 'splits "train" and "test", not'), ("train", (1, 4), "levels 1, 2, 3, not 4")],
)
def test_what_it_does_not_have_is_said_at_once(split, levels, sentence):
    with pytest.raises(ProblemError, match=sentence):
        practice_problems(split, seed=0, levels=levels)


def test_asking_for_more_than_there_is_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr(practice, "TEMPLATES", [practice.Template("few", "train", _few)])
    with pytest.raises(ProblemError, match="not make more than 3 different problems.*'few' at level 1"):
        list(practice_problems("train", seed=0, limit=10, levels=(1,)))


def _few(rng, level):
    return practice.Story(f"What is {rng.randint(0, 4)}?", 2, ())  # none and one are not told


# --- right ------------------------------------------------------------------------------------------------------------


def test_the_answer_is_what_the_question_says():
    for problem in BOTH:
        expected = EXPECTED[problem.extra["template"]][problem.extra["level"] - 1](*numbers_in(problem.question))
        assert problem.answer == f"{expected:g}", problem


def test_every_step_computes_rightly_from_what_is_known():
    for problem in BOTH:
        known = {abs(number) for number in numbers_in(problem.question)}
        for step in problem.steps:
            [(work, result)] = WORK.findall(step)
            assert {int(number) for number in re.findall(r"\d+", work)} <= known, problem
            assert eval(work.replace("x", "*")) == int(result) >= 2, problem
            known.add(int(result))
        assert result == problem.answer


def test_the_solution_is_the_steps_and_the_answer():
    for problem in BOTH:
        assert problem.solution == with_answer("\n".join(problem.steps), problem.answer)
        assert with_answer(problem.solution, problem.answer) == problem.solution


def test_the_plan_has_a_line_for_each_step_and_gives_nothing_away():
    for problem in BOTH:
        plan = problem.extra["plan"]
        assert len(plan) == len(problem.steps) == len(set(plan))
        assert not any(re.search(r"\d", line) or NUMBER_WORDS.search(line) for line in plan), plan
        assert spoiler(plan, problem) is None


def test_the_plan_fits_the_wire_format():
    for problem in BOTH:
        text = render(problem.extra["plan"], problem.solution)
        assert list(parse(text).plan) == problem.extra["plan"] and parse(text).execution == problem.solution
        assert all(clean_step(line) == line for line in problem.extra["plan"])


# --- readable ---------------------------------------------------------------------------------------------------------


def test_everything_is_plain_english_typography():
    for problem in BOTH:
        assert problem.question.endswith("?") and problem.question[0] in "ABCDEFGHIJKLMNOPQRSTUVW23456789"
        for text in (problem.question, *problem.steps, *problem.extra["plan"]):
            assert not re.search(r"  | [.,?]|[.?][A-Z]|\b[01]\b|\b[Aa] [aeiou]|\ban (?!hour)[^aeiou]|[{}]", text), text
            assert text[-1] in ".?" and text.isascii() and text == text.strip()


def test_a_question_is_short_and_reads_as_one_line():
    for problem in BOTH:
        assert "\n" not in ask_plainly(problem)[1]["content"] and len(problem.question.split()) < 60


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_no_two_templates_share_a_fingerprint():
    templates = defaultdict(set)
    for problem in BOTH:
        templates[fingerprint(problem.question)].add(problem.extra["template"])
    assert all(len(names) == 1 for names in templates.values())
    assert len(templates) < len(BOTH) / 10  # so that the same words with other names and numbers are alike


def test_every_fingerprint_is_met_again_with_another_seed():
    known = {fingerprint(problem.question) for problem in BOTH}
    for split in ("train", "test"):
        assert {fingerprint(problem.question) for problem in practice_problems(split, seed=9, limit=300)} <= known


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mia buys 3 pens for 4 dollars each.", "Jonas buys 12 erasers for 9 dollars each."),
        ("In March Ana Ruiz read 1,200 pages.", "In May Tom read 7.5 pages."),
        ("Twenty-one men need three carts.", "9 men need 1/2 carts."),
        ("Then she sold it for $5.", "Then he sold it for €50."),
        ("He has twice as many.", "She has 3 times as many."),
        ("There is an omelet.", "There is a  cake."),
    ],
)
def test_names_numbers_and_items_make_no_difference(one, other):
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mia buys 3 pens.", "Mia sells 3 pens."),
        ("Ana is 4 years older than Bo.", "Ana is 4 years younger than Bo."),
        ("He weighs often.", "He weighs ten."),
    ],
)
def test_other_words_make_a_difference(one, other):
    assert fingerprint(one) != fingerprint(other)
