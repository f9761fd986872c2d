import asyncio
import datetime
import json
import random
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest
from fake_gemini import FakeGemini
from fake_openai import FakeOpenAI
from fake_teacher import Faults, Mind
from pydantic import BaseModel

from plantune_lite.plan import chat
from plantune_lite.recipe.schema import Distill
from plantune_lite.teacher import openai as openai_server
from plantune_lite.teacher.gemini import Gemini
from plantune_lite.teacher.ledger import BudgetError, Ledger
from plantune_lite.teacher.models import AS_OF, DEFAULT_MODEL, MODELS, Model, model_name, price_of
from plantune_lite.teacher.provider import (
    Failed,
    Outcome,
    Price,
    Request,
    TeacherError,
    UnansweredError,
    Usage,
    blames_the_prompt,
    fitting,
    is_loopback,
    most_in,
)
from plantune_lite.teacher.rate_limit import Pace
from plantune_lite.teacher.teacher import Teacher, open_teacher
from plantune_lite.terminal import markdown_table
from plantune_lite.types import Reply, Sampling

KEY = "AIza-secret-of-the-test"
ONE, PLAN = Sampling(max_tokens=400), chat("Write a plan for adding 2 and 2.")
TUNES = next(name for name, row in MODELS.items() if row.tunes)  # heeds temperature and top_p
MINIMAL = next(name for name, row in MODELS.items() if row.least == "minimal")


class Judged(BaseModel):
    reasons: str
    score: int


class Step(BaseModel):
    steps: list[str]


class Plans(BaseModel):
    plans: list[Step]


@pytest.fixture
def gemini():
    with FakeGemini(key=KEY) as server:
        yield server


class Hurry:
    """A clock on which waiting takes no time."""

    def __init__(self):
        self.skipped = 0.0

    def __call__(self):
        return time.monotonic() + self.skipped

    async def sleep(self, seconds):
        self.skipped += seconds
        await asyncio.sleep(0.001)


def hurried(hurry=None, **limits):
    hurry = hurry or Hurry()
    return Pace(clock=hurry, sleep=hurry.sleep, **limits)


def environ(server, **more):
    return {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url, **more}


def asked(server, folder, asks, *, teacher="gemini", max_usd=None, run="run", **settings):
    """Replies to asks made at once, the teacher, and what the ledger says of the run."""
    options = {"say": lambda line: None}
    options |= {name: settings.pop(name) for name in list(settings) if name in ("say", "own")}
    env = settings.pop("environ") if "environ" in settings else environ(server)

    async def main():
        with Ledger(folder / "calls.sqlite", run=run, max_usd=max_usd) as ledger:
            pace = settings.pop("pace", None) or hurried()
            part = Distill(teacher, **settings)
            async with open_teacher(part, ledger, environ=env, pace=pace, **options) as ask:
                replies = await asyncio.gather(*(ask(*one) for one in asks), return_exceptions=True)
            return replies, ask, ledger.totals()

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        return asyncio.run(main())


def reply_to(server, folder, text, *, schema=None, sampling=ONE, **settings):
    """The one reply to one ask, or its error."""
    (replies,), teacher, _ = asked(server, folder, [(chat(text), sampling, schema)], **settings)
    if isinstance(replies, BaseException):
        raise replies
    return replies[0]


# --- Gemini: what goes out --------------------------------------------------------------------------------------------


def test_a_reply_comes_with_its_tokens_and_is_in_the_ledger(gemini, tmp_path):
    (replies,), teacher, totals = asked(gemini, tmp_path, [(PLAN, ONE, None)])
    assert replies[0].text.startswith("1. ") and replies[0].finish == "stop"
    usd = price_of(DEFAULT_MODEL).usd(replies[0].tokens_in, replies[0].tokens_out + replies[0].tokens_thought)
    assert totals["calls"] == teacher.stats.sent == 1 and totals["usd"] == pytest.approx(usd)
    assert teacher.model == DEFAULT_MODEL and "1 calls" in teacher.status()


def test_nothing_is_asked_twice_by_later_runs_or_at_the_same_time(gemini, tmp_path):
    first, teacher, _ = asked(gemini, tmp_path, [(PLAN, ONE, None)] * 5 + [(PLAN, Sampling(max_tokens=400, n=3), None)])
    again, later, _ = asked(gemini, tmp_path, [(PLAN, Sampling(max_tokens=400, n=3), None)], run="other")
    assert gemini.stats()["requests"] == teacher.stats.sent == 3 and gemini.stats()["answered_again"] == 0
    assert later.stats.sent == 0 and later.stats.from_ledger == 3
    assert again[0] == first[5] and first[0] == first[4] == first[5][:1] and len({one.text for one in again[0]}) == 3


def test_the_request_says_what_the_model_takes(gemini, tmp_path):
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=400, stop=("END",), seed=7)
    asked(gemini, tmp_path, [(PLAN, sampling, Judged)], model=TUNES)
    (body,) = gemini.requests
    config = body["generationConfig"]
    assert (config["temperature"], config["topP"], config["seed"]) == (0.7, 0.9, 7)
    assert config["stopSequences"] == ["END"] and config["responseMimeType"] == "application/json"
    assert body["systemInstruction"]["parts"][0]["text"] == PLAN[0]["content"] and len(body["contents"]) == 1


@pytest.mark.parametrize(
    ("model", "thinking", "sent", "room"),
    [
        (DEFAULT_MODEL, 0, {"thinking_level": "LOW"}, 4096),
        (MINIMAL, 0, {"thinking_level": "MINIMAL"}, 1024),
        (DEFAULT_MODEL, 9000, {"thinking_level": "MEDIUM"}, 16_384),
        (DEFAULT_MODEL, None, None, 32_768),
        (DEFAULT_MODEL, -1, None, 32_768),
    ],
)
def test_thinking_is_set_as_each_model_takes_it_and_has_room_of_its_own(gemini, tmp_path, model, thinking, sent, room):
    asked(gemini, tmp_path, [(PLAN, ONE, None)], model=model, thinking=thinking)
    config = gemini.requests[0]["generationConfig"]
    assert config.get("thinkingConfig") == sent and config["maxOutputTokens"] == 400 + room
    assert len(gemini.requests) == 1


