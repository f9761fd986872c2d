"""Evaluate the untuned student at its best prompt, then the tuned one, on every suite.

The prompt is chosen on pool problems: none of them is tested, and the untuned student has not trained on any.

A stage is a function of a Job that returns its summary: "line" is the part for people to read.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from plantune_lite.distill import filters
from plantune_lite.evaluate import compare, interventions, results
from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.modes import (
    ASK,
    OF_TARGET,
    Mode,
    evaluate_problems,
    examples_of,
    mode_of,
    prompts_with_examples,
    sampling_of,
    student_to_ask,
)
from plantune_lite.files import read_records, sha256_of, write_whole
from plantune_lite.grading import sandbox
from plantune_lite.recipe.schema import CHOSEN_ON, Corpus
from plantune_lite.runs.job import LEAST_HOURS, Job, last_trained, share_of
from plantune_lite.runs.manifest import EvaluateSummary
from plantune_lite.types import Problem, RunError, Sampling, Score, Trajectory, present

PROMPTS = "prompts"  # in eval/: what the untuned model answered to each prompt, on problems outside all suites
STEP = 128  # problems of a suite that all models answer before the next suite's turn, if time is limited


class RunModel(NamedTuple):
    """One of the run's models: the name of its answers, the stage that trained it, and how it is asked."""

    name: str
    stage: str | None  # None: the untuned model
    mode: Mode


class Student(NamedTuple):
    """A student in memory, the job that evaluates it, and the examples its prompts may show."""

    job: Job
    loaded: Any
    trained: str | None  # the stage whose adapter it has
    examples: list[Problem]

    def weights(self, stage: str | None) -> str:
        """Tell the answers of these weights from those of others."""
        source = self.loaded.source
        base = f"{source.repo}@{source.revision}:{self.job.recipe.student.bits}bit:{source.backend}"
        if stage is None:
            return base
        return f"{base}+{sha256_of(self.job.run.adapter(stage) / 'adapter_model.safetensors')[:16]}"

    def asking(self, stage: str | None) -> Asking:
        """Return the recipe's settings for asking the weights a stage left; None: untuned."""
        return Asking(
            sampling=sampling_of(self.job.recipe),
            model=self.weights(stage),
            executor=self.loaded.generate_untuned,
            examples=self.examples,
            allow_code=self.job.recipe.evaluate.allow_code,
            show=self.job.progress(),
        )


def run_evaluate(job: Job) -> EvaluateSummary:
    """Ask the untuned student at its best prompt, then the tuned one, on every suite, as far as max_hours goes."""
    ends = math.inf
    if job.hours_left is not None:
        ends = time.monotonic() + 3600 * share_of(job.recipe, "evaluate") * job.hours_left
    trained = last_trained(job)
    suites = dict(_suites(job))
    if not suites:
        raise RunError("there is no suite left to evaluate on: add one to evaluate.suites, say own")
    known = _known(job, suites, trained)
    spent = job.hours_left is not None and job.hours_left < LEAST_HOURS
    if spent and not any(suite["answered"] for suite in known.values()):
        raise RunError(
            f"max_hours={job.recipe.max_hours:g} is spent before evaluation began: "
            "rerun the command with a larger max_hours to resume"
        )
    if not spent:
        adapter = job.run.adapter(trained) if trained else None
        loaded = student_to_ask(job.recipe, job.say, adapter=adapter, pinned=job.earlier.training(trained).revision)
        student = Student(job, loaded, trained, examples_of(job.run.path))
        _answer_suites(student, suites, known, ends)
    standing = compare.standing([job.run.path], seed=job.recipe.seed)
    write_whole(job.out / "standing.md", compare.standing_markdown(standing))
    job.say(compare.standing_text(standing))
    return EvaluateSummary(
        line=standing.sentences[0],
        partial=any(suite["answered"] < suite["problems"] for suite in known.values()),
        arm=_arm(job, trained) if trained else None,
    )


# --- the suites -------------------------------------------------------------------------------------------------------


