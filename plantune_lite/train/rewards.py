"""Define rewards for GRPO: plain functions for any TRL trainer, over the text format of plans and the grader.

    right_answer(prompts, completions, answer=["72"], ...) -> [2.0]
    GRPOTrainer(..., reward_funcs=[right_answer, plan_shape, plan_similarity(Alignment(corpus))])

Input: prompts and completions as chats or as texts, and the data set's columns by name; corpus/prompts.jsonl has
`answer`, `choices`, `kind` and `plan`, the reference; where the prompt says more than the question, `question` is the
question alone. Output: a number per completion, in order. `of` returns the rewards of a recipe, with their weights.
"""

import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from plantune_lite.grading import grade
from plantune_lite.plan import parse, spoiler, written_plan
from plantune_lite.recipe import schema, user_code
from plantune_lite.teacher.judge import Judge
from plantune_lite.train.plan_similarity import Alignment, embedding_similarity
from plantune_lite.train.reward_log import Weighed
from plantune_lite.train.rollouts import groups
from plantune_lite.types import Kind, PlantuneError, Problem, Reward, present

Chat = Sequence[Mapping[str, Any]]
Column = Sequence[Any]

RIGHT = 2.0

# --- the answer -------------------------------------------------------------------------------------------------------


def right_answer(prompts: Column, completions: Column, **columns: Any) -> list[float]:
    """Pay 2 for the right answer, graded as in evaluation, else 0."""
    return [RIGHT if is_right else 0.0 for is_right in _right(completions, **columns)]


def _right(
    completions: Column,
    *,
    answer: Sequence[str],
    choices: Sequence[Sequence[str]] | None = None,
    kind: Sequence[Kind] | None = None,
    world: Sequence[Sequence[str] | None] | None = None,  # where a plan is carried out
    **_: Any,
) -> list[bool]:
    if "code" in (kind or ()):
        raise PlantuneError(
            "a program cannot be rewarded, since GRPO does not run it: leave problems of kind 'code' out of the prompts"
        )
    nothing = [()] * len(completions)
    kinds: Sequence[Kind] = kind or ["text"] * len(completions)
    right = []
    for completion, gold, options, sort, setting in zip(
        completions, answer, choices or nothing, kinds, world or nothing, strict=True
    ):
        extra = {"world": tuple(setting or ())}
        problem = Problem(id="", question="", answer=gold, choices=tuple(options or ()), kind=sort, extra=extra)
        right.append(grade.grade_reply(problem, _text(completion)).verdict.same is True)
    return right


# --- the plan ---------------------------------------------------------------------------------------------------------

_BOX = re.compile(r"\\boxed\s*\{\s*[^\s}]")


def plan_shape(prompts: Column, completions: Column, **_: Any) -> list[float]:
    """Pay half for a plan in exact form, however short, and half for one boxed answer after it."""
    return [_shape(_text(completion)) for completion in completions]


def _shape(text: str) -> float:
    planned = parse(text)
    if planned is None:
        return 0.0
    boxed_once = text.count("\\boxed") == 1 and bool(_BOX.search(planned.execution))
    return (1 + boxed_once) / 2


def plan_similarity(judge: Judge) -> Reward:
    """Reward a plan for following the reference, 0 to 1, as the judge scores it; none, or an unfinished one, gets 0."""

    def plan_similarity(
        prompts: Column,
        completions: Column,
        *,
        plan: Sequence[Sequence[str]],
        question: Sequence[str] | None = None,
        **_: Any,
    ) -> list[float | None]:
        if not all(plan):
            raise PlantuneError("a row has no reference plan to compare with: column `plan` needs one in every row")
        written = [written_plan(_text(completion)) for completion in completions]
        questions = question or list(map(_question, prompts))
        judged = [index for index, steps in enumerate(written) if steps]
        of_judged = [questions[index] for index in judged]
        scores = judge(of_judged, [written[index] for index in judged], [tuple(plan[index]) for index in judged])
        by_index = dict(zip(judged, scores, strict=True))
        return [by_index.get(index, 0.0) for index in range(len(written))]

    return plan_similarity


def spoiler_penalty(
    prompts: Column, completions: Column, *, answer: Sequence[str], question: Sequence[str] | None = None, **_: Any
) -> list[float]:
    """Charge 1 for a plan that states the answer or computes."""
    penalties = []
    questions = question or list(map(_question, prompts))
    for text, completion, gold in zip(questions, completions, answer, strict=True):
        problem = Problem(id="", question=text, answer=gold)
        penalties.append(-1.0 if spoiler(written_plan(_text(completion)), problem) else 0.0)
    return penalties


# --- length -----------------------------------------------------------------------------------------------------------


