"""Define the text format of a plan, the prompts that ask for one, and the check for spoilers. One real example:

<plan>
1. Divide the clips sold in April by two to get the clips sold in May.
2. Add the clips of both months.
</plan>
Natalia sold 48/2 = 24 clips in May. Altogether she sold 48+24 = 72 clips. The answer is \\boxed{72}.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plantune_lite.types import Messages, Problem

OPEN, CLOSE = "<plan>", "</plan>"
_TAG = re.compile(r"</?\s*plan\s*>", re.IGNORECASE)
_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"  # scripts that put no space around each word
_MARK = rf"(?:[.):](?=[{_UNSPACED}])|[、．）：](?!\s*[0-9]))"  # of a number in them: 1、 but not the ratio 3：4
_NUMBERED = re.compile(rf"(?:(?:step\s+)?[0-9]{{1,3}}\s*(?:[.):]\s+|{_MARK}\s*)|[-*•]\s+)+", re.IGNORECASE)
_IS_NUMBERED = re.compile(rf"\W{{0,4}}(?:step\s+)?[0-9]{{1,3}}\s*(?:[.):]\W*\s|{_MARK})", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```|~~~)\w*\s*")
_EMPHASIS = re.compile(r"\*\*|__")


# --- the wire format --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A completion, split into plan and execution."""

    plan: tuple[str, ...]
    execution: str


def clean_step(text: str) -> str:
    """Clean a step to one trimmed line without plan tags, numbering or bold marks; may be empty."""
    while True:
        cleaned = " ".join(_EMPHASIS.sub("", _TAG.sub(" ", text)).split())
        if match := _NUMBERED.match(cleaned + " "):
            cleaned = cleaned[match.end() :]
        if cleaned == text:
            return cleaned
        text = cleaned  # removing something can create a new tag or number


def render(plan: Sequence[str], execution: str = "") -> str:
    """Write the plan in its tags, then what follows it."""
    lines = (f"{number}. {step}\n" for number, step in enumerate(plan, 1))
    return f"{OPEN}\n{''.join(lines)}{CLOSE}\n{execution}"


def parse(text: str) -> Planned | None:
    """Parse the plan and execution that `render` joined; None for anything else."""
    body, _, execution = text.removeprefix(OPEN + "\n").partition(f"\n{CLOSE}")
    steps = tuple(line.partition(". ")[2] for line in body.split("\n"))
    planned = Planned(steps, execution.removeprefix("\n"))
    # Generation that stops at the tag leaves no newline after it.
    is_ours = text in (render(steps, planned.execution), render(steps).rstrip("\n"))
    return planned if is_ours and all(step and clean_step(step) == step for step in steps) else None


def split_steps(text: str) -> tuple[str, ...]:
    """Split a teacher's free text into steps: numbered or bulleted lines with continuations, else one per line."""
    inside = re.search(rf"{OPEN}(.*?){CLOSE}", text, re.DOTALL | re.IGNORECASE)
    lines: list[str] = []
    apart: set[int] = set()  # lines that begin a new paragraph
    gap = False
    for line in (inside[1] if inside else text).splitlines():
        blank = not line.strip() or _FENCE.fullmatch(line) is not None
        if gap and not blank and not re.match(r"\s|[-*•]\s", line):
            apart.add(len(lines))
        if not blank:
            lines.append(line)
        gap = blank
    if len(lines) == 1:
        lines = _split_inline(lines[0])
    numbered = [_IS_NUMBERED.match(line) is not None for line in lines]
    bulleted = [bool(re.match(r"\s*[-*•]\s", line)) for line in lines]
    starts = numbered if any(numbered) else bulleted
    if not any(starts):
        steps = lines
    else:
        steps = []
        for line, is_start in zip(lines[: _end_of_steps(starts, apart)], starts, strict=False):
            if is_start:
                steps.append(line)
            elif steps:  # a line before the first step is an introduction
                steps[-1] += " " + re.sub(r"^\s*[-*•]\s+", "", line)
    return tuple(step for step in map(clean_step, steps) if step)


def _end_of_steps(starts: Sequence[bool], apart: set[int]) -> int:
    """Find the paragraph after the last step ("I hope this helps!"), unless other steps are followed by one too."""
    places = [at for at, is_start in enumerate(starts) if is_start]
    after = [at for at in sorted(apart) if not starts[at] and at > places[0]]
    return after[0] if len(places) > 1 and after and after[0] > places[-1] else len(starts)


def _split_inline(line: str) -> list[str]:
    """Split `1. add 2. halve` into two lines, but not `buy 3. then 5`: numbers must count up from 1."""
    marks = list(re.finditer(r"(?:^|(?<=\s))([0-9]{1,2})[.)]\s", line))
    counted = [mark for mark, number in zip(marks, range(1, 100), strict=False) if int(mark[1]) == number]
    if len(counted) < 2:
        return [line]
    ends = [mark.start() for mark in counted[1:]] + [len(line)]
    return [line[mark.start() : end] for mark, end in zip(counted, ends, strict=True)]


