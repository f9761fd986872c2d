"""Whoever teaches, behind one Ask: every call is asked once, paid for within the budget, and repeated with sense.

    async with open_teacher(recipe.distill, ledger, seed=0) as ask:
        [reply] = await ask(chat("Write a plan ..."), Sampling(max_tokens=512), None)

For each sample: the ledger first; else it waits for its turn, its worst case is reserved, and it is sent, judged, and
settled before anybody sees it. What cannot be had (refused, or twice empty, withheld, cut off or unfit for its schema)
is an answer too: finish="blocked" or "length", kept in the ledger and never asked again. A prompt that is declined at
no cost is "blocked" as well, but not kept: the same model may be served with more room by tomorrow.
"""

import asyncio
import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from plantune_lite.recipe.schema import Distill
from plantune_lite.runs.folder import BATCHES
from plantune_lite.teacher.gemini import Gemini
from plantune_lite.teacher.gemini_batch import IN_BATCHES, GeminiBatch
from plantune_lite.teacher.ledger import Ledger, call_key
from plantune_lite.teacher.local import BATCH, Batched
from plantune_lite.teacher.openai import OpenAICompatible
from plantune_lite.teacher.provider import (
    Failed,
    Outcome,
    Provider,
    Request,
    TeacherError,
    UnansweredError,
    fitting,
    most_in,
)
from plantune_lite.teacher.rate_limit import Pace
from plantune_lite.types import Generate, Messages, Reply, Sampling

# Attempts at one request that does not come through, by what it fails of. Where others fail too, the circuit breaker
# mostly ends it sooner; where it meets a limit, others come through meanwhile.
_ATTEMPTS = {"down": 12, "lost": 12, "busy": 60}
_NEW_SEED = 1000  # between the seeds of a sample's attempts, so that samples and attempts share none
_WARMER = 0.5  # added to the temperature after a recitation
_GRACE_SECONDS = 5.0  # for the calls in flight when the user interrupts


def open_teacher(
    part: Distill,
    ledger: Ledger,
    *,
    seed: int,
    generate: Generate | None = None,
    student: str | None = None,
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], object] = print,
    timeout_seconds: float = 180.0,
    pace: Pace | None = None,
) -> "Teacher":
    """The teacher a recipe names. `student` is the name of what `generate` asks; `seed` only spreads waiting times."""
    if part.batch and part.teacher != "gemini":
        raise TeacherError(
            f"distill.batch is true, but only Gemini has a batch mode, and distill.teacher is {part.teacher!r}: "
            "set distill.batch=false, or distill.teacher=gemini"
        )
    if part.batch:
        batches = GeminiBatch(part.model, ledger.path.with_name(BATCHES), environ=environ, say=say)
        pace = pace or Pace(start=IN_BATCHES, most=IN_BATCHES, seed=seed)  # a minute's limits are not a batch's
        return Teacher(batches, ledger, pace, thinking=part.thinking, say=say, under_way=batches.under_way)
    provider: Provider
    if part.teacher == "gemini":
        provider = Gemini(part.model, environ=environ, timeout_seconds=timeout_seconds)
    elif part.teacher == "self":
        if generate is None or not (student or part.model):
            raise TeacherError("distill.teacher is 'self', but no student is loaded to ask")
        provider = Batched(f"self:{student or part.model}", generate)
    elif part.teacher == "worked":
        raise TeacherError("distill.teacher is 'worked': worked solutions are taken as they are, nobody is asked")
    else:
        provider = OpenAICompatible(part.teacher, part.model, environ=environ, timeout_seconds=timeout_seconds)
    if pace is None and part.teacher == "self":
        pace = Pace(start=BATCH, most=BATCH, seed=seed)
    pace = pace or Pace(
        requests_per_minute=part.requests_per_minute, tokens_per_minute=part.tokens_per_minute, seed=seed
    )
    return Teacher(provider, ledger, pace, thinking=part.thinking, say=say)


@dataclass
class Stats:
    """What this process has asked so far."""

    sent: int = 0  # requests
    retries: Counter[str] = field(default_factory=Counter)  # reason -> how often
    from_ledger: int = 0  # samples
    samples: int = 0  # settled
    declined: int = 0  # requests
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_thought: int = 0
    usd: float = 0.0


@dataclass(frozen=True)
class _Got:
    """An outcome that is sent and paid for, and not settled yet."""

    outcome: Outcome
    usd: float
    seconds: float


