"""What the untuned student is asked before it is trained: is there headroom; and plans, where it is its own teacher.

A stage is a function of a Job whose return value is its summary: "line" is what a person reads.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from plantune_lite import presets
from plantune_lite.job import Job
from plantune_lite.records import Generate, MissingError, Problem, Sampling, read_records, write_records

ENOUGH = 0.85  # solved untuned: above it there is little to learn
_AT_ONCE = 32  # problems between two lines of progress


def headroom(job: Job) -> dict[str, Any]:
    """Before money or hours are spent: how many of these problems the untuned student solves already."""
    pool = [one for one in read_records(Problem, job.run / "problems" / "pool.jsonl") if one.kind != "code"]
    asked = Random(job.recipe.seed).sample(pool, min(job.recipe.headroom, len(pool)))
    if not asked:
        return {"line": "not looked at", "solved": None, "looked": job.recipe.headroom == 0}
    if why := _cannot_ask(job):
        return {"line": f"not looked at: {why}", "solved": None, "looked": False}
    from plantune_lite import student

    part, most = job.recipe.student, job.recipe.evaluate.max_tokens
    loaded = student.load(part, room=part.max_length + most, seed=job.recipe.seed, say=job.say)
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
    from plantune_lite.graders import grade
    from plantune_lite.plans import ask_step_by_step

    rows: list[dict[str, Any]] = []
    progress = job.progress()
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        replies = generate([ask_step_by_step(problem) for problem in some], Sampling(max_tokens=most))
        for problem, [reply] in zip(some, replies, strict=True):
            graded = grade(problem, reply.text)
            same = graded.verdict.same is True
            rows.append({"problem_id": problem.id, "text": reply.text, "prediction": graded.prediction, "same": same})
        right = sum(row["same"] for row in rows)
        progress(f"untuned: {right} of {len(rows)} solved, {len(asked)} to ask", last=len(rows) == len(asked))
    return sum(row["same"] for row in rows), rows


def self_teacher(job: Job) -> tuple[Generate, str]:
    """The untuned student, to plan for itself, and the name its calls are kept under."""
    try:
        from plantune_lite import student

        part = job.recipe.student
        loaded = student.load(part, room=part.max_length + job.recipe.distill.max_tokens, say=job.say)
    except MissingError as error:
        raise MissingError(
            f"{error} (distill.teacher is 'self', and the student is its own teacher; 'worked' needs no model, "
            "'gemini' a key, and the base URL of an OpenAI-compatible server will do too)"
        ) from None
    weights = f"@{loaded.source.weights}" if loaded.source.weights else ""
    return loaded.generate, f"{loaded.source.repo}{weights}:{part.bits}bit"


STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {"headroom": headroom}
