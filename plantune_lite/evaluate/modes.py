"""Evaluate one model on test problems in one of several modes: figures with intervals.

Input: a Generate (a student, an adapter, a merged model, a GGUF, a server, a lambda) and problems. Output:
eval/SUITE.MODEL.jsonl with every graded answer (answers.py), and the figures:

    evaluate_problems(generate, problems, mode="m1", out=Path("eval/own.sft.jsonl"), how=Asking())
    -> {"line": "own sft m1: 22 of 60 right, 36.7 % (25.6 to 49.3), 5 % cut off", "accuracy": {...}, ...}

A student's arms (m1, m2, plain) see the bare question, as in training; a student that GRPO prompted for plans is
prompted for them here. Any other prompt is for the untuned model, whose best one leads every comparison.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from plantune_lite.evaluate.answers import AS_IT_COMES, Answer, Asking, answered, each
from plantune_lite.evaluate.compare import row_of
from plantune_lite.evaluate.results import Answers, alone
from plantune_lite.plan import (
    CLOSE,
    OPEN,
    ask_plainly,
    ask_plan_then_solve,
    ask_step_by_step,
    ask_to_follow,
    render,
    with_answer,
    written_plan,
)
from plantune_lite.problems.split import normalised
from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import Summaries
from plantune_lite.student.load import Loaded
from plantune_lite.student.vllm_engine import load_to_ask
from plantune_lite.types import Generate, Messages, PlantuneError, Problem, Reply, Sampling

Mode = Literal["zero_shot_cot", "plan_then_solve", "few_shot", "m1", "plain", "m2"]
# How a student answers the bare question: by sft.target.
OF_TARGET: Mapping[str, Mode] = {"plan+solution": "m1", "plan": "m2", "solution": "plain"}
ASK: Mapping[str, Callable[[Problem], Messages]] = {
    "zero_shot_cot": ask_step_by_step,
    "plan_then_solve": ask_plan_then_solve,
    "m1": ask_plainly,  # plans by itself, then solves
    "plain": ask_plainly,  # learned to solve without a plan: the baseline
    "m2": ask_plainly,  # plans; what it goes on to write is not read
}
SHOTS = 3


def evaluate_problems(
    generate: Generate, problems: Sequence[Problem], *, mode: Mode, out: Path, how: Asking = AS_IT_COMES
) -> dict[str, Any]:
    """Evaluate in one mode, resuming from what `out` holds."""
    if not problems:
        raise PlantuneError("there are no problems to evaluate on: raise problems.held_out, or name another suite")
    if not how.allow_code and (programs := [problem.id for problem in problems if problem.kind == "code"]):
        raise PlantuneError(
            f"{len(programs)} of the {len(problems)} problems ask for a program ({programs[0]}): allow running what "
            "the model wrote with evaluate.allow_code=true, or leave the suite out"
        )
    answer, prompt = way_to_answer(mode, generate, problems, how)
    settings = {"shots": SHOTS if mode == "few_shot" else 0, "prompt": prompt}
    scores = answered(problems, answer, mode=mode, out=out, how=how, settings=settings)
    suite, _, model = out.stem.partition(".")
    by_id = {problem.id: problem for problem in problems}
    answers = Answers(suite=suite, run="", model=model, mode=mode, name=model, scores=scores, problems=by_id)
    row = row_of(alone(answers), how.sampling.seed)
    right = row.accuracy.percent()
    if row.samples == 1:
        right = f"{round(row.accuracy.value * row.problems)} of {row.problems} right, {right}"
    line = f"{out.stem.replace('.', ' ', 1)} {mode}: {right}"
    how.show(line, True)
    return {"line": line, **asdict(row)}


def examples_of(run: Path) -> list[Problem]:
    """Read the problems for few_shot and for choosing a prompt: those of the run's pool outside its suites."""
    folder = RunFolder(run)
    tested = {normalised(problem) for suite in folder.suite_problems().values() for problem in suite}
    return [p for p in folder.problems() if normalised(p) not in tested] if folder.pool.is_file() else []


def prompts_with_examples(
    modes: Sequence[Mode], examples: Sequence[Problem], say: Callable[[str], object]
) -> Sequence[Mode]:
    """Leave few_shot out if too few of the examples are solved."""
    solved = sum(bool(example.solution or example.steps) for example in examples)
    if "few_shot" not in modes or solved >= SHOTS:
        return modes
    say(f"few_shot is left out: it needs {SHOTS} solved problems, and there are {solved}")
    return tuple(mode for mode in modes if mode != "few_shot") or ("zero_shot_cot",)


