"""Why a trajectory is not kept: Rejected(..., reason=Reason.LOW_SCORE, detail="60 < 80")."""

from dataclasses import dataclass
from enum import StrEnum

from plantune_lite.types import Verdict


class Reason(StrEnum):
    """A reason as it is counted, in the order in which a trajectory can meet it."""

    NO_WORKED_SOLUTION = "no worked solution"
    UNMATCHED_QUESTIONS = "sub-questions and steps do not match"
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


@dataclass(frozen=True)
class Fault:
    """A reason with its detail."""

    reason: Reason
    detail: str = ""


def fault_of(verdict: Verdict) -> Fault | None:
    """Return what is wrong with an answer that was compared, if anything is."""
    if verdict.same:
        return None
    return Fault(Reason.UNCHECKED if verdict.same is None else Reason.WRONG_ANSWER, verdict.how)
