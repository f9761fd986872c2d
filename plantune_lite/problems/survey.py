"""Survey a user's file before anything is spent on it: `plantune show my.csv`.

    survey_problems(Problems("my.csv"), seed=0) -> Survey(rows=812, problems=812, tried=812, uncheckable=3, ...)

It reads the file as `problems.load` does, but does not stop at bad rows: their faults are part of the result.
"""

from dataclasses import dataclass

from plantune_lite.files import as_path
from plantune_lite.grading.answers import can_check
from plantune_lite.problems import columns, files
from plantune_lite.problems.rows import checked_problems
from plantune_lite.problems.split import hold_out, sample
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import Problem

SAMPLES = 5
NAMED = 10  # rows per kind of fault, the first ones
TRIED = 1_000  # answers: the grader's symbolic worker takes some 15 ms to try a formula


@dataclass(frozen=True)
class Survey:
    """A file as `plantune show` describes it."""

    file: str
    rows: int
    problems: int
    columns: tuple[str, ...]
    roles: dict[str, str]  # question, answer, ... -> column
    samples: tuple[Problem, ...]
    tried: int  # answers that the grader tried: all, or a seeded sample
    uncheckable: int  # how many of these it cannot check
    unchecked: tuple[tuple[str, str], ...]  # the first ten: where, answer
    bad: int
    bad_rows: tuple[tuple[str, str], ...]  # the first ten: where, why
    held_out: int


def survey_problems(part: Problems, *, seed: int) -> Survey:
    """Read a file as a run would, and report what a run would find."""
    path = as_path(part.path or part.source)
    table = files.read_table(path)
    names = columns.guess(table, part)
    drafts = columns.drafts(table, names)
    good, bad = checked_problems(drafts, source=path.name, split=part.split)
    problems = [problem for _, problem in good]
    answers = [(where, problem) for where, problem in good if problem.kind != "code"]
    tried = sample(answers, TRIED, seed=seed)
    unchecked = [(at, problem.answer) for at, problem in tried if not can_check(problem.answer, problem.choices)]
    return Survey(
        file=str(path),
        rows=len(table.rows),
        problems=len(problems),
        columns=table.columns,
        roles=names,
        samples=sample(problems, SAMPLES, seed=seed),
        tried=len(tried),
        uncheckable=len(unchecked),
        unchecked=tuple(unchecked[:NAMED]),
        bad=len(bad),
        bad_rows=tuple(bad[:NAMED]),
        held_out=len(hold_out(problems, share=part.held_out, seed=seed).own),
    )
