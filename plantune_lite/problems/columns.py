"""Tell which column of a user's file is what: as the recipe says, by its name, or by its content.

    columns Frage, Antwort, Kapitel    guess(table, part) -> Columns({"question": "Frage", "answer": "Antwort"}, ...)

By content a column is taken only where no other could be meant; else the user is told what there is and what to write.
"""

import statistics
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plantune_lite.problems.files import BadRow, Draft, Row, Table
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import ProblemError

# What people call their columns, most telling first; compared without case, spaces and punctuation.
_NAMES = {
    "question": """question problem question_text problem_text word_problem prompt instruction query input exercise task
        frage aufgabe pregunta q""",
    "answer": """final_answer answer gold gold_answer ground_truth expected expected_answer correct_answer answer_key
        target correct result label output response antwort respuesta a""",
    "solution": """solution worked_solution rationale explanation reasoning working chain_of_thought cot full_solution
        lösung""",
    "choices": "choices options alternatives candidates answer_choices answer_options",
    "id": "id uid uuid unique_id question_id problem_id task_id qid nr no number index key",
}
REQUIRED = ("question", "answer")


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what, and how that was found."""

    names: dict[str, str]  # role -> column; the role "input" has what stands below an instruction
    how: dict[str, str]  # role -> "as you said", "by its name", "by its content" or "below the instruction"


def guess(table: Table, part: Problems) -> Columns:
    """The columns a recipe names, and for the others the ones that can only be meant."""
    names: dict[str, str] = {}
    how: dict[str, str] = {}
    for role in _NAMES:
        if (given := getattr(part, role)) is not None:
            if given not in table.columns:
                raise ProblemError(
                    f"{table.path.name} has no column {given!r} (problems.{role}){nearest(given, table.columns)}"
                )
            names[role], how[role] = given, "as you said"
    folded = {_folded(column): column for column in reversed(table.columns)}  # the first of two alike wins
    for role, known in _NAMES.items():
        there = (folded[_folded(name)] for name in known.split() if _folded(name) in folded)
        column = next((name for name in there if name not in names.values()), None)
        if role not in names and column and (role != "id" or _tells_apart(table, column)):
            names[role], how[role] = column, "by its name"
    if "answer" not in names and "solution" in names and how["solution"] == "by its name":
        for found in (names, how):  # "Lösung: 42", or a worked one that ends with the answer
            found["answer"] = found.pop("solution")
    for role in REQUIRED:
        if role not in names and (
            column := _by_content(table, role, [c for c in table.columns if c not in names.values()])
        ):
            names[role], how[role] = column, "by its content"
    if missing := [role for role in REQUIRED if role not in names]:
        there = ", ".join(table.columns)
        ways = " ".join(f"problems.{role}=COLUMN" for role in missing)
        raise ProblemError(
            f"{table.path.name}: which column holds the {' and which the '.join(missing)}? "
            f"There are {there}. Write {ways}"
        )
    if how["question"] == "by its name" and _folded(names["question"]) == "instruction":
        # "Solve the word problem." is asked of every row: of what, its input says.
        column = folded.get("input")
        if column and column not in names.values():
            names["input"], how["input"] = column, "below the instruction"
    return Columns(names, how)


def _tells_apart(table: Table, column: str) -> bool:
    """Whether a column has another value in every row: `Nr` may count anew in each chapter."""
    return len({str(row.cells.get(column)) for row in table.rows}) == len(table.rows)


def _folded(name: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKC", name).casefold() if char.isalnum())


def _by_content(table: Table, role: str, columns: Sequence[str]) -> str | None:
    """The only column whose cells look like questions (sentences) or like answers (short), if there is exactly one."""
    fitting = []
    for column in columns:
        cells = [str(row.cells.get(column) or "").strip() for row in table.rows[:1000] if not row.fault]
        cells = [cell for cell in cells if cell]
        if not cells:
            continue
        spaced = sum(" " in cell for cell in cells) / len(cells)
        long = statistics.median(map(len, cells)) >= 20 and spaced > 0.9
        if long if role == "question" else not long and max(map(len, cells)) <= 80:
            fitting.append(column)
    return fitting[0] if len(fitting) == 1 else None


def drafts(table: Table, columns: Columns) -> Iterator[Draft]:
    """The rows of a file as drafts; the default id is the file's name and the row's place in it."""
    for row in table.rows:
        id = f"{table.path.stem}/{row.where.rpartition(' ')[2]}"
        yield row.where, id, BadRow(row.fault) if row.fault else _fields(row, columns)


def _fields(row: Row, columns: Columns) -> dict[str, Any]:
    """The cells of a row under our names; other columns keep theirs, apart, for they may be called like one of ours."""
    taken = set(columns.names.values())
    rest = {name: value for name, value in row.cells.items() if name not in taken}
    ours = {name: rest.pop(name) for name in ("steps", "kind") if name in rest}
    if isinstance(rest.get("extra"), Mapping):
        rest |= rest.pop("extra")
    fields = {**ours, "extra": rest, **{role: row.cells.get(column) for role, column in columns.names.items()}}
    question, given = fields.get("question"), fields.pop("input", None)
    if isinstance(given, str | int | float) and str(given).strip() not in ("", "nan") and isinstance(question, str):
        fields["question"] = f"{question}\n\n{given}"
    return fields
