"""Generate replies with a model in memory: one batch that is kept full, each reply ending with its turn.

    Replies(student)([chat("What is 2+3?")], Sampling(n=3, temperature=1.0)) -> [[Reply, Reply, Reply]]

Finished rows leave the batch and make room for others, the longest prompts first, so that memory runs out early or
never; if it does, half as many rows resume the unfinished replies. A prefix shared by all prompts is prefilled once,
and so is a prompt sampled several times. Each reply has its own RNG, seeded by (seed, repeat, prompt ids): other
prompts, earlier or in the same batch, and the amount of free memory do not affect it.

The plain backend generates one token for all rows at a time and joins the KV cache of new rows to that of the others.
Where no KV cache can be passed in (Unsloth, and models with layers other than attention), the model's own generate()
makes at most PART tokens, and unfinished replies are prefilled again together with new rows.
"""

import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from plantune_lite.student import attention
from plantune_lite.types import Messages, PlantuneError, Reply, Sampling

AT_ONCE = 128  # rows: the more there are, the less often all weights are read
LOOK_EVERY = 16  # tokens between checks for ended rows: dropping rows copies the KV cache of the others
LOOK_FOR_STOP_EVERY = 4  # the same with stop strings: lines are short
T4_ROWS = 16  # for 4-bit models: above, Unsloth unpacks all weights at every token
PART = 256  # tokens that generate() makes before ended rows are replaced
_SHORT = 300  # tokens, prompt and reply
_SHARE = 0.6  # of the free memory, for a batch's KV cache


@dataclass(eq=False)
class Row:
    """One reply being generated."""

    index: int  # of its prompt
    draw: int  # which of the replies to that prompt
    ids: list[int]  # of the prompt
    uniforms: Any  # a random number for each token
    reply_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def prefix(self) -> list[int]:
        """Return the tokens that the next one follows."""
        return self.ids + self.reply_ids


