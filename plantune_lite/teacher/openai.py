"""Any server that speaks OpenAI's chat completions (Ollama, vLLM, llama.cpp, OpenRouter): one request and its outcome.

Request(messages=messages, sampling=Sampling(n=1), schema=None) -> [Outcome(what="ok", text="1. Divide ...", ...)]

Servers agree on messages and differ in everything else. A field that one refuses by name is left out, or said in
words, for the rest of the process.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from plantune_lite.files import encodable
from plantune_lite.teacher.prices import OVERRIDE, price_of
from plantune_lite.teacher.provider import (
    FREE,
    Failed,
    Outcome,
    Price,
    Request,
    TeacherError,
    Usage,
    asking_for,
    blames_the_prompt,
    habits_of,
    is_loopback,
    key_in,
    prefix_of,
    scrub,
    seconds_in,
    shape_of,
    shared,
    without_prefix,
)

KEYS = ("OPENAI_API_KEY",)
_ROOM = 8192  # tokens of thought we make room for where the model decides
_CANDIDATES = 16
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)  # servers without a reasoning parser leave it in the text
# In the order in which a server that names several at once is taken to mean them.
_OPTIONAL = (
    "continue_final_message",
    "add_generation_prompt",
    "response_format",
    "max_tokens",
    "seed",
    "top_p",
    "temperature",
    "stop",
    "n",
)


class OpenAICompatible:
    """One model of one server."""

    def __init__(
        self,
        url: str,
        model: str | None,
        *,
        environ: Mapping[str, str] = os.environ,
        timeout_seconds: float = 300.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            shown = parts._replace(netloc=parts.hostname or "", query="").geturl()  # a password may stand in it
            raise TeacherError(
                f"distill.teacher is {scrub(shown)!r}, but must be gemini, "
                "self, worked, or a base URL such as http://localhost:11434/v1 (a key goes into OPENAI_API_KEY)"
            )
        self._address = url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self._local = is_loopback(url)
        found = key_in(KEYS, environ)
        self._key_name, self._key = found or (KEYS[0], None)
        if self._key is None and not self._local:
            raise TeacherError(
                f"distill.teacher is {url!r}, but no key is set: put one in the environment as {KEYS[0]} (any text, "
                "where the server wants none)"
            )
        self.notice = "" if self._local else f"asking {parts.netloc} with the key in {self._key_name}"
        self.model = model or ""
        self._environ = environ
        self._timeout_seconds = timeout_seconds
        self._client: Any = None
        self.price: Price = FREE

    def __repr__(self) -> str:
        return f"OpenAICompatible({self._address!r}, {self.model!r})"

    async def open(self) -> None:
        """Find out which model is served, where none was named, and what it costs."""
        if not self.model:
            self.model = await self._only_model()
        self._habits = habits_of(self._address, self.model)
        paid = not self._local or self._environ.get(OVERRIDE)
        self.price = price_of(self.model, environ=self._environ) if paid else FREE

    @property
    def candidates(self) -> int:
        """How many one request may ask for."""
        return 1 if "n" in self._habits else _CANDIDATES

    def most_out(self, request: Request) -> int:
        """The cap that is sent; thoughts count against it."""
        thinking = request.thinking
        room = 0 if thinking == 0 else _ROOM if thinking is None or thinking < 0 else thinking
        return request.sampling.max_tokens + room

    async def attempt(self, request: Request) -> list[Outcome]:
        """Send the request once."""
        import httpx2

        body = self._body(request)
        try:
            response = await self._opened().post("/chat/completions", json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Failed("down", f"{self._address} cannot be reached: {self._scrubbed(error)}") from None
        except httpx2.TransportError as error:
            raise Failed("lost", self._scrubbed(error)) from None
        if response.status_code != 200:
            raise self._refused(response, body)
        try:
            reply = response.json()
            choices = sorted(reply["choices"], key=lambda choice: choice.get("index") or 0)
            outcomes = [_outcome(choice, request) for choice in choices[: request.sampling.n]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failed("lost", f"a reply that is no chat completion ({self._scrubbed(error)})") from None
        if len(outcomes) < request.sampling.n:
            self._habits.refuse("n")
        return shared(outcomes or [Outcome(what="empty", why="no choices")], _usage(reply.get("usage")))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _opened(self) -> Any:
        if self._client is None:
            import httpx2

            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx2.AsyncClient(
                base_url=self._address,
                headers=headers,
                timeout=self._timeout_seconds,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
                trust_env=not self._local,  # a proxy is no way to this machine
            )
        return self._client

    async def _only_model(self) -> str:
        import httpx2

        try:
            response = await self._opened().get("/models", timeout=30.0)
            if response.status_code != 200:
                raise self._as_error(self._refused(response, {}))
            names = [one["id"] for one in response.json()["data"]]
        except httpx2.TransportError as error:
            raise TeacherError(
                f"no server answers at {self._address} ({self._scrubbed(error)}). Start it, or mend distill.teacher."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise TeacherError(
                f"{self._address}/models lists no models ({self._scrubbed(error)}): set distill.model=..."
            ) from None
        if len(names) == 1:
            return str(names[0])
        listed = scrub(", ".join(map(str, names[:12])), self._key)
        raise TeacherError(f"{self._address} serves {len(names)} models ({listed}): choose one with distill.model=...")

    @staticmethod
    def _as_error(failed: Failed) -> TeacherError:
        return TeacherError(failed.why)

    # --- the request

    def _body(self, request: Request) -> dict[str, Any]:
        sampling, habits = request.sampling, self._habits
        messages = request.messages
        if request.schema is not None and "response_format" in habits:
            messages = asking_for(request.schema, messages)
        cap = "max_completion_tokens" if "max_tokens" in habits else "max_tokens"
        body = {"model": self.model, "messages": list(messages), cap: self.most_out(request)}
        wanted: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed % 2**31,
            "stop": list(sampling.stop) or None,
            "n": sampling.n if sampling.n > 1 else None,
        }
        if prefix_of(messages):  # vLLM begins a new turn unless it is told; others go on, or repeat the beginning
            wanted |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.schema is not None:
            shape = {"name": request.schema.__name__, "schema": shape_of(request.schema)}
            wanted["response_format"] = {"type": "json_schema", "json_schema": shape}
        return body | {name: value for name, value in wanted.items() if value is not None and name not in habits}

    # --- the reply

    def _refused(self, response: Any, body: dict[str, Any]) -> Failed:
        code, error = response.status_code, _error_in(response)
        message = self._scrubbed(error.get("message") or response.reason_phrase or f"status {code}")
        if code == 429:
            if error.get("code") == "insufficient_quota" or error.get("type") == "insufficient_quota":
                return Failed(
                    "over",
                    f"the credit of the key in {self._key_name} is used up ({message}). What is done is kept: add "
                    "credit and run the same command.",
                )
            return Failed("busy", f"429 {message}", wait_seconds=seconds_in(response.headers.get("retry-after")))
        if code == 408 or code >= 500:
            return Failed("down", f"{code} {message}")
        said = " ".join(str(error.get(name) or "") for name in ("code", "type", "message"))
        if code == 413 or (code in (400, 403, 422) and blames_the_prompt(said)):
            return Failed("declined", f"{code} {message}")
        if code in (400, 422):
            named = str(error.get("param") or "")
            for name in _OPTIONAL:
                if name in body and (named.split(".")[0] == name or re.search(rf"(?<![\w-]){name}(?![\w-])", message)):
                    self._habits.refuse(name)
                    return Failed("reworded", message)
        if code in (401, 403):
            has = f"the key in {self._key_name}" if self._key else f"a request without a key (set {self._key_name})"
            return Failed("over", f"{self._address} refuses {has} ({code}: {message})")
        if code == 404:
            return Failed(
                "over",
                f"{self._address} has no model {self.model!r}, or is no such server ({message}). Set distill.model=... "
                "to one of its models, or mend distill.teacher.",
            )
        why = f"{self._address} refuses the request for {self.model} ({code}: {message})"
        return Failed("refused" if code in (400, 422) else "over", why)

    def _scrubbed(self, error: object) -> str:
        return scrub(str(error) or type(error).__name__, self._key)


def _outcome(choice: dict[str, Any], request: Request) -> Outcome:
    text = _THOUGHT.sub("", encodable(choice["message"].get("content") or ""), count=1)
    text = without_prefix(text, prefix_of(request.messages))
    for stop in request.sampling.stop:  # where the server would not hear of them
        text = text.partition(stop)[0]
    reason = choice.get("finish_reason") or "stop"
    if reason == "length":
        return Outcome(what="length", text=text, why=reason)
    if reason == "content_filter":
        return Outcome(what="blocked", why=reason)
    return Outcome(what="ok", text=text) if text.strip() else Outcome(what="empty", why=reason)


def _usage(used: Any) -> Usage | None:
    if not isinstance(used, dict) or used.get("prompt_tokens") is None:
        return None
    out = used.get("completion_tokens") or 0
    thought = (used.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return Usage(used["prompt_tokens"], max(0, out - thought), thought)


def _error_in(response: Any) -> dict[str, Any]:
    """The error object in OpenAI's form, or whatever a server writes instead."""
    try:
        body = response.json()
    except ValueError:
        return {"message": response.text[:200]}
    error = body.get("error", body) if isinstance(body, dict) else body
    return error if isinstance(error, dict) else {"message": json.dumps(error)}
