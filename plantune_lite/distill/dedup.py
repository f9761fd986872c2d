"""Find texts that are the same: copies of one another, near copies, and questions that are in a test set.

    words("It costs $1,200.00 plus $\\\\frac{1}{2}$.")    -> ("it", "costs", "1200", "plus", "frac", "1", "2")
    near_copies([(question, plan), ...])              -> [None, None, 0]: the third repeats the first
    TestQuestions({"gsm8k": [("gsm8k/test/17", question)]}, 13).found_in(other) -> {"gsm8k": "gsm8k/test/17"}

Numbers are kept and must match: two questions from one template with different numbers are different questions.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from plantune_lite.plan import plain_number

# --- words ------------------------------------------------------------------------------------------------------------

Words = tuple[str, ...]

_WORD = re.compile(
    r"\\[A-Za-z]+"  # a LaTeX command
    r"|[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|\.[0-9]+"
    r"|[\u3040-\u30ff\u3400-\u9fff]"  # Chinese and Japanese put no spaces between words
    r"|[^\W\d_]+|\d+"
    r"|[-+*/=<>%()\[\]]|(?<=[0-9)])!"  # 2+3 is not 2*3, and (2+3)*4 is not 2+(3*4)
)
_SAME = str.maketrans({"−": "-", "×": "*", "÷": "/", "·": "*", "’": "'", "≤": "<", "≥": ">"})
_SIGNS = {
    "*": ("\\times", "\\cdot"),
    "/": ("\\div",),
    "<": ("\\le", "\\leq", "\\lt"),
    ">": ("\\ge", "\\geq", "\\gt"),
    "frac": ("\\dfrac", "\\tfrac"),
    "": ("\\left", "\\right", "\\big", "\\Big", "\\bigg", "\\displaystyle", "\\limits", "\\quad", "\\qquad")
    + ("\\text", "\\textbf", "\\textit", "\\mathrm", "\\mathbf", "\\mbox", "\\hspace", "\\vspace"),
}
_COMMANDS = {command: sign for sign, commands in _SIGNS.items() for command in commands}


def words(text: str) -> Words:
    """Return the words, numbers and signs of a text, without what a copy may differ in: case, width, typesetting."""
    text = unicodedata.normalize("NFKC", text).translate(_SAME).replace("{,}", ",")
    text = re.sub(r"(?<=[^\W\d_])'(?=[^\W\d_])", "", text)
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", text)
    return tuple(word for match in _WORD.findall(text) if (word := _plain(match)))


def _plain(word: str) -> str:
    if word[0] == "\\":
        return _COMMANDS.get(word, word[1:].casefold())
    return plain_number(word) if word[0] in "0123456789." else word.casefold()


def numbers(of: Words) -> tuple[str, ...]:
    """Return the numbers among the words, in one order."""
    return tuple(sorted(word for word in of if word[0].isdigit()))


def runs(of: Words, length: int) -> Iterator[Words]:
    """Yield every run of `length` words; all the words where there are fewer."""
    if 0 < len(of) <= length:
        yield of
    else:
        yield from (of[start : start + length] for start in range(len(of) - length + 1))


def alike(left: frozenset[int], right: frozenset[int]) -> float:
    """Return the Jaccard similarity of two sets."""
    shared = len(left & right)
    together = len(left) + len(right) - shared
    return shared / together if together else 1.0


# --- near copies ------------------------------------------------------------------------------------------------------

ALIKE = 0.8  # of the shingles
_SHINGLE = 3  # words


def shingles(text: str) -> frozenset[int]:
    """Return the runs of three words of a text, as hashes: the same within a process."""
    return frozenset(map(hash, runs(words(text), _SHINGLE)))


def near_copies(texts: Sequence[tuple[str, str]]) -> list[int | None]:
    """Return for each question with its plan the index of the earlier original that it repeats, else None.

    Both the questions and the plans must be alike, so that two plans do not become copies because of a long shared
    question, and the questions must have the same numbers. Among those every pair is compared.
    """
    kept: dict[tuple[str, ...], list[tuple[int, frozenset[int], frozenset[int]]]] = {}
    firsts: list[int | None] = []
    for index, (question, plan) in enumerate(texts):
        new_question, new_plan = shingles(question), shingles(plan)
        earlier = kept.setdefault(numbers(words(question)), [])
        low, high = ALIKE * len(new_plan), len(new_plan) / ALIKE  # other sizes cannot be alike
        near = (
            at
            for at, text, steps in earlier
            if low <= len(steps) <= high and alike(steps, new_plan) >= ALIKE and alike(text, new_question) >= ALIKE
        )
        first = next(near, None)
        firsts.append(first)
        if first is None:
            earlier.append((index, new_question, new_plan))
    return firsts


# --- test questions ---------------------------------------------------------------------------------------------------

_SHORTEST = 6  # words: a shorter test question ("Solve for x.") counts only as the whole of a question
_PHRASE = -1
_WORDINGS = 8  # of one question in a suite, and no more than a quarter of it: what more of them share is a template


class TestQuestions:
    """Test questions indexed by runs of words: finds those that another question contains, wholly or in part."""

    __test__ = False  # pytest: not a test

    def __init__(self, suites: Mapping[str, Iterable[tuple[str, str]]], length: int) -> None:
        self._suites = {name: _Suite(questions, length) for name, questions in suites.items()}

    def found_in(self, question: str) -> dict[str, str]:
        """Suite -> id of the first of its questions that is found, where one is."""
        question_words = words(question)
        given = Counter(numbers(question_words))
        hits = ((name, suite.first_in(question_words, given)) for name, suite in self._suites.items())
        return {name: id for name, id in hits if id is not None}


class _Suite:
    """A run that several questions share is a phrase ("Your task is to count how many legs ..."), not a match.

    But a run with a number in it that a few questions with the same numbers share is one question in other wordings.
    Where a run is shared, the numbers must agree, all of one question's being among the other's: John's 3 apples are
    not John's 5 apples. A whole copy of a question, which both rules would miss, is looked up by itself.
    """

    def __init__(self, questions: Iterable[tuple[str, str]], length: int) -> None:
        self._length = length
        self._ids: list[str] = []
        self._numbers: list[Counter[str]] = []
        self._whole: dict[Words, int] = {}
        # hash() differs between processes but not within one; a collision in 64 bits is unlikely enough, and the
        # runs of 14,000 questions take 80 MB where the words themselves would take 300.
        self._runs: dict[int, int] = {}
        self._short: set[int] = set()
        again: Counter[int] = Counter()  # run -> how many more questions with the same numbers share it
        for id, question in questions:
            self._add(id, words(question), again)
        few = min(_WORDINGS, len(self._ids) // 4)
        self._runs.update((run, _PHRASE) for run, count in again.items() if count >= few)

    def _add(self, id: str, question_words: Words, again: Counter[int]) -> None:
        if not question_words or question_words in self._whole:
            return
        index = self._whole[question_words] = len(self._ids)
        self._ids.append(id)
        self._numbers.append(Counter(numbers(question_words)))
        if len(question_words) < self._length:
            if len(question_words) < _SHORTEST:
                return
            self._short.add(len(question_words))
        for run in set(runs(question_words, self._length)):
            first = self._runs.setdefault(hash(run), index)
            if first in (_PHRASE, index):
                continue
            if numbers(run) and self._numbers[first] == self._numbers[index]:
                again[hash(run)] += 1
            else:
                self._runs[hash(run)] = _PHRASE

    def first_in(self, question_words: Words, given: Counter[str]) -> str | None:
        """Return the id of the first question of the suite that is found."""
        whole = self._whole.get(question_words)
        if whole is not None:
            return self._ids[whole]
        for length in (self._length, *sorted(self._short, reverse=True)):
            if len(question_words) < length:
                continue
            for run in runs(question_words, length):
                index = self._runs.get(hash(run), _PHRASE)
                if index != _PHRASE and (self._numbers[index] <= given or given <= self._numbers[index]):
                    return self._ids[index]
        return None
