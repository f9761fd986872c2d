"""What a recipe's teacher will cost, before anything is spent: calls, tokens and money, other teachers beside it.

distillation(problems, Distill("gemini"), os.environ) -> [Cost("gemini-3.8-flash", usd=(1.83, 6.92), ...), ...]

Nothing is modelled: the real flow runs against a teacher that is not there, once where every first plan is kept and
once where none ever is. Prompts are therefore counted to the character; the length of replies is assumed, as below.
What the ledger holds is answered from there: a lower threshold or another filter costs what it still has to ask.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from plantune_lite.distill import prompts
from plantune_lite.distill.problem import distil
from plantune_lite.recipe.schema import Distill, Recipe
from plantune_lite.teacher import judge
from plantune_lite.teacher.gemini import DEFAULT_MODEL
from plantune_lite.teacher.ledger import call_key
from plantune_lite.teacher.prices import AS_OF, price_of
from plantune_lite.teacher.provider import is_loopback
from plantune_lite.types import Messages, Problem, Reply, Sampling, Verdict

CHARACTERS_A_TOKEN = 3.5  # of English with formulas; assumed
REPLY_TOKENS = {"constraints": 160, "plan": 120, "score": 220, "execution": 260}  # assumed
FREE_REQUESTS_A_DAY = 250  # of a Flash model without billing; assumed: quotas differ by account and change often
_QUESTION_TOKENS = 100  # of what a judge is asked; assumed
OTHERS = ("gemini-3.1-flash-lite", "gemini-3.8-flash", "gemini-2.5-pro")
_LENGTHS = ", ".join(f"{count} ({kind})" for kind, count in REPLY_TOKENS.items())
ASSUMED = (
    f"Prompts are counted at {CHARACTERS_A_TOKEN} characters a token; replies are assumed to be {_LENGTHS} tokens "
    f"long, and thoughts come on top where a model cannot do without; prices of {AS_OF}. The least is when every first "
    "plan is kept, the most when none ever is. distill.max_usd is never passed."
)
_SAMPLE = 200  # problems the flow is run over; more are scaled up
_LOOKED_UP = 5_000  # the same with a ledger: the problems it knows are no fair sample of all

Recorded = Callable[[str], Reply | None]  # the reply to a call that was asked before, by its key


@dataclass(frozen=True)
class Cost:
    """One teacher's bill: the least (every first plan is kept) and the most (all are carried out, all in vain)."""

    teacher: str
    calls: tuple[int, int]
    tokens: tuple[int, int]  # in and out together
    usd: tuple[float, float]
    note: str = ""


