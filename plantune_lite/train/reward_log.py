"""Log rewards during GRPO: metrics of every step, some completions on disk; decide when to stop.

    watched = Rewarded([("right_answer", right_answer, 1.0)], group=8, file=Path("samples.jsonl"))
    GRPOTrainer(..., reward_funcs=watched.functions)          every reward is passed on unchanged
    trainer.add_callback(callbacks.callback(Signs(say, 176)))

One line of samples.jsonl:

    {"step": 3, "problem_id": "practice/train/7", "text": "<plan> ...", "tokens": 98, "reward": 2.5,
     "rewards": {"right_answer": 2.0, "plan_similarity": 0.5}}
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.files import JsonlWriter, read_jsonl, write_records
from plantune_lite.plan import written_plan
from plantune_lite.train.callbacks import TrainingError
from plantune_lite.types import Reward

Weighed = tuple[str, Reward, float]  # name, reward, weight

KEPT = 4  # completions of every step that are written, of one group
OF_PLANS = ("plan_similarity", "guided")  # rewards that need a plan
FIRST = 3  # steps within which a plan must appear where such a reward is used
PATIENCE = 20  # bad steps before GRPO is stopped
CLIPPED = 0.5  # share of completions that are cut off
SPREAD = 0.02  # share of groups whose answers do not all earn the same
_SAME = 1e-6  # rewards closer than this are equal
_FROM_REFERENCE = 0.01  # nats a token, of rounding


class Rewarded:
    """Reward functions for a trainer, called in turn on the same batch; logged when all have returned."""

    def __init__(self, rewards: Sequence[Weighed], group: int, file: Path, *, after_step: int = 0) -> None:
        self.weights = [weight for _, _, weight in rewards]
        self.names = {f"rewards/{name}/mean": name for name, _, _ in rewards}  # of figures, as the trainer logs them
        self.functions = [self._watched(name, reward) for name, reward, _ in rewards]
        self._group, self._file, self._given = group, file, dict[str, list[float | None]]()
        self._all = [name for name, _, _ in rewards]
        if file.is_file():  # the steps after the checkpoint are repeated
            write_records(file, [row for row in read_jsonl(file) if row["step"] <= after_step])

    def _watched(self, name: str, reward: Reward) -> Reward:
        def watched(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Sequence[float | None]:
            log = columns.get("log_metric", lambda name, value: None)

            def noted(figure: str, value: float) -> None:
                self.names.setdefault(figure, figure.replace("/", "_"))
                log(figure, value)

            given = reward(prompts=prompts, completions=completions, **{**columns, "log_metric": noted})
            self._given[name] = list(given)
            if name == self._all[-1]:
                self._look(completions, columns, noted)
            return given

        watched.__name__ = name
        return watched

    def _look(self, completions: Sequence[Any], columns: dict[str, Any], note: Callable[[str, float], None]) -> None:
        given = [[self._given[name][index] for name in self._all] for index in range(len(completions))]
        worth = [_total(row, self.weights) for row in given]
        groups = [worth[start : start + self._group] for start in range(0, len(worth), self._group)]
        note("spread", sum(max(group) - min(group) > _SAME for group in groups) / len(groups))
        note("planned", sum(bool(written_plan(chat[-1]["content"])) for chat in completions) / len(completions))
        with JsonlWriter(self._file) as writer:
            for index in range(min(KEPT, self._group)):
                writer.write(
                    {
                        "step": columns["trainer_state"].global_step + 1,
                        "problem_id": columns["problem_id"][index],
                        "text": completions[index][-1]["content"],
                        "tokens": len(columns["completion_ids"][index]),
                        "reward": worth[index],
                        "rewards": dict(zip(self._all, given[index], strict=True)),
                    }
                )


def _total(given: Sequence[float | None], weights: Sequence[float]) -> float:
    """Sum the weighted rewards as the trainer does: a reward of None counts as 0."""
    return sum(weight * reward for weight, reward in zip(weights, given, strict=True) if reward is not None)


class Signs:
    """Ends a GRPO that teaches nothing, and says why: reads its figures from the trainer's history, so that a resumed
    training sees the same."""

    def __init__(self, say: Callable[[str], object], max_completion: int, rewards: Sequence[str] = ()) -> None:
        self.stopped: str | None = None  # why, where it ended early but had learned something
        self._say, self._most = say, max_completion
        self._of_plans = [name for name in rewards if name in OF_PLANS]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Check the steps so far."""
        steps = [row for row in state.log_history if "spread" in row]
        if len(steps) == 1 and state.global_step == 1 and logs.get("kl", 0.0) > _FROM_REFERENCE:
            raise TrainingError(
                f"the reference is not the model this training began with (KL {logs['kl']:.3g} at step 0). Set "
                "grpo.extra.beta=0.0, which needs no reference, with --again grpo."
            )
        if self._of_plans and len(steps) == FIRST and not any(row["planned"] for row in steps):
            raise TrainingError(
                f"none of the answers of the first {FIRST} steps has a plan (<plan> to </plan>), which the reward "
                f"{self._of_plans[0]} needs: teach the student to plan with an SFT first (sft.target=plan+solution "
                "grpo.start=sft) or set grpo.reward=answer, with --again grpo."
            )
        last = steps[-PATIENCE:]
        if len(last) < PATIENCE:
            return
        if min(row["completions/clipped_ratio"] for row in last) > CLIPPED:
            raise TrainingError(
                f"more than {CLIPPED:.0%} of the completions were cut off at {self._most} tokens in each of the last "
                f"{PATIENCE} steps (to step {state.global_step}), so their answers were never seen. Allow longer ones "
                "(grpo.max_completion, student.max_length), or teach the student to end its answers with an SFT first "
                "(grpo.start=sft), with --again on the first stage that changes."
            )
        if sum(row["spread"] for row in last) <= SPREAD * PATIENCE:
            self._flat(steps, state, control)

    def _flat(self, steps: Sequence[dict[str, float]], state: Any, control: Any) -> None:
        why = f"all answers of a group earned the same in the last {PATIENCE} steps (to step {state.global_step})"
        if not any(row["spread"] > SPREAD for row in steps[:-PATIENCE]):
            raise TrainingError(
                f"{why}, so there is nothing to prefer: each earned {steps[-1]['reward']:.3g}. Sample more answers or "
                "more freely (grpo.group, grpo.temperature), or run an SFT first (grpo.start=sft), with --again grpo."
            )
        self.stopped = f"{why}: there is nothing left to learn from these prompts"
        self._say(
            f"stopped early: {self.stopped}. Harder problems (problems.levels, problems.source) would teach more."
        )
        control.should_training_stop = control.should_save = True
