"""Write the model card for an adapter, a merged model or GGUF files, from a run folder.

    card(of_run(Path("runs/mine"), form="merged", repos={"merged": "you/mine-merged"}))
        -> "---\\nbase_model: ...\\n---\\n\\n# `mine`\\n\\n**Not better than untuned** on `own`: ..."

It claims only what was measured: a card without scores says so in its first line, and where a paired test does not show
a gain, it says that. Text from a model, a teacher or a data set is in fences.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from plantune_lite import plan
from plantune_lite.distill.card import TAGS, TARGETS, as_json, of_data, page
from plantune_lite.evaluate.compare import Row
from plantune_lite.export.run_facts import EMBEDDED, Facts
from plantune_lite.problems.benchmarks import BENCHMARKS
from plantune_lite.recipe.redact import last_part
from plantune_lite.student import presets
from plantune_lite.student.presets import DEQUANTISED
from plantune_lite.student.vllm_engine import RANKS
from plantune_lite.terminal import code_span, fence, markdown_table, size
from plantune_lite.types import Problem

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData


def notice(facts: Facts) -> str | None:
    """Return the text of NOTICE where the licence requires one next to the weights."""
    if facts.licence != "gemma":
        return None
    return (
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"
        f"These files are modified: {facts.base} was trained further with plantune-lite.\n"
    )


def card(facts: Facts) -> str:
    """Write the README.md of a model's repository."""
    sections = [
        _verdict(facts),
        _what(facts),
        *_scores(facts),
        *_files(facts),
        "## How to prompt it",
        *_prompting(facts),
        "## How to run it",
        *_running(facts),
        "## How it was made",
        _method(facts),
        *_data(facts),
        "## Recipe",
        as_json(facts.recipe),
        "## Versions",
        fence("\n".join(f"{name} {version}" for name, version in facts.versions.items()) or "not kept"),
        "## Licence",
        _licence(facts),
    ]
    return page(_metadata(facts), facts.name, sections)


# --- metadata ---------------------------------------------------------------------------------------------------------

_RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
_LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


def _metadata(facts: Facts) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    merged = facts.repos.get("merged")
    base, relation = facts.base, _RELATION[facts.form]
    if facts.form == "gguf":  # quantised from our merged model; if that is not pushed, finetuned from the base
        base, relation = (merged, relation) if merged else (base, "finetune")
    sources = list(facts.stats["sources"]) if facts.stats else []
    results = _results(facts)
    return ModelCardData(
        license=facts.licence or "unknown",
        license_link=facts.licence_url,
        base_model=base,
        base_model_relation=relation if base else None,
        library_name=_LIBRARY[facts.form],
        pipeline_tag="text-generation",
        language=["en"] if sources and set(sources) <= {*BENCHMARKS, "practice", "practice_stories"} else None,
        tags=_tags(facts),
        datasets=[BENCHMARKS[source].hub for source in sources if source in BENCHMARKS] or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _tags(facts: Facts) -> list[str]:
    tags = [*TAGS, *facts.trained, *(["trl"] if facts.trained else []), *(["unsloth"] if facts.unsloth else [])]
    if facts.form == "adapter":
        tags += ["lora", *([f"base_model:adapter:{facts.base}"] if facts.base else [])]
    return tags


def hub_scores(facts: Facts) -> dict[str, bytes]:
    """Write the scores on benchmarks with a leaderboard on the Hub, a file each, in its format."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files = {}
    for suite, scores in facts.scores.items() if facts.form != "gguf" else ():
        mine, known = scores.rows[-1], BENCHMARKS.get(suite)
        if known and known.task:
            notes = f"{_counts(mine)} right, 95 % interval {_interval(mine)}{_but(mine)}; by plantune-lite"
            value = round(100 * mine.accuracy.value, 1)
            entry = EvalResultEntry(dataset_id=known.hub, task_id=known.task, value=value, notes=notes)
            text = json.dumps(eval_result_entries_to_yaml([entry]), indent=1)  # JSON is YAML too
            files[f".eval_results/{suite}.yaml"] = text.encode()
    return files


def _results(facts: Facts) -> "list[EvalResult]":
    """Return the scores in the Hub's form; none for quantised files, which were not evaluated."""
    from huggingface_hub import EvalResult

    results = []
    for suite, scores in facts.scores.items() if facts.form != "gguf" else ():
        mine, known = scores.rows[-1], BENCHMARKS.get(suite)
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_name=suite,
                dataset_type=known.hub if known else suite,
                dataset_split=known.test if known else None,
                metric_type="accuracy",
                metric_name=f"accuracy in %, {_counts(mine)}, 95 % interval {_interval(mine)}{_but(mine)}",
                metric_value=round(100 * mine.accuracy.value, 1),
            )
        )
    return results


# --- scores -----------------------------------------------------------------------------------------------------------


