"""Run the training stages: an adapter learns from the corpus (SFT), then from rewards for its answers (GRPO).

A stage is a function of a Job that returns its summary; `line` is the part people read. Each loads the student itself
because each runs in its own process: this frees memory, and imports Unsloth before what it patches.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from plantune_lite.distill import corpus
from plantune_lite.files import as_path, write_whole
from plantune_lite.plan import ask_plan_then_solve, question_text
from plantune_lite.recipe import schema
from plantune_lite.recipe.load import load_recipe
from plantune_lite.runs.folder import LEDGER, RunFolder, home
from plantune_lite.runs.job import LEAST_HOURS, Job, is_first, share_of
from plantune_lite.runs.manifest import GRPOSummary, SFTSummary, read_manifest
from plantune_lite.student import vllm_engine
from plantune_lite.student.load import load_student
from plantune_lite.student.vllm_engine import load_to_ask
from plantune_lite.teacher import ledger, teacher
from plantune_lite.teacher.judge import teacher_judge
from plantune_lite.train import data, grpo, rewards, sft
from plantune_lite.types import Problem, RunError, present


def run_sft(job: Job) -> SFTSummary:
    """Train an adapter on the corpus."""
    return _trained(job, present(job.recipe.sft), job.run.rows("train"), job.run.rows("validation"))


def run_baseline(job: Job) -> SFTSummary:
    """Train the baseline: the data set's own solutions to the same problems, for as many steps."""
    pool = job.run.problems()
    rows, validation = (corpus.without_plans(job.run.rows(name), pool) for name in ("train", "validation"))
    if not rows:
        raise RunError(
            "evaluate.baseline is true, but the problems have no solutions to learn from: name their column in "
            "problems.solution, or set evaluate.baseline=false"
        )
    learned = {row["problem_id"] for row in job.run.rows("train")}
    steps = job.earlier.sft.steps
    # From the base, whatever sft.start is: that run may have learned plans.
    part = replace(present(job.recipe.sft), target="solution", solutions="dataset", start=None, max_steps=steps)
    summary = _trained(job, part, rows, validation, pinned=job.earlier.sft.revision)
    return replace(summary, problems=len(rows), of=len(learned), sft_steps=steps)


def _trained(
    job: Job,
    part: schema.SFT,
    rows: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    *,
    pinned: str | None = None,
) -> SFTSummary:
    _refuse_spent(job)
    adapter = adapter_of(part.start, job.run.path) if part.start else None
    loaded = _loaded(job, adapter, pinned or _pinned(job, adapter))
    if part.same_rows or job.recipe.has_baseline:
        rows = _rows_of_all_arms(job, part, loaded, rows)
    if part.order != "mixed":
        ranks = data.ranks(part.order, rows, job.run.problems())
        rows = [{**row, "rank": rank} for row, rank in zip(rows, ranks, strict=True)]
    summary = sft.train(loaded, rows, part, job.out, job.training(_hours(job)), validation=validation)
    return SFTSummary(**summary, base=asdict(loaded.source))


