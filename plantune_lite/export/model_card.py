"""A model in words: the card that goes to the Hub with an adapter, a merged model or GGUF files, from what a run left.

    card(of_run(Path("runs/mine"), form="merged", repo="you/mine-merged", scores={"own": [untuned, baseline, tuned]}))
        -> "---\\nlicense: \\"apache-2.0\\"\\n...---\\n\\n# `mine`\\n\\n**Not better than untuned** on `own`: ..."

Nothing is claimed that was not measured: a card without scores says so in its first line, and where the intervals of
untuned and tuned overlap, it says that. What a model, a teacher or a data set wrote stands in fences.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plantune_lite import plan
from plantune_lite.export.run_facts import EMBEDDED, Facts, Scored
from plantune_lite.problems.benchmarks import BENCHMARKS
from plantune_lite.recipe.redact import last_part, without_paths
from plantune_lite.student.presets import DEQUANTISED
from plantune_lite.terminal import code_span, fence, size
from plantune_lite.types import Problem


def notice(facts: Facts) -> str | None:
    """What a licence wants to stand beside the weights, in a file NOTICE."""
    if facts.licence != "gemma":
        return None
    return (
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"
        f"These files are modified: {facts.base} was trained further with plantune-lite.\n"
    )


def card(facts: Facts) -> str:
    """The README.md of a model's repository."""
    sections = [
        _front_matter(facts),
        f"# {code_span(facts.name)}",
        *_verdict(facts),
        _what(facts),
        *_scores(facts),
        *_files(facts),
        "## How to prompt it",
        *_prompting(facts),
        "## How to run it",
        *_running(facts),
        "## How it was made",
        *_method(facts),
        *_data(facts),
        "## Recipe",
        fence(json.dumps(without_paths(facts.recipe), indent=1, ensure_ascii=False), "json"),
        "## Versions",
        fence("\n".join(f"{name} {version}" for name, version in facts.versions.items()) or "not kept"),
        "## Licence",
        _licence(facts),
        "## Citation",
        fence(_CITATION, "bibtex"),
    ]
    return "\n\n".join(sections) + "\n"


# --- metadata ---------------------------------------------------------------------------------------------------------

_RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
_LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


def _front_matter(facts: Facts) -> str:
    """YAML that the Hub reads; JSON is YAML, so every text is quoted as JSON has it."""
    merged = facts.siblings.get("merged")
    base, relation = facts.base, _RELATION[facts.form]
    if facts.form == "gguf":  # quantised from our merged model; where that is not there, trained from the base
        base, relation = (merged, relation) if merged else (base, "finetune")
    sources = list(facts.stats["sources"]) if facts.stats else []
    datasets = [BENCHMARKS[source].hub for source in sources if source in BENCHMARKS]
    tags = ["planning", "reasoning", "plan-tuning", "plantune-lite", "arxiv:2507.07495"]
    entries = {
        "license": facts.licence or "unknown",
        "license_link": facts.licence_url,
        "base_model": base,
        "base_model_relation": relation if base else None,
        "library_name": _LIBRARY[facts.form],
        "pipeline_tag": "text-generation",
        "language": ["en"] if sources and set(sources) <= {*BENCHMARKS, "practice", "practice_stories"} else None,
        "tags": [*tags, *(["lora"] if facts.form == "adapter" else [])],
        "datasets": list(dict.fromkeys([*([facts.data_repo] if facts.data_repo else []), *datasets])) or None,
        "model-index": _results(facts),
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items() if value]
    return "\n".join(["---", *lines, "---"])