# --- prompts ----------------------------------------------------------------------------------------------------------

# Always present and always the same: without it, Qwen2.5 and SmolLM2 add their own system turn.
SYSTEM = "You solve problems carefully and end with the final answer in \\boxed{}."

_STEP_BY_STEP = "Work through it step by step, then {ending}."
_PLAN_THEN_SOLVE = (
    "Write a short plan first: numbered steps that say what to find next and how, without calculating anything yet. "
    "Then carry the plan out step by step and {ending}. Use this form:\n"
    "<plan>\n1. first step\n2. next step\n</plan>\nthe working, then {form}"
)
_FOLLOW = "Follow this plan step by step, doing the calculations, then {ending}."

# How a reply must end, and its form; a program does not fit in a box.
_BOX = {"ending": "give the final answer in \\boxed{}", "form": "\\boxed{answer}"}
_PROGRAM = {
    "ending": "give the whole function, with the imports it needs, in one ```python block; nothing is to be boxed",
    "form": "```python\nthe function\n```",
}


def chat(user: str) -> Messages:
    """Build a conversation with one user turn."""
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": user})


def question_text(problem: Problem) -> str:
    """Write the question with its choices lettered below it."""
    lines = [f"({chr(ord('A') + number)}) {choice}" for number, choice in enumerate(problem.choices)]
    return "\n".join([problem.question, *lines])


def as_completion(text: str) -> list[dict[str, str]]:
    """Return a reply as a training row's turn: TRL needs prompt and completion both as messages."""
    return [{"role": "assistant", "content": text}]


def completion_text(row: Mapping[str, Any]) -> str:
    """Return the text of a training row's completion; earlier versions wrote a bare string."""
    completion = row["completion"]
    return completion if isinstance(completion, str) else completion[-1]["content"]


def ask_plainly(problem: Problem) -> Messages:
    """Ask the bare question: every arm is trained on it, so that a tuned model plans without being asked to."""
    return chat(question_text(problem))


def ask_step_by_step(problem: Problem) -> Messages:
    """Ask for zero-shot chain of thought, for an untuned model."""
    return chat(f"{_task(problem)}\n\n{_STEP_BY_STEP.format(**_end(problem))}")


def ask_plan_then_solve(problem: Problem) -> Messages:
    """Ask for plan and solution in one reply, for an untuned model."""
    return chat(f"{_task(problem)}\n\n{_PLAN_THEN_SOLVE.format(**_end(problem))}")


def ask_to_follow(problem: Problem, plan: Sequence[str]) -> Messages:
    """Ask to carry out a plan: the prompt of M2's executor, with the rendered plan in the user turn."""
    return chat(f"{_task(problem)}\n\n{render(plan)}\n{_FOLLOW.format(**_end(problem))}")


def _task(problem: Problem) -> str:
    """Write the question; for a program it is only the beginning, so ask to complete it."""
    if problem.kind != "code":
        return question_text(problem)
    return f"Complete this function:\n{as_block(problem.question)}"


def _end(problem: Problem) -> dict[str, str]:
    return _PROGRAM if problem.kind == "code" else _BOX


def as_block(program: str) -> str:
    """Put a program in a fence."""
    return f"```python\n{program.rstrip()}\n```"


def with_answer(execution: str, answer: str) -> str:
    """Append the boxed answer to an execution, unless it boxes something already."""
    if "\\boxed" in execution:
        return execution
    return f"{execution.rstrip()}\nThe answer is \\boxed{{{answer}}}."


# --- spoilers ---------------------------------------------------------------------------------------------------------

