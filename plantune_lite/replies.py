"""What a model in memory answers: batches sorted by length, padded on the left, ended at the end of the turn.

Replies(student)([chat("What is 2+3?")], Sampling(n=3, temperature=1.0)) -> [[Reply, Reply, Reply]]

The longest prompts go first, so that memory runs out in the first batch or never; then the batch is halved and it goes
on. Seeds come from the request, not from what was asked before: a run that goes on draws what it would have drawn.
"""

import os
import zlib
from collections.abc import Sequence
from typing import Any

from plantune_lite.records import Messages, Reply, Sampling

AT_ONCE_ON_A_CPU = 32  # replies; more gain nothing on a few cores
AT_ONCE_ON_A_GPU = 128
_SHARE = 0.6  # of the free memory for what a batch remembers


class Replies:
    """A Generate over the student's model; the student says whether its adapter is on."""

    def __init__(self, student: Any) -> None:
        self._student = student
        self._most: int | None = None  # rows at once, learned from running out of memory

    def __call__(self, prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        import torch

        ids_P = [self._student.encode_chat(messages) for messages in prompts]
        copies = sampling.n if sampling.temperature == 0 else 1  # greedy: the same reply n times, made once
        drawn = sampling.n // copies
        replies_P_n: list[list[Reply]] = [[] for _ in prompts]
        todo = sorted(range(len(prompts)), key=lambda place: -len(ids_P[place]))
        with torch.inference_mode(), torch.random.fork_rng():
            while todo:
                longest = len(ids_P[todo[0]])
                batch = todo[: max(1, self._rows_at_once(longest + sampling.max_tokens) // drawn)]
                try:
                    made = self._batch([ids_P[place] for place in batch], sampling, drawn)
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    self._most = len(batch) * drawn // 2
                    torch.cuda.empty_cache()
                    continue
                for number, place in enumerate(batch):
                    replies_P_n[place] = made[number * drawn : (number + 1) * drawn] * copies
                todo = todo[len(batch) :]
        return replies_P_n

    def _batch(self, ids_B: Sequence[Sequence[int]], sampling: Sampling, drawn: int) -> list[Reply]:
        import torch
        from transformers import GenerationConfig

        model, tokenizer = self._student.model, self._student.tokenizer
        width = max(map(len, ids_B))
        pad = tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in ids_B], device=model.device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in ids_B], device=model.device)
        greedy = sampling.temperature == 0
        settings = GenerationConfig(  # all of it said: what is left out would come from the model's own settings
            max_new_tokens=sampling.max_tokens,
            do_sample=not greedy,
            temperature=None if greedy else sampling.temperature,
            top_p=None if greedy else sampling.top_p,
            top_k=None if greedy else 0,
            num_return_sequences=drawn,
            repetition_penalty=1.0,
            use_cache=True,
            stop_strings=list(sampling.stop) or None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=pad,
        )
        torch.manual_seed(zlib.crc32(repr((sampling.seed, [list(ids) for ids in ids_B])).encode()))
        out = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=settings,
            tokenizer=tokenizer if sampling.stop else None,
        )
        ends = set(model.generation_config.eos_token_id)
        lengths = [len(ids) for ids in ids_B for _ in range(drawn)]
        return [
            self._reply(row, length, ends, sampling.stop)
            for row, length in zip(out[:, width:].tolist(), lengths, strict=True)
        ]

    def _reply(self, ids: list[int], tokens_in: int, ends: set[int], stop: Sequence[str]) -> Reply:
        end = next((place for place, id in enumerate(ids) if id in ends), None)
        said = ids if end is None else ids[:end]
        text = self._student.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        stopped = min((place for word in stop if (place := text.find(word)) >= 0), default=None)
        if stopped is not None:
            pad = self._student.tokenizer.pad_token_id
            while said and said[-1] == pad:  # other rows of the batch went on
                said = said[:-1]
            text = text[:stopped]
        return Reply(
            text=text,
            token_ids=tuple(said),
            finish="length" if end is None and stopped is None else "stop",
            tokens_in=tokens_in,
            tokens_out=len(said) + (end is not None),
        )

    def _rows_at_once(self, length: int) -> int:
        """How many rows of this length memory has room for."""
        import torch

        on_gpu = torch.cuda.is_available()
        most = self._most or (AT_ONCE_ON_A_GPU if on_gpu else AT_ONCE_ON_A_CPU)
        room = _SHARE * (_free_on_gpu() if on_gpu else _free_here())
        return max(1, min(most, int(room // (length * self._bytes_a_token()))))

    def _bytes_a_token(self) -> int:
        """What attention remembers of one token: a key and a value, every layer and head."""
        config = self._student.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        element = 4 if "32" in str(self._student.model.dtype) else 2
        return 2 * config.num_hidden_layers * heads * width * element


def _free_on_gpu() -> int:
    import torch

    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _free_here() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30  # Windows has no sysconf
