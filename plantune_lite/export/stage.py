"""The stage that makes a model others can run: the adapter merged into its base, and GGUF files."""

from typing import Any

from plantune_lite.export import check_merge, gguf
from plantune_lite.export.merge import merge_adapter
from plantune_lite.files import read_jsonl
from plantune_lite.runs.job import Job, last_trained
from plantune_lite.student import chat, presets, weights

_COMPARED = 32  # prompts on which a merged model and its adapter are to agree


def run_export(job: Job) -> dict[str, Any]:
    """The adapter merged into its 16-bit base, and checked; the adapter alone needs nothing done."""
    formats = job.recipe.export.formats
    trained = last_trained(job)
    if trained is None or set(formats) <= {"adapter"}:
        return {"line": "the adapter is what there is" if trained else "nothing was trained: nothing to export"}
    from transformers import AutoTokenizer

    base = weights.Source(**job.earlier[trained]["base"])
    place = weights.base_folder(base, job.say)
    adapter, merged = job.run / trained, job.run / "merged"
    preset = presets.find(job.recipe.student.model)
    done = merge_adapter(adapter, place, merged, preset=preset, say=job.say)
    tokenizer = AutoTokenizer.from_pretrained(merged, trust_remote_code=False)
    rows = list(read_jsonl(job.run / "corpus" / "train.jsonl"))[:_COMPARED]
    prompts = [chat.encode_chat(tokenizer, tuple(row["prompt"])) for row in rows]
    checked = check_merge.compare(adapter, place, merged, prompts)
    job.say(checked["line"])
    files = [one for one in formats if one not in ("adapter", "merged")]
    made: dict[str, Any] = {}
    if files and checked["verified"]:
        model = gguf.Model(
            merged=merged, name=job.recipe.name, preset=preset, prompts=prompts, adapter=adapter, base=place
        )
        made = gguf.export_gguf(model, job.run / "gguf", files, say=job.say)
        for line in made["run"]:
            job.say(line)
    lines = [done["line"], checked["line"], *([made["line"]] if made else [])]
    return {**done, **checked, **made, "line": "; ".join(lines)}