def test_a_schema_brings_json_that_fits_it_nested_lists_too(gemini, tmp_path):
    judged = json.loads(reply_to(gemini, tmp_path, "Score this plan.", schema=Judged).text)
    plans = json.loads(reply_to(gemini, tmp_path, "Write 4 plans that differ.", schema=Plans).text)
    assert -100 <= judged["score"] <= 100 and len(plans["plans"]) == 4 and plans["plans"][0]["steps"]
    order = gemini.requests[0]["generationConfig"]["responseSchema"]
    assert list(order["properties"]) == ["reasons", "score"]  # the reasons are written before the verdict


# --- Gemini: every trouble --------------------------------------------------------------------------------------------

TROUBLES = {
    "429": ("stop", 2),
    "429 x5": ("stop", 6),
    "503 x3": ("stop", 4),
    "500": ("stop", 2),
    "reset x2": ("stop", 3),
    "torn": ("stop", 2),
    "html": ("stop", 2),
    "empty": ("stop", 2),
    "empty always": ("blocked", 2),
    "other": ("stop", 2),
    "recitation": ("stop", 2),
    "recitation always": ("blocked", 2),
    "thoughts": ("stop", 2),
    "max_tokens": ("stop", 2),
    "max_tokens always": ("length", 2),
    "blocked always": ("blocked", 1),
    "safety always": ("blocked", 1),
    "no_usage": ("stop", 1),
    "half": ("stop", 1),
    "nothing x3": ("stop", 4),
    "null x3": ("stop", 4),
    "list x3": ("stop", 4),
    "negative": ("stop", 1),
    "blank x3": ("stop", 4),
    "latin": ("stop", 2),
    "deep": ("stop", 2),
    "cut": ("stop", 2),
    "gzip": ("stop", 2),
    "number": ("stop", 2),
    "worded": ("stop", 2),
    "html500 x3": ("stop", 4),
    "junk500 x3": ("stop", 4),
}


@pytest.mark.parametrize("marker", TROUBLES)
def test_each_trouble_ends_as_decided_and_is_never_asked_again(gemini, tmp_path, marker):
    finish, requests = TROUBLES[marker]
    text = f"Write a plan. [[{marker}]]"
    reply = reply_to(gemini, tmp_path, text)
    reply.text.encode()  # else no file could hold it
    assert (reply.finish, gemini.stats()["requests"]) == (finish, requests)
    assert bool(reply.text) == (finish != "blocked")
    assert reply_to(gemini, tmp_path, text) == reply and gemini.stats()["requests"] == requests


BILLED = {"torn": True, "html": True, "cut": True, "latin": True, "deep": True, "number": True, "slow": True}
BILLED |= dict.fromkeys(("reset", "blank", "html500", "junk500", "503", "429", "400"), False)


@pytest.mark.parametrize("marker", BILLED)
@pytest.mark.parametrize("kind", [FakeGemini, FakeOpenAI])
def test_only_what_may_have_been_billed_stays_reserved_and_is_told_apart(tmp_path, monkeypatch, kind, marker):
    if marker == "slow":  # the others, on a busy machine, would be slow too
        for provider in (Gemini, openai_server.OpenAICompatible):
            monkeypatch.setattr(provider, "timeout_seconds", 0.3)
    env = {"PLANTUNE_PRICE": "1,2"}
    with kind(key=KEY, slow_seconds=0.6) as server:
        named = {} if kind is FakeGemini else {"teacher": server.url, "model": "tiny-1b"}
        asks = [(chat(f"Write a plan. [[{marker}]]"), ONE, None)]
        env |= environ(server) if kind is FakeGemini else {"OPENAI_API_KEY": KEY}
        _, _, totals = asked(server, tmp_path, asks, environ=env, **named)
        _, _, totals = asked(server, tmp_path, asks, environ=env, **named)  # nothing answered is lost in a second run
    assert (totals["usd_unanswered"] > 0.0008) is BILLED[marker]
    assert totals["usd"] - totals["usd_unanswered"] < 0.0005


@pytest.mark.parametrize("marker", ["nothing", "null", "list", "blank"])
def test_what_an_outage_says_is_no_answer_and_is_asked_again_once_it_is_over(gemini, tmp_path, marker):
    text = f"Write a plan. [[{marker} x12]]"
    with pytest.raises(UnansweredError, match="failed 12 times"):
        reply_to(gemini, tmp_path, text)
    with Ledger(tmp_path / "calls.sqlite", run="run") as ledger:
        assert ledger.spent_usd == 0.0, "nobody bills an outage"
    assert reply_to(gemini, tmp_path, text).finish == "stop"


def test_tokens_that_no_request_has_cost_its_worst_case_and_no_less(gemini, tmp_path):
    _, _, totals = asked(gemini, tmp_path, [(chat("Write a plan. [[negative]]"), ONE, None)])
    assert totals["usd"] > 0 and totals["tokens_out"] == 0


@pytest.mark.parametrize(
    ("marker", "finish"), [("unfit", "stop"), ("unfit always", "blocked"), ("max_tokens always", "length")]
)
def test_a_reply_with_a_schema_fits_it_or_is_empty(gemini, tmp_path, marker, finish):
    reply = reply_to(gemini, tmp_path, f"Score this plan. [[{marker}]]", schema=Judged)
    assert reply.finish == finish and gemini.stats()["requests"] == 2
    assert (reply.text == "") if finish != "stop" else Judged.model_validate_json(reply.text)


def test_what_is_cut_off_gets_twice_the_room_and_less_thinking(gemini, tmp_path):
    reply_to(gemini, tmp_path, "Write a plan. [[thoughts]]", thinking=9000)
    first, second = [body["generationConfig"] for body in gemini.requests]
    assert (first["maxOutputTokens"], second["maxOutputTokens"]) == (400 + 16_384, 800 + 4096)
    assert second["thinkingConfig"] == {"thinking_level": "LOW"} and second["seed"] != first["seed"]


def test_a_recitation_is_sampled_warmer(gemini, tmp_path):
    reply_to(gemini, tmp_path, "Write a plan. [[recitation]]", model=TUNES)
    assert [body["generationConfig"]["temperature"] for body in gemini.requests] == [0.0, 0.5]


