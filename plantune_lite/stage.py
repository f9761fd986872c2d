"""One stage of one run in a process of its own: `python -m plantune_lite.stage RUN STAGE`.

What comes in: a run folder with recipe.json, and the outputs of earlier stages in it. What goes out: the stage's own
files, its lines on stdout, and .stage/STAGE.json with its summary or the sentence that says why there is none.

A stage is a function of a Job; this file is where the parts meet: it builds the teacher, the student and the generate
that a part is handed, so that the parts need not know each other.
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite import functions, runs
from plantune_lite.recipe import Recipe
from plantune_lite.recipe_files import load, to_json
from plantune_lite.records import (
    NotBuiltError,
    PlantuneError,
    Problem,
    RunError,
    Trajectory,
    from_row,
    read_jsonl,
    read_records,
    write_records,
    write_whole,
)
from plantune_lite.runs import BATCHES, LEDGER
from plantune_lite.terminal import printable

INTERRUPTED = 130
_PATIENCE_SECONDS = 60.0  # with a slow mirror, at the end of a stage


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a stage is given."""

    run: Path
    stage: str
    out: Path  # the stage's folder
    recipe: Recipe
    earlier: dict[str, dict[str, Any]]  # stage -> summary, from the manifest
    hours_left: float | None  # None = no limit

    def say(self, line: str) -> None:
        """One line for the person who waits."""
        print(printable(line), flush=True)

    def metric(self, step: int, **values: float) -> None:
        """One line for the report: loss, reward, seconds ..."""
        row = {"stage": self.stage, "step": step, "seconds": round(time.time(), 3), **values}
        with open(self.run / "metrics.jsonl", "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(row) + "\n")


# --- the stages -------------------------------------------------------------------------------------------------------


def problems(job: Job) -> dict[str, Any]:
    """Load the pool, hold out the recipe's own test problems."""
    from plantune_lite import problems

    revisions = job.earlier.get("problems", {}).get("revisions", {})
    loaded = problems.load(job.recipe.problems, seed=job.recipe.seed, revisions=revisions)
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

    own = read_records(Problem, job.run / "problems" / "own.jsonl")
    part = job.recipe.evaluate
    known = job.earlier.get("suites", {}).get("revisions", {})
    counts, origins, revisions = {}, {}, {}
    for name in problems.suite_names(part.suites):
        suite = problems.load_suite(name, limit=part.limit, seed=job.recipe.seed, own=own, revisions=known)
        write_records(job.out / f"{name}.jsonl", suite.problems)
        for note in suite.notes:
            job.say(note)
        counts[name], origins[name] = len(suite.problems), suite.origin
        revisions.update(suite.revisions)
    line = ", ".join(f"{name} {count}" for name, count in counts.items())
    return {"line": f"test problems: {line}", "suites": counts, "origin": origins, "revisions": revisions}


def distill(job: Job) -> dict[str, Any]:
    """Ask the teacher for plans, or take them from worked solutions."""
    from plantune_lite import distill

    pool = read_records(Problem, job.run / "problems" / "pool.jsonl")
    part = job.recipe.distill
    if part.teacher == "worked":
        return asyncio.run(distill.distill(pool, None, part, job.out, teacher="worked"))
    if part.teacher == "self":
        raise NotBuiltError(
            "this version loads no student yet, so it cannot be its own teacher. distill.teacher=worked needs no "
            "model, distill.teacher=gemini a key, and the base URL of an OpenAI-compatible server will do too."
        )
    from plantune_lite import estimate, ledger, teacher

    (name, calls, _, usd, _), *_ = estimate.rows(estimate.distillation(pool, part, os.environ))
    job.say(f"{name}: {calls} calls, {usd} for all of it; " + _limit(part.max_usd))

    async def ask_for_all() -> dict[str, Any]:
        path = job.run.parent / LEDGER
        with ledger.Ledger(path, run=job.recipe.name, max_usd=part.max_usd) as calls, _mirrored(calls):
            async with teacher.open_teacher(part, calls, seed=job.recipe.seed, say=job.say) as ask:
                found = await distill.distill(pool, ask, part, job.out, teacher=ask.model, status=ask.status)
            return {**found, **calls.totals()}

    return asyncio.run(ask_for_all())


def _limit(max_usd: float | None) -> str:
    return "distill.max_usd sets a limit" if max_usd is None else f"never more than ${max_usd:.2f}"


@contextmanager
def _mirrored(calls: Any, every_seconds: float = 55.0) -> Iterator[None]:
    """While a stage holds the ledger it alone can copy it to the mirror: at most every minute, and at the end."""
    mirror = os.environ.get("PLANTUNE_MIRROR")
    ended = threading.Event()

    def copy_now_and_then() -> None:
        while True:
            last = ended.wait(every_seconds)
            try:
                calls.backup(Path(mirror) / LEDGER)
                if (batches := calls.path.with_name(BATCHES)).is_file():
                    write_whole(Path(mirror) / BATCHES, batches.read_text(encoding="utf-8"))
                else:
                    (Path(mirror) / BATCHES).unlink(missing_ok=True)
            except OSError as error:
                print(f"warning: the ledger cannot be copied to {mirror} ({error}); the run goes on", flush=True)
            if last:
                return

    copying = threading.Thread(target=copy_now_and_then, name="ledger-mirror", daemon=True)
    if mirror is not None:
        copying.start()
    try:
        yield
    finally:
        ended.set()
        if mirror is not None:
            copying.join(_PATIENCE_SECONDS)
            if copying.is_alive():
                print(f"warning: the ledger's copy in {mirror} lags behind", flush=True)


def corpus(job: Job) -> dict[str, Any]:
    """Filter the trajectories into training rows."""
    from plantune_lite import corpus

    pool = read_records(Problem, job.run / "problems" / "pool.jsonl")
    suites = {path.stem: read_records(Problem, path) for path in sorted((job.run / "suites").glob("*.jsonl"))}
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
    """Everything the teacher wrote, kept or not: which of it counts is the corpus's filter to say."""
    for name in ("trajectories.jsonl", "rejected.jsonl"):
        for row in read_jsonl(run / name):
            row.pop("reason", None)
            yield from_row(Trajectory, row)


# What later stages are: the function each will call, agreed on so that they can be built apart. `out` is the stage's
# folder, the return value its summary; a summary's "line" is what a person reads, "usd" what it cost.
SEAMS = {
    "sft": "plantune_lite.sft: train(student, rows, part, out)",
    "cpl": "plantune_lite.lab: a Generate for search, then the sft seam and Step-APO, round by round",
    "grpo": "plantune_lite.grpo: train(student, prompts, rewards, part, out)",
    "evaluate": "plantune_lite.evaluate: evaluate(generate, problems, part, out)",
    "export": "plantune_lite.export: export(student, part, out)",
    "report": "plantune_lite.report: report(run)",
}


def not_built(job: Job) -> dict[str, Any]:
    """Say plainly that this version ends here."""
    raise NotBuiltError(
        f"this version of plantune-lite has no {job.stage!r} stage yet, so the run ends here. "
        f"What is done is in {job.run}; a later version goes on from it with the same command."
    )


# --- the process ------------------------------------------------------------------------------------------------------


def work_of(stage: str) -> Callable[[Job], dict[str, Any]]:
    """The function of a stage."""
    built = {"problems": problems, "suites": suites, "distill": distill, "corpus": corpus}
    if stage not in built and stage not in SEAMS:
        raise RunError(f"no stage {stage!r}; there are {', '.join([*built, *SEAMS])}")
    return built.get(stage, not_built)


def main(arguments: list[str]) -> int:
    """Run one stage; the exit status says whether it is done."""
    run, stage, *rest = arguments
    folder = Path(run)
    result = folder / ".stage" / f"{stage}.json"
    first = os.environ.get("RANK", "0") == "0"  # under `accelerate launch` every rank works, one reports
    _end_with_parent()
    try:
        if not first:
            _work(folder, stage, rest)
            return 0
        # An orphan of a killed run may still be ending; two processes must not write one stage.
        with runs.locked(folder / ".stage" / "lock", wait_seconds=30.0):
            write_whole(result, json.dumps({"summary": _work(folder, stage, rest)}, ensure_ascii=False))
        return 0
    except PlantuneError as error:
        write_whole(result, json.dumps({"error": str(error), "kind": type(error).__name__}, ensure_ascii=False))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        sentence = f"{stage} failed: {type(error).__name__}: {error}"
        write_whole(result, json.dumps({"error": sentence, "kind": "crash"}, ensure_ascii=False))
        return 1


def _work(folder: Path, stage: str, rest: list[str]) -> dict[str, Any]:
    plan = json.loads((folder / ".stage" / "job.json").read_text(encoding="utf-8"))
    if plan["stage"] != stage:
        raise RunError(
            f"{folder} is set up for stage {plan['stage']!r}, not {stage!r}; start it through `plantune run`"
        )
    out = folder / plan["home"]
    job = Job(
        run=folder,
        stage=stage,
        out=out,
        recipe=load(folder),
        earlier=plan["earlier"],
        hours_left=plan["hours_left"],
    )
    work = functions.load(rest[0]) if rest else work_of(stage)
    if work is not not_built:
        out.mkdir(parents=True, exist_ok=True)
    return work(job)


def _end_with_parent() -> None:
    """A killed parent closes our stdin: end too, so that whoever goes on finds nobody writing."""
    if os.environ.get("PLANTUNE_PARENT") != "1":
        return

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: a thread waiting in it upsets the interpreter's end
            pass
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