def soft_overlong(max_completion: int) -> Reward:
    """Fall linearly from 0 to -1 over the last fifth of the allowed tokens, as DAPO's."""
    last = max(1, max_completion // 5)

    def soft_overlong(
        prompts: Column, completions: Column, *, completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float]:
        over = [len(ids) - (max_completion - last) for ids in completion_ids]
        return [-min(1.0, max(0.0, tokens / last)) for tokens in over]

    return soft_overlong


# --- guidance-aware groups (PTA-GRPO) ---------------------------------------------------------------------------------


def plan_softmax(accuracies: Sequence[float], temperature: float = 0.5) -> list[float]:
    """Softmax the plans' shares of right continuations into rewards that sum to 1."""
    powers = [math.exp((accuracy - max(accuracies)) / temperature) for accuracy in accuracies]
    return [power / sum(powers) for power in powers]


def length_terms(part: schema.GRPO, lengths: Sequence[int], right: Sequence[float]) -> list[float]:
    """Pay grpo.length_weight for a reply as short as the shortest right one of its group, less for others."""
    correct = [length for length, is_right in zip(lengths, right, strict=True) if is_right]
    shortest, longest = min(correct, default=0), part.longest or max(lengths)
    if not correct or longest <= shortest:  # the formula is undefined here
        return [0.0] * len(lengths)
    terms = [part.length_weight * math.exp(-abs(length - shortest) / (longest - shortest)) for length in lengths]
    return [term if is_right or part.length_for == "all" else 0.0 for term, is_right in zip(terms, right, strict=True)]


def guided(part: schema.GRPO) -> Reward:
    """Return PTA-GRPO's whole reward for groups of grpo.plans with grpo.continuations replies each, plan by plan."""
    size = part.plans * part.continuations

    def guided(
        prompts: Column,
        completions: Column,
        *,
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], object] = lambda name, value: None,
        **columns: Any,
    ) -> list[float]:
        outcome = [float(is_right) for is_right in _right(completions, **columns)]
        shape = [part.structure_weight if _shape(_text(completion)) == 1 else 0.0 for completion in completions]
        analytic: list[float] = []
        length: list[float] = []
        for group in groups(prompts, size):
            right = outcome[group]
            shares = [fmean(right[at : at + part.continuations]) for at in range(0, size, part.continuations)]
            analytic += [share for share in plan_softmax(shares, part.plan_softmax) for _ in range(part.continuations)]
            length += length_terms(part, [len(ids) for ids in completion_ids[group]], right)
        for name, values in (("outcome", outcome), ("analytic", analytic), ("structure", shape), ("length", length)):
            log_metric(f"guided/{name}", fmean(values))
        return [o + part.plan_weight * a + s + n for o, a, s, n in zip(outcome, analytic, shape, length, strict=True)]

    return guided


# --- judges that fail -------------------------------------------------------------------------------------------------

_CALLS = 10
_TOO_MANY = 0.2  # of the samples of the last calls


class Filled:
    """A reward whose failures (None) become the mean of the rest of their group; 0 where all failed.

    TRL counts a None as 0, which would punish a sample for its judge's failure.
    """

    def __init__(self, reward: Reward, group: int) -> None:
        self._reward, self._group = reward, group
        self._lately: deque[int] = deque(maxlen=_CALLS)

    def __call__(self, prompts: Column, completions: Column, **columns: Any) -> list[float]:
        rewards = self._reward(prompts=prompts, completions=completions, **columns)
        filled: list[float] = []
        for group in groups(prompts, self._group):
            judged = [value for value in rewards[group] if value is not None]
            mean = fmean(judged) if judged else 0.0
            filled += [mean if value is None else value for value in rewards[group]]
        self._lately.append(sum(value is None for value in rewards))
        if sum(self._lately) > _TOO_MANY * _CALLS * len(rewards):
            raise PlantuneError(
                f"{sum(self._lately)} plans could not be judged, more than {_TOO_MANY:.0%} of those of {_CALLS} steps. "
                "Look at the teacher's replies in the ledger, or set grpo.judge=alignment"
            )
        return filled


# --- the rewards of a recipe ------------------------------------------------------------------------------------------


def of(
    part: schema.GRPO, rows: Sequence[Mapping[str, Any]], *, max_completion: int, judge: Judge | None = None
) -> list[Weighed]:
    """Return name, function and weight of a recipe's rewards; `rows` are the prompts, `judge` is a teacher's."""
    if part.reward == "guided":
        weighed: list[Weighed] = [("guided", guided(part), 1.0)]
    else:
        weighed = [("right_answer", right_answer, 1.0)]
    if part.reward == "answer+plan":
        weighed.append(("plan_similarity", _similarity(part, rows, judge), 1.0))
    if part.settings == "stable":
        if part.reward == "answer+plan":
            weighed += [("plan_shape", plan_shape, 0.25), ("spoiler_penalty", spoiler_penalty, 0.5)]
        weighed.append(("soft_overlong", soft_overlong(max_completion), 0.5))
    # The user's rewards, "module_or_path.py:function", named by the function.
    weighed += [(name.rpartition(":")[2], user_code.load(name), 1.0) for name in part.rewards]
    return [(name, reward, part.weights.get(name, weight)) for name, reward, weight in weighed]


def _similarity(part: schema.GRPO, rows: Sequence[Mapping[str, Any]], judge: Judge | None) -> Reward:
    if part.judge == "alignment":
        alike = embedding_similarity(part.embedder) if part.embedder else None
        known = [(row.get("question") or _question(row["prompt"]), row["plan"]) for row in rows]
        return plan_similarity(Alignment(known, alike=alike))
    return Filled(plan_similarity(present(judge)), part.group)  # a teacher's, which the stage has opened


# --- chats and texts --------------------------------------------------------------------------------------------------


def _text(completion: str | Chat) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _question(prompt: str | Chat) -> str:
    if isinstance(prompt, str):
        return prompt
    return next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")
