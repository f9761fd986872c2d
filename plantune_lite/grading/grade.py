r"""Grade a reply by its problem's kind: an answer, a program, or a plan that a world validates.

grade_reply(problem, "<plan>\n1. pick-up a\n...") -> Graded("pick-up a; ...", Verdict(same=True, how="valid, 6 steps"))
grade_answer(problem, "so he has 16 - 2 = 14 bikes left") -> Graded("14", Verdict(True, "last number: same text"))
grade_answer(problem, r"... \boxed{14}") -> Graded("14", Verdict(True, "same text"))

An answer is extracted and judged as leniently as in the harnesses: knowing our format must not be an advantage.
"""

import re
from collections.abc import Sequence

from plantune_lite.grading import code
from plantune_lite.grading.answers import final_answer, same_answer
from plantune_lite.grading.values import LongNumber, Number, read
from plantune_lite.plan import CLOSE, OPEN
from plantune_lite.recipe import user_code
from plantune_lite.types import Graded, Problem, Verdict


def grade_reply(problem: Problem, text: str) -> Graded:
    """Grade a program by its tests, a plan by carrying it out, anything else by its answer."""
    if problem.kind == "plan":
        return user_code.load_from_lab("grade_plan")(problem, text)
    return (code.grade_code if problem.kind == "code" else grade_answer)(problem, text)


_NUMBER = re.compile(r"(?<![\w.)])[-−]?[$€£]?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?%?")


def grade_answer(problem: Problem, text: str) -> Graded:
    """Grade a reply leniently, so that knowing our format is not an advantage.

    Where no answer is marked, the last number counts if the gold answer is one, as in the harnesses, and the choice
    that the last line names if there are choices. The numbers of a plan's steps are not answers.
    """
    execution = _after_plan(text)
    gold_is_number = not problem.choices and isinstance(read(problem.answer), Number | LongNumber)
    # A bare plan may contain the answer; with an execution, a step "The answer is the total" is not one.
    if marked := final_answer(execution if execution.strip() else text):
        verdict = same_answer(marked, problem.answer, choices=problem.choices)
        if verdict.same is None and gold_is_number and len(numbers := _numbers(marked)) == 1:
            [marked] = numbers  # "that he has 15 apples left", but not "5 or 6"
            verdict = same_answer(marked, problem.answer)
        return Graded(marked, verdict)
    if problem.choices:
        named = _named_choice(execution.strip().rpartition("\n")[2], problem.choices)
        return Graded(named, same_answer(named, problem.answer, choices=problem.choices))
    if gold_is_number and (numbers := _numbers(execution)):
        verdict = same_answer(numbers[-1], problem.answer)
        return Graded(numbers[-1], Verdict(verdict.same, f"last number: {verdict.how}"))
    return Graded(None, same_answer(None, problem.answer))


def _numbers(text: str) -> list[str]:
    return [number.rstrip(",") for number in _NUMBER.findall(text)]


def _named_choice(line: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the one choice that a line names, by a letter in brackets or by its text."""
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    named = {letter for letter in re.findall(r"(?:^|\()([A-Z])\)", line) if letter in letters}
    if not named:
        mentioned = [bool(re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", line, re.IGNORECASE)) for choice in choices]
        named = {letter for letter, is_mentioned in zip(letters, mentioned, strict=True) if is_mentioned}
    return named.pop() if len(named) == 1 else None


def _after_plan(text: str) -> str:
    if CLOSE in text:
        return text.rpartition(CLOSE)[2]
    return "" if text.lstrip().startswith(OPEN) else text
