"""Where models stand on the same problems: the untuned model at its best prompt first, then every other beside it.

What comes in: run folders, of which eval/SUITE.MODEL.jsonl is read, and eval/suites.json, what is to be known of each
suite. What goes out: who answered how much, who is better than whom, as text, Markdown or JSON, and before all else a
sentence a tuned model:

    own: m1 is not better than untuned at its best prompt (few_shot): +1.7 points (-9.8 to +13.0), p 0.85, 9 won, 8 lost
    gsm8k: m1 is better than ... 3 lost; but 12 of 300 problems of gsm8k share 13 words in a row with the training rows

The best prompt is chosen on the test problems themselves, which favours the untuned model: the strict choice.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from plantune_lite import intervals, tally
from plantune_lite.intervals import Estimate, Paired, p_text
from plantune_lite.records import PlantuneError, Problem, Score, read_records
from plantune_lite.terminal import table

UNTUNED, BASELINE = "untuned", "baseline"
_ORDER = (UNTUNED, BASELINE, "control", "m1", "m2", "cpl", "grpo")  # of models in a table; others follow
_SIGNIFICANT = 0.05
SUITES = "suites.json"  # in eval/: suite -> {"problems": 300, "answered": 128, "in_training": [id, ...], "words": 13}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in one mode on one suite."""

    suite: str
    run: str
    model: str
    mode: str
    problems: int
    samples: int
    accuracy: Estimate
    truncated: float
    unparsable: float
    passed: Estimate | None = None  # pass@samples and maj@samples, where there are several
    majority: Estimate | None = None
    caveats: tuple[str, ...] = ()  # what the figure must not be read without


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model beside another on the problems that both answered."""

    suite: str
    model: str
    mode: str
    reference: str
    reference_mode: str
    beside_untuned: bool  # at its best prompt
    asked: int  # problems that at least one of the two answered
    paired: Paired
    p: float  # corrected for all comparisons of the table
    caveats: tuple[str, ...] = ()
    verdict: str = field(init=False)

    def __post_init__(self) -> None:
        better = "better" if self.paired.difference.value > 0 else "worse"
        object.__setattr__(self, "verdict", better if self.p < _SIGNIFICANT else "not better")


@dataclass(frozen=True)
class Standing:
    """All rows, all comparisons, and what is to be known beside them; the sentences come first wherever it is shown."""

    sentences: tuple[str, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


def standing(runs: Sequence[Path], *, seed: int = 0) -> Standing:
    """Compare all models of these runs, suite by suite."""
    answers = [one for run, where in zip(runs, _places(runs), strict=True) for one in _answers(run, where)]
    if not answers:
        raise PlantuneError(f"no answers in {', '.join(f'{run}/eval' for run in runs)}: plantune evaluate comes first")
    rows, found = [], []
    for suite in dict.fromkeys(one.suite for one in answers):
        here = _in_order([one for one in answers if one.suite == suite])
        rows += [one.row(seed) for one in here]
        found += [compared for one in here for compared in _comparisons(one, here, seed)]
    corrected = intervals.holm([compared.p for compared in found])
    comparisons = tuple(replace(compared, p=p) for compared, p in zip(found, corrected, strict=True))
    unasked = {suite: None for run in runs for suite, known in known_of(run).items() if known["answered"] == 0}
    sentences = (*_sentences(rows, comparisons), *(f"{suite}: not asked: max_hours was up before" for suite in unasked))
    return Standing(sentences, tuple(rows), comparisons, tuple(_notes(rows, comparisons)))


# --- what was answered ------------------------------------------------------------------------------------------------


class _Answers(NamedTuple):
    suite: str
    run: str
    model: str
    mode: str
    where: str  # "" or "RUN/", where there are several
    scores: list[Score]
    caveats: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.where + self.model

    @property
    def share(self) -> float:
        return fmean(tally.shares(self.scores).values())

    def row(self, seed: int) -> Row:
        samples = tally.by_problem(self.scores)
        several = min(map(len, samples.values()))
        return Row(
            suite=self.suite,
            run=self.run,
            model=self.name,
            mode=self.mode,
            problems=len(samples),
            samples=several,
            accuracy=tally.accuracy(self.scores, seed=seed),
            passed=tally.passed(several, samples, seed=seed) if several > 1 else None,
            majority=tally.majority(samples, _choices(Path(self.run), self.suite)) if several > 1 else None,
            truncated=fmean(one.finish == "length" for one in self.scores),
            unparsable=fmean(one.same is None for one in self.scores),
            caveats=self.caveats,
        )


def _places(runs: Sequence[Path]) -> list[str]:
    """What stands before a model's name: nothing for one run, the folder's name, the path where names are alike."""
    names = [run.resolve().name for run in runs]
    if len(runs) == 1:
        return [""]
    return [f"{name if names.count(name) == 1 else run}/" for run, name in zip(runs, names, strict=True)]


def _answers(run: Path, where: str) -> Iterator[_Answers]:
    known = known_of(run)
    for path in sorted((run / "eval").glob("*.jsonl")):
        suite, _, model = path.stem.partition(".")
        modes: dict[str, list[Score]] = {}
        for one in read_records(Score, path):
            modes.setdefault(one.mode, []).append(one)
        for mode, scores in modes.items():
            caveats = tuple(_caveats(suite, model, known[suite])) if suite in known and model in _ORDER else ()
            yield _Answers(suite, str(run), model, mode, where, scores, caveats)


def _choices(run: Path, suite: str) -> dict[str, tuple[str, ...]]:
    """What could be chosen in each problem: a letter and its text are one vote."""
    path = run / "suites" / f"{suite}.jsonl"
    return {one.id: one.choices for one in read_records(Problem, path)} if path.is_file() else {}


def known_of(run: Path) -> dict[str, dict[str, Any]]:
    """What evaluation has found out about the suites of a run, beside their answers."""
    path = run / "eval" / SUITES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _caveats(suite: str, model: str, known: Mapping[str, Any]) -> Iterator[str]:
    """What no figure of a model on a suite must be read without."""
    shared = len(known["in_training"])
    if shared and model != UNTUNED:
        yield (
            f"{shared} of {known['problems']} problems of {suite} share {known['words']} words in a row with the "
            "training rows"
        )
    if model == BASELINE and known.get("baseline"):
        yield known["baseline"]
    if known["answered"] < known["problems"]:
        yield f"only {known['answered']} of {known['problems']} problems of {suite} were asked before max_hours was up"


def _best_untuned(answers: Iterable[_Answers]) -> _Answers | None:
    return max((one for one in answers if one.model == UNTUNED), key=lambda one: one.share, default=None)


def _in_order(answers: Sequence[_Answers]) -> list[_Answers]:
    """The best untuned first, then as models are trained."""
    best = _best_untuned(answers)

    def place(one: _Answers) -> tuple[bool, int]:
        return one is not best, _ORDER.index(one.model) if one.model in _ORDER else len(_ORDER)

    return sorted(answers, key=place)


# --- who beside whom --------------------------------------------------------------------------------------------------


def _comparisons(one: _Answers, answers: Sequence[_Answers], seed: int) -> Iterator[Comparison]:
    """A tuned model beside the untuned one, the baseline, and the first of the other tuned ones."""
    if one.model == UNTUNED:
        return
    own = [other for other in answers if other.run == one.run]  # first: another run may be of another student
    untuned = _best_untuned(own) or _best_untuned(answers)
    baseline = next((other for other in [*own, *answers] if other.model == BASELINE), None)
    tuned = next((other for other in answers if other.model not in (UNTUNED, BASELINE)), None)
    references = [untuned, *(() if one.model == BASELINE else (baseline, tuned))]
    for reference in references:
        if reference and reference is not one and (paired := _paired(one, reference, seed)):
            yield Comparison(
                suite=one.suite,
                model=one.name,
                mode=one.mode,
                reference=reference.name,
                reference_mode=reference.mode,
                beside_untuned=reference is untuned,
                asked=len({score.problem_id for score in (*one.scores, *reference.scores)}),
                paired=paired,
                p=paired.p,
                caveats=tuple(dict.fromkeys((*one.caveats, *reference.caveats))),
            )


def _paired(one: _Answers, reference: _Answers, seed: int) -> Paired | None:
    """The comparison on common problems: same id, same gold answer."""
    ours, theirs = tally.shares(one.scores), tally.shares(reference.scores)
    gold = {(score.problem_id, score.gold) for score in reference.scores}
    common = list(dict.fromkeys(s.problem_id for s in one.scores if (s.problem_id, s.gold) in gold))
    if not common:
        return None
    return intervals.paired([ours[id] for id in common], [theirs[id] for id in common], seed=seed)


# --- in words ---------------------------------------------------------------------------------------------------------


def _sentences(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Who is not better than the untuned model, then who is; of equals the baseline last."""
    beside = [one for one in comparisons if one.beside_untuned]
    compared = {(one.suite, one.model) for one in beside}
    for row in rows:
        if not _is(UNTUNED, row.model) and (row.suite, row.model) not in compared:
            yield f"{row.suite}: nobody knows whether {row.model} gained anything: the untuned model was not asked"
    if all(_is(UNTUNED, row.model) for row in rows):
        first = rows[0]
        right = f"{named(first.model, first.mode)} is right on {first.accuracy.percent()}"
        yield f"{first.suite}: {right}{_but(first.caveats)}"
    for one in sorted(beside, key=lambda one: (one.verdict == "better", _is(BASELINE, one.model))):
        paired = one.paired
        yield (
            f"{one.suite}: {named(one.model, one.mode)} is {one.verdict} than {one.reference} at its best prompt "
            f"({one.reference_mode}): {paired.difference.points()}, p {p_text(one.p)}, {paired.won} won, "
            f"{paired.lost} lost{_but(one.caveats)}"
        )


