"""Step-APO: train the adapter on pairs of steps to prefer the better one by the gap in their values.

    train(student, pairs, ask, CPL(alpha=1.0, beta=0.3), out, Training())  -> {"line": "30 steps on 80 pairs, ...", ...}

    loss = -log sigma( beta * [log pi/ref(better) - log pi/ref(worse)] - alpha * (q_better - q_worse) )

is DPO's loss with a margin from the search, and TRL's own trainer does the work (preference.py). alpha=0 is step-DPO;
with whole replies as pairs (pairs.answer_pairs) and alpha=0 it is standard DPO. The reference is the incoming adapter.
After a kill, the same call resumes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.lab.cpl import preference
from plantune_lite.lab.cpl.pairs import StepPair
from plantune_lite.lab.cpl.preference import Batches
from plantune_lite.recipe.schema import CPL
from plantune_lite.runs.job import Training
from plantune_lite.student.load import Loaded
from plantune_lite.train import callbacks, data
from plantune_lite.types import Messages, PlantuneError

EPOCHS = 3
WARMUP = 0.1  # share of the steps
_NAMES = {
    "loss": "loss",
    "preference": "preference",  # beta * [log-ratio of the better - log-ratio of the worse]
    "asked": "asked",  # alpha * gap
    "rewards/accuracies": "margin_kept",  # share of pairs whose preference is at least alpha * gap
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "num_tokens": "tokens",
}
_ADVICE = "Try a lower cpl.learning_rate (a third of it), with --again cpl."
_LESS_MEMORY = "set a smaller sft.batch_size (a pair is two rows) or student.max_length, with --again sft"


class PairError(PlantuneError, ValueError):
    """No pair can be learned from."""


def train(
    student: Loaded,
    pairs: Sequence[StepPair],
    ask: Mapping[str, Messages],
    part: CPL,
    out: Path,
    training: Training,
    *,
    epochs: float = EPOCHS,
    batches: Batches,
) -> dict[str, Any]:
    """Train the adapter on the pairs, or resume from the last checkpoint; `ask` has each question's prompt."""
    from torch.optim.lr_scheduler import LambdaLR

    say = training.reporter.say
    kept, dropped = preference.encoded(student, pairs, ask, training.max_length)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there are none"
        raise PairError(f"none of the {len(pairs)} pairs can be learned from: {reasons}. Search more (cpl.iterations).")
    if dropped:
        say(f"pairs left out: {', '.join(f'{count} {reason}' for reason, count in dropped.items())}")
    a_step = batches.size * batches.accumulate
    count = max(1, round(epochs * len(kept)))
    schedule = callbacks.Schedule(-(-count // a_step), warmup=round(WARMUP * -(-count // a_step)))
    checkpoint = callbacks.last_checkpoint(out)
    if checkpoint is not None and checkpoint.planned < schedule.steps:
        schedule.shorten(checkpoint.planned)  # max_hours did, before the kill
    settings = preference.config(student.model, part, out, training, schedule.steps, batches)
    built = preference.trainer(student, kept, part, settings)
    lengths = [len(row["prompt_tokens"]) + max(map(len, preference.both(row))) for row in kept]
    places = data.order(lengths, batches.size, count, training.seed)[: schedule.steps * a_step]
    built.train_dataset = built.train_dataset.select(places)
    built.create_optimizer()
    built.lr_scheduler = LambdaLR(built.optimizer, schedule)

    targets = [part.alpha * kept[place]["gap"] for place in places]
    figures = _Figures(schedule, training.reporter, _NAMES, _ADVICE, ("loss", "preference", "asked"))
    figures.targets = [_mean(targets[start : start + a_step]) for start in range(0, len(targets), a_step)]
    clock = callbacks.Clock(schedule, training.hours, say)
    callbacks.train(built, (clock, figures), checkpoint, _LESS_MEMORY, say)
    callbacks.keep(student, out)
    return _summary(built.state.log_history, figures.targets, schedule, len(kept), dict(dropped))


# --- results ----------------------------------------------------------------------------------------------------------


class _Figures(callbacks.Figures):
    """Metrics of a step; TRL's margin is the preference minus the target margin."""

    targets: Sequence[float] = ()  # mean target margin of each step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        """Add the preference itself to the logs."""
        if "rewards/margins" in logs:
            target = self.targets[state.global_step - 1]
            logs = {**logs, "preference": logs["rewards/margins"] + target, "asked": target}
        super().on_log(args, state, control, logs)


def _summary(
    history: Sequence[Mapping[str, Any]],
    targets: Sequence[float],
    schedule: callbacks.Schedule,
    pairs: int,
    dropped: Mapping[str, int],
) -> dict[str, Any]:
    logged = [row for row in history if "rewards/margins" in row]
    few = max(1, len(logged) // 10)
    loss, margins, kept = (
        [_mean([row[name] for row in some]) for some in (logged[:few], logged[-few:])]
        for name in ("loss", "rewards/margins", "rewards/accuracies")
    )
    wanted = [_mean([targets[row["step"] - 1] for row in some]) for some in (logged[:few], logged[-few:])]
    preferred = [round(margin + more, 4) + 0.0 for margin, more in zip(margins, wanted, strict=True)]
    line = (
        f"{len(logged)} steps on {pairs} pairs, preference {preferred[0]} to {preferred[1]} where {wanted[1]:.2f} is "
        f"asked, reached by {kept[1]:.0%}"
    )
    return {
        "line": line,
        "steps": len(logged),
        "planned_steps": schedule.steps,
        "pairs": pairs,
        "dropped": dict(dropped),
        "loss_first": round(loss[0], 4),
        "loss_last": round(loss[1], 4),
        "preference_first": preferred[0],
        "preference_last": preferred[1],
        "asked": round(wanted[1], 4),
        "margin_kept": round(kept[1], 4),
    }


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
