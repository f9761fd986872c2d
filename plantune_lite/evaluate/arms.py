"""The arms of a study side by side: who answered how much of the same problems, and how sure a difference is.

    beside([Arm("baseline", (run, run_of_the_next_seed)), Arm("m1", (...))], seed=0) -> Beside(sentences, rows, ...)

The untuned model at its best prompt is the first row, and "not better" is said first. Seeds are pooled in figures: a
problem that several seeds have counts once, with the mean of their answers. Intervals and p values come from the
trainings, by the t test of their differences, one a seed; from the problems where there is one training, which the
sentences say.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from plantune_lite.evaluate import metrics, results, stats
from plantune_lite.evaluate.compare import ONE_TRAINING, Comparison
from plantune_lite.evaluate.results import BASELINE, UNTUNED
from plantune_lite.evaluate.stats import Estimate, p_text
from plantune_lite.files import read_records
from plantune_lite.runs.folder import read_manifest
from plantune_lite.types import Problem, Score

Key = tuple[int, str]  # the number of the seed, and the problem
_STAGES = ("sft", "cpl", "grpo")  # that train
_TRAINED = (BASELINE, "control", "m1", "m2", "cpl", "grpo")  # a run's own model; the last of them that there is


@dataclass(frozen=True)
class Arm:
    """One variant: its runs, seed by seed, None where one failed; routed, the arm that answers each source."""

    name: str
    runs: tuple[Path | None, ...] = ()
    routes: Mapping[str, "Arm"] | None = None


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


@dataclass(frozen=True, kw_only=True)
class Beside:
    """All arms of a study."""

    sentences: tuple[str, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


class _Answers(NamedTuple):
    name: str
    mode: str
    shares: dict[Key, float]

    def by_problem(self, among: set[Key] | None = None) -> dict[str, float]:
        """One value a problem: the mean over the seeds that have it."""
        found: dict[str, list[float]] = {}
        for (number, problem), share in self.shares.items():
            if among is None or (number, problem) in among:
                found.setdefault(problem, []).append(share)
        return {problem: fmean(values) for problem, values in found.items()}

    def by_seed(self, among: set[Key]) -> tuple[float, ...]:
        """One value a seed: the mean over the problems that it has."""
        found: dict[int, list[float]] = {}
        for number, problem in sorted(among):
            found.setdefault(number, []).append(self.shares[number, problem])
        return tuple(map(fmean, found.values()))


def beside(arms: Sequence[Arm], *, seed: int = 0) -> Beside:
    """Compare the arms, suite by suite; the first is the one that the others are compared with."""
    rows: list[Row] = []
    found: list[Comparison] = []
    folders = {arm.name: [run for run in arm.runs if run] for arm in arms}
    for suite in dict.fromkeys(suite for runs_of in folders.values() for run in runs_of for suite in _suites(run)):
        untuned = _best_untuned(arms, suite)
        tuned = [one for arm in arms if (one := _tuned(arm, suite)).shares]
        for one in (*((untuned,) if untuned else ()), *tuned):
            rows.append(_row(suite, one, folders.get(one.name, []), seed))
        for place, one in enumerate(tuned):
            references = [untuned, *tuned[: min(place, 1)]]
            found += [
                _compared(suite, one, other, other is untuned, seed)
                for other in references
                if other and set(one.shares) & set(other.shares)  # a run that failed may have left nothing in common
            ]
    corrected = stats.holm([one.p for one in found])
    comparisons = tuple(replace(one, p=p) for one, p in zip(found, corrected, strict=True))
    return Beside(
        sentences=tuple(_sentences(comparisons)),
        rows=tuple(rows),
        comparisons=comparisons,
        notes=tuple(_notes(arms, rows, comparisons)),
    )


# --- what was answered ------------------------------------------------------------------------------------------------


def _suites(run: Path) -> Iterator[str]:
    for path in sorted((run / "eval").glob("*.jsonl")):
        yield path.stem.partition(".")[0]


def _best_untuned(arms: Sequence[Arm], suite: str) -> _Answers | None:
    """The untuned model at the prompt that does best over all seeds; all arms with these problems share it."""
    modes: dict[str, dict[Key, float]] = {}
    for arm in arms:
        for number, run in enumerate(arm.runs):
            if run and (path := run / "eval" / f"{suite}.{UNTUNED}.jsonl").is_file():
                for mode, shares in _shares(run, path, suite, number).items():
                    modes.setdefault(mode, {}).update(shares)
    found = {mode: _Answers(UNTUNED, mode, shares) for mode, shares in modes.items()}
    return found[metrics.best_mode({mode: one.by_problem() for mode, one in found.items()})] if found else None


def _tuned(arm: Arm, suite: str) -> _Answers:
    """What an arm's own model answered, over all seeds."""
    if arm.routes is not None:
        return _routed(arm, suite)
    modes: list[str] = []
    shares: dict[Key, float] = {}
    for number, run in enumerate(arm.runs):
        path = _own_answers(run, suite) if run else None
        for mode, mine in (_shares(run, path, suite, number) if path else {}).items():
            modes.append(mode)
            shares.update(mine)
    return _Answers(arm.name, modes[0] if modes else "", shares)


