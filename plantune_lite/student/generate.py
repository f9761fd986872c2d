"""Generate replies with a model in memory: one batch that is kept full, each reply ended at the end of its turn.

    Replies(student)([chat("What is 2+3?")], Sampling(n=3, temperature=1.0)) -> [[Reply, Reply, Reply]]

Finished rows leave the batch and make room for others, the longest prompts first, so that memory runs out early or
never; if it does, half as many rows resume the unfinished replies. A prefix shared by all prompts is prefilled once,
and so is a prompt sampled several times. Each reply has its own RNG, seeded by (seed, repeat, prompt ids): other
prompts, earlier or in the same batch, and the amount of free memory change nothing.

The plain backend generates one token for all rows at a time and joins the KV cache of new rows to that of the others.
Unsloth generates in ways of its own, which accept no KV cache from outside: there its generate() makes at most PART
tokens, and unfinished replies are prefilled again together with new rows.
"""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from plantune_lite.student import attention
from plantune_lite.types import Messages, PlantuneError, Reply, Sampling

AT_ONCE = 128  # rows: the more there are, the fewer times all weights are read for them
LOOK_EVERY = 16  # tokens between two looks at which rows have ended: to leave some out copies the memory of the others
LOOK_FOR_STOP_EVERY = 4  # a line ends soon
T4_ROWS = 16  # of a model in 4 bits: over more, Unsloth unpacks all weights at every token
PART = 256  # tokens that Unsloth makes before ended rows are replaced
_SHORT = 300  # tokens, prompt and reply
_SHARE = 0.6  # of the free memory for what a batch remembers


@dataclass
class Row:
    """One reply that is being made."""

    place: int  # of its prompt among those asked
    draw: int  # which of the replies to that prompt
    ids: list[int]  # of the prompt
    seed: int
    said: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    throws: Any = None  # a random number for each token

    @property
    def read(self) -> list[int]:
        """Return what the next token is made from."""
        return self.ids + self.said


