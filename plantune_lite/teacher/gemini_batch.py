"""Gemini at half the price, when it has time: calls are collected, sent as one batch, and fetched when it is done.

    provider = GeminiBatch("gemini-3.8-flash", runs / "batches.jsonl")
    [outcome] = await provider.attempt(request)      minutes or hours later, with whoever else asked meanwhile

A call's worst case stays reserved until its batch is done, so a distill.max_usd near what all will cost makes batches
small, and many of them one after another. What is under way stands in a file beside the ledger, one batch a line, so
that a process that starts again waits for the batch that was paid for instead of sending another:

    {"name": "batches/x7", "at": 1794000000, "keys": ["5f2a...", ...]}
"""

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plantune_lite.files import read_jsonl, write_whole
from plantune_lite.teacher.gemini import Gemini, contents_of, outcome_of
from plantune_lite.teacher.ledger import call_key
from plantune_lite.teacher.provider import Failed, Outcome, Request

IN_BATCHES = 10_000  # calls that may wait for batches at once: all that are asked belong in the next one
MOST = 1000  # calls in a batch; inlined requests may have 20 MB together
_QUIET_SECONDS = 2.0  # nobody asked for so long: the batch goes
_PAUSES = (5.0, 120.0)  # seconds between two looks at a batch, the first and the longest
_AGAIN = 2  # times a call goes into another batch when its own brought no reply
_FORGET_SECONDS = 7 * 86_400.0  # Google keeps no batch that long
_HTTP = {3: 400, 4: 408, 5: 404, 7: 403, 8: 429, 16: 401}  # google.rpc.Code of an item -> status; else the server's own


@dataclass
class _Batch:
    name: str
    at: float  # Unix time of its making
    keys: frozenset[str]  # of its calls
    left: set[str]  # of calls whose replies were not taken yet
    ended: "asyncio.Task[_End] | None" = None


@dataclass(frozen=True)
class _End:
    state: str
    replies: Mapping[str, Any] = field(default_factory=dict)  # key -> InlinedResponse


@dataclass(frozen=True)
class _Waiting:
    request: Request
    batch: "asyncio.Future[_Batch]"