def _suites(job: Job) -> Iterator[tuple[str, list[Problem]]]:
    for name, suite in job.run.suite_problems().items():
        if _holds_programs(suite) and (why := _may_not_run(job)):
            job.say(f"{name} is left out, because its answers are programs: {why}")
            continue
        yield name, suite


def _holds_programs(suite: Sequence[Problem]) -> bool:
    return any(problem.kind == "code" for problem in suite)


def _may_not_run(job: Job) -> str | None:
    return sandbox.why_not() if job.recipe.evaluate.allow_code else "evaluate.allow_code=true allows running them"


def _known(job: Job, suites: dict[str, list[Problem]], trained: str | None) -> dict[str, dict[str, Any]]:
    """Collect what is known of each suite: how much is answered, and which problems the training rows restate.

    A corpus leaves out its overlap with the suites it was built with; a suite added later is checked here.
    """
    words = job.recipe.corpus.decontaminate or Corpus().decontaminate  # checked now even if the corpus did not
    overlaps: dict[str, dict[str, str]] = {}
    if trained is not None:
        pool = {problem.id: problem for problem in job.run.problems()}
        ids = {row["problem_id"] for row in job.run.rows("train")} & set(pool)
        learned = [
            Trajectory(problem_id=id, sample=0, question="", plan=(), execution="", answer=None) for id in sorted(ids)
        ]
        overlaps = filters.overlaps(learned, pool, suites, words)
    before = results.known_of(job.run.path)
    return {
        name: {
            "problems": len(suite),
            "answered": before.get(name, {}).get("answered", 0),
            "in_training": sorted({by_suite[name] for by_suite in overlaps.values() if name in by_suite}),
            "words": words,
            "baseline": _of_the_baseline(job),
        }
        for name, suite in suites.items()
    }