def test_a_slow_reply_is_given_up_asked_again_and_counted_at_its_worst(tmp_path, monkeypatch):
    monkeypatch.setattr(Gemini, "timeout_seconds", 0.3)
    with FakeGemini(key=KEY, slow_seconds=0.8) as server:
        (replies,), teacher, totals = asked(server, tmp_path, [(chat("Write a plan. [[slow]]"), ONE, None)])
    assert replies[0].finish == "stop" and teacher.stats.retries == {"lost": 1}
    assert totals["usd"] > (400 + 4096) * 3.75e-6


def test_a_reply_without_usage_is_counted_at_its_worst(gemini, tmp_path):
    _, _, totals = asked(gemini, tmp_path, [(chat("Write a plan. [[no_usage]]"), ONE, None)])
    assert totals["usd"] > (400 + 4096) * 3.75e-6


def test_the_delay_that_a_429_asks_for_is_kept(tmp_path):
    hurry = Hurry()
    with FakeGemini(key=KEY, retry_seconds=7.5) as server:
        asks = [(chat("Write a plan. [[429]]"), ONE, None)]
        (replies,), _, _ = asked(server, tmp_path, asks, pace=hurried(hurry))
    assert replies[0].text and 7.5 < hurry.skipped < 8.3


def test_a_days_quota_stops_everybody_with_a_sentence_and_loses_nothing(gemini, tmp_path):
    asks = [(chat(f"Write plan {n}."), ONE, None) for n in range(3)] + [(chat("Plan [[daily always]]"), ONE, None)]
    replies, _, _ = asked(gemini, tmp_path, asks)
    assert isinstance(replies[3], TeacherError) and "PerDay" in str(replies[3]) and "250 a day" in str(replies[3])
    again, teacher, _ = asked(gemini, tmp_path, asks[:3])
    assert all(reply[0].text for reply in again) and gemini.stats()["answered_again"] == 0


@pytest.mark.parametrize(
    ("env", "model", "words"),
    [
        ({"GEMINI_API_KEY": "AIza-wrong"}, None, "refuses the key in GEMINI_API_KEY"),
        ({"GOOGLE_API_KEY": "AIza-wrong"}, None, "refuses the key in GOOGLE_API_KEY"),
        ({}, "gemini-retired", r"retired.*distill\.model"),
        ({}, "gemini-nonsense", "no model 'gemini-nonsense'"),
    ],
)
def test_what_cannot_work_is_one_sentence_without_a_key(gemini, tmp_path, env, model, words):
    settings = environ(gemini, PLANTUNE_PRICE="1,2") | env
    with pytest.raises(TeacherError, match=words) as caught:
        reply_to(gemini, tmp_path, "Write a plan.", environ=settings, model=model)
    assert "AIza" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    assert gemini.stats()["requests"] == 1


def test_no_key_and_no_price_are_said_before_anything_is_sent(gemini, tmp_path):
    with pytest.raises(TeacherError, match="no key is set: put one in the environment as GEMINI_API_KEY"):
        reply_to(gemini, tmp_path, "Hi", environ={"GOOGLE_GEMINI_BASE_URL": gemini.url})
    with pytest.raises(TeacherError, match=f"PLANTUNE_PRICE='IN,OUT'.*distill.model to one of {DEFAULT_MODEL}, "):
        reply_to(gemini, tmp_path, "Hi", model="gemini-nonsense")
    assert gemini.stats()["requests"] == 0


def test_an_outage_ends_in_a_sentence_and_leaves_no_money_reserved(gemini, tmp_path):
    asks = [(chat(f"Write plan {n}. [[503 always]]"), ONE, None) for n in range(40)]
    replies, teacher, totals = asked(gemini, tmp_path, asks)
    assert all(isinstance(reply, TeacherError) for reply in replies) and "503" in str(replies[0])
    assert totals["usd"] == 0 and teacher.stats.sent < 40 * 12


# --- one prompt's own trouble -----------------------------------------------------------------------------------------

OTHERS = [(chat(f"Write plan {n}."), ONE, None) for n in range(5)]


@pytest.mark.parametrize(("marker", "words"), [("400", "invalid argument"), ("500", "failed 12 times")])
def test_a_request_that_never_comes_through_ends_itself_and_nobody_else(gemini, tmp_path, marker, words):
    asks = [(chat(f"Write a plan. [[{marker} always]]"), ONE, None), *OTHERS]
    replies, teacher, totals = asked(gemini, tmp_path, asks)
    assert isinstance(replies[0], UnansweredError) and words in replies[0].why
    assert all(one[0].text for one in replies[1:]) and teacher.stats.samples == 5 and totals["calls"] == 6


def test_an_openai_servers_unclear_refusal_ends_one_request_alone(tmp_path):
    with FakeOpenAI() as server:
        replies, _, _ = openai(server, tmp_path, [(chat("Write a plan. [[400 always]]"), ONE, None), *OTHERS])
    assert isinstance(replies[0], UnansweredError) and "Something about this request" in str(replies[0])
    assert all(one[0].text for one in replies[1:])


def test_a_prompt_that_is_too_long_goes_without_an_answer_until_there_is_room(tmp_path):
    long, said = (chat("Write a plan. " + "And once more. " * 300), ONE, None), []
    with FakeOpenAI(window=1000) as server:
        replies, _, totals = openai(server, tmp_path, [long, *OTHERS], say=said.append)
        assert (replies[0][0].text, replies[0][0].finish) == ("", "blocked") and all(one[0].text for one in replies[1:])
        assert len(said) == 1 and "maximum context length is 1000" in said[0]
        server.window = 4000
        replies, teacher, _ = openai(server, tmp_path, [long, *OTHERS])
    assert replies[0][0].finish == "stop" and teacher.stats.sent == 1


def test_a_window_smaller_than_what_is_asked_for_gets_shorter_replies_and_that_is_said(tmp_path):
    asks, said = [(ask[0], Sampling(max_tokens=2048), None) for ask in OTHERS], []
    with FakeOpenAI(window=1000) as server:
        replies, _, _ = openai(server, tmp_path, asks, say=said.append)
        assert all(one[0].text and one[0].finish == "stop" for one in replies)
        assert server.requests[-1]["max_tokens"] == 500
    assert len(said) == 1 and said[0].startswith("replies get 500 tokens, not 2,048 (the server says: ")


