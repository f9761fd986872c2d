"""What watches a training: its figures, its time, and the moment it goes wrong.

    schedule = Schedule(steps=60, warmup=6)                 the learning rate's share at each step, for LambdaLR
    trainer.add_callback(callback(Clock(schedule, hours=2.0, say=say)))

Time is planned from the first steps: where all of them will not fit, the schedule is made shorter as a whole, so that
the learning rate still comes down to nothing and the last step is a good place to stop.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plantune_lite.records import PlantuneError
from plantune_lite.terminal import duration

PLANNED_AFTER = 20  # steps
_SAVING = 1.5  # in steps: what a checkpoint and the end take


class TrainingError(PlantuneError, RuntimeError):
    """A training that cannot go on."""


class Schedule:
    """The learning rate's share: up in a line, down along a cosine. Its state is kept with the optimiser's."""

    def __init__(self, steps: int, warmup: int) -> None:
        self.steps, self.warmup = steps, warmup

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Clock:
    """Ends a training in time: shortens the schedule once its pace is known."""

    def __init__(
        self,
        schedule: Schedule,
        hours: float | None,
        say: Callable[[str], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule, self._say, self._now = schedule, say, now
        self._deadline = None if hours is None else now() + hours * 3600
        self._first = self._second = 0.0
        self._steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A run that goes on keeps the schedule it was on."""
        state.max_steps = self._schedule.steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Plan once enough steps are known; end when the time is up all the same."""
        self._steps += 1
        if self._steps == 1:
            self._second = self._now()  # the first step compiles and takes the longest batch: it says nothing of pace
        elif self._deadline is not None:
            pace = (self._now() - self._second) / (self._steps - 1)
            left = self._schedule.steps - state.global_step
            fits = int((self._deadline - self._now()) / pace - _SAVING)
            planned = self._steps in (PLANNED_AFTER, 4 * PLANNED_AFTER)  # twice: the pace of 20 steps may be off
            if (planned or fits <= 0) and fits < left:
                self._shorten(state.global_step + max(0, fits))
                state.max_steps = self._schedule.steps
        if state.global_step >= self._schedule.steps:
            control.should_training_stop = True

    def _shorten(self, steps: int) -> None:
        self._say(f"max_hours leaves time for {steps} of {self._schedule.steps} steps: the schedule ends there")
        self._schedule.steps = steps


class Figures:
    """Every logged figure to metrics.jsonl, and a line now and then for the person who waits."""

    def __init__(
        self,
        schedule: Schedule,
        metric: Callable[..., object],
        show: Callable[[str, bool], object],
        names: Mapping[str, str],
        advice: str,
    ) -> None:
        self._schedule, self._metric, self._show = schedule, metric, show
        self._names, self._advice = names, advice
        self._began = time.monotonic()
        self._first: int | None = None
        self._logged_before = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Where it goes on, what is logged already stays as it is."""
        self._began, self._first, self._logged_before = time.monotonic(), state.global_step, state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        """Stop where the loss is no number any more; else write down and show."""
        figures = {self._names[name]: value for name, value in logs.items() if name in self._names}
        if not figures:
            return
        for name in ("loss", "validation_loss"):
            if not math.isfinite(figures.get(name, 0.0)):
                raise TrainingError(
                    f"{name} is {figures[name]} at step {state.global_step}: the training has gone wrong, and the last "
                    f"checkpoint is from before it. {self._advice}"
                )
        self._metric(state.global_step, **figures)
        if "loss" in figures:
            self._show(self._line(state.global_step, figures), state.global_step >= self._schedule.steps)

    def _line(self, step: int, figures: Mapping[str, float]) -> str:
        done = step - (self._first or 0)
        pace = (time.monotonic() - self._began) / max(1, done)
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items() if name in _SHOWN)
        return f"step {step} of {self._schedule.steps}: {shown}, {duration(pace * (self._schedule.steps - step))} left"


_SHOWN = ("loss", "token_accuracy", "reward", "plan_reward", "spread", "clipped", "entropy", "length")


def callback(watcher: Any) -> Any:
    """A watcher as the trainer wants it: transformers is imported only where training is."""
    from transformers import TrainerCallback

    kind = type(watcher).__name__
    methods = {name: getattr(watcher, name) for name in dir(watcher) if name.startswith("on_")}
    return type(kind, (TrainerCallback,), {name: staticmethod(method) for name, method in methods.items()})()


def last_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint; those that a kill left half written are removed."""
    found: list[tuple[int, Path]] = []
    for folder in out.glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))  # written last
            found.append((state["global_step"], folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
    return max(found)[1] if found else None


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ran out, on the card or on the machine."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
