"""Print a recipe, a run folder or a problem file, for `plantune show` and --dry-run."""

import functools
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from plantune_lite.files import runs_folder
from plantune_lite.recipe.fields import written
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.recipe.schema import Problems, Recipe, leaves
from plantune_lite.terminal import duration, printable, size, table
from plantune_lite.types import PlantuneError


def print_result(as_json: bool, value: Any, text: str) -> None:
    """Print a verb's result: JSON for programs, else text."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text)


def show_recipe(wanted: Recipe, as_json: bool) -> None:
    """Print every field of a recipe, as an override would write it."""
    lines = [f"{name}={printable(written(value))}" for name, value in leaves(wanted)]
    print_result(as_json, json.loads(to_json(wanted)), "\n".join(lines))


def show_states(wanted: Recipe, folder: Path | None, as_json: bool, options: Mapping[str, Any] = {}) -> None:
    """Print what a run would do with each stage."""
    from plantune_lite.pipeline import runner
    from plantune_lite.runs.manifest import read_manifest

    folder = folder or runs_folder() / wanted.name
    manifest = read_manifest(folder)
    rows = []
    for stage, state, why in runner.plan(folder, wanted, manifest, options.get("again"))[0]:
        entry = manifest.stages.get(stage.name)
        rows.append((stage.name, state, duration(entry.seconds) if entry else "", why or manifest.line(stage.name)))
    names = ("stage", "state", "time", "line")
    stages = [dict(zip(names, row, strict=True)) for row in rows]
    states = {"run": str(folder), "stages": stages, "manifest": manifest.to_row()}
    print_result(as_json, states, table(str(folder), names, rows))


def show_ending(wanted: Recipe, folder: Path) -> None:
    """Print the results of a run, and what to do next."""
    from plantune_lite.evaluate.compare import standing, standing_text
    from plantune_lite.runs.folder import RunFolder
    from plantune_lite.runs.manifest import read_manifest

    with suppress(PlantuneError):  # nothing was evaluated
        click.echo("\n" + standing_text(standing([folder])))
    run = shlex.quote(str(folder))
    click.echo("next:")
    if RunFolder(folder).report.is_file():
        click.echo(f"  open {run}/report.html        training data, problems won and lost, and the plans")
    if read_manifest(folder).final:
        click.echo(f'  plantune ask {run} "..." --beside-base        a question of your own')
        click.echo(f"  plantune push {run} USER/NAME --dry-run DIR        what would go to the Hub")
    if wanted.problems.source == "practice":
        own = "problems.path=my.csv evaluate.suites=own evaluate.baseline=false distill.teacher=self name=mine"
        click.echo("  plantune show my.csv        your own questions and answers, then:")
        click.echo(f"  plantune run {wanted.name} {own}")
    click.echo("  plantune recipes        what there is for a GPU of 8, 12 or 16 GB")


def show_estimate(wanted: Recipe, pool: int, bill: Any, gpu: float | None, as_json: bool) -> bool:
    """Print one table for the whole run, then the bills of teacher and judge; return whether the run fits."""
    from plantune_lite.distill import cost
    from plantune_lite.estimate import devices, memory, minutes
    from plantune_lite.estimate.fit import fit_to_gpu
    from plantune_lite.student import presets

    machine = devices.here(gpu)
    preset = presets.find(wanted.student.model)
    if machine.on == "cpu" and preset is not None and preset.wants_gpu:
        machine = devices.here(16)  # the free GPU of a notebook: what most people will train on
    why, needs, spans, verdict = "", [], {}, None
    try:
        needs = memory.needs(wanted, on=machine.on, bf16=machine.bf16)
        spans = minutes.stage_minutes(wanted, machine.speed, problems=pool) if machine.speed else {}
        verdict = fit_to_gpu(wanted, machine.free, on=machine.on, bf16=machine.bf16)
    except PlantuneError as error:  # a model of unknown shape: the bills can still be printed
        why = str(error)
    judge = cost.judging(wanted, os.environ)
    result = {
        "machine": asdict(machine),
        "stages": [asdict(need) for need in needs],
        "minutes": spans,
        "why_not": why,
        "fit": asdict(verdict) if verdict else None,
        "teacher": asdict(bill),
        "judge": asdict(judge) if judge else None,
    }
    lines, assumed = [why], [cost.ASSUMED]
    if verdict:
        words = {stage: minutes.in_words(span) for stage, span in spans.items()}
        rows = memory.rows(needs, words, bill.money)
        columns = ("stage", "time", "money", "memory", "most of it", "disk")
        lines = [table(f"{wanted.name} on {machine.name}, {size(machine.free)} free", columns, rows), verdict.sentence]
        assumed += [memory.ASSUMED, minutes.ASSUMED]
    if verdict and spans:
        lines.append(f"all stages that hold a model: {minutes.in_words(sum(spans.values()))}")
        lines += minutes.left_out(wanted, spans)
    lines.append(printable(f"teacher of {pool} problems: {bill}"))
    if judge:
        lines.append(f"judge (grpo.judge=teacher): {judge}; it counts against distill.max_usd too")
    if over := cost.over_budget(bill, judge, wanted.distill.max_usd):
        lines.append(over)
    print_result(as_json, result, "\n".join([*lines, *assumed]))
    return verdict is None or verdict.fits


def show_problem_file(what: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Print what a problem file contains."""
    from plantune_lite.problems.survey import survey_problems

    # Any recipe will do: only its problems count, with the settings given here.
    recipe = override(replace(load_recipe("smollm2_135m"), problems=Problems("practice")), settings)
    survey = survey_problems(replace(recipe.problems, source=what), seed=recipe.seed)
    print_result(as_json, asdict(survey), "\n".join(_survey_lines(survey, settings)))


def _survey_lines(survey: Any, settings: tuple[str, ...]) -> Iterator[str]:
    shown = functools.partial(printable, limit=300)
    yield f"{survey.file}: {survey.rows} rows, {survey.problems} problems"
    for role, column in survey.roles.items():
        yield f"  {role:<9} column {shown(column)!r}"
    rest = [column for column in survey.columns if column not in survey.roles.values()]
    if rest:
        yield f"  kept      {', '.join(map(shown, rest))}"
    yield table("", ("question", "answer"), [(shown(s.question), shown(s.answer)) for s in survey.samples])
    yield f"{survey.tried - survey.uncheckable} of the {survey.tried} answers tried can be checked"
    yield from _listed(
        f"answers that cannot be checked: {survey.uncheckable}",
        [f"{where}: {shown(answer)}" for where, answer in survey.unchecked],
        survey.uncheckable,
    )
    yield from _listed(
        f"bad rows, at which a run stops unless problems.bad_rows=skip leaves them out: {survey.bad}",
        [f"{where}: {why}" for where, why in survey.bad_rows],
        survey.bad,
    )
    yield f"{survey.held_out} would be held out as the suite 'own', {survey.problems - survey.held_out} learned from"
    yield " ".join((f"to use it: plantune run RECIPE problems.path={survey.file}", *settings))


def _listed(title: str, lines: list[str], count: int) -> Iterator[str]:
    if lines:
        yield title
        yield from (f"  {line}" for line in lines)
        if count > len(lines):
            yield f"  ... and {count - len(lines)} more"