def test_a_refusal_that_comes_when_another_call_has_its_shorter_reply_shortens_too(tmp_path):
    class Late(FakeOpenAI):
        def _check(self, body):
            if body["messages"] == list(OTHERS[0][0]) and body["max_tokens"] == 2048:
                time.sleep(0.5)
            super()._check(body)

    with Late(window=1000) as server:
        replies, _, _ = openai(server, tmp_path, [(ask[0], Sampling(max_tokens=2048), None) for ask in OTHERS])
    assert all(one[0].text and one[0].finish == "stop" for one in replies)


def test_what_is_cut_off_and_has_no_room_for_more_stays_as_it_is(tmp_path):
    with FakeOpenAI(window=700) as server:
        asks = [(chat("Write a plan. [[length]]"), ONE, None)]  # a second attempt would bring it, with 800 tokens
        (replies,), _, totals = openai(server, tmp_path, asks)
        assert (replies[0].text, replies[0].finish) == ("Find the", "length")
        again, teacher, _ = openai(server, tmp_path, asks)
    assert again[0] == replies and teacher.stats.sent == 0, "it was paid for"


def test_gemini_declines_a_prompt_for_its_length_alone_too(gemini, tmp_path):
    replies, _, totals = asked(gemini, tmp_path, [(chat("Write a plan. [[too_long always]]"), ONE, None), *OTHERS])
    assert replies[0][0].finish == "blocked" and all(one[0].text for one in replies[1:])
    assert totals["usd"] == pytest.approx(
        sum(one[0].tokens_in * 0.75 + (one[0].tokens_out + one[0].tokens_thought) * 3.75 for one in replies) / 1e6
    )


@pytest.mark.parametrize(
    ("said", "its_own"),
    [
        ("exceed_context_size_error the request exceeds the available context size", True),
        ("context_length_exceeded", True),
        ("content_policy_violation", True),
        ("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.", True),
        ("Your chosen model requires moderation and your input was flagged", True),
        ("Unsupported parameter: 'max_tokens' is not supported with this model.", False),
        ("API key not valid. Please pass a valid API key.", False),
        ("Your account has been flagged", False),
        ("Invalid value for 'response_format'", False),
    ],
)
def test_a_refusal_says_whether_it_is_about_the_prompt(said, its_own):
    assert blames_the_prompt(said) is its_own


# --- several samples --------------------------------------------------------------------------------------------------

FIVE = Sampling(temperature=0.7, n=5, max_tokens=400)


def test_each_sample_is_a_request_of_its_own_with_a_seed_of_its_own(gemini, tmp_path):
    (replies,), teacher, totals = asked(gemini, tmp_path, [(PLAN, FIVE, None)])
    assert teacher.stats.sent == totals["calls"] == 5 and gemini.stats()["outcomes"] == {"ok": 5}
    assert len({reply.text for reply in replies}) == 5
    assert sorted(body["generationConfig"]["seed"] for body in gemini.requests) == [0, 1, 2, 3, 4]


def test_plans_made_one_after_another_pay_for_each_sample_once(gemini, tmp_path):
    async def main():
        with Ledger(tmp_path / "calls.sqlite", run="r") as ledger:
            part = Distill("gemini")
            async with open_teacher(part, ledger, environ=environ(gemini)) as ask:
                seen = [await ask(PLAN, Sampling(n=n, temperature=0.7), None) for n in (1, 2, 3)]
        assert seen[2][:2] == seen[1] and seen[1][:1] == seen[0] and len({one.text for one in seen[2]}) == 3

    asyncio.run(main())
    assert gemini.stats()["requests"] == 3


# --- OpenAI-compatible ------------------------------------------------------------------------------------------------


def openai(server, folder, asks, **settings):
    settings = {"environ": {}, "model": "tiny-1b"} | settings
    return asked(server, folder, asks, teacher=server.url, **settings)


def test_a_local_server_costs_nothing_and_needs_no_key(tmp_path):
    with FakeOpenAI() as server:
        (replies, five), teacher, totals = openai(server, tmp_path, [(PLAN, ONE, None), (PLAN, FIVE, Judged)])
    assert teacher.model == "tiny-1b" and totals["usd"] == 0 and replies[0].text.startswith("1. ")
    assert len(five) == 5 and all(Judged.model_validate_json(reply.text) for reply in five) and teacher.stats.sent == 6


@pytest.mark.parametrize("fastapi", [False, True])
@pytest.mark.parametrize("missing", ["response_format", "seed", "max_tokens", "top_p", "temperature", "stop"])
def test_a_field_that_a_server_does_not_know_is_done_without_and_that_is_said(tmp_path, missing, fastapi):
    sampling, said = Sampling(temperature=0.7, n=3, max_tokens=400, stop=("\n2.",)), []
    with FakeOpenAI(without=(missing,), fastapi=fastapi) as server:
        asks = [(PLAN, sampling, None), (PLAN, ONE, Judged)]
        pace = hurried(start=1, most=1)
        (plans, judged), teacher, _ = openai(server, tmp_path, asks, pace=pace, say=said.append)
        assert len(said) == 1 and said[0].startswith(f"requests now omit {missing} (the server says: ")
        assert server.stats()["outcomes"]["refused"] == 1
        assert server.stats()["answered_again"] == (2 if missing == "seed" else 0)  # without, all samples are alike
    assert len(plans) == 3 and not any("\n2." in reply.text for reply in plans)
    assert Judged.model_validate_json(judged[0].text)


OPENAI_TROUBLES = {
    "429": ("stop", 2),
    "503 x3": ("stop", 4),
    "reset": ("stop", 2),
    "torn": ("stop", 2),
    "html": ("stop", 2),
    "empty always": ("blocked", 2),
    "safety always": ("blocked", 1),
    "length": ("stop", 2),
    "length always": ("length", 2),
    "no_usage": ("stop", 1),
    "thinks": ("stop", 1),
    "half": ("stop", 1),
    "nothing x3": ("stop", 4),
    "error x3": ("stop", 4),
    "late": ("stop", 1),
    "huge": ("stop", 1),
    "blank x3": ("stop", 4),
    "latin": ("stop", 2),
    "deep": ("stop", 2),
    "cut": ("stop", 2),
    "gzip": ("stop", 2),
    "number": ("stop", 2),
    "worded": ("stop", 1),
    "behind x3": ("stop", 4),
    "html500 x3": ("stop", 4),
    "junk500 x3": ("stop", 4),
}


