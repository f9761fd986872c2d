"""Run the plantune command, from the shell or from a script that holds a recipe."""

import sys
from pathlib import Path
from typing import Any

from plantune_lite.cli import stages, start, studies  # noqa: F401 - each adds its verbs
from plantune_lite.cli.frame import cli, do_stages, reporting
from plantune_lite.recipe.load import override
from plantune_lite.recipe.schema import Recipe


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a user's mistake is a message and an exit status, never a traceback."""
    sys.exit(reporting(lambda: cli(args=arguments, prog_name="plantune", standalone_mode=False)))


def run_script(recipe: Recipe, settings: tuple[str, ...], options: dict[str, Any], arguments: list[str]) -> Path:
    """Run `python my_recipe.py ARGUMENTS` as `plantune run` does, for the script's own recipe."""

    def go() -> Path:
        given = start.run.make_context("run", [recipe.name, *arguments]).params
        given = {name: value for name, value in given.items() if value}
        wanted = override(recipe, (*settings, *given.pop("settings", ())))
        given.pop("recipe")
        return do_stages(wanted, **{**options, **given})

    return reporting(go)


if __name__ == "__main__":
    main()
