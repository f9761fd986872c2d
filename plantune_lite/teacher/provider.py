"""One attempt at asking a model, whoever it is: what is sent, what comes of it, and how a schema is kept.

A provider (gemini, openai_compatible, a student) turns a Request into one Outcome a candidate, or raises Failed where
the whole request came to nothing; what to do about either is decided once, in teacher.py.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from plantune_lite.types import Messages, PlantuneError, Sampling


class TeacherError(PlantuneError, RuntimeError):
    """The teacher cannot go on: no key, a wrong one, a retired model, a quota used up, a service that is down."""


class UnansweredError(TeacherError):
    """One request came to nothing; others need not."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why.rstrip('.')}. What is done is kept: the same command goes on from here.")
        self.why = why


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked in one request; sampling.n is the number of candidates, sampling.seed that of the first."""

    messages: Messages
    sampling: Sampling
    schema: type | None = None
    thinking: int | None = 0  # tokens; 0 = off, -1 = the model decides, None = its default


# "ok" text to use; "length" cut off; "empty" nothing said; "recitation" withheld as a quotation; "blocked" refused;
# "declined" not even begun: the prompt does not fit the model's window, or its filter, and nothing was paid
What = Literal["ok", "length", "empty", "recitation", "blocked", "declined"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one candidate; tokens are None where the server did not report them."""

    what: What
    text: str = ""
    why: str = ""  # the provider's own word: SAFETY, content_filter ...
    mean_logprob: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_thought: int | None = None


# "busy" asked too much; "down" did not work and cost nothing; "lost" may have worked and cost, but nobody knows;
# "reworded" refused a field that the provider will leave out from now on; "declined" will not have this prompt;
# "refused" will not have this request, whatever is wrong with it; "over" no use to go on at all
Failure = Literal["busy", "down", "lost", "reworded", "declined", "refused", "over"]


class Failed(Exception):
    """A request that brought no candidates."""

    def __init__(self, what: Failure, why: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(why)
        self.what, self.why, self.wait_seconds = what, why, wait_seconds


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    tokens_in: float
    tokens_out: float  # thoughts too

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """What these tokens cost."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6

    @property
    def half(self) -> "Price":
        """Batch mode."""
        return Price(self.tokens_in / 2, self.tokens_out / 2)


FREE = Price(0.0, 0.0)


class Provider(Protocol):
    """A way to ask one model."""

    model: str
    price: Price
    candidates: int  # how many one request may ask for; may shrink after a refusal
    notice: str  # said before the first request leaves, where a key goes to an address nobody would expect; "" = none

    async def open(self) -> None:
        """Find out what must be known before the first call."""
        ...

    def most_out(self, request: Request) -> int:
        """The most output and thought tokens that one candidate of this request can be billed for."""
        ...

    async def attempt(self, request: Request) -> list[Outcome]:
        """Send the request once; may bring fewer outcomes than candidates were asked for."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def most_in(request: Request) -> int:
    """The most input tokens of a request: no tokenizer makes more than one token of a byte, but templates add some."""
    sizes = [len(message["content"].encode()) + 16 for message in request.messages]
    shape = 0 if request.schema is None else 2 * len(json.dumps(shape_of(request.schema)).encode())
    return sum(sizes) + shape + 64


def scrub(text: str, *keys: str | None) -> str:
    """A server's words on one line, short, and without a key in them."""
    for key in keys:
        if key:
            text = text.replace(key, "(the key)")
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:399] + "…"


# As vLLM, llama.cpp, OpenAI, Azure, OpenRouter and Gemini put it.
_ITS_PROMPT = re.compile(
    r"context[ _](?:length|size|window)|maximum number of tokens|(?:prompt|input) is too long"
    r"|content[ _](?:filter|policy)|content management|(?:prompt|input|content) (?:was|is|has been) flagged",
    re.IGNORECASE,
)


def blames_the_prompt(said: str) -> bool:
    """Whether a refusal is about one prompt, too long for the window or caught by a filter, and not about all."""
    return _ITS_PROMPT.search(said) is not None


# --- one usage for several candidates ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """Tokens of a whole request as the server reports them."""

    tokens_in: int
    tokens_out: int
    tokens_thought: int = 0


