"""Where models stand on the same problems: the untuned model at its best prompt first, then every other beside it.

What comes in: run folders, with the answers in their eval/ (results.py). What goes out: who answered how much, who is
better than whom, as text, Markdown or JSON, and before all else a sentence a comparison: a tuned model beside the
baseline, beside the untuned one, and with its own plan beside another problem's:

    own: m1 is better than baseline: +52.0 points (+44.1 to +59.3), p < 0.001, 110 won, 6 lost
    own: m1 is better than untuned at its best prompt (few_shot): +80.5 points (+74.2 to +85.6), p < 0.001, 161 won ...
    own: m1 uses its plan: its own rather than another problem's is worth +84.0 points (+78.1 to +88.6), ...
    gsm8k: m1 is not better than ... 3 lost; but 12 of 300 problems of gsm8k share 13 words in a row with the training
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from plantune_lite.evaluate import metrics, results, stats
from plantune_lite.evaluate.results import BASELINE, GRPO, OF_A_RUN, UNTUNED, Answers
from plantune_lite.evaluate.stats import Estimate, Paired, p_text
from plantune_lite.terminal import markdown_table, table
from plantune_lite.types import PlantuneError, Problem

ONE_TRAINING = "one training each, and another seed could say otherwise"
SEVERAL_PROMPTS = "The untuned model was asked with several prompts, of which the best on these same problems counts."
_SIGNIFICANT = 0.05
_THEIR_OWN = ("model", "prompt", "shots", "seed")  # settings in which two that are compared may differ


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
    asked: int  # problems that at least one of the two was asked
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
    rows: tuple[Any, ...]  # Row, or of a study arms.Row
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def suites(self) -> Iterator[tuple[str, list[Any], list[Comparison]]]:
        """Yield each suite with its rows and its comparisons."""
        for suite in dict.fromkeys(row.suite for row in self.rows):
            rows = [row for row in self.rows if row.suite == suite]
            yield suite, rows, [one for one in self.comparisons if one.suite == suite]


def standing(runs: Sequence[Path], *, seed: int = 0) -> Standing:
    """Compare all models of these runs, suite by suite."""
    answers = list(results.answers(runs))
    if not answers:
        raise PlantuneError(f"no answers in {', '.join(f'{run}/eval' for run in runs)}: plantune evaluate comes first")
    rows, found = [], []
    asked = dict.fromkeys(one.suite for one in answers)
    for suite in asked:
        here = _in_order([one for one in answers if one.suite == suite])
        rows += [_row(one, seed) for one in here]
        found += [compared for one in here for compared in _comparisons(one, here, seed)]
    comparisons = corrected(found)
    unasked = dict.fromkeys(suite for run in runs for suite in results.known_of(run) if suite not in asked)
    sentences = (
        *_sentences(rows, comparisons, list(results.plan_uses(runs))),
        *(f"{suite}: not asked so far" for suite in unasked),
    )
    return Standing(sentences, tuple(rows), comparisons, tuple(_notes(rows, comparisons)))


def corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Correct the p values of one table (Holm)."""
    p_values = stats.holm([one.p for one in comparisons])
    return tuple(replace(one, p=p) for one, p in zip(comparisons, p_values, strict=True))


def _row(one: Answers, seed: int) -> Row:
    samples = metrics.by_problem(one.scores)
    choices = {id: problem.choices for id, problem in one.problems.items()}
    several = min(map(len, samples.values()))
    return Row(
        suite=one.suite,
        run=one.run,
        model=one.name,
        mode=one.mode,
        problems=len(samples),
        samples=several,
        accuracy=metrics.accuracy(one.scores, seed=seed),
        passed=metrics.passed(several, samples, seed=seed) if several > 1 else None,
        majority=metrics.majority(samples, choices) if several > 1 else None,
        truncated=fmean(score.finish == "length" for score in one.scores),
        unparsable=fmean(score.same is None for score in one.scores),
        caveats=(*one.caveats, *one.unfinished),
    )


def _best_untuned(answers: Iterable[Answers]) -> Answers | None:
    """The untuned model at its best prompt; of several runs' the best."""
    untuned: dict[str, dict[str, Answers]] = {}
    for one in answers:
        if one.model == UNTUNED:
            untuned.setdefault(one.run, {})[one.mode] = one
    best = [modes[metrics.best_mode({mode: one.shares for mode, one in modes.items()})] for modes in untuned.values()]
    return max(best, key=lambda one: fmean(one.shares.values()), default=None)


