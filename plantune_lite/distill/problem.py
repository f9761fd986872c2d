"""One problem through a teacher: constraints, plans, a verifier's score, an execution, a checked answer.

The method is PLAN-TUNING's (arXiv 2507.07495): a plan is kept when a strict verifier scores it high enough and what
comes of following it is the right answer. `keep="first"` makes plans until one is kept, "best" is the paper's own.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plantune_lite.distill.prompts import (
    CONSTRAINTS,
    EXECUTE,
    EXECUTE_CODE,
    PLAN,
    PLAN_OF_SOLUTION,
    PLANS,
    SCORE,
    reply_shapes,
)
from plantune_lite.distill.worked import plan_of
from plantune_lite.grading.answers import final_answer, same_answer
from plantune_lite.plan import as_block, chat, question_text, render, split_steps, spoiler
from plantune_lite.recipe.schema import Distill
from plantune_lite.types import Ask, Problem, Rejected, Reply, Sampling, Trajectory, Verdict

# --- prompts, each beside what reads its reply ------------------------------------------------------------------------


# --- one problem ------------------------------------------------------------------------------------------------------


CUT_OFF = "execution cut off"


@dataclass(frozen=True)
class _Judged:
    sample: int
    plan: tuple[str, ...]
    tokens: int
    score: int | None = None
    critique: str = ""
    fault: str = ""  # why the plan is not worth an execution


@dataclass(frozen=True)
class Found:
    """What came of one problem."""

    kept: tuple[Trajectory, ...]
    rejected: tuple[Rejected, ...]


Check = Callable[[Problem, str], Verdict]  # whether the program in an execution passes its tests; may take seconds


def _unchecked(problem: Problem, execution: str) -> Verdict:
    return Verdict(same=None, how="nobody may run it")


async def distil(problem: Problem, ask: Ask, part: Distill, teacher: str, check: Check = _unchecked) -> Found:
    """All that a teacher makes of one problem; where its answer is a program, `check` says whether it is right."""
    if part.plan_from == "solution" and not (problem.solution or problem.steps):
        nothing = _trajectory(problem, _Judged(0, (), 0), teacher)
        return Found((), (Rejected(**vars(nothing), reason="no worked solution"),))
    constraints = ""
    if part.min_score is not None:
        constraints = (await _one(ask, CONSTRAINTS.format(problem=question_text(problem)), part)).text
    kept: list[Trajectory] = []
    rejected: list[Rejected] = []

    async def carry_out(judged: _Judged) -> None:
        made, reason = await _execute(problem, judged, ask, part, teacher, check)
        if reason:
            rejected.append(Rejected(**vars(made), reason=reason))
        else:
            kept.append(made)

    def drop(judged: _Judged) -> None:
        rejected.append(Rejected(**vars(_trajectory(problem, judged, teacher)), reason=judged.fault))

    if part.keep == "first":
        async for judged in _one_after_another(problem, constraints, ask, part):
            if judged.fault and part.execute == "kept":
                drop(judged)
            else:
                await carry_out(judged)
            if kept and part.execute == "kept":
                break
    else:
        plans = [plan async for batch in _plans(problem, ask, part) for plan in batch]
        judged_all = await _judge(problem, constraints, plans, ask, part)
        for judged in sorted(judged_all, key=_best_first):
            if judged.fault and part.execute == "kept":
                drop(judged)
            elif kept and part.execute == "kept":
                drop(replace(judged, fault="a better plan was kept"))
            else:
                await carry_out(judged)
    return Found(tuple(kept), tuple(rejected))


async def _one_after_another(problem: Problem, constraints: str, ask: Ask, part: Distill) -> AsyncIterator[_Judged]:
    async for batch in _plans(problem, ask, part):
        for judged in await _judge(problem, constraints, batch, ask, part):
            yield judged


def _best_first(judged: _Judged) -> tuple[bool, int, int, int]:
    return judged.score is None, -(judged.score or 0), len(judged.plan), judged.sample


async def _plans(problem: Problem, ask: Ask, part: Distill) -> AsyncIterator[list[_Judged]]:
    """Plans in the batches they are asked in; sample k is the same plan whatever `keep` says: nothing is paid twice."""
    text = question_text(problem)
    if part.plans_per_call > 1:
        prompt = chat(PLANS.format(count=part.plans_per_call, problem=text))
        for call in range(-(-part.plans // part.plans_per_call)):
            sampling = Sampling(temperature=part.temperature, n=call + 1, max_tokens=part.max_tokens)
            reply = (await ask(prompt, sampling, reply_shapes()[2]))[call]
            plans = [tuple(map(str, plan["steps"])) for plan in _said(reply).get("plans", [])]
            first = call * part.plans_per_call
            tokens = _tokens(reply) // max(1, len(plans))
            yield [
                _planned(first + number, split_steps("\n".join(steps)), tokens, problem)
                for number, steps in enumerate(plans[: min(part.plans_per_call, part.plans - first)])
            ]
        return
    from_solution = part.plan_from == "solution"
    solution = problem.solution or "\n".join(problem.steps)
    form = PLAN_OF_SOLUTION if from_solution else PLAN
    prompt = chat(form.format(problem=text, **({"solution": solution} if from_solution else {})))
    asked_together = [part.plans] if part.keep == "best" else range(1, part.plans + 1)
    seen = 0
    for count in asked_together:
        sampling = Sampling(temperature=part.temperature, n=count, max_tokens=part.max_tokens)
        replies = await ask(prompt, sampling, None)
        yield [
            _planned(number, split_steps(reply.text), _tokens(reply), problem, cut_off=reply.finish == "length")
            for number, reply in list(enumerate(replies))[seen:]
        ]
        seen = count


def _planned(sample: int, plan: tuple[str, ...], tokens: int, problem: Problem, *, cut_off: bool = False) -> _Judged:
    if cut_off:
        return _Judged(sample, (), tokens, fault="plan cut off")
    fault = "no plan in the reply"
    if plan:
        why = spoiler(plan, problem)
        fault = f"spoils the answer: {why}" if why else ""
    return _Judged(sample, plan, tokens, fault=fault)


async def _judge(
    problem: Problem, constraints: str, plans: Sequence[_Judged], ask: Ask, part: Distill
) -> list[_Judged]:
    """The plans with their scores; a plan that is none, or a spoiler, is worth no call unless all are executed."""
    if part.min_score is None:
        return list(plans)
    wanted = [plan for plan in plans if plan.plan and (not plan.fault or part.execute == "all")]
    text = question_text(problem)
    scores: dict[int, _Judged] = {}
    if len(wanted) > 1 and part.plans_per_call > 1:
        listed = "\n".join(f"Plan {number}:\n{render(plan.plan)}" for number, plan in enumerate(wanted, 1))
        ending = f"{listed}\nJudge each of the {len(wanted)} plans, in this order."
        prompt = SCORE.format(problem=text, constraints=constraints, plans=ending)
        reply = (await ask(chat(prompt), _greedy(part), reply_shapes()[1]))[0]
        judged = _said(reply).get("judged", [])
        if len(judged) == len(wanted):
            for plan, verdict in zip(wanted, judged, strict=True):
                scores[plan.sample] = _scored(plan, verdict, _tokens(reply) // len(wanted), part)
        wanted = [plan for plan in wanted if plan.sample not in scores]  # another number of verdicts: one by one
    prompts = [SCORE.format(problem=text, constraints=constraints, plans=render(plan.plan)) for plan in wanted]
    replies = await asyncio.gather(*(ask(chat(prompt), _greedy(part), reply_shapes()[0]) for prompt in prompts))
    for plan, (reply,) in zip(wanted, replies, strict=True):
        scores[plan.sample] = _scored(plan, _said(reply), _tokens(reply), part)
    return [scores.get(plan.sample, plan) for plan in plans]


def _scored(plan: _Judged, verdict: dict[str, Any], tokens: int, part: Distill) -> _Judged:
    if "score" not in verdict:
        fault, score, critique = plan.fault or "no score to be had", None, ""
    else:
        score, critique = max(-100, min(100, verdict["score"])), verdict.get("reasons", "")
        fault = plan.fault or (f"plan score {score} < {part.min_score}" if score < part.min_score else "")
    return _Judged(plan.sample, plan.plan, plan.tokens + tokens, score, critique, fault)


async def _execute(
    problem: Problem, judged: _Judged, ask: Ask, part: Distill, teacher: str, check: Check
) -> tuple[Trajectory, str]:
    """The plan carried out, and why the outcome is not kept, if it is not."""
    if not judged.plan:
        return _trajectory(problem, judged, teacher), judged.fault
    if part.plan_from == "solution":  # the data set's own working is what follows the plan
        worked = problem.solution or "\n".join(problem.steps)
        execution = as_block(f"{problem.question.rstrip()}\n{worked}") if problem.kind == "code" else worked
        tokens, finish = 0, "stop"
    else:
        prompt = EXECUTE_CODE if problem.kind == "code" else EXECUTE
        reply = await _one(ask, prompt.format(problem=question_text(problem), plan=render(judged.plan)), part)
        execution, tokens, finish = reply.text.strip(), _tokens(reply), reply.finish
    answer, wrong = await _answer(problem, execution, part, check)
    made = _trajectory(problem, judged, teacher, execution=execution, answer=answer, tokens=tokens)
    if finish == "length":  # said before all else: no filter may let it be learned from
        return made, CUT_OFF
    if judged.fault:
        return made, judged.fault
    return made, wrong if finish == "stop" else "no execution to be had"


async def _answer(problem: Problem, execution: str, part: Distill, check: Check) -> tuple[str | None, str]:
    """The answer that an execution comes to, and what is wrong with it, if anything is."""
    if problem.kind == "code":  # a program that passes has the gold answer from here on: nobody need run it again
        verdict = await asyncio.to_thread(check, problem, execution)
        reason = "no answer in the execution" if verdict.same is None else "wrong answer"
        return (problem.answer, "") if verdict.same else (None, f"{reason}: {verdict.how}")
    answer = problem.answer if part.plan_from == "solution" else final_answer(execution)
    if answer is None:
        return None, "no answer in the execution"
    verdict = same_answer(answer, problem.answer, choices=problem.choices)
    return answer, "" if verdict.same else ("wrong answer" if verdict.same is False else "answer cannot be checked")


def _trajectory(problem: Problem, judged: _Judged, teacher: str, **more: Any) -> Trajectory:
    return Trajectory(
        problem_id=problem.id,
        sample=judged.sample,
        question=question_text(problem),
        plan=judged.plan,
        execution=more.get("execution", ""),
        answer=more.get("answer"),
        score=judged.score,
        critique=judged.critique,
        teacher=teacher,
        tokens=judged.tokens + more.get("tokens", 0),
    )


async def _one(ask: Ask, prompt: str, part: Distill) -> Reply:
    return (await ask(chat(prompt), _greedy(part), None))[0]


def _greedy(part: Distill) -> Sampling:
    return Sampling(temperature=0.0, max_tokens=part.max_tokens)


def _said(reply: Reply) -> dict[str, Any]:
    """A structured reply; empty where there was none. Teachers keep their schemas, an Ask of a user's own may not."""
    try:
        value = json.loads(reply.text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _tokens(reply: Reply) -> int:
    return reply.tokens_in + reply.tokens_out + reply.tokens_thought


def worked(problem: Problem) -> Found:
    """What a worked solution makes of one problem, without a teacher."""
    taken = plan_of(problem)
    answer = final_answer(taken.execution)
    judged = _Judged(0, taken.plan, 0)
    made = _trajectory(problem, judged, "worked", execution=taken.execution, answer=answer)
    reason = taken.reason
    if not reason and (why := spoiler(taken.plan, problem)):
        reason = f"spoils the answer: {why}"
    if not reason and not same_answer(answer or "", problem.answer, choices=problem.choices).same:
        reason = "wrong answer"
    if reason:
        return Found((), (Rejected(**vars(made), reason=reason),))
    return Found((made,), ())
