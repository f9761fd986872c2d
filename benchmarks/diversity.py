"""Five plans in one call, or in five: how different are they, and what do they cost? With a real model, if a small one.

    python -m benchmarks.diversity        # SmolLM2 through llama.cpp, held to the schema; about a quarter of an hour

The prompts are distillation's own. A plan counts once however often it is written; likeness is the share of three-word
runs that two plans of one problem have in common, as the corpus's card has it. Nobody judges these plans: a model of
this size plans badly either way, and how a large teacher's plans differ may be another matter.
"""

import json
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from benchmarks.report import machine, markdown, write
from plantune_lite import intervals, one_problem, smollm2
from plantune_lite.dedup import Shingles, alike
from plantune_lite.plans import chat, question_text, split_steps
from plantune_lite.practice import generate
from plantune_lite.records import Problem

PROBLEMS, PLANS, TEMPERATURE, MAX_TOKENS = 40, 5, 0.7, 600


def main() -> None:
    """Ask both ways for each problem."""
    import llama_cpp

    model = llama_cpp.Llama(str(smollm2.weights()), n_ctx=4096, n_threads=2, verbose=False)
    found: dict[str, list[dict[str, float]]] = {"five calls": [], "one call": []}
    for number, problem in enumerate(generate("train", seed=0, limit=PROBLEMS)):
        found["five calls"].append(figures(singly(model, problem)))
        found["one call"].append(figures(together(model, problem)))
        print(number, {way: one[-1] for way, one in found.items()}, flush=True)
    write_down(found)


def asked(model: Any, prompt: str, seed: int, schema: type | None = None) -> tuple[str, int, int]:
    """One reply, with the tokens that went in and came out."""
    shape = {"type": "json_object", "schema": schema.model_json_schema()} if schema else None
    said = model.create_chat_completion(
        messages=list(chat(prompt)), temperature=TEMPERATURE, max_tokens=MAX_TOKENS, seed=seed, response_format=shape
    )
    return said["choices"][0]["message"]["content"], said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]


def singly(model: Any, problem: Problem) -> tuple[list[tuple[str, ...]], int, int]:
    """A call a plan."""
    replies = [asked(model, one_problem.PLAN.format(problem=question_text(problem)), seed) for seed in range(PLANS)]
    plans = [plan for text, _, _ in replies if (plan := split_steps(text))]
    return plans, sum(count for _, count, _ in replies), sum(count for _, _, count in replies)


def together(model: Any, problem: Problem) -> tuple[list[tuple[str, ...]], int, int]:
    """One structured list; what was cut off is no list."""
    prompt = one_problem.PLANS.format(count=PLANS, problem=question_text(problem))
    text, tokens_in, tokens_out = asked(model, prompt, 0, one_problem.shapes()[2])
    try:
        listed = json.loads(text)["plans"]
    except ValueError:
        listed = []
    plans = [split_steps("\n".join(map(str, plan["steps"]))) for plan in listed[:PLANS]]
    return [plan for plan in plans if plan], tokens_in, tokens_out


def figures(made: tuple[list[tuple[str, ...]], int, int]) -> dict[str, float]:
    """Of one problem's plans."""
    plans, tokens_in, tokens_out = made
    return {
        "plans": len(plans),
        "distinct": len(set(plans)),
        "alike": likeness(plans),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
    }


def likeness(plans: Sequence[tuple[str, ...]]) -> float:
    """Of every two; of fewer than two, one: there is no other."""
    shingles = Shingles()
    of = [shingles.of("\n".join(plan)) for plan in plans]
    return fmean(alike(one, other) for one, other in combinations(of, 2)) if len(of) > 1 else 1.0


def write_down(found: dict[str, list[dict[str, float]]]) -> None:
    """The two ways beside each other, problem by problem."""
    mean = {way: {key: fmean(one[key] for one in rows) for key in rows[0]} for way, rows in found.items()}
    rows = [
        (
            way,
            f"{one['plans']:.2f}",
            f"{one['distinct']:.2f}",
            f"{one['alike']:.2f}",
            f"{one['tokens_in']:.0f} + {one['tokens_out']:.0f}",
        )
        for way, one in mean.items()
    ]
    shares = {way: [one["distinct"] / PLANS for one in of] for way, of in found.items()}
    paired = intervals.paired(shares["one call"], shares["five calls"])
    text = markdown(("asked in", "plans of 5", "distinct", "likeness of two", "tokens in + out"), rows)
    text += (
        f"\n\nDistinct plans, as a share of five, one call minus five: {paired.difference.points()}, over "
        f"{PROBLEMS} problems of `practice`."
    )
    write(
        "diversity",
        command="python -m benchmarks.diversity",
        about="Five plans of SmolLM2-135M in one structured reply beside five replies, temperature "
        f"{TEMPERATURE}, at most {MAX_TOKENS} tokens a reply.",
        found={"machine": machine("llama_cpp_python"), "problems": found, "mean": mean},
        text=text,
    )


if __name__ == "__main__":
    main()
