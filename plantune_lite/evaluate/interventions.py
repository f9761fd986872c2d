"""Test whether a plan does the work: accuracy when a student must follow its own plan, none, another problem's ...

Input: problems and the student's answers to them (mode m1 or m2), which supply the plans. Output:
eval/interventions/SUITE.MODEL.jsonl, whose modes are the conditions, and the figures:

    own 36.7 %, none 30.0 %, swapped 11.7 %, reference 41.7 %, dropped 31.7 %

Own minus swapped is *plan use*: comparisons use it to say whether the plan does the work (compare.py).

In m1 the plan is forced as the beginning of the student's own reply; in m2 the executor is told to follow it.
Each condition covers the problems for which the student wrote a plan; `reference` those with a reference plan,
`dropped` those whose plan has at least two steps. `planned_anyway` is the share of replies given an empty plan that
contain one after all: a second </plan>, or numbered lines before the working. The line reports it, since "none" is then
not without a plan. A student without plans is not an error: the line says so.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from plantune_lite.distill import worked
from plantune_lite.evaluate import metrics, stats
from plantune_lite.evaluate.answers import AS_IT_COMES, Answer, Asking, answered, each
from plantune_lite.plan import CLOSE, OPEN, ask_plainly, ask_step_by_step, ask_to_follow, render, written_plan
from plantune_lite.train.plan_similarity import words
from plantune_lite.types import Generate, Messages, Problem, Reply, Sampling, Score

Plan = tuple[str, ...]
Follow = Callable[[Mapping[str, Plan]], Answer]  # plans by problem -> the Answer that uses them
CONDITIONS = ("own", "none", "swapped", "reference", "dropped")
PLAN_USE = ("swapped",)  # the condition that shows whether the plan does the work
_ALIKE = 0.5  # of their words: plans more alike than this are swapped only if there is no other
_LOOKED_AT = 200  # other plans compared at most, to find the least alike


def as_beginning(generate: Generate, ask: Callable[[Problem], Messages] = ask_plainly) -> Follow:
    """Make the student continue from a plan placed in its reply as if it had written it (M1)."""
    return lambda given: _following(
        generate, given, lambda problem, plan: (*ask(problem), {"role": "assistant", "content": render(plan)})
    )


def as_order(executor: Generate) -> Follow:
    """Ask the executor to follow the plan; without one it works step by step (M2)."""
    return lambda given: _following(
        executor, given, lambda problem, plan: ask_to_follow(problem, plan) if plan else ask_step_by_step(problem)
    )


def intervene(
    follow: Follow,
    problems: Sequence[Problem],
    scores: Sequence[Score],
    *,
    out: Path,
    conditions: Sequence[str] = CONDITIONS,
    how: Asking = AS_IT_COMES,
) -> dict[str, Any]:
    """Ask under each condition, and compare.

    If `own` is not a condition, the student's own replies stand in for it: they begin with that plan.
    """
    seed = how.sampling.seed
    by_id = {problem.id: problem for problem in problems}
    written = {score.problem_id: written_plan(score.text) for score in scores if score.sample == 0}
    own = {id: plan for id, plan in written.items() if plan and id in by_id}
    if len(own) < 2:
        why = f"no interventions: the student wrote {len(own)} plans in {len(written)} answers"
        how.show(why, True)
        return {"line": why}
    given: dict[str, Mapping[str, Plan]] = {
        "own": own,
        "none": dict.fromkeys(own, ()),
        "swapped": {id: own[other] for id, other in _partners(own, seed).items()},
        "reference": {id: tuple(plan) for id in own if (plan := worked.plan_of(by_id[id]).plan)},
        "dropped": {id: _without_one(plan, id, seed) for id, plan in own.items() if len(plan) > 1},
    }
    rows = {"own": [score for score in scores if score.sample == 0 and score.problem_id in own]}
    for name in (name for name in conditions if given[name]):
        settings = {"plans": hashlib.sha256(json.dumps(sorted(given[name].items())).encode()).hexdigest()[:16]}
        covered = [by_id[id] for id in given[name]]
        rows[name] = answered(covered, follow(given[name]), mode=name, out=out, how=how, settings=settings)
    shares = {name: metrics.shares(graded) for name, graded in rows.items()}
    summary: dict[str, Any] = {
        "conditions": {
            name: {"problems": len(right), **asdict(stats.of_problems(list(right.values()), seed=seed))}
            for name, right in shares.items()
        },
        "own_minus": _own_minus(shares, seed),
    }
    if planless := rows.get("none"):
        summary["planned_anyway"] = fmean(planned_after_all(score.text.partition(CLOSE)[2]) for score in planless)
    summary["line"] = line(summary)
    how.show(summary["line"], True)
    return summary


def line(summary: Mapping[str, Any]) -> str:
    """Format the conditions as one line."""
    listed = ", ".join(f"{name} {100 * figures['value']:.1f} %" for name, figures in summary["conditions"].items())
    if summary.get("planned_anyway"):
        listed += f"; without a plan {100 * summary['planned_anyway']:.1f} % wrote one themselves"
    return listed


_STEPS = re.compile(r"\s*(?:[^\n]*:\n+\s*)?1[.)] [^\n=]*\n+\s*2[.)] [^\n=]*(?:\n|$)")  # with "=" they are the working


def planned_after_all(text: str) -> bool:
    """Tell whether a student given an empty plan wrote one: plan tags, or a reply that begins with numbered lines."""
    return OPEN in text or CLOSE in text or _STEPS.match(text) is not None


# --- asking -----------------------------------------------------------------------------------------------------------


def _following(generate: Generate, given: Mapping[str, Plan], give: Callable[[Problem, Plan], Messages]) -> Answer:
    def answer(problems: Sequence[Problem], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
        prompts = [give(problem, given[problem.id]) for problem in problems]
        for index, replies in each(generate, prompts, sampling):
            yield index, [replace(reply, text=render(given[problems[index].id], reply.text)) for reply in replies]

    return answer


def _without_one(plan: Plan, id: str, seed: int) -> Plan:
    gone = Random(f"{seed} drop {id}").randrange(len(plan))
    return plan[:gone] + plan[gone + 1 :]


def _partners(own: Mapping[str, Plan], seed: int) -> dict[str, str]:
    """Pair each problem with one whose plan really differs: problems of one kind are solved by the same plan."""
    partners = {}
    ids = sorted(own)
    for id in own:
        others = [other for other in ids if other != id]
        others = Random(f"{seed} swap {id}").sample(others, min(_LOOKED_AT, len(others)))
        unlike = (other for other in others if _alike(own[id], own[other]) < _ALIKE)
        partners[id] = next(unlike, None) or min(others, key=lambda other: _alike(own[id], own[other]))
    return partners


def _alike(plan: Plan, other: Plan) -> float:
    first, second = set(words(" ".join(plan))), set(words(" ".join(other)))
    return len(first & second) / max(1, len(first | second))


def _own_minus(shares: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, dict[str, Any]]:
    """Compare own with each other condition on their common problems; p values are corrected for the family."""
    pairs = {
        name: stats.paired([shares["own"][id] for id in right], list(right.values()), seed=seed)
        for name, right in shares.items()
        if name != "own"
    }
    corrected = stats.holm([compared.p for compared in pairs.values()])
    return {name: {**asdict(compared), "p": p} for (name, compared), p in zip(pairs.items(), corrected, strict=True)}
