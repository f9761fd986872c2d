import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plantune_lite.teacher import ledger as ledger_module
from plantune_lite.teacher.ledger import BudgetError, Ledger, call_key, copy_ledger, merge_ledger
from plantune_lite.types import Reply, RunError, Sampling

MESSAGES = ({"role": "user", "content": "2 + 2?"},)


def spend(ledger, key, worst, usd, reply=None):
    async def main():
        await ledger.reserve(key, model="m", worst_usd=worst)
        await ledger.settle(key, reply, outcome="ok", usd=usd)

    asyncio.run(main())


def test_a_key_is_the_call_and_not_how_many_samples_were_asked_together():
    def key(**changes):
        settings = {"model": "m", "messages": MESSAGES, "sampling": Sampling(n=3), "schema": None, "sample": 0}
        settings |= changes
        return call_key(settings.pop("model"), settings.pop("messages"), **settings)

    assert key() == key(sampling=Sampling(n=1))
    others = [key(model="x"), key(sample=1), key(sampling=Sampling(seed=1)), key(thinking=-1), key(messages=())]
    assert len({key(), *others}) == 6


def test_a_reply_is_found_again_by_another_process_run_and_budget(tmp_path):
    reply = Reply(text="vier", finish="length", mean_logprob=-0.5, tokens_in=3, tokens_out=4, tokens_thought=5)
    with Ledger(tmp_path / "calls.sqlite", run="a") as ledger:
        spend(ledger, "k", 0.5, 0.2, reply)
    with Ledger(tmp_path / "calls.sqlite", run="b", max_usd=0.0) as ledger:
        assert ledger.reply("k") == reply and ledger.spent_usd == 0 and ledger.reply("other") is None


def test_what_a_kill_left_in_flight_counts_as_spent(tmp_path):
    with Ledger(tmp_path / "calls.sqlite", run="a") as ledger:
        asyncio.run(ledger.reserve("k", model="m", worst_usd=0.75))
    with Ledger(tmp_path / "calls.sqlite", run="a", max_usd=1.0) as ledger:
        assert ledger.spent_usd == 0.75
        with pytest.raises(BudgetError, match=r"max_usd=1\.0.*raise distill\.max_usd"):
            spend(ledger, "other", 0.3, 0.1)


def test_what_was_reserved_and_cost_nothing_leaves_no_dollars_below_zero(tmp_path):
    async def all_at_once(ledger, worst):
        for at, usd in enumerate(worst):
            await ledger.reserve(str(at), model="m", worst_usd=usd)
        for at, _ in enumerate(worst):
            await ledger.settle(str(at), None, outcome="down", usd=0.0)

    with Ledger(tmp_path / "calls.sqlite", run="a") as ledger:
        asyncio.run(all_at_once(ledger, [0.1, 0.7, 0.3]))
        assert f"${ledger.spent_usd:.2f}" == "$0.00"


def test_asking_again_after_a_failure_keeps_what_the_failure_cost(tmp_path):
    with Ledger(tmp_path / "calls.sqlite", run="a") as ledger:
        spend(ledger, "k", 0.5, 0.25)
        spend(ledger, "k", 0.5, 0.125, Reply(text="4"))
        assert ledger.spent_usd == ledger.totals()["usd"] == 0.375


def test_what_one_run_lost_stays_its_own_when_another_asks_the_same(tmp_path):
    async def killed():
        with Ledger(tmp_path / "l", run="a") as ledger:
            await ledger.reserve("k", model="m", worst_usd=0.9)

    asyncio.run(killed())
    with Ledger(tmp_path / "l", run="b") as ledger:
        spend(ledger, "k", 0.5, 0.05, Reply(text="4"))
    spent = {}
    for run in ("a", "b"):
        with Ledger(tmp_path / "l", run=run) as ledger:
            spent[run] = ledger.spent_usd
    assert spent == pytest.approx({"a": 0.9, "b": 0.05})


def test_half_a_character_in_a_reply_is_kept_and_hangs_nobody(tmp_path):
    async def both():
        with Ledger(tmp_path / "l", run="r") as ledger:
            call = call_key("m", ({"role": "user", "content": "\ud83d"},), Sampling(), None, sample=0)
            await ledger.reserve(call, model="m", worst_usd=0)
            await asyncio.wait_for(ledger.settle(call, Reply(text="\ud83d"), outcome="ok", usd=0), 5)
            return ledger.reply(call).text

    assert asyncio.run(both()) == "\ud83d"