def _but(caveats: Sequence[str]) -> str:
    return f"; but {' and '.join(caveats)}" if caveats else ""


def _is(kind: str, model: str) -> bool:
    return model.rpartition("/")[2] == kind


def named(model: str, mode: str) -> str:
    """A model and how it was asked."""
    return model if _is(mode, model) else f"{model} ({mode})"


def _notes(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Iterator[str]:
    if any(one.beside_untuned for one in comparisons):
        yield "The untuned model's prompt was chosen on these same problems, which favours it."
    for caveat in dict.fromkeys(caveat for row in rows for caveat in row.caveats):
        yield f"* {caveat}."
    for other in dict.fromkeys(row.model for row in rows if row.model.rpartition("/")[2] not in _ORDER):
        yield f"What {other} was trained on is not known here, nor whether these problems were among it."
    names = {row.model.rpartition("/")[2] for row in rows}
    if BASELINE in names and names & {"grpo", "cpl"}:
        yield "baseline is SFT alone: how it differs may be due to what followed the SFT as well as to plans."
    if several := sorted({row.samples for row in rows if row.samples > 1}):
        yield (
            f"k = {', '.join(map(str, several))}: right is the mean over the samples, pass@k one right among k, maj@k "
            "the answer that most of them gave."
        )
    if len(comparisons) > 1:
        yield f"p values are corrected for the {len(comparisons)} comparisons (Holm)."
    for one in comparisons:
        if one.paired.problems < one.asked:
            common = f"{one.paired.problems} of {one.asked} problems in common"
            yield f"{one.suite}: {one.model} and {one.reference} have {common}, and are compared on those."


COMPARISONS = ("model", "beside", "points", "p", "won", "lost")


def row_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The rows as a table shows them: what its columns are called, and its lines."""
    columns = ["model", "prompt", "of", "right", "95 %", "cut off", "unread"]
    several = any(row.samples > 1 for row in rows)
    if several:
        columns += ["pass@k", "maj@k"]
    lines = []
    for row in rows:
        share, _, interval = row.accuracy.percent().partition(" (")
        shares = (f"{100 * row.truncated:.0f} %", f"{100 * row.unparsable:.0f} %")
        problems = str(row.problems) if row.samples == 1 else f"{row.problems} x {row.samples}"
        problems += "*" if row.caveats else ""
        line = [row.model, row.mode, problems, share, interval.rstrip(")"), *shares]
        if several:
            line += [one.percent() if one else "" for one in (row.passed, row.majority)]
        lines.append(line)
    return columns, lines


def comparison_cells(comparisons: Iterable[Comparison]) -> list[tuple[str, ...]]:
    """The comparisons as a table shows them, under COMPARISONS."""
    return [
        (
            named(one.model, one.mode),
            named(one.reference, one.reference_mode),
            one.paired.difference.points().replace(" points", ""),
            p_text(one.p),
            str(one.paired.won),
            str(one.paired.lost),
        )
        for one in comparisons
    ]


def as_text(found: Standing, *, width: int | None = None) -> str:
    """For a terminal."""
    parts = ["\n".join(found.sentences)] if found.sentences else []
    for suite in dict.fromkeys(row.suite for row in found.rows):
        parts.append(table(suite, *row_table([row for row in found.rows if row.suite == suite]), width=width))
        if comparisons := [one for one in found.comparisons if one.suite == suite]:
            parts.append(table("", COMPARISONS, comparison_cells(comparisons), width=width))
    return "\n\n".join([*parts, *(["\n".join(found.notes)] if found.notes else [])])


def as_markdown(found: Standing) -> str:
    """For a card or a report."""
    parts = ["\n".join(f"- {sentence}" for sentence in found.sentences)] if found.sentences else []
    for suite in dict.fromkeys(row.suite for row in found.rows):
        parts += [f"### {suite}", markdown(*row_table([row for row in found.rows if row.suite == suite]))]
        if comparisons := [one for one in found.comparisons if one.suite == suite]:
            parts.append(markdown(COMPARISONS, comparison_cells(comparisons)))
    return "\n\n".join([*parts, *found.notes]) + "\n"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, whatever its cells hold."""
    lines = (columns, ("---",) * len(columns), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def as_json(found: Standing) -> dict[str, Any]:
    """For programs."""
    return asdict(found)
