"""The stages that hold a model: is there headroom, training, evaluation.

A stage is a function of a Job whose return value is its summary: "line" is what a person reads. Each loads the student
itself, because each is a process of its own: memory is given back, and Unsloth is imported before what it patches.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite import presets, runs
from plantune_lite.job import Job, is_first
from plantune_lite.recipe import Corpus
from plantune_lite.records import (
    Generate,
    MissingError,
    Problem,
    RunError,
    Sampling,
    Score,
    Trajectory,
    read_jsonl,
    read_records,
    write_records,
    write_whole,
)

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
    from plantune_lite.lenient import grade
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


def sft(job: Job) -> dict[str, Any]:
    """Train an adapter on the corpus."""
    from plantune_lite import sft, student

    part, wanted = job.recipe.sft, job.recipe.student
    _refuse_spent(job)
    base = job.out / "base.json"
    pinned = json.loads(base.read_text(encoding="utf-8"))["revision"] if base.is_file() else None
    loaded = student.load(
        wanted,
        adapter=adapter_of(part.start, job.run) if part.start else None,
        training=True,
        pinned=pinned,
        seed=job.recipe.seed,
        say=job.say,
    )
    if not base.is_file() and is_first():  # what it starts from is what a merge starts from, whenever that is
        write_whole(base, json.dumps(asdict(loaded.source), indent=1) + "\n")
    summary = sft.train(
        loaded,
        list(read_jsonl(job.run / "corpus" / "train.jsonl")),
        part,
        job.out,
        validation=list(read_jsonl(job.run / "corpus" / "validation.jsonl")),
        max_length=wanted.max_length,
        checkpointing=wanted.checkpointing,
        seed=job.recipe.seed,
        hours=_hours(job),
        metric=job.metric,
        show=job.progress(),
        say=job.say,
    )
    return {**summary, "base": asdict(loaded.source)}


_LEAST_HOURS = 1 / 60  # what is less makes an adapter that has learned nothing, and counts as done


def _refuse_spent(job: Job) -> None:
    if job.hours_left is not None and job.hours_left < _LEAST_HOURS and not any(job.out.glob("checkpoint-*")):
        raise RunError(
            f"max_hours={job.recipe.max_hours:g} is spent before training began: "
            "the same command with a larger max_hours goes on"
        )


def _hours(job: Job) -> float | None:
    """What of the run's time this training may take: the rest is for what comes after it."""
    share = 0.3 if job.stage == "sft" and (job.recipe.grpo or job.recipe.cpl) else 0.7
    return None if job.hours_left is None else share * job.hours_left


def adapter_of(name: str, run: Path) -> Path:
    """The adapter of another run, named or given as a folder."""
    for folder in (Path(name).expanduser(), run.parent / name):
        final = runs.read_manifest(folder).get("final") if (folder / "manifest.json").is_file() else None
        if final:
            return folder / final
        if (folder / "adapter_config.json").is_file():
            return folder
    raise RunError(f"start is {name!r}, but no run or folder of that name has a finished adapter")


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
    revision = f"@{loaded.source.revision}" if loaded.source.revision else ""
    return loaded.generate, f"{loaded.source.repo}{revision}:{part.bits}bit"


# --- evaluation -------------------------------------------------------------------------------------------------------

_FOR_EVALUATION = 0.85  # of the time that is left: export and report come after it


