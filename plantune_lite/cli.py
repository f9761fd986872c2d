"""The plantune command: VERB RECIPE [part.field=value ...].

Imports only click at the top: `plantune --help` answers before torch would have begun to load.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from plantune_lite.records import PlantuneError

_GROUPS = ("Start", "Stages", "Studies")


class _Grouped(click.Group):
    """A help page in three groups, in the order the verbs are written here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in _GROUPS:
            verbs = [(name, verb) for name, verb in self.commands.items() if getattr(verb, "group", "Start") == group]
            if verbs:
                with formatter.section(group):
                    formatter.write_dl([(name, verb.get_short_help_str(90)) for name, verb in verbs])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from plantune_lite import __version__

        click.echo(f"plantune-lite {__version__}")
        ctx.exit()


@click.group(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Teach small language models to plan before they solve.

    A RECIPE is a shipped name (plantune recipes), a .py file, or a run folder. Whatever is part of a recipe is
    changed by part.field=value behind it: plantune run smollm2_135m sft.epochs=2 grpo=none
    """
    from plantune_lite.process import quiet_telemetry

    os.environ.update(quiet_telemetry())


_recipe = click.argument("recipe", metavar="RECIPE")
_settings = click.argument("settings", nargs=-1, metavar="[PART.FIELD=VALUE]...")
_PATH = click.Path(path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _going_on(function: Any) -> Any:
    """The options of every verb that does stages."""
    for option in (
        _json,
        click.option(
            "--again", metavar="STAGE", help="Make this stage and what follows from it anew; the old moves to old/."
        ),
        click.option("--mirror", type=_PATH, metavar="DIR", help="Keep a second copy here (a mounted Drive)."),
        click.option("--to", type=_PATH, metavar="DIR", help="The run folder (default: runs/NAME)."),
        _settings,
        _recipe,
    ):
        function = option(function)
    return function


@cli.command()
@_going_on
@click.option("--dry-run", is_flag=True, help="Say what would be done, do nothing.")
def run(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Run a recipe to its end, or go on where it was cut off."""
    wanted, options["to"] = _load(recipe, settings, options["to"])
    _do_stages(wanted, **options)


def run_script(recipe: Any, settings: tuple[str, ...], options: dict[str, Any], arguments: list[str]) -> Path:
    """`python my_recipe.py ARGUMENTS`: as `plantune run`, for the recipe the script holds."""
    from plantune_lite.recipe_files import override

    def go() -> Path:
        given = run.make_context("run", [recipe.name, *arguments]).params
        given = {name: value for name, value in given.items() if value}
        wanted = override(recipe, (*settings, *given.pop("settings", ())))
        given.pop("recipe")
        return _do_stages(wanted, **{**options, **given})

    return _reporting(go)


def _do_stages(
    wanted: Any, *, as_json: bool = False, dry_run: bool = False, to: Path | None = None, **options: Any
) -> Path:
    from plantune_lite import pipeline, runs

    say = _say_to_stderr if as_json else click.echo
    if dry_run:
        folder = pipeline.folder_of(wanted, to)
        _show_states(
            pipeline.with_teacher(wanted, os.environ, runs.read_manifest(folder), say), folder, as_json, options
        )
        return folder
    stream = sys.stderr if as_json else None
    folder = pipeline.run(wanted, to=to, say=say, stream=stream, **options)
    if as_json:
        _print_json(runs.read_manifest(folder))
    else:
        click.echo(f"done: {folder}")
    return folder


@cli.command()
@click.argument("recipe", metavar="[RECIPE]", default="smollm2_135m")
@_settings
@_json
def doctor(recipe: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong here, one fix a line; the exit status says whether RECIPE can run."""
    from dataclasses import asdict

    from plantune_lite import doctor as surgery
    from plantune_lite.terminal import printable

    wanted, _ = _load(recipe, settings, None)
    checks = surgery.examine(wanted)
    bad = [check for check in checks if check.state == "bad"]
    if as_json:
        _print_json({"recipe": wanted.name, "runs_here": not bad, "checks": [asdict(check) for check in checks]})
    else:
        mark = {
            "ok": click.style("ok  ", fg="green"),
            "note": click.style("note", fg="yellow"),
            "bad": click.style("BAD ", fg="red"),
        }
        for check in checks:
            fix = f"  -> {check.fix}" if check.fix else ""
            click.echo(f"{mark[check.state]}  {check.name:<16} {printable(check.found)}{fix}")
        click.echo(
            f"{wanted.name} can run here."
            if not bad
            else f"{wanted.name} cannot run here: {len(bad)} to mend, marked BAD."
        )
    sys.exit(1 if bad else 0)


@cli.command()
@_recipe
@_settings
@_json
def estimate(recipe: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Say what the teacher will cost, and what others would: calls, tokens, money."""
    from dataclasses import asdict

    from plantune_lite import estimate as bills
    from plantune_lite import problems
    from plantune_lite.terminal import table

    wanted, _ = _load(recipe, settings, None)
    pool = problems.load(wanted.problems, seed=wanted.seed).pool
    costs = bills.distillation(pool, wanted.distill, os.environ)
    if as_json:
        _print_json([asdict(cost) for cost in costs])
        return
    click.echo(table(f"{len(pool)} problems", ("teacher", "calls", "tokens", "USD", ""), bills.rows(costs)))
    click.echo(bills.ASSUMED)


@cli.command()
@_json
def recipes(as_json: bool) -> None:
    """List the recipes that come with plantune."""
    import ast

    from plantune_lite.recipe_files import shipped

    about = {}
    for name, path in shipped().items():
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        about[name] = words.split("\n\n")[0].replace("\n", " ")
    if as_json:
        _print_json(about)
    else:
        for name, words in about.items():
            click.echo(f"{name}\n    {words}")


@cli.command()
@click.argument("name")
@click.argument("dest", required=False, type=click.Path(path_type=Path))
def copy(name: str, dest: Path | None) -> None:
    """Copy a shipped recipe to a file of your own."""
    from plantune_lite.recipe_files import shipped
    from plantune_lite.records import RecipeError
    from plantune_lite.typed import nearest

    files = shipped()
    if name not in files:
        raise RecipeError(f"no shipped recipe {name!r}{nearest(name, files)}")
    target = dest or Path(f"{name}.py")
    if target.is_dir():
        target = target / f"{name}.py"
    elif not target.suffix:
        target = target.with_name(f"{target.name}.py")  # else no verb would take it for a recipe
    try:
        with open(target, "x", encoding="utf-8", newline="\n") as file:
            file.write(files[name].read_text(encoding="utf-8"))
    except FileExistsError:
        raise RecipeError(f"{target} is there already and stays as it is; give another DEST") from None
    except OSError as error:
        raise RecipeError(f"{target} cannot be written ({error.strerror})") from None
    click.echo(f"wrote {target}; edit it, then: plantune run {target}")


@cli.command()
@click.argument("what", metavar="X")
@_settings
@_json
def show(what: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show a recipe, a run folder, or a problem file before anything is spent on it."""
    path = Path(what)
    if (path / "recipe.json").is_file():
        wanted, folder = _load(what, settings, None)
        _show_states(wanted, folder, as_json)
    elif path.is_file() and path.suffix != ".py":
        _show_problem_file(what, settings, as_json)
    else:
        _show_recipe(what, settings, as_json)


@cli.command()
@_going_on
def distill(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Problems to verified plans to training rows, and no further."""
    wanted, options["to"] = _load(recipe, settings, options["to"])
    _do_stages(wanted, only=("problems", "suites", "distill", "corpus"), **options)


distill.group = "Stages"


def _show_recipe(what: str, settings: tuple[str, ...], as_json: bool) -> None:
    from plantune_lite.recipe import leaves
    from plantune_lite.recipe_files import to_json
    from plantune_lite.terminal import printable
    from plantune_lite.typed import written

    wanted, _ = _load(what, settings, None)
    if as_json:
        click.echo(to_json(wanted), nl=False)
        return
    for name, value in leaves(wanted):
        click.echo(f"{name}={printable(written(value))}")


def _show_states(wanted: Any, folder: Path | None, as_json: bool, options: Mapping[str, Any] = {}) -> None:
    from plantune_lite import pipeline, runs
    from plantune_lite.terminal import duration, table

    folder = folder or runs.runs_folder() / wanted.name
    manifest = runs.read_manifest(folder)
    rows = []
    for stage, state, why in pipeline.plan(folder, wanted, manifest, options.get("again"))[0]:
        entry = manifest["stages"].get(stage.name, {})
        line = why or entry.get("summary", {}).get("line", "")
        rows.append((stage.name, state, duration(entry["seconds"]) if "seconds" in entry else "", line))
    if as_json:
        names = ("stage", "state", "time", "line")
        _print_json(
            {"run": str(folder), "stages": [dict(zip(names, row, strict=True)) for row in rows], "manifest": manifest}
        )
    else:
        click.echo(table(f"{folder}", ("stage", "state", "time", ""), rows))


def _show_problem_file(what: str, settings: tuple[str, ...], as_json: bool) -> None:
    from dataclasses import asdict, replace

    from plantune_lite.recipe_files import load, override
    from plantune_lite.survey import survey

    asked = override(load("smollm2_135m"), ["corpus.filter=answer", *settings])  # any recipe: only its problems count
    found = survey(replace(asked.problems, source=what), seed=asked.seed)
    if as_json:
        _print_json(asdict(found))
        return
    for line in _survey_lines(found):
        click.echo(line)


def _survey_lines(found: Any) -> Iterator[str]:
    from plantune_lite.terminal import printable, table

    shown = functools.partial(printable, limit=300)
    yield f"{found.file}: {found.rows} rows, {found.problems} problems"
    for role, column in found.roles.items():
        yield f"  {role:<9} column {shown(column)!r}, {found.how[role]}"
    rest = [column for column in found.columns if column not in found.roles.values()]
    if rest:
        yield f"  kept      {', '.join(map(shown, rest))}"
    yield table("", ("question", "answer"), [(shown(one.question), shown(one.answer)) for one in found.samples])
    checkable = sum(found.checkable.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.checkable.items())
    yield f"{checkable} of {found.problems} answers can be checked" + (f": {kinds}" if kinds else "")
    if found.untried:
        yield f"  {found.untried} more are formulas that were not tried, a seeded sample of the rest was"
    yield from _listed(
        f"{_count(found.uncheckable, 'answer')} cannot be checked",
        [f"{where}: {shown(answer)} ({why})" for where, answer, why in found.unchecked],
        found.uncheckable,
    )
    if found.duplicates:
        yield f"{_count(found.duplicates, 'duplicate')}: an earlier row asks the same question"
    yield from _listed("the same question with two answers", [f"{one} and {other}" for one, other in found.conflicts])
    yield from _listed(
        f"{_count(found.bad, 'bad row')}; a run stops at them, or with problems.bad_rows=skip leaves them out",
        [f"{where}: {why}" for where, why in found.bad_rows],
        found.bad,
    )
    for note in found.notes:
        yield f"note: {shown(note)}"
    yield f"{found.held_out} would be held out as the suite 'own', {found.problems - found.held_out} learned from"
    yield f"to use it: plantune run RECIPE problems.path={found.file}" + "".join(
        f" problems.{role}={column}" for role, column in found.roles.items() if found.how[role] == "as you said"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _listed(title: str, lines: list[str], count: int | None = None) -> Iterator[str]:
    if lines:
        yield f"{title}:"
        yield from (f"  {line}" for line in lines)
        if count and count > len(lines):
            yield f"  ... and {count - len(lines)} more"


def _load(recipe: str, settings: tuple[str, ...], to: Path | None) -> tuple[Any, Path | None]:
    """The recipe as asked for, and its run folder where that is not runs/NAME."""
    from plantune_lite.recipe_files import load, override

    original = load(recipe)
    wanted = override(original, settings)
    if to is None and (Path(recipe) / "recipe.json").is_file() and wanted.name == original.name:
        to = Path(recipe)
    return wanted, to


def _say_to_stderr(line: str) -> None:
    click.echo(line, err=True)


def _print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a mistake of the user's is a sentence and a status, never a traceback."""
    _reporting(lambda: cli(args=arguments, prog_name="plantune", standalone_mode=False), then_exit=True)


def _reporting(work: Callable[[], Any], *, then_exit: bool = False) -> Any:
    """What `work` returns; where it fails, its sentence, and the end of the process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that cannot show a character shows another
    try:
        result = work()
        code = result if isinstance(result, int) else 0
        if then_exit or code:
            sys.exit(code)
        return result
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except PlantuneError as error:
        code = _failed(str(error))
    except BrokenPipeError:
        sys.stdout = None  # whoever read has gone, as `| head` does; the interpreter would complain at its end
        code = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _failed(f"{where}{error.strerror or error}. What is done is kept; the same command goes on.")
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; the same command goes on", err=True)
        code = 130
    sys.exit(code)


def _failed(sentence: str) -> int:
    from plantune_lite.terminal import printable

    click.echo(f"{click.style('error', fg='red')}: {printable(sentence)}", err=True)
    return 1


if __name__ == "__main__":
    main()
