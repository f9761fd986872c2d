"""Watch a training: its metrics, its time, and the moment it goes wrong.

    schedule = Schedule(steps=60, warmup=6)                 the learning rate's multiplier at each step, for LambdaLR
    trainer.add_callback(callback(Clock(schedule, hours=2.0, say=say)))
    last_checkpoint(out)                                    Checkpoint(folder=.../checkpoint-50, step=50, planned=60)

Time is planned from the first steps: if they will not all fit, the whole schedule is shortened, so that the learning
rate still decays to zero and the last step is a good place to stop.
"""

import json
import math
import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.runs.job import Reporter
from plantune_lite.student.attention import out_of_memory
from plantune_lite.student.load import Loaded
from plantune_lite.terminal import duration
from plantune_lite.types import PlantuneError

PLANNED_AFTER = 20  # steps
_SAVING = 1.5  # in steps: what a checkpoint and the end take


class TrainingError(PlantuneError, RuntimeError):
    """A training that cannot continue."""


class Schedule:
    """Multiply the learning rate: linear warm-up, cosine decay. LambdaLR keeps its fields in a checkpoint."""

    def __init__(self, steps: int, warmup: int) -> None:
        self.steps, self.warmup = steps, warmup

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def shorten(self, steps: int) -> None:
        """Rescale to the schedule of a training that had `steps` steps from the start."""
        self.warmup = round(self.warmup * steps / self.steps)
        self.steps = steps


