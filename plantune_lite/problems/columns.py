"""Guess the role of each column of a user's file: from the recipe, or by its name.

    columns Frage, Antwort, Kapitel    guess(table, part) -> {"question": "Frage", "answer": "Antwort"}

Where no name is known, an error lists the columns and the settings to write.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from plantune_lite.problems.files import BadRow, Draft, Row, Table
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import ProblemError

# Common column names, most specific first; compared without case, spaces and punctuation.
_NAMES = {
    "question": """question problem question_text problem_text word_problem prompt instruction query input exercise task
        frage aufgabe pregunta q""",
    "answer": """final_answer answer gold gold_answer ground_truth expected expected_answer correct_answer answer_key
        target correct result label output completion response antwort respuesta a""",
    "solution": """solution worked_solution rationale explanation reasoning working chain_of_thought cot full_solution
        lösung""",
    "choices": "choices options alternatives candidates answer_choices answer_options",
    "id": "id uid uuid unique_id question_id problem_id task_id qid nr no number index key",
}


def guess(table: Table, part: Problems) -> dict[str, str]:
    """Return role -> column: those that the recipe names, and for the others the best match by name.

    The role "input" is the text that belongs below an instruction.
    """
    names: dict[str, str] = {}
    for role in _NAMES:
        if (given := getattr(part, role)) is not None:
            if given not in table.columns:
                raise ProblemError(
                    f"{table.path.name} has no column {given!r} (problems.{role}){nearest(given, table.columns)}"
                )
            names[role] = given
    folded = {_folded(column): column for column in reversed(table.columns)}  # the first of equal names wins
    for role, known in _NAMES.items():
        known_here = (folded[_folded(name)] for name in known.split() if _folded(name) in folded)
        column = next((name for name in known_here if name not in names.values()), None)
        if role not in names and column and (role != "id" or _tells_apart(table, column)):
            names[role] = column
    if "answer" not in names and "solution" in names and part.solution is None:
        names["answer"] = names.pop("solution")  # "Lösung: 42", or a worked one that ends with the answer
    if missing := [role for role in ("question", "answer") if role not in names]:
        there = ", ".join(table.columns)
        ways = " ".join(f"problems.{role}=COLUMN" for role in missing)
        raise ProblemError(
            f"{table.path.name}: which column holds the {' and which the '.join(missing)}? "
            + (f"There are {there}. Set {ways}" if there else "It has no columns")
        )
    column = folded.get("input")
    instructs = part.question is None and _folded(names["question"]) == "instruction"
    if instructs and column and column not in names.values():
        names["input"] = column  # every row's instruction may be the same, "Solve the word problem."
    return names


def without_chats(table: Table) -> Table:
    """Convert chats to text: `messages` become prompt and completion, a list of turns its content."""
    rows = tuple(_without_chats(row) for row in table.rows)
    there = dict.fromkeys(column for row in rows for column in row.cells)
    return replace(table, columns=tuple(there), rows=rows) if rows != table.rows else table


def _without_chats(row: Row) -> Row:
    cells = dict(row.cells)
    if _is_chat(cells.get("messages")):
        *prompt, reply = cells.pop("messages")
        cells = {"prompt": prompt, "completion": [reply]} | cells
    fault = row.fault
    for name, value in cells.items():
        if _is_chat(value):
            turns = [turn["content"] for turn in value if turn.get("role") != "system"]
            cells[name] = turns[0] if turns else ""
            if len(turns) != 1:
                fault = f"{name} has {len(turns)} turns; a problem is one question and one reply"
    return replace(row, cells=cells, fault=fault)


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "content" in turn for turn in value)
    )


def _tells_apart(table: Table, column: str) -> bool:
    """Return whether a column's values are unique: `Nr` may restart in each chapter."""
    return len({str(row.cells.get(column)) for row in table.rows}) == len(table.rows)


def _folded(name: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKC", name).casefold() if char.isalnum())


def drafts(table: Table, names: Mapping[str, str]) -> Iterator[Draft]:
    """Yield the rows of a file as drafts; the default id is the file's name and the row's number."""
    for row in table.rows:
        yield row.where, f"{table.path.stem}/{row.number}", BadRow(row.fault) if row.fault else _fields(row, names)


def _fields(row: Row, names: Mapping[str, str]) -> dict[str, Any]:
    """Map a row's cells to our field names; leave out a column that has one of our names but not its role."""
    taken = {*names.values(), *_NAMES}
    fields: dict[str, Any] = {name: value for name, value in row.cells.items() if name not in taken}
    fields |= {role: row.cells.get(column) for role, column in names.items()}
    question, given = fields.get("question"), fields.pop("input") if "input" in names else None
    if isinstance(given, str | int | float) and str(given).strip() not in ("", "nan") and isinstance(question, str):
        fields["question"] = f"{question}\n\n{given}"
    return fields