def test_a_second_process_gets_a_sentence(tmp_path):
    with Ledger(tmp_path / "calls.sqlite", run="a"), pytest.raises(RunError, match="in use by another plantune"):
        Ledger(tmp_path / "calls.sqlite", run="b")


def test_a_file_that_is_no_ledger_gets_a_sentence(tmp_path):
    (tmp_path / "calls.sqlite").write_text("not a database, but long enough to look at" * 9, encoding="utf-8")
    with pytest.raises(RunError, match="not a ledger"):
        Ledger(tmp_path / "calls.sqlite", run="a")


def test_a_write_that_fails_is_a_sentence_and_ends_the_asking(tmp_path):
    with Ledger(tmp_path / "calls.sqlite", run="a") as ledger:
        ledger._db.execute("PRAGMA max_page_count = 4").fetchall()
        with pytest.raises(RunError, match="cannot be written.*is kept"):
            for number in range(50):
                spend(ledger, f"k{number}", 0.1, 0.1, Reply(text="x" * 2000))
        with pytest.raises(RunError, match="cannot be written"):
            spend(ledger, "after", 0.1, 0.1)


def test_a_copy_made_while_calls_go_on_is_a_whole_ledger(tmp_path):
    with Ledger(tmp_path / "calls.sqlite", run="a") as ledger:
        spend(ledger, "k", 0.5, 0.25, Reply(text="4"))
        copy_ledger(tmp_path / "calls.sqlite", tmp_path / "copy.sqlite")
    with Ledger(tmp_path / "copy.sqlite", run="a") as copy:
        assert copy.reply("k") == Reply(text="4") and copy.spent_usd == 0.25


def paid(path, key, usd):
    async def main():
        with Ledger(path, run="r") as ledger:
            await ledger.reserve(key, model="m", worst_usd=1)
            await ledger.settle(key, Reply(text=f"{path.stem} {key}"), outcome="ok", usd=usd)

    asyncio.run(main())


def test_a_call_that_two_machines_paid_for_keeps_the_reply_that_is_here(tmp_path):
    a, b = (tmp_path / f"{name}.sqlite" for name in "ab")
    for path in (a, b):
        paid(path, "both", 0.5)
        paid(path, f"only {path.stem}", 0.25)
    for _ in range(2):
        merge_ledger(b, a)
    with Ledger(a, run="r") as ledger:
        assert ledger.spent_usd == ledger.totals()["usd"] == 1.0
        assert [ledger.reply(key).text for key in ("both", "only a", "only b")] == ["a both", "a only a", "b only b"]


