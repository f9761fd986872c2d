import asyncio
import os
import random
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plantune_lite.ledger import BudgetError, Ledger, call_key
from plantune_lite.records import Reply, RunError, Sampling


def key(text="2+2?", sample=0, **settings):
    return call_key("m", ({"role": "user", "content": text},), Sampling(**settings), None, sample=sample)


def write(path, call, usd=0.1, run="r", worst=1.0, **options):
    async def both():
        with Ledger(path, run=run, **options) as ledger:
            await ledger.reserve(call, model="m", worst_usd=worst)
            await ledger.settle(call, Reply(text="4", tokens_in=3), outcome="ok", usd=usd, seconds=0.1)
            return ledger.spent_usd

    return asyncio.run(both())


def test_a_reply_is_found_again_by_any_run(tmp_path):
    write(tmp_path / "calls.sqlite", key())
    with Ledger(tmp_path / "calls.sqlite", run="another") as ledger:
        assert ledger.reply(key()) == Reply(text="4", tokens_in=3)
        assert ledger.reply(key("3+3?")) is None


def test_a_key_tells_model_prompt_settings_and_sample_apart_and_not_the_number_of_samples():
    keys = [key(), key("3+3?"), key(temperature=0.7), key(max_tokens=9), key(sample=1), key(seed=1)]
    assert len(set(keys)) == len(keys)
    assert key(n=5) == key()


def test_what_was_spent_is_counted_by_run_and_the_reservation_is_given_back(tmp_path):
    assert write(tmp_path / "l", key(), usd=0.25) == pytest.approx(0.25)
    assert write(tmp_path / "l", key("b"), usd=0.5, run="other") == pytest.approx(0.5)
    with Ledger(tmp_path / "l", run="r") as ledger:
        assert ledger.spent_usd == pytest.approx(0.25) and ledger.totals()["calls"] == 1


def test_a_call_that_could_pass_the_budget_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(BudgetError, match=r"could pass distill.max_usd=0.9.*raise distill.max_usd"):
        write(tmp_path / "l", key(), max_usd=0.9, worst=1.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30), st.floats(0, 3))
def test_no_order_of_calls_passes_the_budget(tmp_path_factory, calls, budget):
    path = tmp_path_factory.mktemp("ledger") / "l"

    async def storm(ledger):
        async def one(number, worst, share):
            try:
                await ledger.reserve(str(number), model="m", worst_usd=worst)
            except BudgetError:
                return
            assert ledger.spent_usd <= budget + 1e-9
            await ledger.settle(str(number), None, outcome="down", usd=worst * share, seconds=0)

        await asyncio.gather(*(one(number, *call) for number, call in enumerate(calls)))

    with Ledger(path, run="r", max_usd=budget) as ledger:
        asyncio.run(storm(ledger))
        assert ledger.spent_usd <= budget + 1e-9


def test_a_call_that_a_kill_left_in_flight_counts_as_spent(tmp_path):
    code = f"""
import asyncio, os
from pathlib import Path
from plantune_lite.ledger import Ledger
async def main():
    ledger = Ledger(Path({str(tmp_path / "l")!r}), run="r")
    await ledger.reserve("k", model="m", worst_usd=0.75)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    with Ledger(tmp_path / "l", run="r") as ledger:
        assert ledger.reply("k") is None and ledger.spent_usd == pytest.approx(0.75)
    assert write(tmp_path / "l", "k", usd=0.1) == pytest.approx(0.85), "asked again: both may have been billed"


def test_a_second_process_gets_a_sentence(tmp_path):
    with Ledger(tmp_path / "l", run="r"), pytest.raises(RunError, match="in use by another plantune"):
        Ledger(tmp_path / "l", run="r")


def test_a_file_that_is_no_ledger_is_named(tmp_path):
    (tmp_path / "l").write_text("not a database, but long enough to look at it twice" * 30)
    with pytest.raises(RunError, match="is no ledger"):
        Ledger(tmp_path / "l", run="r")


def test_a_backup_is_whole_while_calls_go_on(tmp_path):
    async def work(ledger):
        for number in range(50):
            await ledger.reserve(str(number), model="m", worst_usd=0)
            await ledger.settle(str(number), Reply(text="x"), outcome="ok", usd=0, seconds=0)
            if number == 25:
                ledger.backup(tmp_path / "copy")

    with Ledger(tmp_path / "l", run="r") as ledger:
        asyncio.run(work(ledger))
    rows = sqlite3.connect(tmp_path / "copy").execute("SELECT count(*) FROM calls WHERE reply IS NOT NULL").fetchone()
    assert rows == (26,)


def test_many_calls_at_once_are_all_written(tmp_path):
    async def work(ledger):
        rng = random.Random(0)

        async def one(number):
            await ledger.reserve(str(number), model="m", worst_usd=0)
            await asyncio.sleep(rng.random() / 100)
            await ledger.settle(str(number), Reply(text=str(number)), outcome="ok", usd=0, seconds=0)

        await asyncio.gather(*(one(number) for number in range(300)))

    with Ledger(tmp_path / "l", run="r") as ledger:
        asyncio.run(work(ledger))
        assert [ledger.reply(str(number)).text for number in range(300)] == [str(number) for number in range(300)]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_full_disk_is_a_sentence_and_what_is_written_stays(tmp_path):
    code = f"""
import asyncio, resource, signal
from pathlib import Path
from plantune_lite.ledger import Ledger
from plantune_lite.records import Reply
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    with Ledger(Path({str(tmp_path / "l")!r}), run="r") as ledger:
        await ledger.reserve("a", model="m", worst_usd=0)
        await ledger.settle("a", Reply(text="kept"), outcome="ok", usd=0, seconds=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        await ledger.reserve("b", model="m", worst_usd=0)
        await ledger.settle("b", Reply(text="x" * 100_000), outcome="ok", usd=0, seconds=0)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RunError: the ledger" in done.stderr and "what is in it is kept" in done.stderr
    with Ledger(tmp_path / "l", run="r") as ledger:
        assert ledger.reply("a").text == "kept" and ledger.reply("b") is None
