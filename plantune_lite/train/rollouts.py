"""Sample guidance-aware groups (PTA-GRPO): several plans per question, several continuations per plan, one group.

    GRPOTrainer(..., rollout_func=Guided(student, plans=4, continuations=3))

    <plan> A </plan> working ... \boxed{7}     plan_index 0
    <plan> A </plan> other working ...         plan_index 0      the same plan, token for token
    <plan> B </plan> ...                       plan_index 1 ...

Input: the prompts of a step, each repeated group-size times. Output: token ids of prompts and completions, which plan
each follows, and whether that was closed. A plan is cut after the token that closes `</plan>`, and continued from its
token ids: text that is encoded again may become other tokens, and the student would be trained on what it never wrote.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

from plantune_lite.plan import CLOSE
from plantune_lite.train.callbacks import TrainingError
from plantune_lite.types import Sampling

_TAIL = 2 * len(CLOSE)  # last tokens that must contain a tag just closed: a character is a token at most


class Plan(NamedTuple):
    """Tokens sampled up to the end of a plan."""

    ids: list[int]
    closed: bool  # else nothing follows it: the turn ended, or no room is left


class Guided:
    """A rollout of plans and continuations for TRL's trainer."""

    def __init__(self, student: Any, plans: int, continuations: int) -> None:
        self._student, self._plans, self._continuations = student, plans, continuations

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Completions of the prompts of one step, in their order."""
        size = self._plans * self._continuations
        each = [prompts[group.start] for group in groups(prompts, size)]
        prompt_ids = [self._student.encode_chat(tuple(prompt), for_reply=True) for prompt in each]
        settings = {"temperature": trainer.temperature, "ends": set(trainer.eos_token_ids)}
        limit = trainer.max_completion_length

        before = [ids for ids in prompt_ids for _ in range(self._plans)]
        with self._student.answering():
            samples = self._sampled(before, [limit] * len(before), closing=True, **settings)
            plans = [cut(self._student.tokenizer, ids, limit) for ids in samples]
            pairs = zip(before, plans, strict=True)
            begun = [(ids, plan.ids) for ids, plan in pairs if plan.closed for _ in range(self._continuations)]
            room = [limit - len(plan) for _, plan in begun]
            endings = iter(self._sampled([ids + plan for ids, plan in begun], room, closing=False, **settings))
        completions = [
            plan.ids + (next(endings) if plan.closed else []) for plan in plans for _ in range(self._continuations)
        ]
        return {
            "prompt_ids": [ids for ids in prompt_ids for _ in range(size)],
            "completion_ids": completions,
            "logprobs": None,  # the policy that samples is the one that is trained: TRL computes its own
            "plan_index": [index % self._plans for index in range(len(plans)) for _ in range(self._continuations)],
            "plan_tokens": [len(plan.ids) for plan in plans for _ in range(self._continuations)],
            "plan_closed": [plan.closed for plan in plans for _ in range(self._continuations)],
        }

    def _sampled(
        self, prefixes: Sequence[list[int]], room: Sequence[int], *, closing: bool, temperature: float, ends: set[int]
    ) -> list[list[int]]:
        """Sample a continuation of each prefix, up to the end of its turn or its maximum length."""
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        if not prefixes:
            return []
        model, tokenizer = self._student.model, self._student.tokenizer
        width = max(map(len, prefixes))
        padded = [[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prefixes]
        seen = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prefixes]

        def closes(ids_B_L: Any, scores: Any, **_: Any) -> Any:
            """Stop each row at the token that closes its plan."""
            tails = ids_B_L[:, max(width, ids_B_L.shape[1] - _TAIL) :].tolist()
            return torch.tensor([closed(tokenizer, tail) for tail in tails], device=ids_B_L.device)

        settings = GenerationConfig(
            max_new_tokens=max(room),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.no_grad():
            out_B_L = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(seen, device=model.device),
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([closes] if closing else []),
            )
        return [to_end(ids, ends)[:limit] for ids, limit in zip(out_B_L[:, width:].tolist(), room, strict=True)]


def closed(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Return whether a plan ends in these tokens."""
    return CLOSE in tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def cut(tokenizer: Any, ids: Sequence[int], most: int) -> Plan:
    """Keep the tokens up to the one that closes the plan; all of them if none does, or if no room is left after it."""
    if not closed(tokenizer, ids):
        return Plan(list(ids), False)
    last = bisect_left(range(len(ids) + 1), True, key=lambda count: closed(tokenizer, ids[:count]))
    return Plan(list(ids[:last]), last < most)


def to_end(ids: Sequence[int], ends: set[int]) -> list[int]:
    """Keep the tokens up to and including the one that ends the turn."""
    last = next((index for index, id in enumerate(ids) if id in ends), len(ids))
    return list(ids[: last + 1])


# --- answers without guidance: the student's own way to sample --------------------------------------------------------

_STEPS = 1_000_000  # more than any run has: runs with neighbouring seeds draw differently


class Sampled:
    """A rollout of the student's ordinary answers for TRL's trainer."""

    def __init__(self, student: Any, group: int, seed: int) -> None:
        self._student, self._group, self._seed = student, group, seed

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Completions of the prompts of one step, in their order."""
        conversations = [tuple(prompts[group.start]) for group in groups(prompts, self._group)]
        sampling = Sampling(
            temperature=trainer.temperature,
            n=self._group,
            max_tokens=trainer.max_completion_length,
            seed=self._seed * _STEPS + trainer.state.global_step,
        )
        end = self._student.tokenizer.convert_tokens_to_ids(self._student.preset.turn_end)
        settings = self._student.model.generation_config
        ends, settings.eos_token_id = settings.eos_token_id, [end]  # a reply does not record which of several ended it
        try:
            replies_P_G = self._student.generate(conversations, sampling)
        finally:
            settings.eos_token_id = ends
        prompt_ids = [self._student.encode_chat(messages, for_reply=True) for messages in conversations]
        return {
            "prompt_ids": [ids for ids in prompt_ids for _ in range(self._group)],
            "completion_ids": [
                [*reply.token_ids, end] if reply.finish == "stop" else list(reply.token_ids) or [end]
                for replies in replies_P_G
                for reply in replies
            ],
            "logprobs": None,  # the policy that samples is the one that is trained: TRL computes its own
        }


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
