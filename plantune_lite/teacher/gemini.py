"""Gemini through google-genai: one request, and what came of it.

Request(messages=messages, sampling=Sampling()) -> Outcome(what="ok", text="1. Divide ...", ...)

The client's own retries are off: it ignores the delay that the server asks for, and an attempt that it repeats in
silence is one that no ledger sees. What differs from model to model stands in one table.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from plantune_lite.files import encodable
from plantune_lite.teacher.prices import price_of
from plantune_lite.teacher.provider import (
    Failed,
    Outcome,
    Request,
    TeacherError,
    What,
    is_loopback,
    refused,
    scrub,
    seconds_in,
    usage_of,
)

DEFAULT_MODEL = "gemini-3.8-flash"  # a current Flash, chosen 2026-10-07
API_VERSION = "v1beta"  # google-genai 3.x would take v1, which knows no `gemini-*-latest` names
KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # in the client's own order
HOST = "generativelanguage.googleapis.com"
_MOST_OUT = 65_536  # tokens, of every model in the table


# --- what differs from model to model ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Model:
    thinks: Literal["budget", "level", "no"]
    least: int | str = 0  # what comes nearest to not thinking: a budget in tokens, or a level
    most_thought: int = 32_768  # tokens, where the model decides
    tunes: bool = True  # False: temperature and top_p are deprecated and ignored, the seed alone varies


_late = partial(_Model, thinks="level", tunes=False)

# The longest name that begins a model's name. As of 2026-10-07, from Google's guides and users' reports.
_MODELS: dict[str, _Model] = {
    "gemini-3.8-flash": _late(least="low"),  # 400 on "minimal"
    "gemini-3.7-flash": _late(least="low"),
    "gemini-3.6-flash": _late(least="minimal"),
    "gemini-3.5-flash-lite": _late(least="minimal"),
    "gemini-3.5-flash": _Model(thinks="level", least="minimal"),
    "gemini-3.1-flash-lite": _Model(thinks="level", least="minimal"),
    "gemini-3": _Model(thinks="level", least="low"),
    "gemini-2.5-pro": _Model(thinks="budget", least=128),
    "gemini-2.5": _Model(thinks="budget", most_thought=24_576),
    "gemini-": _late(least="low"),  # newer than this table
    "": _Model(thinks="no", most_thought=0),
}
_ROOM = {"minimal": 1024, "low": 4096, "medium": 16_384, "high": 32_768}  # tokens of thought we make room for


# By Google; an address of your own (GOOGLE_GEMINI_BASE_URL) may still serve these.
_SHUT_DOWN = {"gemini-2.5": date(2026, 10, 16)}


def key_name(environ: Mapping[str, str]) -> str:
    """Return which key is set, "" where none is; one of blanks is none."""
    return next((name for name in KEYS if environ.get(name, "").strip()), "")


def model_name(model: str | None, environ: Mapping[str, str]) -> str:
    """Return the name of the model to ask, the default where none is given; refuse one that has been shut down."""
    name = (model or DEFAULT_MODEL).removeprefix("models/")
    days = [day for start, day in _SHUT_DOWN.items() if name.startswith(start)]
    if days and not environ.get("GOOGLE_GEMINI_BASE_URL", "").strip():
        raise TeacherError(f"Google shut {name} down on {days[0]}: set distill.model={DEFAULT_MODEL}, or leave it out")
    return name


def _about(model: str) -> _Model:
    name = model.removeprefix("models/")
    return _MODELS[max((known for known in _MODELS if name.startswith(known)), key=len)]


# --- the provider -----------------------------------------------------------------------------------------------------


class Gemini:
    """One Gemini model behind one key."""

    timeout_seconds = 180.0

    def __init__(self, model: str | None, *, environ: Mapping[str, str] = os.environ) -> None:
        self.model = model_name(model, environ)
        self.price = price_of(self.model, environ=environ)
        self._key_name = key_name(environ)
        if not self._key_name:
            raise TeacherError(
                f"distill.teacher is 'gemini', but no key is set: put one in the environment as {KEYS[1]} "
                "(aistudio.google.com makes them), or set distill.teacher=self"
            )
        self._key = environ[self._key_name].strip()
        self._address = environ.get("GOOGLE_GEMINI_BASE_URL", "").strip() or f"https://{HOST}"
        host = urlsplit(self._address).hostname
        known = host == HOST or is_loopback(self._address)
        self.notice = "" if known else f"asking {host} with the key in {self._key_name}"
        self._about = _about(self.model)
        self._client: Any = None

    def most_out(self, request: Request) -> int:
        """Return the cap that is sent: thoughts count against it, so they get room of their own."""
        return min(_MOST_OUT, request.sampling.max_tokens + self._room(request.thinking))

    async def attempt(self, request: Request) -> Outcome:
        """Send the request once."""
        import aiohttp
        import httpx2
        from google.genai import errors

        try:
            response = await self._opened().aio.models.generate_content(
                model=self.model, contents=_contents(request), config=self._config(request)
            )
            return _outcome(response)
        except errors.APIError as error:
            raise self._refused(error.code, error.message or error.status or "no reason given", error.details) from None
        except (aiohttp.ClientConnectorError, httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            why = getattr(error, "os_error", error)  # aiohttp's own words have its SSLContext in them
            raise Failed("down", f"{self._address} cannot be reached: {scrub(why, self._key)}") from None
        except (TimeoutError, aiohttp.ClientError, httpx2.TransportError, json.JSONDecodeError, OSError) as error:
            raise Failed("lost", scrub(error, self._key)) from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Failed("down", f"a reply that is no answer ({scrub(error, self._key)})") from None

    async def close(self) -> None:
        """Close the client's sessions."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aio.aclose()
            client.close()

    def _opened(self) -> Any:
        if self._client is None:
            from google import genai
            from google.genai import types

            options = types.HttpOptions(
                base_url=self._address,
                api_version=API_VERSION,
                timeout=round(self.timeout_seconds * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),  # None would still repeat a dropped connection
                # The key is for the host that was named: aiohttp would carry it wherever that one points to.
                async_client_args={"allow_redirects": False, "follow_redirects": False},
            )
            self._client = genai.Client(api_key=self._key, http_options=options, vertexai=False)
        return self._client

    # --- the request

    def _config(self, request: Request) -> dict[str, Any]:
        sampling, thinking = request.sampling, self._thinking(request.thinking)
        system = "\n\n".join(message["content"] for message in request.messages if message["role"] == "system")
        config: dict[str, Any] = {
            "system_instruction": system or None,
            "max_output_tokens": self.most_out(request),
            "stop_sequences": list(sampling.stop) or None,
            "seed": sampling.seed % 2**31,
            "safety_settings": _UNFILTERED,
        }
        if self._about.tunes:
            config |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if request.schema is not None:
            config |= {"response_mime_type": "application/json", "response_schema": request.schema}
        if isinstance(thinking, int):
            config["thinking_config"] = {"thinking_budget": thinking}
        elif thinking is not None:
            config["thinking_config"] = {"thinking_level": thinking.upper()}
        return config

    def _thinking(self, wanted: int | None) -> int | str | None:
        """Return a budget, a level, or None: say nothing and let the model decide."""
        about = self._about
        if wanted is None or about.thinks == "no":
            return None
        if about.thinks == "budget":
            return wanted if wanted < 0 else max(wanted, int(about.least))
        if wanted < 0:
            return None
        wanted = max(wanted, _ROOM[str(about.least)])
        return next((level for level, room in _ROOM.items() if room >= wanted), "high")

    def _room(self, wanted: int | None) -> int:
        thinking = self._thinking(wanted)
        if isinstance(thinking, str):
            return _ROOM[thinking]
        return self._about.most_thought if thinking is None or thinking < 0 else thinking

    # --- what goes wrong

    def _refused(self, code: int, said: str, body: Any = None) -> Failed:
        """Return what an error status means for the call, and for all calls after it."""
        message = scrub(said, self._key)
        if code == 429:
            return self._quota(message, body)
        key = f"the key in {self._key_name}"
        return refused(code, message, message, server="Gemini", model=self.model, key=key)

    def _quota(self, message: str, body: Any) -> Failed:
        details = _details(body)
        if _NO_MONEY.search(message):
            return Failed(
                "over",
                f"the money of the key in {self._key_name} is used up ({message}). What is done is kept: add some, or "
                "raise its spending cap, and run the same command.",
            )
        for violation in (violation for detail in details for violation in detail.get("violations") or ()):
            if "PerDay" in (quota := str(violation.get("quotaId", ""))):
                return Failed(
                    "over",
                    f"today's Gemini quota of the key in {self._key_name} is used up ({scrub(quota, self._key)}, "
                    f"{violation.get('quotaValue')} a day). What is done is kept: the same command goes on tomorrow, "
                    "or at once with another model or a paid key.",
                )
        delays = [seconds_in(detail["retryDelay"]) for detail in details if detail.get("retryDelay")]
        return Failed("busy", f"429 {message}", wait_seconds=delays[0] if delays else None)


