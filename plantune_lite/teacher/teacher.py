"""Put any teacher behind one Ask: each call is made once, paid within the budget, and retried where that can help.

    async with open_teacher(recipe.distill, ledger) as ask:
        [reply] = await ask(chat("Write a plan ..."), Sampling(max_tokens=512), None)

Each sample is looked up in the ledger first; else it waits for its turn, its worst case is reserved, and it is sent,
checked and settled before it is returned. A failure (refused, or twice empty, withheld, cut off or not matching its
schema) is a reply too: finish="blocked" or "length", kept in the ledger and never sent again. A prompt that is declined
at no cost is "blocked" as well, but not kept: the same model may be served with a larger window by tomorrow.
"""

import asyncio
import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from plantune_lite.recipe.schema import Distill
from plantune_lite.teacher.gemini import Gemini
from plantune_lite.teacher.ledger import Ledger, call_key
from plantune_lite.teacher.local import IN_FLIGHT, Batched
from plantune_lite.teacher.openai import OpenAICompatible
from plantune_lite.teacher.provider import (
    Failed,
    Outcome,
    Provider,
    Request,
    TeacherError,
    UnansweredError,
    Usage,
    fitting,
    most_in,
)
from plantune_lite.teacher.rate_limit import Pace
from plantune_lite.types import Generate, Messages, Reply, Sampling

# Attempts at one request, by failure. Where other requests fail too, Pace usually stops it sooner; a rate limit lets
# others through meanwhile.
_ATTEMPTS = {"down": 12, "lost": 12, "busy": 60}
_NEW_SEED = 1000  # between the seeds of a sample's attempts, so that no two share one
_WARMER = 0.5  # added to the temperature after a recitation
_GRACE_SECONDS = 5.0  # for the calls in flight when the user interrupts


def open_teacher(
    part: Distill,
    ledger: Ledger,
    *,
    own: tuple[str, Generate] | None = None,
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], object] = print,
    pace: Pace | None = None,
) -> "Teacher":
    """Return the teacher that a recipe names; `own` is the untuned student and its name."""
    provider: Provider
    if part.teacher == "gemini":
        provider = Gemini(part.model, environ=environ)
    elif part.teacher == "self" and own is not None:
        provider = Batched(f"self:{own[0]}", own[1])
        pace = pace or Pace(start=IN_FLIGHT, most=IN_FLIGHT)
    else:
        provider = OpenAICompatible(part.teacher, part.model, environ=environ)
    pace = pace or Pace(requests_per_minute=part.requests_per_minute)
    return Teacher(provider, ledger, pace, thinking=part.thinking, say=say)


@dataclass
class Stats:
    """Counts of this process's calls so far."""

    sent: int = 0  # requests
    retries: Counter[str] = field(default_factory=Counter)  # reason -> how often
    from_ledger: int = 0  # samples
    samples: int = 0  # settled
    declined: int = 0  # requests
    tokens: int = 0


