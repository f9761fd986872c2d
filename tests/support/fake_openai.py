"""An OpenAI-compatible server on this machine: `with FakeOpenAI() as server: ... server.url` (which ends in /v1).

It refuses what the real ones refuse: a wrong key (where it wants one), unknown fields, unknown models, and whatever
`without` says this server does not have: "response_format", "seed", "max_tokens" ..., and a prompt that leaves no
room in its `window` for what may be written. Faults as in fake_teacher.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from fake_teacher import GARBLED, HTML, Loopback, Refusal, Reset, garbled, share

_FIELDS = {
    *("model", "messages", "temperature", "top_p", "n", "seed", "stop", "max_tokens", "max_completion_tokens"),
    *("response_format", "frequency_penalty", "presence_penalty", "user", "stream"),
}


def refusal(status: int, message: str, *, kind: str = "invalid_request_error", **more: Any) -> Refusal:
    """An error in OpenAI's form."""
    headers = more.pop("headers", {})
    return Refusal(status, {"error": {"message": message, "type": kind, "param": None, "code": None, **more}}, headers)


class FakeOpenAI(Loopback):
    """The server."""

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("tiny-1b",),
        without: tuple[str, ...] = (),
        window: int | None = None,  # tokens
        key: str = "",
        fastapi: bool = False,  # unknown fields are refused as FastAPI and pydantic do it
        **settings: Any,
    ) -> None:
        super().__init__(key=key, **settings)
        self.window, self.fastapi = window, fastapi
        self.models, self.without = models, set(without)
        self.url += "/v1"

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Any:
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            self.note("wrong key")
            given = headers.get("Authorization", "").removeprefix("Bearer ")
            raise refusal(401, f"Incorrect API key provided: {given}.", code="invalid_api_key")
        if (method, path) != ("POST", "/v1/chat/completions"):
            raise refusal(404, f"Invalid URL ({method} {path})")
        try:
            self._check(body)
        except Refusal:
            self.note("refused")
            raise
        prompt = "\n".join(message["content"] for message in body["messages"] if message["role"] != "system")
        sample = body.get("seed", 0) % 1000
        asked = f"{prompt}\n{json.dumps(body.get('response_format'))}"
        fault = self.faults.of(prompt, sample, self.attempt_at(asked, sample))
        self.wait(prompt, sample)
        if (seconds := self.over_the_limit()) is not None:
            self.note("over the limit")
            raise refusal(429, "Rate limit reached.", kind="requests", headers={"Retry-After": f"{seconds:.0f}"})
        if fault and (reply := self._fault(fault, body, prompt, sample)) is not None:
            return reply
        return self._good(body, prompt, sample)

    def _check(self, body: Any) -> None:
        strange = [name for name in body if name not in _FIELDS or name in self.without]
        if strange and self.fastapi:
            said = [
                {"type": "extra_forbidden", "loc": ["body", one], "msg": "Extra inputs are not permitted"}
                for one in strange
            ]
            raise Refusal(422, {"detail": [{**one, "input": body} for one in said]})
        for name in body:
            if name not in _FIELDS or name in self.without:
                raise refusal(400, f"Unrecognized request argument supplied: {name}", param=name)
        if body.get("model") not in self.models:
            raise refusal(404, f"The model `{body.get('model')}` does not exist", code="model_not_found")
        form = body.get("response_format")
        if form is not None and (form.get("type") != "json_schema" or "schema" not in form.get("json_schema", {})):
            raise refusal(400, "Invalid value for 'response_format'", param="response_format")
        if any(set(message) - {"role", "content", "name"} for message in body["messages"]):
            raise refusal(400, "Additional properties are not allowed in a message", param="messages")
        asked = sum(len(message["content"]) // 4 for message in body["messages"])
        cap = body.get("max_tokens", body.get("max_completion_tokens", 0))
        if self.window is not None and asked + cap > self.window:  # as vLLM says it
            raise refusal(
                400,
                f"'max_tokens' or 'max_completion_tokens' is too large: {cap}. This model's maximum context length is "
                f"{self.window} tokens and your request has {asked} input tokens.",
                kind="BadRequestError",
                code=400,
            )

    def _good(self, body: Any, prompt: str, sample: int) -> Any:
        asked = f"{prompt}\n{json.dumps(body.get('response_format'))}"
        schema = _resolved(body.get("response_format", {}).get("json_schema", {}).get("schema"))
        if schema is None and "fit this schema:\n" in prompt:  # asked for in words, and a good teacher listens
            schema = _resolved(json.loads(prompt.partition("fit this schema:\n")[2].partition("\n")[0]))
            prompt = prompt.partition("\n\nReply with one JSON object")[0]
        samples = range(sample, sample + body.get("n", 1))
        cap = body.get("max_tokens", body.get("max_completion_tokens", 4096))
        choices, out = [], 0
        for index, one in enumerate(samples):
            text = self.mind.reply(prompt, one, schema)
            if body.get("stop"):
                text = text.partition(body["stop"][0])[0]
            tokens = len(text) // 4 + 1
            out += min(tokens, cap)
            choices.append(_choice(text[: cap * 4], "stop" if tokens <= cap else "length", index))
        self.note("ok", asked, samples)
        return {"object": "chat.completion", "model": body["model"], "choices": choices, "usage": _usage(prompt, out)}

    def _fault(self, fault: str, body: Any, prompt: str, sample: int) -> Any:
        endings = {"empty": ("", "stop"), "safety": ("", "content_filter"), "blocked": ("", "content_filter")}
        if fault in (*endings, "html", "torn", "thinks", "length", "half"):
            self.note(fault)
        if fault in endings:
            return {"choices": [_choice(*endings[fault])], "usage": _usage(prompt, 0)}
        if fault == "length":
            return {"choices": [_choice("Find the", "length")], "usage": _usage(prompt, 2)}
        if fault == "half":  # of a character; JSON can spell it
            return {"choices": [_choice("1. Find \ud83d it.", "stop")], "usage": _usage(prompt, 4)}
        if fault == "thinks":
            text = f"<think>\nHm, 7?\n</think>\n\n{self.mind.reply(prompt, sample, None)}"
            return {"choices": [_choice(text, "stop")], "usage": _usage(prompt, 40)}
        if fault in ("nothing", "bare", "error", "late", "huge"):
            self.note(fault)
            error = {"message": "Provider returned error", "metadata": {"raw": "overloaded"}}
            return {
                "nothing": {"choices": []},
                "bare": {"object": "list"},
                "error": {"choices": [{**_choice("", "error"), "error": error}]},
                "late": {"choices": [_choice("Hm, 7?\n</think>\n\n1. Find it.", "stop")], "usage": _usage(prompt, 4)},
                "huge": {"choices": [_choice("1. Find it.", "stop")], "usage": _usage(prompt, 10**30)},
            }[fault]
        if fault in GARBLED:
            self.note(fault)
            return garbled(fault)
        if fault in ("number", "worded", "behind"):
            self.note(fault)
            used = {"prompt_tokens": "nine", "completion_tokens": "ten"}
            quoted = {"provider_name": "Elsewhere", "raw": "overloaded"}
            return {
                "number": {"choices": [_choice(7, "stop")], "usage": _usage(prompt, 4)},
                "worded": {"choices": [_choice("1. Find it.", "stop")], "usage": used},
                "behind": {"error": {"message": "Provider returned error", "code": 502, "metadata": quoted}},
            }[fault]
        if fault == "html":
            return HTML
        if fault == "torn":
            return json.dumps({"choices": [_choice("1. Find", "stop")]}).encode()[:40]
        if fault == "unfit" and "response_format" in body:
            self.note(fault)
            text = '{"score": "high"' if share("form", prompt) < 0.5 else '{"nothing": true}'
            return {"choices": [_choice(text, "stop")], "usage": _usage(prompt, 6)}
        if fault == "no_usage":
            good = self.bill(self._good(body, prompt, sample))
            return {name: value for name, value in good.items() if name != "usage"}
        if fault == "slow":
            time.sleep(self.slow_seconds)
            return self._good(body, prompt, sample)
        if fault in ("400", "429", "quota", "503", "500", "reset"):
            self.note(fault)
            if fault == "400":
                raise refusal(400, "Something about this request.")
            if fault == "reset":
                raise Reset
            if fault == "429":
                raise refusal(
                    429, "Too many requests.", kind="requests", headers={"Retry-After": f"{self.retry_seconds}"}
                )
            if fault == "quota":
                raise refusal(429, "You exceeded your current quota.", code="insufficient_quota")
            raise refusal(int(fault), "The server is overloaded.", kind="server_error")
        return None


def _choice(text: str, reason: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason}


def _usage(prompt: str, out: int) -> dict[str, int]:
    tokens_in = len(prompt) // 4 + 1
    return {"prompt_tokens": tokens_in, "completion_tokens": out, "total_tokens": tokens_in + out}


def _resolved(schema: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """A JSON schema without references."""
    if not isinstance(schema, dict):
        return schema
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return _resolved(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    known = {name: value for name, value in schema.items() if name != "$defs"}
    if "properties" in known:
        known["properties"] = {name: _resolved(one, definitions) for name, one in known["properties"].items()}
    if "items" in known:
        known["items"] = _resolved(known["items"], definitions)
    return known
