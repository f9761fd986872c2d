"""Batch mode, against a Gemini on this machine that works through its batches backwards."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_gemini import FakeGemini
from pydantic import BaseModel

from plantune_lite.plan import chat
from plantune_lite.recipe.schema import Distill
from plantune_lite.runs.folder import BATCHES
from plantune_lite.teacher.gemini_batch import IN_BATCHES, GeminiBatch
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.teacher.provider import TeacherError, UnansweredError
from plantune_lite.teacher.rate_limit import Pace
from plantune_lite.teacher.teacher import Teacher, open_teacher
from plantune_lite.types import Sampling

KEY = "AIza-secret-of-the-test"
ONE = Sampling(max_tokens=400)
ASKS = [(chat(f"Write a plan for problem {n}."), ONE, None) for n in range(12)]


class Judged(BaseModel):
    reasons: str
    score: int


@pytest.fixture
def gemini():
    with FakeGemini(key=KEY) as server:
        yield server


def environ(url):
    return {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url}


async def ask(url, folder, asks, *, batch=True, lines=None, max_usd=None):
    """Replies to asks made at once, and what the ledger says of them."""
    say = (lines if lines is not None else []).append
    with Ledger(folder / "calls.sqlite", run="run", max_usd=max_usd) as ledger:
        if batch:
            pace = Pace(start=IN_BATCHES, most=IN_BATCHES)
            provider = GeminiBatch(
                None, folder / BATCHES, environ=environ(url), say=say, quiet_seconds=0.2, pauses=(0.05, 0.1)
            )
            teacher = Teacher(provider, ledger, pace, thinking=0, say=say, under_way=provider.under_way)
        else:
            teacher = open_teacher(Distill("gemini"), ledger, environ=environ(url), say=say)
        async with teacher:
            replies = await asyncio.gather(*(teacher(*one) for one in asks), return_exceptions=True)
        return replies, ledger.totals()


def asked(*given, **settings):
    return asyncio.run(ask(*given, **settings))


def batches(server):
    return server.stats()["outcomes"].get("batch", 0)


def test_calls_made_at_once_are_one_batch_joined_on_keys_at_half_the_price(gemini, tmp_path):
    asks = [*ASKS, (chat("Score this plan."), ONE, Judged)]
    singly, full = asked(gemini.url, tmp_path / "singly", asks, batch=False)
    replies, half = asked(gemini.url, tmp_path / "batch", asks)
    assert [one[0].text for one in replies] == [one[0].text for one in singly] and batches(gemini) == 1
    assert half["usd"] == pytest.approx(full["usd"] / 2) and half["calls"] == full["calls"] == 13
    assert Judged.model_validate_json(replies[-1][0].text) and not (tmp_path / "batch" / BATCHES).exists()


def test_nothing_is_asked_twice(gemini, tmp_path):
    first, _ = asked(gemini.url, tmp_path, ASKS)
    again, _ = asked(gemini.url, tmp_path, ASKS)
    assert first == again and batches(gemini) == 1 and gemini.stats()["answered_again"] == 0


def test_troubles_of_one_call_are_its_own_and_end_as_they_do_singly(gemini, tmp_path):
    markers = ("503", "429", "empty", "thoughts", "safety always", "recitation always")
    asks = [*ASKS[:3], *((chat(f"Write a plan. [[{marker}]]"), ONE, None) for marker in markers)]
    replies, _ = asked(gemini.url, tmp_path, asks)
    assert [one[0].finish for one in replies] == ["stop"] * 7 + ["blocked"] * 2
    assert batches(gemini) >= 2 and gemini.stats()["answered_again"] == 0


def test_a_prompt_that_is_declined_or_refused_is_alone_in_that(gemini, tmp_path):
    asks = [*ASKS[:3], *((chat(f"Write a plan. [[{marker} always]]"), ONE, None) for marker in ("too_long", "400"))]
    replies, _ = asked(gemini.url, tmp_path, asks)
    assert [one[0].finish for one in replies[:4]] == ["stop"] * 3 + ["blocked"]
    assert isinstance(replies[4], UnansweredError) and batches(gemini) == 1


def test_a_batch_that_is_refused_as_a_whole_leaves_no_call_for_answered(gemini, tmp_path):
    gemini.most_in_batch = 5
    replies, totals = asked(gemini.url, tmp_path, ASKS)
    assert all(isinstance(one, UnansweredError) for one in replies) and totals["usd"] == 0
    gemini.most_in_batch = 100
    replies, _ = asked(gemini.url, tmp_path, ASKS)
    assert all(one[0].text for one in replies)


def test_a_failed_batch_is_asked_again_twice_and_then_is_a_sentence(gemini, tmp_path):
    gemini.batch_failures = 2
    replies, _ = asked(gemini.url, tmp_path / "twice", ASKS)
    assert all(one[0].text for one in replies) and batches(gemini) == 3
    gemini.batch_failures = 3
    replies, totals = asked(gemini.url, tmp_path / "thrice", ASKS)
    assert isinstance(replies[0], TeacherError) and "JOB_STATE_FAILED" in str(replies[0])
    assert batches(gemini) == 6 and totals["usd"] == 0


def test_a_batch_that_cannot_be_looked_at_is_looked_at_again(gemini, tmp_path):
    gemini.batch_reads, lines = False, []

    async def main():
        asking = asyncio.create_task(ask(gemini.url, tmp_path, ASKS, lines=lines))
        while not any("cannot be looked at" in line for line in lines):
            await asyncio.sleep(0.05)
        gemini.batch_reads = True
        return await asking

    replies, _ = asyncio.run(main())
    assert all(one[0].text for one in replies) and batches(gemini) == 1
    assert sum("cannot be looked at" in line for line in lines) == 1


def test_a_wrong_key_is_one_sentence(gemini, tmp_path):
    gemini.key = "another"
    replies, _ = asked(gemini.url, tmp_path, ASKS[:2])
    assert "refuses the key in GEMINI_API_KEY" in str(replies[0]) and KEY not in str(replies[0])


HERE = os.path.dirname(__file__)
SUPPORT = os.path.join(os.path.dirname(HERE), "support")
CHILD = """
import asyncio, os, sys
from pathlib import Path
sys.path += sys.argv[1].split(os.pathsep)
from test_gemini_batch import ASKS, ask
class Lines(list):
    def append(self, line): print(line, flush=True)