def _in_order(answers: Sequence[Answers]) -> list[Answers]:
    """The best untuned first, then as models are trained; others follow."""
    best = _best_untuned(answers)

    def place(one: Answers) -> tuple[bool, int]:
        return one is not best, OF_A_RUN.index(one.model) if one.model in OF_A_RUN else len(OF_A_RUN)

    return sorted(answers, key=place)


# --- who beside whom --------------------------------------------------------------------------------------------------


def _comparisons(one: Answers, answers: Sequence[Answers], seed: int) -> Iterator[Comparison]:
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
                asked=len(one.shares) + len(reference.shares) - paired.problems,
                paired=paired,
                p=paired.p,
                caveats=tuple(dict.fromkeys(_caveats_of_both(one, reference))),
            )


def _paired(one: Answers, reference: Answers, seed: int) -> Paired | None:
    """The comparison on common problems: same id, same gold answer, and same question where both runs have it.

    An id alone may be another problem's in a run of another seed, and with small numbers as answers the gold is alike.
    """
    ours, theirs = one.shares, reference.shares
    gold = {(score.problem_id, score.gold) for score in reference.scores}
    alike = (score.problem_id for score in one.scores if (score.problem_id, score.gold) in gold)
    common = [id for id in dict.fromkeys(alike) if _same(one.problems.get(id), reference.problems.get(id))]
    if not common:
        return None
    return stats.paired([ours[id] for id in common], [theirs[id] for id in common], seed=seed)


def _same(one: Problem | None, other: Problem | None) -> bool:
    return one is None or other is None or (one.question, one.choices) == (other.question, other.choices)


def _caveats_of_both(one: Answers, reference: Answers) -> Iterator[str]:
    """What the comparison must not be read without; of what was not asked so far the larger part."""
    yield from (*one.caveats, *reference.caveats)
    yield from max(one, reference, key=lambda these: these.unasked).unfinished
    for name, value in one.settings.items():
        if name not in _THEIR_OWN and reference.settings.get(name, value) != value:
            theirs = f"{reference.name} with {name}={reference.settings[name]}"
            yield f"{one.name} was asked with {name}={value} and {theirs}"
            return


# --- in words ---------------------------------------------------------------------------------------------------------


def _sentences(
    rows: Sequence[Row], comparisons: Sequence[Comparison], uses: Sequence[tuple[str, str, dict[str, Any]]]
) -> Iterator[str]:
    """Suite by suite which tuned model is not better than what it is compared with, which is, and what its plans do."""
    beside = [one for one in comparisons if one.beside_untuned or _is(BASELINE, one.reference) or _is(GRPO, one.model)]
    compared = {(one.suite, one.model) for one in beside if one.beside_untuned}
    for row in rows:
        if not _is(UNTUNED, row.model) and (row.suite, row.model) not in compared:
            yield f"{row.suite}: nobody knows whether {row.model} gained anything: the untuned model was not asked"
    if all(_is(UNTUNED, row.model) for row in rows):
        first = rows[0]
        right = f"{named(first.model, first.mode)} is right on {first.accuracy.percent()}"
        yield f"{first.suite}: {right}{_but(first.caveats)}"
    for suite in dict.fromkeys(row.suite for row in rows):
        here = sorted(
            (one for one in beside if one.suite == suite), key=lambda one: (one.verdict == "better", one.beside_untuned)
        )
        yield from (f"{in_words(one)}{_but(one.caveats)}" for one in here if not _is(BASELINE, one.model))
        for _, model, use in (one for one in uses if one[0] == suite):
            does = "uses its plan" if use["p"] < _SIGNIFICANT else "is not shown to use its plan"
            figures = _figures(Estimate(**use["difference"]), use["p"], use["won"], use["lost"])
            yield f"{suite}: {model} {does}: its own rather than another problem's is worth {figures}"
        yield from (f"{in_words(one)}{_but(one.caveats)}" for one in here if _is(BASELINE, one.model))


def in_words(one: Comparison) -> str:
    """Say who is better than whom, and by how much."""
    figures = _figures(one.paired.difference, one.p, one.paired.won, one.paired.lost)
    return f"{one.suite}: {named(one.model, one.mode)} is {one.verdict} than {reference_of(one)}: {figures}"


