"""Compare models on the same problems: the untuned model at its best prompt first, then every other one.

    standing([Path("runs/mine")])                                        the models of one or several runs
    beside([Arm("baseline", (run, run_of_the_next_seed)), Arm("m1", (...))])     the arms of a study, over their seeds

Input: run folders, with the answers in their eval/ (results.py). Output: each model's figures and which model is
better than which, as text, Markdown or JSON. It leads with a sentence per comparison: a tuned model against the
baseline, against the untuned model, and with its own plan against another problem's plan:

    own: m1 is better than baseline: +52.0 points (+44.1 to +59.3), p < 0.001, 110 won, 6 lost
    own: m1 is better than untuned at its best prompt (few_shot): +80.5 points (+74.2 to +85.6), p < 0.001, 161 won ...
    own: m1 uses its plan: its own rather than another problem's is worth +84.0 points (+78.1 to +88.6), ...
    gsm8k: m1 is not better than ... 3 lost; but 12 of 300 problems of gsm8k share 13 words in a row with the training

Figures pool the seeds: a problem that several seeds have counts once, with the mean of their answers. Intervals and p
values come from a t test over the trainings, with one difference per seed; with a single training, from the problems.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from plantune_lite.evaluate import metrics, results, stats
from plantune_lite.evaluate.results import BASELINE, GRPO, UNTUNED, Answers, Arm, Model, Shares
from plantune_lite.evaluate.stats import Estimate, Paired, p_text
from plantune_lite.terminal import markdown_table, table
from plantune_lite.types import PlantuneError

ONE_TRAINING = "one training each, and another seed could say otherwise"
_SIGNIFICANT = 0.05
_THEIR_OWN = ("model", "prompt", "shots", "seed")  # settings in which two that are compared may differ


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in one mode on one suite."""

    suite: str
    model: str
    mode: str
    problems: int
    samples: int
    accuracy: Estimate
    truncated: float
    unparsable: float
    by_seed: tuple[float, ...] = ()
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
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def suites(self) -> Iterable[tuple[str, list[Row]]]:
        """Group the rows by suite."""
        return metrics.grouped((row.suite, row) for row in self.rows).items()


def standing(runs: Sequence[Path], *, seed: int = 0) -> Standing:
    """Compare all models of these runs, suite by suite."""
    answers = list(results.answers(runs))
    if not answers:
        raise PlantuneError(f"no answers in {', '.join(f'{run}/eval' for run in runs)}: plantune evaluate comes first")
    models: list[tuple[Model, list[Model]]] = []
    suites = dict.fromkeys(one.suite for one in answers)
    for suite in suites:
        here = [one for one in answers if one.suite == suite]
        best = {one.run: results.best_untuned(other for other in here if other.run == one.run) for one in here}
        here.sort(key=lambda one: (one not in best.values(), results.place(one)))
        models += [(results.alone(one), list(map(results.alone, _references(one, here, best)))) for one in here]
    rows, family = _compared(models, seed)
    headlines = [one for one in family if one.beside_untuned or _is(BASELINE, one.reference) or _is(GRPO, one.model)]
    unasked = dict.fromkeys(suite for run in runs for suite in results.known_of(run) if suite not in suites)
    sentences = (
        *_sentences(rows, headlines, list(results.plan_uses(runs))),
        *(_in_words(one) for one in family if one not in headlines),
        *(f"{suite}: not asked so far" for suite in unasked),
    )
    return Standing(sentences, rows, family, tuple(_notes(rows, family)))


def beside(arms: Sequence[Arm], *, seed: int = 0) -> Standing:
    """Compare the arms of a study, suite by suite; the first is the one that the others are compared with."""
    answers = {arm.name: [list(results.answers([run])) if run else [] for run in arm.runs] for arm in arms}
    every = [one for runs in answers.values() for run in runs for one in run]
    models: list[tuple[Model, list[Model]]] = []
    for suite in dict.fromkeys(one.suite for one in every):
        here = {name: [[one for one in run if one.suite == suite] for run in runs] for name, runs in answers.items()}
        untuned = results.untuned_over_seeds(here.values())
        tuned = [one for one in results.tuned_over_seeds(arms, here) if one.answers]
        models += [(one, []) for one in untuned]
        models += [(one, [*untuned, *tuned[: min(place, 1)]]) for place, one in enumerate(tuned)]
    rows, family = _compared(models, seed)
    family = tuple(
        replace(one, caveats=(*one.caveats, ONE_TRAINING)) if one.paired.trainings == 1 else one for one in family
    )
    return Standing(tuple(_sentences(rows, family, [])), rows, family, tuple(_notes(rows, family)))


# --- side by side -----------------------------------------------------------------------------------------------------


