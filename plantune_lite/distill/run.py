"""Problems to verified plans, many at once, each written down as soon as it is done.

What comes in: problems and an Ask (a teacher behind the ledger), or no Ask for worked solutions. What goes out:
trajectories.jsonl with what was kept and rejected.jsonl with all else, each with its reason. One kept line:

    {"problem_id": "gsm8k/train/0", "plan": ["Halve the clips sold in April.", "Add both months."], "score": 92,
     "execution": "... \\boxed{72}", "answer": "72", "teacher": "gemini-3.8-flash", "sample": 0, "tokens": 512, ...}

Every reply is in the ledger before it is used, so a problem that was cut off is asked for again: what was answered
comes from there, free. So it is with a budget that is used up: problems that need no further call are still done, the
others are left for the next time, and what was kept is there to be trained on. A problem that a teacher cannot answer,
however often it is asked, is left out; only where that happens to many, one after another, is it the end.
"""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.distill.filters import counted
from plantune_lite.distill.problem import Check, distil, worked
from plantune_lite.files import JsonlWriter, read_jsonl, write_records
from plantune_lite.recipe.schema import Distill
from plantune_lite.teacher.ledger import BudgetError
from plantune_lite.teacher.provider import UnansweredError
from plantune_lite.terminal import duration, printable, redrawn
from plantune_lite.types import Ask, PlantuneError, Problem

AT_ONCE = 128  # problems; the teacher's own limits decide how many calls are in flight
_AT_ONCE_IN_BATCHES = 10_000  # a batch holds what is asked together, and none of it comes back before all of it
_HOPELESS = 20  # problems one after another that the teacher could not answer
_EVERY_SECONDS = 10.0  # a line of progress


async def distill_all(
    problems: Sequence[Problem],
    ask: Ask | None,
    part: Distill,
    out: Path,
    *,
    teacher: str,
    check: Check | None = None,
    status: Callable[[], str] = lambda: "",
    at_once: int = AT_ONCE,
) -> dict[str, Any]:
    """Distil every problem that is not done yet, so many at once; `ask` None takes worked solutions.

    `check` judges programs, where they may be run; `status` is the teacher's line.
    """
    programs = sum(problem.kind == "code" for problem in problems)
    if programs and check is None:
        raise PlantuneError(
            f"{programs} of the {len(problems)} problems ask for a program, and to check one is to run what a teacher "
            "wrote: allow it with evaluate.allow_code=true, or choose problems.source with answers in words or numbers"
        )
    if ask is not None and part.plan_from == "solution" and not any(one.solution or one.steps for one in problems):
        raise PlantuneError(
            f"distill.plan_from is 'solution', but none of the {len(problems)} problems has one: name their column in "
            "problems.solution, or set distill.plan_from=question"
        )
    judge = {} if check is None else {"check": check}
    done = _done_before(out)
    todo = iter([problem for problem in problems if problem.id not in done])
    workers = min(at_once, len(problems) - len(done))
    counts = Counter(kept=_lines(out / "trajectories.jsonl"))
    live = Live(len(problems), len(done), counts, status)
    stopping = False
    unpaid: list[BudgetError] = []
    unanswered: list[UnansweredError] = []
    in_a_row = 0  # of the unanswered

    with (
        JsonlWriter(out / "trajectories.jsonl") as trajectories,
        JsonlWriter(out / "rejected.jsonl") as rejects,
        JsonlWriter(out / _DONE) as finished,
    ):

        async def work() -> None:
            nonlocal stopping, in_a_row
            try:
                for problem in todo:  # shared: each worker takes the next
                    if stopping:
                        return
                    try:
                        found = worked(problem) if ask is None else await distil(problem, ask, part, teacher, **judge)
                    except BudgetError as error:  # others may need no further call: the ledger has all of theirs
                        unpaid.append(error)
                        continue
                    except UnansweredError as error:
                        unanswered.append(error)
                        in_a_row += 1
                        if in_a_row >= min(_HOPELESS, len(problems)):
                            raise
                        continue
                    in_a_row = 0
                    for made in found.kept:
                        trajectories.write(made)
                    for made in found.rejected:
                        rejects.write(made)
                        counts[counted(made.reason)] += 1
                    finished.write({"problem_id": problem.id})
                    counts["kept"] += len(found.kept)
                    live.problem_done()
                    await asyncio.sleep(0)  # an interrupt is heard here even where nobody is asked
            except BaseException:
                stopping = True  # no worker begins another problem
                raise

        telling = asyncio.create_task(live.tell())
        try:
            results = await asyncio.gather(*(work() for _ in range(workers)), return_exceptions=True)
        finally:
            telling.cancel()
            live.end()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if unpaid and not _lines(out / "trajectories.jsonl"):
        raise unpaid[0]
    summary = _summary(out, len(problems), teacher)
    if unanswered:
        why = f"the teacher could not answer: {unanswered[0].why}"
        summary["line"] += f"; {len(unanswered)} left out ({why}), which --again distill asks anew"
        summary["unanswered"] = len(unanswered)
    if unpaid:
        summary |= {"partial": True, "problems_done": len(problems) - len(unpaid) - len(unanswered)}
    return summary


