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
_THEIR_OWN = ("model", "prompt", "shots", "seed")  # settings in which compared models may differ


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
    caveats: tuple[str, ...] = ()  # to be shown with the figure


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model next to another on the problems that both answered."""

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
    """All rows, all comparisons, and notes to read with them; the sentences come first wherever it is shown."""

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
    suites = dict.fromkeys(result.suite for result in answers)
    for suite in suites:
        here = [result for result in answers if result.suite == suite]
        best = {result.run: results.best_untuned(other for other in here if other.run == result.run) for result in here}
        here.sort(key=lambda result: (result not in best.values(), results.place(result)))
        models += [(results.alone(r), list(map(results.alone, _references(r, here, best)))) for r in here]
    rows, family = _compared(models, seed)
    headlines = [c for c in family if c.beside_untuned or _is(BASELINE, c.reference) or _is(GRPO, c.model)]
    unasked = dict.fromkeys(suite for run in runs for suite in results.known_of(run) if suite not in suites)
    sentences = (
        *_sentences(rows, headlines, list(results.plan_uses(runs))),
        *(_in_words(comparison) for comparison in family if comparison not in headlines),
        *(f"{suite}: not asked so far" for suite in unasked),
    )
    return Standing(sentences, rows, family, tuple(_notes(rows, family)))


def beside(arms: Sequence[Arm], *, seed: int = 0) -> Standing:
    """Compare the arms of a study, suite by suite; the first is the one that the others are compared with."""
    answers = {arm.name: [list(results.answers([run])) if run else [] for run in arm.runs] for arm in arms}
    every = [result for runs in answers.values() for run in runs for result in run]
    models: list[tuple[Model, list[Model]]] = []
    for suite in dict.fromkeys(result.suite for result in every):
        here = {name: [[r for r in run if r.suite == suite] for run in runs] for name, runs in answers.items()}
        untuned = results.untuned_over_seeds(here.values())
        tuned = [model for model in results.tuned_over_seeds(arms, here) if model.answers]
        models += [(model, []) for model in untuned]
        models += [(model, [*untuned, *tuned[: min(index, 1)]]) for index, model in enumerate(tuned)]
    rows, family = _compared(models, seed)
    family = tuple(replace(c, caveats=(*c.caveats, ONE_TRAINING)) if c.paired.trainings == 1 else c for c in family)
    return Standing(tuple(_sentences(rows, family, [])), rows, family, tuple(_notes(rows, family)))


# --- side by side -----------------------------------------------------------------------------------------------------


def _references(result: Answers, answers: Sequence[Answers], best: Mapping[str, Answers | None]) -> list[Answers]:
    """List what a tuned model is compared with: the untuned one, the baseline, the first of the other tuned ones."""
    if result.model == UNTUNED:
        return []
    own = [other for other in answers if other.run == result.run]  # first: another run may be of another student
    untuned = best[result.run] or next(filter(None, best.values()), None)
    baseline = next((other for other in [*own, *answers] if other.model == BASELINE), None)
    tuned = next((other for other in answers if other.model not in (UNTUNED, BASELINE)), None)
    references = [untuned, *(() if result.model == BASELINE else (baseline, tuned))]
    return [reference for reference in references if reference and reference is not result]


def _by_problem(shares: Shares) -> tuple[float, ...]:
    """Return one value per problem: the mean over the seeds that have it."""
    return tuple(map(fmean, metrics.grouped((key, share) for (_, key), share in shares.items()).values()))


def _by_seed(shares: Shares) -> tuple[float, ...]:
    """Return one value per seed: the mean over the problems that it has."""
    return tuple(map(fmean, metrics.grouped((seed, share) for (seed, _), share in shares.items()).values()))


def row_of(model: Model, seed: int) -> Row:
    """Compute a model's figures, pooled over its seeds."""
    of_seeds = list(model.answers.values())
    scores = [score for result in of_seeds for score in result.scores]
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
    """Compute each model's row and compare it with its references; p values are corrected for the table (Holm)."""
    pairs = ((model, reference) for model, references in models for reference in references)
    comparisons = [comparison for pair in pairs if (comparison := _comparison(*pair, seed))]
    p_values = stats.holm([comparison.paired.p for comparison in comparisons])
    family = tuple(replace(comparison, p=p) for comparison, p in zip(comparisons, p_values, strict=True))
    return tuple(row_of(model, seed) for model, _ in models), family


def _comparison(model: Model, reference: Model, seed: int) -> Comparison | None:
    """Compare two models on the problems, seed by seed, that both answered; None if there are none."""
    first, second = model.shares(), reference.shares()
    common = [key for key in first if key in second]  # a run that failed may have left nothing in common
    if not common:
        return None
    problem_count = len({key for _, key in (*first, *second)})
    first, second = {key: first[key] for key in common}, {key: second[key] for key in common}
    paired = stats.paired(_by_problem(first), _by_problem(second), seed=seed)
    differences = [a - b for a, b in zip(_by_seed(first), _by_seed(second), strict=True)]
    if len(differences) > 1:
        paired = stats.over_trainings(paired, differences)
    return Comparison(
        suite=next(iter(model.answers.values())).suite,
        model=model.name,
        mode=model.mode,
        reference=reference.name,
        reference_mode=reference.mode,
        beside_untuned=_is(UNTUNED, reference.name),
        asked=problem_count,
        paired=paired,
        p=paired.p,
        caveats=tuple(dict.fromkeys((*model.caveats(), *reference.caveats(), *_asked_otherwise(model, reference)))),
    )


