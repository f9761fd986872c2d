"""Our generation beside a plain model.generate loop: generated tokens a second and peak memory, the same problems.

    python -m benchmarks.generate            # CPU, about thirteen minutes; the machine must be idle
    python -m benchmarks.generate --quick    # to try it; writes nothing

Every side asks SmolLM2-135M-Instruct the same practice problems step by step, greedily, in float32, in a process of its
own. The plain loop takes the problems as they come, in batches of one size, as transformers' documentation has it;
it is asked for several sizes, and what counts is ours beside the best of them. All batches but 32 are far slower, and
one of them has nothing to do with the next: some problems drawn from all are enough for them. Peak memory is VmHWM.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.report import machine, markdown, write

PROBLEMS, MOST, ROUNDS = 128, 256, 1
BATCHES = (1, 8, 16, 32, 64)
SIDES = ("ours", "32", "64", "1", "8", "16")
SHARE = {"1": 32, "8": 16, "16": 4, "64": 2}  # one problem of so many


def main() -> None:
    """Each side in turn, the other way round in every second round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="32 problems, 24 tokens")
    parser.add_argument("--side", choices=SIDES)
    asked = parser.parse_args()
    problems, most = (32, 24) if asked.quick else (PROBLEMS, MOST)
    if asked.side is not None:
        print(json.dumps(run(asked.side, problems, most)))
        return
    found: dict[str, list[dict]] = {side: [] for side in SIDES}
    for number in range(ROUNDS):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            command = [sys.executable, "-m", "benchmarks.generate", "--side", side, *["--quick"] * asked.quick]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
            one = found[side][-1]
            speed = one["tokens"] / one["seconds"]
            print(f"round {number}, {side}: {speed:.1f} tokens a second, {one['peak_mb']:.0f} MB", flush=True)
    page = write_down(found, problems, most, written=not asked.quick)
    if asked.quick:
        print(page)


def prompts(problems: int) -> list[tuple[dict[str, str], ...]]:
    """Test problems of all levels and templates, asked as an untuned model is asked."""
    from plantune_lite.plan import ask_step_by_step
    from plantune_lite.problems.practice.generate import practice_problems

    return [ask_step_by_step(problem) for problem in practice_problems("test", seed=0, limit=problems)]


def drawn(side: str, problems: int) -> list[int]:
    """Which problems a side is asked."""
    return sorted(Random(0).sample(range(problems), problems // SHARE.get(side, 1)))


def run(side: str, problems: int, most: int) -> dict:
    """One side; loading and a first word are not timed."""
    asked = [prompts(problems)[at] for at in drawn(side, problems)]
    seconds, said = ours(asked, most) if side == "ours" else plain(asked, most, int(side))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "tokens": sum(map(len, said)), "said": said, "peak_mb": int(peak) / 1000}


def ours(asked: list, most: int) -> tuple[float, list[list[int]]]:
    """Through Loaded.generate; the end of a turn, which is no part of a reply, is a token that was generated."""
    from plantune_lite.recipe.schema import Student
    from plantune_lite.student.load import load_student
    from plantune_lite.types import Sampling

    loaded = load_student(Student("smollm2_135m", bits=32), say=lambda line: None)
    [end] = set(loaded.model.generation_config.eos_token_id) - {loaded.tokenizer.pad_token_id}
    loaded.generate(asked[:1], Sampling(max_tokens=1))
    began = time.perf_counter()
    replies = loaded.generate(asked, Sampling(max_tokens=most))
    seconds = time.perf_counter() - began
    return seconds, [[*reply.token_ids, *[end] * (reply.finish == "stop")] for [reply] in replies]


def plain(asked: list, most: int, batch: int) -> tuple[float, list[list[int]]]:
    """As transformers' documentation has it: padded on the left, a batch after the other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from plantune_lite.student import smollm2

    place = str(smollm2.folder())
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left")
    end = model.generation_config.eos_token_id

    def answer(some: list, most: int) -> list[list[int]]:
        texts = [tokenizer.apply_chat_template(list(one), tokenize=False, add_generation_prompt=True) for one in some]
        inputs = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=most, do_sample=False)
        said = out[:, inputs["input_ids"].shape[1] :].tolist()
        return [ids[: ids.index(end) + 1] if end in ids else ids for ids in said]

    answer(asked[:1], 1)
    began = time.perf_counter()
    said = [ids for start in range(0, len(asked), batch) for ids in answer(asked[start : start + batch], most)]
    return time.perf_counter() - began, said


def write_down(found: dict[str, list[dict]], problems: int, most: int, *, written: bool) -> str:
    """Ratios: machines are noisy, seconds mean little."""
    speed = {side: [one["tokens"] / one["seconds"] for one in runs] for side, runs in found.items()}
    peak = {side: median(one["peak_mb"] for one in runs) for side, runs in found.items()}
    best = max(SIDES[1:], key=lambda side: median(speed[side]))
    ratio = {
        side: sorted(ours / theirs for ours, theirs in zip(speed["ours"], speed[side], strict=True))
        for side in SIDES[1:]
    }
    mine = found["ours"][0]["said"]
    differ = {
        side: sum(ids != mine[at] for at, ids in zip(drawn(side, problems), runs[0]["said"], strict=True))
        for side, runs in found.items()
    }
    table = [
        (
            "ours" if side == "ours" else f"plain, batch {side}{' (the best)' if side == best else ''}",
            f"{median(speed[side]):.1f}",
            f"{median(ratio[side]):.2f} ({ratio[side][0]:.2f} to {ratio[side][-1]:.2f})" if side in ratio else "",
            f"{peak[side]:.0f} MB",
            f"{differ[side]} of {len(runs[0]['said'])}" if side in ratio else "",
        )
        for side, runs in found.items()
    ]
    columns = ("side", "tokens a second", "ours, times as fast (spread)", "peak memory", "replies unlike ours")
    lengths = sorted(map(len, mine))
    text = markdown(columns, table) + (
        f"\n\nSmolLM2-135M-Instruct, float32, greedy, {problems} test problems of `practice` asked step by step, at "
        f"most {most} tokens a reply. Replies have {lengths[0]} to {lengths[-1]} tokens, {median(lengths):.0f} in the "
        f"middle, and {sum(length == most for length in lengths)} of them are cut off; the more they differ in length, "
        "the more a fixed batch computes for replies that have ended. A reply is unlike ours where one of its tokens "
        "is: in another batch sums are rounded otherwise, and two tokens that are about equally likely change places."
    )
    if written:
        write(
            "generate",
            command="python -m benchmarks.generate",
            about="Our generation beside a plain `model.generate` loop of fixed batches, on a CPU.",
            found={
                "machine": {**machine("torch", "transformers"), "threads": os.environ.get("OMP_NUM_THREADS")},
                "best": best,
                "ratio": ratio,
                "differ": differ,
                "peak_mb": peak,
                "runs": {
                    side: [{key: value for key, value in one.items() if key != "said"} for one in runs]
                    for side, runs in found.items()
                },
            },
            text=text,
        )
    return text


if __name__ == "__main__":
    main()