@pytest.mark.parametrize("marker", OPENAI_TROUBLES)
def test_each_trouble_of_an_openai_server_ends_as_decided(tmp_path, marker):
    with FakeOpenAI() as server:
        (replies,), _, _ = openai(server, tmp_path, [(chat(f"Write a plan. [[{marker}]]"), ONE, None)])
        assert (replies[0].finish, server.stats()["requests"]) == OPENAI_TROUBLES[marker]
        replies[0].text.encode()  # else no file could hold it
        assert "think>" not in replies[0].text and "Hm" not in replies[0].text


def test_a_server_that_is_not_there_is_named_at_once_and_not_only_in_the_end(tmp_path):
    with FakeOpenAI() as server:
        pass
    lines = []
    (error,), _, _ = openai(server, tmp_path, [(PLAN, ONE, None)], say=lines.append)
    assert isinstance(error, TeacherError) and f"{server.url} cannot be reached" in str(error)
    assert len(lines) == 1 and lines[0].startswith(f"no reply so far ({server.url} cannot be reached")


def test_an_openai_servers_refusals_are_sentences_without_the_key(tmp_path):
    def error(server, **settings):
        with pytest.raises(TeacherError) as caught:
            (reply,), _, _ = openai(server, tmp_path, [(chat("A plan. [[quota always]]"), ONE, None)], **settings)
            raise reply
        assert "sk-" not in str(caught.value)
        return str(caught.value)

    with FakeOpenAI(key="sk-right", models=("a", "b")) as server:
        assert "refuses the key in OPENAI_API_KEY" in error(server, model="a", environ={"OPENAI_API_KEY": "sk-wrong"})
        assert "set OPENAI_API_KEY" in error(server, model="a")
        right = {"OPENAI_API_KEY": "sk-right"}
        assert "distill.model is not set: name a model" in error(server, model=None, environ=right)
        assert "no model 'c'" in error(server, model="c", environ=right)
        assert "credit of the key in OPENAI_API_KEY is used up" in error(server, model="a", environ=right)


def test_a_prefix_stays_the_assistants_and_is_not_repeated(tmp_path):
    with FakeOpenAI() as server:
        openai(server, tmp_path, [((*PLAN, {"role": "assistant", "content": "1. First"}), ONE, None)])
        assert server.requests[-1]["messages"][-1] == {"role": "assistant", "content": "1. First"}


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://user:secret@host/v1", "gemeni"])
def test_a_teacher_that_is_no_address_gets_a_sentence(tmp_path, url):
    with Ledger(tmp_path / "c.sqlite", run="r") as ledger, pytest.raises(TeacherError, match="gemini, self") as caught:
        open_teacher(Distill(url), ledger, environ={})
    assert "secret" not in str(caught.value)


def test_a_far_server_needs_a_key_and_a_price_and_is_named_before_the_first_call(tmp_path):
    part = Distill("https://models.example/v1", model="big")
    with Ledger(tmp_path / "c.sqlite", run="r") as ledger:
        with pytest.raises(TeacherError, match="as OPENAI_API_KEY"):
            open_teacher(part, ledger, environ={})
        with pytest.raises(TeacherError, match="price of 'big' is not known"):
            open_teacher(part, ledger, environ={"OPENAI_API_KEY": "sk-x"})
        said = []
        known = {"OPENAI_API_KEY": "sk-x", "PLANTUNE_PRICE": "1,2"}
        teacher = open_teacher(part, ledger, environ=known, say=said.append)
        asyncio.run(teacher.__aenter__())
        assert said == ["asking models.example with the key in OPENAI_API_KEY"]
        assert "sk-x" not in repr(vars(teacher)["_provider"])


def test_only_addresses_of_this_machine_are_loopback():
    assert all(map(is_loopback, ["http://localhost:1/v1", "http://127.0.0.9", "http://[::1]:8000/v1"]))
    assert not any(map(is_loopback, ["https://localhost.evil.example", "http://10.0.0.1", "http://127.0.0.1.example"]))


# --- self -------------------------------------------------------------------------------------------------------------


def test_a_student_is_asked_in_batches_and_once(tmp_path):
    sizes = []

    def generate(prompts, sampling):
        sizes.append(len(prompts))
        return [
            [Reply(text=f"{prompt[-1]['content']} {sampling.seed + n}") for n in range(sampling.n)]
            for prompt in prompts
        ]

    asks = [(chat(f"q{n}"), Sampling(n=2), None) for n in range(50)]
    settings = {"teacher": "self", "own": ("tiny", generate), "environ": {}}
    replies, teacher, totals = asked(None, tmp_path, asks, **settings)
    assert [[reply.text for reply in pair] for pair in replies] == [[f"q{n} 0", f"q{n} 1"] for n in range(50)]
    assert len(sizes) < 25 and sum(sizes) == 100 and teacher.model == "self:tiny" and totals["calls"] == 100
    asked(None, tmp_path, asks, **settings)
    assert sum(sizes) == 100


def test_a_student_gets_a_schema_in_words_and_a_crash_reaches_whoever_asked(tmp_path):
    def generate(prompts, sampling):
        if "boom" in prompts[0][-1]["content"]:
            raise MemoryError("too long")
        assert "JSON" in prompts[0][-1]["content"]
        return [[Reply(text='Sure! {"reasons": "fine", "score": 90} Bye.')] for _ in prompts]

    settings = {"teacher": "self", "own": ("tiny", generate), "environ": {}}
    (judged,), _, _ = asked(None, tmp_path, [(chat("Score."), ONE, Judged)], **settings)
    assert json.loads(judged[0].text) == {"reasons": "fine", "score": 90}
    (crash,), _, totals = asked(None, tmp_path, [(chat("boom"), ONE, None)], **settings)
    assert isinstance(crash, MemoryError) and totals["usd"] == 0


# --- money ------------------------------------------------------------------------------------------------------------