def _rows_of_all_arms(
    job: Job, part: schema.SFT, loaded: Any, rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Leave out the problems that another arm cannot learn from, for example because its row is too long."""
    trained = job.run.rows("train")
    solved = corpus.without_plans(trained, job.run.problems())
    arm_rows = [*({**row, "completion": row.get("whole", row["completion"])} for row in trained), *solved]
    kept = {lesson.row for lesson in data.lessons(loaded, arm_rows, job.recipe.student.max_length).kept}
    out = {row["problem_id"] for index, row in enumerate(arm_rows) if index not in kept}
    if part.same_rows:
        out |= {row["problem_id"] for row in trained} - {row["problem_id"] for row in solved}
    left = [row for row in rows if row["problem_id"] not in out]
    if len(left) < len(rows):
        job.say(f"{len(rows) - len(left)} of {len(rows)} rows left out: another arm cannot learn from these problems")
    return left


def run_grpo(job: Job) -> GRPOSummary:
    """Reinforce an adapter: answers that earn more than their group become likelier."""
    part = present(job.recipe.grpo)
    _refuse_spent(job)
    # No program is run here, so none could be rewarded.
    rows = [row for row in job.run.rows("prompts") if row["kind"] != "code"]
    if part.start == "sft":
        before = "cpl" if job.recipe.cpl else "sft"  # the training before it
        adapter: Path | None = job.run.adapter(before)
        pinned = job.earlier.training(before).revision
    else:
        adapter = None if part.start == "base" else adapter_of(part.start, job.run.path)
        pinned = _pinned(job, adapter)
    if asks_for_plans := _must_ask_for_plans(job, adapter):
        rows = _asking_for_plans(rows, job.run.problems())
    with _judge(job) as (judge, spent):
        rewarded = grpo.Rewards(
            lambda most: rewards.of(part, rows, max_completion=most, judge=judge), passed=rewards.right_answer
        )
        if vllm_engine.answers(job.recipe.student):  # before the trainer takes the memory
            served = load_to_ask(job.recipe.student, adapter=adapter, pinned=pinned, seed=job.recipe.seed, say=job.say)
            grpo.select(served, rows, rewarded, part, job.out, job.training(_hours(job)))
            del served
        loaded = _loaded(job, adapter, pinned, vllm=bool(part.extra.get("use_vllm")))
        summary = grpo.train(loaded, rows, rewarded, part, job.out, job.training(_hours(job)))
    return GRPOSummary(**summary, usd=spent(), asks_for_plans=asks_for_plans, base=asdict(loaded.source))


def _must_ask_for_plans(job: Job, adapter: Path | None) -> bool:
    """Return whether the prompt must ask for a plan, because the start model writes none for the bare question."""
    if adapter is None:
        return True
    recipe, part = job.recipe, present(job.recipe.grpo)
    if part.start != "sft":
        if not RunFolder(adapter.parent).recipe.is_file():
            return False  # an adapter from elsewhere: unknown
        if adapter.name == "grpo" and read_manifest(adapter.parent).summaries.grpo.asks_for_plans:
            return True
        recipe = load_recipe(adapter.parent)
    return recipe.sft is not None and recipe.sft.target == "solution" and part.reward != "answer"


def _asking_for_plans(rows: Sequence[Mapping[str, Any]], pool: Sequence[Problem]) -> list[dict[str, Any]]:
    """Ask for a plan as evaluation asks an untuned model; add the bare question for rewards as a column."""
    by_id = {problem.id: problem for problem in pool}
    pairs = [(row, by_id[row["problem_id"]]) for row in rows]
    return [
        {**row, "prompt": list(ask_plan_then_solve(problem)), "question": question_text(problem)}
        for row, problem in pairs
    ]


@contextmanager
def _judge(job: Job) -> Iterator[tuple[Any, Callable[[], float]]]:
    """Yield the teacher as judge of plans, if the recipe has one, and its cost so far; within distill.max_usd."""
    part = present(job.recipe.grpo)
    if (part.reward, part.judge) != ("answer+plan", "teacher"):
        yield None, lambda: 0.0
        return
    from anyio.from_thread import start_blocking_portal  # anyio comes with google-genai

    distill = job.recipe.distill
    path = home(job.run.path) / LEDGER
    with ledger.Ledger(path, run=job.recipe.name, max_usd=distill.max_usd) as calls:
        before = job.earlier.distill.usd  # so an interrupted session's spending is counted too
        opened = teacher.open_teacher(distill, calls, say=job.say)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as ask:
            yield teacher_judge(ask, portal), lambda: round(calls.spent_usd - before, 6)


# --- the student ------------------------------------------------------------------------------------------------------


def _loaded(job: Job, adapter: Path | None, pinned: str | None, *, vllm: bool = False) -> Any:
    """Load the student with its adapter; record its base, so that a later merge starts from the same one."""
    student, seed = job.recipe.student, job.recipe.seed
    loaded = load_student(student, adapter=adapter, training=True, vllm=vllm, pinned=pinned, seed=seed, say=job.say)
    base = job.out / "base.json"
    if not base.is_file() and is_first():
        write_whole(base, json.dumps(asdict(loaded.source), indent=1) + "\n")
    return loaded


def _pinned(job: Job, adapter: Path | None) -> str | None:
    """Return the base's revision that this stage started with, if it has, or that the adapter was trained on."""
    for file in (job.out / "base.json", *([adapter / "adapter_config.json"] if adapter else [])):
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8")).get("revision")
    return None


def adapter_of(name: str, run: Path) -> Path:
    """Find the adapter of another run, given by name or folder."""
    for folder in (as_path(name), run.parent / name, home(run) / name):
        final = read_manifest(folder).final if RunFolder(folder).manifest.is_file() else None
        if final:
            return folder / final
        if (folder / "adapter_config.json").is_file():
            return folder
    raise RunError(f"start is {name!r}, but no run or folder of that name has a finished adapter")


# --- the remaining time -----------------------------------------------------------------------------------------------


def _refuse_spent(job: Job) -> None:
    if job.hours_left is not None and job.hours_left < LEAST_HOURS and not any(job.out.glob("checkpoint-*")):
        raise RunError(
            f"max_hours={job.recipe.max_hours:g} is spent before training began: "
            "rerun the command with a larger max_hours to resume"
        )


def _hours(job: Job) -> float | None:
    """Return this training's share of the run's time."""
    return None if job.hours_left is None else share_of(job.recipe, job.stage) * job.hours_left
