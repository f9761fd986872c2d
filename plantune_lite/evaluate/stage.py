"""The stage that evaluates: the untuned student at its best prompt, then the tuned one, on every suite.

The prompt is chosen on problems of the pool: none of them is tested, and the untuned student has learned from none.

A stage is a function of a Job whose return value is its summary: "line" is what a person reads.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.distill import filters
from plantune_lite.evaluate import compare, harness_json, interventions, results
from plantune_lite.evaluate.modes import (
    ASK,
    OF_TARGET,
    SHOTS,
    STEP,
    Mode,
    evaluate_problems,
    in_time,
    mode_of,
    prompts_by_merit,
)
from plantune_lite.files import read_jsonl, read_records, write_whole
from plantune_lite.grading import sandbox
from plantune_lite.grading.grade import grade_reply
from plantune_lite.problems.split import normalised
from plantune_lite.recipe.schema import CHOSEN_ON, Corpus
from plantune_lite.runs.job import LEAST_HOURS, Job, last_trained
from plantune_lite.student.load import load_student
from plantune_lite.types import Problem, RunError, Score, Trajectory

PROMPTS = "prompts"  # in eval/: what the untuned model said at each prompt, on problems that nobody is tested on
_FOR_EVALUATION = 0.85  # of the time that is left: export and report come after it


def run_evaluate(job: Job) -> dict[str, Any]:
    """The untuned student at its best prompt, then the tuned one, on every suite, as far as max_hours goes."""
    part, wanted = job.recipe.evaluate, job.recipe.student
    ends = None if job.hours_left is None else time.monotonic() + _FOR_EVALUATION * 3600 * job.hours_left
    trained = last_trained(job)
    suites = dict(_suites(job))
    if not suites:
        raise RunError("there is no suite left to evaluate on: add one to evaluate.suites, say own")
    known = _known(job, suites, trained)
    spent = job.hours_left is not None and job.hours_left < LEAST_HOURS
    if spent and not any(one["answered"] for one in known.values()):
        raise RunError(
            f"max_hours={job.recipe.max_hours:g} is spent before evaluation began: "
            "the same command with a larger max_hours goes on"
        )
    if not spent:
        loaded = load_student(
            wanted,
            adapter=job.run / trained if trained else None,
            pinned=job.earlier.get(trained or "", {}).get("base", {}).get("revision"),
            room=wanted.max_length + part.max_tokens,
            seed=job.recipe.seed,
            say=job.say,
        )
        prompts = _prompts_by_merit(job, loaded, suites)
        pace = 0.0  # seconds a problem, for all arms
        _keep(job, known)  # before the first answers, which a kill may leave here
        for number, (name, suite) in enumerate(suites.items()):
            began, done = time.monotonic(), known[name]["answered"]
            if ends is not None and began + pace * min(STEP, len(suite)) > ends:
                continue
            seconds = None if ends is None else (ends - began) / (len(suites) - number)
            known[name]["answered"] = _answer_suite(
                job, loaded, name, suite, prompts, trained, done=done, seconds=seconds
            )
            pace = max(pace, (time.monotonic() - began) / max(1, known[name]["answered"] - done))
            _keep(job, known)
    found = compare.standing([job.run], seed=job.recipe.seed)
    written = json.dumps(compare.standing_json(found), indent=1, ensure_ascii=False)
    write_whole(job.out / "standing.json", written + "\n")
    write_whole(job.out / "standing.md", compare.standing_markdown(found))
    job.say(compare.standing_text(found))
    partial = any(one["answered"] < one["problems"] for one in known.values())
    return {
        "line": found.sentences[0],
        "sentences": list(found.sentences),
        "partial": partial,
        "arm": _arm(job, trained) if trained else None,  # what the run's model is called among its answers
    }


def _suites(job: Job) -> Iterator[tuple[str, list[Problem]]]:
    for path in sorted((job.run / "suites").glob("*.jsonl")):
        suite = read_records(Problem, path)
        if _holds_programs(suite) and (why := _may_not_run(job)):
            job.say(f"{path.stem} is left out, because its answers are programs: {why}")
            continue
        yield path.stem, suite


def _holds_programs(suite: Sequence[Problem]) -> bool:
    return any(problem.kind == "code" for problem in suite)


def _may_not_run(job: Job) -> str | None:
    return sandbox.why_not() if job.recipe.evaluate.allow_code else "evaluate.allow_code=true allows to run them"


def _known(job: Job, suites: dict[str, list[Problem]], trained: str | None) -> dict[str, dict[str, Any]]:
    """What is to be known of each suite: how much of it is answered, and which problems the training rows restate.

    A corpus leaves out what it overlaps of the suites of its day; one that was added later is looked at here.
    """
    words = job.recipe.corpus.decontaminate or Corpus().decontaminate  # not looked for then is looked for now
    overlaps: dict[str, dict[str, str]] = {}
    if trained is not None:
        pool = {one.id: one for one in read_records(Problem, job.run / "problems" / "pool.jsonl")}
        rows = read_jsonl(job.run / "corpus" / "train.jsonl")
        learned = [pool[id] for id in dict.fromkeys(row["problem_id"] for row in rows) if id in pool]
        overlaps = filters.overlaps(
            [
                Trajectory(problem_id=one.id, sample=0, question=one.question, plan=(), execution="", answer=None)
                for one in learned
            ],
            pool,
            suites,
            words,
        )
    before = results.known_of(job.run)
    return {
        name: {
            "problems": len(suite),
            "answered": before.get(name, {}).get("answered", 0),
            "in_training": sorted({found[name] for found in overlaps.values() if name in found}),
            "words": words,
            "baseline": _of_the_baseline(job),
        }
        for name, suite in suites.items()
    }


def _keep(job: Job, known: dict[str, dict[str, Any]]) -> None:
    write_whole(job.out / results.SUITES, json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def _of_the_baseline(job: Job) -> str:
    """What its figures must not be read without."""
    made = job.earlier.get("baseline", {})
    parts = []
    if made.get("problems", 0) < made.get("of", 0):
        parts.append(
            f"the baseline learned from {made['problems']} of the {made['of']} problems, which have a solution"
        )
    if made.get("steps", 0) < made.get("sft_steps", 0):
        parts.append(f"the baseline had time for {made['steps']} of {made['sft_steps']} steps")
    return " and ".join(parts)


def _answer_suite(
    job: Job,
    loaded: Any,
    name: str,
    suite: list[Problem],
    prompts: Sequence[Any],
    trained: str | None,
    *,
    done: int,
    seconds: float | None,
) -> int:
    """All arms on one suite: on how many of its problems, which is all there was time for and for each arm the same."""
    examples = _examples(job, suite)
    modes = _modes(job, loaded, name, suite, examples)
    mode = next((one for one in prompts if one in modes), modes[0])
    began, show = time.monotonic(), job.progress()
    if seconds is not None:  # the first of a file may be its easiest
        suite = Random(job.recipe.seed).sample(suite, len(suite))
    untuned, tuned = (job.out / f"{name}.{model}.jsonl" for model in ("untuned", _arm(job, trained) if trained else ""))
    for count in in_time(len(suite), seconds, done=done):
        done = max(done, count)
        _answer(job, loaded, suite, count, mode, examples, untuned, tuned, trained, show)
    if done < len(suite):
        job.say(f"{name}: max_hours is up after {done} of {len(suite)} problems; with a larger one it goes on")
    if done:
        harness_json.write(untuned, model=loaded.source.repo)
    if done and trained:
        harness_json.write(tuned, model=f"{loaded.source.repo}+{job.recipe.name}")
    if done and job.recipe.has_baseline:
        harness_json.write(_baseline(untuned), model=f"{loaded.source.repo}+{job.recipe.name}/baseline")
    asked = job.recipe.evaluate.interventions or job.recipe.evaluate.plan_use
    if done == len(suite) and trained and asked and _mode(job) != "plain":
        left = None if seconds is None else began + seconds - time.monotonic()
        _intervene(job, loaded, suite, tuned, trained, left)
    return done


def _examples(job: Job, suite: Sequence[Problem]) -> list[Problem]:
    """Problems to learn a prompt from: none of the suite's, and not only of its first ones, so that they stay."""
    tested = set(map(normalised, suite))
    pool = read_records(Problem, job.run / "problems" / "pool.jsonl")
    return [one for one in pool if normalised(one) not in tested]