def _references(one: Answers, answers: Sequence[Answers], best: Mapping[str, Answers | None]) -> list[Answers]:
    """List what a tuned model is compared with: the untuned one, the baseline, the first of the other tuned ones."""
    if one.model == UNTUNED:
        return []
    own = [other for other in answers if other.run == one.run]  # first: another run may be of another student
    untuned = best[one.run] or next(filter(None, best.values()), None)
    baseline = next((other for other in [*own, *answers] if other.model == BASELINE), None)
    tuned = next((other for other in answers if other.model not in (UNTUNED, BASELINE)), None)
    references = [untuned, *(() if one.model == BASELINE else (baseline, tuned))]
    return [reference for reference in references if reference and reference is not one]


def _by_problem(shares: Shares) -> tuple[float, ...]:
    """Return one value a problem: the mean over the seeds that have it."""
    return tuple(map(fmean, metrics.grouped((key, share) for (_, key), share in shares.items()).values()))


def _by_seed(shares: Shares) -> tuple[float, ...]:
    """Return one value a seed: the mean over the problems that it has."""
    return tuple(map(fmean, metrics.grouped((seed, share) for (seed, _), share in shares.items()).values()))


def row_of(model: Model, seed: int) -> Row:
    """Count what a model has answered, seed by seed."""
    of_seeds = list(model.answers.values())
    scores = [score for one in of_seeds for score in one.scores]
    samples = metrics.by_problem(of_seeds[0].scores)
    fewest = min(map(len, samples.values()))
    by_problem, by_seed = _by_problem(model.shares()), _by_seed(model.shares())
    accuracy = stats.of_problems(by_problem, seed=seed)
    if len(by_seed) > 1 and model.name != UNTUNED:
        accuracy = stats.of_trainings(by_seed, accuracy)
    several = fewest > 1 and len(by_seed) == 1
    choices = {id: problem.choices for id, problem in of_seeds[0].problems.items()}
    return Row(
        suite=of_seeds[0].suite,
        model=model.name,
        mode=model.mode,
        problems=len(by_problem),
        samples=fewest,
        accuracy=accuracy,
        by_seed=by_seed,
        passed=metrics.passed(fewest, samples) if several else None,
        majority=metrics.majority(samples, choices) if several else None,
        truncated=fmean(score.finish == "length" for score in scores),
        unparsable=fmean(score.same is None for score in scores),
        caveats=model.caveats(),
    )


def _compared(
    models: Sequence[tuple[Model, Sequence[Model]]], seed: int
) -> tuple[tuple[Row, ...], tuple[Comparison, ...]]:
    """Count each model and compare it with its references; p values are corrected for the whole table (Holm)."""
    pairs = ((one, reference) for one, references in models for reference in references)
    found = [compared for pair in pairs if (compared := _comparison(*pair, seed))]
    p_values = stats.holm([one.paired.p for one in found])
    family = tuple(replace(one, p=p) for one, p in zip(found, p_values, strict=True))
    return tuple(row_of(one, seed) for one, _ in models), family


def _comparison(one: Model, reference: Model, seed: int) -> Comparison | None:
    """Compare two models on the problems, seed by seed, that both answered; None where there are none."""
    ours, theirs = one.shares(), reference.shares()
    common = [key for key in ours if key in theirs]  # a run that failed may have left nothing in common
    if not common:
        return None
    asked = len({key for _, key in (*ours, *theirs)})
    ours, theirs = {key: ours[key] for key in common}, {key: theirs[key] for key in common}
    paired = stats.paired(_by_problem(ours), _by_problem(theirs), seed=seed)
    differences = [our - their for our, their in zip(_by_seed(ours), _by_seed(theirs), strict=True)]
    if len(differences) > 1:
        paired = stats.over_trainings(paired, differences)
    return Comparison(
        suite=next(iter(one.answers.values())).suite,
        model=one.name,
        mode=one.mode,
        reference=reference.name,
        reference_mode=reference.mode,
        beside_untuned=_is(UNTUNED, reference.name),
        asked=asked,
        paired=paired,
        p=paired.p,
        caveats=tuple(dict.fromkeys((*one.caveats(), *reference.caveats(), *_asked_otherwise(one, reference)))),
    )


def _asked_otherwise(one: Model, reference: Model) -> Iterator[str]:
    """Name the first setting in which two that are compared were not asked alike."""
    ours, theirs = (next(iter(model.answers.values())).settings for model in (one, reference))
    for name, value in ours.items():
        if name not in _THEIR_OWN and theirs.get(name, value) != value:
            yield f"{one.name} was asked with {name}={value} and {reference.name} with {name}={theirs[name]}"
            return


# --- in words ---------------------------------------------------------------------------------------------------------


