"""What a model in memory answers: batches sorted by length, padded on the left, ended at the end of the turn.

    Replies(student)([chat("What is 2+3?")], Sampling(n=3, temperature=1.0)) -> [[Reply, Reply, Reply]]

The longest prompts go first, so that memory runs out in the first batch or never; then the batch is halved and it goes
on. A reply that has ended leaves its batch, so that nothing more is computed for it. What all prompts begin with is
read once, and so is a prompt that is drawn for several times. Every reply has dice of its own, thrown from the seed and
its prompt: what else is asked, before it or beside it, and how much memory is free, changes nothing.
"""

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from plantune_lite.student import attention
from plantune_lite.types import Messages, PlantuneError, Reply, Sampling

AT_ONCE = 128  # replies: the more there are, the fewer times all weights are read for them
LOOK_EVERY = 16  # tokens; to leave out what has ended costs one copy of what is remembered, as every token does
LOOK_FOR_STOP_EVERY = 4  # a line ends soon
_SHORT = 300  # tokens, prompt and reply
_SHARE = 0.6  # of the free memory for what a batch remembers


class Row(NamedTuple):
    """One reply to be made."""

    place: int  # of its prompt among those asked
    ids: list[int]
    seed: int


class Replies:
    """A Generate over the student's model; the student says whether its adapter is on."""

    def __init__(self, student: Any) -> None:
        self._student = student
        self._most: int | None = None  # rows at once, learned from running out of memory

    def __call__(self, prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        import torch

        copies = sampling.n if sampling.temperature == 0 else 1  # greedy: the same reply n times, made once
        todo = self._rows(prompts, sampling, sampling.n // copies)
        replies_P_n: list[list[Reply]] = [[] for _ in prompts]
        while todo:
            batch = todo[: self._rows_at_once(len(todo[0].ids) + sampling.max_tokens)]
            try:
                made = self._batch(batch, sampling)
            except torch.OutOfMemoryError:
                made = None
            if made is None:  # no longer in the handler, whose traceback holds on to what the batch took
                self._halve(batch, sampling)
                continue
            for row, reply in zip(batch, made, strict=True):
                replies_P_n[row.place] += [reply] * copies
            todo = todo[len(batch) :]
        return replies_P_n

    def _rows(self, prompts: Sequence[Messages], sampling: Sampling, draws: int) -> list[Row]:
        """Every reply to be made, the longest prompt first."""
        rows, asked = [], Counter[tuple[int, ...]]()
        for place, messages in enumerate(prompts):
            ids = self._student.encode_chat(messages)
            for _ in range(draws):
                again = asked[tuple(ids)]  # a prompt that is asked twice is drawn for twice
                asked[tuple(ids)] += 1
                rows.append(Row(place, ids, zlib.crc32(repr((sampling.seed, again, ids)).encode())))
        return sorted(rows, key=lambda row: -len(row.ids))

    def _batch(self, rows: Sequence[Row], sampling: Sampling) -> list[Reply]:
        """The replies of one batch; the model's own generate() makes them, a few tokens at a time."""
        import torch

        model, tokenizer = self._student.model, self._student.tokenizer
        width, ends = len(rows[0].ids), set(model.generation_config.eos_token_id)
        # Unsloth answers in ways of its own, which know nothing of a memory from outside: there it is one go.
        in_parts = self._student.source.backend == "plain"
        memory = {"past_key_values": attention.memory_of(model.config)} if in_parts else {}
        shared = _shared(rows, memory["past_key_values"]) if in_parts else 0
        padding = [width - len(row.ids) for row in rows]
        prompts = [
            [*row.ids[:shared], *[tokenizer.pad_token_id] * before, *row.ids[shared:]]
            for before, row in zip(padding, rows, strict=True)
        ]
        seen = [[1] * shared + [0] * before + [1] * (width - shared - before) for before in padding]
        ids_B_L, mask_B_L = torch.tensor(prompts, device=model.device), torch.tensor(seen, device=model.device)
        if in_parts:
            self._read(rows, shared, ids_B_L, mask_B_L, **memory)
        replies: dict[int, Reply] = {}
        logprobs: list[list[float]] = [[] for _ in rows]
        going = list(range(len(rows)))
        every = LOOK_FOR_STOP_EVERY if sampling.stop else LOOK_EVERY
        while going:
            left_to_say = width + sampling.max_tokens - ids_B_L.shape[1]
            dice = _dice([rows[one] for one in going], width, sampling, model.device)
            ids_B_L = model.generate(
                input_ids=ids_B_L,
                attention_mask=mask_B_L,
                generation_config=self._settings(min(every, left_to_say) if in_parts else left_to_say, sampling.stop),
                logits_processor=_processors(dice, sampling),
                tokenizer=tokenizer if sampling.stop else None,
                **memory,
            )
            if dice is not None:
                for one, drawn in zip(going, dice.logprobs, strict=True):
                    logprobs[one] += drawn
            left = []
            for at, ids in enumerate(ids_B_L[:, width:].tolist()):
                if in_parts and len(ids) < sampling.max_tokens and not self._ended(ids, ends, sampling.stop):
                    left.append(at)
                else:
                    one = going[at]
                    replies[one] = self._reply(ids, len(rows[one].ids), ends, sampling.stop, logprobs[one])
            mask_B_L = torch.nn.functional.pad(mask_B_L, (0, ids_B_L.shape[1] - mask_B_L.shape[1]), value=1)
            if 0 < len(left) < len(going):
                kept = torch.tensor(left, device=model.device)
                ids_B_L, mask_B_L = ids_B_L[kept], mask_B_L[kept]
                memory["past_key_values"].reorder_cache(kept)
            going = [going[at] for at in left]
        return [replies[one] for one in range(len(rows))]

    def _read(self, rows: Sequence[Row], shared: int, ids_B_L: Any, mask_B_L: Any, *, past_key_values: Any) -> None:
        """Read once what several replies begin with: what all prompts do, then each prompt that is drawn for again.

        All but the last token: generate() must have something to read.
        """
        import torch

        def read(some: list[int], length: int) -> None:
            self._student.model.generate(
                input_ids=ids_B_L[some, :length],
                attention_mask=mask_B_L[some, :length],
                generation_config=self._settings(1, ()),
                past_key_values=past_key_values,
            )

        prompts = list(dict.fromkeys(tuple(row.ids) for row in rows))
        prompt_of = [prompts.index(tuple(row.ids)) for row in rows]
        last = ids_B_L.shape[1] - 1
        if shared:
            read([0], shared)
            past_key_values.reorder_cache(torch.zeros(len(prompts), dtype=torch.long))
        if len(prompts) < len(rows):
            if shared < last:
                read([prompt_of.index(number) for number in range(len(prompts))], last)
            past_key_values.reorder_cache(torch.tensor(prompt_of))

    def _settings(self, most: int, stop: Sequence[str]) -> Any:
        """What is not said comes from the model's own settings, of which speech.settle left nothing."""
        from transformers import GenerationConfig

        tokenizer = self._student.tokenizer
        return GenerationConfig(
            max_new_tokens=most,
            do_sample=False,  # the drawing is done by _Dice
            use_cache=True,  # a trainer that recomputes activations switches it off
            stop_strings=list(stop) or None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=self._student.model.generation_config.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def _ended(self, ids: list[int], ends: set[int], stop: Sequence[str]) -> bool:
        """Whether a reply is at its end, as generate() sees it: to that, control tokens are text like any other."""
        text = self._student.tokenizer.decode(ids, clean_up_tokenization_spaces=False) if stop else ""
        return not ends.isdisjoint(ids) or any(word in text for word in stop)

    def _reply(
        self, ids: list[int], tokens_in: int, ends: set[int], stop: Sequence[str], logprobs: Sequence[float]
    ) -> Reply:
        tokenizer = self._student.tokenizer
        end = next((place for place, id in enumerate(ids) if id in ends), None)
        said = ids[:end]
        while said and said[-1] == tokenizer.pad_token_id:  # a stop string ended it while other rows went on
            said.pop()
        text = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        stopped = min((place for word in stop if (place := text.find(word)) >= 0), default=None)
        drawn = len(said) + (end is not None and stopped is None)
        return Reply(
            text=text[:stopped],
            token_ids=tuple(said),
            finish="length" if end is None and stopped is None else "stop",
            mean_logprob=sum(logprobs[:drawn]) / drawn if logprobs and drawn else None,
            tokens_in=tokens_in,
            tokens_out=drawn,
        )

    # --- memory -------------------------------------------------------------------------------------------------------

    def _halve(self, batch: Sequence[Row], sampling: Sampling) -> None:
        """Fewer rows from now on."""
        import torch

        if len(batch) == 1:
            raise PlantuneError(
                f"memory ran out over one prompt of {len(batch[0].ids)} tokens and up to {sampling.max_tokens} of "
                "reply: allow fewer (max_tokens), or load the student in fewer bits (student.bits=4)"
            )
        self._most = len(batch) // 2
        torch.cuda.empty_cache()

    def _rows_at_once(self, length: int) -> int:
        """How many rows of this length memory has room for."""
        import torch

        on_gpu = torch.cuda.is_available()
        if on_gpu:
            _forget_last_batch(self._student.model)
        most = self._most or (AT_ONCE if on_gpu else at_once_on_cpu(length))
        room = _SHARE * (_free_on_gpu() if on_gpu else _free_here())
        return max(1, min(most, int(room // (length * self._bytes_a_token()))))

    def _bytes_a_token(self) -> int:
        """What attention remembers of one token: a key and a value, every layer and head."""
        config = self._student.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        element = 4 if "32" in str(self._student.model.dtype) else 2
        return 2 * config.num_hidden_layers * heads * width * element


def at_once_on_cpu(length: int) -> int:
    """There copying what is remembered soon takes longer than more rows save (benchmarks/generate.md)."""
    return 64 if length <= _SHORT else 32


def _shared(rows: Sequence[Row], memory: Any) -> int:
    """How many tokens all prompts of a batch begin with: our system turn, and worked examples that all are shown.

    They stand before the padding, which only memory of the plain kind does not mind.
    """
    if len(rows) == 1 or not attention.remembers_all(memory):
        return 0
    shortest = min(len(row.ids) for row in rows)
    return min(len(os.path.commonprefix([row.ids for row in rows])), shortest - 1)


def _dice(rows: Sequence[Row], width: int, sampling: Sampling, device: Any) -> "_Dice | None":
    """What draws; nothing where the highest is taken."""
    return _Dice(rows, width, sampling.max_tokens, device) if sampling.temperature > 0 else None


def _processors(dice: "_Dice | None", sampling: Sampling) -> Any:
    """What turns a row's scores into its next token."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    processors = LogitsProcessorList()
    if dice is not None:
        processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(float(sampling.top_p)))
        processors.append(dice)
    return processors


class _Dice:
    """Leaves of each row's scores the one token that is drawn, by throws made for that row alone."""

    def __init__(self, rows: Sequence[Row], width: int, throws: int, device: Any) -> None:
        import torch

        # In double precision a throw never comes out as one, behind the last token that has a chance.
        made = [
            torch.rand(throws, generator=torch.Generator().manual_seed(row.seed), dtype=torch.double) for row in rows
        ]
        self._throws_B_T, self._width = torch.stack(made).to(device), width
        self._drawn: list[Any] = []

    def __call__(self, ids_B_L: Any, scores_B_V: Any) -> Any:
        import torch

        thrown_B_1 = self._throws_B_T[:, ids_B_L.shape[1] - self._width, None]
        chances_B_V = scores_B_V.softmax(-1, dtype=torch.double)
        sums_B_V = chances_B_V.cumsum(-1)
        drawn_B_1 = torch.searchsorted(sums_B_V, thrown_B_1 * sums_B_V[:, -1:], right=True)
        self._drawn.append(chances_B_V.gather(-1, drawn_B_1).log())
        return torch.full_like(scores_B_V, -torch.inf).scatter(-1, drawn_B_1, 0)

    @property
    def logprobs(self) -> list[list[float]]:
        """How likely each row's tokens were when they were drawn, one list a row."""
        import torch

        return torch.cat(self._drawn, -1).tolist()


_REMEMBERED: tuple[str, ...] = ("paged_attention", "paged_attention_K", "paged_attention_V", "attention")
_REMEMBERED += ("temp_QA", "temp_KV", "temp_O", "RH_Q")


def _forget_last_batch(model: Any) -> None:
    """Drop what Unsloth remembers of the last batch: it would go when the next is read, which is measured first."""
    for module in model.modules():
        if "paged_attention" in vars(module):
            for name in _REMEMBERED:
                vars(module).pop(name, None)


def _free_on_gpu() -> int:
    import torch

    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _free_here() -> int:
    try:  # what the system could give: far more than lies unused, since old files fill that
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30  # not Linux


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ran out, on the card or on the machine."""
    import torch

    text = str(error).lower()
    words = ("can't allocate memory", "out of memory", "cublas_status_alloc_failed")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in text for word in words)