_WRITER = """
import asyncio, sys
from pathlib import Path
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.types import Reply

async def main():
    with Ledger(Path(sys.argv[1]), run="a") as ledger:
        for number in range(100_000):
            await ledger.reserve(str(number), model="m", worst_usd=1.0)
            await ledger.settle(str(number), Reply(text=f"reply {number}"), outcome="ok", usd=0.5)
            print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_reply_that_was_used_survives_sigkill(tmp_path):
    path = tmp_path / "calls.sqlite"
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    time.sleep(random.Random(0).random() / 5)
    process.send_signal(signal.SIGKILL)
    used = [int(line) for line in (first + process.communicate()[0]).splitlines() if line.strip()]
    with Ledger(path, run="a") as ledger:
        assert used and all(ledger.reply(str(number)) is not None for number in used)
        assert len(used) * 0.5 <= ledger.spent_usd <= len(used) * 0.5 + 1.5


def test_ledgers_need_no_file_beside_them_but_a_journal_and_a_lock(tmp_path):
    with Ledger(tmp_path / "calls.sqlite", run="a") as ledger:
        spend(ledger, "k", 0.5, 0.25)
        shown = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".calls.lock")}
        assert shown <= {"calls.sqlite", "calls.sqlite-journal"}
    assert sqlite3.connect(tmp_path / "calls.sqlite").execute("SELECT outcome FROM calls").fetchall() == [("ok",)]


@settings(deadline=None)  # a disk that others use takes seconds to commit
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
            await ledger.settle(str(number), None, outcome="down", usd=worst * share)

        await asyncio.gather(*(one(number, *call) for number, call in enumerate(calls)))

    with Ledger(path, run="r", max_usd=budget) as ledger:
        asyncio.run(storm(ledger))
        assert ledger.spent_usd <= budget + 1e-9


@pytest.mark.parametrize("garbage", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096)])
def test_a_mirrors_ledger_that_is_none_is_not_taken_over(tmp_path, garbage):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "calls.sqlite").write_bytes(garbage)
    with pytest.raises(RunError, match="cannot be read back"):
        merge_ledger(tmp_path / "mirror" / "calls.sqlite", tmp_path / "calls.sqlite")
    assert not (tmp_path / "calls.sqlite").exists()


def test_what_nobody_answered_is_told_apart_from_what_was_spent(tmp_path):
    async def spend():
        with Ledger(tmp_path / "calls.sqlite", run="r") as ledger:
            for key, outcome in (("a", "ok"), ("b", "lost"), ("c", None)):
                await ledger.reserve(key, model="m", worst_usd=0.5)
                if outcome:
                    reply = Reply(text="x") if outcome == "ok" else None
                    await ledger.settle(key, reply, outcome=outcome, usd=0.5)
            return ledger.totals()

    totals = asyncio.run(spend())
    assert (totals["usd"], totals["usd_unanswered"]) == (1.5, 1.0)
    apart = r"\$0\.5000 spent and \$1\.0000 reserved for calls without a reply"
    with Ledger(tmp_path / "calls.sqlite", run="r", max_usd=1.6) as ledger, pytest.raises(BudgetError, match=apart):
        asyncio.run(ledger.reserve("d", model="m", worst_usd=0.5))
    with Ledger(tmp_path / "calls.sqlite", run="r") as ledger:  # asked again and answered
        for key in "bc":
            asyncio.run(ask_again(ledger, key))
        totals = ledger.totals()
    assert (totals["usd"], totals["usd_unanswered"]) == (1.75, 1.0), "what nobody answered stays unanswered"
    (tmp_path / "new").mkdir()
    merge_ledger(tmp_path / "calls.sqlite", tmp_path / "new" / "calls.sqlite")
    with Ledger(tmp_path / "new" / "calls.sqlite", run="r") as ledger:
        assert ledger.totals() == totals


async def ask_again(ledger, key):
    await ledger.reserve(key, model="m", worst_usd=0.5)
    await ledger.settle(key, Reply(text="x"), outcome="ok", usd=0.125)


def test_a_mirrors_ledger_brings_what_nobody_answered_there_and_the_attempts_that_failed(tmp_path):
    here, there = tmp_path / "here.sqlite", tmp_path / "there.sqlite"
    with Ledger(here, run="r") as ledger:
        asyncio.run(ledger.reserve("a", model="m", worst_usd=0.5))
    with Ledger(there, run="r") as ledger:
        for key in "ab":
            asyncio.run(ledger.reserve(key, model="m", worst_usd=0.5))
            asyncio.run(ask_again(ledger, key))
        asyncio.run(ledger.reserve("c", model="m", worst_usd=0.5))
        asyncio.run(ledger.settle("c", None, outcome="empty", usd=0.25, trouble="empty"))
    merge_ledger(there, here)
    with Ledger(here, run="r") as ledger:
        totals = ledger.totals()
        assert (totals["usd"], totals["usd_unanswered"], ledger.troubles("c")) == (2.0, 1.5, ["empty"])


def test_the_copy_of_an_earlier_version_is_taken_over(tmp_path):
    old = sqlite3.connect(tmp_path / "old.sqlite")
    old.executescript(ledger_module._TABLES)
    old.executescript("DROP TABLE unanswered; DROP TABLE troubles; INSERT INTO lost VALUES ('x', 'r', 0.5)")
    old.close()
    with Ledger(tmp_path / "l.sqlite", run="r"):
        pass
    merge_ledger(tmp_path / "old.sqlite", tmp_path / "l.sqlite")
    with Ledger(tmp_path / "l.sqlite", run="r") as ledger:
        assert ledger.spent_usd == 0.5
