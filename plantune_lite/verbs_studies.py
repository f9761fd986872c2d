"""The verbs that look at several runs, or into one."""

from pathlib import Path

import click

from plantune_lite.command import cli, json_option
from plantune_lite.shown import print_json


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@json_option
@click.option("--markdown", is_flag=True, help="Print Markdown.")
def compare(runs: tuple[Path, ...], as_json: bool, markdown: bool) -> None:
    """Models of one run or several on the same problems: who is better, and how sure that is."""
    from plantune_lite import standing
    from plantune_lite.runs import runs_folder

    folders = [run if run.is_dir() else runs_folder() / run for run in runs]
    found = standing.standing(folders)
    if as_json:
        print_json(standing.as_json(found))
    else:
        click.echo(standing.as_markdown(found) if markdown else standing.as_text(found))


compare.group = "Studies"
