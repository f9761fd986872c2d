"""Ask the untuned student some problems before anything is spent: is there headroom?"""

from random import Random
from typing import Any

from plantune_lite.files import read_records, write_records
from plantune_lite.grading.grade import grade_reply
from plantune_lite.plan import ask_step_by_step
from plantune_lite.runs.job import Job
from plantune_lite.student import presets
from plantune_lite.student.load import load_student
from plantune_lite.types import Generate, Problem, Sampling

ENOUGH = 0.85  # solved untuned: above it there is little to learn
_AT_ONCE = 32  # problems between two lines of progress


def run_headroom(job: Job) -> dict[str, Any]:
    """Before money or hours are spent: how many of these problems the untuned student solves already."""
    pool = [one for one in read_records(Problem, job.run / "problems" / "pool.jsonl") if one.kind != "code"]
    asked = Random(job.recipe.seed).sample(pool, min(job.recipe.headroom, len(pool)))
    if not asked:
        return {"line": "not looked at", "solved": None, "looked": job.recipe.headroom == 0}
    if why := _cannot_ask(job):
        return {"line": f"not looked at: {why}", "solved": None, "looked": False}
    part, most = job.recipe.student, job.recipe.evaluate.max_tokens
    loaded = load_student(part, room=part.max_length + most, seed=job.recipe.seed, say=job.say)
    solved, rows = _solved(asked, loaded.generate, most, job)
    write_records(job.out / "untuned.jsonl", rows)
    line = f"untuned, the student solves {solved} of {len(asked)} problems like these"
    if solved > ENOUGH * len(asked):
        job.say(
            f"warning: this model already solves {solved / len(asked):.0%} of these; expect little. Take harder "
            "problems (problems.levels=3,4,5 or another problems.source) or another base (student.model)."
        )
        line += ": expect little"
    return {"line": line, "solved": solved, "asked": len(asked)}


def _cannot_ask(job: Job) -> str | None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return "no torch here, where plans are only distilled"
    import torch

    preset = presets.find(job.recipe.student.model)
    if preset and preset.wants_gpu and not torch.cuda.is_available():
        return f"{preset.title} wants a GPU"
    return None


def _solved(asked: list[Problem], generate: Generate, most: int, job: Job) -> tuple[int, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    progress = job.progress()
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        replies = generate([ask_step_by_step(problem) for problem in some], Sampling(max_tokens=most))
        for problem, [reply] in zip(some, replies, strict=True):
            graded = grade_reply(problem, reply.text)
            same = graded.verdict.same is True
            rows.append({"problem_id": problem.id, "text": reply.text, "prediction": graded.prediction, "same": same})
        right = sum(row["same"] for row in rows)
        progress(f"untuned: {right} of {len(rows)} solved, {len(asked)} to ask", last=len(rows) == len(asked))
    return sum(row["same"] for row in rows), rows