def _results(facts: Facts) -> list[dict[str, Any]]:
    """The scores as the Hub shows them: of what was evaluated, which a quantised file is not."""
    if facts.form == "gguf" or not facts.scores:
        return []
    found = []
    for suite, rows in facts.scores.items():
        mine, known = rows[-1], BENCHMARKS.get(suite)
        metric = {
            "type": "accuracy",
            "name": f"accuracy in %, {mine.counts}, 95 % interval {_interval(mine)}{_but(mine)}",
            "value": round(100 * mine.share, 1),
        }
        dataset = {"name": suite, "type": known.hub if known else suite, **({"split": known.test} if known else {})}
        found.append({"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]})
    return [{"name": facts.name, "results": found}]


# --- what it can do ---------------------------------------------------------------------------------------------------


def _verdict(facts: Facts) -> list[str]:
    """The first line of the card: this model beside the untuned one at its best prompt, suite by suite."""
    if not facts.scores:
        return ["**Unmeasured:** nobody has compared this model with the untuned one."]
    lines = []
    for suite, (untuned, *_, mine) in facts.scores.items():
        test, ahead = ("a paired test", facts.ahead[suite]) if suite in facts.ahead else ("intervals", None)
        if mine.share <= untuned.share:
            said = "**Not better than untuned**"
        elif mine.low > untuned.high if ahead is None else ahead:
            said = "**Better than untuned**"
        else:
            said = f"**Not shown to be better than untuned** (by {test})"
        counts = f"{mine.counts} right, untuned at its best prompt {untuned.counts}"
        lines.append(f"{said} on {code_span(suite)}: {counts}{_but(mine)}.")
    worst_first = sorted(lines, key=lambda line: ("**Better" in line, "**Not shown" in line))
    return ["\n".join(f"- {line}" for line in worst_first) if len(lines) > 1 else lines[0]]


def _but(row: Scored) -> str:
    return f"; but {' and '.join(row.caveats)}" if row.caveats else ""


_WRITES = {
    "solution": "to solve without a plan",
    "plan+solution": "to write a short plan before it solves",
    "plan": "to write a short plan, which another model carries out",
    "answer": "to give the right answer",
}


def _what(facts: Facts) -> str:
    base = code_span(facts.base) if facts.base else "a model of its author's own"
    forms = {
        "adapter": "This is the adapter alone (LoRA): PEFT loads it over the base model.",
        "merged": "The adapter is merged into the 16-bit weights: it runs wherever the base model runs.",
        "gguf": "These are GGUF files of the merged model, for llama.cpp, Ollama, LM Studio and their kin.",
    }
    others = {form: repo for form, repo in facts.siblings.items() if form != facts.form}
    also = (
        " Also as " + ", ".join(f"{form}: [{repo}](/{repo})" for form, repo in others.items()) + "." if others else ""
    )
    compared = f" Beside its adapter: {facts.agreement}." if facts.form == "merged" and facts.agreement else ""
    dequantised = (
        " It was trained over weights out of a 4-bit release (Q4_1), so over the Hub's 16-bit weights it is not quite "
        "the model that was measured."
        if facts.form == "adapter" and facts.recipe["student"]["model"] == EMBEDDED
        else ""
    )
    what = f"{base}, trained {_WRITES[facts.target]}. {forms[facts.form]}"
    return what + compared + dequantised + also


def _scores(facts: Facts) -> list[str]:
    tables = []
    for suite, rows in facts.scores.items():
        lines = [f"| {code_span(row.model)} | {row.counts} | {row.share:.1%} | {_interval(row)} |" for row in rows]
        head = f"| {code_span(suite)} | right | share | 95 % interval |\n| --- | --- | --- | --- |"
        tables.append("\n".join([head, *lines]))
        caveats = dict.fromkeys(caveat for row in rows for caveat in row.caveats)
        tables += [f"But {' and '.join(caveats)}."] if caveats else []
    if tables and facts.recipe["student"]["model"] == EMBEDDED:
        tables.append(DEQUANTISED)
    plot = [f"![Right answers, with 95 % intervals]({facts.plot})"] if facts.plot else []
    if tables and facts.form != "adapter":
        tables.append("Measured with the adapter over its base, before merging and quantising.")
    return ["## Scores", *tables, *plot] if tables or plot else []


def _interval(row: Scored) -> str:
    return f"{100 * row.low:.1f} to {100 * row.high:.1f}"


def _files(facts: Facts) -> list[str]:
    if facts.form != "gguf":
        return []
    lines = ["| file | size | run by llama.cpp | beside the merged model |", "| --- | --- | --- | --- |"]
    for name, check in facts.checks.items():
        ran = {True: "yes", False: "**no: nobody has run this file**", None: "not said"}[check.get("ran")]
        found = [str(check["agreement"])] if check.get("agreement") else []
        found += [f"mean KL {check['kl']:.4f}"] if check.get("kl") is not None else []
        lines.append(f"| {code_span(name)} | {size(check['bytes'])} | {ran} | {', '.join(found) or 'unmeasured'} |")
    return ["## Files", "\n".join(lines)]


# --- how to use it ----------------------------------------------------------------------------------------------------


def _prompting(facts: Facts) -> list[str]:
    carried = (
        "It stands in the chat template already, so a program that renders the template need not send it."
        if facts.form != "adapter"
        else "The tokenizer here puts it in where a conversation has none."
    )
    turn = "The user's turn is the question" + (" and more, see below." if facts.asks_for_plans else ", as it is.")
    lines = [f"{turn} The system turn it was trained with is this. {carried}"]
    lines.append(fence(plan.SYSTEM))
    if facts.asks_for_plans:
        asked = plan.ask_plan_then_solve(Problem(id="", question="(the question)", answer=""))[-1]["content"]
        lines += ["It was trained with this behind the question, and plans where it is asked to:", fence(asked)]
    if facts.target == "plan":
        lines.append("The reply is a plan and no more; give it, with the question, to a model that carries it out.")
    if facts.example and "sft" in facts.trained and "cpl" not in facts.trained:  # a search brings rows of its own
        asked = facts.example["prompt"][-1]["content"]
        lines += ["One row it learnt from, the question:", fence(asked), "and the reply:"]
        lines.append(fence(facts.example["completion"]))
    return lines


def _running(facts: Facts) -> list[str]:
    question = "A pen costs 3 dollars and a book 8. What do 2 pens and a book cost?"
    repo, ask = facts.repo, f'messages = [{{"role": "user", "content": "{question}"}}]'
    if facts.form == "adapter":
        load = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{repo}", dtype="auto")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n{ask}\n'
            'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)\n"
            "reply = model.generate(**inputs, max_new_tokens=512, do_sample=False)\n"
            'print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
        )
        return ["PEFT:", fence(load, "python")]
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
        "Ollama (template, system turn and stop tokens come along):",
        fence(f"ollama run hf.co/{repo}:{of}", "bash"),
        "llama.cpp:",
        fence(f"llama-cli -hf {repo}:{of} -cnv --temp 0\nllama-server -hf {repo}:{of} --jinja", "bash"),
    ]