def _modes(job: Job, loaded: Any, name: str, suite: Sequence[Problem], examples: Sequence[Problem]) -> tuple[str, ...]:
    """The prompts of the untuned model that are to be tried."""
    wanted = job.recipe.evaluate.prompts
    modes = wanted or ("zero_shot_cot", "plan_then_solve")
    if not wanted and not loaded.preset.wants_gpu:
        modes = (*modes, "few_shot")  # the small ones need to be shown what is wanted
    solved = sum(bool(one.solution or one.steps) for one in examples)
    if "few_shot" in wanted and solved < SHOTS:
        there = f"there are {solved}" if solved else "there are none"
        job.say(f"{name}: few_shot is left out: it needs {SHOTS} solved problems, and {there}")
    if _holds_programs(suite) or solved < SHOTS:  # solved problems of the pool are no examples of programs
        modes = tuple(mode for mode in modes if mode != "few_shot") or ("zero_shot_cot",)
    return modes


def _prompts_by_merit(job: Job, loaded: Any, suites: Mapping[str, Sequence[Problem]]) -> Sequence[Any]:
    """The untuned model's prompts, the best first: on problems of the pool, of which it has learned none."""
    examples = _examples(job, [problem for suite in suites.values() for problem in suite])
    modes = _modes(job, loaded, "the choice of a prompt", (), examples)
    asked = [one for one in examples if one.kind != "code"]
    # What is shown in few_shot is not asked; half of a small pool is enough to choose on.
    validation = Random(job.recipe.seed).sample(asked, min(CHOSEN_ON, len(asked) // 2))
    if not validation:
        return modes
    return prompts_by_merit(
        loaded.generate_untuned,
        validation,
        modes=modes,
        out=job.out / PROMPTS / "validation.untuned.jsonl",
        examples=examples,
        model=_weights(job, loaded),
        max_tokens=job.recipe.evaluate.max_tokens,
        seed=job.recipe.seed,
        grade=grade_reply,
        show=job.progress(),
    )


def _answer(
    job: Job,
    loaded: Any,
    suite: list[Problem],
    count: int,
    mode: Any,
    examples: list[Problem],
    untuned: Path,
    tuned: Path,
    trained: str | None,
    show: Callable[[str, bool], object],
) -> None:
    """Let the untuned model at its best prompt answer the first problems of a suite, then each arm that was trained."""
    part = job.recipe.evaluate
    settings: dict[str, Any] = {
        "samples": part.samples,
        "temperature": part.temperature,
        "top_p": part.top_p,
        "max_tokens": part.max_tokens,
        "seed": job.recipe.seed,
        "run_code": grade_reply if _holds_programs(suite) else None,
        "grade": grade_reply,
        "show": lambda line, last: show(line, last and count == len(suite)),
    }
    some, weights = suite[:count], _weights(job, loaded)
    evaluate_problems(
        loaded.generate_untuned, some, mode=mode, out=untuned, examples=examples, model=weights, **settings
    )
    settings["executor"] = loaded.generate_untuned  # of m2, the only mode that asks for one
    others = {"baseline": (_baseline(untuned), OF_TARGET["solution"])} if job.recipe.has_baseline else {}
    if part.before_grpo and trained == "grpo" and job.recipe.grpo.start == "sft":
        name = tuned.name.replace("grpo", _arm(job, "sft"))
        others["sft"] = (tuned.with_name(name), OF_TARGET[job.recipe.sft.target])
    for worn, (out, mode) in others.items():
        with loaded.wearing(job.run / worn):
            weights = _weights(job, loaded, worn)
            evaluate_problems(loaded.generate, some, mode=mode, out=out, model=weights, **settings)
    if trained:
        weights = _weights(job, loaded, trained)
        evaluate_problems(loaded.generate, some, mode=_mode(job), out=tuned, model=weights, **settings)


def _baseline(untuned: Path) -> Path:
    """Where the baseline's answers are, beside those of the untuned model."""
    return untuned.with_name(untuned.name.replace("untuned", "baseline"))


def _intervene(job: Job, loaded: Any, suite: list[Problem], tuned: Path, trained: str, seconds: float | None) -> None:
    """Whether the tuned model's plans do its work, where there is time to ask as often as that takes."""
    scores = read_records(Score, tuned)
    conditions = interventions.CONDITIONS if job.recipe.evaluate.interventions else interventions.PLAN_USE
    if seconds is not None and len(conditions) * sum(one.seconds for one in scores) > seconds:
        job.say(f"{tuned.stem}: max_hours leaves no time for interventions")
        return
    out = job.out / "interventions" / tuned.name
    mode = _mode(job)
    generate, give = (
        (loaded.generate_untuned, interventions.as_order)
        if mode == "m2"
        else (loaded.generate, partial(interventions.as_beginning, ask=ASK[mode]))
    )
    found = interventions.intervene(
        generate,
        suite,
        scores,
        out=out,
        conditions=conditions,
        give=give,
        max_tokens=job.recipe.evaluate.max_tokens,
        seed=job.recipe.seed,
        model=_weights(job, loaded, trained),
        grade=grade_reply,
        show=job.progress(),
    )
    write_whole(out.with_name(f"{out.stem}.summary.json"), json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _weights(job: Job, loaded: Any, trained: str | None = None) -> str:
    """What tells the answers of these weights from those of others."""
    source = loaded.source
    base = f"{source.repo}@{source.revision}:{job.recipe.student.bits}bit:{source.backend}"
    return f"{base}+{_identity(job.run / trained)}" if trained else base


def _mode(job: Job) -> Mode:
    return mode_of(job.recipe, job.earlier)


def _arm(job: Job, trained: str) -> str:
    """What the tuned model is called beside others: the arms of the paper's comparison by their names."""
    part = job.recipe.sft
    if trained != "sft":
        return trained
    solved = "baseline" if part.solutions == "dataset" else "control"
    return {"solution": solved, "plan+solution": "m1", "plan": "m2"}[part.target]


def _identity(adapter: Path) -> str:
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]
