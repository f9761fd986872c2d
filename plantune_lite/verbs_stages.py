"""The verbs that do some stages of a run and no more."""

from typing import Any

from plantune_lite.command import cli, do_stages, going_on, load_asked


@cli.command()
@going_on
def distill(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Problems to verified plans to training rows, and no further."""
    wanted, options["to"] = load_asked(recipe, settings, options["to"])
    do_stages(wanted, only=("problems", "suites", "distill", "corpus"), **options)


distill.group = "Stages"


@cli.command()
@going_on
def train(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Training rows to an adapter: SFT, and what the recipe has after it."""
    wanted, options["to"] = load_asked(recipe, settings, options["to"])
    do_stages(wanted, only=("sft", "cpl", "grpo"), **options)


train.group = "Stages"
