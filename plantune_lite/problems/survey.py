"""Survey a user's file before anything is spent on it: `plantune show my.csv`.

    survey_problems(Problems("my.csv"), seed=0) -> Survey(rows=812, checkable={"money": 700, ...}, unchecked=..., ...)

It reads the file as `problems.load` does, but does not stop at bad rows: what is wrong with them is part of the result.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plantune_lite.grading.answers import answer_kind, same_answer
from plantune_lite.problems import columns, files
from plantune_lite.problems.rows import checked_problems
from plantune_lite.problems.split import hold_out, normalised
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import Problem

SAMPLES = 5
NAMED = 10  # of each sort of trouble, the first
# What may be a formula is read by the grader's symbolic worker, at some 15 ms each; all else is read in microseconds.
_FORMULA = re.compile(r"[\\^_=]|\b[A-Za-z]\s*[-+*/(]|[-+*/)\d]\s*[A-Za-z]\b")
FORMULAS = 300  # different ones that are tried


@dataclass(frozen=True)
class Survey:
    """A file as `plantune show` tells of it."""

    file: str
    sha256: str
    rows: int
    problems: int
    columns: tuple[str, ...]
    roles: dict[str, str]  # question, answer, ... -> column
    samples: tuple[Problem, ...]
    checkable: dict[str, int]  # kind of answer -> problems whose answer the grader can check, most first
    uncheckable: int
    unchecked: tuple[tuple[str, str], ...]  # the first ten: where, answer
    untried: int  # problems whose answer is a formula that was not tried: of many, a seeded sample is
    duplicates: int  # problems whose question an earlier one asks
    conflicts: tuple[tuple[str, str], ...]  # the first ten: where, where; one question, two answers
    bad: int
    bad_rows: tuple[tuple[str, str], ...]  # the first ten: where, why
    held_out: int


def survey_problems(part: Problems, *, seed: int) -> Survey:
    """Read a file as a run would, and say what a run would find."""
    path = Path(part.path or part.source).expanduser()
    table = files.read_table(path)
    names = columns.guess(table, part)
    drafts = columns.drafts(table, names)
    good, bad = checked_problems(drafts, source=path.name, split=part.split, labels=names)
    problems = [problem for _, problem in good]
    checkable, unchecked, untried = _gradable(good, seed)
    duplicates, conflicts = _repeated(good)
    picked = sorted(random.Random(seed).sample(range(len(problems)), min(SAMPLES, len(problems))))
    return Survey(
        file=str(path),
        sha256=table.sha256,
        rows=len(table.rows),
        problems=len(problems),
        columns=table.columns,
        roles=names,
        samples=tuple(problems[number] for number in picked),
        checkable=dict(checkable.most_common()),
        uncheckable=len(unchecked),
        unchecked=tuple(unchecked[:NAMED]),
        untried=untried,
        duplicates=duplicates,
        conflicts=tuple(conflicts[:NAMED]),
        bad=len(bad),
        bad_rows=tuple(bad[:NAMED]),
        held_out=len(hold_out(problems, share=part.held_out, seed=seed).own),
    )


def _gradable(good: Sequence[tuple[str, Problem]], seed: int) -> tuple[Counter[str], list[tuple[str, str]], int]:
    """Kinds of answers that the grader can check, the answers that it cannot, and how many it was not asked about."""
    keys = list(dict.fromkeys(_key(problem) for _, problem in good))
    formulas = [key for key in keys if not key[1] and _FORMULA.search(key[0])]
    left_out = set(formulas) - set(random.Random(seed).sample(formulas, min(FORMULAS, len(formulas))))
    kinds = {key: answer_kind(*key) for key in keys if key not in left_out}
    found = [(where, problem, kinds.get(_key(problem), "untried")) for where, problem in good if problem.kind != "code"]
    unchecked = [(where, problem.answer) for where, problem, kind in found if kind == "unchecked"]
    counts = Counter(kind for _, _, kind in found if kind != "unchecked")
    return counts, unchecked, counts.pop("untried", 0)


def _key(problem: Problem) -> tuple[str, tuple[str, ...]]:
    return problem.answer, problem.choices


def _repeated(good: Sequence[tuple[str, Problem]]) -> tuple[int, list[tuple[str, str]]]:
    first: dict[str, tuple[str, Problem]] = {}
    repeated, conflicts = 0, []
    for where, problem in good:
        earlier_where, earlier = first.setdefault(normalised(problem), (where, problem))
        if earlier is problem:
            continue
        repeated += 1
        if (
            earlier.answer != problem.answer
            and not same_answer(problem.answer, earlier.answer, choices=earlier.choices).same
        ):
            conflicts.append((earlier_where, where))
    return repeated, conflicts
