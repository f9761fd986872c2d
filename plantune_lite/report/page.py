"""Write a run folder up as one self-contained page, report.html, with its charts as files in figures/.

    write_report(Path("runs/mine")) -> Summary(line="report.html: own: m1 is better than ...")

First which model beats the untuned one and whether the plan does the work, then what it was made from: problems,
plans, training, time and money, versions, and how to make it again. Missing parts of a run are not mentioned.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

from plantune_lite.evaluate import compare, metrics, results
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.files import read_jsonl, read_object, read_records, write_whole
from plantune_lite.report import charts, html
from plantune_lite.runs import job
from plantune_lite.runs.folder import RunFolder, outputs_of
from plantune_lite.runs.manifest import Manifest, Summary, read_manifest, write_manifest
from plantune_lite.student.presets import DEQUANTISED
from plantune_lite.terminal import duration
from plantune_lite.types import Score, Trajectory

SHOWN_TRAJECTORIES, SHOWN_ANSWERS = 10, 5
_FOR_PLANNING = (
    "These problems were chosen to need planning: where the solution begins is found only by working back from the "
    "question. Problems on which plans matter little: problems.source=practice_stories."
)
_CURVES = {  # chart -> the figures of a step that it draws
    "loss": ("loss", "validation_loss"),
    "accuracy": ("token_accuracy", "validation_token_accuracy"),
    "reward": ("reward",),
    "health": ("clipped", "spread"),
    "length": ("length",),
}


def write_report(run: Path, *, seed: int = 0) -> Summary:
    """Write the page and the charts; the summary's line is the page's first sentence."""
    manifest, folder = read_manifest(run), RunFolder(run)
    recipe = folder.recipe_row()
    standing = _standing(run, seed)
    figures = dict(_figures(run, manifest, standing))
    for name, svg in figures.items():
        write_whole(folder.figures / f"{name}.svg", svg + "\n")
    first, *others = standing.sentences or ("nothing was evaluated",)
    parts = [
        f"<h1>{html.text(recipe['name'])}</h1>",
        html.paragraph(_about(recipe, manifest), "soft"),
        html.paragraph(first, "first"),
        *map(html.paragraph, others),
        html.paragraph(_FOR_PLANNING, "soft") if recipe["problems"]["source"] == "practice" else "",
        *_first_screen(run, standing, figures),
        *_scores(standing, figures),
        _plan_use(run),
        _of_the_lab(folder.probe),
        _wins_and_losses(run, standing),
        _data(folder),
        _training(figures),
        _of_the_lab(folder.adapter("cpl")),
        _trajectories(folder, seed),
        _cost(manifest),
        _again(recipe, manifest),
    ]
    write_whole(folder.report, html.page(f"{recipe['name']}: plantune report", parts))
    return Summary(line=f"report.html: {first}")


def rewrite_report(run: Path) -> str:
    """Rewrite the page with newer results, and update the manifest. Return its line, with its path."""
    line = f"{run / write_report(run).line}"
    manifest = read_manifest(run)
    if entry := manifest.stages.get("report"):
        entry.outputs = outputs_of(run, ("report.html", "figures"))
        write_manifest(run, manifest)
    return line


def _about(recipe: Mapping[str, Any], manifest: Manifest) -> str:
    done = filter(manifest.is_done, manifest.stages)
    starts = {name: recipe[name].get("start") for name in job.trained_by(recipe, list(done))}
    ways = [name.upper() + ("" if start in (None, "sft") else f" from {start}") for name, start in starts.items()]
    trained = f"trained by {' and '.join(ways)}" if ways else "not trained"
    return (
        f"{recipe['student']['model']} on {recipe['problems']['source']}, plans from {recipe['distill']['teacher']}, "
        f"{trained}. Started {manifest.created}."
        + (f" {DEQUANTISED}" if recipe["student"]["model"] == "smollm2_135m" else "")
    )


# --- scores -----------------------------------------------------------------------------------------------------------


def _first_screen(run: Path, standing: compare.Standing, figures: Mapping[str, str]) -> Iterator[str]:
    """Show the scores of the first suite as a picture, and one problem that the baseline fails and the plan solves."""
    if not standing.rows:
        return
    suite = standing.rows[0].suite
    yield figures[f"scores_{suite}"]
    beside = (c for c in standing.comparisons if c.suite == suite and c.reference == compare.BASELINE)
    won = (pair for comparison in beside for pair in _pairs(run, comparison) if pair.gain > 0)
    if pair := next(won, None):
        yield html.section("One problem, without a plan and with one", pair.shown)


class _Pair(NamedTuple):
    """What two compared models wrote on one problem."""

    question: str
    gain: float  # how much more often the first is right
    shown: str


def _pairs(run: Path, comparison: compare.Comparison) -> Iterator[_Pair]:
    """Yield the problems on which one of two compared models is right more often than the other."""
    first = _answers(run, comparison.suite, comparison.model, comparison.mode)
    second = _answers(run, comparison.suite, comparison.reference, comparison.reference_mode)
    for row in read_jsonl(RunFolder(run).suites / f"{comparison.suite}.jsonl"):
        mine, other = first.get(row["id"]), second.get(row["id"])
        if mine and other and (gain := _right(mine) - _right(other)):
            problem = html.block(f"{row['question']}\n\nright: {mine[0].gold}", "the problem")
            both = _shown(comparison.reference, other, right=gain < 0), _shown(comparison.model, mine, right=gain > 0)
            yield _Pair(row["question"], gain, problem + html.beside(*both))


def _standing(run: Path, seed: int) -> compare.Standing:
    if next(results.answers([run]), None) is None:
        return compare.Standing((), (), (), ())  # nothing was evaluated
    return compare.standing([run], seed=seed)


def _figures(run: Path, manifest: Manifest, standing: compare.Standing) -> Iterator[tuple[str, str]]:
    for suite, rows in standing.suites():
        named = [(compare.named(row.model, row.mode), row.accuracy) for row in rows]
        yield f"scores_{suite}", charts.shares(f"{suite}: right answers, with 95 % intervals", named)
    for stage, mine in _metrics(RunFolder(run)).items():
        drawn = dict(_CURVES)
        if stage == "grpo":
            drawn["parts"] = tuple(manifest.summaries.grpo.rewards)
            del drawn["loss"]  # it begins near zero and says nothing
        for name, keys in drawn.items():
            series = {key: [(row["step"], row[key]) for row in mine if key in row] for key in keys}
            if svg := charts.curves(f"{stage}: {name}", series):
                yield f"{stage}_{name}", svg


def _metrics(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """Group the metrics by stage and step; if a step was repeated, after a kill or a rerun, keep the later ones.

    Rounds count their steps from 1 again: a stage with rounds draws its own curves (_of_the_lab).
    """
    stages: dict[str, dict[int, dict[str, Any]]] = {}
    for row in (row for row in run.metric_rows() if "round" not in row):
        steps = stages.setdefault(row["stage"], {})
        for later in [step for step in steps if step > row["step"]]:
            del steps[later]
        steps[row["step"]] = {**steps.get(row["step"], {}), **row}
    return {stage: list(steps.values()) for stage, steps in stages.items()}


def _scores(standing: compare.Standing, figures: Mapping[str, str]) -> Iterator[str]:
    for number, (suite, rows) in enumerate(standing.suites()):
        yield html.section(
            f"Right answers on {suite}",
            figures[f"scores_{suite}"] if number else "",  # the first is above
            html.table(*compare.row_table(rows)),
        )
    yield "".join(html.paragraph(note, "soft") for note in standing.notes)


_GIVEN = {
    "own": "its own plan",
    "none": "an empty plan",
    "swapped": "the plan of another problem",
    "reference": "the reference plan",
    "dropped": "its own, one step left out",
}


def _of_the_lab(folder: Path) -> str:
    """Render what `plantune probe` or CPL left to show: sentences, charts, tables, texts to unfold."""
    file = folder / "section.json"
    if not file.is_file():
        return ""
    shown = read_object(file)
    return html.section(
        shown["title"],
        *(html.paragraph(sentence) for sentence in shown["sentences"]),
        *((folder / name).read_text(encoding="utf-8") for name in shown["charts"]),
        *(html.table(table["columns"], table["rows"]) for table in shown["tables"]),
        *(html.folded(part["title"], html.block(part["text"])) for part in shown.get("folded", ())),
    )


def _plan_use(run: Path) -> str:
    """Show whether the plan does the work."""
    parts = []
    for path in sorted(RunFolder(run).interventions.glob("*.summary.json")):
        summary = read_object(path)
        title = path.name.removesuffix(".summary.json").replace(".", ", ", 1)
        if "own_minus" not in summary:
            parts.append(html.paragraph(f"{title}: {summary['line']}"))
            continue
        if anyway := summary.get("planned_anyway"):
            parts.append(html.paragraph(f"{title}: given an empty plan, {100 * anyway:.1f} % wrote one themselves."))
        rows = [
            (_GIVEN[name], figures["problems"], Estimate(figures["value"], figures["low"], figures["high"]).percent())
            for name, figures in summary["conditions"].items()
        ]
        parts.append(html.table((f"{title}, given", "of", "right (95 %)"), rows))
    return html.section("Does the plan do the work?", *parts)


def _wins_and_losses(run: Path, standing: compare.Standing) -> str:
    """Show problems that the tuned model solves more or less often than the untuned one, with what both wrote."""
    parts = []
    for c in (c for c in standing.comparisons if c.beside_untuned):
        pairs = list(_pairs(run, c))
        for title, sign in (("Won", 1), ("Lost", -1)):
            if decided := [pair for pair in pairs if sign * pair.gain > 0]:
                parts.append(f"<h3>{html.text(f'{title} by {c.model}: {len(decided)} on {c.suite}')}</h3>")
                parts += [html.folded(pair.question, pair.shown) for pair in decided[:SHOWN_ANSWERS]]
    return html.section("Won and lost", *parts)


def _answers(run: Path, suite: str, model: str, mode: str) -> dict[str, list[Score]]:
    """Read the samples of each problem."""
    scores = read_records(Score, RunFolder(run).answers(suite, model))
    return metrics.by_problem(score for score in scores if score.mode == mode)


def _right(samples: Sequence[Score]) -> float:
    return fmean(score.same is True for score in samples)


def _shown(model: str, samples: Sequence[Score], *, right: bool) -> str:
    """Show the first of the samples that is right, or that is not; of several, also count the right ones."""
    shown = next(score for score in samples if (score.same is True) == right)
    many = f", right in {sum(score.same is True for score in samples)} of {len(samples)}" if len(samples) > 1 else ""
    return html.block(shown.text, f"{model}: {shown.prediction}{many}")


# --- what it was made from --------------------------------------------------------------------------------------------


def _data(run: RunFolder) -> str:
    """Show how problems became plans and rows, and what was left out for which reason."""
    if not run.stats.is_file():
        return ""
    stats = read_object(run.stats)
    counts = {**stats["funnel"], **{f"rows to {name}": stats[name] for name in ("train", "validation", "prompts")}}
    return html.section(
        "From problems to rows",
        html.table(("", "how many"), [(name.replace("_", " "), count) for name, count in counts.items()]),
        html.table(("left out for", "plans"), stats["rejected"].items()),
    )


def _training(figures: Mapping[str, str]) -> str:
    drawn = (svg for stage in job.TRAININGS for name, svg in figures.items() if name.startswith(f"{stage}_"))
    return html.section("Training", *drawn)


def _trajectories(run: RunFolder, seed: int) -> str:
    """Show some of the plans that the teacher wrote and the filter kept."""
    kept = read_records(Trajectory, run.trajectories) if run.trajectories.is_file() else []
    few = Random(seed).sample(kept, min(SHOWN_TRAJECTORIES, len(kept)))
    return html.section(
        f"{len(few)} of {len(kept)} kept plans",
        *(
            html.folded(
                row.question,
                html.block(row.question, "the problem"),
                html.block(
                    "\n".join(f"{n}. {step}" for n, step in enumerate(row.plan, 1)),
                    f"the plan, by {row.teacher}" + (f", score {row.score}" if row.score is not None else ""),
                ),
                html.block(row.execution, f"carried out: {row.answer}"),
            )
            for row in few
        ),
    )


# --- what it took -----------------------------------------------------------------------------------------------------


def _cost(manifest: Manifest) -> str:
    costs = [
        (name, entry.seconds, entry.summary.usd if entry.summary else 0.0, manifest.line(name))
        for name, entry in manifest.stages.items()
    ]
    costs.append(("all", sum(cost[1] for cost in costs), sum(cost[2] for cost in costs), ""))
    rows = [(name, duration(seconds), f"${usd:.2f}" if usd else "", line) for name, seconds, usd, line in costs]
    return html.section("Time and money", html.table(("stage", "time", "USD", ""), rows))


def _again(recipe: Mapping[str, Any], manifest: Manifest) -> str:
    """Show versions, the device, and the recipe as it was."""
    return html.section(
        "To make it again",
        html.paragraph("Save the recipe below as a folder's recipe.json, and give plantune run that folder."),
        html.folded("recipe.json", f"<pre>{html.text(json.dumps(recipe, indent=1, ensure_ascii=False))}</pre>"),
        html.folded("versions", html.table(("package", "version"), manifest.versions.items())),
        html.paragraph(f"Made on {manifest.device}.", "soft") if manifest.device else "",
    )
