"""Teaches small language models to plan before they solve: the parts of a recipe, and run."""

from typing import Any

from plantune_lite.recipe import CPL, GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student

__version__ = "0.1.0"
__all__ = [
    "CPL",
    "GRPO",
    "SFT",
    "Corpus",
    "Distill",
    "Evaluate",
    "Export",
    "Problems",
    "Recipe",
    "Student",
    "run",
]


def run(recipe: Recipe, *settings: str, **options: Any) -> Any:
    """Run a recipe to its end, or go on with it: `run(RECIPE, "sft.epochs=2", mirror="/content/drive/MyDrive/mine")`.

    In a recipe file that is run as a script, what stands behind its name on the command line counts too.
    """
    from pathlib import Path

    from plantune_lite import pipeline, recipe_files

    if (script := _script_of(recipe)) is not None:
        import sys

        from plantune_lite import cli

        cli.main(["run", script, *settings, *sys.argv[1:]])
    paths = {name: Path(value) for name, value in options.items() if name in ("to", "mirror") and value is not None}
    return pipeline.run(recipe_files.override(recipe, settings), **{**options, **paths})


def _script_of(recipe: Recipe) -> str | None:
    """The file of `python my_recipe.py`; None in a notebook, a console or a test."""
    import sys

    main = sys.modules.get("__main__")
    return getattr(main, "__file__", None) if getattr(main, "RECIPE", None) is recipe else None
