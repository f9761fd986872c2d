"""The stages that make data: problems, test suites, plans from a teacher, training rows.

A stage is a function of a Job whose return value is its summary: "line" is what a person reads, "usd" what it cost.
"""

import asyncio
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.job import Job
from plantune_lite.model_stages import self_teacher
from plantune_lite.one_problem import CUT_OFF
from plantune_lite.recipe_files import to_json
from plantune_lite.records import (
    Problem,
    ProblemError,
    Trajectory,
    Verdict,
    from_row,
    read_jsonl,
    read_records,
    write_records,
)
from plantune_lite.runs import LEDGER, home


def problems(job: Job) -> dict[str, Any]:
    """Load the pool, hold out the recipe's own test problems."""
    from plantune_lite import problems

    revisions = job.earlier.get("problems", {}).get("revisions", {})
    loaded = problems.load(
        job.recipe.problems, seed=job.recipe.seed, revisions=revisions, checked=job.recipe.wants_checked_answers
    )
    if job.recipe.has_baseline and not any(one.solution or one.steps for one in loaded.pool):
        raise ProblemError(
            "evaluate.baseline is true, but no problem has a solution that a baseline could learn from: name their "
            "column in problems.solution, or set evaluate.baseline=false"
        )
    write_records(job.out / "pool.jsonl", loaded.pool)
    write_records(job.out / "own.jsonl", loaded.own)
    for note in loaded.notes:
        job.say(note)
    return {
        "line": f"{len(loaded.pool)} problems to learn from, {len(loaded.own)} held out",
        "pool": len(loaded.pool),
        "own": len(loaded.own),
        "origin": loaded.origin,
        "revisions": loaded.revisions,
    }


def suites(job: Job) -> dict[str, Any]:
    """Load what the recipe evaluates on, before anything is spent."""
    from plantune_lite import problems

    own, pool = (read_records(Problem, job.run / "problems" / f"{name}.jsonl") for name in ("own", "pool"))
    part = job.recipe.evaluate
    known = job.earlier.get("suites", {}).get("revisions", {})
    counts, origins, revisions, suite_holds_programs = {}, {}, {}, []
    for name in problems.suite_names(part.suites):
        suite = problems.load_suite(name, limit=part.limit, seed=job.recipe.seed, own=own, pool=pool, revisions=known)
        write_records(job.out / f"{name}.jsonl", suite.problems)
        for note in suite.notes:
            job.say(note)
        counts[name], origins[name] = len(suite.problems), suite.origin
        suite_holds_programs.append(any(one.kind == "code" for one in suite.problems))
        revisions.update(suite.revisions)
    if all(suite_holds_programs) and not part.allow_code:
        raise ProblemError(
            f"all answers of {', '.join(counts)} are programs, which are only run with evaluate.allow_code=true: "
            "set it, or add a suite with other answers"
        )
    line = ", ".join(f"{name} {count}" for name, count in counts.items())
    return {"line": f"test problems: {line}", "suites": counts, "origin": origins, "revisions": revisions}


def distill(job: Job) -> dict[str, Any]:
    """Ask the teacher for plans, or take them from worked solutions."""
    from plantune_lite import distill

    pool = read_records(Problem, job.run / "problems" / "pool.jsonl")
    part, check = job.recipe.distill, _check(job, pool)
    if part.teacher == "worked":
        return asyncio.run(distill.distill(pool, None, part, job.out, teacher="worked", check=check))
    from plantune_lite import estimate, ledger, mirror, teacher

    with ledger.recorded(home(job.run) / LEDGER) as known:
        bill, *_ = estimate.distillation(pool, part, os.environ, recorded=known)
    ((name, calls, _, usd, _),) = estimate.rows([bill])
    job.say(f"{name}: {calls} calls, {usd} for all of it; " + _limit(part.max_usd))

    generate, student = self_teacher(job) if part.teacher == "self" else (None, None)

    async def ask_for_all() -> dict[str, Any]:
        path = home(job.run) / LEDGER
        with ledger.Ledger(path, run=job.recipe.name, max_usd=part.max_usd) as calls, mirror.of_ledger(calls):
            opened = teacher.open_teacher(
                part, calls, seed=job.recipe.seed, generate=generate, student=student, say=job.say
            )
            at_once = distill.AT_ONCE
            if part.batch:
                left = math.inf if part.max_usd is None else part.max_usd - calls.spent_usd
                at_once = distill.at_once_in_batches(len(pool), bill.usd[1], left)
                if at_once < len(pool):
                    job.say(distill.small_batches(at_once, len(pool), part.max_usd + bill.usd[1] - left))
            async with opened as ask:
                found = await distill.distill(
                    pool, ask, part, job.out, teacher=ask.model, check=check, status=ask.status, at_once=at_once
                )
            return {**found, **calls.totals()}

    found = asyncio.run(ask_for_all())
    return _ended_by_money(found, part.max_usd) if found.get("partial") else found


def _ended_by_money(found: dict[str, Any], max_usd: float | None) -> dict[str, Any]:
    """The summary of a distillation that the budget ended: how far it came, and how it goes on."""
    line = (
        f"{found['problems_done']} of {found['problems']} problems done, then ${found['usd']:.2f} were spent or "
        f"reserved and the next call could have passed distill.max_usd={max_usd:g}: raise distill.max_usd=... and run "
        f"again to go on; {found['line']}"
    )
    return {**found, "line": line, "max_usd": max_usd}


def _check(job: Job, pool: Sequence[Problem]) -> Callable[[Problem, str], Verdict] | None:
    """What judges programs, where there are some and they may be run; said before anything is spent."""
    if not (job.recipe.evaluate.allow_code and any(one.kind == "code" for one in pool)):
        return None
    from plantune_lite import programs, sandbox

    if why := sandbox.why_not():
        raise sandbox.SandboxError(why)
    return lambda problem, text: programs.grade_code(problem, text).verdict


def _limit(max_usd: float | None) -> str:
    return "distill.max_usd sets a limit" if max_usd is None else f"never more than ${max_usd:.2f}"


def corpus(job: Job) -> dict[str, Any]:
    """Filter the trajectories into training rows."""
    from plantune_lite import corpus
    from plantune_lite.problems import KNOWN

    pool = read_records(Problem, job.run / "problems" / "pool.jsonl")
    suites = {path.stem: read_records(Problem, path) for path in sorted((job.run / "suites").glob("*.jsonl"))}
    suites.pop(KNOWN, None)  # of the kinds that are learned from: evaluation says how far they are alike
    suites["own"] = read_records(Problem, job.run / "problems" / "own.jsonl")  # held out, whether evaluated on or not
    sft = job.recipe.sft
    return corpus.build(
        _trajectories(job.run),
        pool,
        suites,
        job.recipe.corpus,
        job.out,
        target=sft.target if sft else "plan+solution",
        solutions=sft.solutions if sft else "teacher",
        seed=job.recipe.seed,
        min_score=job.recipe.distill.min_score,
        about={
            "name": job.recipe.name,
            "recipe": json.loads(to_json(job.recipe)),
            "origin": job.earlier["problems"]["origin"],
        },
    )


def _trajectories(run: Path) -> Iterator[Trajectory]:
    """Everything the teacher wrote to its end, kept or not: which of it counts is the corpus's filter to say."""
    for name in ("trajectories.jsonl", "rejected.jsonl"):
        for row in read_jsonl(run / name):
            if row.pop("reason", "") != CUT_OFF:
                yield from_row(Trajectory, row)


STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "problems": problems,
    "suites": suites,
    "distill": distill,
    "corpus": corpus,
}
