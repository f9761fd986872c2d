"""Set up the plantune command: VERB RECIPE [part.field=value ...], its groups, options and error messages.

Imports at the top are light: `plantune --help` must not wait for torch to load.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from plantune_lite._version import __version__
from plantune_lite.cli.show import print_result, show_ending, show_states
from plantune_lite.files import as_path, runs_folder
from plantune_lite.recipe.load import load_recipe, override, run_folder
from plantune_lite.recipe.schema import Recipe
from plantune_lite.terminal import printable
from plantune_lite.types import PlantuneError, RunError

_GROUPS = ("start", "stages", "studies")  # the modules of the verbs


class _Grouped(click.Group):
    """A help page in three groups, with the verbs in the order they are defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in _GROUPS:
            module = f"plantune_lite.cli.{group}"
            verbs = [(name, verb) for name, verb in self.commands.items() if verb.callback.__module__ == module]
            with formatter.section(group.capitalize()):
                formatter.write_dl([(name, verb.get_short_help_str(90)) for name, verb in verbs])


@click.group(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, message="plantune-lite %(version)s")
def cli() -> None:
    """Teach small language models to plan before they solve.

    A RECIPE is a shipped name (plantune recipes), a .py file, or a run folder. Change any part of a recipe with
    part.field=value after it:

    plantune run smollm2_135m sft.max_steps=80 seed=1
    """
    from plantune_lite.pipeline.process import quiet_telemetry

    os.environ.update(quiet_telemetry())


recipe_argument = click.argument("recipe", metavar="RECIPE")
settings_argument = click.argument("settings", nargs=-1, metavar="[PART.FIELD=VALUE]...")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def run_options(function: Any) -> Any:
    """Add the arguments and options shared by all verbs that run stages."""
    for option in (
        json_option,
        click.option("--again", metavar="STAGE", help="Redo this stage and what follows; the old moves to old/."),
        click.option("--mirror", type=as_path, metavar="DIR", help="Keep a second copy here (a mounted Drive)."),
        click.option("--to", type=as_path, metavar="DIR", help="The run folder (default: runs/NAME)."),
        settings_argument,
        recipe_argument,
    ):
        function = option(function)
    return function


def do_stages(
    wanted: Recipe, *, as_json: bool = False, dry_run: bool = False, to: Path | None = None, **options: Any
) -> Path:
    """Run the stages of a verb, and print where the run is."""
    from plantune_lite.pipeline import runner
    from plantune_lite.runs.manifest import read_manifest

    say = teller(as_json)
    if dry_run:
        folder = runner.folder_of(wanted, to)
        manifest, again = read_manifest(folder), options.get("again")
        wanted = runner.with_teacher(wanted, os.environ, manifest, say, again)
        show_states(wanted, folder, as_json, options)
        return folder
    folder = runner.run(wanted, to=to, say=say, stream=sys.stderr if as_json else None, **options)
    if options.get("only") is None and not as_json:
        show_ending(wanted, folder)
    print_result(as_json, read_manifest(folder).to_row(), f"done: {folder}")
    return folder


def load_asked(recipe: str, settings: tuple[str, ...], to: Path | None) -> tuple[Recipe, Path | None]:
    """Load the recipe with its overrides, and find its run folder if that is not runs/NAME."""
    original = load_recipe(recipe)
    wanted = override(original, settings)
    if to is None and wanted.name == original.name:
        to = run_folder(recipe)
    return wanted, to


def folder_of_run(run: Path) -> Path:
    """Return a run's folder, given its path or its name in the folder of runs; refuse a damaged one."""
    from plantune_lite.runs.folder import RunFolder
    from plantune_lite.runs.manifest import read_manifest, refuse_changed

    folder = run if RunFolder(run).recipe.is_file() else runs_folder() / run
    if not RunFolder(folder).recipe.is_file():
        raise RunError(f"{run} is not a run folder, and {runs_folder()} has no run of that name")
    for stage, entry in read_manifest(folder).stages.items():
        if entry.status == "done" and stage not in ("export", "report"):  # not read, or only by push
            refuse_changed(folder, stage, entry)
    return folder


def teller(to_stderr: bool) -> Callable[[str], None]:
    """Return a function that prints a line for the user; standard output may be for a program."""
    return lambda line: click.echo(printable(line), err=to_stderr)


def reporting(work: Callable[[], Any]) -> Any:
    """Return what `work` returns; if it fails, print the message and end the process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that cannot show a character shows another
    try:
        return work()
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except PlantuneError as error:
        click.echo(f"{click.style('error', fg='red')}: {printable(str(error))}", err=True)
        code = 1
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone, as with `| head`; the interpreter would complain at exit
        code = 0
    except OSError as error:
        click.echo(f"error: {printable(str(error))}. What is done is kept; rerun the command to resume.", err=True)
        code = 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; rerun the command to resume", err=True)
        code = 130
    except Exception:  # a bug in plantune
        click.echo(printable(traceback.format_exc()), err=True)
        code = 1
    sys.exit(code)
