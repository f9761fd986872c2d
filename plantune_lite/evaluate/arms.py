"""The arms of a study side by side: who answered how much of the same problems, and how sure a difference is.

    beside([Arm("baseline", (run, run_of_the_next_seed)), Arm("m1", (...))], seed=0) -> Standing(sentences, rows, ...)

The untuned model at its best prompt is the first row, and "not better" is said first. Seeds are pooled in figures: a
problem that several seeds have counts once, with the mean of their answers. Intervals and p values come from the
trainings, by the t test of their differences, one a seed; from the problems where there is one training, which the
sentences say.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from plantune_lite.evaluate import metrics, results, stats
from plantune_lite.evaluate.compare import (
    ONE_TRAINING,
    SEVERAL_PROMPTS,
    Comparison,
    Standing,
    corrected,
    in_words,
    notes_on,
    reference_of,
)
from plantune_lite.evaluate.results import OF_A_RUN, UNTUNED
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.runs.folder import read_manifest
from plantune_lite.types import Problem

Runs = tuple[Path | None, ...]  # seed by seed, None where one failed
_STAGES = ("sft", "cpl", "grpo")  # that train


@dataclass(frozen=True)
class Arm:
    """One variant: its runs, or the name of the arm that answers each source."""

    name: str
    runs: Runs = ()
    routes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm on one suite."""

    suite: str
    name: str
    mode: str  # how it was asked
    problems: int
    accuracy: Estimate
    by_seed: tuple[float, ...]
    learned: str = ""  # training rows
    steps: str = ""


class _Key(NamedTuple):
    """One problem as one seed asked it."""

    seed: int
    source: str
    problem: str  # its id and a digest of its text: an id alone may be another problem's in another seed


class _Asked(NamedTuple):
    """One model of one run in one mode on one suite."""

    seed: int
    suite: str
    model: str
    mode: str
    shares: dict[_Key, float]  # of the samples of each problem those that are right
    caveats: tuple[str, ...]


class _Pooled(NamedTuple):
    """An arm's answers on one suite, over all seeds."""

    name: str
    mode: str
    shares: dict[_Key, float]

    def by_problem(self, among: set[_Key] | None = None) -> dict[str, float]:
        """One value a problem: the mean over the seeds that have it."""
        found: dict[str, list[float]] = {}
        for key, share in self.shares.items():
            if among is None or key in among:
                found.setdefault(key.problem, []).append(share)
        return {problem: fmean(values) for problem, values in found.items()}

    def by_seed(self, among: set[_Key]) -> tuple[float, ...]:
        """One value a seed: the mean over the problems that it has."""
        found: dict[int, list[float]] = {}
        for key in sorted(among):
            found.setdefault(key.seed, []).append(self.shares[key])
        return tuple(map(fmean, found.values()))


def beside(arms: Sequence[Arm], *, seed: int = 0) -> Standing:
    """Compare the arms, suite by suite; the first is the one that the others are compared with."""
    read = {arm.name: list(_answers(arm)) for arm in arms}
    folders = {arm.name: [run for run in arm.runs if run] for arm in arms}
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    for suite in dict.fromkeys(one.suite for these in read.values() for one in these):
        here = {name: [one for one in these if one.suite == suite] for name, these in read.items()}
        untuned = _best_untuned(one for these in here.values() for one in these)
        tuned = [one for one in _tuned(arms, here) if one.shares]
        rows += [_row(suite, one, folders.get(one.name, []), seed) for one in (untuned, *tuned) if one]
        for place, one in enumerate(tuned):
            comparisons += [
                _compared(suite, one, other, seed)
                for other in (untuned, *tuned[: min(place, 1)])
                if other and set(one.shares) & set(other.shares)  # a run that failed may have left nothing in common
            ]
    family = corrected(comparisons)
    return Standing(tuple(_sentences(family)), tuple(rows), family, tuple(_notes(arms, read, rows, family)))