asyncio.run(ask(sys.argv[2], Path(sys.argv[3]), ASKS, lines=Lines()))
"""


def child(server, folder):
    """A process that waits for a batch that is not done."""
    server.batch_seconds = 60.0
    command = [
        sys.executable,
        "-c",
        CHILD,
        os.pathsep.join((HERE, SUPPORT)),
        server.url,
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not (folder / BATCHES).exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    return process


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_kill_while_a_batch_is_pending_pays_for_nothing_twice(gemini, tmp_path):
    with child(gemini, tmp_path) as process:
        process.kill()
    (row,) = map(json.loads, (tmp_path / BATCHES).read_text(encoding="utf-8").splitlines())
    assert row["name"] == "batches/b0" and len(row["keys"]) == 12 and KEY not in str(row)
    gemini.batch_seconds = 0.2
    replies, totals = asked(gemini.url, tmp_path, ASKS, max_usd=0.12)  # its worst case fits once, not twice
    assert all(one[0].text for one in replies) and batches(gemini) == 1 and gemini.stats()["answered_again"] == 0
    assert totals["usd"] < 0.01 and not (tmp_path / BATCHES).exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_an_interrupt_leaves_the_batch_running_and_says_so(gemini, tmp_path):
    with child(gemini, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        said = process.communicate()[0]
    assert "batches/b0 is not done and goes on at Gemini; the same command takes the replies" in said
    gemini.batch_seconds = 0.2
    replies, _ = asked(gemini.url, tmp_path, ASKS)
    assert all(one[0].text for one in replies) and batches(gemini) == 1


def test_a_batch_that_gemini_has_forgotten_is_sent_again(gemini, tmp_path):
    gemini.batch_seconds = 60.0
    with child(gemini, tmp_path) as process:
        process.kill()
    gemini.batch_seconds = 0.2
    gemini.batches = {"batches/another": {}}
    replies, _ = asked(gemini.url, tmp_path, ASKS)
    assert all(one[0].text for one in replies) and batches(gemini) == 2


@pytest.mark.parametrize("teacher", ["self", "http://127.0.0.1:9/v1"])
def test_only_gemini_has_a_batch_mode(tmp_path, teacher):
    with Ledger(tmp_path / "c.sqlite", run="r") as ledger, pytest.raises(TeacherError, match=r"distill\.batch=false"):
        open_teacher(Distill(teacher, batch=True), ledger, environ={})


def test_a_recipe_with_batch_opens_the_batch_mode_wide(gemini, tmp_path):
    with Ledger(tmp_path / "c.sqlite", run="r") as ledger:
        teacher = open_teacher(Distill("gemini", batch=True), ledger, environ=environ(gemini.url))
    assert teacher.model == "gemini-3.8-flash" and teacher._pace.in_flight_limit >= 128 * 64