def reference_of(one: Comparison) -> str:
    """Name what a comparison is with; the untuned model with its prompt."""
    return f"{one.reference} at its best prompt ({one.reference_mode})" if one.beside_untuned else one.reference


def _figures(difference: Estimate, p: float, won: int, lost: int) -> str:
    return f"{difference.points()}, p {p_text(p)}, {won} won, {lost} lost"


def _but(caveats: Sequence[str]) -> str:
    return f"; but {' and '.join(caveats)}" if caveats else ""


def _is(kind: str, model: str) -> bool:
    return model.rpartition("/")[2] == kind


def named(model: str, mode: str) -> str:
    """A model and how it was asked."""
    return model if _is(mode, model) else f"{model} ({mode})"


def _notes(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Iterator[str]:
    untuned = [(row.suite, row.model) for row in rows if _is(UNTUNED, row.model)]
    if len(set(untuned)) < len(untuned) and any(one.beside_untuned for one in comparisons):
        yield SEVERAL_PROMPTS
    if comparisons:
        yield f"This is {ONE_TRAINING}: plantune ablate trains with several."
    starred = dict.fromkeys(caveat for row in rows for caveat in row.caveats)
    yield from (f"* {caveat}." for caveat in starred)
    for suite, caveat in dict.fromkeys((one.suite, caveat) for one in comparisons for caveat in one.caveats):
        if caveat not in starred:
            yield f"{suite}: {caveat}."
    for suite, model in dict.fromkeys((row.suite, row.model) for row in rows):
        asked = {row.mode: row.problems for row in rows if (row.suite, row.model) == (suite, model)}
        if len(set(asked.values())) > 1:
            counts = " and ".join(f"{problems} problems with {mode}" for mode, problems in asked.items())
            yield f"{suite}: {model} was asked {counts}: its prompts compare on those that all have."
    for other in dict.fromkeys(row.model for row in rows if row.model.rpartition("/")[2] not in OF_A_RUN):
        yield f"What {other} was trained on is not known here, nor whether these problems were among it."
    names = {row.model.rpartition("/")[2] for row in rows}
    if BASELINE in names and names & {"grpo", "cpl"}:
        yield "baseline is SFT alone: how it differs may be due to what followed the SFT as well as to plans."
    if several := sorted({row.samples for row in rows if row.samples > 1}):
        yield (
            f"k = {', '.join(map(str, several))}: right is the mean over the samples, pass@k one right among k, maj@k "
            "the answer that most of them gave."
        )
    yield from notes_on(comparisons)


def notes_on(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield what the comparisons of a table must not be read without."""
    if len(comparisons) > 1:
        yield f"p values are corrected for the {len(comparisons)} comparisons (Holm)."
    for one in comparisons:
        if one.paired.problems < one.asked:
            common = f"{one.paired.problems} of {one.asked} problems in common"
            yield f"{one.suite}: {one.model} and {one.reference} have {common}, and are compared on those."


Lines = Callable[[Sequence[Any]], tuple[list[str], list[list[str]]]]  # rows -> columns and cells
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


def standing_text(found: Standing, *, lines: Lines = row_table, width: int | None = None) -> str:
    """Render for a terminal; `lines` makes a table of the rows of a suite."""
    parts = ["\n".join(found.sentences)] if found.sentences else []
    for suite, rows, comparisons in found.suites():
        parts.append(table(suite, *lines(rows), width=width))
        if comparisons:
            parts.append(table("", COMPARISONS, comparison_cells(comparisons), width=width))
    return "\n\n".join([*parts, *(["\n".join(found.notes)] if found.notes else [])])


def standing_markdown(found: Standing, *, lines: Lines = row_table) -> str:
    """Render for a card or a report."""
    parts = ["\n".join(f"- {sentence}" for sentence in found.sentences)] if found.sentences else []
    for suite, rows, comparisons in found.suites():
        parts += [f"## {suite}", markdown_table(*lines(rows))]
        if comparisons:
            parts.append(markdown_table(COMPARISONS, comparison_cells(comparisons)))
    return "\n\n".join([*parts, *found.notes]) + "\n"


def standing_json(found: Standing) -> dict[str, Any]:
    """For programs."""
    return asdict(found)