def _sentences(
    rows: Sequence[Row], comparisons: Sequence[Comparison], uses: Sequence[tuple[str, str, dict[str, Any]]]
) -> Iterator[str]:
    """Say suite by suite which tuned model is not better than what it is compared with, and what its plans do."""
    compared = {(one.suite, one.model) for one in comparisons if one.beside_untuned}
    for row in rows:
        if not _is(UNTUNED, row.model) and (row.suite, row.model) not in compared:
            yield f"{row.suite}: nobody knows whether {row.model} gained anything: the untuned model was not asked"
    if rows and all(_is(UNTUNED, row.model) for row in rows):
        first = rows[0]
        right = f"{named(first.model, first.mode)} is right on {first.accuracy.percent()}"
        yield f"{first.suite}: {right}{_but(first.caveats)}"
    for suite in dict.fromkeys(row.suite for row in rows):
        here = sorted(
            (one for one in comparisons if one.suite == suite),
            key=lambda one: (one.verdict == "better", one.beside_untuned),
        )
        yield from (_in_words(one) for one in here if not _is(BASELINE, one.model))
        for _, model, use in (one for one in uses if one[0] == suite):
            does = "uses its plan" if use["p"] < _SIGNIFICANT else "is not shown to use its plan"
            figures = _figures(Estimate(**use["difference"]), use["p"], use["won"], use["lost"])
            yield f"{suite}: {model} {does}: its own rather than another problem's is worth {figures}"
        yield from (_in_words(one) for one in here if _is(BASELINE, one.model))


def _in_words(one: Comparison) -> str:
    reference = f"{one.reference} at its best prompt ({one.reference_mode})" if one.beside_untuned else one.reference
    figures = _figures(one.paired.difference, one.p, one.paired.won, one.paired.lost)
    trainings = f", over {one.paired.trainings} trainings" if one.paired.trainings > 1 else ""
    better = f"{named(one.model, one.mode)} is {one.verdict} than {reference}"
    return f"{one.suite}: {better}: {figures}{trainings}{_but(one.caveats)}"


def _figures(difference: Estimate, p: float, won: int, lost: int) -> str:
    return f"{difference.points()}, p {p_text(p)}, {won} won, {lost} lost"


def _but(caveats: Sequence[str]) -> str:
    return f"; but {' and '.join(caveats)}" if caveats else ""


def _is(kind: str, model: str) -> bool:
    return model.rpartition("/")[2] == kind


def named(model: str, mode: str) -> str:
    """Name a model and how it was asked."""
    return model if not mode or _is(mode, model) else f"{model} ({mode})"


def _notes(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Iterator[str]:
    untuned = [(row.suite, row.model) for row in rows if _is(UNTUNED, row.model)]
    if len(set(untuned)) < len(untuned) and comparisons:
        yield "The untuned model was asked with several prompts, of which the best on these same problems counts."
    if any(len(row.by_seed) > 1 for row in rows):
        yield "Intervals and p values are over trainings (t); an arm's own interval over problems where that is wider."
    elif comparisons:
        yield f"This is {ONE_TRAINING}: plantune ablate --seeds 5 trains five."
    starred = dict.fromkeys(caveat for row in rows for caveat in row.caveats)
    yield from (f"* {caveat}." for caveat in starred)
    for suite, caveat in dict.fromkeys((one.suite, caveat) for one in comparisons for caveat in one.caveats):
        if caveat not in starred and caveat != ONE_TRAINING:
            yield f"{suite}: {caveat}."
    names = {row.model.rpartition("/")[2] for row in rows}
    if BASELINE in names and names & {"grpo", "cpl"}:
        yield "baseline is SFT alone: how it differs may be due to what followed the SFT as well as to plans."
    if len(comparisons) > 1:
        yield f"p values are corrected for the {len(comparisons)} comparisons (Holm)."
    for one in comparisons:
        if one.paired.problems < one.asked:
            common = f"{one.paired.problems} of {one.asked} problems in common"
            yield f"{one.suite}: {one.model} and {one.reference} have {common}, and are compared on those."


# --- as tables --------------------------------------------------------------------------------------------------------


Lines = Callable[[Sequence[Any]], tuple[list[str], list[list[str]]]]  # rows -> columns and cells


def row_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Format the rows as a table: its column names and its lines."""
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


def standing_text(found: Standing, *, lines: Lines = row_table, width: int | None = None) -> str:
    """Render for a terminal; `lines` makes a table of the rows of a suite."""
    parts = ["\n".join(found.sentences)] if found.sentences else []
    parts += [table(suite, *lines(rows), width=width) for suite, rows in found.suites()]
    return "\n\n".join([*parts, *(["\n".join(found.notes)] if found.notes else [])])


def standing_markdown(found: Standing, *, lines: Lines = row_table) -> str:
    """Render for a card or a report."""
    parts = ["\n".join(f"- {sentence}" for sentence in found.sentences)] if found.sentences else []
    for suite, rows in found.suites():
        parts += [f"## {suite}", markdown_table(*lines(rows))]
    return "\n\n".join([*parts, *found.notes]) + "\n"


def standing_json(found: Standing) -> dict[str, Any]:
    """For programs."""
    return asdict(found)
