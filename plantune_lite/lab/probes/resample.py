"""Plans that a judge calls weak are drawn again before anything is spent on carrying them out.

    generate = resampling(student, judge, tries=4)     a Generate, as evaluation and `ask` take it
    compare(tries, scores)                             {"probe": 41.2 %, "majority": 38.0 %, "plain": ...}

`compare` asks nobody anything: it plays the three ways on replies that are there, so that they draw the same ones. The
majority has as many tokens as the judged way took. A plan that is thrown away counts, what would have followed it does
not; that is where it saves.
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

TEMPERATURE = 0.7  # at least, of a plan that is drawn again
Tell = Callable[[Sequence[float | None]], object]  # the scores of what was drawn for one reply; None: it was no plan
T = TypeVar("T")

# --- live -------------------------------------------------------------------------------------------------------------


def resampling(
    student: Loaded, judge: Judge, *, tries: int, plan_is_all: bool = False, tell: Tell = lambda scores: None
) -> Generate:
    """A student that carries out the first of its plans that the judge finds good enough, or the best of so many.

    The first plan is drawn as asked, which may be greedily, and others with some chance. A reply without a plan counts
    as a weak one, and is the reply where nothing better comes. Where the plan is all that is wanted, of a world or by
    who asks to stop there, nothing follows it. `tell` is told of every reply what was drawn for it.
    """

    def generate(prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        found: list[list[Reply]] = [[] for _ in prompts]
        for draw in range(sampling.n):
            once = replace(sampling, n=1, seed=sampling.seed + 1000 * draw)
            drawn = _drawn(student, judge, prompts, once, tries)
            if plan_is_all or CLOSE in sampling.stop:
                replies = [_plan_alone(one) for one in drawn]
            else:
                replies = _carried_out(student, prompts, drawn, once)
            for place, reply in enumerate(replies):
                found[place].append(reply)
                tell(drawn[place].scores)
        return found

    return generate


@dataclass
class _Drawn:
    """Replies drawn for one prompt so far, and the best plan among them."""

    first: Reply | None = None  # where nothing that is drawn is a plan, this is the reply
    plan: str | None = None  # the best
    plan_tokens: int = 0
    score: float = float("-inf")
    scores: list[float | None] = field(default_factory=list)
    tokens: int = 0  # of all that was drawn

    def add(self, reply: Reply, plan: str | None, score: float | None) -> None:
        """One more."""
        self.first = self.first or reply
        self.scores.append(score)
        self.tokens += reply.tokens_out
        if score is not None and score > self.score:
            self.plan, self.plan_tokens, self.score = plan, reply.tokens_out, score


def _drawn(student: Loaded, judge: Judge, prompts: Sequence[Messages], sampling: Sampling, tries: int) -> list[_Drawn]:
    """Plans for every prompt, until one is good enough or there are `tries`."""
    drawn = [_Drawn() for _ in prompts]
    for turn in range(tries):
        weak = [place for place, one in enumerate(drawn) if one.score < 0]
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


def _plan_alone(one: _Drawn) -> Reply:
    """Return the best plan as the whole reply, or the first reply where none is a plan."""
    best = present(one.first)
    best = replace(best, text=one.plan, finish="stop") if one.plan else best
    return replace(best, tokens_out=one.tokens)


def _carried_out(
    student: Loaded, prompts: Sequence[Messages], drawn: Sequence[_Drawn], sampling: Sampling
) -> list[Reply]:
    """Complete the plans to whole replies within the length limit; discarded plans count in their tokens."""
    planned = [place for place, one in enumerate(drawn) if one.plan]
    going_on = [begun(prompts[place], f"{drawn[place].plan}\n") for place in planned]
    rests = dict(zip(planned, student.generate(going_on, sampling), strict=True))
    found = []
    for place, one in enumerate(drawn):
        if place not in rests:
            found.append(replace(present(one.first), tokens_out=one.tokens))
            continue
        [rest] = rests[place]
        rest = _cut(student, rest, sampling.max_tokens - one.plan_tokens)
        found.append(replace(rest, text=f"{one.plan}\n{rest.text}", tokens_out=one.tokens + rest.tokens_out))
    return found


def _cut(student: Loaded, rest: Reply, most: int) -> Reply:
    """Cut a reply to what the length limit leaves room for."""
    if rest.tokens_out <= most:
        return rest
    text = student.tokenizer.decode(rest.token_ids[:most], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return replace(rest, text=text, token_ids=rest.token_ids[:most], finish="length", tokens_out=most)


def _closed(reply: Reply) -> str | None:
    """Extract the plan of a reply and add the closing tag, which stopping there leaves out; None where it has none."""
    if reply.finish != "stop" or OPEN not in reply.text:
        return None
    return f"{reply.text.partition(CLOSE)[0].rstrip()}\n{CLOSE}"


# --- on replies that are there ----------------------------------------------------------------------------------------


def compare(tries: Sequence[Try], scores: Sequence[float]) -> dict[str, Any]:
    """Compare shares of problems solved: judged plans, a majority at equal tokens a problem, and a plain draw."""
    of: dict[str, list[tuple[Try, float]]] = {}
    for one, score in zip(tries, scores, strict=True):
        of.setdefault(one.problem.id, []).append((one, score))
    judged = [_judged(some) for some in of.values()]
    budget = fmean(tokens for _, tokens in judged)
    by_probe = [right for right, _ in judged]
    replies_P_n = [[one for one, _ in some] for some in of.values()]
    by_majority = [
        float(metrics.majority_is_right([one.score for one in some], some[0].problem.choices))
        for some in voters(replies_P_n, budget, lambda one: one.tokens)
    ]
    plain = [fmean(one.right for one, _ in some) for some in of.values()]
    shares = {"probe": by_probe, "majority": by_majority, "plain": plain}
    return {
        "problems": len(of),
        "tokens": budget,
        "tokens_of_one_reply": fmean(one.tokens for one in tries),
        **{name: asdict(stats.of_problems(values)) for name, values in shares.items()},
        "by_problem": shares,
        "probe_minus_majority": asdict(stats.paired(by_probe, by_majority)),
        "probe_minus_plain": asdict(stats.paired(by_probe, plain)),
    }


def _judged(some: Sequence[tuple[Try, float]]) -> tuple[float, int]:
    """Return whether the first good plan, or else the best, comes out right; and the tokens spent on the problem."""
    spent, best = 0, some[0]
    for one, score in some:
        spent += one.plan_tokens
        if score > best[1]:
            best = (one, score)
        if score >= 0:  # below it a plan is weak
            break
    chosen = best[0]
    return float(chosen.right), spent + chosen.tokens - chosen.plan_tokens


def voters(replies_P_n: Sequence[Sequence[T]], budget: float, tokens: Callable[[T], int]) -> list[list[T]]:
    """As many replies of each problem, one at least, as a budget of tokens a problem allows.

    What one problem leaves the next one has: the budget is met over all of them, however long a reply is.
    """
    left, found = 0.0, []
    for replies in replies_P_n:
        left += budget - tokens(replies[0])
        found.append([replies[0]])
        for one in replies[1:]:
            if tokens(one) > left:
                break
            left -= tokens(one)
            found[-1].append(one)
    return found