def _keep(job: Job, known: dict[str, dict[str, Any]]) -> None:
    write_whole(job.out / results.SUITES, json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def _of_the_baseline(job: Job) -> str:
    """Describe the caveats on the baseline's figures; empty if there are none."""
    sft = job.earlier.baseline
    parts = []
    if sft.problems < sft.of:
        parts.append(f"the baseline learned from {sft.problems} of the {sft.of} problems, which have a solution")
    if sft.steps < sft.sft_steps:
        parts.append(f"the baseline had time for {sft.steps} of {sft.sft_steps} steps")
    return " and ".join(parts)


# --- asking the models ------------------------------------------------------------------------------------------------


def _answer_suites(
    student: Student, suites: dict[str, list[Problem]], known: dict[str, dict[str, Any]], ends: float
) -> None:
    """Let all models answer all suites, or as much of each as there is time for, then swap plans."""
    job, models = student.job, {}
    prompts = _prompts_by_merit(student)
    for name, suite in suites.items():
        fit = (mode for mode in prompts if mode != "few_shot" or not _holds_programs(suite))
        models[name] = _models(job, student.trained, next(fit, "zero_shot_cot"))
    if ends < math.inf:  # the first of a file may be its easiest
        suites = {name: Random(job.recipe.seed).sample(suite, len(suite)) for name, suite in suites.items()}
    _keep(job, known)  # before the first answers, which a kill may leave behind
    for name, count in in_turns({name: len(suite) for name, suite in suites.items()}, ends):
        for model in models[name]:
            _answer(student, model, suites[name][:count], job.run.answers(name, model.name))
        known[name]["answered"] = max(count, known[name]["answered"])
        _keep(job, known)
    for name, suite in suites.items():
        if known[name]["answered"] < len(suite):
            job.say(f"{name}: max_hours is up; rerun the command with a larger one to resume")
        else:
            _intervene(student, models[name][-1], suite, job.run.answers(name, models[name][-1].name), ends)


def in_turns(sizes: Mapping[str, int], ends: float) -> Iterator[tuple[str, int]]:
    """Yield which suite to answer next and how much of it: all of it, or with a time limit 128 more of each in turn.

    A step begins only if one as long as the longest so far would end in time.
    """
    step = STEP if ends < math.inf else max(sizes.values())
    longest = 0.0
    for end in range(step, max(sizes.values()) + step, step):
        for name in (name for name, size in sizes.items() if end - step < size):
            began = time.monotonic()
            if began + longest >= ends:
                return
            yield name, min(end, sizes[name])
            longest = max(longest, time.monotonic() - began)


def _prompts_by_merit(student: Student) -> Sequence[Mode]:
    """Order the untuned model's prompts, best first, on pool problems: it has learned none of them."""
    job, generate = student.job, student.loaded.generate_untuned
    small = () if student.loaded.preset.wants_gpu else ("few_shot",)  # small models need to be shown what is wanted
    part = job.recipe.evaluate
    wanted = part.prompts or ("zero_shot_cot", "plan_then_solve", *small)
    modes = prompts_with_examples(wanted, student.examples, job.say)
    problems = [problem for problem in student.examples if problem.kind != "code"]
    # At most half of a small pool: few_shot must not show a problem that it asks.
    validation = Random(job.recipe.seed).sample(problems, min(CHOSEN_ON, len(problems) // 2))
    if not validation or len(modes) == 1:
        return modes
    out = job.out / PROMPTS / "validation.untuned.jsonl"
    how = replace(student.asking(None), sampling=Sampling(max_tokens=part.max_tokens, seed=job.recipe.seed))
    figures = {mode: evaluate_problems(generate, validation, mode=mode, out=out, how=how) for mode in modes}
    return sorted(figures, key=lambda mode: -figures[mode]["accuracy"]["value"])


def _models(job: Job, trained: str | None, prompt: Mode) -> list[RunModel]:
    """List the untuned model at its best prompt, then each trained one."""
    models = [RunModel("untuned", None, prompt)]
    if job.recipe.has_baseline:
        models.append(RunModel("baseline", "baseline", OF_TARGET["solution"]))
    if job.recipe.evaluate.before_grpo and trained == "grpo" and present(job.recipe.grpo).start == "sft":
        models.append(RunModel(_arm(job, "sft"), "sft", OF_TARGET[present(job.recipe.sft).target]))
    if trained:
        models.append(RunModel(_arm(job, trained), trained, mode_of(job.recipe, job.earlier)))
    return models


def _answer(student: Student, model: RunModel, problems: list[Problem], out: Path) -> None:
    """Let one model answer these problems."""
    loaded = student.loaded
    other = None if model.stage == student.trained else model.stage
    with nullcontext() if other is None else loaded.wearing(student.job.run.adapter(other)):
        generate = loaded.generate if model.stage else loaded.generate_untuned
        evaluate_problems(generate, problems, mode=model.mode, out=out, how=student.asking(model.stage))


def _intervene(student: Student, tuned: RunModel, suite: list[Problem], answers: Path, ends: float) -> None:
    """Test whether the tuned model's plans do the work, if that is wanted and there is time for it."""
    job, loaded, part = student.job, student.loaded, student.job.recipe.evaluate
    if not tuned.stage or tuned.mode == "plain" or not (part.interventions or part.plan_use):
        return
    scores = read_records(Score, answers)
    conditions = interventions.CONDITIONS if part.interventions else interventions.PLAN_USE
    if time.monotonic() + len(conditions) * sum(score.seconds for score in scores) > ends:
        job.say(f"{answers.stem}: max_hours leaves no time for interventions")
        return
    follow = interventions.as_beginning(loaded.generate, ASK[tuned.mode])
    if tuned.mode == "m2":
        follow = interventions.as_order(loaded.generate_untuned)
    out = job.run.interventions / answers.name
    greedy = Sampling(max_tokens=part.max_tokens, seed=job.recipe.seed)
    how = replace(student.asking(tuned.stage), sampling=greedy)
    summary = interventions.intervene(follow, suite, scores, out=out, conditions=conditions, how=how)
    write_whole(out.with_name(f"{out.stem}.summary.json"), json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def _arm(job: Job, trained: str) -> str:
    """Name the tuned model as comparisons do: the arms of the paper's comparison keep their names."""
    if trained != "sft":
        return trained
    part = present(job.recipe.sft)
    solved = "baseline" if part.solutions == "dataset" else "control"
    return {"solution": solved, "plan+solution": "m1", "plan": "m2"}[part.target]