def _asked_otherwise(model: Model, reference: Model) -> Iterator[str]:
    """Name the first setting that differs between how two compared models were asked."""
    first, second = (next(iter(m.answers.values())).settings for m in (model, reference))
    for name, value in first.items():
        if name not in _THEIR_OWN and second.get(name, value) != value:
            yield f"{model.name} was asked with {name}={value} and {reference.name} with {name}={second[name]}"
            return


# --- in words ---------------------------------------------------------------------------------------------------------


def _sentences(
    rows: Sequence[Row], comparisons: Sequence[Comparison], uses: Sequence[tuple[str, str, dict[str, Any]]]
) -> Iterator[str]:
    """Report suite by suite which tuned model is not better than its reference, and what its plans do."""
    compared = {(comparison.suite, comparison.model) for comparison in comparisons if comparison.beside_untuned}
    for row in rows:
        if not _is(UNTUNED, row.model) and (row.suite, row.model) not in compared:
            yield f"{row.suite}: whether {row.model} gained anything is unknown: the untuned model was not asked"
    if rows and all(_is(UNTUNED, row.model) for row in rows):
        first = rows[0]
        right = f"{named(first.model, first.mode)} is right on {first.accuracy.percent()}"
        yield f"{first.suite}: {right}{_but(first.caveats)}"
    for suite in dict.fromkeys(row.suite for row in rows):
        here = sorted(
            (comparison for comparison in comparisons if comparison.suite == suite),
            key=lambda comparison: (comparison.verdict == "better", comparison.beside_untuned),
        )
        yield from (_in_words(comparison) for comparison in here if not _is(BASELINE, comparison.model))
        for _, model, use in (entry for entry in uses if entry[0] == suite):
            does = "uses its plan" if use["p"] < _SIGNIFICANT else "is not shown to use its plan"
            figures = _figures(Estimate(**use["difference"]), use["p"], use["won"], use["lost"])
            yield f"{suite}: {model} {does}: its own rather than another problem's is worth {figures}"
        yield from (_in_words(comparison) for comparison in here if _is(BASELINE, comparison.model))


def _in_words(c: Comparison) -> str:
    reference = f"{c.reference} at its best prompt ({c.reference_mode})" if c.beside_untuned else c.reference
    figures = _figures(c.paired.difference, c.p, c.paired.won, c.paired.lost)
    trainings = f", over {c.paired.trainings} trainings" if c.paired.trainings > 1 else ""
    better = f"{named(c.model, c.mode)} is {c.verdict} than {reference}"
    return f"{c.suite}: {better}: {figures}{trainings}{_but(c.caveats)}"


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
    if any(len(row.by_seed) > 1 for row in rows):
        yield "Intervals and p values are over trainings (t); an arm's own interval over problems where that is wider."
    elif comparisons:
        yield f"This is {ONE_TRAINING}: plantune ablate --seeds 5 trains five."
    starred = dict.fromkeys(caveat for row in rows for caveat in row.caveats)
    yield from (f"* {caveat}." for caveat in starred)
    for suite, caveat in dict.fromkeys((c.suite, caveat) for c in comparisons for caveat in c.caveats):
        if caveat not in starred and caveat != ONE_TRAINING:
            yield f"{suite}: {caveat}."
    names = {row.model.rpartition("/")[2] for row in rows}
    if BASELINE in names and names & {"grpo", "cpl"}:
        yield "baseline is SFT alone: a difference may come from the stages after SFT as well as from plans."
    if len(comparisons) > 1:
        yield f"p values are corrected for the {len(comparisons)} comparisons (Holm)."
    for c in comparisons:
        if c.paired.problems < c.asked:
            common = f"{c.paired.problems} of {c.asked} problems in common"
            yield f"{c.suite}: {c.model} and {c.reference} have {common}, and are compared on those."


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
            line += [estimate.percent() if estimate else "" for estimate in (row.passed, row.majority)]
        lines.append(line)
    return columns, lines


def standing_text(standing: Standing, *, lines: Lines = row_table, width: int | None = None) -> str:
    """Render for a terminal; `lines` makes a table of the rows of a suite."""
    parts = ["\n".join(standing.sentences)] if standing.sentences else []
    parts += [table(suite, *lines(rows), width=width) for suite, rows in standing.suites()]
    return "\n\n".join([*parts, *(["\n".join(standing.notes)] if standing.notes else [])])


def standing_markdown(standing: Standing, *, lines: Lines = row_table) -> str:
    """Render for a model card or a report."""
    parts = ["\n".join(f"- {sentence}" for sentence in standing.sentences)] if standing.sentences else []
    for suite, rows in standing.suites():
        parts += [f"## {suite}", markdown_table(*lines(rows))]
    return "\n\n".join([*parts, *standing.notes]) + "\n"


def standing_json(standing: Standing) -> dict[str, Any]:
    """Convert to JSON, for programs."""
    return asdict(standing)