class Replies:
    """A Generate over the student's model in a state, such as its adapter off, which lasts while it answers."""

    def __init__(self, student: Any, state: Callable[[], AbstractContextManager[None]]) -> None:
        self._student, self._state = student, state
        self._most: int | None = None  # rows at once, learned from running out of memory

    def __call__(self, prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        replies = dict(self.each(prompts, sampling))
        return [replies[place] for place in range(len(prompts))]

    def each(self, prompts: Sequence[Messages], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the replies to each prompt, with its place, as soon as all of them have ended."""
        found: dict[int, dict[int, Reply]] = {}
        with self._state():
            for row in self._ended(prompts, sampling):
                replies = found.setdefault(row.place, {})
                reply = self._reply(row, sampling.stop)
                replies |= dict.fromkeys(range(sampling.n) if sampling.temperature == 0 else [row.draw], reply)
                if len(replies) == sampling.n:
                    yield row.place, [replies[draw] for draw in range(sampling.n)]

    def _ended(self, prompts: Sequence[Messages], sampling: Sampling) -> Iterator[Row]:
        """Yield each reply as soon as it has ended."""
        made = _Plain if self._student.source.backend == "plain" else _Unsloth
        waiting = self._rows(prompts, sampling)
        while waiting:
            most = self._rows_at_once(len(waiting[0].read) + sampling.max_tokens)
            batch = made(self._student, sampling, most, waiting)
            yield from self._until_memory_ends(batch, waiting, sampling)

    def _until_memory_ends(self, batch: "_Batch", waiting: list[Row], sampling: Sampling) -> Iterator[Row]:
        """Yield the rows that end; where memory runs out, the others wait again, for fewer at once."""
        import torch

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
        torch.cuda.empty_cache()

    def _rows(self, prompts: Sequence[Messages], sampling: Sampling) -> list[Row]:
        """Every reply to be made, the longest prompt first."""
        rows, asked = [], Counter[tuple[int, ...]]()
        for place, messages in enumerate(prompts):
            ids = self._student.encode_chat(messages)
            for draw in range(1 if sampling.temperature == 0 else sampling.n):  # greedy: the same reply n times
                again = asked[tuple(ids)]  # a prompt that is asked twice is drawn for twice
                asked[tuple(ids)] += 1
                rows.append(Row(place, draw, ids, zlib.crc32(repr((sampling.seed, again, ids)).encode())))
        return sorted(rows, key=lambda row: -len(row.ids))

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

    # --- memory -------------------------------------------------------------------------------------------------------

    def _rows_at_once(self, length: int) -> int:
        """Estimate how many rows of this length fit into memory."""
        import torch

        on_gpu = torch.cuda.is_available()
        if on_gpu:
            attention.forget_last_batch(self._student.model)
        most = self._most or (AT_ONCE if on_gpu else at_once_on_cpu(length))
        if on_gpu and getattr(self._student.model, "is_loaded_in_4bit", False) and not attention.is_ampere():
            most = min(most, T4_ROWS)
        room = _SHARE * (attention.free_on_gpu() if on_gpu else attention.free_here())
        return max(1, min(most, int(room // (length * attention.bytes_a_token(self._student.model)))))


def at_once_on_cpu(length: int) -> int:
    """There copying what is remembered soon takes longer than more rows save (benchmarks/generate.md)."""
    return 64 if length <= _SHORT else 32


class _Batch:
    """Rows being generated, and those that wait for room."""

    def __init__(self, student: Any, sampling: Sampling, most: int, waiting: list[Row]) -> None:
        self._student, self._sampling, self._most, self._waiting = student, sampling, most, waiting
        self._ends = set(student.model.generation_config.eos_token_id)
        self.going: list[Row] = []

    def ended(self) -> Iterator[Row]:
        """Yield the rows that end, until none is left."""
        while self.going or self._waiting:
            new = self._next()
            if new:
                self._begin(new)
            self._advance()
            done = [row for row in self.going if self._has_ended(row)]
            if done:
                self._leave_out(done)
            yield from done

    def _next(self) -> list[Row]:
        """Take rows that wait into the batch: few at a time would be read one by one."""
        room = self._most - len(self.going)
        if room < max(1, self._most // 4):
            return []
        new = self._waiting[:room]
        del self._waiting[:room]
        self.going = [*self.going, *new]
        return new

    def _begin(self, new: Sequence[Row]) -> None:
        """Read new rows, which are the last of those going."""

    def _advance(self) -> None:
        """Make some more tokens for every row."""
        raise NotImplementedError

    def _leave_out(self, done: Sequence[Row]) -> None:
        """Go on without the rows that have ended."""
        self.going = [row for row in self.going if row not in done]

    def _has_ended(self, row: Row) -> bool:
        """Tell whether a reply is at its end, and cut off what was made behind that. Control tokens count as text."""
        del row.said[self._sampling.max_tokens :]
        ends = (number for number, id in enumerate(row.said, 1) if id in self._ends)
        end = next(ends, len(row.said))
        is_over = row.said[end - 1] in self._ends or end == self._sampling.max_tokens
        if self._stops(row.said[:end]):
            end, is_over = next(number for number in range(1, end + 1) if self._stops(row.said[:number])), True
        del row.said[end:], row.logprobs[end:]
        return is_over

    def _stops(self, ids: Sequence[int]) -> bool:
        """Tell whether a stop string is complete; half of a character, which is shown as one, is none yet."""
        if not self._sampling.stop:
            return False
        text = self._student.tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip("\ufffd")
        return any(word in text for word in self._sampling.stop)

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Return token ids padded on the left, and a mask of what is none."""
        import torch

        pad, width, device = self._student.tokenizer.pad_token_id, max(map(len, prompts)), self._student.model.device
        ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class _Plain(_Batch):
    """A token for all rows at a time, over a memory that new rows are joined to."""

    def __init__(self, student: Any, sampling: Sampling, most: int, waiting: list[Row]) -> None:
        super().__init__(student, sampling, most, waiting)
        self._memory = attention.memory_of(student.model.config)
        self._joins = attention.can_join(self._memory)
        self._mask_B_L: Any = None
        self._shared = self._read_shared() if self._joins and not attention.has_window(student.model.config) else None

    def _next(self) -> list[Row]:
        return super()._next() if self._joins or not self.going else []

    def _read_shared(self) -> tuple[Any, int] | None:
        """Read what all prompts begin with: our system turn, and worked examples that all are shown."""
        prompts = [row.read for row in self._waiting]
        length = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0
        if not length:
            return None
        ids_1_L, mask_1_L = self._padded([prompts[0][:length]])
        memory = attention.memory_of(self._student.model.config)
        self._scores(ids_1_L, mask_1_L, memory)
        return memory, length

    def _begin(self, new: Sequence[Row]) -> None:
        """Read each prompt once, however often it is drawn for, and make the first token of its replies."""
        import torch

        prompts = list(dict.fromkeys(tuple(row.read) for row in new))
        memory, length = attention.memory_of(self._student.model.config), 0
        ids_P_L, mask_P_L = self._padded(prompts)
        if self._shared is not None:
            shared, length = self._shared
            memory = attention.chosen(shared, [0] * len(prompts))
            ids_P_L, mask_P_L = self._padded([prompt[length:] for prompt in prompts])
            mask_P_L = torch.nn.functional.pad(mask_P_L, (length, 0), value=1)
        scores_P_V = self._scores(ids_P_L, mask_P_L, memory)
        prompt_of = [prompts.index(tuple(row.read)) for row in new]
        if len(prompts) < len(new):
            memory = attention.chosen(memory, prompt_of)
            mask_P_L = mask_P_L[prompt_of]
        if len(self.going) > len(new):
            memory = attention.joined(self._memory, memory)
            width = max(self._mask_B_L.shape[1], mask_P_L.shape[1])
            pad = torch.nn.functional.pad
            both = [pad(mask, (width - mask.shape[1], 0)) for mask in (self._mask_B_L, mask_P_L)]
            mask_P_L = torch.cat(both)
        self._memory, self._mask_B_L = memory, mask_P_L
        self._say(new, scores_P_V[prompt_of])

    def _advance(self) -> None:
        import torch

        most = max(self._sampling.max_tokens - len(row.said) for row in self.going)
        for _ in range(min(LOOK_FOR_STOP_EVERY if self._sampling.stop else LOOK_EVERY, most)):
            last_B_1 = torch.tensor([row.said[-1:] for row in self.going], device=self._mask_B_L.device)
            self._mask_B_L = torch.nn.functional.pad(self._mask_B_L, (0, 1), value=1)
            self._say(self.going, self._scores(last_B_1, self._mask_B_L, self._memory))

    def _leave_out(self, done: Sequence[Row]) -> None:
        kept = [number for number, row in enumerate(self.going) if row not in done]
        super()._leave_out(done)
        if not kept:
            self._memory, self._mask_B_L = attention.memory_of(self._student.model.config), None
            return
        self._mask_B_L = self._mask_B_L[kept]
        start = int(self._mask_B_L.any(0).int().argmax()) if self._joins else 0  # columns that are padding for all
        self._mask_B_L = self._mask_B_L[:, start:]
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
            chosen, logprobs = scores_B_V.argmax(-1).tolist(), None
        else:
            drawn_B, logs_B = _drawn(scores_B_V, _throws(rows, self._sampling, 1)[:, 0], self._sampling)
            chosen, logprobs = drawn_B.tolist(), logs_B.tolist()
        for number, row in enumerate(rows):
            row.said.append(chosen[number])
            if logprobs:
                row.logprobs.append(logprobs[number])


class _Unsloth(_Batch):
    """Some hundred tokens at a time by Unsloth's own generate()."""

    def _advance(self) -> None:
        sampling, tokenizer, model = self._sampling, self._student.tokenizer, self._student.model
        most = min(PART, max(sampling.max_tokens - len(row.said) for row in self.going))
        ids_B_L, mask_B_L = self._padded([row.read for row in self.going])
        dice = _Dice(self.going, ids_B_L.shape[1], most, sampling) if sampling.temperature > 0 else None
        made_B_L = model.generate(
            input_ids=ids_B_L,
            attention_mask=mask_B_L,
            generation_config=self._settings(most),
            logits_processor=[dice] if dice else None,
            tokenizer=tokenizer if sampling.stop else None,
        )
        for number, row in enumerate(self.going):
            row.said += made_B_L[number, ids_B_L.shape[1] :].tolist()
            row.logprobs += dice.logprobs(number) if dice else []

    def _settings(self, most: int) -> Any:
        """Build the settings; what they leave out comes from the model's own, which chat.settle has reset."""
        from transformers import GenerationConfig

        tokenizer = self._student.tokenizer
        return GenerationConfig(
            max_new_tokens=most,
            do_sample=False,  # the drawing is done by _Dice
            use_cache=True,
            stop_strings=list(self._sampling.stop) or None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=self._student.model.generation_config.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )


# --- drawing ----------------------------------------------------------------------------------------------------------


def _throws(rows: Sequence[Row], sampling: Sampling, count: int) -> Any:
    """Return the next random numbers of each row; behind its last token there are zeros, for what nobody reads."""
    import torch

    for row in (row for row in rows if row.throws is None):
        # In double precision a throw never comes out as one, behind the last token that has a chance.
        made = torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(row.seed), dtype=torch.double)
        row.throws = torch.nn.functional.pad(made, (0, PART))
    return torch.stack([row.throws[len(row.said) : len(row.said) + count] for row in rows])


def _drawn(scores_B_V: Any, throws_B: Any, sampling: Sampling) -> tuple[Any, Any]:
    """Return the token that each throw draws, and how likely that was."""
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores_B_V = TemperatureLogitsWarper(float(sampling.temperature))(None, scores_B_V)
    if sampling.top_p < 1:
        scores_B_V = TopPLogitsWarper(float(sampling.top_p))(None, scores_B_V)
    chances_B_V = scores_B_V.softmax(-1, dtype=torch.double)
    sums_B_V = chances_B_V.cumsum(-1)
    drawn_B_1 = torch.searchsorted(sums_B_V, throws_B[:, None].to(sums_B_V.device) * sums_B_V[:, -1:], right=True)
    return drawn_B_1[:, 0], chances_B_V.gather(-1, drawn_B_1)[:, 0].log()


class _Dice:
    """For a generate() that takes the highest score: leaves of each row's the one that is drawn."""

    def __init__(self, rows: Sequence[Row], width: int, most: int, sampling: Sampling) -> None:
        self._throws_B_T, self._width, self._sampling = _throws(rows, sampling, most), width, sampling
        self._logs: list[list[float]] = []

    def __call__(self, ids_B_L: Any, scores_B_V: Any) -> Any:
        import torch

        throws_B = self._throws_B_T[:, ids_B_L.shape[1] - self._width]
        drawn_B, logs_B = _drawn(scores_B_V, throws_B, self._sampling)
        self._logs.append(logs_B.tolist())
        return torch.full_like(scores_B_V, -torch.inf).scatter(-1, drawn_B[:, None], 0)

    def logprobs(self, row: int) -> list[float]:
        """Return the log-probabilities of a row's tokens when they were drawn."""
        return [logs[row] for logs in self._logs]
