"""Export a model that others can run: the adapter merged into its base, and GGUF files."""

from plantune_lite.export import check_merge, gguf, model_card
from plantune_lite.export.merge import merge_adapter
from plantune_lite.runs.job import Job, last_trained
from plantune_lite.runs.manifest import ExportSummary
from plantune_lite.student import chat, presets, weights


def run_export(job: Job) -> ExportSummary:
    """Merge the adapter into its 16-bit base, check it, and write GGUF files; the adapter alone needs no work."""
    formats = job.recipe.export.formats
    trained = last_trained(job)
    if trained is None:
        return ExportSummary(line="nothing was trained: nothing to export")
    base = weights.Source(**job.earlier.training(trained).base)
    preset = presets.find(job.recipe.student.model)
    if set(formats) <= {"adapter"}:
        adapter, rank = job.run.adapter(trained), job.recipe.student.lora_rank
        template = str(adapter / "chat_template.jinja")
        if preset is None or not preset.is_part:  # vLLM serves only the whole model, whose layers have other names
            job.say(model_card.vllm_line(base.repo, job.recipe.name, str(adapter), template, rank))
        return ExportSummary(line="only the adapter: nothing to export")
    from transformers import AutoTokenizer

    place = weights.base_folder(base, job.say)
    adapter, merged = job.run.adapter(trained), job.run.merged
    done = merge_adapter(adapter, place, merged, preset=preset, say=job.say)
    tokenizer = AutoTokenizer.from_pretrained(merged, trust_remote_code=False)
    rows = job.run.rows("train")[: check_merge.PROMPTS]
    prompts = [chat.encode_chat(tokenizer, tuple(row["prompt"])) for row in rows]
    checked = check_merge.compare(adapter, place, merged, prompts)
    job.say(checked["line"])
    if checked["verified"]:
        job.say(f"vllm serve {merged}")
    files = [kind for kind in formats if kind not in ("adapter", "merged")]
    lines, gguf_files = [done["line"], checked["line"]], {}
    if files and checked["verified"]:
        model = gguf.Model(
            merged=merged, name=job.recipe.name, preset=preset, prompts=prompts, adapter=adapter, base=place
        )
        exported = gguf.export_gguf(model, job.run.gguf, files, say=job.say)
        lines.append(exported["line"])
        gguf_files = exported["gguf"]
    return ExportSummary(
        line="; ".join(lines), verified=checked["verified"], agreement=checked["agreement"], gguf=gguf_files
    )
