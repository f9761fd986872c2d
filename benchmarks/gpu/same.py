"""Is what was trained on the card what is handed out? SmolLM2 trained there, merged, as GGUF, and on a CPU.

    python -m benchmarks.gpu.same --work DIR            # three minutes
    python -m benchmarks.gpu.same --work DIR --tiny     # on a CPU: does the script run?

A student is trained on practice problems, through Unsloth where there is a card, in float32 and in bf16. Then it
answers other problems greedily in three ways, each in a process of its own: with its adapter; merged by our export;
and with the adapter on the CPU, by transformers and plain PEFT in float32. Where llama.cpp is, the merged model also
becomes a GGUF file and is run. Goal: in float32 the same words; in bf16 the share that differs is what rounding does.
Unmeasured so far.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import card
from benchmarks.gpu.jobs import Job, known, measured, whole
from benchmarks.report import markdown

BITS = (32, 16)
LENGTH, RATE, ROWS, ANSWERED = 1024, 1e-3, 8, 64
WAYS = {
    "merged": "merged, beside its adapter",
    "cpu": "adapter on the CPU by plain PEFT in float32, beside it on the card",
}
_SMOLLM2 = "smollm2_135m"
_ON_CPU = (("CUDA_VISIBLE_DEVICES", ""), ("PLANTUNE_BACKEND", "plain"))


def main(given: list[str] | None = None) -> None:
    """Train, answer in each way, compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.same")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--write", action="store_true", help="only write down what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "BITS"), help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    if asked.one:
        what, bits = asked.one
        print(json.dumps(run(what, int(bits), asked.work, asked.tiny)))
        return
    if not asked.write:
        measure(asked)
    write_down(asked.work, asked.tiny)


def measure(asked: argparse.Namespace) -> None:
    """What is not there yet: training first, then the answers."""
    ends = time.monotonic() + 60 * asked.minutes
    card.noted(asked.work)
    bits = BITS[:1] if asked.tiny else BITS
    at_once = 1 if asked.tiny else len(bits)
    for what in ("train", "adapter", "merge", "merged", "cpu", "gguf"):
        measured([_job(what, one, asked) for one in bits], asked.work, "same", at_once=at_once, ends=ends)


def _job(what: str, bits: int, asked: argparse.Namespace) -> Job:
    arguments = ("--work", str(asked.work), "--one", what, str(bits), *["--tiny"] * asked.tiny)
    environ = _ON_CPU if what == "cpu" else ()
    return Job(f"{what} {bits}", "benchmarks.gpu.same", arguments, needs=60, environ=environ)


# --- in the process ---------------------------------------------------------------------------------------------------


def run(what: str, bits: int, work: Path, tiny: bool) -> dict[str, Any]:
    """One step of the student that is trained in so many bits."""
    from plantune_lite.recipe.schema import Student
    from plantune_lite.student.load import load_student

    place = work / f"same{bits}"
    adapter, merged = place / "adapter", place / "merged"
    part = Student(_base(work, tiny), bits=32 if what == "cpu" else bits, max_length=LENGTH, checkpointing=False)
    if what == "train":
        return _trained(load_student(part, training=True), adapter, steps=2 if tiny else 60)
    if what == "gguf":
        return _gguf(merged, place / "gguf", tiny)
    if what == "merge":
        return _merged(adapter, _base(work, tiny), merged)
    if what == "merged":
        return _answers(load_student(replace(part, model=str(merged))), tiny)
    return _answers(load_student(part, adapter=adapter), tiny)


def _base(work: Path, tiny: bool) -> str:
    """SmolLM2; in miniature a student that has learned nothing."""
    from benchmarks.gpu.shapes import written

    return str(written("qwen2_5_7b", work, tiny=True)) if tiny else _SMOLLM2


def _trained(loaded: Any, out: Path, steps: int) -> dict[str, Any]:
    """An adapter that has learned something."""
    from plantune_lite.plan import ask_plainly, render
    from plantune_lite.problems.practice.generate import practice_problems
    from plantune_lite.recipe.schema import SFT
    from plantune_lite.runs.job import Reporter, Training
    from plantune_lite.train import sft

    rows = [
        {"prompt": list(ask_plainly(one)), "completion": render(one.extra["plan"], one.solution)}
        for one in practice_problems("train", seed=0, limit=min(320, steps * ROWS), levels=(2,))
    ]
    part = SFT(max_steps=steps, batch_size=ROWS, accumulate=1, learning_rate=RATE, save_steps=steps)
    summary = sft.train(loaded, rows, part, out, Training(max_length=LENGTH, reporter=Reporter(say=lambda line: None)))
    return {"line": summary["line"], "backend": loaded.source.backend, "dtype": str(loaded.model.dtype)}


