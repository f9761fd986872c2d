"""Sample a step's completions for TRL's trainer: ordinary answers, or guidance-aware groups (PTA-GRPO).

    GRPOTrainer(..., rollout_func=Guided(student, plans=4, continuations=3, seed=0))

    <plan> A </plan> working ... \\boxed{7}
    <plan> A </plan> other working ...         the same plan, token for token
    <plan> B </plan> ...

Input: the prompts of a step, each repeated group-size times. Output: token ids of prompts and completions. A plan ends
with the token that closes `</plan>`, and is continued from its token ids: text that is encoded again may become other
tokens, and the student would be trained on what it never wrote.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from plantune_lite.plan import CLOSE
from plantune_lite.train.callbacks import TrainingError
from plantune_lite.types import Reply, Sampling

_STEPS = 1_000_000  # more than any run has: runs with neighbouring seeds draw differently


class Sampled:
    """A rollout of the student's ordinary answers."""

    def __init__(self, student: Any, group: int, seed: int) -> None:
        self._student, self._group, self._seed = student, group, seed

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Completions of the prompts of one step, in their order."""
        prompt_ids = [self._student.encode_chat(tuple(prompts[group.start])) for group in groups(prompts, self._group)]
        sampling = Sampling(
            temperature=trainer.temperature,
            max_tokens=trainer.max_completion_length,
            seed=self._seed * _STEPS + trainer.state.global_step,
        )
        end = self._student.tokenizer.convert_tokens_to_ids(self._student.preset.turn_end)
        settings = self._student.model.generation_config
        ends, settings.eos_token_id = settings.eos_token_id, [end]  # a reply does not record which of several ended it
        try:
            completions = self._completions(prompt_ids, sampling, end)
        finally:
            settings.eos_token_id = ends
        return {
            "prompt_ids": [ids for ids in prompt_ids for _ in range(self._group)],
            "completion_ids": completions,
            "logprobs": None,  # the policy that samples is the one that is trained: TRL computes its own
        }

    def _completions(self, prompts: list[list[int]], sampling: Sampling, end: int) -> list[list[int]]:
        replies_P_n = self._student.generate(prompts, replace(sampling, n=self._group))
        return [_ids(reply, end) for replies in replies_P_n for reply in replies]


class Guided(Sampled):
    """A rollout of plans and continuations: each plan that was closed is continued from its token ids."""

    def __init__(self, student: Any, plans: int, continuations: int, seed: int) -> None:
        super().__init__(student, plans * continuations, seed)
        self._plans, self._continuations = plans, continuations

    def _completions(self, prompts: list[list[int]], sampling: Sampling, end: int) -> list[list[int]]:
        most = sampling.max_tokens
        replies_P_n = self._student.generate(prompts, replace(sampling, n=self._plans, stop=(CLOSE,)))
        plans = [(ids, plan) for ids, replies in zip(prompts, replies_P_n, strict=True) for plan in replies]
        begun = [(ids, list(plan.token_ids)) for ids, plan in plans if self._is_closed(plan, most)]
        room = most - min((len(plan) for _, plan in begun), default=0)  # after longer plans, the rest is cut off
        after = replace(sampling, n=self._continuations, max_tokens=room)
        endings = iter(self._student.generate([ids + plan for ids, plan in begun], after))
        completions: list[list[int]] = []
        for _, plan in plans:
            if self._is_closed(plan, most):
                completions += [[*plan.token_ids, *_ids(ending, end)][:most] for ending in next(endings)]
            else:
                completions += [_ids(plan, end)[:most] for _ in range(self._continuations)]
        return completions

    def _is_closed(self, plan: Reply, most: int) -> bool:
        """Return whether a plan was closed, with room left after it."""
        ids = list(plan.token_ids)
        return len(ids) < most and CLOSE in self._student.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _ids(reply: Reply, end: int) -> list[int]:
    """Return a reply's tokens with the one that ended its turn, which a reply leaves out."""
    return [*reply.token_ids, end] if reply.finish == "stop" else list(reply.token_ids)


def groups(prompts: Sequence[Any], size: int) -> list[slice]:
    """Split a batch into groups, blocks of one prompt; raise where it is anything else."""
    slices = [slice(start, start + size) for start in range(0, len(prompts), size)]
    for group in slices:
        block = prompts[group]
        if len(block) < size or any(prompt != block[0] for prompt in block):
            raise TrainingError(
                f"a batch of {len(prompts)} completions is not made of whole groups, {size} of the same prompt one "
                f"after another: set num_generations={size} and a batch per process that is a multiple of it"
            )
    return slices