def at_once_in_batches(problems: int, most_usd: float, left_usd: float) -> int:
    """All problems, where the most that they can cost is there; else as many as that money can bring to their end: it
    must not all be spent on beginnings."""
    if most_usd <= left_usd:
        return _AT_ONCE_IN_BATCHES
    return min(_AT_ONCE_IN_BATCHES, max(AT_ONCE, int(problems * left_usd / most_usd)))


def small_batches(at_once: int, problems: int, enough_usd: float) -> str:
    """What a budget near what all may cost means for the nights that it takes."""
    return (
        f"distill.max_usd covers {at_once:,} of {problems:,} problems at their dearest, so batches come one after "
        f"another, hours each; with distill.max_usd={math.ceil(100 * enough_usd) / 100:g} all go together"
    )


_DONE = "distilled.jsonl"  # written last: rows of a problem that is not in here may be half of what it gave


def _done_before(out: Path) -> set[str]:
    made = [out / name for name in ("trajectories.jsonl", "rejected.jsonl")]
    if not all(path.is_file() for path in made):
        (out / _DONE).unlink(missing_ok=True)  # what was done is not here any more
    done = {row["problem_id"] for row in read_jsonl(out / _DONE)} if (out / _DONE).is_file() else set()
    for path in made:
        if path.is_file() and any(row["problem_id"] not in done for row in read_jsonl(path)):
            write_records(path, (row for row in read_jsonl(path) if row["problem_id"] in done))
    return done


def _lines(path: Path) -> int:
    return sum(1 for _ in read_jsonl(path)) if path.is_file() else 0


def _summary(out: Path, problems: int, teacher: str) -> dict[str, Any]:
    kept = [row["problem_id"] for row in read_jsonl(out / "trajectories.jsonl")]
    reasons = Counter(counted(row["reason"]) for row in read_jsonl(out / "rejected.jsonl"))
    line = f"{len(set(kept))} of {problems} problems have a kept plan; teacher {teacher}"
    if reasons:
        line += "; rejected: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return {
        "line": line,
        "problems": problems,
        "problems_kept": len(set(kept)),
        "trajectories": len(kept),
        "rejected": dict(reasons.most_common()),
        "teacher": teacher,
    }


class Live:
    """Where a distillation stands: one line redrawn on a terminal, a line now and then elsewhere."""

    def __init__(self, problems: int, done: int, counts: Counter[str], status: Callable[[], str]) -> None:
        self._problems, self._done, self._began_with = problems, done, done
        self._counts, self._status = counts, status
        self._began = time.monotonic()
        self._shown = False
        self._redraws = os.environ.get("PLANTUNE_TTY") == "1"

    def problem_done(self) -> None:
        """Count one more problem."""
        self._done += 1

    async def tell(self) -> None:
        """Show where it stands, again and again."""
        while True:
            await asyncio.sleep(0.3 if self._redraws else _EVERY_SECONDS)
            self._show("\r" if self._redraws else "\n")

    def end(self) -> None:
        """The last line, if there was one before."""
        if self._shown:
            self._show("\n")

    def _show(self, end: str) -> None:
        self._shown = True
        made = self._done - self._began_with
        pace = (time.monotonic() - self._began) / max(1, made)
        counts = ", ".join(f"{count} {reason}" for reason, count in self._counts.most_common() if count)
        left = f"{duration(pace * (self._problems - self._done))} left" if made else ""
        parts = [f"{self._done} of {self._problems} problems", counts, self._status(), left]
        line = "; ".join(part for part in parts if part)
        print(redrawn(line, last=end == "\n") if self._redraws else printable(line) + end, end="", flush=True)
