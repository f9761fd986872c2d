"""Answer with vLLM instead of generate(), through the same interface: for speed on a recent GPU, unmeasured by us.

    student = serve(Student("qwen3_4b"), adapter=run.adapter("sft"), room=2048, say=print)
    student.generate(prompts, sampling)            with the adapter
    student.generate_untuned(prompts, sampling)    from the same engine, without it
    with student.wearing(other): ...               with the adapter of another training

The engine is a separate process (vllm_child.py), so that its memory is freed when it ends: with the student, or with
this process. Prompts are encoded and replies decoded here, as for every other engine.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plantune_lite.recipe.schema import Student
from plantune_lite.student import attention, chat, presets, text_part
from plantune_lite.student.generate import AT_ONCE, Replies, Row
from plantune_lite.student.load import Loaded, load_student
from plantune_lite.student.presets import Preset
from plantune_lite.student.weights import Source, resolve_source
from plantune_lite.types import PlantuneError, Sampling

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM supports
_CAPABILITY = (8, 0)  # Ampere: vLLM's fast kernels need it
_SHARE = 0.9  # of the GPU's free memory, for weights and KV cache
_REMEMBERED = 2 << 30  # bytes of KV cache, next to the weights: with less, few rows are answered at once
_EXAMPLES = 4096  # tokens that worked examples may add to a prompt
_CPU_GIGABYTES = "2"  # for the KV cache
_WITHOUT = "Rerun the command with student.engine=unsloth (transformers without a GPU) to resume without it"


class EngineError(PlantuneError):
    """vLLM did not start, or has ended."""


def load_to_ask(
    part: Student,
    *,
    adapter: Path | None = None,
    pinned: str | None = None,
    room: int = 0,
    seed: int = 0,
    say: Callable[[str], object] = print,
) -> Loaded:
    """Load a student for inference: with vLLM where the recipe sets it or it pays off, else as for training."""
    if answers(part):
        try:
            served = serve(part, adapter=adapter, pinned=pinned, room=room, say=say)
        except EngineError as error:
            say(f"warning: {error}. The student answers without vLLM")
        else:
            say("vLLM answers (student.engine=unsloth or transformers for another engine)")
            return served
    return load_student(part, adapter=adapter, pinned=pinned, room=room, seed=seed, say=say)


def answers(part: Student) -> bool:
    """Return whether vLLM answers for this student."""
    return part.engine == "vllm" or (part.engine == "auto" and why_not(part) is None)


def why_not(part: Student) -> str | None:
    """Return why vLLM is not chosen automatically for this student; None where it is."""
    import torch

    if find_spec("vllm") is None:
        return "vLLM is not installed"
    if not torch.cuda.is_available():
        return "vLLM is meant for a GPU"
    if torch.cuda.get_device_capability() < _CAPABILITY:
        return f"vLLM needs a GPU of capability {_CAPABILITY[0]} or more"
    preset = presets.find(part.model)
    if preset is not None and preset.is_part:
        return "vLLM serves the whole model, not its text part"
    weights = preset.parameters * 1e9 * part.bits / 8 if preset else 0
    if weights + _REMEMBERED > _SHARE * attention.free_on_gpu():
        return "the GPU's free memory is too small for vLLM"
    return None


def serve(
    part: Student,
    *,
    adapter: Path | None = None,
    pinned: str | None = None,
    room: int = 0,
    say: Callable[[str], object] = print,
) -> "Served":
    """Start an engine for a student's base and wait until it is ready."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if find_spec("vllm") is None:
        raise EngineError("vLLM is not installed: pip install 'plantune-lite[vllm]'")
    preset = presets.find(part.model)
    source = resolve_source(part, preset, "vllm", pinned, say)
    tokenizer = AutoTokenizer.from_pretrained(source.place, trust_remote_code=False)
    config = AutoConfig.from_pretrained(source.place, trust_remote_code=False)
    if text_part.is_part({"model_type": config.model_type}):
        raise EngineError(
            f"student.engine is vllm, which serves all of {part.model}, but the adapter is for its text part: set "
            "student.engine=unsloth (without a GPU: transformers)"
        )
    with torch.device("meta"):  # only the model's settings, no weights
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    preset = chat.prepare(tokenizer, preset or chat.preset_from_tokenizer(part.model, model, tokenizer))
    chat.settle(model, tokenizer, preset)
    context = getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf
    engine = Engine(_arguments(part, source, int(min(max(part.max_length, room) + _EXAMPLES, context))))
    return Served(model, tokenizer, preset, source, engine, adapter)


