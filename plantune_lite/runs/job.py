"""Define what a stage gets: the run, its part of it, and how to report to the user and to the run's report."""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import Summaries
from plantune_lite.terminal import printable, redrawn

_EVERY_SECONDS = 10.0  # between lines of progress where they cannot be redrawn


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Callbacks of a long task: a line, its progress, the metrics of a step."""

    say: Callable[[str], object] = print
    show: Callable[[str, bool], object] = lambda line, last: None
    metric: Callable[..., object] = lambda step, **figures: None


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of every training, besides its own part of the recipe."""

    seed: int = 0
    max_length: int = 1024  # tokens of prompt and completion
    checkpointing: bool = False
    hours: float | None = None  # None = no limit
    logger: str = "none"  # sft.logger, used by every training
    reporter: Reporter = Reporter()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of one run."""

    run: RunFolder
    stage: str
    out: Path  # the stage's folder
    recipe: Recipe
    earlier: Summaries  # from the manifest
    hours_left: float | None  # of the whole run; None = no limit

    def say(self, line: str) -> None:
        """Print a line for the user."""
        if is_first():
            print(printable(line), flush=True)

    def metric(self, step: int, **values: float) -> None:
        """Record the metrics of a step for the report: loss, reward, seconds ..."""
        row = {"stage": self.stage, "step": step, "seconds": round(time.time(), 3), **values}
        if is_first():
            with open(self.run.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def progress(self) -> "Progress":
        """Return a progress line that can be redrawn."""
        return Progress()

    def training(self, hours: float | None) -> Training:
        """Return the settings of this stage's training."""
        return Training(
            seed=self.recipe.seed,
            max_length=self.recipe.student.max_length,
            checkpointing=self.recipe.student.checkpointing,
            hours=hours,
            logger=self.recipe.sft.logger if self.recipe.sft else "none",
            reporter=Reporter(say=self.say, show=self.progress(), metric=self.metric),
        )


class Progress:
    """One line redrawn on a terminal; elsewhere a new line every ten seconds."""

    def __init__(self) -> None:
        self._redraws = os.environ.get("PLANTUNE_TTY") == "1"
        self._last = float("-inf")

    def __call__(self, line: str, last: bool = False) -> None:
        """Show the progress; the last line stays."""
        due = self._redraws or time.monotonic() - self._last >= _EVERY_SECONDS
        if is_first() and (due or last):
            self._last = time.monotonic()
            shown = redrawn(line, last=last) if self._redraws else printable(line) + "\n"
            print(shown, end="", flush=True)


def is_first() -> bool:
    """Tell whether this is rank 0: under `accelerate launch` every rank works, but one prints."""
    return os.environ.get("RANK", "0") == "0"


TRAININGS = ("sft", "cpl", "grpo")  # in this order


def trained_by(recipe: Mapping[str, Any], done: Collection[str]) -> list[str]:
    """List the training stages that a run's model has been through, of those that are done.

    GRPO that starts from the base or from another run ignores the adapter before it.
    """
    if "grpo" in done and recipe["grpo"]["start"] != "sft":
        return ["grpo"]
    return [stage for stage in TRAININGS if stage in done]


def last_trained(job: Job) -> str | None:
    """Name the stage whose adapter is the run's model; each training stage's folder has its name."""
    return next((name for name in reversed(TRAININGS) if getattr(job.recipe, name) and name in job.earlier.made), None)


def share_of(recipe: Recipe, stage: str) -> float:
    """Return the share of the remaining time that a stage may take; later stages need some too."""
    after_baseline = 1 + sum(map(bool, (recipe.cpl, recipe.grpo)))
    shares = {
        "distill": 0.4,
        "sft": 0.7 / (after_baseline + recipe.has_baseline),
        "baseline": 0.7 / after_baseline,
        "cpl": 0.4 if recipe.grpo else 0.7,
        "grpo": 0.7,
        "evaluate": 0.85,
    }
    return shares.get(stage, 1.0)


LEAST_HOURS = 1 / 60  # less would leave an adapter that learned nothing but counts as done