class Moody:
    """A provider with random prices, bills and failures, never beyond what it announced."""

    model, notice = "moody", ""

    def __init__(self, chance):
        self.chance, self.price = chance, Price(chance.uniform(0, 20), chance.uniform(1, 90))
        self.billed = self.worst_seen = 0.0

    async def close(self):
        pass

    def most_out(self, request):
        return request.sampling.max_tokens

    async def attempt(self, request):
        await asyncio.sleep(self.chance.random() * 0.004)
        tokens_in = self.chance.randint(1, most_in(request))
        tokens_out = self.chance.randint(0, self.most_out(request))
        what = self.chance.choice(["ok"] * 6 + ["empty", "length", "lost", "busy", "down", "silent"])
        if what in ("busy", "down"):
            raise Failed(what, "503")
        self.billed += self.price.usd(tokens_in, tokens_out)
        if what == "lost":
            raise Failed("lost", "connection reset")
        usage = None if what == "silent" else Usage(tokens_in, tokens_out)
        return Outcome(what="ok" if what == "silent" else what, text="x", usage=usage)


@pytest.mark.parametrize("seed", range(12))
def test_a_budget_is_never_passed_whatever_replies_cost(tmp_path, seed):
    chance = random.Random(seed)
    provider, max_usd = Moody(chance), chance.choice([0.0, 0.02, 0.3, 2.0])

    async def main():
        with Ledger(tmp_path / "c.sqlite", run="r", max_usd=max_usd) as ledger:
            teacher = Teacher(provider, ledger, hurried(), thinking=0, say=lambda line: None)

            async def one(number):
                sampling = Sampling(n=chance.randint(1, 6), max_tokens=chance.choice([16, 200, 900]))
                await teacher(chat(f"q{number}"), sampling, None)
                assert ledger.spent_usd <= max_usd

            async with teacher:
                results = await asyncio.gather(*map(one, range(80)), return_exceptions=True)
            assert {type(result) for result in results} <= {type(None), BudgetError}
            assert not teacher._reserved
            return ledger.spent_usd, ledger.totals()["usd"]

    spent, on_disk = asyncio.run(main())
    assert provider.billed <= spent + 1e-9 <= max_usd + 2e-9 and spent == pytest.approx(on_disk)


def test_a_budget_smaller_than_what_runs_at_once_is_still_used_up(gemini, tmp_path):
    asks = [(chat(f"Write plan {n}."), Sampling(max_tokens=400), None) for n in range(200)]
    worst = (400 + 4096) * 3.75e-6
    replies, teacher, totals = asked(gemini, tmp_path, asks, max_usd=worst * 1.5)
    stopped = [reply for reply in replies if isinstance(reply, BudgetError)]
    assert stopped and worst * 0.4 < totals["usd"] <= worst * 1.5 and len(stopped) < 195
    done = [ask for ask, reply in zip(asks, replies, strict=True) if not isinstance(reply, BudgetError)]
    again, teacher, _ = asked(gemini, tmp_path, done, max_usd=worst * 1.5)
    assert teacher.stats.sent == 0 and len(again) == len(done)


def test_what_waits_for_its_turn_reserves_nothing_that_a_kill_would_count(tmp_path):
    async def main(server):
        with Ledger(tmp_path / "c.sqlite", run="r") as ledger:
            settings = {"environ": environ(server), "pace": Pace(start=3, most=3)}
            async with open_teacher(Distill("gemini"), ledger, **settings) as ask:
                asking = [asyncio.create_task(ask(chat(f"Write plan {n}."), ONE, None)) for n in range(12)]
                while server.in_flight < 3:
                    await asyncio.sleep(0.01)
                at_a_kill = ledger.spent_usd
                assert "$0.00, 3 of 3 in flight" in ask.status()
                await asyncio.gather(*asking)
            return at_a_kill

    with FakeGemini(key=KEY, latency_seconds=(0.3, 0.3)) as server:
        at_a_kill = asyncio.run(main(server))
    assert at_a_kill == pytest.approx(3 * (400 + 4096) * 3.75e-6, rel=0.05)


def test_a_call_that_rests_after_a_failure_reserves_nothing(gemini, tmp_path):
    reserved = []

    async def main():
        with Ledger(tmp_path / "c.sqlite", run="r") as ledger:

            async def sleep(seconds):
                reserved.append(ledger.spent_usd)

            settings = {"environ": environ(gemini), "pace": Pace(sleep=sleep)}
            async with open_teacher(Distill("gemini"), ledger, **settings) as ask:
                await ask(chat("Write a plan. [[503 x3]]"), ONE, None)

    asyncio.run(main())
    assert reserved == [0, 0, 0]


def test_input_is_never_estimated_too_low():
    for text in ("plain words", "数字是一二三", "1234567890" * 9, "🙂🙃" * 20, "a\tb\n"):
        request = Request(messages=({"role": "user", "content": text},), sampling=ONE)
        assert most_in(request) >= len(text.encode())


def test_a_model_that_google_has_shut_down_is_refused_unless_an_address_of_ones_own_serves_it(monkeypatch):
    day = datetime.date(2027, 5, 7)
    monkeypatch.setitem(MODELS, "gemini-old", Model(Price(1, 2), "low", ends=day))
    for name in ("gemini-old", "models/gemini-old"):
        assert model_name(name, {}, today=day - datetime.timedelta(1)) == "gemini-old"
        assert model_name(name, {"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9"}, today=day) == "gemini-old"
        with pytest.raises(
            TeacherError, match=f"shut gemini-old down on 2027-05-07: set distill.model={DEFAULT_MODEL}"
        ):
            model_name(name, {}, today=day)


def test_a_models_name_stands_in_the_table_and_on_the_page_that_shows_it_and_nowhere_else():
    root = Path(__file__).parents[2]
    pages = ("*.py", "*.md", "*.ipynb", "*.toml")
    listed = subprocess.run(["git", "ls-files", *pages], cwd=root, capture_output=True, text=True, check=True).stdout
    texts = {path: (root / path).read_text(encoding="utf-8") for path in listed.split()}
    del texts["plantune_lite/teacher/models.py"]
    shown, page = shown_models(), texts["recipes/QUESTIONS.md"]
    assert f"As of {AS_OF}:\n\n{shown}\n" in page, f"the table in QUESTIONS.md has to be\n{shown}"
    texts["recipes/QUESTIONS.md"] = page.replace(shown, "")
    assert [path for path, text in texts.items() if re.search(r"gemini-\d", text)] == []


