"""A user's rows as problems: which column is what, and what makes a row no problem.

    columns: Frage, Antwort, Kapitel    guess(table, part) -> Columns(question="Frage", answer="Antwort")
    {"Frage": "Was ist 6 mal 7?", "Antwort": "#### 42"} -> Problem(question="Was ist 6 mal 7?", answer="42", ...)

Functions and benchmarks come through here too, with their fields named as ours: one set of checks holds for all.
"""

import json
import math
import re
import statistics
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from plantune_lite.recipe import Problems
from plantune_lite.records import Kind, Problem, ProblemError
from plantune_lite.tables import Row, Table
from plantune_lite.typed import nearest
from plantune_lite.verify import final_answer

# What people call their columns, most telling first; compared without case, accents' encoding, spaces and punctuation.
_NAMES = {
    "question": """question problem question_text problem_text word_problem prompt instruction query input exercise task
        frage aufgabe fragestellung aufgabenstellung aufgabentext pregunta problema enunciado pergunta questão questao
        problème énoncé exercice domanda quesito esercizio vraag opgave fråga uppgift spørgsmål opgave oppgave kysymys
        tehtävä pytanie zadanie otázka úloha kérdés feladat soru întrebare вопрос задача питання ερώτηση שאלה سؤال प्रश्न
        问题 题目 問題 題目 質問 문제 질문 q""",
    "answer": """answer final_answer gold gold_answer ground_truth expected expected_answer correct_answer answer_key
        target correct result label output response antwort ergebnis endergebnis respuesta resultado resposta réponse
        résultat risposta risultato antwoord svar vastaus odpowiedź odpověď odpoveď válasz cevap yanıt răspuns ответ
        відповідь απάντηση תשובה جواب الجواب إجابة उत्तर 答案 回答 答え 解答 정답 답 답변 a""",
    "solution": """solution worked_solution rationale explanation reasoning working chain_of_thought cot full_solution
        lösung lösungsweg rechenweg musterlösung erklärung solución explicación solução explicação soluzione spiegazione
        explication corrigé oplossing uitleg lösning förklaring løsning ratkaisu rozwiązanie řešení riešenie megoldás
        çözüm rezolvare решение рішення λύση פתרון حل हल समाधान 解析 解法 解説 풀이 해설""",
    "choices": """choices options alternatives candidates answer_choices answer_options antwortmöglichkeiten optionen
        auswahl opciones alternativas opções scelte opzioni choix opties alternativ valg vaihtoehdot варианты 选项
        選択肢 선택지 보기""",
    "id": "id uid uuid unique_id question_id problem_id task_id qid nr no number index key",
}
REQUIRED = ("question", "answer")


class BadRow(ValueError):
    """Why a row is no problem."""


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what, and how that was found."""

    names: dict[str, str]  # role -> column
    how: dict[str, str]  # role -> "as you said", "by its name" or "by its content"


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
        found = (folded[_folded(name)] for name in known.split() if _folded(name) in folded)
        if role not in names and (column := next((name for name in found if name not in names.values()), None)):
            names[role], how[role] = column, "by its name"
    if "answer" not in names and "solution" in names and how["solution"] == "by its name":
        names["answer"], how["answer"] = (
            names.pop("solution"),
            how.pop("solution"),
        )  # "Lösung: 42", or it ends with the answer
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
    return Columns(names, how)


def _folded(name: str) -> str:
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in text if char.isalnum() or unicodedata.category(char).startswith("M"))


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


def fields_of(row: Row, columns: Columns) -> dict[str, Any]:
    """The cells of a row under our names; the other cells keep their own."""
    taken = set(columns.names.values())
    fields = {name: value for name, value in row.cells.items() if name not in taken and name not in columns.names}
    return fields | {role: row.cells.get(column) for role, column in columns.names.items()}


def problem(
    fields: Mapping[str, Any],
    *,
    id: str,
    source: str,
    split: str,
    kind: Kind | None = None,
    labels: Mapping[str, str] = {},
) -> Problem:
    """The problem that fields with our names are; BadRow where they are none. `labels` are the user's names of them."""
    said = {role: labels.get(role, role) for role in ("question", "answer", "solution", "choices", "id")}
    question = _text(fields.get("question"), said["question"], required=True)
    if not isinstance(fields["question"], str):
        raise BadRow(f"{said['question']} is {_what(fields['question'])}, not text")
    answer = _text(fields.get("answer"), said["answer"], required=True)
    solution = _text(fields.get("solution"), said["solution"])
    if kind != "code" and ("####" in answer or "\\boxed" in answer):
        worked = re.sub(
            r"\s*####.*", "", answer, flags=re.DOTALL
        ).strip()  # the answer itself is no step of the solution
        solution, found = solution or worked, final_answer(answer)
        if not found:
            raise BadRow(f"{said['answer']} holds a worked solution whose final answer cannot be found")
        answer = found
    choices = _choices(fields.get("choices"), said["choices"])
    if choices:
        answer = _letter(answer, choices, said["answer"])
    given_kind = fields.get("kind") if fields.get("kind") in get_args(Kind) else None
    rest = {name: value for name, value in fields.items() if name not in _OURS and not _empty(value)}
    nested = fields.get("extra")
    extra = {**rest, **(nested if isinstance(nested, Mapping) else {})}
    if "level" in extra and (
        level := re.fullmatch(r"(?:level\s*)?(\d+)(?:\.0)?", str(extra["level"]).strip(), re.IGNORECASE)
    ):
        extra["level"] = int(level[1])
    steps = fields.get("steps")
    return Problem(
        id=_text(fields.get("id"), said["id"]) or id,
        question=question,
        answer=answer,
        solution=solution or None,
        steps=tuple(map(str, steps)) if isinstance(steps, list | tuple) else tuple(str(steps or "").splitlines()),
        choices=choices,
        source=source,
        split=split,
        kind=kind or given_kind or ("choice" if choices else "text"),
        extra=_plain(extra),
    )


