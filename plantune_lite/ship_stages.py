"""The stages at the end of a run, after which it can be handed on: its model merged, and its report.

A stage is a function of a Job whose return value is its summary: "line" is what a person reads.
"""

from collections.abc import Callable
from typing import Any

from plantune_lite import presets
from plantune_lite.evaluate_stage import last_trained
from plantune_lite.job import Job
from plantune_lite.records import read_jsonl

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


def report(job: Job) -> dict[str, Any]:
    """One page that says what came of it all."""
    from plantune_lite import report

    found = report.report(job.run, seed=job.recipe.seed)
    job.say(f"open {job.run / 'report.html'}")
    return found


STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {"export": export, "report": report}