_NO_MONEY = re.compile(r"spend(?:ing)? (?:cap|limit)|prepa(?:id|y)|credits? (?:is|are|has|have|balance)", re.I)
_UNFILTERED = [
    {"category": f"HARM_CATEGORY_{kind}", "threshold": "OFF"}
    for kind in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
]


def _contents(request: Request) -> list[dict[str, Any]]:
    """Return the turns of a request; its system turn stands in the config."""
    roles = {"user": "user", "assistant": "model"}
    return [
        {"role": roles[message["role"]], "parts": [{"text": message["content"]}]}
        for message in request.messages
        if message["role"] != "system"
    ]


_REFUSALS = ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "MODEL_ARMOR", "LANGUAGE")
_ENDS: dict[str, What] = {"MAX_TOKENS": "length", "RECITATION": "recitation", **dict.fromkeys(_REFUSALS, "blocked")}


def _outcome(response: Any) -> Outcome:
    """Read what Gemini said."""
    used, usage = response.usage_metadata, None
    if used is not None:
        usage = usage_of(used.prompt_token_count, used.candidates_token_count or 0, used.thoughts_token_count or 0)
    if not response.candidates:
        if used is None and response.prompt_feedback is None:
            raise Failed("down", "a reply without candidates or usage")  # an outage, and no answer for good
        feedback = response.prompt_feedback
        return Outcome(what="blocked" if feedback is not None and feedback.block_reason else "empty", usage=usage)
    candidate = response.candidates[0]
    parts = (candidate.content.parts if candidate.content else None) or ()
    text = encodable("".join(part.text for part in parts if part.text and not part.thought))
    reason = getattr(candidate.finish_reason, "value", "STOP")
    said: What = "ok" if reason == "STOP" and text.strip() else "empty"  # by OTHER and reasons newer than this file too
    return Outcome(what=_ENDS.get(reason, said), text=text, mean_logprob=candidate.avg_logprobs, usage=usage)


def _details(body: Any) -> list[dict[str, Any]]:
    error = body.get("error", body) if isinstance(body, dict) else {}
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details or () if isinstance(detail, dict)]
