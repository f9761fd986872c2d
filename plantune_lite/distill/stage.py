"""Run the stages that make training rows: plans from a teacher, and the corpus of those that are kept.

A stage is a function of a Job that returns its summary: "line" is for people, "usd" is the cost.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from plantune_lite.distill import cost
from plantune_lite.distill.corpus import Wanted, build_corpus
from plantune_lite.distill.run import DONE, Teaching, distill_all
from plantune_lite.files import from_row, read_jsonl
from plantune_lite.grading import code, sandbox
from plantune_lite.recipe.load import to_json
from plantune_lite.runs.folder import LEDGER, RunFolder, home
from plantune_lite.runs.job import Job, share_of
from plantune_lite.runs.manifest import CorpusSummary, DistillSummary, read_manifest
from plantune_lite.student.vllm_engine import load_to_ask
from plantune_lite.teacher import ledger, teacher
from plantune_lite.types import Generate, Problem, Reason, RunError, Trajectory, Verdict

_UNSCORED: dict[str, Literal["none", "answer"]] = {"plan": "none", "both": "answer"}


def run_distill(job: Job) -> DistillSummary:
    """Ask the teacher for plans, or take them from worked solutions."""
    pool = job.run.problems()
    part, check = job.recipe.distill, _check(job, pool)
    if not job.recipe.plans_are_scored:
        part = replace(part, min_score=None)
    if part.teacher == "worked":
        return DistillSummary.read(asyncio.run(distill_all(pool, None, part, job.out, check)))
    hours = None if job.hours_left is None else share_of(job.recipe, "distill") * job.hours_left
    bill = cost.distillation(pool, part, os.environ)
    limit = "distill.max_usd sets a limit" if part.max_usd is None else f"never more than ${part.max_usd:.2f}"
    job.say(f"{bill} for all of it; {limit}")
    own = self_teacher(job) if part.teacher == "self" else None

    async def ask_for_all() -> dict[str, Any]:
        path = home(job.run.path) / LEDGER
        with ledger.Ledger(path, run=job.recipe.name, max_usd=part.max_usd) as calls:
            if _begins_again(job):
                calls.forget_failures()
            opened = teacher.open_teacher(part, calls, own=own, say=job.say)
            async with opened as ask:
                counts = await distill_all(pool, Teaching(ask, ask.model, ask.status), part, job.out, check, hours)
            return {**counts, **calls.totals()}

    summary = DistillSummary.read(asyncio.run(ask_for_all()))
    spent = ledger.spent_in_words(summary.usd, summary.usd_unanswered)
    if summary.usd_unanswered >= 0.00005:
        summary = replace(summary, line=f"{summary.line}; {spent}, which may never be billed")
    if summary.out_of_time and not summary.problems_kept:
        raise RunError(
            f"max_hours={job.recipe.max_hours:g} is too short: its share was used up before a plan was kept. Rerun "
            "the command with a larger max_hours to resume"
        )
    if summary.out_of_time:
        why = f"its share of max_hours={job.recipe.max_hours:g} was used up: raise max_hours=... and rerun to resume"
        return replace(_ended_early(summary, why), max_hours=job.recipe.max_hours)
    if summary.partial:
        why = (
            f"the next call could have exceeded distill.max_usd={part.max_usd:g} ({spent}): raise distill.max_usd=... "
            "and rerun to resume"
        )
        return replace(_ended_early(summary, why), max_usd=part.max_usd)
    return summary


def _begins_again(job: Job) -> bool:
    """Return whether `--again` started this distillation over and it has not begun."""
    again = read_manifest(job.run.path).again in ("problems", "distill")
    return again and not (job.out / DONE).exists()


def _ended_early(summary: DistillSummary, why: str) -> DistillSummary:
    """Summarise a distillation that ran out of time or money: how far it got, and how to resume."""
    done = f"{summary.problems_done} of {summary.problems} problems done"
    return replace(summary, line=f"{done}, then {why}; {summary.line}")


def _check(job: Job, pool: Sequence[Problem]) -> Callable[[Problem, str], Verdict] | None:
    """Return the grader of programs, where there are some and they may be run; fail before anything is spent."""
    if not (job.recipe.evaluate.allow_code and any(problem.kind == "code" for problem in pool)):
        return None
    if why := sandbox.why_not():
        raise sandbox.SandboxError(why)
    return lambda problem, text: code.grade_code(problem, text).verdict


def run_corpus(job: Job) -> CorpusSummary:
    """Filter the trajectories into training rows."""
    suites = {**job.run.suite_problems(), "own": job.run.own()}  # held out, whether evaluated on or not
    recipe, sft = job.recipe, job.recipe.sft
    part = recipe.corpus
    if recipe.distill.teacher == "self" and part.filter in _UNSCORED:
        part = replace(part, filter=_UNSCORED[part.filter])
        job.say(f"corpus.filter={part.filter} instead of {recipe.corpus.filter}: plans by 'self' are not scored")
    wanted = Wanted(
        part,
        target=sft.target if sft else "plan+solution",
        solutions=sft.solutions if sft else "teacher",
        seed=recipe.seed,
        distilled_at=recipe.distill.min_score,
        about={
            "name": recipe.name,
            "recipe": json.loads(to_json(recipe)),
            "origin": job.earlier.problems.origin,
        },
    )
    return CorpusSummary.read(build_corpus(_trajectories(job.run), job.run.problems(), suites, wanted, job.out))


def _trajectories(run: RunFolder) -> Iterator[Trajectory]:
    """Yield every complete trajectory, kept or not: the corpus's filter decides which of them count."""
    for file in (run.trajectories, run.rejected):
        for row in read_jsonl(file):
            row.pop("detail", "")
            if row.pop("reason", "") != Reason.EXECUTION_CUT_OFF:
                yield from_row(Trajectory, row)


def self_teacher(job: Job) -> tuple[str, Generate]:
    """Return the untuned student as its own teacher, with the name of its calls in the ledger."""
    part = job.recipe.student
    loaded = load_to_ask(part, room=part.max_length + job.recipe.distill.max_tokens, say=job.say)
    weights = f"@{loaded.source.weights}" if loaded.source.weights else ""
    return f"{loaded.source.repo}{weights}:{part.bits}bit", loaded.generate
