"""Ask the untuned student some problems before anything is spent: is there headroom?"""

from random import Random

from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.modes import evaluate_problems, student_to_ask
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import HeadroomSummary
from plantune_lite.student import presets
from plantune_lite.types import Sampling

ENOUGH = 0.85  # solved untuned: above it there is little to learn


def run_headroom(job: Job) -> HeadroomSummary:
    """Count how many of these problems the untuned student already solves, before money or hours are spent."""
    pool = [problem for problem in job.run.problems() if problem.kind != "code"]
    problems = Random(job.recipe.seed).sample(pool, min(job.recipe.headroom, len(pool)))
    if not problems:
        return HeadroomSummary(line="not measured", looked=job.recipe.headroom == 0)
    if why := _cannot_ask(job):
        return HeadroomSummary(line=f"not measured: {why}", looked=False)
    loaded = student_to_ask(job.recipe, job.say)
    out = job.out / "untuned.jsonl"
    out.unlink(missing_ok=True)  # it may be another model's
    how = Asking(
        sampling=Sampling(max_tokens=job.recipe.evaluate.max_tokens, seed=job.recipe.seed), show=job.progress()
    )
    figures = evaluate_problems(loaded.generate, problems, mode="zero_shot_cot", out=out, how=how)
    solved = round(figures["accuracy"]["value"] * len(problems))
    line = f"untuned, the student solves {solved} of {len(problems)} problems like these"
    if solved > ENOUGH * len(problems):
        job.say(
            f"warning: this model already solves {solved / len(problems):.0%} of these; expect little. Take harder "
            "problems (problems.levels=3,4,5 or another problems.source) or another base (student.model)."
        )
        line += ": expect little"
    return HeadroomSummary(line=line)


def _cannot_ask(job: Job) -> str | None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return "torch is not installed (distilling does not need it)"
    import torch

    preset = presets.find(job.recipe.student.model)
    if preset and preset.wants_gpu and not torch.cuda.is_available():
        return f"{preset.repo} wants a GPU"
    return None