def evaluate(job: Job) -> dict[str, Any]:
    """The untuned student at its best prompt, then the tuned one, on every suite, as far as max_hours goes."""
    from plantune_lite import evaluate, standing, student

    part, wanted = job.recipe.evaluate, job.recipe.student
    ends = None if job.hours_left is None else time.monotonic() + _FOR_EVALUATION * 3600 * job.hours_left
    trained = last_trained(job)
    suites = dict(_suites(job))
    known = _known(job, suites, trained)
    spent = job.hours_left is not None and job.hours_left < _LEAST_HOURS
    if spent and not any(one["answered"] for one in known.values()):
        raise RunError(
            f"max_hours={job.recipe.max_hours:g} is spent before evaluation began: "
            "the same command with a larger max_hours goes on"
        )
    if not spent:
        loaded = student.load(
            wanted,
            adapter=job.run / trained if trained else None,
            pinned=job.earlier.get(trained or "", {}).get("base", {}).get("revision"),
            room=wanted.max_length + part.max_tokens,
            seed=job.recipe.seed,
            say=job.say,
        )
        pace = 0.0  # seconds a problem, for all arms
        for number, (name, suite) in enumerate(suites.items()):
            began, done = time.monotonic(), known[name]["answered"]
            if ends is not None and began + pace * min(evaluate.STEP, len(suite)) > ends:
                continue
            seconds = None if ends is None else (ends - began) / (len(suites) - number)
            known[name]["answered"] = _answer_suite(job, loaded, name, suite, trained, done=done, seconds=seconds)
            pace = max(pace, (time.monotonic() - began) / max(1, known[name]["answered"] - done))
            write_whole(job.out / standing.SUITES, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    found = standing.standing([job.run], seed=job.recipe.seed)
    write_whole(job.out / "standing.json", json.dumps(standing.as_json(found), indent=1, ensure_ascii=False) + "\n")
    write_whole(job.out / "standing.md", standing.as_markdown(found))
    job.say(standing.as_text(found))
    partial = any(one["answered"] < one["problems"] for one in known.values())
    return {"line": found.sentences[0], "sentences": list(found.sentences), "partial": partial}


def _suites(job: Job) -> Iterator[tuple[str, list[Problem]]]:
    for path in sorted((job.run / "suites").glob("*.jsonl")):
        suite = read_records(Problem, path)
        if any(problem.kind == "code" for problem in suite):
            job.say(
                f"{path.stem} is left out: its answers are programs, and this version has no sandbox to run them in"
            )
            continue
        yield path.stem, suite


def _known(job: Job, suites: dict[str, list[Problem]], trained: str | None) -> dict[str, dict[str, Any]]:
    """What is to be known of each suite: how much of it is answered, and which problems the training rows restate.

    A corpus leaves out what it overlaps of the suites of its day; one that was added later is looked at here.
    """
    from plantune_lite import sift, standing

    words = job.recipe.corpus.decontaminate or Corpus().decontaminate  # not looked for then is looked for now
    overlaps: dict[str, dict[str, str]] = {}
    if trained is not None:
        pool = {one.id: one for one in read_records(Problem, job.run / "problems" / "pool.jsonl")}
        rows = read_jsonl(job.run / "corpus" / "train.jsonl")
        learned = [pool[id] for id in dict.fromkeys(row["problem_id"] for row in rows) if id in pool]
        overlaps = sift.overlaps(
            [
                Trajectory(problem_id=one.id, sample=0, question=one.question, plan=(), execution="", answer=None)
                for one in learned
            ],
            pool,
            suites,
            words,
        )
    before = standing.known_of(job.run)
    return {
        name: {
            "problems": len(suite),
            "answered": before.get(name, {}).get("answered", 0),
            "in_training": sorted({found[name] for found in overlaps.values() if name in found}),
            "words": words,
        }
        for name, suite in suites.items()
    }


def last_trained(job: Job) -> str | None:
    """The stage whose adapter is the run's model; each training stage's folder has its name."""
    return next((name for name in ("grpo", "cpl", "sft") if getattr(job.recipe, name) and name in job.earlier), None)


def _answer_suite(
    job: Job, loaded: Any, name: str, suite: list[Problem], trained: str | None, *, done: int, seconds: float | None
) -> int:
    """All arms on one suite: on how many of its problems, which is all there was time for and for each arm the same."""
    from plantune_lite import evaluate, harness_json

    began, show = time.monotonic(), job.progress()
    if seconds is not None:  # the first of a file may be its easiest
        suite = Random(job.recipe.seed).sample(suite, len(suite))
    untuned, tuned = (job.out / f"{name}.{model}.jsonl" for model in ("untuned", _arm(job, trained) if trained else ""))
    for count in evaluate.in_time(len(suite), seconds, done=done):
        done = max(done, count)
        _answer(job, loaded, suite, count, untuned, tuned, trained, show)
    if done < len(suite):
        job.say(f"{name}: max_hours is up after {done} of {len(suite)} problems; with a larger one it goes on")
    if done:
        harness_json.write(untuned, model=loaded.source.repo)
    if done and trained:
        harness_json.write(tuned, model=f"{loaded.source.repo}+{job.recipe.name}")
    if done == len(suite) and trained and job.recipe.evaluate.interventions and _target(job) != "solution":
        left = None if seconds is None else began + seconds - time.monotonic()
        _intervene(job, loaded, suite, tuned, trained, left)
    return done


def _answer(
    job: Job,
    loaded: Any,
    suite: list[Problem],
    count: int,
    untuned: Path,
    tuned: Path,
    trained: str | None,
    show: Callable[[str, bool], object],
) -> None:
    """The untuned model at each of its prompts and the tuned one, on the first problems of a suite."""
    from plantune_lite import evaluate, held_out

    part = job.recipe.evaluate
    tested = set(map(held_out.normalised, suite))  # not only the first ones: examples must stay the same
    pool = read_records(Problem, job.run / "problems" / "pool.jsonl")
    examples = [one for one in pool if held_out.normalised(one) not in tested]
    modes = part.prompts or ("zero_shot_cot", "plan_then_solve")
    solved = sum(bool(one.solution or one.steps) for one in examples)
    if not part.prompts and not loaded.preset.wants_gpu and solved >= evaluate.SHOTS:
        modes = (*modes, "few_shot")  # the small ones need to be shown what is wanted
    settings: dict[str, Any] = {
        "samples": part.samples,
        "temperature": part.temperature,
        "max_tokens": part.max_tokens,
        "seed": job.recipe.seed,
        "show": lambda line, last: show(line, last and count == len(suite)),
    }
    some, weights = suite[:count], _weights(job, loaded)
    evaluate.at_best_prompt(
        loaded.generate_untuned, some, modes=modes, out=untuned, examples=examples, model=weights, **settings
    )
    if trained:
        if (target := _target(job)) == "plan":
            settings["executor"] = loaded.generate_untuned
        weights = _weights(job, loaded, trained)
        evaluate.evaluate(loaded.generate, some, mode=evaluate.OF_TARGET[target], out=tuned, model=weights, **settings)


def _intervene(job: Job, loaded: Any, suite: list[Problem], tuned: Path, trained: str, seconds: float | None) -> None:
    """Whether the tuned model's plans do its work, where there is time to ask as often as that takes."""
    from plantune_lite import interventions

    scores = read_records(Score, tuned)
    if seconds is not None and len(interventions.CONDITIONS) * sum(one.seconds for one in scores) > seconds:
        job.say(f"{tuned.stem}: max_hours leaves no time for interventions")
        return
    out = job.out / "interventions" / tuned.name
    generate, give = (
        (loaded.generate_untuned, interventions.as_order)
        if _target(job) == "plan"
        else (loaded.generate, interventions.as_beginning)
    )
    found = interventions.intervene(
        generate,
        suite,
        scores,
        out=out,
        give=give,
        max_tokens=job.recipe.evaluate.max_tokens,
        seed=job.recipe.seed,
        model=_weights(job, loaded, trained),
        show=job.progress(),
    )
    write_whole(out.with_name(f"{out.stem}.summary.json"), json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _weights(job: Job, loaded: Any, trained: str | None = None) -> str:
    """What tells the answers of these weights from those of others."""
    source = loaded.source
    base = f"{source.repo}@{source.revision}:{job.recipe.student.bits}bit:{source.backend}"
    return f"{base}+{_identity(job.run / trained)}" if trained else base


def _target(job: Job) -> str:
    return job.recipe.sft.target if job.recipe.sft else "plan+solution"


def _arm(job: Job, trained: str) -> str:
    """What the tuned model is called beside others: the arms of the paper's comparison by their names."""
    part = job.recipe.sft
    if trained != "sft":
        return trained
    solved = "baseline" if part.solutions == "dataset" else "control"
    return {"solution": solved, "plan+solution": "m1", "plan": "m2"}[part.target]


def _identity(adapter: Path) -> str:
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]


# --- export -----------------------------------------------------------------------------------------------------------

_COMPARED = 32  # prompts on which a merged model and its adapter are to agree


def export(job: Job) -> dict[str, Any]:
    """The adapter merged into its 16-bit base, and checked; the adapter alone needs nothing done."""
    formats = job.recipe.export.formats
    trained = last_trained(job)
    if trained is None or set(formats) <= {"adapter"}:
        return {"line": "the adapter is what there is" if trained else "nothing was trained: nothing to export"}
    from transformers import AutoTokenizer

    from plantune_lite import agreement, gguf, origin, speech
    from plantune_lite import export as merging

    base = origin.Source(**job.earlier[trained]["base"])
    place = origin.base_folder(base, job.say)
    adapter, merged = job.run / trained, job.run / "merged"
    preset = presets.find(job.recipe.student.model)
    done = merging.merge(adapter, place, merged, preset=preset, say=job.say)
    tokenizer = AutoTokenizer.from_pretrained(merged, trust_remote_code=False)
    rows = list(read_jsonl(job.run / "corpus" / "train.jsonl"))[:_COMPARED]
    prompts = [speech.encode_chat(tokenizer, tuple(row["prompt"])) for row in rows]
    checked = agreement.compare(adapter, place, merged, prompts)
    job.say(checked["line"])
    files = [one for one in formats if one not in ("adapter", "merged")]
    made: dict[str, Any] = {}
    if files and checked["verified"]:
        made = gguf.export_gguf(
            merged,
            job.run / "gguf",
            files,
            name=job.recipe.name,
            preset=preset,
            prompts=prompts,
            adapter=adapter,
            base=place,
            say=job.say,
        )
        for line in made["run"]:
            job.say(line)
    lines = [done["line"], checked["line"], *([made["line"]] if made else [])]
    return {**done, **checked, **made, "line": "; ".join(lines)}


STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "headroom": headroom,
    "sft": sft,
    "evaluate": evaluate,
    "export": export,
}