class Teacher:
    """An Ask with statistics; a context manager."""

    def __init__(
        self,
        provider: Provider,
        ledger: Ledger,
        pace: Pace,
        *,
        thinking: int | None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.stats = Stats()
        self.model = provider.model
        self._provider, self._ledger, self._pace = provider, ledger, pace
        self._thinking, self._say = thinking, say
        self._asking: dict[str, asyncio.Task[Reply]] = {}  # key -> its task: a key is never sent twice
        self._reserved: set[str] = set()
        self._settled = asyncio.Event()

    def status(self) -> str:
        """Return the statistics on one line."""
        stats, pace = self.stats, self._pace
        retried = f" ({stats.retries.total():,} again)" if stats.retries else ""
        kept = f", {stats.from_ledger:,} from the ledger" if stats.from_ledger else ""
        return (
            f"{stats.sent:,} calls{retried}{kept}, {stats.tokens:,} tokens, ${self._ledger.booked_usd:.2f}, "
            f"{pace.in_flight} of {pace.in_flight_limit} in flight"
        )

    async def __aenter__(self) -> Self:
        if self._provider.notice:
            self._say(self._provider.notice)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel queued calls; await and record those in flight: they are already billed."""
        tasks = set(self._asking.values())
        if tasks:
            self._pace.stop(error if isinstance(error, TeacherError) else TeacherError("the teacher was stopped"))
            self._announce()
            interrupted = error is not None and not isinstance(error, Exception)
            await asyncio.wait(tasks, timeout=_GRACE_SECONDS if interrupted else None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._provider.close()

    async def __call__(
        self, messages: Messages, sampling: Sampling, schema: type | None = None, *, apart: str = ""
    ) -> list[Reply]:
        """Return sampling.n replies, in order; a name in `apart` separates them from replies under other names."""
        replies: dict[int, Reply] = {}
        asking: dict[int, asyncio.Task[Reply]] = {}
        settings = {"thinking": self._thinking} | ({"apart": apart} if apart else {})
        for sample in range(sampling.n):
            key = call_key(self.model, messages, sampling, schema, sample=sample, **settings)
            if key in self._asking:
                asking[sample] = self._asking[key]
            elif (reply := self._ledger.reply(key)) is not None:
                replies[sample] = reply
                self.stats.from_ledger += 1
            else:
                single = replace(sampling, n=1, seed=sampling.seed + sample)
                request = Request(messages=messages, sampling=single, schema=schema, thinking=self._thinking)
                asking[sample] = self._asking[key] = asyncio.create_task(self._answer(key, request))
                asking[sample].add_done_callback(functools.partial(self._done, key))
        if asking:  # shielded: another caller may wait for the same sample, and calls in flight are billed
            await asyncio.gather(*(asyncio.shield(task) for task in asking.values()))
        return [replies[n] if n in replies else asking[n].result() for n in range(sampling.n)]

    def _done(self, key: str, task: "asyncio.Task[Reply]") -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # the callers have it; without this, asyncio would report it again

    # --- a sample, until it has a final reply

    async def _answer(self, key: str, request: Request) -> Reply:
        """Get one sample's reply: retry once for each kind of trouble that a retry can fix."""
        troubles: dict[str, Outcome | None] = dict.fromkeys(self._ledger.troubles(key))  # of a process that was killed
        seed = request.sampling.seed
        for number, trouble in enumerate(troubles, 1):
            request = _again(request, trouble, seed=seed + _NEW_SEED * number)
        while True:
            outcome, usd = await self._send(key, request)
            if outcome.what == "declined" and (cut_off := troubles.get("length")):
                outcome = cut_off  # no room for more: keep the reply that was cut off
            trouble, text, reply = str(outcome.what), outcome.text, None
            if trouble == "ok" and request.schema is not None:
                fits = fitting(text, request.schema)
                trouble, text = ("unfit", "") if fits is None else ("ok", fits)
            if trouble == "ok":
                reply = _reply(outcome, text, "stop")
            elif trouble in ("blocked", "declined", *troubles):
                kept = text if trouble == "length" and request.schema is None else ""
                reply = _reply(outcome, kept, "length" if trouble == "length" else "blocked")
            stored = None if trouble == "declined" and not troubles else reply  # it cost nothing
            await self._settle(key, stored, trouble, usd, None if reply else trouble)
            if reply is not None:
                self.stats.samples += 1
                return reply
            troubles[trouble] = outcome
            self.stats.retries[trouble] += 1
            request = _again(request, trouble, seed=seed + _NEW_SEED * len(troubles))

    # --- a request, until it succeeds

    async def _send(self, key: str, request: Request) -> tuple[Outcome, float]:
        """Return the request's outcome and its cost, which stays reserved."""
        failures: Counter[str] = Counter()
        while True:
            try:
                return await self._once(key, request)
            except Failed as failed:
                what, why = failed.what, failed.why
                failures[what] += 1
                if what == "over":
                    error = TeacherError(why)
                    self._pace.stop(error)
                    raise error from None
                if what == "refused":
                    raise UnansweredError(why) from None
                if what == "reworded":
                    if why:
                        self._say(why)
                    continue
                if failures[what] >= _ATTEMPTS[what]:
                    raise UnansweredError(
                        f"one request failed {failures[what]} times, the last time with: {why}"
                    ) from None
                if failed.wait_seconds is None:  # else all calls wait, see Pace
                    await self._pace.rest(self._pace.backoff_seconds(failures[what]))

    async def _once(self, key: str, request: Request) -> tuple[Outcome, float]:
        """Send a request when its turn comes, and report the result to Pace. Its worst case is reserved only from then
        until it fails, so that a kill charges nothing for queued calls."""
        started = await self._pace.enter()
        try:
            worst = self._provider.price.usd(most_in(request), self._provider.most_out(request))
            await self._reserve(key, worst)
            self.stats.sent += 1
            try:
                outcome = await self._attempt(request)
            except Failed as failed:
                if failed.what in _ATTEMPTS:
                    self._pace.went_wrong(failed, started)
                    if not self.stats.samples and not self.stats.retries:
                        self._say(f"no reply so far ({failed.why}); retrying more and more slowly")
                self.stats.retries[failed.what] += 1
                await self._settle(key, None, failed.what, worst if failed.what == "lost" else 0.0)
                raise
            except Exception:
                await self._settle(key, None, "crashed", worst)
                raise
            self.stats.tokens += sum(vars(outcome.usage).values()) if outcome.usage else 0
            self._pace.went_well()
        finally:
            self._pace.leave()
        if (usage := outcome.usage) is None:
            return outcome, worst  # not reported: assume the worst case
        return outcome, self._provider.price.usd(usage.tokens_in, usage.tokens_out + usage.tokens_thought)

    async def _attempt(self, request: Request) -> Outcome:
        """Attempt it once; a declined prompt is an outcome, since the model works and answers others."""
        try:
            return await self._provider.attempt(request)
        except Failed as failed:
            if failed.what != "declined":
                raise
            if not self.stats.declined:
                self._say(f"a prompt was declined and gets no answer; others like it will too ({failed.why})")
            self.stats.declined += 1
            return Outcome(what="declined", usage=Usage(0, 0))

    # --- money

    async def _reserve(self, key: str, worst_usd: float) -> None:
        """Reserve a call's worst case; where it does not fit, wait for what the calls in flight release."""
        ledger = self._ledger
        while True:
            self._pace.raise_if_stopped()
            settled = self._settled
            if ledger.max_usd is None or ledger.spent_usd + worst_usd <= ledger.max_usd or not self._reserved:
                self._reserved.add(key)
                try:
                    await ledger.reserve(key, model=self.model, worst_usd=worst_usd)
                except Exception:
                    self._reserved.discard(key)
                    self._announce()
                    raise
                return
            await settled.wait()

    async def _settle(
        self, key: str, reply: Reply | None, outcome: str, usd: float, trouble: str | None = None
    ) -> None:
        await self._ledger.settle(key, reply, outcome=outcome, usd=usd, trouble=trouble)
        self._reserved.discard(key)
        self._announce()

    def _announce(self) -> None:
        self._settled.set()
        self._settled = asyncio.Event()


def _again(request: Request, trouble: str, *, seed: int) -> Request:
    """Return the next attempt: more room after a cut-off, warmer after a recitation, another seed in any case."""
    sampling = replace(request.sampling, seed=seed)
    if trouble == "length":
        return replace(request, sampling=replace(sampling, max_tokens=2 * sampling.max_tokens), thinking=0)
    if trouble == "recitation":
        sampling = replace(sampling, temperature=min(2.0, sampling.temperature + _WARMER))
    return replace(request, sampling=sampling)


def _reply(outcome: Outcome, text: str, finish: Any) -> Reply:
    usage = outcome.usage or Usage(0, 0)
    return Reply(text=text, finish=finish, **vars(usage))
