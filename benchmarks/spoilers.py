"""Count the plans for MATH-like problems that the spoiler filter rejects, now and before equations counted as set-up.

    python -m benchmarks.spoilers [PLANS]

The problems are our own, ten per field, each with two plans: one only sets up, the other spoils the answer. PLANS is a
file of PLAN-TUNING's release, data/math/processed_test_method_2.json; only its counts are kept here.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import machine, markdown, write
from plantune_lite.evaluate.stats import wilson
from plantune_lite.grading.answers import final_answer
from plantune_lite.plan import question_text, split_steps, spoiler
from plantune_lite.types import Problem

Row = tuple[str, str, str, str]  # question, answer, set-up plan, spoiler plan; " | " between steps

ALGEBRA: list[Row] = [
    (
        "Find the sum of the roots of 2x^2 - 10x + 3 = 7.",
        "5",
        "Rearrange it to ax^2 + bx + c = 0. | Use that the sum of the roots is -b/a.",
        "Rearrange to 2x^2 - 10x - 4 = 0. | The sum of the roots is 10/2 = 5.",
    ),
    (
        "Where does the line y = 4x - 12 cross the x-axis?",
        "3",
        "Set y = 0. | Solve the equation for x.",
        "Set y = 0. | Then 4x = 12, so x = 3.",
    ),
    (
        "If f(x) = 3x + k and f(2) = 11, find k.",
        "5",
        "Substitute x = 2 into f. | Solve 6 + k = 11 for k.",
        "Compute 3 * 2 = 6. | Subtract it from 11.",
    ),
    (
        "Solve |x - 4| = 9 and give the larger solution.",
        "13",
        "Split it into x - 4 = 9 and x - 4 = -9. | Solve both and take the larger x.",
        "Solve x - 4 = 9. | The larger solution is 13.",
    ),
    (
        "The sum of two numbers is 30, their difference 8. What is their product?",
        "209",
        "Let a + b = 30 and a - b = 8. | Add the equations to find a, then b. | Multiply them.",
        "Add the equations: 2a = 38, so a = 19. | Then b = 30 - 19 = 11. | Multiply them.",
    ),
    (
        "Find the vertex of y = x^2 - 6x + 14.",
        "(3,5)",
        "Complete the square to get y = (x - h)^2 + k. | Read (h, k) off.",
        "Half of 6 is taken, 6/2 = 3, and 14 - 9 = 5. | Read the vertex off.",
    ),
    (
        "For which c does x^2 + 10x + c have a double root?",
        "25",
        "A double root needs b^2 - 4ac = 0. | Put a = 1 and b = 10 in and solve for c.",
        "Set 100 - 4c = 0. | Hence \\boxed{25}.",
    ),
    (
        "If log_2 x + log_2 (x - 2) = 3, what is x?",
        "4",
        "Join the logarithms to log_2 (x(x - 2)) = 3. | Rewrite it as x^2 - 2x = 2^3. | Keep the root for which x > 2.",
        "The product is 2^3 = 8. | Solve x^2 - 2x - 8 = 0.",
    ),
    (
        "A geometric sequence begins 5, 15. What is its fifth term?",
        "405",
        "Find the ratio r from ar = 15 with a = 5. | Use a_n = a r^{n-1} with n = 5.",
        "The ratio is 15/5 = 3. | Multiply 5 by 3^4.",
    ),
    (
        "Two printers take 6 and 12 hours for a job. How long do they take together?",
        "4",
        "Let t be the time together. | Set t/6 + t/12 = 1 and solve for t.",
        "Add the rates and invert. | Together they need 4 hours.",
    ),
]
GEOMETRY: list[Row] = [
    (
        "A right triangle has legs 9 and 40. Find its hypotenuse.",
        "41",
        "Use a^2 + b^2 = c^2 with a = 9 and b = 40. | Take the positive root.",
        "Add the squares: 81 + 1600 = 1681. | Take the root.",
    ),
    (
        "The angles of a triangle are in the ratio 2:3:4. Find the largest.",
        "80",
        "Let them be 2x, 3x and 4x. | The sum of the angles = 180. | Solve 9x = 180 and take 4x.",
        "The parts are 2 + 3 + 4 = 9. | Divide 180 by that and take four of them.",
    ),
    (
        "A circle has circumference 14 pi. What is its area over pi?",
        "49",
        "From C = 2 pi r find r. | Use A = pi r^2 and divide by pi.",
        "The radius is 14/2 = 7. | Square it.",
    ),
    (
        "Find the distance between (1, 2) and (13, 7).",
        "13",
        "Take the differences of x and of y. | Use d^2 = (x_2 - x_1)^2 + (y_2 - y_1)^2.",
        "The differences are 13 - 1 = 12 and 7 - 2 = 5. | Use Pythagoras.",
    ),
    (
        "A cube has surface area 150. What is its volume?",
        "125",
        "Set 6s^2 = 150 and solve for s. | Use V = s^3.",
        "Each face has 150/6 = 25. | Cube the side.",
    ),
    (
        "Triangles ABC and DEF are similar, AB = 6, DE = 9, BC = 8. Find EF.",
        "12",
        "Write the proportion AB/DE = BC/EF. | Solve it for EF.",
        "The scale is 9/6 = 1.5. | Multiply BC by it.",
    ),
    (
        "A regular polygon has interior angles of 156 degrees. How many sides has it?",
        "15",
        "Use that the exterior angles sum to 360. | An exterior angle is e with e + 156 = 180. | Divide 360 by e.",
        "An exterior angle is 180 - 156 = 24 degrees. | Divide 360 by it.",
    ),
    (
        "A chord of length 16 is 6 from the centre. Find the radius.",
        "10",
        "Half the chord h and the distance d make a right triangle. | Use h^2 + d^2 = r^2 with d = 6.",
        "Half the chord is 16/2 = 8. | Use the right triangle with the radius.",
    ),
    (
        "A rectangle is 5 longer than wide, its area is 84. Find its perimeter.",
        "38",
        "Let the width be w; then w(w + 5) = 84. | Rewrite it as w^2 + 5w - 84 = 0 and take w > 0. | Use P = 2(w + l).",
        "Solve w(w + 5) = 84 to get w = 7. | Use P = 2(w + l).",
    ),
    (
        "A cone of height 12 has base radius 5. Find its slant height.",
        "13",
        "The slant s satisfies s^2 = r^2 + h^2. | Put r = 5 and h = 12 in.",
        "It is the hypotenuse. | The slant height is \\boxed{13}.",
    ),
]
TRIGONOMETRY: list[Row] = [
    (
        "If sin A = 3/5 and A is acute, find cos A.",
        "4/5",
        "Use sin^2 A + cos^2 A = 1. | Solve for cos A and take the positive root.",
        "Here 1 - 9/25 = 16/25. | Take the root.",
    ),
    (
        "Find tan x if sin x = 5/13 and cos x = 12/13.",
        "5/12",
        "Use tan x = sin x / cos x. | Divide the fractions.",
        "Divide the fractions. | The result is 5/12, so \\boxed{5/12}.",
    ),
    (
        "Find (1 - cos^2 x)/sin x at x = 30 degrees, doubled.",
        "1",
        "From \\sin^2 x + \\cos^2 x = 1 rewrite the numerator. | Cancel sin x. | Take sin at 30 and double it.",
        "The numerator is sin^2 x. | The answer is 1.",
    ),
    (
        "How many solutions has 2 sin x = 1 in 0 to 360 degrees?",
        "2",
        "Write sin x = 1/2. | Find the quadrants where the sine is positive. | Count one angle in each.",
        "Write sin x = 1/2. | There are 2 solutions.",
    ),
    (
        "In triangle ABC, AB = 7, AC = 8 and angle A is 60 degrees. Find BC^2.",
        "57",
        "Use a^2 = b^2 + c^2 - 2bc cos A. | Put b = 8 and c = 7 in, with cos A = 1/2.",
        "Add 49 + 64 = 113. | Take 2bc cos A off.",
    ),
    (
        "What is the period of y = sin(4x), in degrees?",
        "90",
        "For y = sin(kx) the period is 360/k. | Here k = 4.",
        "The period is 360/4 = 90 degrees.",
    ),
    (
        "A ladder of length 20 stands at 30 degrees to the ground. How high does it reach?",
        "10",
        "Use sin t = h/l with l = 20 and t = 30. | Solve for h.",
        "The height is 20 * 0.5 = 10.",
    ),
    (
        "Find the largest value of 3 sin x + 4 cos x.",
        "5",
        "Write it as R sin(x + p). | Match the sides: R cos p = 3 and R sin p = 4. | Use R^2 = 3^2 + 4^2.",
        "Square and add: 9 + 16 = 25. | Take the root.",
    ),
    (
        "Solve tan x = 1 for x between 90 and 270 degrees.",
        "225",
        "Find the acute angle with tan t = 1. | Add the period of the tangent, which is 180.",
        "The acute angle is 45. | So 45 + 180 = 225.",
    ),
    (
        "If cos x = 7/25, find cos 2x times 625.",
        "-527",
        "Use cos 2x = 2 cos^2 x - 1. | Put cos x = 7/25 in and multiply by 625.",
        "Here 2 * 49 = 98. | Take 625 off.",
    ),
]
NUMBERS: list[Row] = [
    (
        "Find the remainder of 7^10 divided by 5.",
        "4",
        "Reduce the base: 7 is 2 modulo 5. | Find the least n with 2^n = 1 modulo 5. | Reduce the exponent by n.",
        "The powers have period four, and 2^2 = 4. | Reduce the exponent.",
    ),
    (
        "How many divisors has 360?",
        "24",
        "Write 360 = 2^a * 3^b * 5^c. | Use (a + 1)(b + 1)(c + 1).",
        "The exponents are 3, 2 and 1. | Multiply: 4 * 3 * 2 = 24.",
    ),
    (
        "Find the greatest common divisor of 84 and 126.",
        "42",
        "Factor both into primes. | Take each shared prime p to the smaller power. | Multiply.",
        "Subtract: 126 - 84 = 42. | It divides both.",
    ),
    (
        "What is the least number that leaves 2 when divided by 3 and 3 when divided by 7?",
        "17",
        "Let n = 7k + 3. | Ask for n = 2 modulo 3 and find the least k >= 0.",
        "List 3, 10, 17, 24. | The first that fits is 17.",
    ),
    (
        "Write 93 in base 4.",
        "1131",
        "Divide by 4 again and again and keep each remainder r with 0 <= r < 4. | Read the remainders backwards.",
        "Divide: 93 = 4 * 23 + 1 and so on. | Backwards they read 1131.",
    ),
    (
        "How many zeros end 30!?",
        "7",
        "Count the factors of 5 in n! with n = 30. | Add the whole parts of n/5 and n/25.",
        "Count the fives: 30/5 = 6. | Add those of 25.",
    ),
    (
        "Find x with 3x = 1 modulo 11 and 0 < x < 11.",
        "4",
        "Find the inverse of 3: a k with 3k = 11m + 1. | Reduce k modulo 11.",
        "Try numbers: 3 * 4 = 12, which is one more than 11.",
    ),
    (
        "The sum of three consecutive odd numbers is 87. Find the largest.",
        "31",
        "Let them be n - 2, n and n + 2. | Solve 3n = 87 and add two to n.",
        "The middle one is 87/3 = 29. | Add two to it.",
    ),
    (
        "What is the units digit of 3^50?",
        "9",
        "Find the period p of the units digits of 3^n. | Write 50 = pq + r and look at 3^r.",
        "The period is four and 50 = 48 + 2. | The units digit is 9.",
    ),
    (
        "Find the number of primes p below 30 with p = 1 modulo 4.",
        "4",
        "List the primes below 30. | Keep each with p = 4k + 1 and count.",
        "Keep 5, 13, 17 and 29. | That makes \\boxed{4}.",
    ),
]
COUNTING: list[Row] = [
    (
        "In how many ways can 3 of 8 books be chosen?",
        "56",
        "Use C(n, k) = n!/(k!(n - k)!). | Put n = 8 and k = 3 in.",
        "The numerator is 8 * 7 * 6 = 336. | Divide by 3!.",
    ),
    (
        "Two dice are thrown. What is the probability of a sum of 9?",
        "1/9",
        "Let a + b = 9 with a and b from 1 to 6. | Count the pairs and divide by all outcomes.",
        "There are 6 * 6 = 36 outcomes. | Count the pairs and divide.",
    ),
    (
        "How many arrangements has the word LEVEL?",
        "30",
        "Count the letters n and how often each repeats. | Use n!/(a! b!) with a = 2 for E and b = 2 for L.",
        "All orders are 5! = 120. | Divide by the repetitions.",
    ),
    (
        "Of 40 pupils 25 play chess, 20 play go and 8 neither. How many play both?",
        "13",
        "Let x play both. | Use |A| + |B| - x + n = 40 with n = 8. | Solve for x.",
        "At least one is played by 40 - 8 = 32. | Subtract.",
    ),
    (
        "How many three-digit numbers have digits that are all odd?",
        "125",
        "Count the choices d of an odd digit. | Each of the three digits is free: use d^3.",
        "There are five odd digits. | Multiply 5 * 5 * 5 = 125.",
    ),
    (
        "A coin is thrown 5 times. What is the probability of exactly 2 heads?",
        "5/16",
        "Use P(X = k) = C(n, k)/2^n. | Put n = 5 and k = 2 in.",
        "The sequences are C(5, 2) = 10. | Divide by all.",
    ),
    (
        "How many ways are there to seat 6 people around a table?",
        "120",
        "Fix one person, since turns count as one. | Arrange the others: (n - 1)! with n = 6.",
        "Fix one person. | The others can sit in 5! = 120 ways.",
    ),
    (
        "In how many ways is 7 a sum of three positive integers in order?",
        "15",
        "Let a + b + c = 7 with each at least 1. | Put bars in the gaps: choose k = 2 of n - 1 gaps.",
        "There are 7 - 1 = 6 gaps. | Choose two of them.",
    ),
    (
        "A bag has 4 red and 6 blue balls. Two are drawn. What is the probability that both are red?",
        "2/15",
        "Use P = (r/n) * ((r - 1)/(n - 1)) with r = 4. | Let n = r + b with b = 6.",
        "In all there are 4 + 6 = 10 balls. | Multiply both chances.",
    ),
    (
        "What is the expected value of a fair die?",
        "7/2",
        "Use E = p(1 + 2 + ... + n) with p = 1/n and n = 6. | Sum by n(n + 1)/2.",
        "The faces add to 21, and 21/6 = 3.5.",
    ),
]
CALCULUS: list[Row] = [
    (
        "Find the least value of f(x) = x^2 - 8x + 21.",
        "5",
        "Solve f'(x) = 0. | Put that x into f.",
        "f'(x) = 2x - 8, so x = 4. | Put that into f.",
    ),
    (
        "Find the slope of y = x^3 at x = 4.",
        "48",
        "Differentiate with (x^n)' = n x^{n-1}. | Put x = 4 in.",
        "Here 3 * 16 = 48.",
    ),
    (
        "Compute the integral of 2x from 0 to 7.",
        "49",
        "An antiderivative F has F' = 2x. | Use F(b) - F(a) with a = 0 and b = 7.",
        "An antiderivative is x^2. | The integral is \\boxed{49}.",
    ),
    (
        "Find the limit of (x^2 - 9)/(x - 3) as x goes to 3.",
        "6",
        "Factor x^2 - 9 = (x - 3)(x + 3). | Cancel x - 3 and set x = 3.",
        "Cancel to x + 3. | The limit is 3 + 3 = 6.",
    ),
    (
        "A rectangle has perimeter 44. What is its largest area?",
        "121",
        "Let x + y = 22, half of the perimeter. | Write A(x) = x(22 - x) and solve A'(x) = 0.",
        "The square is best, its side 44/4 = 11. | Square it.",
    ),
    (
        "For which k is f(x) = kx + 1 for x < 2 and x^2 + 3 from there continuous?",
        "3",
        "Continuity needs equal limits at x = 2. | Set 2k + 1 = 2^2 + 3 and solve for k.",
        "The right side is 4 + 3 = 7. | Solve for the slope.",
    ),
    (
        "Find the area between y = x^2 and y = x, times 12.",
        "2",
        "Solve x^2 = x for the limits. | Integrate x - x^2 from x = 0 to x = 1. | Multiply by 12.",
        "The area is 1/2 - 1/3. | Times 12 this is 6 - 4 = 2.",
    ),
    (
        "A stone falls s = 5t^2 metres in t seconds. How fast is it after 3 seconds?",
        "30",
        "The speed is v = ds/dt. | Differentiate and put t = 3 in.",
        "Differentiate to v = 10t. | Then 10 * 3 = 30.",
    ),
    (
        "Where is f(x) = x^3 - 12x + 5 least for x > 0?",
        "2",
        "Solve f'(x) = 0, which is 3x^2 - 12 = 0. | Keep the root with f''(x) > 0.",
        "Set 3x^2 = 12. | The least value is at 2.",
    ),
    (
        "Find the sum of the series 6 + 3 + 3/2 + ...",
        "12",
        "It is geometric with a = 6 and r = 1/2. | Use S = a/(1 - r).",
        "Use S = a/(1 - r) = 6/0.5 = 12.",
    ),
]
FIELDS = {
    "algebra": ALGEBRA,
    "geometry": GEOMETRY,
    "trigonometry": TRIGONOMETRY,
    "number theory": NUMBERS,
    "counting": COUNTING,
    "calculus": CALCULUS,
}

_NUMBER = re.compile(r"(?<![^\W\d_])(?<!\.)[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?![0-9])")
_RESULT = re.compile(r"=\s*\\?[$€£]?\s*-?([0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?)")


def before(plan: Sequence[str], problem: Problem) -> bool:
    """Reject as the old filter: any new number after an equals sign, any number of the answer."""
    given = set(_numbers(question_text(problem)))
    answer = set(_numbers(problem.answer)) - given
    return any(
        "\\boxed" in step
        or set(map(_plain, _RESULT.findall(step))) - given
        or answer & set(_numbers(step))
        or re.search(r"\banswer\s+is\s+(?!\w+ing\b)\(?" + re.escape(problem.answer.casefold()) + r"\b", step.casefold())
        for step in plan
    )


def after(plan: Sequence[str], problem: Problem) -> bool:
    """Reject as the filter does now."""
    return spoiler(plan, problem) is not None


def _numbers(text: str) -> list[str]:
    return [_plain(number) for number in _NUMBER.findall(text)]


def _plain(number: str) -> str:
    whole, _, decimals = number.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")


def cases(rows: Sequence[Row], column: int) -> list[tuple[list[str], Problem]]:
    """Pair the plans of a column with their problems."""
    return [(row[column].split(" | "), Problem(id=row[0], question=row[0], answer=row[1])) for row in rows]


def released(file: Path) -> Iterator[tuple[tuple[str, ...], Problem]]:
    """Yield the plans between tags in PLAN-TUNING's release."""
    for row in json.loads(file.read_text(encoding="utf-8")):
        question = row["question"].partition("<input>")[2].partition("</input>")[0]
        answer = final_answer(row["answer"])
        if answer is not None and (written := re.search("<plan>.*</plan>", row["question"], re.DOTALL)):
            yield split_steps(written[0]), Problem(id=question, question=question, answer=answer)


