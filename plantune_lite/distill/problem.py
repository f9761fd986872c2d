"""Distill one problem with a teacher: constraints, plans, a verifier's score, an execution, a checked answer.

The method is PLAN-TUNING's (arXiv 2507.07495): a plan is kept when a strict verifier scores it high enough and
following it gives the right answer. `keep="first"` makes plans until one is kept, "best" is the paper's.
"""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from plantune_lite.distill.filters import spoils
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
from plantune_lite.plan import as_block, chat, question_text, render, split_steps
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
Kind = Literal["constraints", "plan", "score", "execution"]  # of a teacher's reply


@dataclass(frozen=True)
class _Planned:
    """A plan on its way to a trajectory."""

    draft: Trajectory  # so far
    fault: Fault | None = None  # why the plan is not worth an execution


class Distiller:
    """Distill one problem with a teacher; where its answer is a program, `check` grades it."""

    def __init__(self, problem: Problem, ask: Ask, part: Distill, teacher: str, check: Check | None = None) -> None:
        self._problem, self._ask, self._part = problem, ask, part
        self._teacher, self._check = teacher, check
        self._text = question_text(problem)
        self._solution = problem.solution or "\n".join(problem.steps)

    async def run(self) -> list[Trajectory]:
        """Return every trajectory of the problem, rejected ones included."""
        part = self._part
        if part.plan_from == "solution" and not self._solution:
            return [_rejected(_begun(self._problem, self._teacher), Fault(Reason.NO_WORKED_SOLUTION))]
        constraints = ""
        if part.min_score is not None:
            constraints = (await self.ask("constraints", CONSTRAINTS.format(problem=self._text)))[0].text
        trajectories: list[Trajectory] = []
        kept = False
        async for planned in self._in_order(constraints):
            draft, fault = planned.draft, planned.fault or (Fault(Reason.BETTER_KEPT) if kept else None)
            if not fault or part.execute == "all":
                draft, fault = await self._execute(planned)
            trajectories.append(_rejected(draft, fault) if fault else draft)
            kept = kept or not fault
            if kept and part.keep == "first" and part.execute == "kept":
                break
        return trajectories

    async def ask(
        self, kind: Kind, prompt: str, schema: type | None = None, *, n: int = 1, count: int = 1
    ) -> list[Reply]:
        """Ask for n replies, each with `count` plans or scores in it."""
        temperature = self._part.temperature if kind == "plan" else 0.0
        sampling = Sampling(temperature=temperature, n=n, max_tokens=self._part.max_tokens)
        return await self._ask(chat(prompt), sampling, schema)

    async def _in_order(self, constraints: str) -> AsyncIterator[_Planned]:
        """Yield plans with their scores: as they are made, or all of them, best first."""
        if self._part.keep == "first":
            async for batch in self._plans():
                for plan in await self._judge(constraints, batch):
                    yield plan
            return
        plans = [plan async for batch in self._plans() for plan in batch]
        for plan in sorted(await self._judge(constraints, plans), key=_best_first):
            yield plan

    async def _plans(self) -> AsyncIterator[list[_Planned]]:
        """Yield plans in the batches of the calls; sample k is the same plan for every `keep`, so nothing is paid
        twice."""
        part = self._part
        fields = {"problem": self._text, "direction": DIRECTION[part.direction]}
        if part.plans_per_call > 1:
            prompt = PLANS.format(count=part.plans_per_call, **fields)
            for call in range(-(-part.plans // part.plans_per_call)):
                replies = await self.ask("plan", prompt, reply_shapes()[2], n=call + 1, count=part.plans_per_call)
                plans = _parsed(replies[call]).get("plans", [])
                first = call * part.plans_per_call
                tokens = _tokens(replies[call]) // max(1, len(plans))
                yield [
                    self._planned(first + number, "\n".join(plan["steps"]), tokens)
                    for number, plan in enumerate(plans[: min(part.plans_per_call, part.plans - first)])
                ]
            return
        if part.plan_from == "solution":
            prompt = PLAN_OF_SOLUTION.format(solution=self._solution, **fields)
        else:
            prompt = PLAN.format(**fields)
        seen = 0
        for n in [part.plans] if part.keep == "best" else range(1, part.plans + 1):
            replies = await self.ask("plan", prompt, n=n)
            yield [
                self._planned(number, "", _tokens(reply), Reason.PLAN_CUT_OFF)
                if reply.finish == "length"
                else self._planned(number, reply.text, _tokens(reply))
                for number, reply in list(enumerate(replies))[seen:]
            ]
            seen = n

    def _planned(self, sample: int, text: str, tokens: int, if_none: Reason = Reason.NO_PLAN) -> _Planned:
        begun = _begun(self._problem, self._teacher)
        draft = replace(begun, sample=sample, plan=split_steps(text), tokens=tokens)
        return _Planned(draft, spoils(draft, self._problem) if draft.plan else Fault(if_none))

    async def _judge(self, constraints: str, plans: Sequence[_Planned]) -> list[_Planned]:
        """Score the plans; skip an empty plan, and a spoiler unless all are executed."""
        part = self._part
        if part.min_score is None:
            return list(plans)
        wanted = [plan for plan in plans if plan.draft.plan and (not plan.fault or part.execute == "all")]
        prompt = functools.partial(SCORE.format, problem=self._text, constraints=constraints)
        scored: list[_Planned] = []
        if len(wanted) > 1 and part.plans_per_call > 1:
            listed = "\n".join(f"Plan {number}:\n{render(plan.draft.plan)}" for number, plan in enumerate(wanted, 1))
            together = prompt(plans=f"{listed}\nJudge each of the {len(wanted)} plans, in this order.")
            [reply] = await self.ask("score", together, reply_shapes()[1], count=len(wanted))
            judged = _parsed(reply).get("judged", [])
            if len(judged) == len(wanted):
                tokens = _tokens(reply) // len(wanted)
                scored = [self._scored(plan, verdict, tokens) for plan, verdict in zip(wanted, judged, strict=True)]
        if not scored:  # also where the number of verdicts is not the number of plans
            asking = (self.ask("score", prompt(plans=render(plan.draft.plan)), reply_shapes()[0]) for plan in wanted)
            for plan, (reply,) in zip(wanted, await asyncio.gather(*asking), strict=True):
                scored.append(self._scored(plan, _parsed(reply), _tokens(reply)))
        by_sample = {plan.draft.sample: plan for plan in scored}
        return [by_sample.get(plan.draft.sample, plan) for plan in plans]

    def _scored(self, plan: _Planned, verdict: dict[str, Any], tokens: int) -> _Planned:
        draft = replace(plan.draft, tokens=plan.draft.tokens + tokens)
        if "score" not in verdict:
            return _Planned(draft, plan.fault or Fault(Reason.NO_SCORE))
        score, least = max(-100, min(100, verdict["score"])), self._part.min_score
        low = Fault(Reason.LOW_SCORE, f"{score} < {least}") if score < least else None
        return _Planned(replace(draft, score=score, critique=verdict.get("reasons", "")), plan.fault or low)

    async def _execute(self, planned: _Planned) -> tuple[Trajectory, Fault | None]:
        """Carry the plan out, and say why the outcome is not kept, if it is not."""
        problem, draft, cut_off = self._problem, planned.draft, None
        if not draft.plan:
            return draft, planned.fault
        if self._part.plan_from == "solution":  # the data set's own solution is the execution
            code = problem.kind == "code"
            execution = as_block(f"{problem.question.rstrip()}\n{self._solution}") if code else self._solution
        else:
            prompt = EXECUTE_CODE if problem.kind == "code" else EXECUTE
            [reply] = await self.ask("execution", prompt.format(problem=self._text, plan=render(draft.plan)))
            execution, draft = reply.text.strip(), replace(draft, tokens=draft.tokens + _tokens(reply))
            if reply.finish == "length":  # takes precedence: no filter may keep it for training
                cut_off = Fault(Reason.EXECUTION_CUT_OFF)
        answer, wrong = await self._answer(execution)
        return replace(draft, execution=execution, answer=answer), cut_off or planned.fault or wrong

    async def _answer(self, execution: str) -> tuple[str | None, Fault | None]:
        """Return an execution's answer, and its fault, if any."""
        problem = self._problem
        if problem.kind == "code":  # a program that passes has the gold answer from here on: no need to run it again
            verdict = await asyncio.to_thread(present(self._check), problem, execution)
            if verdict.same:
                return problem.answer, None
            return None, Fault(Reason.NO_ANSWER if verdict.same is None else Reason.WRONG_ANSWER, verdict.how)
        answer = problem.answer if self._part.plan_from == "solution" else final_answer(execution)
        if answer is None:
            return None, Fault(Reason.NO_ANSWER)
        return answer, fault_of(same_answer(answer, problem.answer, choices=problem.choices))


def _best_first(planned: _Planned) -> tuple[bool, int, int, int]:
    draft = planned.draft
    return draft.score is None, -(draft.score or 0), len(draft.plan), draft.sample


def _begun(problem: Problem, teacher: str) -> Trajectory:
    return Trajectory(
        problem_id=problem.id,
        sample=0,
        question=question_text(problem),
        plan=(),
        execution="",
        answer=None,
        teacher=teacher,
    )


def _rejected(trajectory: Trajectory, fault: Fault) -> Rejected:
    return Rejected(**vars(trajectory), **vars(fault))


def _parsed(reply: Reply) -> dict[str, Any]:
    """Read a structured reply; empty where there was none."""
    return json.loads(reply.text) if reply.text else {}


def _tokens(reply: Reply) -> int:
    return reply.tokens_in + reply.tokens_out + reply.tokens_thought


def worked(problem: Problem, direction: Direction | None = None) -> Trajectory:
    """Return the trajectory of a problem's worked solution, without a teacher."""
    taken = plan_of(problem, direction)
    answer = final_answer(taken.execution)
    trajectory = replace(_begun(problem, "worked"), plan=taken.plan, execution=taken.execution, answer=answer)
    fault = Fault(taken.reason) if taken.reason else spoils(trajectory, problem)
    fault = fault or fault_of(same_answer(answer or "", problem.answer, choices=problem.choices))
    return _rejected(trajectory, fault) if fault else trajectory