def _merged(adapter: Path, model: str, merged: Path) -> dict[str, Any]:
    """The adapter in its base, by our export, and what our own comparison says of it."""
    from plantune_lite.export import check_merge, merge
    from plantune_lite.student import presets, smollm2

    preset = presets.find(model)
    base = smollm2.folder() if preset else Path(model)
    merge.merge_adapter(adapter, base, merged, preset=preset)
    return {"agreement": check_merge.compare(adapter, base, merged, _prompts(merged)[: check_merge.PROMPTS])["line"]}


def _gguf(merged: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """The merged model as GGUF, beside itself in llama.cpp."""
    from plantune_lite.export import gguf, llama_cpp
    from plantune_lite.student import presets

    if tiny or not llama_cpp.runs_llama():
        return {"line": "no llama.cpp here"}
    preset = presets.find(_SMOLLM2)
    model = gguf.Model(merged=merged, name="same", preset=preset, prompts=_prompts(merged))
    made = gguf.export_gguf(model, out, ("q8_0",))
    return {"line": "; ".join(f"{name}: {one['agreement']}" for name, one in made["gguf"].items())}


def _problems() -> list[Any]:
    from plantune_lite.problems.practice.generate import practice_problems

    return list(practice_problems("train", seed=1, limit=ANSWERED, levels=(2,)))


def _prompts(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    from plantune_lite.plan import ask_plainly
    from plantune_lite.student import chat

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [chat.encode_chat(tokenizer, ask_plainly(problem)) for problem in _problems()]


def _answers(loaded: Any, tiny: bool) -> dict[str, Any]:
    """What it says, greedily."""
    from plantune_lite.plan import ask_plainly
    from plantune_lite.types import Sampling

    asked = [ask_plainly(problem) for problem in _problems()[: 2 if tiny else None]]
    replies = loaded.generate(asked, Sampling(max_tokens=8 if tiny else 128))
    about = {"backend": loaded.source.backend, "device": loaded.model.device.type, "dtype": str(loaded.model.dtype)}
    return {**about, "answers": [list(reply.token_ids) for [reply] in replies]}


# --- comparing --------------------------------------------------------------------------------------------------------


def compared(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> dict[str, float]:
    """The share of answers that are the same to the last token, and of tokens before the first that differs."""
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(list(one) == list(other) for one, other in pairs)
    alike = sum(len(os.path.commonprefix([list(one), list(other)])) for one, other in pairs)
    total = sum(max(len(one), len(other)) for one, other in pairs)
    return {"answers": same / len(pairs), "tokens": alike / max(1, total)}


def write_down(work: Path, tiny: bool) -> None:
    """A line a way and a type."""
    found = whole(known(work, "same"))
    table, figures = [], {}
    for bits in BITS:
        type_ = "float32" if bits == 32 else "bf16"
        for what, words in WAYS.items():
            ours, theirs = found.get(f"{what} {bits}"), found.get(f"adapter {bits}")
            if ours is None or theirs is None:
                table.append((words, type_, "not measured", ""))
                continue
            one = figures[f"{what} {bits}"] = compared(ours["answers"], theirs["answers"])
            table.append((words, type_, f"{one['answers']:.0%}", f"{one['tokens']:.1%}"))
    lines = [f"{name}: {one[key]}" for name, one in found.items() for key in ("agreement", "line") if key in one]
    listed = "\n".join(f"- {line}" for line in lines)
    columns = ("answers", "in", "the same to the last token", "tokens before the first that differs")
    card.write_down(
        "same",
        work,
        tiny=tiny,
        about="SmolLM2-135M trained on the card: merged, as GGUF, and with plain PEFT on the CPU.",
        command="python -m benchmarks.gpu.same --work DIR",
        found={"compared": figures, "found": {name: _short(one) for name, one in found.items()}},
        text=markdown(columns, table) + f"\n\n{ANSWERED} fresh problems, greedy.\n\n{listed}",
    )


def _short(one: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name != "answers"}


if __name__ == "__main__":
    main()
