r"""Does a model know that its plan is good? A probe at the last token of a plan for "the answer will be right".

    tries = tried(student, problems, file, how=asking)        its replies that have a plan, graded
    results, judge = knows(student, tries, Path("knows"))     {"auroc": {...}, "by_layer": [...], "controls": {...}}
    judge.scores(student, [each.messages for each in tries])  [1.7, ...] below 0 a plan is weak

For any model that plans before it solves. Problems are split, so the probe never saw the problems that it is judged on.
Its controls are cheaper: how long the plan is, how often the problem's other tries are right (unknown in advance), and
how probable the plan's tokens are to the model itself.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from plantune_lite.evaluate import metrics, modes, stats
from plantune_lite.evaluate.answers import Asking, answered
from plantune_lite.evaluate.modes import Mode
from plantune_lite.lab.probes import linear, residuals
from plantune_lite.lab.probes.linear import Probe
from plantune_lite.lab.probes.world_probe import split
from plantune_lite.plan import CLOSE, OPEN
from plantune_lite.student.load import Loaded
from plantune_lite.types import Messages, PlantuneError, Problem, Score

_AT_ONCE = 16  # problems, with several replies each


@dataclass(frozen=True)
class Try:
    """One reply that begins with a plan."""

    problem: Problem
    score: Score
    plan: str  # the reply up to the plan's closing tag
    plan_tokens: int
    tokens: int  # with the plan's

    @property
    def right(self) -> bool:
        """Tell whether its answer is right."""
        return self.score.same is True

    @property
    def messages(self) -> Messages:
        """Return the conversation up to the last token of the plan."""
        return begun(modes.ASK[self.score.mode](self.problem), self.plan)


@dataclass(frozen=True)
class Judge:
    """Plan judge: a probe on one layer, and the log-odds below which a plan is weak."""

    layer: int
    probe: Probe
    threshold: float = 0.0

    def scores(self, student: Loaded, planned: Sequence[Messages]) -> list[float]:
        """Score conversations that end with a plan: the log-odds that it is good, minus the threshold."""
        if not planned:
            return []
        texts = [student.encode_chat(messages) for messages in planned]
        with TemporaryDirectory() as folder:
            read = residuals.read(student, texts, Path(folder) / "plans.f32", learned=[0] * len(texts))
            return (self.probe(read.layer(self.layer))[:, 0] - self.threshold).tolist()


def begun(prompt: Messages, text: str) -> Messages:
    """Return a conversation with the beginning of its reply."""
    return (*prompt, {"role": "assistant", "content": text})


def tried(
    student: Loaded,
    problems: Sequence[Problem],
    out: Path,
    *,
    mode: Mode = "m1",
    how: Asking,
) -> list[Try]:
    """Sample and grade several replies to each problem; leave out replies without a whole plan.

    Replies are written to a file as they come, and those already there are not sampled again. In mode m2 the untuned
    model carries the plans out.
    """
    how = replace(how, executor=student.generate_untuned, chunk=_AT_ONCE)
    answer, prompt = modes.way_to_answer(mode, student.generate, problems, how)
    scores = metrics.by_problem(answered(problems, answer, mode=mode, out=out, how=how, settings={"prompt": prompt}))
    return [reply for problem in problems for score in scores[problem.id] if (reply := _try(student, problem, score))]


def _try(student: Loaded, problem: Problem, score: Score) -> Try | None:
    """Convert a reply to a try if it begins with a whole plan."""
    before, close, _ = score.text.partition(CLOSE)
    if not close or not before.startswith(OPEN):
        return None
    prompt, plan = modes.ASK[score.mode](problem), before + close
    tokens = len(student.encode_chat(begun(prompt, plan))) - len(student.encode_chat(prompt))
    return Try(problem, score, plan, tokens, max(tokens, score.tokens))


def knows(
    student: Loaded, tries: Sequence[Try], out: Path, *, seed: int = 0, spared: Collection[str] = ()
) -> tuple[dict[str, Any], Judge]:
    """Measure how well each layer, and each control, predicts which plans come out right; fit the best layer's judge.

    `spared` are ids of problems to measure the judge on rather than fit it on.
    """
    import numpy as np

    if not tries:
        raise PlantuneError(
            "no reply begins with a whole plan: train with sft.target=plan+solution, or allow more tokens"
        )
    right = np.array([float(attempt.right) for attempt in tries])
    ids = [attempt.problem.id for attempt in tries]
    parts = split(ids, seed=seed, spared=spared)
    for places, what in ((parts.fit, "fit on"), (parts.choose, "choose on"), (parts.report, "report")):
        if len(set(right[places])) < 2:
            raise PlantuneError(
                f"all of the {len(places)} replies to {what} are {'right' if right[places].all() else 'wrong'}, and a "
                "probe needs both: take harder or easier problems, or more of them"
            )
    texts = [student.encode_chat(attempt.messages) for attempt in tries]
    with residuals.room(out) as folder:
        learned = [attempt.plan_tokens for attempt in tries]
        read = residuals.read(student, texts, folder / "plans.f32", learned=learned)
        fitted = [linear.best_fit(read.layer(number), right, parts.fit, parts.choose) for number in range(read.layers)]
    best = max(range(read.layers), key=lambda number: fitted[number].auroc)
    probe, scores = fitted[best].probe, fitted[best].scores
    judge = Judge(best, probe, linear.best_threshold(scores[parts.choose], right[parts.choose]))
    others = {
        "shorter_plan": np.array([-float(attempt.plan_tokens) for attempt in tries]),
        "pass_rate": _pass_rates(tries),
        "token_probability": np.array([fmean(logprobs) for logprobs in read.logprobs]),
    }
    results = {
        "tries": len(tries),
        "problems": len(set(ids)),
        "right": float(right.mean()),
        "layer": best,
        "threshold": round(judge.threshold, 4),
        "auroc": _reported(scores, right, ids, parts.report, seed),
        "within_a_problem": _within(scores, right, ids, parts.report),
        "by_layer": [round(linear.auroc(fit.scores[parts.report], right[parts.report]), 4) for fit in fitted],
        "controls": {name: _reported(values, right, ids, parts.report, seed) for name, values in others.items()},
        "controls_within_a_problem": {
            name: _within(values, right, ids, parts.report) for name, values in others.items() if name != "pass_rate"
        },
        "reported_on": sorted({ids[place] for place in parts.report}),
        "reported": {
            "problems": [ids[place] for place in parts.report],
            "right": [bool(right[place]) for place in parts.report],
            "probe": [round(float(scores[place]), 4) for place in parts.report],
            **{name: [round(float(value), 4) for value in values[parts.report]] for name, values in others.items()},
        },
    }
    return results, judge


def _pass_rates(tries: Sequence[Try]) -> Any:
    """Compute the pass rate of the other tries at each try's problem; 0.5 where there is no other."""
    import numpy as np

    of: dict[str, list[int]] = {}
    for place, attempt in enumerate(tries):
        of.setdefault(attempt.problem.id, []).append(place)
    rates = np.full(len(tries), 0.5)
    for places in of.values():
        right = sum(tries[place].right for place in places)
        for place in places:
            if len(places) > 1:
                rates[place] = (right - tries[place].right) / (len(places) - 1)
    return rates


def _reported(scores: Any, right: Any, ids: Sequence[str], places: Sequence[int], seed: int) -> dict[str, float]:
    names = [ids[place] for place in places]
    return asdict(linear.over_problems(linear.auroc, scores[places], right[places], names, seed=seed))


def _within(scores: Any, right: Any, ids: Sequence[str], places: Sequence[int]) -> dict[str, Any] | None:
    """Average the AUROC among the tries of one problem: what only tells hard problems from easy ones gets 0.5.

    Return None if no problem has both a right and a wrong try.
    """
    of: dict[str, list[int]] = {}
    for place in places:
        of.setdefault(ids[place], []).append(place)
    each = [linear.auroc(scores[some], right[some]) for some in of.values()]
    each = [value for value in each if value == value]  # all of a problem's tries may be right, or none
    if not each:
        return None
    return {**asdict(stats.mean(each)), "problems": len(each)}