class Teacher:
    """An Ask with its figures; a context manager."""

    def __init__(
        self,
        provider: Provider,
        ledger: Ledger,
        pace: Pace,
        *,
        thinking: int | None,
        say: Callable[[str], object] = print,
        under_way: Callable[[Request], bool] = lambda request: False,  # whether an earlier process sent it already
    ) -> None:
        self.stats = Stats()
        self._provider, self._ledger, self._pace = provider, ledger, pace
        self._thinking, self._say, self._under_way = thinking, say, under_way
        self._noticed = not provider.notice
        self._complained = False
        self._asking: dict[str, asyncio.Task[dict[int, Reply]]] = {}  # key -> who is at it: a key is never asked twice
        self._reserved: set[str] = set()
        self._claimed_usd = 0.0
        self._settled = asyncio.Event()
        self._mean_tokens = 0.0  # of a request, as seen lately

    @property
    def model(self) -> str:
        """The model that is asked, known once the teacher is open."""
        return self._provider.model

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._pace.in_flight

    @property
    def in_flight_limit(self) -> int:
        """How many may be under way now."""
        return self._pace.in_flight_limit

    def status(self) -> str:
        """The figures on one line."""
        stats = self.stats
        tokens = stats.tokens_in + stats.tokens_out + stats.tokens_thought
        retried = f" ({stats.retries.total():,} again)" if stats.retries else ""
        kept = f", {stats.from_ledger:,} from the ledger" if stats.from_ledger else ""
        return (
            f"{stats.sent:,} calls{retried}{kept}, {tokens:,} tokens, ${self._ledger.spent_usd:.2f}, "
            f"{self.in_flight} of {self.in_flight_limit} in flight"
        )

    async def __aenter__(self) -> Self:
        try:
            await self._provider.open()
        except BaseException:
            await self._provider.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whoever waits is sent home; whoever is under way is awaited and settled, for it is paid."""
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
        """sampling.n replies, in order; `apart` from those that were given to anybody who did not name the same."""
        replies: dict[int, Reply] = {}
        asking: dict[int, asyncio.Task[dict[int, Reply]]] = {}
        missing: dict[int, str] = {}
        settings = {"thinking": self._thinking} | ({"apart": apart} if apart else {})
        for sample in range(sampling.n):
            key = call_key(self.model, messages, sampling, schema, sample=sample, **settings)
            if key in self._asking:
                asking[sample] = self._asking[key]
            elif (reply := self._ledger.reply(key)) is not None:
                replies[sample] = reply
                self.stats.from_ledger += 1
            else:
                missing[sample] = key
        for group in _groups(list(missing), self._provider.candidates):
            keys = {sample: missing[sample] for sample in group}
            task = asyncio.create_task(self._ask(keys, messages, sampling, schema))
            self._asking.update(dict.fromkeys(keys.values(), task))
            task.add_done_callback(functools.partial(self._done, tuple(keys.values())))
            asking.update(dict.fromkeys(keys, task))
        if asking:  # shielded: another caller may wait for the same sample, and what is sent is paid
            await asyncio.gather(*(asyncio.shield(task) for task in set(asking.values())))
        return [replies[n] if n in replies else asking[n].result()[n] for n in range(sampling.n)]

    def _done(self, keys: Sequence[str], task: "asyncio.Task[dict[int, Reply]]") -> None:
        for key in keys:
            del self._asking[key]
        if not task.cancelled():
            task.exception()  # the callers have it; without this, asyncio reports it again

    # --- a sample, until there is an answer of whatever kind

    async def _ask(
        self, keys: dict[int, str], messages: Messages, sampling: Sampling, schema: type | None
    ) -> dict[int, Reply]:
        """Replies to samples of one prompt: in one request where the model allows it, singly what that leaves open."""
        base = Request(messages=messages, sampling=sampling, schema=schema, thinking=self._thinking)
        together: dict[int, _Got] = {}
        if len(keys) > 1:
            request = _sampled(base, n=len(keys), seed=sampling.seed + min(keys))
            together = dict(zip(keys, await self._send(list(keys.values()), request), strict=False))
        singly = (
            self._one(key, _sampled(base, n=1, seed=sampling.seed + sample), together.get(sample))
            for sample, key in keys.items()
        )
        results = await asyncio.gather(*singly, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return dict(zip(keys, results, strict=True))

    async def _one(self, key: str, request: Request, got: _Got | None) -> Reply:
        """One sample: what is worth a second attempt gets one, each trouble once."""
        had: dict[str, Outcome] = {}
        seed = request.sampling.seed
        while True:
            if got is None:
                (got,) = await self._send([key], request)
            outcome, reply = got.outcome, None
            self._count(outcome)
            if outcome.what == "declined" and "length" in had:
                outcome = had["length"]  # there is no room for more: what was cut off stays so
            trouble, text = str(outcome.what), outcome.text
            if trouble == "ok" and request.schema is not None:
                fits = fitting(text, request.schema)
                trouble, text = ("unfit", "") if fits is None else ("ok", fits)
            if trouble == "ok":
                reply = _reply(outcome, text, "stop")
            elif trouble in ("blocked", "declined", *had):
                kept = text if trouble == "length" and request.schema is None else ""
                reply = _reply(outcome, kept, "length" if trouble == "length" else "blocked")
            why = f"{trouble} {outcome.why}".strip() if trouble != "ok" else "ok"
            stored = None if trouble == "declined" and not had else reply  # nothing was paid for it
            await self._settle(key, stored, why if reply else f"again: {why}", got.usd, got.seconds)
            if reply is not None:
                self.stats.samples += 1
                return reply
            had[trouble] = outcome
            self.stats.retries[trouble] += 1
            request = _again(request, trouble, seed=seed + _NEW_SEED * len(had))
            got = None

    def _count(self, outcome: Outcome) -> None:
        self.stats.tokens_in += outcome.tokens_in or 0
        self.stats.tokens_out += outcome.tokens_out or 0
        self.stats.tokens_thought += outcome.tokens_thought or 0

    # --- a request, until it comes through

    async def _send(self, keys: list[str], request: Request) -> list[_Got]:
        """Outcomes for the first of the keys, whose costs stay reserved; fewer than asked for, or none, where the model
        does not bring several."""
        failures: Counter[str] = Counter()
        while True:
            try:
                return await self._once(keys, request)
            except Failed as failed:
                what, why = failed.what, failed.why
                self.stats.retries[what] += 1
                failures[what] += 1
                if what == "over":
                    error = TeacherError(why)
                    self._pace.stop(error)
                    raise error from None
                if what == "refused":
                    raise UnansweredError(why) from None
                if what == "reworded":
                    if len(keys) > self._provider.candidates:
                        return []
                elif failures[what] >= _ATTEMPTS[what]:
                    raise UnansweredError(
                        f"one request failed {failures[what]} times, the last time with: {why}"
                    ) from None
                elif failed.wait_seconds is None:  # else everybody waits, see Pace
                    await self._pace.rest(self._pace.backoff_seconds(failures[what]))

    async def _once(self, keys: list[str], request: Request) -> list[_Got]:
        """Send a request when its turn comes, and tell the pace how it went. Its worst case is reserved only then, and
        until it fails: a kill makes nobody pay for what only waited."""
        expected = max(most_in(request) / 4, self._mean_tokens)
        started = await self._pace.enter(expected)
        used = 0.0
        try:
            worst = self._provider.price.usd(most_in(request), self._provider.most_out(request))
            await self._reserve(keys, worst, under_way=self._under_way(request))
            self._notice()
            self.stats.sent += 1
            begun = time.monotonic()
            try:
                outcomes = await self._attempt(request)
            except Failed as failed:
                lost = failed.what == "lost"
                used = expected if lost else 0.0
                if failed.what in _ATTEMPTS:
                    too_many = failed.what == "busy"
                    self._pace.went_wrong(failed.why, started, too_many=too_many, wait_seconds=failed.wait_seconds)
                    self._complain(failed.why)
                await self._give_up(keys, failed.what, worst if lost else 0.0)
                raise
            except Exception:
                await self._give_up(keys, "crashed", worst)
                raise
            used = float(sum(map(_tokens, outcomes))) or expected
            self._mean_tokens += (used - self._mean_tokens) / 32
            self._pace.went_well()
        finally:
            self._pace.leave(used - expected)
        await self._give_up(keys[len(outcomes) :], "not brought", 0.0)
        seconds = time.monotonic() - begun
        return [_Got(outcome, self._cost(outcome, worst), seconds) for outcome in outcomes[: len(keys)]]

    async def _attempt(self, request: Request) -> list[Outcome]:
        """One attempt; a prompt that is declined is an outcome, for the model works and others are answered."""
        try:
            return await self._provider.attempt(request)
        except Failed as failed:
            if failed.what != "declined":
                raise
            if not self.stats.declined:
                self._say(f"a prompt is declined, and goes without an answer as others like it will ({failed.why})")
            self.stats.declined += 1
            return [Outcome(what="declined", why=failed.why, tokens_in=0)] * request.sampling.n

    def _cost(self, outcome: Outcome, worst: float) -> float:
        if outcome.tokens_in is None:
            return worst  # not reported: as much as it can have been
        return self._provider.price.usd(outcome.tokens_in, (outcome.tokens_out or 0) + (outcome.tokens_thought or 0))

    def _notice(self) -> None:
        if not self._noticed:
            self._noticed = True
            self._say(self._provider.notice)

    def _complain(self, why: str) -> None:
        """Say once why nothing comes; the pace goes on trying for minutes, and whoever waits can mend it meanwhile."""
        if not self.stats.samples and not self._complained:
            self._complained = True
            self._say(f"no reply so far ({why}); it is asked again, slower and slower")

    # --- money

    async def _reserve(self, keys: Sequence[str], worst_usd: float, *, under_way: bool = False) -> None:
        """Reserve for all keys or none; a call that does not fit waits for what the calls in flight give back."""
        ledger, wanted = self._ledger, 0.0 if under_way else worst_usd * len(keys)
        while True:
            if self._pace.stopped:
                raise self._pace.stopped
            settled = self._settled
            spoken_for = ledger.spent_usd + self._claimed_usd + wanted
            if ledger.max_usd is None or spoken_for <= ledger.max_usd or not self._reserved:
                self._claimed_usd += wanted  # reserving takes a trip to the disk, and others look meanwhile
                self._reserved.update(keys)
                reserve = (
                    ledger.reserve(key, model=self.model, worst_usd=worst_usd, under_way=under_way) for key in keys
                )
                errors = await asyncio.gather(*reserve, return_exceptions=True)
                self._claimed_usd -= wanted
                if not any(errors):
                    return
                self._reserved.difference_update(keys)
                await self._give_up(
                    [key for key, error in zip(keys, errors, strict=True) if not error], "not sent", 0.0
                )
                self._announce()
                raise next(error for error in errors if error)
            await settled.wait()

    async def _settle(self, key: str, reply: Reply | None, outcome: str, usd: float, seconds: float) -> None:
        await self._ledger.settle(key, reply, outcome=outcome, usd=usd, seconds=seconds)
        self.stats.usd += usd
        self._reserved.discard(key)
        self._announce()

    async def _give_up(self, keys: Sequence[str], outcome: str, usd: float) -> None:
        """Settle without a reply."""
        await asyncio.gather(*(self._settle(key, None, outcome, usd, 0.0) for key in keys))

    def _announce(self) -> None:
        self._settled.set()
        self._settled = asyncio.Event()


def _groups(samples: list[int], size: int) -> list[list[int]]:
    """Samples that follow each other, in groups that one request may ask for."""
    groups: list[list[int]] = []
    for sample in samples:
        if groups and len(groups[-1]) < size and groups[-1][-1] == sample - 1:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return groups


def _sampled(request: Request, **changes: Any) -> Request:
    return replace(request, sampling=replace(request.sampling, **changes))


def _again(request: Request, trouble: str, *, seed: int) -> Request:
    """The second attempt: more room after a cut, a warmer one after a recitation, and another seed in any case."""
    sampling = request.sampling
    if trouble == "length":
        return replace(_sampled(request, seed=seed, max_tokens=2 * sampling.max_tokens), thinking=0)
    if trouble == "recitation":
        return _sampled(request, seed=seed, temperature=min(2.0, sampling.temperature + _WARMER))
    return _sampled(request, seed=seed)


def _reply(outcome: Outcome, text: str, finish: Any) -> Reply:
    return Reply(
        text=text,
        finish=finish,
        mean_logprob=outcome.mean_logprob,
        tokens_in=outcome.tokens_in or 0,
        tokens_out=outcome.tokens_out or 0,
        tokens_thought=outcome.tokens_thought or 0,
    )


def _tokens(outcome: Outcome) -> int:
    return (outcome.tokens_in or 0) + (outcome.tokens_out or 0) + (outcome.tokens_thought or 0)
