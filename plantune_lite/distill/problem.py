"""One problem through a teacher: constraints, plans, a verifier's score, an execution, a checked answer.

The method is PLAN-TUNING's (arXiv 2507.07495): a plan is kept when a strict verifier scores it high enough and what
comes of following it is the right answer. `keep="first"` makes plans until one is kept, "best" is the paper's own.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from plantune_lite.distill.prompts import (
    CONSTRAINTS,
    DIRECTION,
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
from plantune_lite.recipe.schema import Direction, Distill
from plantune_lite.types import (
    Ask,
    Fault,
    Problem,
    Reason,
    Rejected,
    Reply,
    Sampling,
    Trajectory,
    Verdict,
    fault_of,
    present,
)

Check = Callable[[Problem, str], Verdict]  # whether the program in an execution passes its tests; may take seconds
Kind = Literal["constraints", "plan", "score", "execution"]  # what a teacher is asked for


@dataclass(frozen=True)
class _Judged:
    sample: int
    plan: tuple[str, ...]
    tokens: int
    score: int | None = None
    critique: str = ""
    fault: Fault | None = None  # why the plan is not worth an execution


class Distiller:
    """Take one problem through a teacher; where its answer is a program, `check` says whether it is right."""

    def __init__(self, problem: Problem, ask: Ask, part: Distill, teacher: str, check: Check | None = None) -> None:
        self._problem, self._ask, self._part = problem, ask, part
        self._teacher, self._check = teacher, check
        self._text = question_text(problem)
        self._solution = problem.solution or "\n".join(problem.steps)

    async def run(self) -> list[Trajectory]:
        """Return all that the teacher makes of the problem, what is rejected among it."""
        part = self._part
        if part.plan_from == "solution" and not self._solution:
            nothing = _trajectory(self._problem, _Judged(0, (), 0), self._teacher)
            return [_rejected(nothing, Fault(Reason.NO_WORKED_SOLUTION))]
        constraints = ""
        if part.min_score is not None:
            constraints = (await self.asked("constraints", CONSTRAINTS.format(problem=self._text)))[0].text
        found: list[Trajectory] = []
        kept = False
        async for judged in self._in_order(constraints):
            fault = judged.fault or (Fault(Reason.BETTER_KEPT) if kept else None)
            if fault and part.execute == "kept":
                made = _trajectory(self._problem, judged, self._teacher)
            else:
                made, fault = await self._execute(judged)
            found.append(_rejected(made, fault) if fault else made)
            kept = kept or not fault
            if kept and part.keep == "first" and part.execute == "kept":
                break
        return found

    async def asked(
        self, kind: Kind, prompt: str, schema: type | None = None, *, n: int = 1, count: int = 1
    ) -> list[Reply]:
        """Ask for n replies, each with `count` plans or scores in it."""
        temperature = self._part.temperature if kind == "plan" else 0.0
        sampling = Sampling(temperature=temperature, n=n, max_tokens=self._part.max_tokens)
        return await self._ask(chat(prompt), sampling, schema)

    async def _in_order(self, constraints: str) -> AsyncIterator[_Judged]:
        """Yield plans with their scores: as they are made, or all of them from the best down."""
        if self._part.keep == "first":
            async for batch in self._plans():
                for judged in await self._judge(constraints, batch):
                    yield judged
            return
        plans = [plan async for batch in self._plans() for plan in batch]
        for judged in sorted(await self._judge(constraints, plans), key=_best_first):
            yield judged

    async def _plans(self) -> AsyncIterator[list[_Judged]]:
        """Yield plans in the batches they are asked in; sample k is the same plan whatever `keep` says, so that nothing
        is paid twice."""
        part = self._part
        told = {"problem": self._text, "direction": DIRECTION[part.direction]}
        if part.plans_per_call > 1:
            prompt = PLANS.format(count=part.plans_per_call, **told)
            for call in range(-(-part.plans // part.plans_per_call)):
                replies = await self.asked("plan", prompt, reply_shapes()[2], n=call + 1, count=part.plans_per_call)
                plans = _said(replies[call]).get("plans", [])
                first = call * part.plans_per_call
                tokens = _tokens(replies[call]) // max(1, len(plans))
                yield [
                    self._planned(first + number, "\n".join(plan["steps"]), tokens)
                    for number, plan in enumerate(plans[: min(part.plans_per_call, part.plans - first)])
                ]
            return
        if part.plan_from == "solution":
            prompt = PLAN_OF_SOLUTION.format(solution=self._solution, **told)
        else:
            prompt = PLAN.format(**told)
        seen = 0
        for n in [part.plans] if part.keep == "best" else range(1, part.plans + 1):
            replies = await self.asked("plan", prompt, n=n)
            yield [
                _Judged(number, (), _tokens(reply), fault=Fault(Reason.PLAN_CUT_OFF))
                if reply.finish == "length"
                else self._planned(number, reply.text, _tokens(reply))
                for number, reply in list(enumerate(replies))[seen:]
            ]
            seen = n

    def _planned(self, sample: int, text: str, tokens: int) -> _Judged:
        plan = split_steps(text)
        if not plan:
            return _Judged(sample, plan, tokens, fault=Fault(Reason.NO_PLAN))
        why = spoiler(plan, self._problem)
        return _Judged(sample, plan, tokens, fault=Fault(Reason.SPOILS, why) if why else None)

    async def _judge(self, constraints: str, plans: Sequence[_Judged]) -> list[_Judged]:
        """Score the plans; one that is none, or a spoiler, is worth no call unless all are executed."""
        part = self._part
        if part.min_score is None:
            return list(plans)
        wanted = [plan for plan in plans if plan.plan and (not plan.fault or part.execute == "all")]
        scores: dict[int, _Judged] = {}

        def prompt(listed: str) -> str:
            return SCORE.format(problem=self._text, constraints=constraints, plans=listed)

        if len(wanted) > 1 and part.plans_per_call > 1:
            listed = "\n".join(f"Plan {number}:\n{render(plan.plan)}" for number, plan in enumerate(wanted, 1))
            together = prompt(f"{listed}\nJudge each of the {len(wanted)} plans, in this order.")
            [reply] = await self.asked("score", together, reply_shapes()[1], count=len(wanted))
            judged = _said(reply).get("judged", [])
            if len(judged) == len(wanted):
                for plan, verdict in zip(wanted, judged, strict=True):
                    scores[plan.sample] = self._scored(plan, verdict, _tokens(reply) // len(wanted))
            wanted = [plan for plan in wanted if plan.sample not in scores]  # another number of verdicts: one by one
        asking = (self.asked("score", prompt(render(plan.plan)), reply_shapes()[0]) for plan in wanted)
        for plan, (reply,) in zip(wanted, await asyncio.gather(*asking), strict=True):
            scores[plan.sample] = self._scored(plan, _said(reply), _tokens(reply))
        return [scores.get(plan.sample, plan) for plan in plans]

    def _scored(self, plan: _Judged, verdict: dict[str, Any], tokens: int) -> _Judged:
        tokens += plan.tokens
        if "score" not in verdict:
            return replace(plan, tokens=tokens, fault=plan.fault or Fault(Reason.NO_SCORE))
        score, least = max(-100, min(100, verdict["score"])), self._part.min_score
        low = Fault(Reason.LOW_SCORE, f"{score} < {least}") if score < least else None
        critique = verdict.get("reasons", "")
        return replace(plan, tokens=tokens, score=score, critique=critique, fault=plan.fault or low)

    async def _execute(self, judged: _Judged) -> tuple[Trajectory, Fault | None]:
        """Carry the plan out, and say why the outcome is not kept, if it is not."""
        problem = self._problem
        if not judged.plan:
            return _trajectory(problem, judged, self._teacher), judged.fault
        cut_off = None
        if self._part.plan_from == "solution":  # the data set's own working is what follows the plan
            code = problem.kind == "code"
            execution = as_block(f"{problem.question.rstrip()}\n{self._solution}") if code else self._solution
        else:
            prompt = EXECUTE_CODE if problem.kind == "code" else EXECUTE
            [reply] = await self.asked("execution", prompt.format(problem=self._text, plan=render(judged.plan)))
            execution, judged = reply.text.strip(), replace(judged, tokens=judged.tokens + _tokens(reply))
            if reply.finish == "length":  # said before all else: no filter may let it be learned from
                cut_off = Fault(Reason.EXECUTION_CUT_OFF)
        answer, wrong = await self._answer(execution)
        made = _trajectory(problem, judged, self._teacher, execution, answer)
        return made, cut_off or judged.fault or wrong

    async def _answer(self, execution: str) -> tuple[str | None, Fault | None]:
        """Return the answer that an execution comes to, and what is wrong with it, if anything is."""
        problem = self._problem
        if problem.kind == "code":  # a program that passes has the gold answer from here on: nobody need run it again
            verdict = await asyncio.to_thread(present(self._check), problem, execution)
            if verdict.same:
                return problem.answer, None
            return None, Fault(Reason.NO_ANSWER if verdict.same is None else Reason.WRONG_ANSWER, verdict.how)
        answer = problem.answer if self._part.plan_from == "solution" else final_answer(execution)
        if answer is None:
            return None, Fault(Reason.NO_ANSWER)
        return answer, fault_of(same_answer(answer, problem.answer, choices=problem.choices))


def _best_first(judged: _Judged) -> tuple[bool, int, int, int]:
    return judged.score is None, -(judged.score or 0), len(judged.plan), judged.sample


def _trajectory(
    problem: Problem, judged: _Judged, teacher: str, execution: str = "", answer: str | None = None
) -> Trajectory:
    return Trajectory(
        problem_id=problem.id,
        sample=judged.sample,
        question=question_text(problem),
        plan=judged.plan,
        execution=execution,
        answer=answer,
        score=judged.score,
        critique=judged.critique,
        teacher=teacher,
        tokens=judged.tokens,
    )


def _rejected(made: Trajectory, fault: Fault) -> Rejected:
    return Rejected(**vars(made), **vars(fault))


def _said(reply: Reply) -> dict[str, Any]:
    """Read a structured reply; empty where there was none."""
    return json.loads(reply.text) if reply.text else {}


def _tokens(reply: Reply) -> int:
    return reply.tokens_in + reply.tokens_out + reply.tokens_thought


def worked(problem: Problem, direction: Direction | None = None) -> Trajectory:
    """Return what a worked solution makes of one problem, without a teacher."""
    taken = plan_of(problem, direction)
    answer = final_answer(taken.execution)
    made = _trajectory(problem, _Judged(0, taken.plan, 0), "worked", taken.execution, answer)
    fault = Fault(taken.reason) if taken.reason else None
    if not fault and (why := spoiler(taken.plan, problem)):
        fault = Fault(Reason.SPOILS, why)
    fault = fault or fault_of(same_answer(answer or "", problem.answer, choices=problem.choices))
    return _rejected(made, fault) if fault else made