def _routed(arm: Arm, suite: str) -> _Answers:
    """Each problem answered by the arm of its source; a seed counts where all of them answered."""
    shares: dict[Key, float] = {}
    answers = {source: _tuned(one, suite) for source, one in arm.routes.items()}
    for number in range(max(len(one.runs) for one in arm.routes.values())):
        folders = [one.runs[number] for one in arm.routes.values()]
        if all(folders):
            problems = results.problems_of(folders[0], suite).values()
            sources = {_key(problem): problem.source for problem in problems}
            for problem, source in sources.items():
                if source in answers and (number, problem) in answers[source].shares:
                    shares[number, problem] = answers[source].shares[number, problem]
    return _Answers(arm.name, next(iter(answers.values())).mode, shares)


def _own_answers(run: Path, suite: str) -> Path | None:
    there = [run / "eval" / f"{suite}.{model}.jsonl" for model in _TRAINED]
    return next((path for path in reversed(there) if path.is_file()), None)


def _shares(run: Path, path: Path, suite: str, number: int) -> dict[str, dict[Key, float]]:
    """Mode -> problem -> the share of its samples that are right."""
    by_id = results.problems_of(run, suite)
    return {
        mode: {(number, _key(by_id[id]) if id in by_id else id): share for id, share in metrics.shares(scores).items()}
        for mode, scores in metrics.by_mode(read_records(Score, path)).items()
    }


def _key(problem: Problem) -> str:
    """The same in every seed that has this problem; an id alone may be another problem's in another seed."""
    text = json.dumps([problem.question, problem.choices, problem.answer])
    return f"{problem.id} {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


# --- side by side -----------------------------------------------------------------------------------------------------


def _row(suite: str, one: _Answers, folders: Sequence[Path], seed: int) -> Row:
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


def _compared(suite: str, one: _Answers, other: _Answers, beside_untuned: bool, seed: int) -> Comparison:
    """Two arms on the problems, seed by seed, that both answered."""
    common = set(one.shares) & set(other.shares)
    ours, theirs = one.by_problem(common), other.by_problem(common)
    paired = stats.paired(list(ours.values()), [theirs[problem] for problem in ours], seed=seed)
    if len(ours_by_seed := one.by_seed(common)) > 1:
        differences = [our - their for our, their in zip(ours_by_seed, other.by_seed(common), strict=True)]
        paired = stats.over_trainings(paired, differences)
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
            here = [one for one in some if one.suite == suite]
            if alike := [one for one in here if one.verdict == "not better"]:
                names = _listed([one.model for one in alike])
                verb = "is" if len(alike) == 1 else "are"
                yield f"{suite}: {names} {verb} not better than {_reference(alike[0])}{_trainings(alike)}"
        for one in sorted(some, key=lambda one: one.verdict == "better"):
            if one.verdict != "not better":
                yield (
                    f"{one.suite}: {one.model} is {one.verdict} than {_reference(one)}: "
                    f"{one.paired.difference.points()}, p {p_text(one.p)}, {one.paired.won} won, {one.paired.lost} lost"
                    f"{_trainings([one])}"
                )


def _reference(one: Comparison) -> str:
    return f"{one.reference} at its best prompt ({one.reference_mode})" if one.beside_untuned else one.reference


def _trainings(comparisons: Sequence[Comparison]) -> str:
    """How many trainings say so."""
    least = min(one.paired.trainings for one in comparisons)
    return f", over {least} trainings" if least > 1 else f"; {ONE_TRAINING}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _notes(arms: Sequence[Arm], rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield "The untuned model's prompt was chosen on these same problems, which favours it."
    if len(comparisons) > 1:
        yield f"p values are corrected for the {len(comparisons)} comparisons (Holm)."
    if any(len(row.by_seed) > 1 for row in rows):
        yield (
            "Intervals and p values are over trainings, one a seed (t); an arm's own interval is over problems where "
            "that is wider."
        )
    else:
        yield "One training each: --seeds 5 trains five."
    for one in comparisons:
        if one.paired.problems < one.asked:
            common = f"{one.paired.problems} of {one.asked} problems in common"
            yield f"{one.suite}: {one.model} and {one.reference} have {common}, and are compared on those."
    for group in _same_rows(arms):
        yield f"{_listed(group)} learned from the same rows in the same way: what differs between them is chance."
    caveats: dict[str, list[str]] = {}
    for arm in arms:
        for caveat in dict.fromkeys(caveat for run in arm.runs if run for caveat in _caveats(run)):
            caveats.setdefault(caveat, []).append(arm.name)
    for caveat, names in caveats.items():
        yield f"{caveat} of {_listed(names)}."


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


def _caveats(run: Path) -> Iterator[str]:
    for suite, known in results.known_of(run).items():
        if shared := len(known["in_training"]):
            words = f"{known['words']} words in a row"
            yield f"{shared} of {known['problems']} problems of {suite} share {words} with the training rows"
        if known["answered"] < known["problems"]:
            yield f"Only {known['answered']} of {known['problems']} problems of {suite} were asked in time by the runs"
