"""A Gemini on this machine for the real google-genai client: `with FakeGemini() as server: ... server.url`.

    python tests/support/fake_gemini.py --port 0 --latency-ms 200 --jitter-ms 100 --problems pool.jsonl --faults 0.3

It refuses what the real one refuses: a wrong key, unknown fields, retired and unknown models, several candidates, a
last model turn or a thinking level where a model takes none, more requests a minute than allowed. GET /_stats
counts what happened. Faults come by marker or by hash, see fake_teacher; here they are also: daily, thoughts,
recitation, max_tokens, no_usage, other, slow.
"""

import argparse
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from fake_teacher import GARBLED, HTML, Faults, Loopback, Mind, Refusal, Reset, garbled, problems_of, share

from plantune_lite.teacher.models import MODELS

RETIRED = ("gemini-retired",)
LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
_TOP = {"contents", "systemInstruction", "safetySettings", "generationConfig", "tools", "toolConfig", "cachedContent"}
_CONFIG = {
    *("temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "seed", "responseMimeType"),
    *("responseSchema", "responseJsonSchema", "thinkingConfig", "presencePenalty", "frequencyPenalty"),
}
_THINKING = {"thinkingBudget", "includeThoughts", "thinkingLevel"}
_SCHEMA = {
    *("type", "format", "title", "description", "nullable", "enum", "items", "properties", "required", "minItems"),
    *("maxItems", "minimum", "maximum", "anyOf", "propertyOrdering", "default"),
}


def camel(name: str) -> str:
    """thinking_budget -> thinkingBudget; the real server takes both."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def refusal(code: int, status: str, message: str, *details: Any) -> Refusal:
    """An error in Google's form."""
    return Refusal(code, {"error": {"code": code, "status": status, "message": message, "details": list(details)}})


def invalid(message: str) -> Refusal:
    """400."""
    return refusal(400, "INVALID_ARGUMENT", message)


def too_many(quota: str, value: str, retry_seconds: float | None) -> Refusal:
    """429, with the quota that was passed."""
    delay = [] if retry_seconds is None else [f"{retry_seconds:.3f}s"]
    return refusal(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota." + "".join(f" Please retry in {one}." for one in delay),
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"quotaId": quota, "quotaValue": value}],
        },
        *({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": one} for one in delay),
    )


class FakeGemini(Loopback):
    """The server."""

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Any:
        if headers.get("x-goog-api-key") != self.key:
            self.note("wrong key")
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            raise refusal(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", info)
        match = re.fullmatch(r"/(v1|v1beta)/(.*)", path.partition("?")[0])
        if match is None:
            raise refusal(404, "NOT_FOUND", "Not found.")
        rest = match[2]
        if method == "GET" and rest == "models":
            return {"models": [self._about(model) for model in MODELS]}
        if method == "GET" and rest.startswith("models/"):
            return self._about(self._known(rest.removeprefix("models/")))
        if call := re.fullmatch(r"models/([^:]+):(\w+)", rest):
            model = self._known(call[1])
            verbs = {"generateContent": self._generate, "countTokens": self._count}
            if method == "POST" and call[2] in verbs:
                return verbs[call[2]](model, body)
        raise refusal(404, "NOT_FOUND", "Not found.")

    # --- what is refused

    def _known(self, model: str) -> str:
        if model in RETIRED:
            self.note("retired")
            raise refusal(
                404, "NOT_FOUND", f"This model models/{model} is no longer available. Please use a newer model."
            )
        if model not in MODELS:
            self.note("unknown model")
            raise refusal(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
        return model

    def _about(self, model: str) -> dict[str, Any]:
        limits = {"inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536, "thinking": True}
        methods = ["generateContent", "countTokens"]
        return {"name": f"models/{model}", "displayName": model, "supportedGenerationMethods": methods, **limits}

    def _checked(self, model: str, body: Any) -> dict[str, Any]:
        """The generation config, once nothing in the request is refused."""
        _known_fields(body, _TOP, "")
        config = body.get("generationConfig") or {}
        _known_fields(config, _CONFIG, "generation_config.")
        config = {camel(name): value for name, value in config.items()}
        thinking = config.get("thinkingConfig") or {}
        _known_fields(thinking, _THINKING, "generation_config.thinking_config.")
        thinking = {camel(name): value for name, value in thinking.items()}
        _check_schema(config.get("responseSchema"))
        contents = body.get("contents")
        if not contents or any(turn.get("role") not in ("user", "model") for turn in contents):
            raise invalid("Please use a valid role: user, model.")
        if contents[-1]["role"] == "model" and not MODELS[model].tunes:  # the generation that ignores temperature
            raise invalid("Requests ending with a model turn are not supported.")
        if not 0 <= config.get("temperature", 1) <= 2:
            raise invalid("* GenerateContentRequest.generation_config.temperature: temperature must be in [0, 2].")
        if config.get("candidateCount", 1) != 1:
            raise invalid("Multiple candidates is not enabled for this model")
        self._check_thinking(model, thinking)
        return config | {"thinkingConfig": thinking}

    @staticmethod
    def _check_thinking(model: str, thinking: dict[str, Any]) -> None:
        level = thinking.get("thinkingLevel")
        if level is not None and level.upper() not in LEVELS[LEVELS.index(MODELS[model].least.upper()) :]:
            raise invalid(f"Thinking level {level.upper()} is not supported for this model.")

    # --- generateContent

    def _generate(self, model: str, body: Any) -> Any:
        try:
            config = self._checked(model, body)
        except Refusal:
            self.note("refused")
            raise
        prompt = _prompt(body)
        sample = config.get("seed", 0) % 1000
        fault = self.faults.of(prompt, sample, self.attempt_at(_asked(prompt, config), sample))
        self.wait(prompt, sample)
        if (seconds := self.over_the_limit()) is not None:
            self.note("over the limit")
            raise too_many("GenerateRequestsPerMinutePerProjectPerModel", str(self._per_minute), seconds)
        if fault is not None and (reply := self._fault(fault, model, prompt, sample, config)) is not None:
            return reply
        return self._good(model, prompt, sample, config)

    def _good(self, model: str, prompt: str, sample: int, config: dict[str, Any]) -> Any:
        schema = config.get("responseSchema") or config.get("responseJsonSchema")
        text = self.mind.reply(prompt, sample, schema)
        thought = self._thoughts(prompt, sample, config)
        cap = config.get("maxOutputTokens", 65_536)
        tokens, room = len(text) // 4 + 1, max(0, cap - thought)
        if tokens <= room:
            self.note("ok", _asked(prompt, config), (sample,))
            candidate = _candidate(text, "STOP")
        else:
            self.note("max_tokens")
            candidate = _candidate(text[: room * 4], "MAX_TOKENS")
        return {**_reply(prompt, candidate, min(tokens, room), min(thought, cap)), "modelVersion": model}

    @staticmethod
    def _thoughts(prompt: str, sample: int, config: dict[str, Any]) -> int:
        most = {"MINIMAL": 20, "LOW": 150}.get(config["thinkingConfig"].get("thinkingLevel", "").upper(), 600)
        return int(share("thoughts", prompt, sample) * most)

    def _fault(self, fault: str, model: str, prompt: str, sample: int, config: dict[str, Any]) -> Any:
        """What goes wrong; None where this request has nothing for it to go wrong with."""
        cap = config.get("maxOutputTokens", 100)
        kinds = {
            "blocked": {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": _usage(prompt, 0, 0)},
            "safety": _reply(prompt, _candidate("", "SAFETY"), 0),
            "recitation": _reply(prompt, _candidate("", "RECITATION"), 0),
            "other": _reply(prompt, _candidate("", "OTHER"), 0),
            "empty": _reply(prompt, _candidate("", "STOP"), 0),
            "thoughts": _reply(prompt, _candidate("", "MAX_TOKENS"), 0, thought=cap),
            "max_tokens": _reply(prompt, _candidate("Find the", "MAX_TOKENS"), cap),
            "half": _reply(prompt, _candidate("1. Find \ud83d it.", "STOP"), 4),  # of a character; JSON can spell it
            "html": HTML,
            "nothing": {},
            "null": b"null",
            "list": b"[]",
            "negative": {
                **_reply(prompt, _candidate("1. Find it.", "STOP"), 4),
                "usageMetadata": _usage(prompt, -(9**9), 0),
            },
            "number": _reply(prompt, _candidate(7, "STOP"), 4),
            "worded": _reply(prompt, _candidate("1. Find it.", "STOP"), 4)
            | {"usageMetadata": {"promptTokenCount": "nine", "totalTokenCount": "ten"}},
            "torn": json.dumps(_reply(prompt, _candidate("1. Find", "STOP"), 4)).encode()[:60],
        }
        if fault in kinds:
            self.note(fault)
            return kinds[fault]
        if fault in GARBLED:
            self.note(fault)
            return garbled(fault)
        if fault == "unfit" and (config.get("responseSchema") or config.get("responseJsonSchema")):
            self.note(fault)
            text = '{"score": "high"' if share("form", prompt) < 0.5 else '{"nothing": true}'
            return _reply(prompt, _candidate(text, "STOP"), 6)
        if fault == "no_usage":
            return {
                name: value
                for name, value in self.bill(self._good(model, prompt, sample, config)).items()
                if name != "usageMetadata"
            }
        if fault == "slow":
            self.note(fault)
            time.sleep(self.slow_seconds)
            return self._good(model, prompt, sample, config)
        if fault in ("400", "too_long", "429", "daily", "503", "500", "reset"):
            self.note(fault)
            if fault == "400":
                raise invalid("Request contains an invalid argument.")
            if fault == "too_long":
                raise invalid("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).")
            if fault == "reset":
                raise Reset
            if fault == "429":
                raise too_many("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "10", self.retry_seconds)
            if fault == "daily":
                raise too_many("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "250", 40.0)
            raise refusal(int(fault), "UNAVAILABLE", "The model is overloaded. Please try again later.")
        return None

    # --- the rest

    def _count(self, model: str, body: Any) -> Any:
        return {"totalTokens": len(_prompt(body)) // 4 + 1}


def _known_fields(given: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in given:
        if camel(name) not in known:
            raise invalid(
                f"Invalid JSON payload received. Unknown name \"{name}\" at '{where[:-1]}': Cannot find field."
            )


def _check_schema(schema: Any) -> None:
    if schema is None:
        return
    _known_fields(schema, _SCHEMA, "generation_config.response_schema.")
    for inner in (schema.get("properties") or {}).values():
        _check_schema(inner)
    _check_schema(schema.get("items"))


def _prompt(body: Any) -> str:
    return "\n".join(part.get("text", "") for turn in body["contents"] for part in turn.get("parts", ()))


def _asked(prompt: str, config: Mapping[str, Any]) -> str:
    """What a sample is a sample of: the same prompt with a schema is another question."""
    return f"{prompt}\n{json.dumps(config.get('responseSchema') or config.get('responseJsonSchema'))}"


def _candidate(text: str, reason: str) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": "Let me think.", "thought": True}, {"text": text}] if text else []}
    return {"content": content, "finishReason": reason, "index": 0, "avgLogprobs": -0.1}


def _usage(prompt: str, out: int, thought: int) -> dict[str, int]:
    tokens_in = len(prompt) // 4 + 1
    counts = {"promptTokenCount": tokens_in, "totalTokenCount": tokens_in + out + thought}
    return (
        counts | ({"candidatesTokenCount": out} if out else {}) | ({"thoughtsTokenCount": thought} if thought else {})
    )


def _reply(prompt: str, candidate: dict[str, Any], out: int, thought: int = 0) -> dict[str, Any]:
    return {"candidates": [candidate], "usageMetadata": _usage(prompt, out, thought)}


def main() -> None:
    """Serve until killed; the first line of output is the URL."""
    parser = argparse.ArgumentParser(description="A Gemini on this machine.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="test-key")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="either way")
    parser.add_argument("--requests-per-minute", type=int)
    parser.add_argument("--retry-seconds", type=float, default=0.05, help="what a 429 by fault asks for")
    parser.add_argument("--problems", help="JSONL with question and answer")
    parser.add_argument("--acceptance", type=float, default=1.0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of replies that go wrong, all kinds together")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=RATE")
    given = parser.parse_args()
    faults = Faults.storm(given.faults)
    faults.rates.update((kind, float(rate)) for kind, _, rate in (one.partition("=") for one in given.fault))
    mean, jitter = given.latency_ms / 1000, given.jitter_ms / 1000
    server = FakeGemini(
        mind=Mind(problems_of(given.problems) if given.problems else (), given.acceptance),
        faults=faults,
        key=given.key,
        latency_seconds=(max(0.0, mean - jitter), mean + jitter),
        requests_per_minute=given.requests_per_minute,
        retry_seconds=given.retry_seconds,
        port=given.port,
    )
    print(server.url, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
