"""Use a Generate as a teacher: single requests come in, full batches go to the model.

    own = Batched("self:smollm2_135m", generate)
    outcome = await own.attempt(Request(messages=..., sampling=Sampling()))      joins concurrent requests

Requests with the same sampling form a batch, a moment after the first. The model runs in a separate thread, so the
event loop is not blocked.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from plantune_lite.teacher.provider import FREE, Outcome, Request, Usage, asking_for
from plantune_lite.types import Generate, Messages, Reply, Sampling

BATCH = 64  # replies at once; the Generate makes smaller batches where memory is short
IN_FLIGHT = 1024  # calls that may wait for the model: those with the same sampling, including the seed, fill a batch
_GATHERING_SECONDS = 0.02  # for other requests to join the batch

_Waiting = tuple[Messages, "asyncio.Future[Reply]"]


class Batched:
    """One model on this machine."""

    price = FREE
    notice = ""

    def __init__(self, model: str, generate: Generate) -> None:
        self.model, self._generate = model, generate
        self._waiting: dict[Sampling, list[_Waiting]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self._worker: asyncio.Task[None] | None = None

    def most_out(self, request: Request) -> int:
        """Return the maximum tokens; they are free here."""
        return request.sampling.max_tokens

    async def attempt(self, request: Request) -> Outcome:
        """Join a batch and return this request's reply."""
        messages = request.messages if request.schema is None else asking_for(request.schema, request.messages)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(request.sampling, []).append((messages, reply))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return _outcome(await reply)

    async def close(self) -> None:
        """End the thread after its current batch."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHERING_SECONDS)
            sampling = max(self._waiting, key=lambda key: len(self._waiting[key]))
            taken, left = self._waiting[sampling][:BATCH], self._waiting[sampling][BATCH:]
            if left:
                self._waiting[sampling] = left
            else:
                del self._waiting[sampling]
            await self._run(taken, sampling)

    async def _run(self, taken: Sequence[_Waiting], sampling: Sampling) -> None:
        prompts = [messages for messages, _ in taken]
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._generate, prompts, sampling)
            for (_, waiting), (reply,) in zip(taken, await work, strict=True):
                if not waiting.done():
                    waiting.set_result(reply)
        except Exception as error:  # the callers must get it, whatever it is
            for _, waiting in taken:
                if not waiting.done():
                    waiting.set_exception(error)


def _outcome(reply: Reply) -> Outcome:
    what: Literal["ok", "empty"] = "ok" if reply.text.strip() else "empty"
    usage = Usage(reply.tokens_in, reply.tokens_out, reply.tokens_thought)
    return Outcome(what=what if reply.finish == "stop" else reply.finish, text=reply.text, usage=usage)