def main(*files: str) -> None:
    """Apply both rules to every set and write the page."""
    sets = {
        f"{name}, {kind}": cases(rows, column)
        for column, kind in ((2, "set-up"), (3, "spoilers"))
        for name, rows in FIELDS.items()
    }
    for kind in ("set-up", "spoilers"):
        sets[f"all {kind}"] = [case for name, plans in sets.items() if name.endswith(kind) for case in plans]
    if files:
        sets["PLAN-TUNING's released plans for MATH, of both kinds"] = list(released(Path(files[0])))
    figures = {
        name: {"plans": len(plans), **{rule.__name__: sum(rule(*case) for case in plans) for rule in (before, after)}}
        for name, plans in sets.items()
    }
    table = [
        (name, counts["plans"], *(wilson(counts[rule], counts["plans"]).percent() for rule in ("before", "after")))
        for name, counts in figures.items()
    ]
    write(
        "spoilers",
        command="python -m benchmarks.spoilers [PLANS]",
        about="Share of plans that the spoiler filter rejects (95 %): it should keep set-up and reject spoilers.",
        found={"machine": machine(), "figures": figures},
        text=markdown(("plans", "number", "rejected before", "rejected now"), table)
        + "\n\nBefore, any new number after an equals sign and any number of the answer made a plan a spoiler. Now "
        "equations of unknowns, '= 0' and '= 1' are set-up, and an answer of several numbers counts only where they "
        "stand together. Both rules let an answer through that is a number of the question. The rule was tuned on "
        "these plans, so its share of rejected set-up is optimistic.",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
