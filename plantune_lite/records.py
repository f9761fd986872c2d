"""The vocabulary: records that stages exchange, the callables they pass, JSONL in and out, and the errors.

A record is frozen and goes to one line of JSONL and back:

    {"id": "practice/train/7", "question": "A pen costs 3 dollars ...", "answer": "12", "steps": ["...", "..."], ...}
"""

import json
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

# --- errors -----------------------------------------------------------------------------------------------------------


class PlantuneError(Exception):
    """Something a user can mend; its text says what, the value, and what to do. Shown without a traceback."""


class RecipeError(PlantuneError, ValueError):
    """A recipe that cannot be: every error in it, at once."""


class ProblemError(PlantuneError, ValueError):
    """A row, file or benchmark that is not a set of problems."""


class RunError(PlantuneError, RuntimeError):
    """A run folder that cannot go on as asked, or a stage that failed."""


class MissingError(PlantuneError, ImportError):
    """A library that an extra brings is not installed."""


# --- asking a model ---------------------------------------------------------------------------------------------------

Messages = tuple[dict[str, str], ...]  # a last assistant message is a prefix to go on from
Finish = Literal["stop", "length", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One text a model wrote."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish: Finish = "stop"
    mean_logprob: float | None = field(default=None, compare=False)  # its last digits change with the batch
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_thought: int = 0  # billed as output


Generate = Callable[[Sequence[Messages], Sampling], list[list[Reply]]]  # a student, a GGUF, a server, a lambda: P x n
Ask = Callable[[Messages, Sampling, type | None], Awaitable[list[Reply]]]  # a teacher behind the ledger
Reward = Callable[..., list[float | None]]  # TRL's own signature


class LoadedStudent(Protocol):
    """A student in memory: what training, evaluation and export are handed."""

    model: Any
    tokenizer: Any
    preset: Any
    generate: Generate

    def encode_chat(self, messages: Messages, *, for_reply: bool) -> list[int]:
        """Token ids of a conversation with exactly one BOS where the family has one."""
        ...


# --- records ----------------------------------------------------------------------------------------------------------

Kind = Literal["text", "choice", "code", "plan"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question whose answer can be checked."""

    id: str
    question: str
    answer: str
    solution: str | None = None
    steps: tuple[str, ...] = ()  # the solution's steps, where the source has them
    choices: tuple[str, ...] = ()
    source: str = ""
    split: str = ""
    kind: Kind = "text"
    extra: dict[str, Any] = field(default_factory=dict)  # what else the source says: level, subject, template ...


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A plan, what came of following it, and who wrote it."""

    problem_id: str
    sample: int
    question: str
    plan: tuple[str, ...]
    execution: str
    answer: str | None
    score: int | None = None  # -100 .. 100 by a verifier; None: nobody scored it
    critique: str = ""
    teacher: str = ""
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Rejected(Trajectory):
    """A trajectory that was not kept, and why."""

    reason: str  # "plan score 60 < 80", "wrong answer", "spoils the answer", "duplicate", "in test set" ...


@dataclass(frozen=True)
class Verdict:
    """Whether two answers are the same; None (empty, unparsable, ambiguous, timed out) is scored as wrong."""

    same: bool | None
    how: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """One answer of one model to one problem, graded."""

    problem_id: str
    sample: int
    mode: str
    text: str
    prediction: str | None
    gold: str
    same: bool | None
    how: str
    finish: Finish = "stop"
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StepPair:
    """Two next steps after the same prefix, one better."""

    problem_id: str
    prompt: str
    better: str
    worse: str
    q_better: float
    q_worse: float


# --- JSONL ------------------------------------------------------------------------------------------------------------

Record = TypeVar("Record")


def to_row(record: Any) -> dict[str, Any]:
    """A record as a JSON object, without the optional fields that are empty."""
    required = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}
    return {name: value for name, value in asdict(record).items() if name in required or value not in ((), {}, "")}


def from_row(kind: type[Record], row: Mapping[str, Any]) -> Record:
    """The record that `to_row` wrote; lists become tuples where the record has tuples."""
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(row) - known):
        raise PlantuneError(f"{kind.__name__} has no field {unknown[0]!r}; its fields are {', '.join(sorted(known))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return kind(**values)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file that we wrote; a torn last line is dropped, any other bad line is an error."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # the process was killed while it wrote this line, perhaps within a character
            try:
                yield json.loads(line)
            except ValueError as error:
                raise PlantuneError(f"{path} line {number}: not JSON ({error}). Delete the line or the file.") from None


def read_records(kind: type[Record], path: Path) -> list[Record]:
    """All records of a JSONL file."""
    return [from_row(kind, row) for row in read_jsonl(path)]


def encodable(text: str) -> str:
    """The text without what JSON can spell and no file can hold: half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


class JsonlWriter:
    """Appends records, each line handed to the system before the next; drops the torn line an earlier kill left."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab+")  # noqa: SIM115 - closed by close()
        end = self._file.seek(0, os.SEEK_END)
        self._file.truncate(_end_of_last_line(self._file, end))

    def write(self, record: Any) -> None:
        """Append one record, or one plain dict."""
        row = record if isinstance(record, dict) else to_row(record)
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Bring everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end_of_last_line(file: Any, end: int, block: int = 1 << 16) -> int:
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never half: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write a whole JSONL file of records or dicts."""
    rows = (record if isinstance(record, dict) else to_row(record) for record in records)
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