def _verdict(facts: Facts) -> str:
    """Compare this model with the untuned one at its best prompt, suite by suite, in the first line of the card."""
    if not facts.scores:
        return "**Unmeasured:** this model has not been compared with the untuned one."
    lines = []
    for suite, scores in facts.scores.items():
        untuned, mine = scores.rows[0], scores.rows[-1]
        if mine.accuracy.value <= untuned.accuracy.value:
            verdict = "**Not better than untuned**"
        elif scores.better:
            verdict = "**Better than untuned**"
        else:
            verdict = "**Not shown to be better than untuned** (by a paired test)"
        counts = f"{_counts(mine)} right, untuned at its best prompt {_counts(untuned)}"
        lines.append(f"{verdict} on {code_span(suite)}: {counts}{_but(mine)}.")
    worst_first = sorted(lines, key=lambda line: ("**Better" in line, "**Not shown" in line))
    return "\n".join(f"- {line}" for line in worst_first) if len(lines) > 1 else lines[0]


def _counts(row: Row) -> str:
    answers = row.problems * row.samples
    several = f" ({row.samples} to a problem)" if row.samples > 1 else ""
    return f"{round(row.accuracy.value * answers)} of {answers}{several}"


def _but(row: Row) -> str:
    return f"; but {' and '.join(row.caveats)}" if row.caveats else ""


_WRITES = {
    "solution": "to solve without a plan",
    "plan+solution": "to write a short plan before it solves",
    "plan": "to write a short plan, which another model carries out",
    "answer": "to give the right answer",
}


def _what(facts: Facts) -> str:
    base = code_span(facts.base) if facts.base else "its author's own model"
    forms = {
        "adapter": "This is the adapter alone (LoRA): PEFT loads it over the base model.",
        "merged": "The adapter is merged into the 16-bit weights: it runs wherever the base model runs.",
        "gguf": "These are GGUF files of the merged model, for llama.cpp, Ollama, LM Studio and the like.",
    }
    others = {form: repo for form, repo in facts.repos.items() if form != facts.form}
    also = (
        " Also as " + ", ".join(f"{form}: [{repo}](/{repo})" for form, repo in others.items()) + "." if others else ""
    )
    compared = f" Against its adapter: {facts.agreement}." if facts.form == "merged" and facts.agreement else ""
    dequantised = f" {DEQUANTISED}" if facts.recipe["student"]["model"] == EMBEDDED else ""
    what = f"{base}, trained {_WRITES[facts.target]}. {forms[facts.form]}"
    return what + compared + dequantised + also


def _scores(facts: Facts) -> list[str]:
    tables = []
    for suite, scores in facts.scores.items():
        rows = [
            (code_span(f"{row.model}, {row.mode}"), _counts(row), f"{row.accuracy.value:.1%}", _interval(row))
            for row in scores.rows
        ]
        tables.append(markdown_table((code_span(suite), "right", "share", "95 % interval"), rows))
        caveats = dict.fromkeys(caveat for row in scores.rows for caveat in row.caveats)
        tables += [f"But {' and '.join(caveats)}."] if caveats else []
    plot = [f"![Right answers, with 95 % intervals]({facts.plot.name})"] if facts.plot else []
    if tables and facts.form != "adapter":
        tables.append("Measured with the adapter over its base, before merging and quantising.")
    return ["## Scores", *tables, *plot] if tables or plot else []


def _interval(row: Row) -> str:
    return f"{100 * row.accuracy.low:.1f} to {100 * row.accuracy.high:.1f}"


def _files(facts: Facts) -> list[str]:
    if facts.form != "gguf":
        return []
    rows = []
    for name, check in facts.checks.items():
        ran = "yes" if check.get("ran") else "**no: this file was never run**"
        rows.append((code_span(name), size(check["bytes"]), ran, check.get("agreement", "unmeasured")))
    return ["## Files", markdown_table(("file", "size", "run by llama.cpp", "against the merged model"), rows)]


# --- how to use it ----------------------------------------------------------------------------------------------------


def _prompting(facts: Facts) -> list[str]:
    turn = "The user's turn is the question" + (" and more, see below." if facts.asks_for_plans else ", as it is.")
    lines = [f"{turn} The system turn of its training is this; the chat template adds it where there is none."]
    lines.append(fence(plan.SYSTEM))
    if facts.asks_for_plans:
        prompt = plan.ask_plan_then_solve(Problem(id="", question="(the question)", answer=""))[-1]["content"]
        lines += ["It was trained with this after the question, and plans where it is asked to:", fence(prompt)]
    if facts.target == "plan":
        lines.append("The reply is only a plan; give it, with the question, to a model that carries it out.")
    return lines