class GeminiBatch(Gemini):
    """One Gemini model behind one key, asked in batches."""

    def __init__(
        self,
        model: str | None,
        kept: Path,
        *,
        environ: Mapping[str, str] = os.environ,
        say: Callable[[str], object] = print,
        quiet_seconds: float = _QUIET_SECONDS,
        pauses: tuple[float, float] = _PAUSES,
    ) -> None:
        super().__init__(model, environ=environ)
        self.price = self.price.half
        self._kept, self._say = kept, say
        self._quiet_seconds, self._pauses = quiet_seconds, pauses
        self._batches: list[_Batch] = []
        self._earlier: dict[str, _Batch] = {}  # key -> the batch of an earlier process that it went into
        self._waiting: dict[str, _Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        for row in read_jsonl(kept) if kept.is_file() else ():  # what an earlier process left under way
            if row["at"] > time.time() - _FORGET_SECONDS:
                batch = _Batch(row["name"], row["at"], frozenset(row["keys"]), set(row["keys"]))
                self._batches.append(batch)
                self._earlier.update(dict.fromkeys(batch.keys, batch))

    def under_way(self, request: Request) -> bool:
        """Tell whether an earlier process sent it in a batch that may still bring its reply."""
        return _key(self.model, request) in self._earlier

    async def attempt(self, request: Request) -> Outcome:
        """Return the reply out of the batch that this request ends up in, or is in already."""
        key = _key(self.model, request)
        for _ in range(1 + _AGAIN):
            batch = self._earlier.pop(key, None) or await self._joined(key, request)
            if batch.ended is None:
                batch.ended = asyncio.create_task(self._looked_after(batch.name))
            end = await asyncio.shield(batch.ended)
            batch.left.discard(key)
            if (reply := end.replies.get(key)) is not None:
                return self._read(reply)
        raise Failed(
            "refused",
            f"Gemini's batches brought no reply to a call {1 + _AGAIN} times; the last, {batch.name}, ended as "
            f"{end.state}; distill.batch=false asks one call at a time",
        )

    async def close(self) -> None:
        """Stop waiting; batches that are not done go on without us."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)  # a batch being made is paid for: note its name
        looking = {batch.name: batch.ended for batch in self._batches if batch.ended is not None}
        going = [name for name, task in looking.items() if not task.done()]
        for task in looking.values():
            task.cancel()
        await asyncio.gather(*looking.values(), return_exceptions=True)
        self._batches = [batch for batch in self._batches if batch.left]  # the ledger has the replies of the others
        self._save()
        if going:
            self._say(f"{', '.join(going)} is not done and goes on at Gemini; the same command takes the replies")
        await super().close()

    # --- into a batch

    async def _joined(self, key: str, request: Request) -> _Batch:
        """Return the next batch, once it is made."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(key, _Waiting(request, loop.create_future()))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(0.0 if len(self._waiting) >= MOST else self._quiet_seconds, self._go)
        return await asyncio.shield(waiting.batch)

    def _go(self) -> None:
        everybody = iter(list(self._waiting.items()))
        self._waiting.clear()
        while some := dict(itertools.islice(everybody, MOST)):
            task = asyncio.create_task(self._make(some))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _make(self, waiting: Mapping[str, _Waiting]) -> None:
        from google.genai import types

        requests = [
            types.InlinedRequest(
                contents=contents_of(one.request), config=self._config(one.request), metadata={"key": key}
            )
            for key, one in waiting.items()
        ]
        about = {"display_name": f"plantune, {len(requests)} calls"}
        try:
            with self._in_our_words():
                job = await self._opened().aio.batches.create(model=self.model, src=requests, config=about)
            batch = _Batch(job.name, time.time(), frozenset(waiting), set(waiting))
            self._batches.append(batch)
            self._save()
        except Exception as error:  # whoever asked must hear of it, whatever it is
            if isinstance(error, Failed) and error.what == "declined":
                error = Failed("refused", error.why)  # the fault of one prompt, and it is not said which
            for one in waiting.values():
                one.batch.set_exception(error)
                one.batch.exception()  # heard, even where whoever asked is gone
            return
        self._say(f"{batch.name}: {len(requests):,} calls sent as one batch, at half the price")
        for one in waiting.values():
            one.batch.set_result(batch)

    # --- out of it again

    async def _looked_after(self, name: str) -> _End:
        """Return how a batch ended; looking costs nothing, so trouble with it only means looking again."""
        pause, longest = self._pauses
        troubled = False
        while True:
            try:
                job = await self._job(name)
                if job is None:
                    return _End("a batch that Gemini does not know any more")
                if job.done:
                    replies = (job.dest.inlined_responses if job.dest else None) or ()
                    return _End(job.state.name, {(one.metadata or {}).get("key", ""): one for one in replies})
            except Failed as failed:
                if failed.what not in ("busy", "down", "lost"):
                    raise
                if not troubled:
                    self._say(f"{name} cannot be looked at ({failed.why}); it goes on, and so do we")
                troubled = True
            await asyncio.sleep(pause)
            pause = min(longest, 1.5 * pause)

    async def _job(self, name: str) -> Any:
        from google.genai import errors

        with self._in_our_words():
            try:
                return await self._opened().aio.batches.get(name=name)
            except errors.APIError as error:
                if error.code == 404:
                    return None
                raise

    def _read(self, reply: Any) -> Outcome:
        if reply.response is not None:
            return outcome_of(reply.response)
        code, message = (reply.error.code or 0, reply.error.message or "") if reply.error else (0, "no reply")
        raise self._refused(_HTTP.get(code, 500), message or f"code {code}")

    def _save(self) -> None:
        """Write down what is under way, and until the end also what was taken: the ledger may not have all of it."""
        rows = [{"name": batch.name, "at": batch.at, "keys": sorted(batch.keys)} for batch in self._batches]
        if rows:
            write_whole(self._kept, "".join(json.dumps(row) + "\n" for row in rows))
        else:
            self._kept.unlink(missing_ok=True)


def _key(model: str, request: Request) -> str:
    """Return the same for the same request in another process; says nothing of the prompt."""
    sampling = request.sampling
    key = call_key(model, request.messages, sampling, request.schema, sample=0, n=1, thinking=request.thinking)
    return key[:20]