class Replies:
    """A Generate over the student's model, with its adapter or without; a prompt may be token ids too."""

    def __init__(self, student: Any, *, untuned: bool = False) -> None:
        self._student, self._untuned = student, untuned
        self._most: int | None = None  # rows at once, reduced when memory runs out

    def __call__(self, prompts: Sequence[Messages | list[int]], sampling: Sampling) -> list[list[Reply]]:
        return [replies for _, replies in sorted(self.each(prompts, sampling))]

    def each(self, prompts: Sequence[Messages | list[int]], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the replies to each prompt, with its index, as soon as all of them have ended."""
        draws = sampling.n if sampling.temperature > 0 else 1  # greedy: the same reply n times
        done: dict[int, dict[int, Reply]] = defaultdict(dict)
        with self._student.untuned() if self._untuned else nullcontext(), self._student.answering():
            for row in self._ended(self._rows(prompts, sampling, draws), sampling):
                replies = done[row.index]
                replies[row.draw] = self._reply(row, sampling.stop)
                if len(replies) == draws:
                    yield row.index, [replies[draw % draws] for draw in range(sampling.n)]

    def _rows(self, prompts: Sequence[Messages | list[int]], sampling: Sampling, draws: int) -> list[Row]:
        """List the replies to generate, the longest prompt first."""
        import torch

        rows, repeats = [], Counter[tuple[int, ...]]()
        for index, messages in enumerate(prompts):
            ids: Any = messages if isinstance(messages[0], int) else self._student.encode_chat(messages)
            for draw in range(draws):
                seed = zlib.crc32(repr((sampling.seed, repeats[tuple(ids)], ids)).encode())
                repeats[tuple(ids)] += 1  # a repeated prompt gets other draws
                rng = torch.Generator().manual_seed(seed)
                # In double precision a draw never rounds to 1, past the last token with any probability.
                uniforms = torch.rand(sampling.max_tokens, generator=rng, dtype=torch.double)
                rows.append(Row(index, draw, ids, uniforms))
        return sorted(rows, key=lambda row: -len(row.ids))

    def _ended(self, waiting: list[Row], sampling: Sampling) -> Iterator[Row]:
        """Yield each row as soon as it has ended; where memory runs out, resume the others, half as many at once."""
        import torch

        plain = self._student.source.backend == "plain" and attention.can_join(self._student.model.config)
        while waiting:
            most = self._rows_at_once(len(waiting[0].prefix) + sampling.max_tokens)
            batch = (_Plain if plain else _InParts)(self._student, sampling, most, waiting)
            try:
                yield from batch.ended()
                return
            except torch.OutOfMemoryError:
                rows = batch.going
            # Outside the handler, whose traceback keeps the batch's memory alive.
            if len(rows) == 1:
                raise PlantuneError(
                    f"memory ran out for one prompt of {len(rows[0].ids)} tokens and up to {sampling.max_tokens} reply "
                    "tokens: allow fewer (max_tokens), or load the student in fewer bits (student.bits=4)"
                )
            self._most = len(rows) // 2
            waiting[:0] = rows
            del batch
            torch.cuda.empty_cache()

    def _reply(self, row: Row, stop: Sequence[str]) -> Reply:
        tokenizer, ends = self._student.tokenizer, self._student.model.generation_config.eos_token_id
        has_ended = bool(row.reply_ids) and row.reply_ids[-1] in ends
        reply_ids = row.reply_ids[:-1] if has_ended else row.reply_ids
        text = tokenizer.decode(reply_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        stopped = min((start for word in stop if (start := text.find(word)) >= 0), default=None)
        drawn = len(reply_ids) + (has_ended and stopped is None)
        return Reply(
            text=text[:stopped],
            token_ids=tuple(reply_ids),
            finish="stop" if has_ended or stopped is not None else "length",
            mean_logprob=sum(row.logprobs[:drawn]) / drawn if row.logprobs and drawn else None,
            tokens_in=len(row.ids),
            tokens_out=drawn,
        )

    def _rows_at_once(self, length: int) -> int:
        """Estimate how many rows of this length fit into memory."""
        import torch

        model, on_gpu = self._student.model, torch.cuda.is_available()
        most = self._most or (AT_ONCE if on_gpu else at_once_on_cpu(length))
        if on_gpu:
            attention.forget_last_batch(model)
            if getattr(model, "is_loaded_in_4bit", False) and torch.cuda.get_device_capability() < (8, 0):
                most = min(most, T4_ROWS)
        room = _SHARE * (attention.free_on_gpu() if on_gpu else attention.free_here())
        return max(1, min(most, int(room // (length * attention.bytes_a_token(model)))))


def at_once_on_cpu(length: int) -> int:
    """Limit the rows: on a CPU copying the KV cache soon costs more than extra rows save (benchmarks/generate.md)."""
    return 64 if length <= _SHORT else 32


class _InParts:
    """Rows being generated by the model's own generate(), PART tokens at a time, and those waiting."""

    def __init__(self, student: Any, sampling: Sampling, most: int, waiting: list[Row]) -> None:
        self._student, self._sampling, self._most, self._waiting = student, sampling, most, waiting
        self.going: list[Row] = []

    def ended(self) -> Iterator[Row]:
        """Yield the rows that end, until none is left."""
        while self.going or self._waiting:
            room = self._most - len(self.going)
            if self._waiting and room >= max(1, self._most // 4):  # in groups, not one by one
                new = self._waiting[:room]
                del self._waiting[:room]
                self.going += new
                self._begin(new)
            self._advance()
            done = [row for row in self.going if self._has_ended(row)]
            kept = [number for number, row in enumerate(self.going) if row not in done]
            self.going = [self.going[number] for number in kept]
            yield from done
            if done:
                self._keep(kept)

    def _begin(self, new: Sequence[Row]) -> None:
        """Prefill new rows, which are the last of those going."""

    def _keep(self, kept: list[int]) -> None:
        """Drop the KV cache of all other rows."""

    def _advance(self) -> None:
        """Generate some more tokens for every row."""
        import torch
        from transformers import GenerationConfig

        sampling, stop = self._sampling, list(self._sampling.stop) or None
        most = min(PART, max(sampling.max_tokens - len(row.reply_ids) for row in self.going))
        ids_B_L, mask_B_L = self._padded([row.prefix for row in self.going])
        width = ids_B_L.shape[1]
        logs: list[list[float]] = []  # of each token drawn, row by row

        def draw(ids_B_L: Any, scores_B_V: Any) -> Any:
            """Mask all of a row's scores but the drawn one, since generate() takes the highest."""
            drawn_B, logs_B = _drawn(scores_B_V, self.going, sampling, ids_B_L.shape[1] - width)
            logs.append(logs_B.tolist())
            return torch.full_like(scores_B_V, -torch.inf).scatter(-1, drawn_B[:, None], 0)

        output_B_L = self._student.model.generate(
            input_ids=ids_B_L,
            attention_mask=mask_B_L,
            # Defaults come from the model's generation config, which chat.settle has reset.
            generation_config=GenerationConfig(max_new_tokens=most, do_sample=False, use_cache=True, stop_strings=stop),
            logits_processor=[draw] if sampling.temperature > 0 else None,
            tokenizer=self._student.tokenizer if stop else None,
        )
        for number, row in enumerate(self.going):
            row.reply_ids += output_B_L[number, width:].tolist()
            row.logprobs += [of_a_token[number] for of_a_token in logs]

    def _has_ended(self, row: Row) -> bool:
        """Return whether a reply has ended, and cut off what was generated after that. Control tokens count as text."""
        ends, stopped = self._student.model.generation_config.eos_token_id, self._stops(row.reply_ids)
        for number, id in enumerate(row.reply_ids, 1):
            if id in ends or number == self._sampling.max_tokens or (stopped and self._stops(row.reply_ids[:number])):
                del row.reply_ids[number:], row.logprobs[number:]
                return True
        return False

    def _stops(self, ids: Sequence[int]) -> bool:
        """Return whether a stop string is complete; half of a character, decoded as U+FFFD, does not count yet."""
        if not self._sampling.stop:
            return False
        text = self._student.tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip("\ufffd")
        return any(word in text for word in self._sampling.stop)

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Return token ids padded on the left, and their attention mask."""
        rows = {"input_ids": [list(prompt) for prompt in prompts]}
        padded = self._student.tokenizer.pad(rows, padding_side="left", return_tensors="pt")
        device = self._student.model.device
        return padded["input_ids"].to(device), padded["attention_mask"].to(device)


class _Plain(_InParts):
    """Rows being generated a token at a time, over a KV cache that new rows are joined to."""

    def __init__(self, student: Any, sampling: Sampling, most: int, waiting: list[Row]) -> None:
        super().__init__(student, sampling, most, waiting)
        self._memory: Any = None
        self._mask_B_L: Any = None
        self._shared, self._shared_length = self._read_shared()

    def _read_shared(self) -> tuple[Any, int]:
        """Prefill the prefix that all prompts share: our system turn, and worked examples."""
        prompts, config = [row.prefix for row in self._waiting], self._student.model.config
        memory = attention.memory_of(config)
        if len(prompts) == 1 or attention.has_window(config):
            return memory, 0
        length = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
        if length:
            self._scores(*self._padded([prompts[0][:length]]), memory)
        return memory, length

    def _begin(self, new: Sequence[Row]) -> None:
        """Prefill each prompt once, however many replies it gets, and draw their first tokens."""
        import torch

        pad = torch.nn.functional.pad
        prompts = list(dict.fromkeys(tuple(row.prefix) for row in new))
        ids_P_L, mask_P_L = self._padded([prompt[self._shared_length :] for prompt in prompts])
        mask_P_L = pad(mask_P_L, (self._shared_length, 0), value=1)
        memory = attention.memory_of(self._student.model.config)
        if self._shared_length:
            memory = attention.chosen(self._shared, [0] * len(prompts))
        scores_P_V = self._scores(ids_P_L, mask_P_L, memory)
        prompt_of = [prompts.index(tuple(row.prefix)) for row in new]
        if len(prompts) < len(new):
            memory, mask_P_L = attention.chosen(memory, prompt_of), mask_P_L[prompt_of]
        if len(self.going) > len(new):
            memory = attention.joined(self._memory, memory)
            width = max(self._mask_B_L.shape[1], mask_P_L.shape[1])
            mask_P_L = torch.cat([pad(mask, (width - mask.shape[1], 0)) for mask in (self._mask_B_L, mask_P_L)])
        self._memory, self._mask_B_L = memory, mask_P_L
        self._say(new, scores_P_V[prompt_of])

    def _advance(self) -> None:
        import torch

        most = max(self._sampling.max_tokens - len(row.reply_ids) for row in self.going)
        for _ in range(min(LOOK_FOR_STOP_EVERY if self._sampling.stop else LOOK_EVERY, most)):
            last_B_1 = torch.tensor([row.reply_ids[-1:] for row in self.going], device=self._mask_B_L.device)
            self._mask_B_L = torch.nn.functional.pad(self._mask_B_L, (0, 1), value=1)
            self._say(self.going, self._scores(last_B_1, self._mask_B_L, self._memory))

    def _keep(self, kept: list[int]) -> None:
        start = int(self._mask_B_L[kept].any(0).int().argmax())  # columns before it are padding for all
        self._mask_B_L = self._mask_B_L[kept, start:]
        self._memory = attention.chosen(self._memory, kept, start)

    def _scores(self, ids_B_L: Any, mask_B_L: Any, memory: Any) -> Any:
        """Return the next token's scores; adds these tokens to the KV cache."""
        import torch

        positions_B_L = (mask_B_L.cumsum(-1) - 1).clamp(min=0)[:, -ids_B_L.shape[1] :]
        with torch.no_grad():
            output = self._student.model(
                input_ids=ids_B_L,
                attention_mask=mask_B_L,
                position_ids=positions_B_L,
                past_key_values=memory,
                use_cache=True,  # a trainer with gradient checkpointing turns it off
                logits_to_keep=1,
            )
        return output.logits[:, -1].float()

    def _say(self, rows: Sequence[Row], scores_B_V: Any) -> None:
        """Append each row's next token: the likeliest, or a drawn one."""
        if self._sampling.temperature == 0:
            for row, id in zip(rows, scores_B_V.argmax(-1).tolist(), strict=True):
                row.reply_ids.append(id)
            return
        drawn_B, logs_B = _drawn(scores_B_V, rows, self._sampling)
        for row, id, log in zip(rows, drawn_B.tolist(), logs_B.tolist(), strict=True):
            row.reply_ids.append(id)
            row.logprobs.append(log)


# --- drawing ----------------------------------------------------------------------------------------------------------


def _drawn(scores_B_V: Any, rows: Sequence[Row], sampling: Sampling, ahead: int = 0) -> tuple[Any, Any]:
    """Return the token that each row draws next, or `ahead` tokens later, and its log probability."""
    import torch
    from transformers import TopPLogitsWarper

    # A row that has ended still draws, and the result is cut off.
    uniforms_B = torch.stack([row.uniforms[min(len(row.reply_ids) + ahead, sampling.max_tokens - 1)] for row in rows])
    scores_B_V = scores_B_V / sampling.temperature
    if sampling.top_p < 1:
        scores_B_V = TopPLogitsWarper(float(sampling.top_p))(None, scores_B_V)
    chances_B_V = scores_B_V.softmax(-1, dtype=torch.double)
    sums_B_V = chances_B_V.cumsum(-1)
    drawn_B_1 = torch.searchsorted(sums_B_V, uniforms_B[:, None].to(sums_B_V.device) * sums_B_V[:, -1:], right=True)
    return drawn_B_1[:, 0], chances_B_V.gather(-1, drawn_B_1)[:, 0].log()