class Clock:
    """Ends a training in time: shortens the schedule once the pace is known."""

    def __init__(
        self,
        schedule: Schedule,
        hours: float | None,
        say: Callable[[str], object],
        *,
        validation: float = 0.0,  # duration of one, in steps
        agree: Callable[[int], int] = lambda count: count,  # the first process's count, where there are several
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule, self._say, self._agree, self._now = schedule, say, agree, now
        self._deadline = None if hours is None else now() + hours * 3600
        self._reserve = _SAVING + validation
        self._steps, self._planning = 0, PLANNED_AFTER
        self._second = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Plan once enough steps are timed; end when the time is up in any case."""
        self._steps += 1
        if self._steps == 1:
            self._second = self._now()  # the first step compiles and has the longest batch: not the usual pace
        elif self._deadline is not None and state.global_step < self._schedule.steps:
            pace = (self._now() - self._second) / (self._steps - 1)
            fits = self._agree(max(0, int((self._deadline - self._now()) / max(pace, 1e-9) - self._reserve)))
            if self._steps == self._planning or not fits:
                self._planning *= 2  # plan again later: the pace may change
                steps, planned = state.global_step + fits, self._schedule.steps
                if steps < planned:
                    self._say(f"max_hours leaves time for {steps} of {planned} steps: the schedule ends there")
                    self._schedule.shorten(steps)
        state.max_steps = self._schedule.steps  # saved in checkpoints, for resuming
        if state.global_step >= self._schedule.steps:  # validate and save after the last step, wherever it falls
            control.should_training_stop = control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"


class Figures:
    """Write every logged figure to metrics.jsonl, and show a progress line from time to time.

    Steps lost to a kill are logged again when they are repeated: of two rows for a step the later counts.
    """

    def __init__(
        self,
        schedule: Schedule,
        reporter: Reporter,
        names: Mapping[str, str],
        advice: str,
        shown: Collection[str] = ("loss", "token_accuracy"),
    ) -> None:
        self._schedule, self._reporter = schedule, reporter
        self._names, self._advice, self._shown = names, advice, shown
        self._began, self._first = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start timing: the pace counts only this process's steps."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        """Stop at a loss that is not finite, before it is saved; else write and show the figures."""
        figures = {self._names[name]: value for name, value in logs.items() if name in self._names}
        figures = {name: value for name, value in figures.items() if value is not None}  # a reward of no completion
        if args.fp16 and not math.isfinite(figures.get("grad_norm", 0.0)):
            del figures["grad_norm"]  # the scaler overflowed and skipped this step
        for name in ("loss", "grad_norm", "validation_loss"):
            if not math.isfinite(figures.get(name, 0.0)):
                raise TrainingError(
                    f"{name} is {figures[name]} at step {state.global_step}: the training has diverged; what it "
                    f"saved is from before that. {self._advice}"
                )
        if figures:
            self._reporter.metric(state.global_step, **figures)
        if "loss" in figures:
            line = self._line(state.global_step, figures)
            self._reporter.show(line, state.global_step >= self._schedule.steps)

    def _line(self, step: int, figures: Mapping[str, float]) -> str:
        pace = (time.monotonic() - self._began) / max(1, step - self._first)
        shown = ", ".join(f"{name.replace('_', ' ')} {figures[name]:.3g}" for name in self._shown if name in figures)
        return f"step {step} of {self._schedule.steps}: {shown}, {duration(pace * (self._schedule.steps - step))} left"


def callback(watcher: Any) -> Any:
    """Wrap a watcher as a TrainerCallback; transformers is imported only for training."""
    from transformers import TrainerCallback

    kind = type(watcher).__name__
    methods = {name: getattr(watcher, name) for name in dir(watcher) if name.startswith("on_")}
    return type(kind, (TrainerCallback,), {name: staticmethod(method) for name, method in methods.items()})()


# --- from the first step to the last ----------------------------------------------------------------------------------


def build(
    kind: Callable[..., Any],
    student: Loaded,
    schedule: Schedule,
    prepare: Callable[[Any], object] = lambda model: None,
    **arguments: Any,
) -> Any:
    """Build one of TRL's trainers with our learning rate schedule; `prepare` runs before its optimiser is created."""
    from torch.optim.lr_scheduler import LambdaLR

    weights = {p: p.data for p in student.model.parameters() if p.requires_grad}
    trainer = kind(model=student.model, processing_class=student.tokenizer, **arguments)
    for p, was in weights.items():
        p.data = was.float()  # TRL makes them bf16 in 4-bit runs, where small updates round to nothing
    prepare(student.model)
    trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(trainer.optimizer, schedule)
    return trainer


def train(
    trainer: Any,
    watchers: Sequence[Any],
    checkpoint: "Checkpoint | None",
    less_memory: str,
    say: Callable[[str], object],
) -> None:
    """Train, or resume from a checkpoint; `less_memory` is the advice where memory runs out."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # the lines are ours
    for watcher in watchers:
        trainer.add_callback(callback(watcher))
    if checkpoint is not None:
        say(f"resumes from step {checkpoint.step} of {checkpoint.planned}")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint is not None else None)
    except Exception as error:
        if out_of_memory(error):
            raise TrainingError(
                f"memory ran out at step {trainer.state.global_step}. To use less: {less_memory}. "
                "plantune estimate says what fits."
            ) from error
        raise


def both_ends(figures: Sequence[float]) -> tuple[float, float]:
    """Average the first and the last tenth of a figure's values."""
    few = max(1, len(figures) // 10)
    first, last = (round(sum(some) / max(1, len(some)), 4) for some in (figures[:few], figures[-few:]))
    return first, last


def keep(student: Any, out: Path) -> None:
    """Save the adapter and remove the checkpoints."""
    student.save(out)
    for folder in sorted(out.glob("checkpoint-*"), key=step_of, reverse=True):
        shutil.rmtree(folder)  # the newest first: killed here, it resumes from an older one to the same end


# --- checkpoints ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """Saved state of a training."""

    folder: Path
    step: int
    planned: int  # steps of its schedule


_NEEDED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt")


def last_checkpoint(out: Path) -> Checkpoint | None:
    """Find the newest complete checkpoint; delete those that a kill or a full disk left half written."""
    checkpoints: list[Checkpoint] = []
    for folder in out.glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))  # written last
            if not all(map(_is_whole, (*(folder / name for name in _NEEDED), *folder.glob("rng_state*.pth")))):
                raise ValueError(folder)
            checkpoints.append(Checkpoint(folder, state["global_step"], state["max_steps"]))
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(folder, ignore_errors=True)
    return max(checkpoints, key=lambda checkpoint: checkpoint.step, default=None)


def _is_whole(file: Path) -> bool:
    """Return whether a file of a checkpoint is complete."""
    if file.suffix != ".safetensors":
        return zipfile.is_zipfile(file)  # as torch.save writes it, with its directory at the end
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            return True
    except SafetensorError:
        return False


def step_of(checkpoint: str | Path) -> int:
    """Parse the step after which a checkpoint was saved from its name."""
    return int(Path(checkpoint).name.rpartition("-")[2])