def _quantisation(file: str) -> str:
    found = re.findall(r"(?i)(?<![a-z0-9])(?:q\d(?:_[a-z0-9]+)*|bf16|f16|f32)(?![a-z0-9])", Path(file).stem)
    return found[-1].upper() if found else Path(file).stem


# --- how it was made --------------------------------------------------------------------------------------------------

_TARGETS = {
    ("solution", "dataset"): "to write the data set's own solution, without a plan (a baseline)",
    ("solution", "teacher"): "to write the teacher's working without the plan that it followed (the control)",
    ("plan+solution", "teacher"): "to write the plan and then the working that follows it (M1)",
    ("plan", "teacher"): "to write the plan alone, for another model to carry out (M2)",
}
_REWARDS = {
    "answer": "rewarded for the right answer",
    "answer+plan": "rewarded for the right answer and for a plan like the reference",
    "guided": "in groups of several plans with several continuations each (PTA-GRPO, arXiv 2510.01833)",
}
_STEPS = {True: "Step-APO", False: "step-DPO"}  # whether what a step is worth counts
_ANSWERS = {True: "DPO with the gap of their values as its margin", False: "DPO"}
_FILTERS = {
    "none": "whatever their score and answer",
    "plan": "where a verifier scored them {min_score} or more",
    "answer": "where following them gave the right answer",
    "both": "where a verifier scored them {min_score} or more and following them gave the right answer",
}