def distillation(
    problems: Sequence[Problem], part: Distill, environ: Mapping[str, str], *, recorded: Recorded | None = None
) -> list[Cost]:
    """The bills of the recipe's teacher and of others, the recipe's first: for it alone the ledger is looked into."""
    model = _model(part)
    anew = _spans(problems, part, model, None)
    costs = []
    if part.teacher != "worked":
        free = part.teacher == "self" or is_loopback(part.teacher)
        names = [model, *(other for other in OTHERS if other != model)]
        for name in names:
            mine = name == model
            spans = _spans(problems, part, model, recorded) if mine and recorded and part.teacher != "self" else anew
            answered = sorted(one.answered for one in spans)
            known = f"; {_range(answered)} are answered in the ledger" if answered[1] else ""
            calls, tokens = _pairs(spans)
            if mine and free:
                costs.append(Cost(name, calls, tokens, (0.0, 0.0), "your own machine's time" + known))
                continue
            price = price_of(name, environ=environ if mine else {})
            share = 0.5 if part.batch else 1.0
            usd = tuple(
                share * (one.tokens_in * price.tokens_in + one.tokens_out * price.tokens_out) / 1e6 for one in spans
            )
            days = [-(-one // FREE_REQUESTS_A_DAY) for one in calls]
            costs.append(Cost(name, calls, tokens, usd, f"or {days[0]} to {days[1]} days of a free quota" + known))
    if part.teacher != "self":
        costs.append(Cost("self", *_pairs(anew), (0.0, 0.0), "the untuned student, on this machine"))
    with_steps = sum(bool(problem.steps or problem.solution) for problem in problems)
    costs.append(Cost("worked", (0, 0), (0, 0), (0.0, 0.0), f"no model: {with_steps} problems have a worked solution"))
    return costs


def judging(wanted: Recipe, environ: Mapping[str, str]) -> Cost | None:
    """The most that the teacher costs as judge of plans in GRPO; None where it is none."""
    part, grpo = wanted.distill, wanted.grpo
    if grpo is None or (grpo.reward, grpo.judge) != ("answer+plan", "teacher"):
        return None
    calls = grpo.steps * grpo.prompts_per_step * grpo.group
    tokens_in = calls * round(len(judge.COMPARE) / CHARACTERS_A_TOKEN + _QUESTION_TOKENS + 2 * REPLY_TOKENS["plan"])
    tokens_out = calls * REPLY_TOKENS["score"]
    model = _model(part)
    usd = 0.0 if is_loopback(part.teacher) else price_of(model, environ=environ).usd(tokens_in, tokens_out)
    return Cost(model, (0, calls), (0, tokens_in + tokens_out), (0.0, usd), "a plan that was judged before is free")


def judged(cost: Cost) -> str:
    """That bill in a sentence."""
    price = f"up to ${cost.usd[1]:.2f}" if cost.usd[1] else "free"
    return (
        f"judge: grpo.judge=teacher asks {cost.teacher} up to {cost.calls[1]:,} times (a plan of each answer of each "
        f"step), up to {_short(cost.tokens[1])} tokens, {price}; it counts against distill.max_usd too"
    )


def over_budget(first: Cost, judge_too: Cost | None, max_usd: float | None) -> str:
    """What happens where the most of the range is more than the budget; "" where it is not."""
    most = first.usd[1] + (judge_too.usd[1] if judge_too else 0.0)
    if max_usd is None or most <= max_usd:
        return ""
    stops = ", and GRPO stops where its judge may ask no more" if judge_too else ""
    return (
        f"distill.max_usd={max_usd:g} may not suffice: it can come to ${most:.2f}. Then distillation ends with the "
        f"plans it has by then{stops}; with a larger distill.max_usd the same command goes on"
    )


def _model(part: Distill) -> str:
    return part.model or (DEFAULT_MODEL if part.teacher == "gemini" else part.teacher)


class _Counted(NamedTuple):
    """What is still to be asked, and what is not."""

    calls: int
    tokens_in: int
    tokens_out: int
    answered: int  # samples that the ledger holds


def _pairs(spans: tuple[_Counted, _Counted]) -> tuple[tuple[int, int], tuple[int, int]]:
    least, most = spans
    return (least.calls, most.calls), (least.tokens_in + least.tokens_out, most.tokens_in + most.tokens_out)


def _spans(
    problems: Sequence[Problem], part: Distill, model: str, recorded: Recorded | None
) -> tuple[_Counted, _Counted]:
    """The least and the most, from the real flow over a sample."""
    most = _LOOKED_UP if recorded else _SAMPLE
    sample = random.Random(0).sample(list(problems), min(most, len(problems)))
    scale = len(problems) / max(1, len(sample))
    least, most = (_counted(sample, part, kept, scale, model, recorded) for kept in (True, False))
    return least, most


def _counted(
    problems: Sequence[Problem], part: Distill, kept: bool, scale: float, model: str, recorded: Recorded | None
) -> _Counted:
    counter = _NobodyThere(kept, model.removeprefix("models/"), part.thinking, recorded)

    async def run_all() -> None:
        for problem in problems:
            counter.problem = problem
            await distil(problem, counter, part, "nobody", lambda *_: Verdict(same=kept, how=""))

    asyncio.run(run_all())
    tokens_in = counter.characters / CHARACTERS_A_TOKEN
    counts = (counter.calls, tokens_in, counter.tokens_out, len(counter.answered))
    return _Counted(*(round(count * scale) for count in counts))


class _NobodyThere:
    """An Ask that counts what it is asked, and answers from the ledger, or so that plans are kept at once or never."""

    def __init__(self, kept: bool, model: str, thinking: int | None, recorded: Recorded | None) -> None:
        self.problem: Problem
        self.calls = self.characters = self.tokens_out = 0
        self.answered: set[str] = set()
        self._kept, self._model, self._thinking, self._recorded = kept, model, thinking, recorded
        self._asked: set[tuple[str, int]] = set()  # the ledger would not ask these again

    async def __call__(self, messages: Messages, sampling: Sampling, schema: type | None) -> list[Reply]:
        text = messages[-1]["content"]
        replies = []
        for sample in range(sampling.n):
            if self._recorded is not None:
                key = call_key(self._model, messages, sampling, schema, sample=sample, thinking=self._thinking)
                if (known := self._recorded(key)) is not None:
                    self.answered.add(key)
                    replies.append(known)
                    continue
            kind, reply, times = self._reply(text, schema, way=chr(ord("a") + sample % 26))
            if (text, sample) not in self._asked:
                self._asked.add((text, sample))
                self.calls += 1
                self.characters += sum(len(message["content"]) for message in messages)
                self.tokens_out += REPLY_TOKENS[kind] * times
            replies.append(Reply(text=reply))
        return replies

    def _reply(self, text: str, schema: type | None, *, way: str) -> tuple[str, str, int]:
        good = {"reasons": "", "score": 100}
        _, judged_plans, plans = prompts.reply_shapes()
        if schema is plans:
            count = next(int(word) for word in text.split() if word.isdigit())
            steps = [{"steps": [f"Think {way} {chr(ord('a') + number % 26)}."]} for number in range(count)]
            return "plan", json.dumps({"plans": steps}), count
        if schema is judged_plans:
            count = text.count("<plan>")
            return "score", json.dumps({"judged": [good] * count}), count
        if schema is not None:
            return "score", json.dumps(good), 1
        if text.startswith(_opening(prompts.CONSTRAINTS)):
            return "constraints", "", 1
        if text.startswith(_opening(prompts.EXECUTE)):
            return "execution", f"\\boxed{{{self.problem.answer}}}" if self._kept else "", 1
        return "plan", f"1. Think {way}.", 1


def _opening(prompt: str) -> str:
    return prompt.partition("{")[0].partition("\n")[0]


def rows(costs: Sequence[Cost]) -> list[tuple[Any, ...]]:
    """The bills as rows of a table."""
    return [(cost.teacher, _range(cost.calls), _range(cost.tokens), _money(cost.usd), cost.note) for cost in costs]


def _range(pair: Sequence[int]) -> str:
    low, high = map(_short, pair)
    return low if low == high else f"{low} to {high}"


def _short(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,}"


def _money(pair: tuple[float, float]) -> str:
    return "free" if pair[1] == 0 else f"${pair[0]:.2f} to ${pair[1]:.2f}"