# --- what was answered ------------------------------------------------------------------------------------------------


def _answers(arm: Arm) -> Iterator[_Asked]:
    for seed, run in enumerate(arm.runs):
        for one in results.answers([run]) if run else ():
            keys = {id: _key(seed, problem) for id, problem in one.problems.items()}
            shares = {keys.get(id, _Key(seed, "", id)): share for id, share in one.shares.items()}
            yield _Asked(seed, one.suite, one.model, one.mode, shares, (*one.caveats, *one.unfinished))


def _key(seed: int, problem: Problem) -> _Key:
    text = json.dumps([problem.question, problem.choices, problem.answer])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return _Key(seed, problem.source, f"{problem.id} {digest}")


def _best_untuned(answers: Iterable[_Asked]) -> _Pooled | None:
    """Pool the untuned model over the seeds, each at the prompt it chose; of several in a seed at the one best overall.

    All arms with these problems share it.
    """
    modes: dict[str, dict[_Key, float]] = {}
    for one in answers:
        if one.model == UNTUNED:
            modes.setdefault(one.mode, {}).update(one.shares)
    used: list[str] = []
    pooled: dict[_Key, float] = {}
    while modes:
        mode = metrics.best_mode({mode: _Pooled(UNTUNED, mode, shares).by_problem() for mode, shares in modes.items()})
        known = {key.seed for key in pooled}
        if more := {key: share for key, share in modes.pop(mode).items() if key.seed not in known}:
            used.append(mode)
            pooled |= more
    return _Pooled(UNTUNED, " or ".join(used), pooled) if used else None


def _tuned(arms: Sequence[Arm], answers: Mapping[str, Sequence[_Asked]]) -> Iterator[_Pooled]:
    """What each arm's own model answered; of several models of a run the one trained last."""
    found: dict[str, _Pooled] = {}
    for arm in arms:
        if arm.routes:
            yield _routed(arm.name, {source: found[name] for source, name in arm.routes.items()})
            continue
        own = [one for one in answers[arm.name] if one.model in OF_A_RUN and one.model != UNTUNED]
        last = {one.seed: one for one in sorted(own, key=lambda one: OF_A_RUN.index(one.model))}
        shares = {key: share for one in last.values() for key, share in one.shares.items()}
        found[arm.name] = _Pooled(arm.name, next((one.mode for one in last.values()), ""), shares)
        yield found[arm.name]


def _routed(name: str, answers: Mapping[str, _Pooled]) -> _Pooled:
    """Each problem answered by the arm of its source; a seed counts where all of them answered."""
    seeds = set.intersection(*({key.seed for key in one.shares} for one in answers.values()))
    shares = {
        key: share
        for source, one in answers.items()
        for key, share in one.shares.items()
        if key.source == source and key.seed in seeds
    }
    return _Pooled(name, next(iter(answers.values())).mode, shares)


# --- side by side -----------------------------------------------------------------------------------------------------


def _row(suite: str, one: _Pooled, folders: Sequence[Path], seed: int) -> Row:
    values = one.by_problem()
    by_seed = one.by_seed(set(one.shares))
    accuracy = stats.of_problems(list(values.values()), seed=seed)
    if len(by_seed) > 1 and one.name != UNTUNED:
        accuracy = stats.of_trainings(by_seed, accuracy)
    return Row(
        suite=suite,
        name=one.name,
        mode=one.mode,
        problems=len(values),
        accuracy=accuracy,
        by_seed=by_seed,
        learned=_span(_summaries(folders, "corpus", "train")),
        steps=" + ".join(_span(counts) for stage in _STAGES if (counts := _summaries(folders, stage, "steps"))),
    )


def _summaries(folders: Sequence[Path], stage: str, figure: str) -> list[int]:
    summaries = [read_manifest(folder)["stages"].get(stage, {}).get("summary", {}) for folder in folders]
    return [one[figure] for one in summaries if figure in one]


