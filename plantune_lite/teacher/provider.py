"""Define one attempt to call any model: the request, its outcome, and how a schema is enforced.

A provider (gemini, openai, a student) turns a Request into an Outcome, or raises Failed where there is none; what to do
about either is decided in one place, teacher.py.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from plantune_lite.types import Messages, PlantuneError, Sampling


class TeacherError(PlantuneError, RuntimeError):
    """Raised when the teacher cannot continue: a missing or wrong key, a retired model, a used-up quota, an outage."""


class UnansweredError(TeacherError):
    """Raised when one request fails; others may succeed."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why.rstrip('.')}. What is done is kept: rerun the command to resume.")
        self.why = why


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request to a model, which gets one reply."""

    messages: Messages
    sampling: Sampling
    schema: type | None = None
    thinking: int | None = 0  # tokens; 0 = the model's minimum, -1 = the model decides, None = its default


# "ok" usable text; "length" cut off; "empty" no text; "recitation" withheld as a quotation; "blocked" refused;
# "declined" not started: the prompt is too long for the window or fails the filter, and cost nothing
What = Literal["ok", "length", "empty", "recitation", "blocked", "declined"]


@dataclass(frozen=True)
class Usage:
    """Tokens of a request as the server reports them."""

    tokens_in: int
    tokens_out: int
    tokens_thought: int = 0  # billed as output


_MOST_TOKENS = 10_000_000  # of a request: a larger count is an error


def usage_of(tokens_in: Any, tokens_out: Any, tokens_thought: Any) -> Usage | None:
    """Return the usage a server reports where it is plausible; else None, and the worst case counts."""
    counts = (tokens_in, tokens_out, tokens_thought)
    if any(not isinstance(count, int) or not 0 <= count <= _MOST_TOKENS for count in counts):
        return None
    return Usage(*counts)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one request."""

    what: What
    text: str = ""
    usage: Usage | None = None  # None: the server did not report it


# "busy" rate limited; "down" failed at no cost; "lost" failed, and may have been billed;
# "reworded" refused a field that the provider will leave out or lower from now on, which `why` says once;
# "declined" refused this prompt;
# "refused" refused this request for another reason; "over" no further request can succeed
Failure = Literal["busy", "down", "lost", "reworded", "declined", "refused", "over"]


class Failed(Exception):
    """A request without an outcome."""

    def __init__(self, what: Failure, why: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(why)
        self.what, self.why, self.wait_seconds = what, why, wait_seconds


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    tokens_in: float
    tokens_out: float  # thoughts too

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """Return what these tokens cost."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


FREE = Price(0.0, 0.0)


class Provider(Protocol):
    """A way to call one model."""

    model: str
    price: Price
    notice: str  # shown before the first request, where a key goes to an unusual address; "" = none

    def most_out(self, request: Request) -> int:
        """Return the maximum output and thought tokens that this request can be billed for."""
        ...

    async def attempt(self, request: Request) -> Outcome:
        """Send the request once."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def most_in(request: Request) -> int:
    """Return the maximum input tokens: no tokenizer makes more than one token per byte, but templates add some."""
    sizes = [len(message["content"].encode()) + 16 for message in request.messages]
    shape = 0 if request.schema is None else 2 * len(json.dumps(shape_of(request.schema)).encode())
    return sum(sizes) + shape + 64


def scrub(message: object, key: str | None = None) -> str:
    """Return a server's message or an error as one short line without the key."""
    text = str(message) or type(message).__name__
    if key:
        text = text.replace(key, "(the key)")
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:399] + "…"


# Messages of vLLM, llama.cpp, OpenAI, Azure, OpenRouter and Gemini.
_ITS_PROMPT = re.compile(
    r"context[ _](?:length|size|window)|maximum number of tokens|(?:prompt|input) is too long"
    r"|content[ _](?:filter|policy)|content management|(?:prompt|input|content) (?:was|is|has been) flagged",
    re.IGNORECASE,
)


def blames_the_prompt(text: str) -> bool:
    """Return whether a refusal is about this prompt only: too long for the window or caught by a filter."""
    return _ITS_PROMPT.search(text) is not None


def refused(code: int, message: str, details: str, *, server: str, model: str, key: str) -> Failed:
    """Return what an error status means for this call and all later ones; `details` includes the error's codes."""
    if code in (408, 499) or code >= 500:
        return Failed("down", f"{code} {message}")
    if code == 413 or (code in (400, 403, 422) and blames_the_prompt(details)):
        return Failed("declined", f"{code} {message}")
    if "location is not supported" in message:  # Gemini's 400, which is permanent
        return Failed("over", f"{server} does not serve your country ({message}). Choose another teacher.")
    if code in (401, 403) or "API key" in message:
        return Failed("over", f"{server} refuses {key} for {model} ({code}: {message}). Set a valid one.")
    if code == 404:
        return Failed(
            "over",
            f"{server} has no model {model!r}, or has retired it ({message}). Set distill.model=... to one that is "
            "served there.",
        )
    why = f"{server} refuses the request for {model} ({code}: {message})"
    return Failed("refused" if code in (400, 422) else "over", why)


# --- schemas ----------------------------------------------------------------------------------------------------------


def shape_of(schema: type) -> dict[str, Any]:
    """Return the JSON schema of a pydantic class."""
    return schema.model_json_schema()  # type: ignore[attr-defined]


def fitting(text: str, schema: type) -> str | None:
    """Return the JSON in a reply that validates against the schema; None where there is none."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
        return schema.model_validate_json(text[start:end]).model_dump_json()  # type: ignore[attr-defined]
    except ValueError:  # includes pydantic's ValidationError
        return None


def asking_for(schema: type, messages: Messages) -> Messages:
    """Return the messages with a request for JSON in words, for a model that takes no schema."""
    wish = f"\n\nReply with one JSON object and nothing else. It must fit this schema:\n{json.dumps(shape_of(schema))}"
    *before, last = messages
    return (*before, {**last, "content": last["content"] + wish})


# --- addresses and delays ---------------------------------------------------------------------------------------------


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    import ipaddress
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def seconds_in(text: str | None) -> float | None:
    """Read `3s` or `2.5` as seconds; None where it is neither."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)s?", (text or "").strip())
    return float(match[1]) if match else None
