"""Call Gemini through google-genai: one request and its outcome.

Request(messages=messages, sampling=Sampling()) -> Outcome(what="ok", text="1. Divide ...", ...)

The client's own retries are off: it ignores the delay that the server asks for, and the ledger would not see its silent
retries. Differences between models are in models.py.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from plantune_lite.files import encodable
from plantune_lite.teacher.models import Level, model_name, price_of, takes
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

API_VERSION = "v1beta"  # google-genai 3.x would use v1, which has no `gemini-*-latest` names
KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # in the client's own order
HOST = "generativelanguage.googleapis.com"
_MOST_OUT = 65_536  # tokens, of every model in the table
_ROOM: dict[Level, int] = {"minimal": 1024, "low": 4096, "medium": 16_384, "high": 32_768}  # tokens of thought, assumed


def key_name(environ: Mapping[str, str]) -> str:
    """Return which key is set, "" where none is; a blank one does not count."""
    return next((name for name in KEYS if environ.get(name, "").strip()), "")


# --- the provider -----------------------------------------------------------------------------------------------------


class Gemini:
    """One Gemini model with one key."""

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
        self._takes = takes(self.model)
        self._client: Any = None

    def most_out(self, request: Request) -> int:
        """Return the cap that is sent: thoughts count against it, so it has extra room for them."""
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
            why = getattr(error, "os_error", error)  # aiohttp's message contains its SSLContext
            raise Failed("down", f"{self._address} cannot be reached: {scrub(why, self._key)}") from None
        except TimeoutError as error:
            raise Failed("lost", scrub(error, self._key)) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:  # before a response began
            raise Failed("down", scrub(error, self._key)) from None
        except (aiohttp.ClientError, httpx2.RequestError, OSError) as error:
            raise Failed("lost", scrub(error, self._key)) from None
        except (ValueError, RecursionError) as error:  # not JSON, wrong shape: it may be billed all the same
            raise Failed("lost", f"a reply that is not an answer ({scrub(error, self._key)})") from None
        except (AttributeError, LookupError, TypeError) as error:  # null, or a list
            raise Failed("down", f"a reply that is not an answer ({scrub(error, self._key)})") from None

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
                # The key is for this host only: aiohttp would send it along with redirects.
                async_client_args={"allow_redirects": False, "follow_redirects": False},
            )
            self._client = genai.Client(api_key=self._key, http_options=options, vertexai=False)
        return self._client

    # --- the request

    def _config(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        system = "\n\n".join(message["content"] for message in request.messages if message["role"] == "system")
        config: dict[str, Any] = {
            "system_instruction": system or None,
            "max_output_tokens": self.most_out(request),
            "stop_sequences": list(sampling.stop) or None,
            "seed": sampling.seed % 2**31,
            "safety_settings": _UNFILTERED,
        }
        if self._takes.tunes:
            config |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if request.schema is not None:
            config |= {"response_mime_type": "application/json", "response_schema": request.schema}
        if level := self._level(request.thinking):
            config["thinking_config"] = {"thinking_level": level.upper()}
        return config

    def _level(self, wanted: int | None) -> Level | None:
        """Return the level that has room for these tokens, or None: send none and let the model decide."""
        least = self._takes.least
        if least is None or wanted is None or wanted < 0:
            return None
        return next((level for level, room in _ROOM.items() if room >= max(wanted, _ROOM[least])), "high")

    def _room(self, wanted: int | None) -> int:
        return _ROOM[self._level(wanted) or "high"] if self._takes.least else 0

    # --- what goes wrong

    def _refused(self, code: int, reason: str, body: Any = None) -> Failed:
        """Return what an error status means for this call and all later ones."""
        message = scrub(reason, self._key)
        if code == 429:
            return self._quota(message, body)
        key = f"the key in {self._key_name}"
        return refused(code, message, message, server="Gemini", model=self.model, key=key)

    def _quota(self, message: str, body: Any) -> Failed:
        details = _details(body)
        if _NO_MONEY.search(message):
            return Failed(
                "over",
                f"the credit of the key in {self._key_name} is used up ({message}). What is done is kept: add some, or "
                "raise its spending cap, and rerun the command to resume.",
            )
        for violation in (violation for detail in details for violation in detail.get("violations") or ()):
            if "PerDay" in (quota := str(violation.get("quotaId", ""))):
                return Failed(
                    "over",
                    f"today's Gemini quota of the key in {self._key_name} is used up ({scrub(quota, self._key)}, "
                    f"{violation.get('quotaValue')} a day). What is done is kept: rerun the command tomorrow to "
                    "resume, or at once with another model or a paid key.",
                )
        delays = [seconds_in(detail["retryDelay"]) for detail in details if detail.get("retryDelay")]
        return Failed("busy", f"429 {message}", wait_seconds=delays[0] if delays else None)


_NO_MONEY = re.compile(r"spend(?:ing)? (?:cap|limit)|prepa(?:id|y)|credits? (?:is|are|has|have|balance)", re.I)
_UNFILTERED = [
    {"category": f"HARM_CATEGORY_{kind}", "threshold": "OFF"}
    for kind in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
]


def _contents(request: Request) -> list[dict[str, Any]]:
    """Return the turns of a request; its system turn is in the config."""
    roles = {"user": "user", "assistant": "model"}
    return [
        {"role": roles[message["role"]], "parts": [{"text": message["content"]}]}
        for message in request.messages
        if message["role"] != "system"
    ]


_REFUSALS = ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "MODEL_ARMOR", "LANGUAGE")
_ENDS: dict[str, What] = {"MAX_TOKENS": "length", "RECITATION": "recitation", **dict.fromkeys(_REFUSALS, "blocked")}


def _outcome(response: Any) -> Outcome:
    """Read Gemini's response."""
    used, usage = response.usage_metadata, None
    if used is not None:
        usage = usage_of(used.prompt_token_count, used.candidates_token_count or 0, used.thoughts_token_count or 0)
    if not response.candidates:
        if used is None and response.prompt_feedback is None:
            raise Failed("down", "a reply without candidates or usage")  # an outage, not a final answer
        feedback = response.prompt_feedback
        return Outcome(what="blocked" if feedback is not None and feedback.block_reason else "empty", usage=usage)
    candidate = response.candidates[0]
    parts = (candidate.content.parts if candidate.content else None) or ()
    text = encodable("".join(part.text for part in parts if part.text and not part.thought))
    reason = getattr(candidate.finish_reason, "value", "STOP")
    default: What = "ok" if reason == "STOP" and text.strip() else "empty"  # for OTHER and newer reasons too
    return Outcome(what=_ENDS.get(reason, default), text=text, usage=usage)


def _details(body: Any) -> list[dict[str, Any]]:
    error = body.get("error", body) if isinstance(body, dict) else {}
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details or () if isinstance(detail, dict)]
