"""Teaches small language models to plan before they solve: the parts of a recipe, and run."""

from typing import Any

from plantune_lite._version import __version__ as __version__
from plantune_lite.recipe.schema import CPL, GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student

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
    """Start or resume a recipe's run: `run(RECIPE, "grpo=none", mirror="/content/drive/MyDrive/mine")`.

    In the script with the recipe, command-line arguments count too. Return the run folder.
    """
    import sys

    from plantune_lite.pipeline import runner
    from plantune_lite.recipe import user_code
    from plantune_lite.recipe.load import override
    from plantune_lite.types import RecipeError

    if user_code.is_loading():
        raise RecipeError("run() is called while the recipe is loaded: put it under if __name__ == '__main__':")
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) and any(value is recipe for value in list(vars(main).values())):
        from plantune_lite.cli.main import run_script

        return run_script(recipe, settings, options, sys.argv[1:])
    return runner.run(override(recipe, settings), **options)