_LETTER = rf"[^\W{_UNSPACED}]"  # that continues a word; 得到72个 contains 72
_NUMBER = re.compile(rf"(?<!{_LETTER})(?<![.第])[0-9]+(?:,[0-9]{{3}})*(?:\.[0-9]+)?(?![0-9])")
_VARIABLE = r"[abcknpqrtuvwxyzπθ](?![a-z])"  # right after a number: 3x; not m, g or s, which are units there
_RESULT = re.compile(  # but for the first number of 2^3, 3x and 6 * 4
    r"=\s*\\?[$€£]?\s*-?((?>[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?))"
    rf"(?![\^!(]|\s*[*×]\s*[0-9(\[]|{_VARIABLE})"
)
_FUNCTION = r"(?:sin|cos|tan|log|ln|sqrt|[dt]?frac|binom|times|cdot|div|gcd|lcm|mod|pi|left|right|circ)(?![a-z])"
_OPERATION = re.compile(  # letters that are not unknowns: functions, the signs in 3 x 4 and C(5, 2), units
    rf"\\?{_FUNCTION}|(?<=[0-9)\s])x(?=\s*[0-9(])|(?<=[0-9])\s*C\s*(?=[0-9])|\bC(?=\([0-9])"
    r"|(?<![a-zA-Z])(?:cm|mm|km|kg|ft)(?![a-zA-Z])|(?<=[0-9])\s+[mgshL]\b"
)
_WORD = re.compile(
    rf"(?<!\\)\b(?!{_FUNCTION}|abc\b|xyz\b|[A-Z]+\b)[^\W\d_]{{3,}}|[{_UNSPACED}]"
    r"|\b(?:by|of|to|is|in|at|we|if|as|it|so|on|or|be)\b|\ba(?=\s+[0-9])"
)
_END_OF_LEFT = re.compile(r"[;:!?<>≤≥≠=≈→]|[.,]\s")
_HENCE = re.compile(r"\b(?:so|thus|hence|therefore|gives?|giving|yields?|gets?|getting|find)[ ,:$]*[a-zA-Z]\s*$", re.I)
_FACTS = ("90", "180", "360")  # of angles, in words: the sum of the angles = 180
_NO_ANSWER = re.compile(  # numbers in x^2, a_1, 3x, y = 0 and Step 2
    rf"[\^_]\{{?-?[0-9]+|[0-9][0-9.,]*(?={_VARIABLE})|=\s*-?[01](?!\.?[0-9]|/)|\bsteps?\s+[0-9]+", re.IGNORECASE
)


def spoiler(plan: Sequence[str], problem: Problem) -> str | None:
    """Return why a plan is a spoiler: it states the answer or computes a result; None if it does neither."""
    if problem.kind == "code":
        return _written_out(plan, problem)
    question = question_text(problem)
    given = set(_numbers(question))
    answer_numbers = _numbers(problem.answer)
    is_new = not given.issuperset(answer_numbers)
    is_number = bool(answer_numbers) and not re.search(r"[A-Za-z]{3}", problem.answer)
    phrase = problem.answer.strip().casefold()
    for number, step in enumerate(plan, 1):
        if "\\boxed" in step:
            return f"step {number} boxes an answer"
        for result in _RESULT.finditer(step):
            if plain_number(result[1]) not in given and _computes(step[: result.start()], plain_number(result[1])):
                return f"step {number} computes '= {result[1]}'"
        if is_new and _in_a_row(answer_numbers, _numbers(_NO_ANSWER.sub(" ", step))):
            return f"step {number} states the answer {' '.join(answer_numbers)}"
        if (
            not is_number
            and len(phrase) >= 4
            and phrase not in question.casefold()
            and _has_words(step.casefold(), phrase)
        ):
            return f"step {number} states the answer {phrase!r}"
        if re.search(r"\b(?:final\s+)?answer\s+is\s+(?!\w+ing\b)\(?" + re.escape(phrase) + r"\b", step.casefold()):
            return f"step {number} states the answer {phrase!r}"
    return None


def _computes(before: str, number: str) -> bool:
    """Distinguish a result (3 x 4 = 12, pens left = 12, so x = 12) from set-up (x + y = 12, let x = 12, y = 0)."""
    if number in ("0", "1"):
        return False
    left = _WORD.split(_END_OF_LEFT.split(before)[-1])[-1]
    if re.search(r"[^\W\d_]", _OPERATION.sub(" ", left)):
        return _HENCE.search(before) is not None
    return bool(re.search("[0-9]", left)) or number not in _FACTS


def _in_a_row(few: Sequence[str], many: Sequence[str]) -> bool:
    return f" {' '.join(few)} " in f" {' '.join(many)} "


_A_LINE = 12  # characters: a shorter line, such as `return x`, reveals no more than words would


def _written_out(plan: Sequence[str], problem: Problem) -> str | None:
    """Return why a plan spoils a program: it may contain its numbers and names, but not one of its lines."""
    lines = [" ".join(line.split()) for line in problem.answer.splitlines()]
    for number, step in enumerate(plan, 1):
        if stated := [line for line in lines if len(line) >= _A_LINE and line in step]:
            return f"step {number} states the line {stated[0]!r}"
    return None


def _numbers(text: str) -> list[str]:
    return [plain_number(match) for match in _NUMBER.findall(text)]


def plain_number(number: str) -> str:
    """Write a number without thousands' commas and redundant zeros: 01,200.50 is 1200.5."""
    whole, _, decimals = number.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")


def _has_words(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!{_LETTER}){re.escape(phrase)}(?!{_LETTER})", text) is not None


_TAGS = re.compile(r"<plan>.*</plan>", re.DOTALL | re.IGNORECASE)


def written_plan(text: str) -> tuple[str, ...]:
    """Extract the plan from a reply, in our format or any other between plan tags; empty if there is none."""
    if planned := parse(text):
        return planned.plan
    return split_steps(text) if _TAGS.search(text) else ()
