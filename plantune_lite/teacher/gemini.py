"""Gemini through google-genai: one request, and what came of it.

Request(messages=messages, sampling=Sampling(n=1), schema=None) -> [Outcome(what="ok", text="1. Divide ...", ...)]

The client's own retries are off: it ignores the delay that the server asks for, and an attempt that it repeats in
silence is one that no ledger sees. What differs from model to model stands in one table; where the table is wrong, the
server's 400 names the field, which is then left out for the rest of the process.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from plantune_lite.files import encodable
from plantune_lite.teacher.prices import price_of
from plantune_lite.teacher.provider import (
    Failed,
    Outcome,
    Request,
    TeacherError,
    Usage,
    What,
    asking_for,
    asking_to_go_on,
    blames_the_prompt,
    habits_of,
    is_loopback,
    key_in,
    prefix_of,
    scrub,
    seconds_in,
    shared,
    without_prefix,
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
    candidates: int = 1
    tunes: bool = True  # False: temperature and top_p are deprecated and ignored, the seed alone varies
    prefills: bool = True  # False: a request must not end with a model turn


_CANDIDATES = 8  # what Gemini 2.5 takes; Gemini 3 answers 400 "Multiple candidates is not enabled for this model"
_LATE = {"thinks": "level", "tunes": False, "prefills": False}

# The longest name that begins a model's name. As of 2026-10-07, from Google's guides and users' reports.
_MODELS: dict[str, _Model] = {
    "gemini-3.8-flash": _Model(**_LATE, least="low"),  # 400 on "minimal"
    "gemini-3.7-flash": _Model(**_LATE, least="low"),
    "gemini-3.6-flash": _Model(**_LATE, least="minimal"),
    "gemini-3.5-flash-lite": _Model(**_LATE, least="minimal"),
    "gemini-3.5-flash": _Model(thinks="level", least="minimal"),
    "gemini-3.1-flash-lite": _Model(thinks="level", least="minimal"),
    "gemini-3": _Model(thinks="level", least="low"),
    "gemini-2.5-pro": _Model(thinks="budget", least=128, candidates=_CANDIDATES),
    "gemini-2.5": _Model(thinks="budget", most_thought=24_576, candidates=_CANDIDATES),
    "gemini-": _Model(**_LATE, least="low"),  # newer than this table
    "": _Model(thinks="no", most_thought=0),
}
_ROOM = {"minimal": 1024, "low": 4096, "medium": 16_384, "high": 32_768}  # tokens of thought we make room for


def _about(model: str) -> _Model:
    name = model.removeprefix("models/")
    return _MODELS[max((known for known in _MODELS if name.startswith(known)), key=len)]


# --- the provider -----------------------------------------------------------------------------------------------------


class Gemini:
    """One Gemini model behind one key."""

    def __init__(
        self, model: str | None, *, environ: Mapping[str, str] = os.environ, timeout_seconds: float = 180.0
    ) -> None:
        self.model = (model or DEFAULT_MODEL).removeprefix("models/")
        self.price = price_of(self.model, environ=environ)
        found = key_in(KEYS, environ)
        if found is None:
            raise TeacherError(
                f"distill.teacher is 'gemini', but no key is set: put one in the environment as {KEYS[1]} "
                "(aistudio.google.com makes them), or set distill.teacher=self"
            )
        self._key_name, self._key = found
        self._address = environ.get("GOOGLE_GEMINI_BASE_URL", "").strip() or f"https://{HOST}"
        host = re.sub(r"^\w+://(?:[^/@]*@)?", "", self._address).split("/")[0]
        known = host == HOST or is_loopback(self._address)
        self.notice = "" if known else f"asking {host} with the key in {self._key_name}"
        self._about, self._habits = _about(self.model), habits_of(self._address, self.model)
        self._timeout_seconds = timeout_seconds
        self._client: Any = None

    def __repr__(self) -> str:
        return f"Gemini({self.model!r})"

    @property
    def candidates(self) -> int:
        """How many one request may ask for."""
        return 1 if "candidates" in self._habits else self._about.candidates

    async def open(self) -> None:
        """Nothing to find out: the model is known, and a wrong one is told by the first call."""

    def most_out(self, request: Request) -> int:
        """The cap that is sent: thoughts count against it, so they get room of their own."""
        return min(_MOST_OUT, request.sampling.max_tokens + self._room(request.thinking))

    async def attempt(self, request: Request) -> list[Outcome]:
        """Send the request once."""
        config = self._config(request)
        with self._in_our_words(config):
            response = await self._opened().aio.models.generate_content(
                model=self.model, contents=self._contents(request), config=config
            )
        return self._outcomes(response, request)

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
                timeout=round(self._timeout_seconds * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),  # None would still repeat a dropped connection
            )
            self._client = genai.Client(api_key=self._key, http_options=options, vertexai=False)
        return self._client

    # --- the request

    def _contents(self, request: Request) -> list[dict[str, Any]]:
        messages = request.messages
        if request.schema is not None and "schema" in self._habits:
            messages = asking_for(request.schema, messages)
        if prefix_of(messages) and (not self._about.prefills or "prefix" in self._habits):
            messages = asking_to_go_on(messages)
        roles = {"user": "user", "assistant": "model"}
        return [
            {"role": roles[message["role"]], "parts": [{"text": message["content"]}]}
            for message in messages
            if message["role"] != "system"
        ]

    def _config(self, request: Request) -> Any:
        from google.genai import types

        sampling, habits = request.sampling, self._habits
        system = "\n\n".join(message["content"] for message in request.messages if message["role"] == "system")
        config = types.GenerateContentConfig(max_output_tokens=self.most_out(request))
        if system:
            config.system_instruction = system
        if sampling.stop:
            config.stop_sequences = list(sampling.stop)
        if "seed" not in habits:
            config.seed = sampling.seed % 2**31
        if self._about.tunes and "temperature" not in habits:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
        if sampling.n > 1:
            config.candidate_count = sampling.n
        if "safety" not in habits:
            config.safety_settings = _unfiltered()
        if request.schema is not None and "schema" not in habits:
            config.response_mime_type, config.response_schema = "application/json", request.schema
        if (thinking := self._thinking(request.thinking)) is not None:
            if isinstance(thinking, int):
                config.thinking_config = types.ThinkingConfig(thinking_budget=thinking)
            else:
                config.thinking_config = types.ThinkingConfig(thinking_level=types.ThinkingLevel(thinking.upper()))
        return config

    def _thinking(self, wanted: int | None) -> int | str | None:
        """A budget, a level, or None: say nothing and let the model decide."""
        about = self._about
        if wanted is None or about.thinks == "no" or "thinking" in self._habits:
            return None
        if about.thinks == "budget":
            return wanted if wanted < 0 else max(wanted, int(about.least))
        if wanted < 0:
            return None
        least = "low" if "minimal" in self._habits else str(about.least)
        if wanted <= _ROOM[least]:
            return least
        return next((level for level, room in _ROOM.items() if room >= max(wanted, _ROOM["low"])), "high")

    def _room(self, wanted: int | None) -> int:
        thinking = self._thinking(wanted)
        if isinstance(thinking, str):
            return _ROOM[thinking]
        return self._about.most_thought if thinking is None or thinking < 0 else thinking

    # --- the reply

    @contextmanager
    def _in_our_words(self, config: Any) -> Iterator[None]:
        """Around a call of the client: its errors leave as Failed."""
        import aiohttp
        import httpx2
        from google.genai import errors

        try:
            yield
        except errors.APIError as error:
            raise self._refused(error, config) from None
        except (aiohttp.ClientConnectorError, httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Failed("down", self._scrubbed(error)) from None
        except (TimeoutError, aiohttp.ClientError, httpx2.TransportError, json.JSONDecodeError, OSError) as error:
            raise Failed("lost", self._scrubbed(error)) from None

    def _outcomes(self, response: Any, request: Request) -> list[Outcome]:
        used = response.usage_metadata
        usage = None
        if used is not None and used.prompt_token_count is not None:
            tokens_in = used.prompt_token_count + (used.tool_use_prompt_token_count or 0)
            usage = Usage(tokens_in, used.candidates_token_count or 0, used.thoughts_token_count or 0)
        if not response.candidates:
            feedback = response.prompt_feedback
            reason = _word(feedback.block_reason) if feedback is not None and feedback.block_reason else ""
            what: What = "blocked" if reason else "empty"
            return shared([Outcome(what=what, why=reason or "no candidates")] * request.sampling.n, usage)
        prefix = prefix_of(request.messages)
        if len(response.candidates) < request.sampling.n:
            self._habits.refuse("candidates")
        ordered = sorted(response.candidates, key=lambda candidate: candidate.index or 0)
        return shared([_outcome(candidate, prefix) for candidate in ordered[: request.sampling.n]], usage)

    def _refused(self, error: Any, config: Any) -> Failed:
        """What an error status means for the call, and for all calls after it."""
        code, message = error.code, self._scrubbed(error.message or error.status)
        details = _details(error.details)
        if code == 429:
            return self._quota(message, details)
        if code in (408, 499) or code >= 500:
            return Failed("down", f"{code} {message}")
        if code == 400 and blames_the_prompt(message):
            return Failed("declined", f"{code} {message}")
        if code == 400 and (field := self._named_field(message, config)):
            self._habits.refuse(field)
            return Failed("reworded", message)
        if any(detail.get("reason") == "API_KEY_INVALID" for detail in details) or "API key" in message:
            return Failed("over", f"Gemini refuses the key in {self._key_name} ({code}: {message}). Set a valid one.")
        if code in (401, 403):
            return Failed(
                "over",
                f"Gemini refuses the key in {self._key_name} for {self.model} ({code}: {message}). Check its rights.",
            )
        if code == 404:
            return Failed(
                "over",
                f"Gemini has no model {self.model!r}, or has retired it ({message}). Set distill.model=... to a "
                "current one; the default is DEFAULT_MODEL in plantune_lite/teacher/gemini.py.",
            )
        why = f"Gemini refuses the request for {self.model} ({code}: {message})"
        return Failed("refused" if code == 400 else "over", why)

    def _quota(self, message: str, details: list[dict[str, Any]]) -> Failed:
        violations = [one for detail in details for one in detail.get("violations") or ()]
        delays = [seconds_in(detail["retryDelay"]) for detail in details if detail.get("retryDelay")]
        for violation in violations:
            if "PerDay" in (quota := str(violation.get("quotaId", ""))):
                number = f", {violation['quotaValue']} a day" if violation.get("quotaValue") else ""
                return Failed(
                    "over",
                    f"today's Gemini quota of the key in {self._key_name} is used up "
                    f"({scrub(quota, self._key)}{number}). What is done is kept: the same command goes on tomorrow, or "
                    "at once with another model or a paid key.",
                )
        return Failed("busy", f"429 {message}", wait_seconds=next((one for one in delays if one is not None), None))

    def _named_field(self, message: str, config: Any) -> str | None:
        """Which field that was sent the server will not have; a field that was not sent cannot be left out."""
        text = message.lower().replace("_", "").replace(" ", "")
        thinking = config.thinking_config
        if "minimal" in text and thinking is not None and _word(thinking.thinking_level) == "MINIMAL":
            return "minimal"
        sent = {
            "candidates": (config.candidate_count, ("multiplecandidates", "candidatecount")),
            "prefix": ("prefix" not in self._habits, ("endingwithamodelturn", "endswithauserrole")),
            "thinking": (thinking, ("thinking",)),
            "temperature": (config.temperature is not None, ("temperature", "topp")),
            "seed": (config.seed is not None, ("seed",)),
            "safety": (config.safety_settings, ("safetysetting", "harmcategory", "harmblock")),
            "schema": (config.response_schema, ("responseschema", "responsemimetype", "jsonmode")),
        }
        for name, (was_sent, words) in sent.items():
            if was_sent and any(word in text for word in words):
                return name  # perhaps not news: calls that left together are refused together
        return None

    def _scrubbed(self, error: object) -> str:
        text = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            text = f"no reply within {self._timeout_seconds:g} s"
        elif isinstance(error, json.JSONDecodeError):
            text = f"a reply that is no JSON ({text})"
        return scrub(text, self._key)


def _outcome(candidate: Any, prefix: str) -> Outcome:
    parts = (candidate.content.parts if candidate.content else None) or ()
    said = encodable("".join(part.text for part in parts if part.text and not part.thought))
    text = without_prefix(said, prefix)
    reason = _word(candidate.finish_reason) or "STOP"
    logprob = candidate.avg_logprobs
    if reason == "MAX_TOKENS":
        return Outcome(what="length", text=text, why=reason, mean_logprob=logprob)
    if reason in _REFUSALS:
        return Outcome(what="blocked", why=reason)
    if reason == "RECITATION":
        return Outcome(what="recitation", why=reason)
    if reason == "STOP" and text.strip():
        return Outcome(what="ok", text=text, mean_logprob=logprob)
    return Outcome(what="empty", why=reason)  # also OTHER, MALFORMED_RESPONSE, and reasons newer than this file


_REFUSALS = {"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "MODEL_ARMOR", "LANGUAGE"}


def _word(value: Any) -> str:
    return "" if value is None else str(getattr(value, "value", value)).upper()


def _details(body: Any) -> list[dict[str, Any]]:
    error = body.get("error", body) if isinstance(body, dict) else {}
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details or () if isinstance(detail, dict)]


def _unfiltered() -> list[Any]:
    from google.genai import types

    kinds = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
    return [
        types.SafetySetting(
            category=types.HarmCategory(f"HARM_CATEGORY_{kind}"), threshold=types.HarmBlockThreshold.OFF
        )
        for kind in kinds
    ]
