"""Define the verbs that run only some stages of a run, and those that report on it or push it."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from plantune_lite.cli.frame import as_path, cli, do_stages, folder_of_run, json_option, load_asked, run_options, teller
from plantune_lite.cli.show import print_result
from plantune_lite.recipe import user_code
from plantune_lite.recipe.schema import Recipe
from plantune_lite.terminal import printable


@cli.command()
@run_options
def distill(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Turn problems into verified plans and training rows, then stop."""
    wanted, options["to"] = load_asked(recipe, settings, options["to"])
    first = ("headroom",) if _looks_first(wanted) else ()
    do_stages(wanted, only=("problems", "suites", *first, "distill", "corpus"), **options)


def _looks_first(wanted: Recipe) -> bool:
    """Tell whether to measure headroom before distillation: plans cost money or hours, and the student has a GPU.

    Not with a teacher server on this machine, which may be using that GPU itself.
    """
    from plantune_lite.teacher.provider import is_loopback

    teacher = wanted.distill.teacher
    return teacher != "worked" and not is_loopback(teacher) and shutil.which("nvidia-smi") is not None


@cli.command()
@run_options
def train(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Train an adapter: SFT, then CPL and GRPO if the recipe has them."""
    wanted, options["to"] = load_asked(recipe, settings, options["to"])
    do_stages(wanted, only=("sft", "baseline", "cpl", "grpo"), **options)


@cli.command()
@run_options
@click.option("--model", metavar="PATH", help="Another model: an adapter, a merged folder, a .gguf file, URL#NAME.")
@click.option("--resample", type=click.IntRange(2), metavar="N", help="Draw weak plans again, N at most (probe first).")
def evaluate(recipe: str, settings: tuple[str, ...], model: str | None, resample: int | None, **options: Any) -> None:
    """Evaluate the untuned and the tuned model, with intervals."""
    wanted, options["to"] = load_asked(recipe, settings, options["to"])
    if model is not None and resample is not None:
        raise click.UsageError("--resample is for the run's own model, whose plans its judge knows: leave --model out")
    if model is not None:
        _evaluate_other(wanted, model, **options)
    elif resample is not None:
        _evaluate_resampled(wanted, resample, **options)
    else:
        do_stages(wanted, only=("suites", "evaluate"), **options)


def _evaluate_other(wanted: Recipe, model: str, *, as_json: bool = False, **options: Any) -> None:
    """Evaluate another model on the same test problems, next to earlier answers."""
    from plantune_lite.evaluate import compare, other_models

    with _ready_to_answer(wanted, as_json, **options) as (folder, how):
        standing = other_models.evaluate_model(folder, model, **how)
    print_result(as_json, compare.standing_json(standing), compare.standing_text(standing))


def _evaluate_resampled(wanted: Recipe, tries: int, *, as_json: bool = False, **options: Any) -> None:
    """Evaluate the run's model with weak plans resampled, next to itself and a majority vote at as many tokens."""
    from plantune_lite.report import page
    from plantune_lite.runs.folder import RunFolder, locked

    with _ready_to_answer(wanted, as_json, **options) as (folder, how), locked(RunFolder(folder).at_work):
        result = user_code.load_from_lab("resample")(folder, tries=tries, **how)
        page.rewrite_report(folder)
    text = user_code.load_from_lab("resampled_text")(result)
    print_result(as_json, result, f"{text}\nalso in {RunFolder(folder).report}")


@contextmanager
def _ready_to_answer(wanted: Recipe, as_json: bool, **options: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a run's folder with its test problems in it, mirrored meanwhile, and callbacks for lines and progress."""
    from plantune_lite.pipeline import runner
    from plantune_lite.pipeline.mirror import Mirror
    from plantune_lite.runs.job import Progress

    folder = runner.run(wanted, only=("problems", "suites"), say=teller(True), stream=sys.stderr, **options)
    show = (lambda line, last: None) if as_json else Progress()
    with ExitStack() as stack:
        if options["mirror"]:
            stack.callback(Mirror(options["mirror"].resolve(), folder, teller(True)).close)
        yield folder, {"say": teller(as_json), "show": show}


@cli.command()
@run_options
def export(recipe: str, settings: tuple[str, ...], **options: Any) -> None:
    """Merge the adapter into its 16-bit base, and check the result."""
    wanted, options["to"] = load_asked(recipe, settings, options["to"])
    do_stages(wanted, only=("export",), **options)


@cli.command()
@click.argument("run", type=as_path, metavar="RUN")
def report(run: Path) -> None:
    """Write report.html, one page about a run, finished or not."""
    from plantune_lite.report import page
    from plantune_lite.runs.folder import RunFolder, locked

    folder = folder_of_run(run)
    with locked(RunFolder(folder).at_work):
        line = page.rewrite_report(folder)
    click.echo(line)


@cli.command()
@click.argument("run", type=as_path, metavar="RUN")
@click.argument("repo", metavar="USER/NAME")
@click.option("--data", is_flag=True, help="The corpus, as a data set.")
@click.option("--what", type=click.Choice(["adapter", "merged", "gguf"]), help="One form (default: all there are).")
@click.option("--public", is_flag=True, help="Public, once the Hub lists what is here (default: private).")
@click.option("--dry-run", type=as_path, metavar="DIR", help="Write what would be pushed to DIR, push nothing.")
@json_option
def push(run: Path, repo: str, as_json: bool, data: bool, what: Any, **options: Any) -> None:
    """Push a run's model, or its corpus, to the Hugging Face Hub."""
    from plantune_lite.export import push_run

    options["say"] = teller(as_json)
    if data:
        done = push_run.push_corpus(folder_of_run(run), repo, **options)
    else:
        done = push_run.push_model(folder_of_run(run), repo, what=what, **options)
    print_result(as_json, done, "\n".join(printable(pushed["line"]) for pushed in done))
