"""Our own small generator of word problems with worked steps. One real problem of `generate("train", seed=0)`:

    A shop has 16 bikes. It sells 2 of them on Monday and 4 on Tuesday. On Wednesday 9 new bikes arrive. How many
    bikes does the shop have then?
    1. Subtract the bikes sold on Monday from the bikes at the start to find what is left.
    2. Subtract the bikes sold on Tuesday from what is left to find what is still left.
    3. Add the new bikes to what is left to find all the bikes.
    After Monday there are 16 - 2 = 14 bikes.
    After Tuesday there are 14 - 4 = 10 bikes.
    Then there are 10 + 9 = 19 bikes.
    The answer is \\boxed{19}.

What comes in: a split, a seed, a limit, levels. What goes out: problems, always the same ones in the same order. A
third of the templates is for tests only, and `fingerprint` shows that none of them is in a training set.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Literal, NamedTuple

from plantune_lite.problems.practice.parts import ITEMS, Story
from plantune_lite.problems.practice.test_templates import HELD_OUT
from plantune_lite.problems.practice.train_templates import TRAIN
from plantune_lite.types import Problem, ProblemError

Split = Literal["train", "test"]
LEVELS = (1, 2, 3)


class Template(NamedTuple):
    """A kind of problem, and the split it may appear in."""

    name: str
    split: Split
    tell: Callable[[Random, int], Story]
    levels: tuple[int, ...] = LEVELS


TEMPLATES = (
    *(Template(tell.__name__, "train", tell) for tell in TRAIN),
    *(Template(tell.__name__, "test", tell) for tell in HELD_OUT),
)
LIMIT = 1_000  # problems, where nobody says how many
_TRIES = 200  # drawings in a row that bring nothing new: the template is used up


def practice_problems(
    split: Split, *, seed: int, limit: int | None = None, levels: tuple[int, ...] = ()
) -> Iterator[Problem]:
    """Problems of a split, all different; a larger limit only appends, and no levels means all of them."""
    if split not in ("train", "test"):
        raise ProblemError(f'practice has the splits "train" and "test", not {split!r}')
    if unknown := sorted(set(levels) - set(LEVELS)):
        raise ProblemError(f"practice has the levels {', '.join(map(str, LEVELS))}, not {unknown[0]}")
    kinds = [
        (template, level)
        for template in TEMPLATES
        if template.split == split
        for level in template.levels
        if level in (levels or LEVELS)
    ]
    return islice(_problems(split, kinds, Random(f"{split} {seed}")), LIMIT if limit is None else limit)


def _problems(split: Split, kinds: list[tuple[Template, int]], rng: Random) -> Iterator[Problem]:
    seen: set[str] = set()
    while True:
        for template, level in rng.sample(kinds, len(kinds)):  # in rounds, so that any stretch is balanced
            story = _new_story(template, level, rng, seen)
            seen.add(story.question)
            yield Problem(
                id=f"practice/{split}/{len(seen) - 1}",
                question=story.question,
                answer=str(story.answer),
                solution="\n".join([*(step.work for step in story.steps), f"The answer is \\boxed{{{story.answer}}}."]),
                steps=tuple(step.work for step in story.steps),
                source="practice",
                split=split,
                extra={"template": template.name, "level": level, "plan": [step.plan for step in story.steps]},
            )


_ONE_OR_NONE = re.compile(r"\b[01]\b")


def _new_story(template: Template, level: int, rng: Random, seen: set[str]) -> Story:
    for _ in range(_TRIES):
        story = template.tell(rng, level)
        texts = (story.question, *(step.work for step in story.steps))
        # One of a thing would need the singular, and none of it teaches nothing.
        if story.question not in seen and not any(map(_ONE_OR_NONE.search, texts)):
            return story
    raise ProblemError(
        f"practice cannot make more than {len(seen)} different problems: {template.name!r} at level {level} is used "
        f"up. Lower problems.limit or allow more levels."
    )


# --- fingerprints -----------------------------------------------------------------------------------------------------

_NUMBER_WORDS = (
    "(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|ten|eleven|twelve|"
    "one|two|three|four|five|six|seven|eight|nine|hundred|thousand|million"
)
_NUMBER = rf"(?:\d+(?:[.,/]\d+)*|\b(?:{_NUMBER_WORDS})\b)"
_BLANKS = (
    (re.compile(r"\btwice\b", re.IGNORECASE), "2 times"),
    (re.compile(rf"{_NUMBER}(?:[- ]{_NUMBER})*", re.IGNORECASE), "#"),
    (re.compile(r"[$€£¥]"), "$"),
    (re.compile(rf"\b(?:{'|'.join(sorted(ITEMS, key=len, reverse=True))})\b"), "_"),
    (re.compile(r"\b[A-Z]\w*(?:\s+[A-Z]\w*)*"), "_"),
    (re.compile(r"\b(?:he|she|his|hers|him|her)\b"), "_"),
    (re.compile(r"\ban\b"), "a"),
    (re.compile(r"\s+"), " "),
)


def fingerprint(question: str) -> str:
    """What a question looks like with its numbers, names and items blanked: "_ has # _. _ many _ does _ have?".

    Practice problems that one template tells in the same words share a fingerprint, and no two templates do. In other
    generated text a capitalised word is a name (a sentence's first always is), he and she are alike, and only the items
    that practice knows are blanked.
    """
    for pattern, blank in _BLANKS:
        question = pattern.sub(blank, question)
    return question.strip()