def _running(facts: Facts) -> list[str]:
    question = "A pen costs 3 dollars and a book 8. What do 2 pens and a book cost?"
    repo, ask = facts.repo, f'messages = [{{"role": "user", "content": "{question}"}}]'
    if facts.form == "adapter":
        preset = presets.find(facts.base or "")
        part = preset is not None and preset.is_part
        load = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{repo}", dtype="auto")\n'
        )
        if part:
            load = (
                "from peft import PeftModel\n"
                "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer\n\n"
                f'base = "{facts.base}"\nconfig = AutoConfig.from_pretrained(base).get_text_config()\n'
                'names = {r"^model\\.language_model\\.": "model."}\n'
                'model = AutoModelForCausalLM.from_pretrained(base, config=config, key_mapping=names, dtype="auto")\n'
                f'model = PeftModel.from_pretrained(model, "{repo}")\n'
            )
        load += (
            f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n{ask}\n'
            'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)\n"
            "reply = model.generate(**inputs, max_new_tokens=512, do_sample=False)\n"
            'print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
        )
        parts = ["PEFT:", fence(load, "python")]
        if facts.base and not part:  # vLLM serves only the whole model, whose layers have other names
            rank = facts.recipe["student"]["lora_rank"]
            serve = vllm_line(facts.base, repo.split("/")[1], repo, "chat_template.jinja", rank)
            template = f"hf download {repo} chat_template.jinja --local-dir ."
            parts += ["vLLM, over the base model:", fence(f"{template}\n{serve}", "bash")]
        return parts
    if facts.form == "merged":
        load = (
            "from transformers import pipeline\n\n"
            f'ask = pipeline("text-generation", "{repo}", dtype="auto")\n{ask}\n'
            'print(ask(messages, max_new_tokens=512, do_sample=False)[0]["generated_text"][-1]["content"])'
        )
        return ["transformers:", fence(load, "python"), "vLLM:", fence(f"vllm serve {repo}", "bash")]
    quants = [_quantisation(name) for name in facts.checks]
    of = next((name for name in quants if name == "Q4_K_M"), quants[0] if quants else "Q8_0")
    return [
        "Ollama (template, system turn and stop tokens are included):",
        fence(f"ollama run hf.co/{repo}:{of}", "bash"),
        "llama.cpp:",
        fence(f"llama-cli -hf {repo}:{of} -cnv --temp 0\nllama-server -hf {repo}:{of} --jinja", "bash"),
    ]


def vllm_line(base: str, name: str, adapter: str, template: str, rank: int) -> str:
    """Write the command that serves an adapter over its base; the template adds the system turn of training."""
    max_rank = next((max_rank for max_rank in RANKS if max_rank >= rank), rank)
    return (
        f"vllm serve {base} --enable-lora --max-lora-rank {max_rank} --lora-modules {name}={adapter} "
        f"--chat-template {template}"
    )


def _quantisation(file: str) -> str:
    return Path(file).stem.rpartition("-")[2].upper()  # as export names its files


# --- how it was made --------------------------------------------------------------------------------------------------

_REWARDS = {
    "answer": "rewarded for the right answer",
    "answer+plan": "rewarded for the right answer and for a plan like the reference",
    "guided": "in groups of several plans with several continuations each (PTA-GRPO, arXiv 2510.01833)",
}


def _method(facts: Facts) -> str:
    """List the trainings of its adapter, in order."""
    recipe, ways = facts.recipe, []
    for stage in facts.trained:
        part = recipe[stage]
        if stage == "sft":
            ways.append(f"supervised learning on what was kept, to write {TARGETS[part['target'], part['solutions']]}")
        elif stage == "cpl":
            ways.append("a search over plan steps (CPL): supervised learning, again from the base, on its right paths")
            if part["pairs"] != "none":
                ways.append(f"preferences between its {part['pairs']}")
        else:
            ways.append(f"reinforcement (GRPO), {_REWARDS[part['reward']]}")
        if part.get("start") not in (None, "sft"):
            ways[-1] += f", starting from {code_span(last_part(part['start']))}"
    rank = recipe["student"]["lora_rank"]
    after = f"After PLAN-TUNING (arXiv 2507.07495): plans were filtered, and a LoRA adapter of rank {rank} trained by\n"
    return "\n".join([after, *(f"{number}. {way}" for number, way in enumerate(ways, 1))])


def _data(facts: Facts) -> list[str]:
    """Describe the training data, and which scored test sets it was not compared with."""
    if facts.stats is None:
        return ["**Data:** the run's corpus was missing when this card was written."]
    stats, learnt = facts.stats, []
    if "sft" in facts.trained:
        learnt.append(f"{stats['train']} rows to learn from and {stats['validation']} to validate.")
    if "grpo" in facts.trained:
        learnt.append(f"{stats['prompts']} questions for reinforcement.")
    tested = stats["in_test_set"]
    others = [code_span(suite) for suite in facts.scores if not tested["words"] or suite not in tested["suites"]]
    if others:
        learnt.append(f"They were **not** compared with {', '.join(others)} before training.")
    return [*of_data(stats), *learnt]


def _licence(facts: Facts) -> str:
    if facts.licence is None:
        return "Unknown to plantune-lite: what the base model's authors say applies to this one too."
    link = f" ([terms]({facts.licence_url}))" if facts.licence_url else ""
    revision = f" The base's revision: {code_span(facts.revision)}." if facts.revision else ""
    return f"That of the base model: {code_span(facts.licence)}{link}.{revision}"
