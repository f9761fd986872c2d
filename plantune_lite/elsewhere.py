"""Models that are not a run's student, as a Generate: a GGUF file through llama.cpp, a server by its address.

generate = of_gguf(Path("runs/mine/gguf/mine.q8_0.gguf"), room=1536)
with of_server("http://127.0.0.1:8080/v1", "mine", ledger) as generate:
    [[reply]] = generate([chat("How many legs have 3 hens?")], Sampling(max_tokens=256))

What a server says goes through the ledger like a teacher's reply: asked once, paced, tried again. By tomorrow it may
serve another model under the same name: generate(prompts, sampling, apart="...") asks anew what was asked without that.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from plantune_lite.ledger import Ledger
from plantune_lite.recipe import Distill
from plantune_lite.teacher import open_teacher
from plantune_lite.types import Generate, Messages, MissingError, PlantuneError, Reply, Sampling


def of_gguf(file: Path, *, room: int) -> Generate:
    """Replies of a GGUF file by its own chat template, one after another; `room` is prompt and reply in tokens."""
    try:
        import llama_cpp
    except ImportError:
        raise MissingError("a GGUF file needs llama.cpp: pip install 'plantune-lite[gguf]' (a C++ compiler)") from None
    try:
        model = llama_cpp.Llama(str(file), n_ctx=room, verbose=False)
    except ValueError as error:
        raise PlantuneError(f"{file} cannot be loaded by llama.cpp: {error}") from None

    def one(messages: Messages, sampling: Sampling, sample: int) -> Reply:
        said = model.create_chat_completion(
            messages=list(messages),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            seed=sampling.seed + sample,
        )
        choice, used = said["choices"][0], said["usage"]
        return Reply(
            text=choice["message"]["content"] or "",
            finish="length" if choice["finish_reason"] == "length" else "stop",
            tokens_in=used["prompt_tokens"],
            tokens_out=used["completion_tokens"],
        )

    def generate(prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        return [[one(prompt, sampling, sample) for sample in range(sampling.n)] for prompt in prompts]

    return generate


@contextmanager
def of_server(
    address: str, model: str, ledger: Ledger, *, environ: Mapping[str, str] = os.environ
) -> Iterator[Callable[..., list[list[Reply]]]]:
    """Replies of an OpenAI-compatible server; many prompts at once, `apart` from those to others (teacher.py)."""
    part = Distill(address, model=model, thinking=None)
    with asyncio.Runner() as loop:
        teacher = open_teacher(part, ledger, seed=0, environ=environ)
        ask = loop.run(teacher.__aenter__())

        async def all_of(prompts: Sequence[Messages], sampling: Sampling, apart: str) -> list[list[Reply]]:
            return await asyncio.gather(*(ask(prompt, sampling, None, apart=apart) for prompt in prompts))

        try:
            yield lambda prompts, sampling, apart="": loop.run(all_of(prompts, sampling, apart))
        finally:
            loop.run(teacher.__aexit__(None, None, None))
