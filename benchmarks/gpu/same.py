"""Compare a student trained on the GPU with what is exported: SmolLM2 merged, as GGUF, and on a CPU.

    python -m benchmarks.gpu.same --work DIR            # three minutes
    python -m benchmarks.gpu.same --work DIR --tiny     # on a CPU: does the script run?

Trains a student on practice problems in float32 and in bf16, through Unsloth if there is a GPU. It answers other
problems greedily in three ways, each in its own process: with its adapter; merged by our export; and with the adapter
on the CPU, in transformers and plain PEFT in float32. If llama.cpp is installed, the merged model is also exported as
GGUF and run. Goal: in float32 the same words; in bf16 only differences from rounding. Unmeasured so far.
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
    "merged": "merged, compared with its adapter",
    "cpu": "adapter on the CPU in plain PEFT and float32, compared with the GPU",
}
_SMOLLM2 = "smollm2_135m"
_ON_CPU = (("CUDA_VISIBLE_DEVICES", ""), ("PLANTUNE_BACKEND", "plain"))


def main(given: list[str] | None = None) -> None:
    """Train, answer in each way, and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.same")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--write", action="store_true", help="only write the page, from what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "BITS"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.one:
        what, bits = options.one
        print(json.dumps(run(what, int(bits), options.work, options.tiny)))
        return
    if not options.write:
        measure(options)
    write_down(options.work, options.tiny)


def measure(options: argparse.Namespace) -> None:
    """Measure what is missing: training first, then the answers."""
    ends = time.monotonic() + 60 * options.minutes
    card.noted(options.work)
    bits = BITS[:1] if options.tiny else BITS
    at_once = 1 if options.tiny else len(bits)
    for what in ("train", "adapter", "merge", "merged", "cpu", "gguf"):
        measured([_job(what, size, options) for size in bits], options.work, "same", at_once=at_once, ends=ends)


def _job(what: str, bits: int, options: argparse.Namespace) -> Job:
    arguments = ("--work", str(options.work), "--one", what, str(bits), *["--tiny"] * options.tiny)
    environ = _ON_CPU if what == "cpu" else ()
    return Job(f"{what} {bits}", "benchmarks.gpu.same", arguments, needs=60, environ=environ)


# --- in the process ---------------------------------------------------------------------------------------------------


def run(what: str, bits: int, work: Path, tiny: bool) -> dict[str, Any]:
    """Run one step for the student of so many bits."""
    from plantune_lite.recipe.schema import Student
    from plantune_lite.student.load import load_student

    folder = work / f"same{bits}"
    adapter, merged = folder / "adapter", folder / "merged"
    part = Student(_base(work, tiny), bits=32 if what == "cpu" else bits, max_length=LENGTH, checkpointing=False)
    if what == "train":
        return _trained(load_student(part, training=True), adapter, steps=2 if tiny else 60)
    if what == "gguf":
        return _gguf(merged, folder / "gguf", tiny)
    if what == "merge":
        return _merged(adapter, _base(work, tiny), merged)
    if what == "merged":
        return _answers(load_student(replace(part, model=str(merged))), tiny)
    return _answers(load_student(part, adapter=adapter), tiny)


def _base(work: Path, tiny: bool) -> str:
    """Return SmolLM2, or in miniature an untrained student."""
    from benchmarks.gpu.shapes import written

    return str(written("qwen2_5_7b", work, tiny=True)) if tiny else _SMOLLM2


def _trained(loaded: Any, out: Path, steps: int) -> dict[str, Any]:
    """Train an adapter for some steps."""
    from plantune_lite.plan import ask_plainly, render
    from plantune_lite.problems.practice.generate import practice_problems
    from plantune_lite.recipe.schema import SFT
    from plantune_lite.runs.job import Reporter, Training
    from plantune_lite.train import sft

    rows = [
        {"prompt": list(ask_plainly(problem)), "completion": render(problem.extra["plan"], problem.solution)}
        for problem in practice_problems("train", seed=0, limit=min(320, steps * ROWS), levels=(2,))
    ]
    part = SFT(max_steps=steps, batch_size=ROWS, accumulate=1, learning_rate=RATE, save_steps=steps)
    summary = sft.train(loaded, rows, part, out, Training(max_length=LENGTH, reporter=Reporter(say=lambda line: None)))
    return {"line": summary["line"], "backend": loaded.source.backend, "dtype": str(loaded.model.dtype)}


