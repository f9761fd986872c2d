"""A run folder as one page: report.html, whole in itself, and its charts as files in figures/.

    report(Path("runs/mine")) -> {"line": "report.html: own: m1 is better than ...", ...}

First who is better than the untuned model and whether the plan does the work, then what it was made from: problems,
plans, training, time and money, versions, and how to make it again. A part of a run that is not there is not mentioned.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from plantune_lite.evaluate import compare, metrics
from plantune_lite.evaluate.stats import Estimate, p_text
from plantune_lite.files import from_row, read_jsonl, read_records, write_whole
from plantune_lite.report import charts, html
from plantune_lite.runs import job
from plantune_lite.runs.folder import outputs_of, read_manifest, write_manifest
from plantune_lite.student.presets import DEQUANTISED
from plantune_lite.terminal import duration
from plantune_lite.types import PlantuneError, Score, Trajectory

SHOWN_TRAJECTORIES, SHOWN_ANSWERS = 10, 5
_CURVES = {  # file -> title, and what is drawn: the stage's name of a figure -> what it is called
    "loss": ("loss", {"loss": "training", "validation_loss": "validation"}),
    "accuracy": (
        "share of the next tokens right",
        {"token_accuracy": "training", "validation_token_accuracy": "validation"},
    ),
    "reward": ("reward", {"reward": "reward"}),
    "health": ("share of answers cut off, of groups with a spread", {"clipped": "cut off", "spread": "spread"}),
    "length": ("tokens of an answer", {"length": "length"}),
}


def write_report(run: Path, *, seed: int = 0) -> dict[str, Any]:
    """Write the page and the charts, and say in a line what it says first."""
    manifest = read_manifest(run)
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    stood = _stood(run, seed)
    figures = dict(_figures(run, manifest, stood))
    for name, svg in figures.items():
        write_whole(run / "figures" / f"{name}.svg", svg + "\n")
    first = stood.sentences[0] if stood and stood.sentences else "nothing was evaluated"
    parts = [
        f"<h1>{html.text(recipe['name'])}</h1>",
        html.paragraph(_about(recipe, manifest), "soft"),
        *(html.paragraph(one, "first" if one == first else "") for one in (stood.sentences if stood else (first,))),
        _for_planning(recipe),
        *(_first_screen(run, stood, figures) if stood else ()),
        *(_scores(stood, figures) if stood else ()),
        _plan_use(run),
        _of_the_lab(run / "probe"),
        _wins_and_losses(run, stood) if stood else "",
        _data(run, manifest),
        _training(manifest, figures),
        _of_the_lab(run / "cpl"),
        _trajectories(run, seed),
        _cost(manifest),
        _again(run, recipe, manifest),
    ]
    write_whole(run / "report.html", html.page(f"{recipe['name']}: plantune report", parts))
    return {"line": f"report.html: {first}", "figures": sorted(figures)}


def made_again(run: Path) -> str:
    """The page with what has been found since; the manifest knows that it is another file. Its line, with its path."""
    line = f"{run / write_report(run)['line']}"
    manifest = read_manifest(run)
    if made := manifest["stages"].get("report"):
        made["outputs"] = outputs_of(run, ("report.html", "figures"))
        write_manifest(run, manifest)
    return line


def _about(recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    done = [name for name, entry in manifest["stages"].items() if entry.get("status") == "done"]
    ways = " and ".join(name.upper() + _from(recipe[name].get("start")) for name in job.trained_by(recipe, done))
    return (
        f"{recipe['student']['model']} on {recipe['problems']['source']}, plans from {recipe['distill']['teacher']}"
        + (f", trained by {ways}" if ways else ", not trained")
        + f". Begun {manifest['created']}."
        + (f" {DEQUANTISED}" if recipe["student"]["model"] == "smollm2_135m" else "")
    )


def _from(start: str | None) -> str:
    """What a training began with, where that is not what stands before it."""
    return "" if start in (None, "sft") else f" from {start}"


# --- scores -----------------------------------------------------------------------------------------------------------


def _for_planning(recipe: Mapping[str, Any]) -> str:
    """Say of problems that they were chosen for plans to help, where they were."""
    if recipe["problems"]["source"] != "practice":
        return ""
    return html.paragraph(
        "These problems were chosen to need planning: their solution begins where only the way back from the question "
        "leads. Where little is to be planned: problems.source=practice_stories.",
        "soft",
    )


def _first_screen(run: Path, stood: compare.Standing, figures: Mapping[str, str]) -> Iterator[str]:
    """The scores of the first suite as a picture, and one problem of it that the baseline fails and the plan solves."""
    suite = stood.rows[0].suite
    yield figures[f"scores_{suite}"]
    for one in stood.comparisons:
        if one.suite != suite or one.reference.rpartition("/")[2] != "baseline":
            continue
        tuned, baseline = _both(run, one)
        asked = _asked(run, suite)
        won = (id for id in tuned if id in asked and id in baseline and _right(tuned[id]) > _right(baseline[id]))
        if (id := next(won, None)) is not None:
            yield html.section(
                "One problem, without a plan and with one",
                html.block(f"{asked[id]}\n\nright: {tuned[id][0].gold}"),
                html.beside(_said(one.reference, baseline[id], right=False), _said(one.model, tuned[id], right=True)),
            )
            return


def _stood(run: Path, seed: int) -> compare.Standing | None:
    try:
        return compare.standing([run], seed=seed)
    except PlantuneError:
        return None


def _figures(run: Path, manifest: Mapping[str, Any], stood: compare.Standing | None) -> Iterator[tuple[str, str]]:
    for suite in dict.fromkeys(row.suite for row in stood.rows) if stood else ():
        rows = [(compare.named(row.model, row.mode), row.accuracy) for row in stood.rows if row.suite == suite]
        yield f"scores_{suite}", charts.shares(f"{suite}: right answers, with 95 % intervals", rows)
    if not (run / "metrics.jsonl").is_file():
        return
    for stage, mine in _metrics(run).items():
        parts = manifest["stages"].get(stage, {}).get("summary", {}).get("rewards", ())
        drawn = {**_CURVES, "parts": ("reward, part by part", {name: name for name in parts})}
        if stage == "grpo":
            del drawn["loss"]  # it begins at nothing and says nothing
        for name, (title, named) in drawn.items():
            series = {words: [(row["step"], row[key]) for row in mine if key in row] for key, words in named.items()}
            if svg := charts.curves(f"{stage}: {title}", series):
                yield f"{stage}_{name}", svg


def _metrics(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The figures of each stage, step by step; of a step that was done again, after a kill or anew, the later ones.

    Rounds count their steps from 1 anew: what has rounds draws its own curves (_of_the_lab).
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in (row for row in read_jsonl(run / "metrics.jsonl") if "round" not in row):
        steps = found.setdefault(row["stage"], {})
        for later in [step for step in steps if step > row["step"]]:
            del steps[later]
        steps[row["step"]] = {**steps.get(row["step"], {}), **row}
    return {stage: list(steps.values()) for stage, steps in found.items()}


def _scores(stood: compare.Standing, figures: Mapping[str, str]) -> Iterator[str]:
    for number, suite in enumerate(dict.fromkeys(row.suite for row in stood.rows)):
        rows = [row for row in stood.rows if row.suite == suite]
        beside = [one for one in stood.comparisons if one.suite == suite]
        yield html.section(
            f"Right answers on {suite}",
            figures[f"scores_{suite}"] if number else "",  # the first is above
            html.table(*compare.row_table(rows)),
            html.table(compare.COMPARISONS, compare.comparison_cells(beside)),
        )
    yield "".join(html.paragraph(note, "soft") for note in stood.notes)


_GIVEN = {
    "own": "its own plan",
    "none": "an empty plan",
    "swapped": "the plan of another problem",
    "reference": "the reference plan",
    "dropped": "its own, one step left out",
}


def _of_the_lab(folder: Path) -> str:
    """What `plantune probe` or CPL left to be shown: sentences, charts, tables, texts to unfold."""
    file = folder / "section.json"
    if not file.is_file():
        return ""
    shown = json.loads(file.read_text(encoding="utf-8"))
    return html.section(
        shown["title"],
        *(html.paragraph(sentence) for sentence in shown["sentences"]),
        *((folder / name).read_text(encoding="utf-8") for name in shown["charts"]),
        *(html.table(one["columns"], one["rows"]) for one in shown["tables"]),
        *(html.folded(one["title"], html.block(one["text"])) for one in shown.get("folded", ())),
    )


def _plan_use(run: Path) -> str:
    """Whether the plan does the work."""
    parts = []
    for path in sorted((run / "eval" / "interventions").glob("*.summary.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        title = path.name.removesuffix(".summary.json").replace(".", ", ", 1)
        if "own_minus" not in found:
            parts.append(html.paragraph(f"{title}: {found['line']}"))
            continue
        use = found["own_minus"]["swapped"]
        points = Estimate(**use["difference"]).points()
        anyway = found.get("planned_anyway")
        parts += [
            html.paragraph(
                f"{title}: with its own plan rather than another problem's {points}, p {p_text(use['p'])}; "
                f"{use['won']} won, {use['lost']} lost of {use['problems']}."
                + (f" Given an empty plan, {100 * anyway:.1f} % wrote one themselves." if anyway else ""),
            ),
            html.table(
                ("given", "of", "right (95 %)"),
                [
                    (_GIVEN.get(name, name), one["problems"], Estimate(one["value"], one["low"], one["high"]).percent())
                    for name, one in found["conditions"].items()
                ],
            ),
        ]
    return html.section("Does the plan do the work?", *parts)


def _wins_and_losses(run: Path, stood: compare.Standing) -> str:
    """Problems that the tuned model solves more often than the untuned one, or less often, with what both wrote."""
    parts = []
    for one in (one for one in stood.comparisons if one.beside_untuned):
        tuned, untuned = _both(run, one)
        asked = _asked(run, one.suite)
        common = [id for id in tuned if id in untuned and id in asked]
        for title, won in (("Won", True), ("Lost", False)):
            better, worse = (tuned, untuned) if won else (untuned, tuned)
            found = [id for id in common if _right(better[id]) > _right(worse[id])]
            parts += [f"<h3>{html.text(f'{title} by {one.model}: {len(found)} on {one.suite}')}</h3>"] if found else []
            parts += [
                html.folded(
                    asked[id],
                    html.block(f"{asked[id]}\n\nright: {tuned[id][0].gold}", "the problem"),
                    html.beside(
                        _said(one.model, tuned[id], right=won), _said(one.reference, untuned[id], right=not won)
                    ),
                )
                for id in found[:SHOWN_ANSWERS]
            ]
    return html.section("Won and lost", *parts)


def _both(run: Path, one: compare.Comparison) -> tuple[dict[str, list[Score]], dict[str, list[Score]]]:
    """What the two models of a comparison answered."""
    return (
        _answers(run, one.suite, one.model, one.mode),
        _answers(run, one.suite, one.reference, one.reference_mode),
    )


def _asked(run: Path, suite: str) -> dict[str, str]:
    return {row["id"]: row["question"] for row in read_jsonl(run / "suites" / f"{suite}.jsonl")}


def _answers(run: Path, suite: str, model: str, mode: str) -> dict[str, list[Score]]:
    """The samples of each problem."""
    scores = read_records(Score, run / "eval" / f"{suite}.{model}.jsonl")
    return metrics.by_problem(one for one in scores if one.mode == mode)


def _right(samples: Sequence[Score]) -> float:
    return fmean(one.same is True for one in samples)


def _said(model: str, samples: Sequence[Score], *, right: bool) -> str:
    """The first of the samples that is right, or that is not; and of several, how many are."""
    shown = next(one for one in samples if (one.same is True) == right)
    many = f", right in {sum(one.same is True for one in samples)} of {len(samples)}" if len(samples) > 1 else ""
    return html.block(shown.text, f"{model}: {shown.prediction}{many}")


# --- what it was made from --------------------------------------------------------------------------------------------


def _data(run: Path, manifest: Mapping[str, Any]) -> str:
    """Problems to plans to rows, and what was left out for which reason."""
    path = run / "corpus" / "stats.json"
    if not path.is_file():
        return ""
    stats = json.loads(path.read_text(encoding="utf-8"))
    funnel = stats["funnel"]
    distilled = manifest["stages"].get("distill", {}).get("summary", {})
    rows = [
        ("problems to learn from", funnel["problems"]),
        ("of them with a plan", funnel["problems_with_trajectories"]),
        ("plans", funnel["trajectories"]),
        ("good enough", funnel["good"]),
        ("kept: no copy, the best of each problem", funnel["kept"]),
        ("rows to train on", stats["train"]),
        ("rows to validate on", stats["validation"]),
        ("prompts to practise on", stats["prompts"]),
    ]
    return html.section(
        "From problems to rows",
        html.table(("", "how many"), rows),
        html.table(("left out for", "plans"), stats["rejected"].items()),
        html.paragraph(distilled.get("line", ""), "soft") if distilled else "",
    )


def _training(manifest: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    parts = []
    for stage in ("sft", "cpl", "grpo"):
        if line := manifest["stages"].get(stage, {}).get("summary", {}).get("line"):
            parts.append(html.paragraph(f"{stage}: {line}"))
            parts += [svg for name, svg in figures.items() if name.startswith(f"{stage}_")]
    return html.section("Training", *parts)


def _trajectories(run: Path, seed: int) -> str:
    """Some of what the teacher wrote and the filter kept, to be read."""
    path = run / "trajectories.jsonl"
    kept = [from_row(Trajectory, row) for row in read_jsonl(path)] if path.is_file() else []
    few = Random(seed).sample(kept, min(SHOWN_TRAJECTORIES, len(kept)))
    return html.section(
        f"{len(few)} of {len(kept)} kept plans",
        *(
            html.folded(
                one.question,
                html.block(one.question, "the problem"),
                html.block("\n".join(f"{n}. {step}" for n, step in enumerate(one.plan, 1)), _scored(one)),
                html.block(one.execution, f"carried out: {one.answer}"),
            )
            for one in few
        ),
    )


def _scored(one: Trajectory) -> str:
    return f"the plan, by {one.teacher}, " + ("not scored" if one.score is None else f"score {one.score}")


# --- what it took -----------------------------------------------------------------------------------------------------


def _cost(manifest: Mapping[str, Any]) -> str:
    done = {name: entry for name, entry in manifest["stages"].items() if "seconds" in entry}
    rows: list[Sequence[Any]] = []
    for name, entry in done.items():
        usd = entry.get("summary", {}).get("usd")
        money = f"${usd:.2f}" if usd else ""
        rows.append((name, duration(entry["seconds"]), money, entry.get("summary", {}).get("line", "")))
    seconds = sum(entry["seconds"] for entry in done.values())
    usd = sum(entry.get("summary", {}).get("usd") or 0 for entry in done.values())
    rows.append(("all", duration(seconds), f"${usd:.2f}" if usd else "", ""))
    return html.section("Time and money", html.table(("stage", "time", "USD", ""), rows))


def _again(run: Path, recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Versions, the device, and the recipe as it was."""
    versions = [(name, version) for name, version in manifest.get("versions", {}).items() if version]
    device = manifest.get("device")
    return html.section(
        "To make it again",
        html.paragraph("Save the recipe below as a folder's recipe.json, and give plantune run that folder."),
        html.folded("recipe.json", f"<pre>{html.text(json.dumps(recipe, indent=1, ensure_ascii=False))}</pre>"),
        html.folded("versions", html.table(("package", "version"), versions)),
        html.paragraph(f"Made on {device}." if isinstance(device, str) else "", "soft") if device else "",
    )