def _span(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _compared(suite: str, one: _Pooled, other: _Pooled, seed: int) -> Comparison:
    """Two arms on the problems, seed by seed, that both answered."""
    common = set(one.shares) & set(other.shares)
    ours, theirs = one.by_problem(common), other.by_problem(common)
    paired = stats.paired(list(ours.values()), [theirs[problem] for problem in ours], seed=seed)
    if len(ours_by_seed := one.by_seed(common)) > 1:
        differences = [our - their for our, their in zip(ours_by_seed, other.by_seed(common), strict=True)]
        paired = stats.over_trainings(paired, differences)
    beside_untuned = other.name == UNTUNED
    return Comparison(
        suite=suite,
        model=one.name,
        mode=one.name,  # an arm is known by its name; the untuned model by its prompt
        reference=other.name,
        reference_mode=other.mode if beside_untuned else other.name,
        beside_untuned=beside_untuned,
        asked=len(set(one.by_problem()) | set(other.by_problem())),
        paired=paired,
        p=paired.p,
    )


def _sentences(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Beside the untuned model first, and of these first who is not better, in one line: the table has the figures."""
    for beside_untuned in (True, False):
        some = [one for one in comparisons if one.beside_untuned == beside_untuned]
        for suite in dict.fromkeys(one.suite for one in some):
            if alike := [one for one in some if one.suite == suite and one.verdict == "not better"]:
                names = _listed([one.model for one in alike])
                verb = "is" if len(alike) == 1 else "are"
                yield f"{suite}: {names} {verb} not better than {reference_of(alike[0])}{_trainings(alike)}"
        for one in sorted(some, key=lambda one: one.verdict == "better"):
            if one.verdict != "not better":
                yield f"{in_words(one)}{_trainings([one])}"


def _trainings(comparisons: Sequence[Comparison]) -> str:
    """How many trainings say so."""
    least = min(one.paired.trainings for one in comparisons)
    return f", over {least} trainings" if least > 1 else f"; {ONE_TRAINING}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _notes(
    arms: Sequence[Arm],
    answers: Mapping[str, Sequence[_Asked]],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
) -> Iterator[str]:
    prompts = {(one.seed, one.suite, one.mode) for these in answers.values() for one in these if one.model == UNTUNED}
    if len({(seed, suite) for seed, suite, _ in prompts}) < len(prompts):
        yield SEVERAL_PROMPTS
    if any(len(row.by_seed) > 1 for row in rows):
        yield (
            "Intervals and p values are over trainings, one a seed (t); an arm's own interval is over problems where "
            "that is wider."
        )
    else:
        yield "One training each: --seeds 5 trains five."
    yield from notes_on(comparisons)
    for group in _same_rows(arms):
        yield f"{_listed(group)} learned from the same rows in the same way: what differs between them is chance."
    caveats: dict[str, list[str]] = {}
    for name, these in answers.items():
        for caveat in dict.fromkeys(caveat for one in these for caveat in one.caveats):
            caveats.setdefault(caveat, []).append(name)
    for caveat, names in caveats.items():
        yield f"{_listed(names)}: {caveat}."


def _same_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Arms whose corpora came out the same, and that learned from them in the same way."""
    groups: dict[str, list[str]] = {}
    for arm in arms:
        entries = [read_manifest(run)["stages"] for run in arm.runs if run]
        if learned := [_learned(entry) for entry in entries if "corpus" in entry]:
            groups.setdefault(json.dumps(learned, sort_keys=True), []).append(arm.name)
    return [names for names in groups.values() if len(names) > 1]


def _learned(entries: Mapping[str, Any]) -> list[Any]:
    """What was learned from, and how; whose the solutions are says no more than the rows do."""
    rows = entries["corpus"]["outputs"].get("corpus/train.jsonl")
    inputs = [entries[stage]["inputs"] for stage in _STAGES if stage in entries]
    return [rows, *({name: value for name, value in one.items() if name != "sft.solutions"} for one in inputs)]