def shown_models():
    rows = []
    for name, row in MODELS.items():
        usd = f"{row.price.tokens_in:.2f}, {row.price.tokens_out:.2f}"
        if row.later:
            day, price = row.later
            usd += f"; {price.tokens_in:.2f}, {price.tokens_out:.2f} from {day}"
        title = f"`{name}`, the default" if name == DEFAULT_MODEL else f"`{name}`"
        rows.append((title, usd, row.least, str(row.ends or "")))
    return markdown_table(("`distill.model`", "USD per million tokens, in and out", "thinks at least", "ends"), rows)


def test_prices_rise_on_their_day_and_can_be_overridden(monkeypatch):
    day = datetime.date(2027, 1, 1)
    monkeypatch.setitem(MODELS, "gemini-rising", Model(Price(1, 2), "low", later=(day, Price(3, 4))))
    assert price_of("gemini-rising", environ={}, today=day - datetime.timedelta(1)) == Price(1, 2)
    assert price_of("gemini-rising", environ={}, today=day) == Price(3, 4)
    assert price_of("anything", environ={"PLANTUNE_PRICE": "0.1, 0.4"}) == Price(0.1, 0.4)
    for written in ("1", "1,x", "-1,2", "1,nan", "1,inf"):
        with pytest.raises(TeacherError, match="PLANTUNE_PRICE"):
            price_of("anything", environ={"PLANTUNE_PRICE": written})


# --- ends -------------------------------------------------------------------------------------------------------------


def test_an_error_in_the_callers_code_lets_calls_in_flight_settle(tmp_path):
    async def main(server):
        with Ledger(tmp_path / "c.sqlite", run="r") as ledger:
            with pytest.raises(ValueError, match="mine"):
                async with open_teacher(Distill("gemini"), ledger, environ=environ(server)) as ask:
                    asking = asyncio.create_task(ask(PLAN, ONE, None))
                    await asyncio.sleep(0.15)
                    raise ValueError("mine")
            assert (await asking)[0].text and ledger.spent_usd < 0.01

    with FakeGemini(key=KEY, latency_seconds=(0.4, 0.4)) as server:
        asyncio.run(main(server))


def test_a_caller_that_is_cancelled_does_not_lose_what_is_paid(tmp_path):
    async def main(server):
        with Ledger(tmp_path / "c.sqlite", run="r") as ledger:
            async with open_teacher(Distill("gemini"), ledger, environ=environ(server)) as ask:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(ask(PLAN, ONE, None), 0.15)
                assert (await ask(PLAN, ONE, None))[0].text and ask.stats.sent == 1

    with FakeGemini(key=KEY, latency_seconds=(0.4, 0.4)) as server:
        asyncio.run(main(server))


def test_keys_are_taken_from_the_environment_in_googles_order(monkeypatch):
    for google, name, key in (("a", "GOOGLE_API_KEY", "a"), (" ", "GEMINI_API_KEY", "b")):
        asked = Gemini(None, environ={"GEMINI_API_KEY": " b ", "GOOGLE_API_KEY": google})
        assert (asked._key_name, asked._key) == (name, key)


def test_json_is_found_in_what_a_chatty_model_wrote():
    body = '{"reasons": "r", "score": 3}'
    for text in (body, f"```json\n{body}\n```", f"Sure: {body} there."):
        assert json.loads(fitting(text, Judged))["score"] == 3
    assert fitting('{"score": 3}', Judged) is None and fitting("no", Judged) is None


# --- a storm ----------------------------------------------------------------------------------------------------------


def test_a_storm_of_faults_changes_no_reply(tmp_path):
    mind, asks = Mind(acceptance=0.6), []
    for number in range(60):
        asks.append((chat(f"Write a plan for problem {number}."), Sampling(n=2, max_tokens=400), None))
        asks.append((chat(f"Score plan {number}."), ONE, Judged))
    lasting = {"blocked": 0.01, "safety": 0.01}
    with FakeGemini(key=KEY, mind=mind, faults=Faults(lasting)) as server:
        calm, _, _ = asked(server, tmp_path / "calm", asks)
    storm = Faults(lasting | {kind: 0.04 for kind in ("429", "503", "reset", "torn", "html", "empty", "unfit")})
    with FakeGemini(key=KEY, mind=mind, faults=storm, retry_seconds=0.01) as server:
        wild, teacher, _ = asked(server, tmp_path / "wild", asks)
        assert server.stats()["answered_again"] == 0 and teacher.stats.retries.total() > 20
    texts = [[[reply.text for reply in replies] for replies in run] for run in (calm, wild)]
    assert texts[0] == texts[1]


# --- the servers can say no -------------------------------------------------------------------------------------------


def post(url, body, **headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


HELLO = {"contents": [{"role": "user", "parts": [{"text": "A plan"}]}]}


@pytest.mark.parametrize(
    ("model", "change", "status", "words"),
    [
        (DEFAULT_MODEL, {}, 200, ""),
        (DEFAULT_MODEL, {"generationConfig": {"candidateCount": 2}}, 400, "Multiple candidates is not enabled"),
        (DEFAULT_MODEL, {"generationConfig": {"max_tokens": 5}}, 400, 'Unknown name "max_tokens"'),
        (DEFAULT_MODEL, {"messages": []}, 400, 'Unknown name "messages"'),
        (DEFAULT_MODEL, {"generationConfig": {"thinkingConfig": {"effort": 1}}}, 400, 'Unknown name "effort"'),
        (DEFAULT_MODEL, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "minimal"}}}, 400, "MINIMAL"),
        (MINIMAL, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "minimal"}}}, 200, ""),
        (
            DEFAULT_MODEL,
            {"generationConfig": {"responseSchema": {"additionalProperties": {}}}},
            400,
            "Unknown name",
        ),
        (DEFAULT_MODEL, {"contents": [{"role": "model", "parts": []}]}, 400, "ending with a model turn"),
        (DEFAULT_MODEL, {"contents": [{"role": "assistant", "parts": []}]}, 400, "valid role"),
        ("gemini-retired", {}, 404, "no longer available"),
        ("gemini-nonsense", {}, 404, "is not found"),
    ],
)
def test_the_fake_gemini_refuses_what_the_real_one_refuses(gemini, model, change, status, words):
    url = f"{gemini.url}/v1beta/models/{model}:generateContent"
    code, body = post(url, HELLO | change, **{"x-goog-api-key": KEY})
    assert code == status and words in json.dumps(body).replace("\\", "")


