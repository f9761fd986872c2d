"""Estimate what a recipe's teacher will cost, before anything is spent: calls, tokens and money.

distillation(problems, Distill("gemini"), os.environ) -> Cost(DEFAULT_MODEL, usd=(1.83, 6.92), ...)

Nothing is modelled: the real flow runs against a fake teacher, once with every first plan kept and once with none
kept. So prompts are counted to the character; the length of replies is assumed, as below.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plantune_lite.distill.problem import Distiller, Kind
from plantune_lite.plan import chat
from plantune_lite.recipe.schema import Distill, Recipe
from plantune_lite.teacher import judge
from plantune_lite.teacher.models import AS_OF, model_name, price_of
from plantune_lite.teacher.provider import FREE, Price, is_loopback
from plantune_lite.types import Messages, Problem, Reply, Sampling, Verdict

CHARACTERS_A_TOKEN = 3.5  # of English with formulas; assumed
REPLY_TOKENS: dict[Kind, int] = {"constraints": 160, "plan": 120, "score": 220, "execution": 260}  # assumed
_QUESTION_TOKENS = 100  # in a judge's prompt; assumed
_LENGTHS = ", ".join(f"{count} ({kind})" for kind, count in REPLY_TOKENS.items())
ASSUMED = (
    f"Prompts are counted at {CHARACTERS_A_TOKEN} characters a token; replies are assumed to be {_LENGTHS} tokens "
    f"long, plus thoughts where a model cannot turn them off; prices of {AS_OF}. The minimum is when every first plan "
    "is kept, the maximum when none ever is. Calls already in the ledger are free. distill.max_usd is never exceeded."
)
_SAMPLE = 200  # problems the flow is run over; more are scaled up


@dataclass(frozen=True)
class Cost:
    """A teacher's bill: minimum (every first plan is kept) and maximum (all are executed, none is kept)."""

    teacher: str
    calls: tuple[int, int]
    tokens: tuple[int, int]  # in and out together
    usd: tuple[float, float]

    @property
    def money(self) -> str:
        """Put the range in words."""
        return "free" if self.usd[1] == 0 else f"${self.usd[0]:.2f} to ${self.usd[1]:.2f}"

    def __str__(self) -> str:
        return f"{self.teacher}: {_range(self.calls)} calls, {_range(self.tokens)} tokens, {self.money}"


def distillation(problems: Sequence[Problem], part: Distill, environ: Mapping[str, str]) -> Cost:
    """Return the bill of the recipe's teacher, from the real flow over a sample of the problems."""
    if part.teacher == "worked":
        return Cost("worked", (0, 0), (0, 0), (0.0, 0.0))
    free = part.teacher == "self" or is_loopback(part.teacher)
    model = _model(part, environ)
    price = FREE if free else price_of(model, environ=environ)
    sample = random.Random(0).sample(list(problems), min(_SAMPLE, len(problems)))
    scale = len(problems) / max(1, len(sample))
    least = _counted(sample, part, price, True, scale)
    most = _counted(sample, part, price, False, scale)
    return Cost(model, (least[0], most[0]), (least[1], most[1]), (least[2], most[2]))


def judging(wanted: Recipe, environ: Mapping[str, str]) -> Cost | None:
    """Return the maximum that the teacher costs as judge of plans in GRPO; None where it does not judge."""
    part, grpo = wanted.distill, wanted.grpo
    if grpo is None or (grpo.reward, grpo.judge) != ("answer+plan", "teacher"):
        return None
    calls = grpo.steps * grpo.prompts_per_step * grpo.group
    tokens_in = calls * round(len(judge.COMPARE) / CHARACTERS_A_TOKEN + _QUESTION_TOKENS + 2 * REPLY_TOKENS["plan"])
    tokens_out = calls * REPLY_TOKENS["score"]
    model = _model(part, environ)
    usd = 0.0 if is_loopback(part.teacher) else price_of(model, environ=environ).usd(tokens_in, tokens_out)
    return Cost(model, (0, calls), (0, tokens_in + tokens_out), (0.0, usd))  # 0 where all was judged before


def over_budget(first: Cost, judge_too: Cost | None, max_usd: float | None) -> str:
    """Warn where the maximum is more than the budget; "" where it is not."""
    most = first.usd[1] + (judge_too.usd[1] if judge_too else 0.0)
    if max_usd is None or most <= max_usd:
        return ""
    stops = ", and GRPO stops at its judge's next call" if judge_too else ""
    return (
        f"distill.max_usd={max_usd:g} may not suffice: the bill can reach ${most:.2f}. Then distillation ends with the "
        f"plans it has{stops}; rerun the command with a larger distill.max_usd to resume"
    )


def _model(part: Distill, environ: Mapping[str, str]) -> str:
    return model_name(part.model, environ) if part.teacher == "gemini" else part.model or part.teacher


class _DryRun(Distiller):
    """Distill a problem without a teacher: count its prompts, and keep every plan or none."""

    def __init__(self, problem: Problem, part: Distill, kept: bool) -> None:
        super().__init__(problem, _no_teacher, part, "nobody", lambda *_: Verdict(same=kept, how=""))
        self._execution = f"\\boxed{{{problem.answer}}}" if kept else ""
        self._asked: set[tuple[str, int]] = set()  # the ledger would answer these
        self.calls = self.characters = self.tokens_out = 0

    async def ask(
        self, kind: Kind, prompt: str, schema: type | None = None, *, n: int = 1, count: int = 1
    ) -> list[Reply]:
        for sample in range(n):
            if (prompt, sample) not in self._asked:
                self._asked.add((prompt, sample))
                self.calls += 1
                self.characters += sum(len(message["content"]) for message in chat(prompt))
                self.tokens_out += REPLY_TOKENS[kind] * count
        return [Reply(text=self._reply(kind, schema, sample, count)) for sample in range(n)]

    def _reply(self, kind: Kind, schema: type | None, sample: int, count: int) -> str:
        if kind == "plan":
            plans = [f"Think {_letter(sample)} {_letter(number)}." for number in range(count)]
            return plans[0] if schema is None else json.dumps({"plans": [{"steps": [plan]} for plan in plans]})
        if kind == "score":
            good = {"reasons": "", "score": 100}
            return json.dumps({**good, "judged": [good] * count})  # in whichever shape it is asked for
        return self._execution if kind == "execution" else ""


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26)  # a number in a plan could be the answer


async def _no_teacher(messages: Messages, sampling: Sampling, schema: type | None) -> list[Reply]:
    return []


def _counted(few: Sequence[Problem], part: Distill, price: Price, kept: bool, scale: float) -> tuple[int, int, float]:
    """Run the whole flow over the problems; return its calls, tokens and USD, scaled up."""
    flows = [_DryRun(problem, part, kept) for problem in few]

    async def run_all() -> None:
        for flow in flows:
            await flow.run()

    asyncio.run(run_all())
    tokens_in = round(scale * sum(flow.characters for flow in flows) / CHARACTERS_A_TOKEN)
    tokens_out = round(scale * sum(flow.tokens_out for flow in flows))
    usd = price.usd(tokens_in, tokens_out)
    return round(scale * sum(flow.calls for flow in flows)), tokens_in + tokens_out, usd


def _range(pair: tuple[int, int]) -> str:
    low, high = map(_short, pair)
    return low if low == high else f"{low} to {high}"


def _short(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,}"
