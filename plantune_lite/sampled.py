"""Groups of answers as the student gives them anywhere else: encoded by the one encoder, drawn by dice of their own.

    GRPOTrainer(..., rollout_func=Sampled(student, group=8, seed=0))

TRL reads a prompt once for every answer of its group, and goes on with answers that have ended until the longest has.
The student's own way reads it once and lets them go; what it draws follows from the seed and the step alone, so that
who goes on after a kill draws the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from plantune_lite.types import Sampling
from plantune_lite.watch import TrainingError

_STEPS = 1_000_000  # more than any run has: no two runs of neighbouring seeds draw alike


class Sampled:
    """A rollout for TRL's trainer."""

    def __init__(self, student: Any, group: int, seed: int) -> None:
        self._student, self._group, self._seed = student, group, seed

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Completions of the prompts of one step, in their order."""
        asked = [tuple(prompt) for prompt in one_of_each(prompts, self._group, trainer.num_generations)]
        sampling = Sampling(
            temperature=trainer.temperature,
            n=self._group,
            max_tokens=trainer.max_completion_length,
            seed=self._seed * _STEPS + trainer.state.global_step,
        )
        end = self._student.tokenizer.convert_tokens_to_ids(self._student.preset.turn_end)
        with self._ending_with(end):
            replies_P_G = self._student.generate(asked, sampling)
        prompt_ids = [self._student.encode_chat(messages, for_reply=True) for messages in asked]
        return {
            "prompt_ids": [ids for ids in prompt_ids for _ in range(self._group)],
            "completion_ids": [
                [*reply.token_ids, end] if reply.finish == "stop" else list(reply.token_ids) or [end]
                for replies in replies_P_G
                for reply in replies
            ],
            "logprobs": None,  # the policy that samples is the one that is trained: TRL computes its own
        }

    @contextmanager
    def _ending_with(self, end: int) -> Iterator[None]:
        """Only the end of a turn ends an answer: a reply does not say which of several tokens ended it."""
        settings = self._student.model.generation_config
        ends, settings.eos_token_id = settings.eos_token_id, [end]
        try:
            yield
        finally:
            settings.eos_token_id = ends


def one_of_each(prompts: Sequence[Any], group: int, generations: int) -> list[Any]:
    """One prompt of every group; an error where a changed TRL hands them out in another way."""
    blocks = [prompts[start : start + group] for start in range(0, len(prompts), group)]
    if generations != group or any(len(one) < group or any(other != one[0] for other in one) for one in blocks):
        raise TrainingError(
            f"TRL hands out {len(prompts)} prompts in another way than whole groups, each {group} times one after "
            "another: the installed TRL is not one we know. Install the versions that plantune doctor names."
        )
    return [one[0] for one in blocks]
