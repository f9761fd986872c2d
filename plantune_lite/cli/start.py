"""Define the verbs to start with: run, doctor, estimate, recipes, copy, show, ask."""

import ast
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from plantune_lite.cli.frame import (
    as_path,
    cli,
    do_stages,
    folder_of_run,
    json_option,
    load_asked,
    recipe_argument,
    run_options,
    settings_argument,
    teller,
)
from plantune_lite.cli.show import print_result, show_estimate, show_problem_file, show_recipe, show_states
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.load import shipped
from plantune_lite.terminal import printable
from plantune_lite.types import RecipeError


@cli.command()
@run_options
@click.option("--dry-run", is_flag=True, help="Say what would be done, do nothing.")
def run(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Run a recipe to its end, or resume where it was cut off."""
    wanted, options["to"] = load_asked(recipe, settings, options["to"])
    do_stages(wanted, **options)


@cli.command()
@click.argument("recipe", metavar="[RECIPE]", default="smollm2_135m")
@settings_argument
@json_option
def doctor(recipe: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check this machine, with a fix for each problem.

    Exit status 1 if RECIPE cannot run here.
    """
    from plantune_lite.cli.doctor import examine

    wanted, _ = load_asked(recipe, settings, None)
    checks = list(examine(wanted))
    bad = [check for check in checks if check.state == "bad"]
    colours = {"ok": "green", "note": "yellow", "bad": "red"}
    lines = []
    for check in checks:
        mark = click.style(f"{check.state:<4}", fg=colours[check.state])
        fix = f"  -> {check.fix}" if check.fix else ""
        lines.append(f"{mark}  {check.name:<16} {printable(check.found)}{fix}")
    lines.append(f"{wanted.name} cannot run here: {len(bad)} to fix" if bad else f"{wanted.name} can run here")
    result = {"recipe": wanted.name, "runs_here": not bad, "checks": [asdict(check) for check in checks]}
    print_result(as_json, result, "\n".join(lines))
    sys.exit(1 if bad else 0)


def _gigabytes(text: str) -> float:
    """Read a size; click.FloatRange would let nan through."""
    if not 0 < (gigabytes := float(text)) < 10_000:
        raise ValueError
    return gigabytes


@cli.command()
@recipe_argument
@settings_argument
@json_option
@click.option("--gpu", type=_gigabytes, metavar="GB", help="Estimate for a GPU of this size, not for this machine.")
def estimate(recipe: str, settings: tuple[str, ...], as_json: bool, gpu: float | None) -> None:
    """Estimate minutes, money, memory and disk of each stage.

    Exit status 1 if it cannot fit.
    """
    from plantune_lite.distill import cost
    from plantune_lite.pipeline import runner
    from plantune_lite.problems.load import load_problems
    from plantune_lite.runs.manifest import Manifest

    original, _ = load_asked(recipe, settings, None)
    wanted = runner.with_teacher(original, os.environ, Manifest.new(original.name), teller(True))
    pool = load_problems(wanted.problems, seed=wanted.seed, checked=wanted.wants_checked_answers).pool
    bill = cost.distillation(pool, wanted.distill, os.environ)
    sys.exit(0 if show_estimate(wanted, len(pool), bill, gpu, as_json) else 1)


@cli.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the recipes that come with plantune."""
    about = {}
    for name, path in shipped().items():
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        about[name] = words.split("\n\n")[0].replace("\n", " ")
    print_result(as_json, about, "\n".join(f"{name}\n    {words}" for name, words in about.items()))


@cli.command()
@click.argument("name")
@click.argument("dest", required=False, type=as_path)
def copy(name: str, dest: Path | None) -> None:
    """Copy a shipped recipe to a file of your own."""
    files = shipped()
    if name not in files:
        raise RecipeError(f"no shipped recipe {name!r}{nearest(name, files)}")
    target = dest or Path(name)
    if target.is_dir():
        target = target / name
    target = target.with_suffix(".py")  # else no verb would recognise it as a recipe
    if target.exists():
        raise RecipeError(f"{target} already exists and is left as it is; give another DEST")
    shutil.copyfile(files[name], target)
    click.echo(f"wrote {target}; edit it, then: plantune run {target}")


@cli.command()
@click.argument("what", metavar="X")
@settings_argument
@json_option
def show(what: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show a recipe, a run folder or a problem file; spend nothing."""
    path = Path(what)
    if (path / "recipe.json").is_file():
        wanted, folder = load_asked(what, settings, None)
        show_states(wanted, folder, as_json)
    elif path.is_file() and path.suffix != ".py":
        show_problem_file(what, settings, as_json)
    else:
        show_recipe(load_asked(what, settings, None)[0], as_json)


@cli.command()
@click.argument("run", type=as_path, metavar="RUN")
@click.argument("question")
@click.option("--beside-base", is_flag=True, help="What the untuned model says, below it.")
@click.option("--resample", type=click.IntRange(2), metavar="N", help="Draw weak plans again, N at most (probe first).")
@json_option
def ask(run: Path, question: str, beside_base: bool, resample: int | None, as_json: bool) -> None:
    """Ask a run's model one QUESTION: its plan, its working, its answer."""
    from plantune_lite.evaluate.ask import ask_student, lines

    replies = ask_student(folder_of_run(run), question, beside_base=beside_base, resample=resample, say=teller(True))
    print_result(as_json, list(map(asdict, replies)), "\n\n".join("\n".join(lines(reply)) for reply in replies))