def _method(facts: Facts) -> list[str]:
    """The method in two sentences."""
    recipe, trained = facts.recipe, facts.trained
    sft, grpo = recipe.get("sft"), recipe.get("grpo")
    from_solutions = recipe["distill"]["teacher"] == "worked"
    came = "taken from each problem's worked solution" if from_solutions else "written for each problem"
    raised = recipe["corpus"].get("min_score")
    min_score = recipe["distill"]["min_score"] if raised is None else raised
    passed = _FILTERS[recipe["corpus"]["filter"]].format(min_score=min_score)
    ways = []
    if "sft" in trained:
        target = _TARGETS[sft["target"], sft["solutions"]]
        ways.append(f"by supervised learning on what was kept{_started(sft['start'])}, {target}")
    if "cpl" in trained:
        ways += _searched(recipe["cpl"])
    if "grpo" in trained:
        ways.append(f"by reinforcement (GRPO){_started(grpo['start'])}, {_REWARDS[grpo['reward']]}")
    return [
        f"Plans were {came} and kept {passed}, after PLAN-TUNING (arXiv 2507.07495). A LoRA adapter of rank "
        f"{recipe['student'].get('lora_rank')} was trained {', then '.join(ways) or 'not at all'}."
    ]


def _started(start: str | None) -> str:
    """What a training began with, where that is not what stands before it."""
    if start in (None, "sft"):
        return ""
    return (
        ", from the base itself" if start == "base" else f", going on from another run ({code_span(last_part(start))})"
    )


def _searched(cpl: Mapping[str, Any]) -> list[str]:
    """What a search over plan steps taught."""
    ways = ["by supervised learning, from the base anew, on the right paths of a search over plan steps (CPL)"]
    by_gap = cpl["alpha"] > 0
    if cpl["pairs"] == "steps":
        ways.append(f"by preferring some steps to others, as the search found them ({_STEPS[by_gap]})")
    elif cpl["pairs"] == "answers":
        ways.append(f"by preferring right answers to wrong ones that the search found ({_ANSWERS[by_gap]})")
    return ways


def _data(facts: Facts) -> list[str]:
    if facts.stats is None:
        return ["**Data:** the run's corpus was not there when this card was written."]
    stats, funnel, learned = facts.stats, facts.stats["funnel"], "sft" in facts.trained
    teachers = ", ".join(f"{code_span(name or 'unnamed')} ({count})" for name, count in stats["teachers"].items())
    sources = ", ".join(f"{code_span(name or 'unnamed')} ({count})" for name, count in stats["sources"].items())
    rows = {
        "problems": funnel["problems"],
        "problems with plans": funnel["problems_with_trajectories"],
        "plans": funnel["trajectories"],
        **{f"left out: {code_span(reason)}": count for reason, count in stats["rejected"].items()},
        "plans kept": funnel["kept"],
        **({"rows to learn from": stats["train"], "rows to validate": stats["validation"]} if learned else {}),
        **({"questions for reinforcement": stats["prompts"]} if "grpo" in facts.trained else {}),
    }
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {what} | {count} |" for what, count in rows.items())])
    unscored = " Nobody scored the plans." if stats["unscored"] == 1 else ""
    where = f" The rows are at [{facts.data_repo}](/datasets/{facts.data_repo})." if facts.data_repo else ""
    came = f"Rows by source: {sources}. Plans by teacher: {teachers}.{unscored}{where}"
    return [came, table, _compared(facts)]


def _compared(facts: Facts) -> str:
    """Which test sets the training problems were compared with, and which of those that have scores they were not."""
    tested = facts.stats["in_test_set"]
    suites = list(tested["suites"]) if tested["words"] else []
    if not suites:
        return "The training problems were **not** compared with any test set."
    others = ", ".join(code_span(suite) for suite in facts.scores if suite not in suites)
    return (
        f"Training problems that share {tested['words']} words in a row with a problem of "
        f"{', '.join(map(code_span, suites))} were left out: {tested['problems']}."
    ) + (f" With {others} they were **not** compared before training." if others else "")


def _licence(facts: Facts) -> str:
    if facts.licence is None:
        return "Unknown to plantune-lite: what the base model's authors say holds for this one too."
    link = f" ([terms]({facts.licence_url}))" if facts.licence_url else ""
    revision = f" The base's revision: {code_span(facts.revision)}." if facts.revision else ""
    return f"That of the base model: {code_span(facts.licence)}{link}.{revision}"


_CITATION = """@inproceedings{plantuning2025,
  title     = {{PLAN-TUNING}},
  author    = {Parmar and others},
  booktitle = {Proceedings of EMNLP},
  year      = {2025},
  note      = {arXiv:2507.07495}
}

@software{plantune_lite,
  title  = {plantune-lite: small language models that plan before they solve},
  year   = {2026}
}"""
