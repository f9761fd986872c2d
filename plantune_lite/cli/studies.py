"""Define the verbs that compare several runs, or look into one."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from plantune_lite.cli.frame import (
    as_path,
    cli,
    folder_of_run,
    json_option,
    load_asked,
    recipe_argument,
    settings_argument,
    teller,
)
from plantune_lite.cli.show import print_result
from plantune_lite.recipe import user_code


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=as_path)
@json_option
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare models of one or several runs on the same problems."""
    from plantune_lite.evaluate.compare import standing, standing_json, standing_text

    result = standing([folder_of_run(run) for run in runs])
    print_result(as_json, standing_json(result), standing_text(result))


@cli.command()
@click.argument("what", metavar="WHAT")
@recipe_argument
@settings_argument
# with 3 trainings the t interval is half as wide again
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=5, show_default=True, help="Train each variant this many times."
)
@click.option("--to", type=as_path, metavar="DIR", help="The run whose variants these are (default: runs/NAME).")
@click.option("--mirror", type=as_path, metavar="DIR", help="Keep a second copy here (a mounted Drive).")
@click.option("--dry-run", is_flag=True, help="Say what would be done, do nothing.")
@json_option
def ablate(
    what: str, recipe: str, settings: tuple[str, ...], to: Path | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Compare variants of a recipe, each trained with several seeds.

    WHAT is filter, threshold, target, reward, preference, mixture, domain or world.
    """
    from plantune_lite.studies.ablate import plan_study, run_study, study_cost
    from plantune_lite.studies.page import study_json, study_text

    wanted, to = load_asked(recipe, settings, to)
    say = teller(as_json)
    if dry_run:
        definition, planned = plan_study(what, wanted, seeds=options["seeds"], to=to, say=say)
        rows = [{"run": run.name, "to_do": run.to_do, "done": run.done, "shared": run.shared} for run in planned]
        print_result(as_json, rows, study_cost(definition, planned))
        return
    command = shlex.join(["plantune", *sys.argv[1:]])
    stream = sys.stderr if as_json else None
    outcome = run_study(what, wanted, to=to, command=command, say=say, stream=stream, **options)
    print_result(as_json, study_json(outcome), f"\n{study_text(outcome)}\ndone: {outcome.folder}")
    if outcome.failed:
        sys.exit(1)


@cli.command()
@recipe_argument
@click.option("--to", type=as_path, metavar="DIR", help="The run folder (default: runs/NAME).")
@click.option("--problems", type=click.IntRange(10), default=100, help="Held-out problems to ask about (default: 100).")
@json_option
def probe(recipe: str, to: Path | None, problems: int, as_json: bool) -> None:
    """Probe whether a model knows which of its plans will succeed."""
    from plantune_lite.pipeline import runner
    from plantune_lite.report import page
    from plantune_lite.runs.folder import RunFolder, locked
    from plantune_lite.runs.job import Progress

    folder = folder_of_run(runner.folder_of(*load_asked(recipe, (), to)))
    show = (lambda line, last: None) if as_json else Progress()
    with locked(RunFolder(folder).at_work):
        probe_run = user_code.load_from_lab("probe")
        result = probe_run(folder, problems=problems, say=teller(as_json), show=show)
        page.rewrite_report(folder)
    print_result(as_json, result, f"{result['line']}\nall of it: {RunFolder(folder).report}")