def _merged(adapter: Path, model: str, merged: Path) -> dict[str, Any]:
    """Merge the adapter by our export, and compare the result with the adapter."""
    from plantune_lite.export import check_merge, merge
    from plantune_lite.student import presets, smollm2

    preset = presets.find(model)
    base = smollm2.folder() if preset else Path(model)
    merge.merge_adapter(adapter, base, merged, preset=preset)
    return {"agreement": check_merge.compare(adapter, base, merged, _prompts(merged)[: check_merge.PROMPTS])["line"]}


def _gguf(merged: Path, out: Path, tiny: bool) -> dict[str, Any]:
    """Export the merged model as GGUF, and compare it in llama.cpp."""
    from plantune_lite.export import gguf, llama_cpp
    from plantune_lite.student import presets

    if tiny or not llama_cpp.runs_llama():
        return {"line": "llama.cpp is not installed"}
    preset = presets.find(_SMOLLM2)
    model = gguf.Model(merged=merged, name="same", preset=preset, prompts=_prompts(merged))
    exported = gguf.export_gguf(model, out, ("q8_0",))
    return {"line": "; ".join(f"{name}: {entry['agreement']}" for name, entry in exported["gguf"].items())}


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
    """Generate greedy answers."""
    from plantune_lite.plan import ask_plainly
    from plantune_lite.types import Sampling

    chats = [ask_plainly(problem) for problem in _problems()[: 2 if tiny else None]]
    replies = loaded.generate(chats, Sampling(max_tokens=8 if tiny else 128))
    about = {"backend": loaded.source.backend, "device": loaded.model.device.type, "dtype": str(loaded.model.dtype)}
    return {**about, "answers": [list(reply.token_ids) for [reply] in replies]}


# --- comparing --------------------------------------------------------------------------------------------------------


def compared(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the share of identical answers, and of tokens before the first that differs."""
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(list(left) == list(right) for left, right in pairs)
    alike = sum(len(os.path.commonprefix([list(left), list(right)])) for left, right in pairs)
    total = sum(max(len(left), len(right)) for left, right in pairs)
    return {"answers": same / len(pairs), "tokens": alike / max(1, total)}


def write_down(work: Path, tiny: bool) -> None:
    """Write a row per way and dtype."""
    results = whole(known(work, "same"))
    table, figures = [], {}
    for bits in BITS:
        type_ = "float32" if bits == 32 else "bf16"
        for what, title in WAYS.items():
            ours, theirs = results.get(f"{what} {bits}"), results.get(f"adapter {bits}")
            if ours is None or theirs is None:
                table.append((title, type_, "not measured", ""))
                continue
            pair = figures[f"{what} {bits}"] = compared(ours["answers"], theirs["answers"])
            table.append((title, type_, f"{pair['answers']:.0%}", f"{pair['tokens']:.1%}"))
    lines = [f"{name}: {run[key]}" for name, run in results.items() for key in ("agreement", "line") if key in run]
    listed = "\n".join(f"- {line}" for line in lines)
    columns = ("answers", "dtype", "identical", "tokens before the first that differs")
    card.write_down(
        "same",
        work,
        tiny=tiny,
        about="SmolLM2-135M trained on the GPU: merged, as GGUF, and in plain PEFT on the CPU.",
        command="python -m benchmarks.gpu.same --work DIR",
        found={"compared": figures, "found": {name: _short(run) for name, run in results.items()}},
        text=markdown(columns, table) + f"\n\n{ANSWERED} fresh problems, greedy.\n\n{listed}",
    )


def _short(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "answers"}


if __name__ == "__main__":
    main()