def shared(outcomes: list[Outcome], usage: Usage | None) -> list[Outcome]:
    """The outcomes of a request, with its usage shared out so that the parts add up to the whole."""
    if usage is None or not outcomes:
        return outcomes
    count = len(outcomes)
    parts = [
        [total // count + (number < total % count) for number in range(count)]
        for total in (usage.tokens_in, usage.tokens_out, usage.tokens_thought)
    ]
    return [
        replace(outcome, tokens_in=parts[0][n], tokens_out=parts[1][n], tokens_thought=parts[2][n])
        for n, outcome in enumerate(outcomes)
    ]


# --- schemas ----------------------------------------------------------------------------------------------------------


def shape_of(schema: type) -> dict[str, Any]:
    """The JSON schema of a pydantic class."""
    return schema.model_json_schema()  # type: ignore[attr-defined]


def fitting(text: str, schema: type) -> str | None:
    """The JSON in a reply that validates against the schema; None where there is none."""
    from pydantic import ValidationError

    for candidate in _json_in(text):
        try:
            return schema.model_validate_json(candidate).model_dump_json()  # type: ignore[attr-defined]
        except ValidationError:
            continue
    return None


def _json_in(text: str) -> list[str]:
    found = [text]
    if fenced := re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL):
        found.append(fenced[1])
    if "{" in text:
        try:
            _, end = json.JSONDecoder().raw_decode(text, text.index("{"))
            found.append(text[text.index("{") : end])
        except ValueError:
            pass
    return found


def asking_for(schema: type, messages: Messages) -> Messages:
    """The messages with the wish for JSON in words, for a model that takes no schema."""
    wish = f"\n\nReply with one JSON object and nothing else. It must fit this schema:\n{json.dumps(shape_of(schema))}"
    last_user = max((n for n, message in enumerate(messages) if message["role"] == "user"), default=0)
    return tuple(
        {**message, "content": message["content"] + wish} if n == last_user else message
        for n, message in enumerate(messages)
    )


# --- prefixes ---------------------------------------------------------------------------------------------------------


def prefix_of(messages: Messages) -> str:
    """What the reply goes on from; "" where the last message is not the assistant's."""
    return messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""


def asking_to_go_on(messages: Messages) -> Messages:
    """The messages with the prefix in the user's words, for a model that does not go on from its own."""
    *earlier, last = messages
    wish = (
        "\n\nYour reply has begun already. Write what comes next, from exactly where it breaks off, and do not repeat "
        f"any of it:\n{last['content']}"
    )
    if earlier and earlier[-1]["role"] == "user":
        return (*earlier[:-1], {**earlier[-1], "content": earlier[-1]["content"] + wish})
    return (*earlier, {"role": "user", "content": wish.strip()})


def without_prefix(text: str, prefix: str) -> str:
    """The reply without a prefix that the model repeated."""
    return text[len(prefix) :] if prefix and text.startswith(prefix) else text


# --- what a server will not take --------------------------------------------------------------------------------------


@dataclass
class Habits:
    """What one model at one address refused before: left out of every later request of this process."""

    refused: set[str] = field(default_factory=set)

    def refuse(self, name: str) -> None:
        """Leave a field out from now on."""
        self.refused.add(name)

    def __contains__(self, name: str) -> bool:
        return name in self.refused


_HABITS: dict[tuple[str, str], Habits] = {}


def habits_of(address: str, model: str) -> Habits:
    """What is remembered of a model at an address."""
    return _HABITS.setdefault((address, model), Habits())


# --- keys and addresses -----------------------------------------------------------------------------------------------


def key_in(names: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The name and value of the first key that is set, in the environment or among Colab's secrets."""
    import importlib.util

    for name in names:
        if environ.get(name, "").strip():
            return name, environ[name].strip()
    try:
        if importlib.util.find_spec("google.colab") is None:
            return None
    except ModuleNotFoundError:
        return None
    from google.colab import userdata

    for name in names:
        try:
            value = userdata.get(name)
        except Exception:  # Colab's own errors, of classes that differ by its version: not there, or not allowed
            continue
        if value and value.strip():
            return name, value.strip()
    return None


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
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
    """`3s`, `2.5`, `1m30s` or an HTTP date as seconds from now; None where there is none."""
    from datetime import datetime
    from email.utils import parsedate_to_datetime

    if not text:
        return None
    if match := re.fullmatch(r"(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s)?)?", text.strip()):
        minutes, seconds, unit = float(match[1] or 0), float(match[2] or 0), match[3]
        return minutes * 60 + (seconds / 1000 if unit == "ms" else seconds)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    seconds = (when - datetime.now(when.tzinfo)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