_OURS = ("id", "question", "answer", "solution", "steps", "choices", "kind", "split", "extra")


def _text(value: Any, name: str, *, required: bool = False) -> str:
    if isinstance(value, list | tuple | Mapping | bytes):
        raise BadRow(f"{name} is {_what(value)}, not text or a number")
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float) and not math.isnan(value):
        text = str(int(value)) if value.is_integer() else str(value)  # a column with one gap makes every 12 a 12.0
    else:
        text = "" if _empty(value) else str(value).strip()
    if required and not text:
        raise BadRow(f"{name} is empty")
    return text


def _empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or isinstance(value, float) and math.isnan(value)


def _what(value: Any) -> str:
    words = {list: "a list", tuple: "a list", dict: "an object", bytes: "binary data", bool: "true or false"}
    return words.get(type(value), "a number")


def _choices(value: Any, name: str) -> tuple[str, ...]:
    """Choices as they come: a list, letter -> text, ARC's text and label, or one cell of CSV."""
    if isinstance(value, str):
        value = _cut(value.strip(), name)
    if isinstance(value, Mapping):
        value = value["text"] if "text" in value else [value[key] for key in sorted(value)]
    if _empty(value):
        return ()
    if not isinstance(value, list | tuple):
        raise BadRow(f"{name} is {_what(value)}, not a list of choices")
    choices = tuple(_text(item, name) for item in value)
    if len(choices) < 2 or not all(choices) or len(choices) > 26:
        raise BadRow(f"{name} has {len(choices)} choices, of which {choices.count('')} are empty; 2 to 26 are expected")
    return choices


def _cut(cell: str, name: str) -> Any:
    if not cell:
        return None
    if cell.startswith(("[", "{")):
        try:
            return json.loads(cell)
        except json.JSONDecodeError:
            raise BadRow(f'{name} begins like JSON but is none; write ["red", "blue"]') from None
    pieces = re.split(r"(?:^|(?<=[\s,;|]))\(?([A-Z])[).:]\s*", cell)
    letters, texts = pieces[1::2], pieces[2::2]
    if len(letters) > 1 and letters == [chr(ord("A") + number) for number in range(len(letters))]:
        return [text.strip(" \n\t,;|") for text in texts]
    mark = next((mark for mark in ("|", "\n", ";") if mark in cell), None)
    if mark is None:
        raise BadRow(f"{name} cannot be cut into choices; write A) red B) blue, red | blue, or a JSON list")
    return [text.strip() for text in cell.split(mark)]


def _letter(answer: str, choices: tuple[str, ...], name: str) -> str:
    last = chr(ord("A") + len(choices) - 1)
    if (letter := re.fullmatch(r"\(?([A-Za-z])[).:]?", answer)) and letter[1].upper() <= last:
        return letter[1].upper()
    same = [number for number, choice in enumerate(choices) if choice.casefold() == answer.casefold()]
    if len(same) != 1:
        raise BadRow(f"{name} is {_shortened(answer)}, but the choices are A to {last}")
    return chr(ord("A") + same[0])


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: Parquet has dates and decimals."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def checked(
    drafts: Iterable[tuple[str, str, Mapping[str, Any] | BadRow]],
    *,
    source: str,
    split: str,
    kind: Kind | None = None,
    labels: Mapping[str, str] = {},
) -> Iterator[tuple[str, Problem | BadRow]]:
    """Each draft (where it stands, default id, fields) as a problem or the reason why not; ids are given once."""
    seen: dict[str, str] = {}
    for where, id, fields in drafts:
        try:
            if isinstance(fields, BadRow):
                raise fields
            made = problem(fields, id=id, source=source, split=split, kind=kind, labels=labels)
            if made.id in seen:
                raise BadRow(f"{labels.get('id', 'id')} {made.id!r} is also that of {seen[made.id]}")
            seen[made.id] = where
            yield where, made
        except BadRow as fault:
            yield where, fault


def drafts_of(table: Table, columns: Columns) -> Iterator[tuple[str, str, Mapping[str, Any] | BadRow]]:
    """The rows of a file as drafts; the default id is the file's name and the row's place in it."""
    for row in table.rows:
        id = f"{table.path.stem}/{row.where.rpartition(' ')[2]}"
        yield row.where, id, BadRow(row.fault) if row.fault else fields_of(row, columns)
