"""Turn problems into verified plans, many at once, each written as soon as it is done.

Input: problems and an Ask (a teacher behind the ledger), or no Ask for worked solutions. Output: trajectories.jsonl
with what was kept and rejected.jsonl with the rest, each with its reason. One kept line:

    {"problem_id": "gsm8k/train/0", "plan": ["Halve the clips sold in April.", "Add both months."], "score": 92,
     "execution": "... \\boxed{72}", "answer": "72", "teacher": "gemini-flash", "sample": 0, "tokens": 512, ...}

Every reply is in the ledger before it is used, so an interrupted problem is simply distilled again: replies it already
had come from there, free. When the budget is used up, problems that need no further call are still done, the others
are left for the next run, and what was kept can be trained on. A problem that the teacher cannot answer after all
retries is left out; the stage fails only where that happens to many in a row.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plantune_lite.distill.problem import Check, Distiller, worked
from plantune_lite.files import JsonlWriter, read_jsonl, write_records
from plantune_lite.recipe.schema import Distill
from plantune_lite.runs.folder import REJECTED, TRAJECTORIES
from plantune_lite.runs.job import Progress
from plantune_lite.teacher.ledger import BudgetError
from plantune_lite.teacher.provider import UnansweredError
from plantune_lite.terminal import duration
from plantune_lite.types import Ask, PlantuneError, Problem, Rejected, Trajectory

AT_ONCE = 128  # problems; the teacher's own limits decide how many calls are in flight
_HOPELESS = 20  # problems one after another that the teacher could not answer
_LOOK_SECONDS = 0.3  # between progress updates
DONE = "distilled.jsonl"  # written last: a problem that is not in here may have only part of its rows


@dataclass(frozen=True)
class Teaching:
    """Teacher to ask, and its name in saved rows; `status` returns its status line."""

    ask: Ask
    name: str
    status: Callable[[], str] = lambda: ""


async def distill_all(
    problems: Sequence[Problem],
    teaching: Teaching | None,
    part: Distill,
    out: Path,
    check: Check | None = None,
    hours: float | None = None,
) -> dict[str, Any]:
    """Distill every problem that is not done yet; from worked solutions where there is no teacher.

    `check` grades programs, where they may be run. After `hours` no further problem is started.
    """
    programs = sum(problem.kind == "code" for problem in problems)
    if programs and check is None:
        raise PlantuneError(
            f"{programs} of the {len(problems)} problems ask for a program, and checking one runs code that a teacher "
            "wrote: allow it with evaluate.allow_code=true, or choose a problems.source with other answers"
        )
    ends = math.inf if hours is None else time.monotonic() + 3600 * hours
    return await _Distillation(problems, teaching, part, out, check, ends).run()


@dataclass
class _Distillation:
    """Problems still to distill, and the outcome of the others."""

    problems: Sequence[Problem]
    teaching: Teaching | None
    part: Distill
    out: Path
    check: Check | None
    ends: float  # when no further problem is started
    stopping: bool = False
    out_of_time: bool = False
    unpaid: list[BudgetError] = field(default_factory=list)
    unanswered: list[UnansweredError] = field(default_factory=list)
    unanswered_in_a_row: int = 0

    def __post_init__(self) -> None:
        done = _done_before(self.out)
        self.todo = iter([problem for problem in self.problems if problem.id not in done])
        self.done = self.done_before = len(done)
        self.kept = sum(1 for _ in _rows(self.out / TRAJECTORIES))
        self.show, self.began = Progress(), time.monotonic()

    async def run(self) -> dict[str, Any]:
        """Distill many at once; then summarise the folder."""
        workers = min(AT_ONCE, len(self.problems) - self.done)
        out = self.out
        with (
            JsonlWriter(out / TRAJECTORIES) as kept,
            JsonlWriter(out / REJECTED) as rejected,
            JsonlWriter(out / DONE) as done,
        ):
            work = (self._work(kept, rejected, done) for _ in range(workers))
            telling = asyncio.create_task(self._tell())
            try:
                results = await asyncio.gather(*work, return_exceptions=True)
            finally:
                telling.cancel()
                if time.monotonic() - self.began > _LOOK_SECONDS:
                    self.show(self._line(), last=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return self._summary()

    async def _work(self, kept: JsonlWriter, rejected: JsonlWriter, done: JsonlWriter) -> None:
        try:
            for problem in self.todo:  # shared: each worker takes the next
                if self.stopping:
                    return
                if time.monotonic() > self.ends:
                    self.out_of_time = True
                    return
                if (trajectories := await self._distilled(problem)) is None:
                    continue
                for trajectory in trajectories:
                    (rejected if isinstance(trajectory, Rejected) else kept).write(trajectory)
                    self.kept += not isinstance(trajectory, Rejected)
                done.write({"problem_id": problem.id})
                self.done += 1
                await asyncio.sleep(0)  # lets an interrupt through even where no call is made
        except BaseException:
            self.stopping = True  # no worker starts another problem
            raise

    async def _distilled(self, problem: Problem) -> list[Trajectory] | None:
        """Return a problem's trajectories; None where it must be left out or left for the next run."""
        if self.teaching is None:
            return [worked(problem, self.part.direction)]
        try:
            teaching = self.teaching
            trajectories = await Distiller(problem, teaching.ask, self.part, teaching.name, self.check).run()
        except BudgetError as error:  # other problems may have all their calls in the ledger
            self.unpaid.append(error)
            return None
        except UnansweredError as error:
            self.unanswered.append(error)
            self.unanswered_in_a_row += 1
            if self.unanswered_in_a_row >= min(_HOPELESS, len(self.problems)):
                raise
            return None
        self.unanswered_in_a_row = 0
        return trajectories

    def _summary(self) -> dict[str, Any]:
        problems, name = len(self.problems), self.teaching.name if self.teaching else "worked"
        unpaid, unanswered = self.unpaid, self.unanswered
        kept = [row["problem_id"] for row in _rows(self.out / TRAJECTORIES)]
        if unpaid and not kept:
            raise unpaid[0]
        reasons = Counter(row["reason"] for row in _rows(self.out / REJECTED)).most_common()
        line = f"{len(set(kept))} of {problems} problems have a kept plan; teacher {name}"
        if reasons:
            line += "; rejected: " + ", ".join(f"{count} {reason}" for reason, count in reasons)
        if unanswered:
            why = f"the teacher could not answer: {unanswered[0].why}"
            line += f"; {len(unanswered)} left out ({why}); --again distill retries them"
        summary: dict[str, Any] = {"line": line, "problems": problems, "problems_kept": len(set(kept))}
        if unpaid or self.out_of_time:
            summary |= {"partial": True, "problems_done": self.done, "out_of_time": self.out_of_time}
        return summary

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.show(self._line())

    def _line(self) -> str:
        parts = [f"{self.done} of {len(self.problems)} problems", f"{self.kept} kept"]
        if self.teaching:
            parts.append(self.teaching.status())
        if done_now := self.done - self.done_before:
            pace = (time.monotonic() - self.began) / done_now
            parts.append(f"{duration(pace * (len(self.problems) - self.done))} left")
        return "; ".join(part for part in parts if part)


def _done_before(out: Path) -> set[str]:
    paths = [out / TRAJECTORIES, out / REJECTED]
    if not all(path.is_file() for path in paths):
        (out / DONE).unlink(missing_ok=True)  # what it lists is gone
    done = {row["problem_id"] for row in _rows(out / DONE)}
    for path in paths:
        if any(row["problem_id"] not in done for row in _rows(path)):
            write_records(path, (row for row in _rows(path) if row["problem_id"] in done))
    return done


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return read_jsonl(path) if path.is_file() else iter(())
