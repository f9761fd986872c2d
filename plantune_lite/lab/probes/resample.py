"""Redraw plans that a judge calls weak before anything is spent on carrying them out.

    generate = resampling(student, judge, tries=4)     a Generate, as evaluation and `ask` take it
    compare(tries, scores)                             {"probe": 41.2 %, "majority": 38.0 %, "plain": ...}

`compare` samples nothing: it simulates the three ways on existing replies, so that they draw the same ones. The
majority has as many tokens as the judged way took. A discarded plan counts, what would have followed it does not; that
is the saving.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, TypeVar

from plantune_lite.evaluate import metrics, stats
from plantune_lite.lab.probes.plan_probe import Judge, Try, begun
from plantune_lite.plan import CLOSE, OPEN
from plantune_lite.student.load import Loaded
from plantune_lite.types import Generate, Messages, Reply, Sampling, present

TEMPERATURE = 0.7  # at least, for redrawn plans
Tell = Callable[[Sequence[float | None]], object]  # the scores of what was drawn for one reply; None: not a plan
T = TypeVar("T")

# --- live -------------------------------------------------------------------------------------------------------------


def resampling(
    student: Loaded, judge: Judge, *, tries: int, plan_is_all: bool = False, tell: Tell = lambda scores: None
) -> Generate:
    """Return a Generate that carries out the student's first plan that the judge accepts, or the best of `tries`.

    The first plan is drawn with the given sampling, perhaps greedily, later ones at TEMPERATURE or above. A reply
    without a plan counts as a weak one, and is returned if nothing better comes. Where only the plan is wanted, for a
    world or because sampling stops there, nothing follows it. `tell` gets the scores of what was drawn for each reply.
    """

    def generate(prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        samples: list[list[Reply]] = [[] for _ in prompts]
        for draw in range(sampling.n):
            once = replace(sampling, n=1, seed=sampling.seed + 1000 * draw)
            drawn = _drawn(student, judge, prompts, once, tries)
            if plan_is_all or CLOSE in sampling.stop:
                replies = [_plan_alone(draws) for draws in drawn]
            else:
                replies = _carried_out(student, prompts, drawn, once)
            for place, reply in enumerate(replies):
                samples[place].append(reply)
                tell(drawn[place].scores)
        return samples

    return generate


@dataclass
class _Drawn:
    """Replies drawn for one prompt so far, and the best plan among them."""

    first: Reply | None = None  # the reply if no draw is a plan
    plan: str | None = None  # the best
    plan_tokens: int = 0
    score: float = float("-inf")
    scores: list[float | None] = field(default_factory=list)
    tokens: int = 0  # of all that was drawn

    def add(self, reply: Reply, plan: str | None, score: float | None) -> None:
        """Add one draw."""
        self.first = self.first or reply
        self.scores.append(score)
        self.tokens += reply.tokens_out
        if score is not None and score > self.score:
            self.plan, self.plan_tokens, self.score = plan, reply.tokens_out, score


def _drawn(student: Loaded, judge: Judge, prompts: Sequence[Messages], sampling: Sampling, tries: int) -> list[_Drawn]:
    """Draw plans for every prompt, until one is good enough or there are `tries`."""
    drawn = [_Drawn() for _ in prompts]
    for turn in range(tries):
        weak = [place for place, draws in enumerate(drawn) if draws.score < 0]
        if not weak:
            break
        temperature = max(sampling.temperature, TEMPERATURE) if turn else sampling.temperature
        once = replace(sampling, stop=(CLOSE,), seed=sampling.seed + turn, temperature=temperature)
        replies = student.generate([prompts[place] for place in weak], once)
        planned = {place: plan for place, [reply] in zip(weak, replies, strict=True) if (plan := _closed(reply))}
        judged = judge.scores(student, [begun(prompts[place], plan) for place, plan in planned.items()])
        scores = dict(zip(planned, judged, strict=True))
        for place, [reply] in zip(weak, replies, strict=True):
            drawn[place].add(reply, planned.get(place), scores.get(place))
    return drawn


def _plan_alone(draws: _Drawn) -> Reply:
    """Return the best plan as the whole reply, or the first reply where none is a plan."""
    best = present(draws.first)
    best = replace(best, text=draws.plan, finish="stop") if draws.plan else best
    return replace(best, tokens_out=draws.tokens)


def _carried_out(
    student: Loaded, prompts: Sequence[Messages], drawn: Sequence[_Drawn], sampling: Sampling
) -> list[Reply]:
    """Complete the plans to whole replies within the length limit; discarded plans count in their tokens."""
    planned = [place for place, draws in enumerate(drawn) if draws.plan]
    prefixes = [begun(prompts[place], f"{drawn[place].plan}\n") for place in planned]
    rests = dict(zip(planned, student.generate(prefixes, sampling), strict=True))
    replies = []
    for place, draws in enumerate(drawn):
        if place not in rests:
            replies.append(replace(present(draws.first), tokens_out=draws.tokens))
            continue
        [rest] = rests[place]
        rest = _cut(student, rest, sampling.max_tokens - draws.plan_tokens)
        replies.append(replace(rest, text=f"{draws.plan}\n{rest.text}", tokens_out=draws.tokens + rest.tokens_out))
    return replies


def _cut(student: Loaded, rest: Reply, room: int) -> Reply:
    """Cut a reply to what the length limit leaves room for."""
    if rest.tokens_out <= room:
        return rest
    text = student.tokenizer.decode(rest.token_ids[:room], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return replace(rest, text=text, token_ids=rest.token_ids[:room], finish="length", tokens_out=room)


def _closed(reply: Reply) -> str | None:
    """Extract the plan of a reply and add the closing tag, which stopping there leaves out; None where it has none."""
    if reply.finish != "stop" or OPEN not in reply.text:
        return None
    return f"{reply.text.partition(CLOSE)[0].rstrip()}\n{CLOSE}"


# --- on existing replies ----------------------------------------------------------------------------------------------


def compare(tries: Sequence[Try], scores: Sequence[float]) -> dict[str, Any]:
    """Compare shares of problems solved: judged plans, a majority at equal tokens a problem, and a plain draw."""
    of: dict[str, list[tuple[Try, float]]] = {}
    for attempt, score in zip(tries, scores, strict=True):
        of.setdefault(attempt.problem.id, []).append((attempt, score))
    judged = [_judged(some) for some in of.values()]
    budget = fmean(tokens for _, tokens in judged)
    by_probe = [right for right, _ in judged]
    replies_P_n = [[attempt for attempt, _ in some] for some in of.values()]
    by_majority = [
        float(metrics.majority_is_right([attempt.score for attempt in some], some[0].problem.choices))
        for some in voters(replies_P_n, budget, lambda attempt: attempt.tokens)
    ]
    plain = [fmean(attempt.right for attempt, _ in some) for some in of.values()]
    shares = {"probe": by_probe, "majority": by_majority, "plain": plain}
    return {
        "problems": len(of),
        "tokens": budget,
        "tokens_of_one_reply": fmean(attempt.tokens for attempt in tries),
        **{name: asdict(stats.of_problems(values)) for name, values in shares.items()},
        "by_problem": shares,
        "probe_minus_majority": asdict(stats.paired(by_probe, by_majority)),
        "probe_minus_plain": asdict(stats.paired(by_probe, plain)),
    }


def _judged(some: Sequence[tuple[Try, float]]) -> tuple[float, int]:
    """Return whether the first good plan, or else the best, comes out right; and the tokens spent on the problem."""
    spent, best = 0, some[0]
    for attempt, score in some:
        spent += attempt.plan_tokens
        if score > best[1]:
            best = (attempt, score)
        if score >= 0:  # below it a plan is weak
            break
    chosen = best[0]
    return float(chosen.right), spent + chosen.tokens - chosen.plan_tokens


def voters(replies_P_n: Sequence[Sequence[T]], budget: float, tokens: Callable[[T], int]) -> list[list[T]]:
    """Take as many replies of each problem, at least one, as a budget of tokens per problem allows.

    What one problem leaves goes to the next: the budget is met over all of them, however long a reply is.
    """
    left, chosen = 0.0, []
    for replies in replies_P_n:
        left += budget - tokens(replies[0])
        chosen.append([replies[0]])
        for reply in replies[1:]:
            if tokens(reply) > left:
                break
            left -= tokens(reply)
            chosen[-1].append(reply)
    return chosen