def student_to_ask(
    recipe: Recipe, say: Callable[[str], object], *, adapter: Path | None = None, pinned: str | None = None
) -> Loaded:
    """Load a recipe's student with room for the replies of its evaluation."""
    room = room_to_answer(recipe)
    return load_to_ask(recipe.student, adapter=adapter, pinned=pinned, room=room, seed=recipe.seed, say=say)


def room_to_answer(recipe: Recipe) -> int:
    """Return how many tokens a prompt and its reply may have."""
    return recipe.student.max_length + recipe.evaluate.max_tokens


def sampling_of(recipe: Recipe) -> Sampling:
    """Return the sampling parameters of a recipe's evaluation."""
    part = recipe.evaluate
    return Sampling(
        temperature=part.temperature, top_p=part.top_p, n=part.samples, max_tokens=part.max_tokens, seed=recipe.seed
    )


def mode_of(recipe: Recipe, earlier: Summaries) -> Mode:
    """Return the mode in which a run's model is asked: as in training, read from the `earlier` summaries."""
    if earlier.grpo.asks_for_plans:
        return "plan_then_solve"
    return OF_TARGET[recipe.sft.target if recipe.sft else "plan+solution"]


# --- the modes --------------------------------------------------------------------------------------------------------


def way_to_answer(mode: Mode, generate: Generate, problems: Sequence[Problem], how: Asking) -> tuple[Answer, str]:
    """Build this mode's answer function, with no few-shot example from `problems`, and fingerprint its prompt."""
    ask = _few_shot(how.examples, problems, how.sampling.seed) if mode == "few_shot" else ASK[mode]
    shown = [ask(Problem(id="", question="?", answer=""))]
    if mode == "m2":
        if how.executor is None:
            raise PlantuneError("mode m2 needs an executor, the untuned model: evaluate the run itself, not --model")
        shown.append(ask_to_follow(Problem(id="", question="?", answer=""), ("?",)))
        answer = _plan_then_execute(generate, how.executor)
    else:
        answer = _in_one_go(generate, ask)
    return answer, hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def _in_one_go(generate: Generate, ask: Callable[[Problem], Messages]) -> Answer:
    return lambda problems, sampling: each(generate, [ask(problem) for problem in problems], sampling)


def _few_shot(examples: Sequence[Problem], problems: Sequence[Problem], seed: int) -> Callable[[Problem], Messages]:
    """Put worked examples into earlier turns, none of them a test problem."""
    tested = set(map(normalised, problems))
    fit = [example for example in examples if (example.solution or example.steps) and normalised(example) not in tested]
    if len(fit) < SHOTS:
        raise PlantuneError(
            f"mode few_shot needs {SHOTS} solved examples that are not test problems, and {len(fit)} of "
            f"{len(examples)} are: give problems with a solution column, or leave few_shot out"
        )
    turns: list[dict[str, str]] = []
    for example in Random(seed).sample(fit, SHOTS):
        worked = with_answer(example.solution or "\n".join(example.steps), example.answer)
        turns += [*ask_step_by_step(example)[1:], {"role": "assistant", "content": worked}]

    def ask(problem: Problem) -> Messages:
        system, question = ask_step_by_step(problem)
        return (system, *turns, question)

    return ask


def _plan_then_execute(planner: Generate, executor: Generate) -> Answer:
    """Pass the student's plan alone to the executor, greedily; without a plan it works step by step (M2)."""

    def answer(problems: Sequence[Problem], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
        prompts = [ASK["m2"](problem) for problem in problems]
        planned = planner(prompts, replace(sampling, stop=(CLOSE,)))
        plans = [
            (problem, reply, plan_alone(reply))
            for problem, replies in zip(problems, planned, strict=True)
            for reply in replies
        ]
        orders = [ask_to_follow(problem, plan) if plan else ask_step_by_step(problem) for problem, _, plan in plans]
        greedy = replace(sampling, n=1, temperature=0.0)
        executed = executor(orders, greedy)
        texts = [
            replace(
                done,
                text=render(plan, done.text) if plan else done.text,
                tokens_in=reply.tokens_in + done.tokens_in,
                tokens_out=reply.tokens_out + done.tokens_out,
            )
            for (_, reply, plan), [done] in zip(plans, executed, strict=True)
        ]
        yield from enumerate(texts[start : start + sampling.n] for start in range(0, len(texts), sampling.n))

    return answer


def plan_alone(reply: Reply) -> tuple[str, ...]:
    """Parse the plan in a reply that may have been stopped at its closing tag, which some engines then leave out."""
    text = reply.text
    if reply.finish == "stop" and OPEN in text and CLOSE not in text:
        text = f"{text.rstrip()}\n{CLOSE}"
    return written_plan(text)