def _arguments(part: Student, source: Source, length: int) -> dict[str, Any]:
    """Return vLLM's EngineArgs."""
    import torch

    rank = next((rank for rank in RANKS if rank >= part.lora_rank), None)
    if rank is None:
        raise EngineError(f"vLLM takes adapters up to rank {RANKS[-1]}, but student.lora_rank is {part.lora_rank}")
    settings: dict[str, Any] = {
        "model": source.place,
        "tokenizer": source.place,
        "dtype": "float32" if part.bits == 32 else "auto",
        "max_model_len": length,
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": 1,
        "max_num_seqs": AT_ONCE,
        "logprobs_mode": "processed_logprobs",  # of the distribution that was sampled
        "generation_config": "vllm",  # not the model's own, whose repeat penalty would silently apply
        "trust_remote_code": False,
        "disable_log_stats": True,
    }
    if part.bits == 4:
        settings["quantization"] = "bitsandbytes"  # of the 16-bit weights, while they are loaded
    if torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info()
        settings["gpu_memory_utilization"] = round(_SHARE * attention.free_on_gpu() / total, 3)
    else:
        settings["enforce_eager"] = True
    return settings


class Engine:
    """One vLLM engine in a separate process."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        environ = {
            "VLLM_CPU_KVCACHE_SPACE": _CPU_GIGABYTES,
            **os.environ,
            **quiet,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, which ends whole
            "HF_HUB_OFFLINE": "1",  # the weights are here
        }
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the engine
        self._process = subprocess.Popen(
            [sys.executable, "-m", "plantune_lite.student.vllm_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environ,
            text=True,
            encoding="utf-8",
        )
        self.pid = self._process.pid
        weakref.finalize(self, _end, self._process)
        self._job, self._numbers = 0, dict[Path, int]()
        self._send(arguments)
        self._line()

    def ended(
        self, rows: Sequence[Row], sampling: Sampling, ends: Sequence[int], adapter: Path | None
    ) -> Iterator[Row]:
        """Yield each row as soon as its reply has ended."""
        self._job += 1
        number = self._numbers.setdefault(adapter, len(self._numbers) + 1) if adapter else 0
        named = {"lora_name": str(number), "lora_int_id": number, "lora_path": str(adapter)}
        wanted = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop),
            "stop_token_ids": list(ends),
            "logprobs": 0 if sampling.temperature > 0 else None,  # of the token that is drawn
            "skip_special_tokens": False,
        }
        self._send(
            {
                "job": self._job,
                "prompts": [row.ids for row in rows],
                "seeds": [int(row.uniforms[0] * 2**31) for row in rows],
                "sampling": wanted,
                "adapter": named if adapter else {},
            }
        )
        left = len(rows)
        while left:
            message = self._line()
            if message.get("job") != self._job:
                continue  # of an abandoned job
            if "error" in message:
                raise EngineError(f"vLLM failed: {message['error']}. {_WITHOUT}")
            row = rows[message["row"]]
            row.reply_ids, row.logprobs = message["ids"], message["logprobs"]
            left -= 1
            yield row

    def _send(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(what), file=self._process.stdin, flush=True)
        except OSError:
            raise self._error() from None

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise self._error()

    def _error(self) -> EngineError:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        why = f"vLLM ended with status {code}: {lines[-1] if lines else 'no output'}"
        return EngineError(f"{why}. {_WITHOUT}" if self._job else why)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


class ServedReplies(Replies):
    """A Generate over a vLLM engine."""

    def _ended(self, waiting: list[Row], sampling: Sampling) -> Iterator[Row]:
        student = self._student
        ends = student.model.generation_config.eos_token_id
        yield from student.engine.ended(waiting, sampling, ends, None if self._untuned else student.adapter)


class Served(Loaded):
    """A student whose replies come from a vLLM engine, for inference only."""

    replies = ServedReplies

    def __init__(
        self, model: Any, tokenizer: Any, preset: Preset, source: Source, engine: Engine, adapter: Path | None
    ) -> None:
        super().__init__(model, tokenizer, preset, source)
        self.engine, self.adapter = engine, adapter

    @contextmanager
    def wearing(self, adapter: Path) -> Iterator["Served"]:
        """Use another training's adapter within the context."""
        own, self.adapter = self.adapter, adapter
        try:
            yield self
        finally:
            self.adapter = own
