"""Plans that a judge calls weak are drawn again before anything is spent on carrying them out.

    generate = resampling(student, judge, threshold=0.0, tries=4)   a Generate, as evaluation and `ask` take it
    compare(tries, scores, threshold=0.0)                           {"probe": 41.2 %, "majority": 38.0 %, "plain": ...}

`compare` asks nobody anything: it plays the three ways on replies that are there, so that they draw the same ones. The
majority has as many tokens a problem as the judged way took on the mean. A plan that is thrown away counts, what would
have followed it does not; that is where it saves.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from plantune_lite import intervals, plans
from plantune_lite.lab.knows import Judge, Try, begun
from plantune_lite.records import Generate, Messages, Reply, Sampling
from plantune_lite.student import Loaded
from plantune_lite.verify import same_answer

TEMPERATURE = 0.7  # at least, of a plan that is drawn again

# --- live -------------------------------------------------------------------------------------------------------------


def resampling(student: Loaded, judge: Judge, *, threshold: float, tries: int) -> Generate:
    """A student that carries out the first of its plans that the judge finds good enough, or the best of so many.

    The first plan is drawn as asked, which may be greedily, and others with some chance.
    """

    def generate(prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        found: list[list[Reply]] = [[] for _ in prompts]
        for draw in range(sampling.n):
            once = replace(sampling, n=1, seed=sampling.seed + 1000 * draw)
            for place, reply in enumerate(_answered(student, judge, prompts, once, threshold, tries)):
                found[place].append(reply)
        return found

    return generate


@dataclass
class _Drawn:
    """The best plan of a prompt so far."""

    plan: str = ""
    score: float = float("-inf")
    tokens: int = 0  # of all its plans


def _answered(
    student: Loaded, judge: Judge, prompts: Sequence[Messages], sampling: Sampling, threshold: float, tries: int
) -> list[Reply]:
    drawn = [_Drawn() for _ in prompts]
    for turn in range(tries):
        weak = [place for place, one in enumerate(drawn) if one.score < threshold]
        if not weak:
            break
        temperature = max(sampling.temperature, TEMPERATURE) if turn else sampling.temperature
        once = replace(sampling, stop=(plans.CLOSE,), seed=sampling.seed + turn, temperature=temperature)
        replies = [reply for [reply] in student.generate([prompts[place] for place in weak], once)]
        planned = [_closed(reply.text) for reply in replies]
        scores = judge.scores(student, [begun(prompts[at], plan) for at, plan in zip(weak, planned, strict=True)])
        for place, reply, plan, score in zip(weak, replies, planned, scores, strict=True):
            one = drawn[place]
            one.tokens += reply.tokens_out
            if score > one.score:
                one.plan, one.score = plan, score
    going_on = [begun(prompt, f"{one.plan}\n") for prompt, one in zip(prompts, drawn, strict=True)]
    return [
        replace(rest, text=f"{one.plan}\n{rest.text}", tokens_out=one.tokens + rest.tokens_out)
        for one, [rest] in zip(drawn, student.generate(going_on, sampling), strict=True)
    ]


def _closed(text: str) -> str:
    """A plan with its closing tag, which stopping there leaves out."""
    is_open = plans.OPEN in text and plans.CLOSE not in text
    return f"{text.rstrip()}\n{plans.CLOSE}" if is_open else text


# --- on replies that are there ----------------------------------------------------------------------------------------


def compare(tries: Sequence[Try], scores: Sequence[float], *, threshold: float) -> dict[str, Any]:
    """The shares of problems solved by judged plans, by a majority, and by a plain draw, at equal tokens a problem."""
    of: dict[str, list[tuple[Try, float]]] = {}
    for one, score in zip(tries, scores, strict=True):
        of.setdefault(one.problem.id, []).append((one, score))
    judged = [_judged(some, threshold) for some in of.values()]
    budget = fmean(tokens for _, tokens in judged)
    by_probe = [right for right, _ in judged]
    by_majority = [_majority([one for one, _ in some], budget) for some in of.values()]
    plain = [fmean(one.right for one, _ in some) for some in of.values()]
    shares = {"probe": by_probe, "majority": by_majority, "plain": plain}
    return {
        "problems": len(of),
        "tokens": budget,
        "tokens_of_one_reply": fmean(one.tokens for one in tries),
        **{name: asdict(intervals.of_problems(values)) for name, values in shares.items()},
        "probe_minus_majority": asdict(intervals.paired(by_probe, by_majority)),
        "probe_minus_plain": asdict(intervals.paired(by_probe, plain)),
    }


def _judged(some: Sequence[tuple[Try, float]], threshold: float) -> tuple[float, int]:
    """Whether the first good plan, or else the best, comes out right; and the tokens of all plans that were drawn."""
    spent, best = 0, some[0]
    for one, score in some:
        spent += one.plan_tokens
        if score > best[1]:
            best = (one, score)
        if score >= threshold:
            break
    chosen = best[0]
    return float(chosen.right), spent + chosen.tokens - chosen.plan_tokens


def _majority(some: Sequence[Try], budget: float) -> float:
    """Whether most of as many whole replies as the budget allows are right, the first one in any case."""
    voters, spent = [], 0
    for one in some:
        spent += one.tokens
        if voters and spent > budget:
            break
        voters.append(one)
    right = {one.answer: one.right for one in voters if one.answer}
    options = voters[0].problem.choices
    votes = [one.answer for one in voters if one.answer]
    chosen = intervals.majority(votes, lambda one, other: same_answer(one, other, choices=options).same is True)
    return float(right.get(chosen, False))
