"""What the loopback teachers share: a server of the standard library without its traps, faults, and a mind.

The mind plays teacher: it knows the right answers of the problems it is given and, by a hash of what it is asked,
writes plans, constraints, scores and executions that are good or bad at a settable rate. The order of calls plays no
part in what it says. A sample is a seed's last three digits, so a second attempt (seed + 1000) says what an undisturbed
first one would have said.
"""

import hashlib
import json
import re
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

# --- chance without order ---------------------------------------------------------------------------------------------


def share(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the parts."""
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:7]) / 256**7


def pick(options: list[str], *parts: object) -> str:
    """One of the options, by hash."""
    return options[int(share(*parts) * len(options))]


# --- the mind ---------------------------------------------------------------------------------------------------------

_VERBS = ["Find", "Work out", "Determine", "Compute", "Establish"]
_THINGS = ["the amount of each part", "the total before changes", "what is left over", "the share of one item"]
_WAYS = ["from what is given", "by combining the earlier results", "with the stated relation", "one group at a time"]
_PLAN_BLOCK = re.compile(r"<plan>\s*(.*?)</plan>", re.DOTALL)


def _plain(text: str) -> str:
    return " ".join(text.split())


@dataclass
class Mind:
    """A teacher whose answers are a function of what it is asked."""

    problems: Iterable[Mapping[str, Any]] = ()
    acceptance: float = 1.0  # share of plans that end in a kept trajectory: good score and right answer
    answers: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for problem in self.problems:
            question = _plain(problem["question"])
            self.answers.setdefault(question[:60], []).append((question, str(problem["answer"])))
        self._each = max(0.0, min(1.0, self.acceptance)) ** 0.5  # of the score and of the execution

    def reply(self, prompt: str, sample: int, schema: Mapping[str, Any] | None) -> str:
        """What it says; JSON where a schema is given."""
        if schema is not None:
            return json.dumps(self._filled(schema, prompt, sample, ()))
        if "[[wrong answer]]" in prompt:
            return self._execution(prompt, right=False)
        if _PLAN_BLOCK.search(prompt):
            return self._execution(prompt, right=share("execution", *self._subject(prompt)) < self._each)
        if "constraint" in prompt.lower():
            return "What is given must be used as stated.\nThe answer is a single number.\nUnits must agree."
        if "plan" in prompt.lower():
            return "\n".join(f"{n}. {step}" for n, step in enumerate(self._steps(prompt, sample, 0), 1))
        return self._execution(prompt, right=share("direct", prompt, sample) < self._each)

    def _subject(self, prompt: str) -> tuple[str, str]:
        """The problem and the plan that a prompt is about."""
        plan = _PLAN_BLOCK.search(prompt)
        return self._question(prompt), _plain(plan[1]) if plan else ""

    def _question(self, prompt: str) -> str:
        block = re.search(r"<problem>\s*(.*?)\s*</problem>", prompt, re.DOTALL)
        return _plain(block[1]) if block else _plain(prompt)

    def answer(self, prompt: str) -> str:
        """The right answer to the problem in a prompt."""
        text = self._question(prompt)
        for question, answer in self.answers.get(text[:60], ()):
            if question in text:
                return answer
        whole = _plain(prompt)
        for known in self.answers.values():
            for question, answer in known:
                if question in whole:
                    return answer
        return "42"

    def _execution(self, prompt: str, *, right: bool) -> str:
        answer = self.answer(prompt)
        if not right:
            answer = str(int(answer) + 1) if re.fullmatch(r"-?\d+", answer) else f"not {answer}"
        return f"Following the steps one by one gives the result.\nThe final answer is \\boxed{{{answer}}}."

    def _steps(self, prompt: str, sample: int, number: int) -> list[str]:
        count = 2 + int(share("length", prompt, sample, number) * 3)
        return [
            f"{pick(_VERBS, 'v', prompt, sample, number, n)} {pick(_THINGS, 't', prompt, sample, number, n)} "
            f"{pick(_WAYS, 'w', prompt, sample, number, n)}."
            for n in range(count)
        ]

    def _filled(self, schema: Mapping[str, Any], prompt: str, sample: int, path: tuple[Any, ...]) -> Any:
        """A value of the schema's shape; what a field means is told by its name."""
        kind, name = str(schema.get("type", "OBJECT")).upper(), str(path[-1] if path else "")
        if kind == "OBJECT":
            properties = schema.get("properties") or {}
            return {key: self._filled(one, prompt, sample, (*path, key)) for key, one in properties.items()}
        if kind == "ARRAY":
            item = schema.get("items") or {}
            if str(item.get("type", "")).upper() == "STRING":
                return self._steps(prompt, sample, sum(part for part in path if isinstance(part, int)))
            return [self._filled(item, prompt, sample, (*path, n)) for n in range(self._count(prompt))]
        if kind in ("INTEGER", "NUMBER"):
            if "score" not in name and "score" not in path:
                return int(share("number", prompt, path) * 100)
            plans = _PLAN_BLOCK.findall(prompt)
            number = next((part for part in reversed(path) if isinstance(part, int)), 0)
            plan = _plain(plans[number]) if number < len(plans) else prompt
            good = share("score", self._question(prompt), plan) < self._each
            spread = share("spread", self._question(prompt), plan)
            return 80 + int(spread * 20) if good else int(spread * 160) - 81
        if kind == "BOOLEAN":
            return share("flag", prompt, path) < 0.5
        return "The plan says what to find and in which order."

    @staticmethod
    def _count(prompt: str) -> int:
        if plans := _PLAN_BLOCK.findall(prompt):
            return len(plans)
        number = re.search(r"\b(\d{1,2})\s+plans", prompt)
        return int(number[1]) if number else 3


# --- faults -----------------------------------------------------------------------------------------------------------

# Gone at another attempt, whatever they hit.
PASSING = ("429", "503", "reset", "torn", "html", "empty", "unfit")
LASTING = ("blocked", "safety")  # the same at every attempt: a sample that cannot be had
_MARKER = re.compile(r"\[\[([a-z0-9_ ]+?)(?: x(\d+)| (always))?\]\]")


@dataclass
class Faults:
    """Which request fails how: by a marker in its prompt, [[503]], [[429 x3]] or [[safety always]], or by hash."""

    rates: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def storm(cls, rate: float) -> "Faults":
        """All kinds together at this rate, the lasting ones at a twentieth of it."""
        lasting = {kind: rate / 20 / len(LASTING) for kind in LASTING}
        return cls({kind: rate * 19 / 20 / len(PASSING) for kind in PASSING} | lasting)

    def of(self, prompt: str, sample: int, attempt: int) -> str | None:
        """What goes wrong at this attempt (0, 1, ...) at this sample of a prompt."""
        for kind, times, always in _MARKER.findall(prompt):
            if always or attempt < int(times or 1):
                return kind
        for kinds, chance in ((LASTING, share("lasting", prompt, sample)), (PASSING, share(prompt, sample, attempt))):
            for kind in kinds:
                chance -= self.rates.get(kind, 0.0)
                # Two in a row of what is asked again only once would lose the sample; a service has better days too.
                if chance < 0 and not (kind in ("empty", "unfit") and attempt > 0):
                    return kind
                if chance < 0:
                    return None
        others = (kind for kind in self.rates if kind not in PASSING + LASTING)
        return next((kind for kind in others if share(kind, prompt, sample, attempt) < self.rates[kind]), None)


# --- the server -------------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """A status and a JSON body."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # the default of 5 makes parallel clients hang
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or that we sent away, is no news."""


class Loopback:
    """A server with a port of its own; a context manager. Subclasses answer."""

    def __init__(
        self,
        *,
        mind: Mind | None = None,
        faults: Faults | None = None,
        key: str = "test-key",
        latency_seconds: tuple[float, float] = (0.0, 0.0),
        requests_per_minute: int | None = None,
        retry_seconds: float = 0.05,
        slow_seconds: float = 1.0,
        port: int = 0,
    ) -> None:
        self.mind, self.faults, self.key = mind or Mind(), faults or Faults(), key
        self.latency_seconds, self.slow_seconds, self.retry_seconds = latency_seconds, slow_seconds, retry_seconds
        self.outcomes: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []  # the last bodies, for tests that look
        self.keep_requests = 1000
        self.answered: Counter[tuple[str, int]] = Counter()  # (prompt, sample) -> replies that were good
        self.billed: Counter[str] = Counter()  # tokens in and out of all replies that were made, heard or not
        self.in_flight = self.most_in_flight = 0
        self._attempts: Counter[tuple[str, int]] = Counter()
        self._per_minute, self._recent = requests_per_minute, deque[float]()
        self._lock = Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        """Serve in this thread, for ever."""
        self._server.serve_forever()

    def stats(self) -> dict[str, Any]:
        """Requests by outcome, and how many samples were answered more than once."""
        with self._lock:
            twice = sum(count - 1 for count in self.answered.values())
            return {
                "requests": self.outcomes.total(),
                "outcomes": dict(self.outcomes),
                "samples": len(self.answered),
                "answered_again": twice,
                "most_in_flight": self.most_in_flight,
                "billed": dict(self.billed),
            }

    def bill(self, reply: Any) -> Any:
        """Count what a reply costs; the reply."""
        used = reply.get("usageMetadata") or reply.get("usage") or {} if isinstance(reply, dict) else {}
        came = (used.get("promptTokenCount"), used.get("prompt_tokens"))
        went = (used.get("candidatesTokenCount"), used.get("thoughtsTokenCount"), used.get("completion_tokens"))
        with self._lock:
            self.billed["in"] += sum(one for one in came if isinstance(one, int) and one > 0)
            self.billed["out"] += sum(one for one in went if isinstance(one, int) and 0 < one < 10**7)
        return reply

    def attempt_at(self, prompt: str, sample: int) -> int:
        """How often this sample of this prompt was asked before."""
        key = (hashlib.sha256(prompt.encode()).hexdigest(), sample)
        with self._lock:
            self._attempts[key] += 1
            return self._attempts[key] - 1

    def note(self, outcome: str, prompt: str = "", samples: Iterable[int] = ()) -> None:
        """Count an outcome, and the samples that were answered."""
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        with self._lock:
            self.outcomes[outcome] += 1
            for sample in samples:
                self.answered[digest, sample] += 1

    def over_the_limit(self) -> float | None:
        """Seconds until the server's own limit lets one more request in; None where it does now."""
        if self._per_minute is None:
            return None
        with self._lock:
            now = time.monotonic()
            while self._recent and self._recent[0] <= now - 60:
                self._recent.popleft()
            if len(self._recent) >= self._per_minute:
                return 60 - (now - self._recent[0])
            self._recent.append(now)
            return None

    def wait(self, prompt: str, sample: int) -> None:
        """The latency of one request."""
        low, high = self.latency_seconds
        if high > 0:
            time.sleep(low + (high - low) * share("latency", prompt, sample))

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Any:
        """The JSON, or the bytes, of a good reply; anything else is a Refusal."""
        raise NotImplementedError


class Reset(Exception):
    """Drop the connection."""


class Cut(Exception):
    """Break off within the body of a good reply."""


GARBLED = ("blank", "latin", "deep", "cut", "gzip", "html500", "junk500")  # what may come of a proxy, or of a bug


def garbled(fault: str) -> bytes:
    """The body of a reply that is none; or it is raised."""
    if fault == "cut":
        raise Cut
    if fault == "gzip":
        raise Refusal(200, b"not compressed", {"Content-Encoding": "gzip"})
    if fault.endswith("500"):
        html = fault == "html500"
        raise Refusal(500, HTML if html else b"Internal error", {"Content-Type": f"text/{'html' if html else 'plain'}"})
    return {"blank": b"", "latin": b'{"choices": "\xff\xfe", "candidates": "\xff"}', "deep": b"[" * 200_000}[fault]


class _Handler(BaseHTTPRequestHandler):
    owner: Loopback
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        owner = self.owner
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with owner._lock:
            owner.in_flight += 1
            owner.most_in_flight = max(owner.most_in_flight, owner.in_flight)
        try:
            if self.path.partition("?")[0] == "/_stats":
                self._send(200, owner.stats(), {})
                return
            body = json.loads(raw) if raw else {}
            with owner._lock:
                if len(owner.requests) < owner.keep_requests:
                    owner.requests.append(body)
            self._send(200, owner.bill(owner.answer(self.command, self.path, self.headers, body)), {})
        except Refusal as refusal:
            self._send(refusal.status, refusal.body, refusal.headers)
        except Cut:
            self.wfile.write(b"HTTP/1.1 200 -\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
            self.close_connection = True
        except Reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        finally:
            with owner._lock:
                owner.in_flight -= 1

    def _send(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "text/html" if data.startswith(b"<html") else "application/json"
        lines = {"Content-Type": kind, "Content-Length": str(len(data)), **headers}
        head = f"HTTP/1.1 {status} -\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.wfile.write(head.encode() + b"\r\n" + data)  # one send: two cost a delayed acknowledgement, 40 ms


HTML = b"<html><body>Bad Gateway</body></html>"


def problems_of(path: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file with question and answer."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
