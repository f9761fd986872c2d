"""What a user's file holds, before anything is spent on it: `plantune show my.csv`.

survey(Problems("my.csv"), seed=0) -> Survey(rows=812, columns=..., samples=five problems, checkable={"money": 700, ...})
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plantune_lite import columns, held_out, problem_rows, tables
from plantune_lite.recipe import Problems
from plantune_lite.records import Problem
from plantune_lite.tables import BadRow
from plantune_lite.verify import answer_kind, same_answer

SAMPLES = 5
NAMED = 10  # of each sort of trouble, the first
# The grader compares these as text or numbers; the others cost a call of its symbolic worker each.
_QUICK = frozenset(("whole number", "decimal", "fraction", "percent", "money", "time", "choice", "yes/no", "text"))
_SYMBOLIC_MOST = 300


@dataclass(frozen=True)
class Survey:
    """A file as `plantune show` tells of it."""

    file: str
    sha256: str
    rows: int
    problems: int
    columns: tuple[str, ...]
    roles: dict[str, str]  # question, answer, ... -> column
    how: dict[str, str]  # question, answer, ... -> "as you said", "by its name" or "by its content"
    samples: tuple[Problem, ...]
    checkable: dict[str, int]  # kind of answer -> problems whose answer the grader can check, most first
    uncheckable: int
    unchecked: tuple[tuple[str, str, str], ...]  # the first ten: where, answer, why
    symbolic: tuple[int, int]  # distinct symbolic answers that were tried, and that there are
    duplicates: int  # problems whose question an earlier one asks
    conflicts: tuple[tuple[str, str], ...]  # the first ten: where, where; one question, two answers
    bad: int
    bad_rows: tuple[tuple[str, str], ...]  # the first ten: where, why
    held_out: int
    notes: tuple[str, ...]


def survey(part: Problems, *, seed: int) -> Survey:
    """Read a file as a run would, and say what a run would find."""
    path = Path(part.path or part.source).expanduser()
    table = tables.read(path)
    found = columns.guess(table, part)
    drafts = columns.drafts(table, found)
    made = list(problem_rows.checked(drafts, source=path.name, split=part.split, labels=found.names))
    good = [(where, problem) for where, problem in made if isinstance(problem, Problem)]
    bad = [(where, str(fault)) for where, fault in made if isinstance(fault, BadRow)]
    problems = [problem for _, problem in good]
    checkable, unchecked, symbolic = _gradable(good, seed)
    duplicates, conflicts = _repeated(good)
    picked = sorted(random.Random(seed).sample(range(len(problems)), min(SAMPLES, len(problems))))
    return Survey(
        file=str(path),
        sha256=table.sha256,
        rows=len(table.rows),
        problems=len(problems),
        columns=table.columns,
        roles=found.names,
        how=found.how,
        samples=tuple(problems[number] for number in picked),
        checkable=dict(checkable.most_common()),
        uncheckable=len(unchecked),
        unchecked=tuple(unchecked[:NAMED]),
        symbolic=symbolic,
        duplicates=duplicates,
        conflicts=tuple(conflicts[:NAMED]),
        bad=len(bad),
        bad_rows=tuple(bad[:NAMED]),
        held_out=len(held_out.split(problems, share=part.held_out, seed=seed).own),
        notes=table.notes,
    )


def _gradable(
    good: Sequence[tuple[str, Problem]], seed: int
) -> tuple[Counter[str], list[tuple[str, str, str]], tuple[int, int]]:
    """Which answers the grader finds equal to themselves: one that it does not could never be scored as right."""
    kinds = {key: answer_kind(key[0], key[1]) for key in dict.fromkeys(map(_key, (problem for _, problem in good)))}
    slow = [key for key, kind in kinds.items() if kind not in _QUICK and kind != "unchecked"]
    tried = set(slow if len(slow) <= _SYMBOLIC_MOST else random.Random(seed).sample(slow, _SYMBOLIC_MOST))
    why: dict[tuple[str, tuple[str, ...]], str] = {}
    for key, kind in kinds.items():
        if kind in _QUICK or kind == "unchecked" or key in tried:
            verdict = same_answer(key[0], key[0], choices=key[1])
            if verdict.same is not True or kind == "unchecked":
                why[key] = verdict.how
    checkable = Counter(kinds[_key(problem)] for _, problem in good if _key(problem) not in why)
    unchecked = [(where, problem.answer, why[_key(problem)]) for where, problem in good if _key(problem) in why]
    return checkable, unchecked, (len(tried), len(slow))


def _key(problem: Problem) -> tuple[str, tuple[str, ...]]:
    return problem.answer, problem.choices


def _repeated(good: Sequence[tuple[str, Problem]]) -> tuple[int, list[tuple[str, str]]]:
    first: dict[str, tuple[str, Problem]] = {}
    repeated, conflicts = 0, []
    for where, problem in good:
        earlier_where, earlier = first.setdefault(held_out.normalised(problem), (where, problem))
        if earlier is problem:
            continue
        repeated += 1
        if (
            earlier.answer != problem.answer
            and not same_answer(problem.answer, earlier.answer, choices=earlier.choices).same
        ):
            conflicts.append((earlier_where, where))
    return repeated, conflicts
