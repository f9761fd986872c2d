"""Call any server with OpenAI's chat completions (Ollama, vLLM, llama.cpp, OpenRouter): one request and its outcome.

Request(messages=messages, sampling=Sampling()) -> Outcome(what="ok", text="1. Divide ...", ...)

Servers agree on messages and differ in everything else. A field that one refuses by name is left out from then on, or
put in words.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from plantune_lite.files import encodable
from plantune_lite.teacher.models import OVERRIDE, price_of
from plantune_lite.teacher.provider import (
    FREE,
    Failed,
    Failure,
    Outcome,
    Request,
    TeacherError,
    Usage,
    What,
    asking_for,
    blames_the_prompt,
    is_loopback,
    refused,
    scrub,
    seconds_in,
    shape_of,
    usage_of,
)

KEY = "OPENAI_API_KEY"
_ROOM = 8192  # tokens reserved for thoughts where the model decides
_WINDOW = re.compile(r"(?:maximum context length is|supports at most|must be <=) (\d{1,9})", re.IGNORECASE)
_NEEDED = ("model", "messages", "max_completion_tokens")  # any other field that a server refuses is left out


class OpenAICompatible:
    """One model of one server."""

    timeout_seconds = 180.0

    def __init__(self, url: str, model: str | None, *, environ: Mapping[str, str] = os.environ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            shown = parts._replace(netloc=parts.hostname or "", query="").geturl()  # without a password
            raise TeacherError(
                f"distill.teacher is {scrub(shown)!r}, but must be gemini, "
                "self, worked, or a base URL such as http://localhost:11434/v1 (a key goes into OPENAI_API_KEY)"
            )
        self._address = url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self._local = is_loopback(url)
        self._key = environ.get(KEY, "").strip() or None
        if self._key is None and not self._local:
            raise TeacherError(
                f"distill.teacher is {url!r}, but no key is set: put one in the environment as {KEY} (any text, "
                "where the server needs none)"
            )
        if not model:
            raise TeacherError(f"distill.teacher is {url!r}, but distill.model is not set: name a model that it serves")
        self.notice = "" if self._local else f"asking {parts.netloc} with the key in {KEY}"
        self.model = model
        paid = not self._local or environ.get(OVERRIDE)
        self.price = price_of(model, environ=environ) if paid else FREE
        self._left_out: set[str] = set()  # fields that the server refused
        self._most: int | None = None  # cap on reply tokens, where the server's window is small
        self._fitted = 0  # the largest cap that it accepted
        self._client: Any = None

    def most_out(self, request: Request) -> int:
        """Return the cap that is sent; thoughts count against it."""
        thinking = request.thinking
        room = 0 if thinking == 0 else _ROOM if thinking is None or thinking < 0 else thinking
        wanted = request.sampling.max_tokens + room
        return wanted if self._most is None else min(wanted, self._most)

    async def attempt(self, request: Request) -> Outcome:
        """Send the request once."""
        import httpx2

        body, began = self._body(request), False
        try:
            async with self._opened().stream("POST", "/chat/completions", json=body) as response:
                began = True
                await response.aread()
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Failed("down", f"{self._address} cannot be reached: {scrub(error, self._key)}") from None
        except httpx2.RequestError as error:  # also for a body that cannot be decoded
            unbilled = not began and not isinstance(error, httpx2.TimeoutException)
            raise Failed("down" if unbilled else "lost", scrub(error, self._key)) from None
        if response.status_code != 200:
            raise self._refused(response.status_code, _error_in(response), body, response.headers.get("retry-after"))
        try:
            reply = response.json()
        except (ValueError, RecursionError) as error:
            # An empty body is not billed.
            what: Failure = "lost" if response.content.strip() else "down"
            raise Failed(what, f"a reply that is not a chat completion ({scrub(error, self._key)})") from None
        if isinstance(reply, dict) and reply.get("error") and not reply.get("choices"):  # OpenRouter does this
            error_in = _error_in(response)
            raise self._refused(_status(error_in.get("code")), error_in, body, None)
        if not isinstance(reply, dict) or not (reply.get("choices") or reply.get("usage")):  # an outage
            raise Failed("down", f"a reply that is not a chat completion ({scrub(response.text, self._key)})")
        try:
            outcome = _outcome(reply, request)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            why = f"it lacks {error}" if isinstance(error, LookupError) else error
            raise Failed("lost", f"a reply that is not a chat completion ({scrub(why, self._key)})") from None
        self._fitted = max(self._fitted, _cap(body))
        return outcome

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
                timeout=self.timeout_seconds,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
                trust_env=not self._local,  # no proxy to this machine
            )
        return self._client

    # --- the request

    def _body(self, request: Request) -> dict[str, Any]:
        """Build the body; where a server's error names several fields, the first in this order is left out."""
        sampling, left_out, messages = request.sampling, self._left_out, request.messages
        if request.schema is not None and "response_format" in left_out:
            messages = asking_for(request.schema, messages)
        wanted: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        if messages[-1]["role"] == "assistant":  # vLLM needs these to continue it; others continue or repeat it
            wanted |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.schema is not None:
            shape = {"name": request.schema.__name__, "schema": shape_of(request.schema)}
            wanted["response_format"] = {"type": "json_schema", "json_schema": shape}
        cap = "max_completion_tokens" if "max_tokens" in left_out else "max_tokens"
        wanted |= {cap: self.most_out(request), "seed": sampling.seed % 2**31}
        wanted |= {"top_p": sampling.top_p, "temperature": sampling.temperature, "stop": list(sampling.stop) or None}
        return {name: value for name, value in wanted.items() if value is not None and name not in left_out}

    # --- the reply

    def _refused(self, code: int, error: dict[str, Any], body: dict[str, Any], retry_after: str | None) -> Failed:
        message = scrub(error["message"], self._key)
        if code == 429:
            if "insufficient_quota" in (error.get("code"), error.get("type")):
                return Failed(
                    "over",
                    f"the credit of the key in {KEY} is used up ({message}). What is done is kept: add "
                    "credit and rerun the command to resume.",
                )
            return Failed("busy", f"429 {message}", wait_seconds=seconds_in(retry_after))
        details = " ".join(str(error.get(name) or "") for name in ("code", "type", "param", "message"))
        window = _WINDOW.search(details) if code in (400, 422) else None
        # A reply gets at most half of the window; not the cause where a larger cap was accepted before.
        if window and self._fitted <= (room := int(window[1]) // 2) < _cap(body):
            news = f"replies get {room:,} tokens, not {_cap(body):,} (the server says: {message})"
            news, self._most = "" if self._most == room else news, room
            return Failed("reworded", news)
        if code in (400, 422) and not blames_the_prompt(details):
            for name in body:
                if name not in _NEEDED and re.search(rf"(?<![\w-]){name}(?![\w-])", details):
                    news = "" if name in self._left_out else f"requests now omit {name} (the server says: {message})"
                    self._left_out.add(name)
                    return Failed("reworded", news)
        key = f"the key in {KEY}" if self._key else f"a request without a key (set {KEY})"
        return refused(code, message, details, server=self._address, model=self.model, key=key)


def _outcome(reply: dict[str, Any], request: Request) -> Outcome:
    usage = _usage(reply.get("usage"))
    if not reply["choices"]:
        return Outcome(what="empty", usage=usage)
    choice = reply["choices"][0]
    if choice.get("finish_reason") == "error":
        raise Failed("down", scrub(choice.get("error") or "finish_reason error"))
    text = _without_thoughts(encodable(choice["message"].get("content") or ""))
    if request.messages[-1]["role"] == "assistant":
        text = text.removeprefix(request.messages[-1]["content"])  # some repeat the text that they continue
    for stop in request.sampling.stop:  # in case the server does not support them
        text = text.partition(stop)[0]
    reason = choice.get("finish_reason") or "stop"
    known: dict[str, What] = {"length": "length", "content_filter": "blocked"}
    return Outcome(what=known.get(reason, "ok" if text.strip() else "empty"), text=text, usage=usage)


def _without_thoughts(text: str) -> str:
    """Remove thoughts that a server without a reasoning parser leaves in; the opening tag may be in its template."""
    before, close, after = text.partition("</think>")
    if not close:
        return text
    head, opened, _ = before.partition("<think>")
    return (head.rstrip() if opened else "") + after.lstrip()


def _usage(used: Any) -> Usage | None:
    try:
        thought = (used.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
        return usage_of(used["prompt_tokens"], max(0, (used.get("completion_tokens") or 0) - thought), thought)
    except (AttributeError, LookupError, TypeError):  # missing, or text instead of a number
        return None


def _error_in(response: Any) -> dict[str, Any]:
    """Return the error object in OpenAI's form, built from whatever a server sends."""
    try:
        body = response.json()
    except ValueError:
        body = response.text or response.reason_phrase
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict) and error.get("message"):
        behind = error.get("metadata")  # OpenRouter quotes the server behind it
        quoted = (behind.get("provider_name"), behind.get("raw")) if isinstance(behind, dict) else ()
        return {**error, "message": ": ".join([str(error["message"]), *(str(part) for part in quoted if part)])}
    detail = error.get("detail") if isinstance(error, dict) else None
    if isinstance(detail, list) and all(isinstance(item, dict) and "msg" in item for item in detail):  # FastAPI's
        # Without `input`, which may quote the whole request.
        return {"message": "; ".join(f"{'.'.join(map(str, item.get('loc', ())))}: {item['msg']}" for item in detail)}
    shown = detail or error
    return {"message": shown if isinstance(shown, str) else json.dumps(shown)}


def _status(code: Any) -> int:
    """Return the status of an error that was sent as a reply."""
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _cap(body: dict[str, Any]) -> int:
    return body.get("max_tokens") or body["max_completion_tokens"]
