"""Pace the requests to a teacher: requests per minute, calls in flight, and when to stop trying.

    started = await pace.enter()      waits for a free slot, the limit per minute, and the end of any pause
    ...  send one request
    pace.leave(); pace.went_well(), or pace.went_wrong(Failed("down", "503 ..."), started)

The limit of calls in flight grows by one per round trip; a 429, or several other failures in a row, halves it, at most
once per round trip (AIMD). When one at a time fails too, all calls pause, longer each time; then the teacher stops.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from plantune_lite.teacher.provider import Failed, TeacherError
from plantune_lite.terminal import duration

START, MOST = 32, 64  # calls in flight: many from the start, since only a 429 reveals a quota
PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)  # seconds, once the limit is down to one
LONGEST_WAIT = 900.0  # seconds; a longer wait means that today's quota is used up
_STREAK = 4  # failures in a row that halve the limit; a quarter of it where that is more
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 30.0  # seconds


class Pace:
    """Single gate that all requests to a teacher go through."""

    def __init__(
        self,
        *,
        requests_per_minute: int | None = None,
        start: int = START,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.in_flight = 0
        self._limit, self._most = float(min(start, most)), most
        self._clock, self._sleep = clock, sleep
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0  # seconds between two requests
        self._next_at = float("-inf")
        self._gate = asyncio.Lock()  # first come, first served: only the first in the queue checks the limits
        self._room, self._ended = asyncio.Event(), asyncio.Event()
        self.stopped: Exception | None = None  # why no more calls may enter
        self._paused_until = 0.0
        self._backed_off_at = float("-inf")
        self._streak = 0  # failures since the last reply, or since we last backed off
        self._bad_rounds = 0  # times we backed off with nothing left to halve

    @property
    def in_flight_limit(self) -> int:
        """Return how many calls may be in flight now."""
        return max(1, int(self._limit))

    async def enter(self) -> float:
        """Wait for a slot among the calls in flight; return its start time, for `went_wrong`."""
        async with self._gate:
            while True:
                self.raise_if_stopped()
                if self.in_flight >= self.in_flight_limit:
                    self._room.clear()
                    await self._room.wait()
                elif (delay := max(self._next_at, self._paused_until) - self._clock()) > 0:
                    await self.rest(delay)
                else:
                    break
            self.in_flight += 1
            now = self._clock()
            self._next_at = now + self._interval
            return now

    def leave(self) -> None:
        """Free the slot."""
        self.in_flight -= 1
        self._room.set()

    def went_well(self) -> None:
        """Note that any reply came: the service works."""
        self._bad_rounds = self._streak = 0
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self._room.set()

    def went_wrong(self, failed: Failed, started: float) -> None:
        """Slow down after a failed request; a wait that the server asks for applies to all calls."""
        now, wait_seconds = self._clock(), failed.wait_seconds or 0.0
        if wait_seconds > LONGEST_WAIT:
            self.stop(
                TeacherError(
                    f"the teacher asks to wait {duration(wait_seconds)} ({failed.why}). What is done is kept: rerun "
                    "the command then to resume."
                )
            )
        elif wait_seconds:
            self._paused_until = max(self._paused_until, now + wait_seconds * random.uniform(1.02, 1.1))
        if started < self._backed_off_at:
            return  # it was already in flight when we last backed off: not a new failure
        self._streak += 1
        if failed.what != "busy" and self._streak < max(_STREAK, self._limit / 4):
            return  # one dropped connection among many replies is not a sign of overload
        self._streak, self._backed_off_at = 0, now
        self._bad_rounds = self._bad_rounds + 1 if self.in_flight_limit == 1 else 0
        self._limit = max(1.0, self._limit / 2)
        if self._bad_rounds > len(PAUSES):
            self.stop(
                TeacherError(
                    f"the teacher did not reply after {len(PAUSES)} ever longer pauses; the last error: "
                    f"{failed.why}. What is done is kept: rerun the command to resume."
                )
            )
        elif self._bad_rounds:
            self._paused_until = max(self._paused_until, now + PAUSES[self._bad_rounds - 1])

    def backoff_seconds(self, failures: int) -> float:
        """Return how long a call waits after `failures` failures of its own: doubling, with jitter."""
        most = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures - 1, 20))
        return most * random.uniform(0.5, 1.0)

    async def rest(self, seconds: float) -> None:
        """Sleep, unless the teacher is stopped meanwhile."""
        self.raise_if_stopped()
        waits = (asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._ended.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.raise_if_stopped()

    def stop(self, error: Exception) -> None:
        """Admit no more calls; those waiting get this error. Calls in flight are not affected."""
        self.stopped = self.stopped or error
        self._ended.set()
        self._room.set()

    def raise_if_stopped(self) -> None:
        """Raise the error that stopped the teacher, if any."""
        if self.stopped is not None:
            raise self.stopped
