import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plantune_lite.teacher.provider import Failed, TeacherError, seconds_in
from plantune_lite.teacher.rate_limit import LONGEST_WAIT, PAUSES, Pace


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


def paced(**settings):
    clock = Clock()
    return Pace(clock=clock, sleep=clock.sleep, **settings), clock


def sends(count, *, seconds=0.0, **limits):
    """The times at which that many requests were let in."""

    async def main():
        pace, clock = paced(**limits)
        times = []
        for _ in range(count):
            times.append(await pace.enter())
            clock.now += seconds
            pace.leave()
        return times

    return asyncio.run(main())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.floats(0, 0.5))
def test_no_sixty_seconds_hold_more_requests_than_the_limit(per_minute, seconds):
    times = sends(min(3 * per_minute, 600), requests_per_minute=per_minute, seconds=seconds)
    assert max(sum(start <= time < start + 59.999 for time in times) for start in times) <= per_minute


def test_a_limit_a_minute_is_used_to_the_full():
    times = sends(1000, requests_per_minute=300)
    assert len(times) / (times[-1] - times[0]) * 60 > 0.97 * 300


def test_width_starts_full_grows_slowly_and_halves_once_a_round_trip():
    async def main():
        pace, clock = paced()
        first = [await pace.enter() for _ in range(32)]
        assert pace.in_flight == pace.in_flight_limit == 32
        clock.now += 1
        for started in first:
            pace.leave()
            pace.went_wrong(Failed("busy", "429"), started)
        assert pace.in_flight_limit == 16
        for _ in range(16):
            pace.went_well()
        assert pace.in_flight_limit == 16 and pace._limit > 16.9

    asyncio.run(main())


def test_a_stray_failure_among_replies_does_not_narrow():
    async def main():
        pace, clock = paced()
        for number in range(300):
            started = await pace.enter()
            pace.leave()
            pace.went_wrong(Failed("lost", "reset"), started) if number % 3 == 0 else pace.went_well()
        assert pace.in_flight_limit >= 32

    asyncio.run(main())


def test_nobody_is_let_in_while_the_server_asks_to_wait():
    async def main():
        pace, clock = paced()
        started = await pace.enter()
        pace.leave()
        pace.went_wrong(Failed("busy", "429", wait_seconds=3.0), started)
        return await pace.enter() - started

    assert 3.0 < asyncio.run(main()) < 3.5


@pytest.mark.parametrize("seconds", [LONGEST_WAIT, 83_520.0])
def test_a_wait_of_hours_is_not_slept_through_but_said(seconds):
    async def main():
        pace, clock = paced()
        started = await pace.enter()
        pace.leave()
        pace.went_wrong(Failed("busy", "429 tokens per day", wait_seconds=seconds), started)
        return await pace.enter() - started

    if seconds == LONGEST_WAIT:
        assert asyncio.run(main()) > seconds
    else:
        with pytest.raises(TeacherError, match=r"wait 23 h 12 min \(429 tokens per day\).*kept"):
            asyncio.run(main())


def test_an_outage_pauses_longer_and_longer_and_then_stops_with_the_last_error():
    async def main():
        pace, clock = paced()
        failures = 0
        with pytest.raises(TeacherError, match="503 overloaded.*kept"):
            while True:
                started = await pace.enter()
                pace.leave()
                pace.went_wrong(Failed("down", "503 overloaded"), started)
                failures += 1
        return clock.now - 100, failures

    seconds, failures = asyncio.run(main())
    assert seconds >= sum(PAUSES) and failures < 60


def test_one_reply_after_an_outage_closes_the_breaker():
    async def main():
        pace, clock = paced(start=1)
        for number in range(200):
            started = await pace.enter()
            pace.leave()
            pace.went_well() if number % 20 == 19 else pace.went_wrong(Failed("down", "503"), started)
        assert pace.stopped is None

    asyncio.run(main())


def test_whoever_waits_is_sent_home_when_the_teacher_stops():
    async def main():
        pace = Pace(start=1, most=1)
        await pace.enter()
        waiting = [asyncio.create_task(pace.enter()) for _ in range(3)] + [asyncio.create_task(pace.rest(1000))]
        await asyncio.sleep(0.01)
        pace.stop(TeacherError("quota"))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(result) for result in results] == ["quota"] * 4

    asyncio.run(main())


def test_places_are_given_in_the_order_they_were_asked_for():
    async def main():
        pace, order = Pace(start=1, most=1), []

        async def one(number):
            await pace.enter()
            order.append(number)
            await asyncio.sleep(0)
            pace.leave()

        await asyncio.gather(*map(one, range(20)))
        assert order == list(range(20))

    asyncio.run(main())


def test_delays_are_read_as_servers_write_them():
    assert [seconds_in(text) for text in ("3s", "2.5", "0.05s")] == [3, 2.5, 0.05]
    assert seconds_in("soon") is None and seconds_in(None) is None and seconds_in("") is None