def test_the_fake_gemini_refuses_a_wrong_key_a_wrong_path_and_too_many_requests():
    with FakeGemini(key=KEY, requests_per_minute=2) as server:
        url = f"{server.url}/v1beta/models/{DEFAULT_MODEL}:generateContent"
        assert post(url, HELLO, **{"x-goog-api-key": "x"})[0] == 400
        assert post(f"{server.url}/v9/models", {}, **{"x-goog-api-key": KEY})[0] == 404
        codes = [post(url, HELLO, **{"x-goog-api-key": KEY}) for _ in range(3)]
        assert [code for code, _ in codes] == [200, 200, 429]
        assert codes[2][1]["error"]["details"][1]["retryDelay"].endswith("s")


def test_the_fake_gemini_counts_tokens_and_describes_models(gemini):
    from google import genai
    from google.genai import types

    client = genai.Client(
        api_key=KEY, http_options=types.HttpOptions(base_url=gemini.url, api_version="v1beta", timeout=5000)
    )
    assert client.models.count_tokens(model=DEFAULT_MODEL, contents="four words of text").total_tokens > 0
    assert client.models.get(model=DEFAULT_MODEL).output_token_limit == 65_536
    client.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "tiny-1b"}, 200),
        ({"model": "tiny-1b", "maxOutputTokens": 5}, 400),
        ({"model": "tiny-1b", "response_format": {"type": "json"}}, 400),
        ({"model": "tiny-1b", "messages": [{"role": "user", "content": "x", "parts": []}]}, 400),
        ({"model": "big"}, 404),
    ],
)
def test_the_fake_openai_refuses_what_the_real_ones_refuse(body, status):
    with FakeOpenAI(key="sk-right") as server:
        full = {"messages": [{"role": "user", "content": "A plan"}]} | body
        assert post(f"{server.url}/chat/completions", full, Authorization="Bearer sk-right")[0] == status
        assert post(f"{server.url}/chat/completions", full, Authorization="Bearer sk-wrong")[0] == 401


# --- keys go to the host that was named -------------------------------------------------------------------------------


class _Elsewhere(BaseHTTPRequestHandler):
    """A server that sends every request to another, or takes note of what it is sent."""

    to = ""
    heard: ClassVar[list[dict[str, str]]] = []

    def do_POST(self):
        if self.to:
            self.send_response(307)
            self.send_header("Location", self.to + self.path)
            self.send_header("Content-Length", "0")
        else:
            self.heard.append(dict(self.headers))
            self.send_response(500)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def _serving(to=""):
    handler = type("Handler", (_Elsewhere,), {"to": to, "heard": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.heard
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("teacher", ["gemini", "openai"])
def test_a_server_that_points_elsewhere_is_not_followed_with_the_key(tmp_path, teacher):
    with _serving() as (other, heard), _serving(other) as (url, _):
        env = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url, "OPENAI_API_KEY": KEY, "PLANTUNE_PRICE": "0,0"}
        named = {"teacher": "gemini"} if teacher == "gemini" else {"teacher": f"{url}/v1", "model": "m"}
        (error,), _, _ = asked(None, tmp_path, [(chat("Write a plan."), ONE, None)], environ=env, **named)
    assert heard == [], "the key has left for another host"
    assert isinstance(error, TeacherError) and "307" in str(error)


# --- what servers write in the place of an error ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted", "input": {"stop": 1}}]},
            "body.seed: extra fields not permitted",
        ),
        ({"detail": "Not allowed"}, "Not allowed"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"provider_name": "X", "raw": "overloaded"}}},
            "Provider returned error: X: overloaded",
        ),
        ({"error": "plain"}, "plain"),
        ("boom", "boom"),
    ],
)
def test_an_error_is_read_in_whatever_form_a_server_writes_it(body, said):
    message = openai_server._error_in(httpx2.Response(422, json=body))["message"]
    assert message == said


def test_a_country_that_gemini_does_not_serve_ends_the_run_and_promises_nothing():
    failed = Gemini(None, environ={"GEMINI_API_KEY": KEY})._refused(
        400, "User location is not supported for the API use."
    )
    assert failed.what == "over" and "Choose another teacher" in failed.why


def test_messages_of_what_goes_wrong_name_the_address_and_what_is_missing(tmp_path):
    with FakeGemini(key=KEY) as server:
        pass
    (error,), _, _ = asked(server, tmp_path, [(PLAN, ONE, None)])
    assert f"{server.url} cannot be reached: [Errno" in str(error) and "SSLContext" not in str(error)
    with FakeOpenAI() as server:
        (error,), _, _ = openai(server, tmp_path, [(chat("A plan. [[bare always]]"), ONE, None)])
        (behind,), _, _ = openai(server, tmp_path, [(chat("A plan. [[behind always]]"), ONE, None)])
    assert 'not a chat completion ({"object": "list"})' in str(error)
    assert "502 Provider returned error: Elsewhere: overloaded" in str(behind)


@pytest.mark.parametrize(
    "said", ["Your prepayment credits are depleted.", "The project has exceeded its monthly spending cap."]
)
def test_money_that_is_used_up_is_the_end_and_not_a_rush(said):
    failed = Gemini(None, environ={"GEMINI_API_KEY": KEY})._refused(429, said, {})
    assert failed.what == "over" and "spending cap" in failed.why


def test_after_a_kill_a_call_goes_on_from_the_attempts_it_has_had(gemini, tmp_path):
    text = "Write a plan. [[empty]] [[daily x2]] [[empty always]]"
    with pytest.raises(TeacherError, match="tomorrow"):  # an empty reply, then the end of the process
        reply_to(gemini, tmp_path, text)
    assert reply_to(gemini, tmp_path, text).finish == "blocked"
    assert gemini.stats()["requests"] == 3, "the second empty reply is the last"
