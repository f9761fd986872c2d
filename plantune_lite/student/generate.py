"""Generate replies with a model in memory: one batch that is kept full, each reply ended at the end of its turn.

    Replies(student)([chat("What is 2+3?")], Sampling(n=3, temperature=1.0)) -> [[Reply, Reply, Reply]]

Finished rows leave the batch and make room for others, the longest prompts first, so that memory runs out early or
never; if it does, half as many rows resume the unfinished replies. A prefix shared by all prompts is prefilled once,
and so is a prompt sampled several times. Each reply has its own RNG, seeded by (seed, repeat, prompt ids): other
prompts, earlier or in the same batch, and the amount of free memory change nothing.

The plain backend generates one token for all rows at a time and joins the KV cache of new rows to that of the others.
Where no KV cache can be given from outside (Unsloth, and models with other layers than attention), the model's own
generate() makes at most PART tokens, and unfinished replies are prefilled again together with new rows.
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

AT_ONCE = 128  # rows: the more there are, the fewer times all weights are read for them
LOOK_EVERY = 16  # tokens between two looks at which rows have ended: to leave some out copies the memory of the others
LOOK_FOR_STOP_EVERY = 4  # a line ends soon
T4_ROWS = 16  # of a model in 4 bits: over more, Unsloth unpacks all weights at every token
PART = 256  # tokens that generate() makes before ended rows are replaced
_SHORT = 300  # tokens, prompt and reply
_SHARE = 0.6  # of the free memory for what a batch remembers


@dataclass(eq=False)
class Row:
    """One reply that is being made."""

    place: int  # of its prompt among those asked
    draw: int  # which of the replies to that prompt
    ids: list[int]  # of the prompt
    throws: Any  # a random number for each token
    said: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def read(self) -> list[int]:
        """Return what the next token is made from."""
        return self.ids + self.said


class Replies:
    """A Generate over the student's model, with its adapter or without."""

    def __init__(self, student: Any, *, untuned: bool = False) -> None:
        self._student, self._untuned = student, untuned
        self._most: int | None = None  # rows at once, learned from running out of memory

    def __call__(self, prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        return [replies for _, replies in sorted(self.each(prompts, sampling))]

    def each(self, prompts: Sequence[Messages], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the replies to each prompt, with its place, as soon as all of them have ended."""
        draws = sampling.n if sampling.temperature > 0 else 1  # greedy: the same reply n times
        found: dict[int, dict[int, Reply]] = defaultdict(dict)
        with self._student.untuned() if self._untuned else nullcontext(), self._student.answering():
            for row in self._ended(self._rows(prompts, sampling, draws), sampling):
                replies = found[row.place]
                replies[row.draw] = self._reply(row, sampling.stop)
                if len(replies) == draws:
                    yield row.place, [replies[draw % draws] for draw in range(sampling.n)]

    def _rows(self, prompts: Sequence[Messages], sampling: Sampling, draws: int) -> list[Row]:
        """List the replies to be made, the longest prompt first."""
        import torch

        rows, asked = [], Counter[tuple[int, ...]]()
        for place, messages in enumerate(prompts):
            ids = self._student.encode_chat(messages)
            for draw in range(draws):
                seed = zlib.crc32(repr((sampling.seed, asked[tuple(ids)], ids)).encode())
                asked[tuple(ids)] += 1  # a prompt that is asked twice is drawn for twice
                dice = torch.Generator().manual_seed(seed)
                # In double precision a throw never comes out as one, behind the last token that has a chance.
                throws = torch.rand(sampling.max_tokens, generator=dice, dtype=torch.double)
                rows.append(Row(place, draw, ids, throws))
        return sorted(rows, key=lambda row: -len(row.ids))

    def _ended(self, waiting: list[Row], sampling: Sampling) -> Iterator[Row]:
        """Yield each row as soon as it has ended; where memory runs out, resume the others, half as many at once."""
        import torch

        plain = self._student.source.backend == "plain" and attention.can_join(self._student.model.config)
        while waiting:
            most = self._rows_at_once(len(waiting[0].read) + sampling.max_tokens)
            batch = (_Plain if plain else _InParts)(self._student, sampling, most, waiting)
            try:
                yield from batch.ended()
                return
            except torch.OutOfMemoryError:
                rows = batch.going
            # No longer in the handler, whose traceback holds on to what the batch took.
            if len(rows) == 1:
                raise PlantuneError(
                    f"memory ran out over one prompt of {len(rows[0].ids)} tokens and up to {sampling.max_tokens} of "
                    "reply: allow fewer (max_tokens), or load the student in fewer bits (student.bits=4)"
                )
            self._most = len(rows) // 2
            waiting[:0] = rows
            del batch
            torch.cuda.empty_cache()

    def _reply(self, row: Row, stop: Sequence[str]) -> Reply:
        tokenizer, ends = self._student.tokenizer, self._student.model.generation_config.eos_token_id
        has_ended = bool(row.said) and row.said[-1] in ends
        said = row.said[:-1] if has_ended else row.said
        text = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        stopped = min((place for word in stop if (place := text.find(word)) >= 0), default=None)
        drawn = len(said) + (has_ended and stopped is None)
        return Reply(
            text=text[:stopped],
            token_ids=tuple(said),
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
    """There copying what is remembered soon takes longer than more rows save (benchmarks/generate.md)."""
    return 64 if length <= _SHORT else 32


class _InParts:
    """Rows being generated, some hundred tokens at a time by the model's own generate(), and those that wait."""

    def __init__(self, student: Any, sampling: Sampling, most: int, waiting: list[Row]) -> None:
        self._student, self._sampling, self._most, self._waiting = student, sampling, most, waiting
        self.going: list[Row] = []

    def ended(self) -> Iterator[Row]:
        """Yield the rows that end, until none is left."""
        while self.going or self._waiting:
            room = self._most - len(self.going)
            if self._waiting and room >= max(1, self._most // 4):  # few at a time would be read one by one
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
        """Read new rows, which are the last of those going."""

    def _keep(self, kept: list[int]) -> None:
        """Forget what is remembered of other rows than these."""

    def _advance(self) -> None:
        """Make some more tokens for every row."""
        import torch
        from transformers import GenerationConfig

        sampling, stop = self._sampling, list(self._sampling.stop) or None
        most = min(PART, max(sampling.max_tokens - len(row.said) for row in self.going))
        ids_B_L, mask_B_L = self._padded([row.read for row in self.going])
        width = ids_B_L.shape[1]
        logs: list[list[float]] = []  # of each token drawn, row by row

        def draw(ids_B_L: Any, scores_B_V: Any) -> Any:
            """Leave of each row's scores the one that is drawn, since generate() takes the highest."""
            drawn_B, logs_B = _drawn(scores_B_V, self.going, sampling, ids_B_L.shape[1] - width)
            logs.append(logs_B.tolist())
            return torch.full_like(scores_B_V, -torch.inf).scatter(-1, drawn_B[:, None], 0)

        made_B_L = self._student.model.generate(
            input_ids=ids_B_L,
            attention_mask=mask_B_L,
            # What is left out comes from the model's own settings, which chat.settle has reset.
            generation_config=GenerationConfig(max_new_tokens=most, do_sample=False, use_cache=True, stop_strings=stop),
            logits_processor=[draw] if sampling.temperature > 0 else None,
            tokenizer=self._student.tokenizer if stop else None,
        )
        for number, row in enumerate(self.going):
            row.said += made_B_L[number, width:].tolist()
            row.logprobs += [of_a_token[number] for of_a_token in logs]

    def _has_ended(self, row: Row) -> bool:
        """Tell whether a reply is at its end, and cut off what was made behind that. Control tokens count as text."""
        ends, stopped = self._student.model.generation_config.eos_token_id, self._stops(row.said)
        for number, id in enumerate(row.said, 1):
            if id in ends or number == self._sampling.max_tokens or (stopped and self._stops(row.said[:number])):
                del row.said[number:], row.logprobs[number:]
                return True
        return False

    def _stops(self, ids: Sequence[int]) -> bool:
        """Tell whether a stop string is complete; half of a character, which is shown as one, is none yet."""
        if not self._sampling.stop:
            return False
        text = self._student.tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip("\ufffd")
        return any(word in text for word in self._sampling.stop)

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Return token ids padded on the left, and a mask of what is none."""
        rows = {"input_ids": [list(prompt) for prompt in prompts]}
        padded = self._student.tokenizer.pad(rows, padding_side="left", return_tensors="pt")
        device = self._student.model.device
        return padded["input_ids"].to(device), padded["attention_mask"].to(device)


class _Plain(_InParts):
    """A token for all rows at a time, over a memory that new rows are joined to."""

    def __init__(self, student: Any, sampling: Sampling, most: int, waiting: list[Row]) -> None:
        super().__init__(student, sampling, most, waiting)
        self._memory: Any = None
        self._mask_B_L: Any = None
        self._shared, self._shared_length = self._read_shared()

    def _read_shared(self) -> tuple[Any, int]:
        """Read what all prompts begin with: our system turn, and worked examples that all are shown."""
        prompts, config = [row.read for row in self._waiting], self._student.model.config
        memory = attention.memory_of(config)
        if len(prompts) == 1 or attention.has_window(config):
            return memory, 0
        length = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
        if length:
            self._scores(*self._padded([prompts[0][:length]]), memory)
        return memory, length

    def _begin(self, new: Sequence[Row]) -> None:
        """Read each prompt once, however often it is drawn for, and make the first token of its replies."""
        import torch

        pad = torch.nn.functional.pad
        prompts = list(dict.fromkeys(tuple(row.read) for row in new))
        ids_P_L, mask_P_L = self._padded([prompt[self._shared_length :] for prompt in prompts])
        mask_P_L = pad(mask_P_L, (self._shared_length, 0), value=1)
        memory = attention.memory_of(self._student.model.config)
        if self._shared_length:
            memory = attention.chosen(self._shared, [0] * len(prompts))
        scores_P_V = self._scores(ids_P_L, mask_P_L, memory)
        prompt_of = [prompts.index(tuple(row.read)) for row in new]
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

        most = max(self._sampling.max_tokens - len(row.said) for row in self.going)
        for _ in range(min(LOOK_FOR_STOP_EVERY if self._sampling.stop else LOOK_EVERY, most)):
            last_B_1 = torch.tensor([row.said[-1:] for row in self.going], device=self._mask_B_L.device)
            self._mask_B_L = torch.nn.functional.pad(self._mask_B_L, (0, 1), value=1)
            self._say(self.going, self._scores(last_B_1, self._mask_B_L, self._memory))

    def _keep(self, kept: list[int]) -> None:
        start = int(self._mask_B_L[kept].any(0).int().argmax())  # columns before it are padding for all
        self._mask_B_L = self._mask_B_L[kept, start:]
        self._memory = attention.chosen(self._memory, kept, start)

    def _scores(self, ids_B_L: Any, mask_B_L: Any, memory: Any) -> Any:
        """Return the scores of the token behind these, which are added to the memory."""
        import torch

        places_B_L = (mask_B_L.cumsum(-1) - 1).clamp(min=0)[:, -ids_B_L.shape[1] :]
        with torch.no_grad():
            said = self._student.model(
                input_ids=ids_B_L,
                attention_mask=mask_B_L,
                position_ids=places_B_L,
                past_key_values=memory,
                use_cache=True,  # a trainer that recomputes activations switches it off
                logits_to_keep=1,
            )
        return said.logits[:, -1].float()

    def _say(self, rows: Sequence[Row], scores_B_V: Any) -> None:
        """Add to each row its next token: the likeliest, or one that is drawn."""
        if self._sampling.temperature == 0:
            for row, id in zip(rows, scores_B_V.argmax(-1).tolist(), strict=True):
                row.said.append(id)
            return
        drawn_B, logs_B = _drawn(scores_B_V, rows, self._sampling)
        for row, id, log in zip(rows, drawn_B.tolist(), logs_B.tolist(), strict=True):
            row.said.append(id)
            row.logprobs.append(log)


# --- drawing ----------------------------------------------------------------------------------------------------------


def _drawn(scores_B_V: Any, rows: Sequence[Row], sampling: Sampling, ahead: int = 0) -> tuple[Any, Any]:
    """Return the token that each row's next throw draws, or the one so far ahead, and how likely that was."""
    import torch
    from transformers import TopPLogitsWarper

    # At its end, behind its last token, a row throws for what nobody reads.
    throws_B = torch.stack([row.throws[min(len(row.said) + ahead, sampling.max_tokens - 1)] for row in rows])
    scores_B_V = scores_B_V / sampling.temperature
    if sampling.top_p < 1:
        scores_B_V = TopPLogitsWarper(float(sampling.top_p))(None, scores_B_V)
    chances_B_V = scores_B_V.softmax(-1, dtype=torch.double)
    sums_B_V = chances_B_V.cumsum(-1)
    drawn_B_1 = torch.searchsorted(sums_B_V, throws_B[:, None].to(sums_B_V.device) * sums_B_V[:, -1:], right=True)
    return drawn_B_1[:, 0], chances_B_V.gather(-1, drawn_B_1)[:, 0].log()
