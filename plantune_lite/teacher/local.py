"""A Generate behind the door that teachers use: single requests come in, full batches go to the model.

    own = Batched("self:smollm2_135m", generate)
    [outcome] = await own.attempt(Request(messages=..., sampling=Sampling(n=1)))      joins what others ask meanwhile

Requests with the same sampling go together, once nobody has asked for a moment or the batch is full. The model works in
a thread of its own, so the event loop goes on.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from plantune_lite.teacher.provider import FREE, Outcome, Request, asking_for
from plantune_lite.types import Generate, Messages, Reply, Sampling

BATCH = 64  # replies at once; the Generate makes smaller batches where memory asks for them
_QUIET_SECONDS = 0.005

_Waiting = tuple[Messages, "asyncio.Future[list[Reply]]"]


class Batched:
    """One model on this machine."""

    price = FREE
    notice = ""

    def __init__(self, model: str, generate: Generate, *, batch: int = BATCH) -> None:
        self.model, self.candidates = model, batch
        self._generate, self._batch = generate, batch
        self._waiting: dict[Sampling, list[_Waiting]] = {}
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self._worker: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Nothing to find out."""

    def most_out(self, request: Request) -> int:
        """Tokens, which are free here."""
        return request.sampling.max_tokens

    async def attempt(self, request: Request) -> list[Outcome]:
        """The replies of the batch this request ends up in."""
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        messages = request.messages if request.schema is None else asking_for(request.schema, request.messages)
        replies: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(request.sampling, []).append((messages, replies))
        self._arrived.set()
        return [_outcome(reply) for reply in await replies]

    async def close(self) -> None:
        """End the thread, after the batch it works on."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _work(self) -> None:
        while True:
            await self._until_quiet()
            sampling = max(self._waiting, key=lambda one: len(self._waiting[one]) * one.n)
            count = max(1, self._batch // sampling.n)
            taken, left = self._waiting[sampling][:count], self._waiting[sampling][count:]
            if left:
                self._waiting[sampling] = left
            else:
                del self._waiting[sampling]
            await self._run(taken, sampling)

    async def _until_quiet(self) -> None:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        while max(len(asked) * sampling.n for sampling, asked in self._waiting.items()) < self._batch:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), _QUIET_SECONDS)
            except TimeoutError:
                return

    async def _run(self, taken: Sequence[_Waiting], sampling: Sampling) -> None:
        prompts = [messages for messages, _ in taken]
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._generate, prompts, sampling)
            replies_P_n = await work
            if [len(replies) for replies in replies_P_n] != [sampling.n] * len(prompts):
                raise RuntimeError(
                    f"{self.model} did not return {sampling.n} replies for each of {len(prompts)} prompts"
                )
        except Exception as error:  # whoever asked must hear of it, whatever it is
            for _, waiting in taken:
                if not waiting.done():
                    waiting.set_exception(error)
            return
        for (_, waiting), replies in zip(taken, replies_P_n, strict=True):
            if not waiting.done():
                waiting.set_result(replies)


def _outcome(reply: Reply) -> Outcome:
    what = {"length": "length", "blocked": "blocked"}.get(reply.finish, "ok" if reply.text.strip() else "empty")
    return Outcome(
        what=what,
        text=reply.text,
        why=reply.finish,
        mean_logprob=reply.mean_logprob,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        tokens_thought=reply.tokens_thought,
    )
