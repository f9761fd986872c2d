"""Evaluate any model on a run's test problems, next to its own: an adapter, a merged folder, a GGUF file, a server.

    evaluate_model(Path("runs/mine"), "runs/mine/gguf/mine.q8_0.gguf") -> the standing, with a row for it

A model trained here is prompted as in training; a server, whose training is unknown, with the prompts of an untuned
model. The answers are in eval/SUITE.NAME.jsonl, and the same call resumes where it was cut off; if they are moved away,
a server is asked again, whatever it answered before.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from plantune_lite.evaluate import compare, modes
from plantune_lite.evaluate.answers import Asking, Show
from plantune_lite.evaluate.results import OF_A_RUN
from plantune_lite.files import read_object, sha256_of
from plantune_lite.recipe.load import load_recipe
from plantune_lite.recipe.schema import Distill, Recipe
from plantune_lite.runs.folder import LEDGER, RunFolder, home
from plantune_lite.runs.manifest import now, read_manifest
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.teacher.teacher import open_teacher
from plantune_lite.types import Generate, Messages, MissingError, PlantuneError, Reply, RunError, Sampling


def evaluate_model(
    run: Path, where: str, *, say: Callable[[str], object] = print, show: Show = lambda line, last: None
) -> compare.Standing:
    """Answer every suite of the run with this model, and compare it with the others."""
    recipe = load_recipe(run)
    suites = RunFolder(run).suite_problems()
    if not suites:
        raise RunError(f"{run} has no test problems yet: plantune evaluate {recipe.name} makes them")
    name, server = _name(where), _is_server(where)
    weights = "" if server else _weights(where)
    prompts: Sequence[modes.Mode] = recipe.evaluate.prompts or ("zero_shot_cot", "plan_then_solve")
    if not server:
        prompts = (modes.mode_of(recipe, read_manifest(run).summaries),)
    examples = modes.examples_of(run)
    prompts = modes.prompts_with_examples(prompts, examples, say)
    how = Asking(sampling=modes.sampling_of(recipe), examples=examples, show=show)
    with _opened(run, recipe, where, say) as generate:
        for suite, problems in suites.items():
            if any(problem.kind == "code" for problem in problems):
                say(f"{suite} is left out: programs are only asked of the run's own model")
                continue
            out = RunFolder(run).answers(suite, name)
            for mode in prompts:
                model = _asked_since(out, mode, where) if server else weights
                modes.evaluate_problems(
                    partial(generate, apart=model) if server else generate,
                    problems,
                    mode=mode,
                    out=out,
                    how=replace(how, model=model),
                )
    return compare.standing([run], seed=recipe.seed)


def _name(where: str) -> str:
    """Derive the name of a model's files: runs/mine/merged is mine-merged, a server's model keeps its own name."""
    if _is_server(where):
        words = where.partition("#")[2]
    else:
        path = Path(where)
        words = path.stem if path.suffix == ".gguf" else f"{path.resolve().parent.name}-{path.name}"
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-")
    return f"{name}-model" if name in OF_A_RUN else name


def _is_server(where: str) -> bool:
    return "://" in where


def _asked_since(out: Path, mode: str, where: str) -> str:
    """Name a server with the time it was first asked for the answers in `out`, or now: it may have served another
    model under this name before."""
    settings = out.with_suffix(".json")
    known = read_object(settings) if out.is_file() and settings.is_file() else {}
    since = known.get(mode, {}).get("model", "")
    return since if since.partition(", ")[0] == where else f"{where}, {now()}"


def _weights(where: str) -> str:
    """Fingerprint the weights, to tell them from others that were at this path before."""
    path = Path(where)
    adapter = path / "adapter_model.safetensors"
    if (file := adapter if adapter.is_file() else path).is_file():
        return sha256_of(file)
    files = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in sorted(path.glob("*.safetensors"))]
    return hashlib.sha256(repr(files).encode()).hexdigest()


@contextmanager
def _opened(
    run: Path, recipe: Recipe, where: str, say: Callable[[str], object]
) -> Iterator[Callable[..., list[list[Reply]]]]:
    """Open the model as a Generate."""
    path = Path(where)
    if _is_server(where):
        address, _, model = where.partition("#")
        if not model:
            raise PlantuneError(f"which model of {address}? Name it after a #: {address}#NAME")
        with (
            Ledger(home(run) / LEDGER, run=recipe.name, max_usd=recipe.distill.max_usd) as calls,
            of_server(address, model, calls) as generate,
        ):
            yield generate
    elif path.suffix == ".gguf" and path.is_file():
        yield of_gguf(path, room=modes.room_to_answer(recipe))
    elif (path / "adapter_config.json").is_file():
        pinned = read_object(path / "adapter_config.json").get("revision")
        yield modes.student_to_ask(recipe, say, adapter=path, pinned=pinned).generate
    elif (path / "config.json").is_file():
        wanted = replace(recipe.student, model=str(path), revision=None, bits=max(16, recipe.student.bits))
        yield modes.student_to_ask(replace(recipe, student=wanted), say).generate
    else:
        raise PlantuneError(
            f"{where} is not a model: give the folder of an adapter or of a merged model, a .gguf file, or a server's "
            "address with the model after a #"
        )


# --- a GGUF file or a server as a Generate ----------------------------------------------------------------------------


def of_gguf(file: Path, *, room: int) -> Generate:
    """Load a GGUF file to reply by its chat template, one prompt at a time; `room` is prompt and reply in tokens."""
    try:
        import llama_cpp
    except ImportError:
        raise MissingError("a GGUF file needs llama.cpp: pip install 'plantune-lite[gguf]' (a C++ compiler)") from None
    try:
        model = llama_cpp.Llama(str(file), n_ctx=room, verbose=False)
    except ValueError as error:
        raise PlantuneError(f"{file} cannot be loaded by llama.cpp: {error}") from None

    def complete(messages: Messages, sampling: Sampling, sample: int) -> Reply:
        completion = model.create_chat_completion(
            messages=list(messages),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            seed=sampling.seed + sample,
        )
        choice, used = completion["choices"][0], completion["usage"]
        return Reply(
            text=choice["message"]["content"] or "",
            finish="length" if choice["finish_reason"] == "length" else "stop",
            tokens_in=used["prompt_tokens"],
            tokens_out=used["completion_tokens"],
        )

    def generate(prompts: Sequence[Messages], sampling: Sampling) -> list[list[Reply]]:
        return [[complete(prompt, sampling, sample) for sample in range(sampling.n)] for prompt in prompts]

    return generate


@contextmanager
def of_server(
    address: str, model: str, ledger: Ledger, *, environ: Mapping[str, str] = os.environ
) -> Iterator[Callable[..., list[list[Reply]]]]:
    """Open an OpenAI-compatible server: many prompts at once, `apart` from those to others (teacher.py)."""
    part = Distill(address, model=model, thinking=None)
    with asyncio.Runner() as loop:
        teacher = open_teacher(part, ledger, environ=environ)
        ask = loop.run(teacher.__aenter__())

        async def all_of(prompts: Sequence[Messages], sampling: Sampling, apart: str) -> list[list[Reply]]:
            return await asyncio.gather(*(ask(prompt, sampling, None, apart=apart) for prompt in prompts))

        try:
            yield lambda prompts, sampling, apart="": loop.run(all_of(prompts, sampling, apart))
        finally:
            loop.run(teacher.__aexit__(None, None, None))
