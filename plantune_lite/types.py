"""Define the vocabulary: records that stages exchange, callables they pass, and errors.

A record is frozen and round-trips through one line of JSONL:

    {"id": "practice/train/7", "question": "A pen costs 3 dollars ...", "answer": "12", "steps": ["...", "..."], ...}
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeVar

# --- errors -----------------------------------------------------------------------------------------------------------


class PlantuneError(Exception):
    """Something a user can fix; its text says what, the value, and what to do. Shown without a traceback."""


class RecipeError(PlantuneError, ValueError):
    """An invalid recipe: every error in it, at once."""


class ProblemError(PlantuneError, ValueError):
    """A row, file or benchmark that is not a set of problems."""


class RunError(PlantuneError, RuntimeError):
    """A run folder that cannot be used as requested, or a stage that failed."""


class MissingError(PlantuneError, ImportError):
    """A library of an extra is not installed."""


Thing = TypeVar("Thing")


def present(thing: Thing | None) -> Thing:
    """Return a value that cannot be None here, such as the part of a recipe whose stage is running."""
    assert thing is not None
    return thing


# --- calling a model --------------------------------------------------------------------------------------------------

Messages = tuple[dict[str, str], ...]  # a last assistant message is a prefix to continue
Finish = Literal["stop", "length", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters; temperature 0 is greedy."""

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
Reward = Callable[..., Sequence[float | None]]  # TRL's own signature


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
    extra: dict[str, Any] = field(default_factory=dict)  # other fields of the source: level, subject, template ...


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A plan, its execution, and its teacher."""

    problem_id: str
    sample: int
    question: str
    plan: tuple[str, ...]
    execution: str
    answer: str | None
    score: int | None = None  # -100 .. 100 by a verifier; None: not scored
    critique: str = ""
    teacher: str = ""
    tokens: int = 0


class Reason(StrEnum):
    """Reason why a trajectory is not kept, in the order of the checks it goes through."""

    NO_WORKED_SOLUTION = "no worked solution"
    NO_WORKED_PLAN = "no plan in the worked solution"
    PLAN_CUT_OFF = "plan cut off"
    NO_PLAN = "no plan in the reply"
    SPOILS = "spoils the answer"
    NO_SCORE = "no score"
    LOW_SCORE = "plan score too low"
    BETTER_KEPT = "a better plan was kept"
    EXECUTION_CUT_OFF = "execution cut off"
    NO_ANSWER = "no answer in the execution"
    WRONG_ANSWER = "wrong answer"
    UNCHECKED = "answer cannot be checked"
    IN_TEST_SET = "in test set"
    EMPTY_PLAN = "empty plan"
    NOT_EXECUTED = "not executed"
    DUPLICATE = "duplicate"
    NOT_BEST = "not among the best of its problem"
    OVER_WEIGHT = "over the weight of its source"
    NO_SOLUTION = "no solution in the data set"


@dataclass(frozen=True, kw_only=True)
class Rejected(Trajectory):
    """A trajectory that was not kept, and why."""

    reason: str  # a Reason, for counting
    detail: str = ""  # "60 < 80", "step 1 states the answer 777", "gsm8k test/17" ...


@dataclass(frozen=True)
class Verdict:
    """Comparison of two answers; None (empty, unparsable, ambiguous, timed out) is scored as wrong."""

    same: bool | None
    how: str


@dataclass(frozen=True)
class Fault:
    """A reason with its detail."""

    reason: Reason
    detail: str = ""


def fault_of(verdict: Verdict) -> Fault | None:
    """Return the fault of a compared answer, if it has one."""
    if verdict.same:
        return None
    return Fault(Reason.UNCHECKED if verdict.same is None else Reason.WRONG_ANSWER, verdict.how)


class Graded(NamedTuple):
    """The answer in a reply, and whether it is right."""

    prediction: str | None
    verdict: Verdict


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
    tokens_in: int = 0  # the prompt's
