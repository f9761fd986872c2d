"""Does planning pay on real gsm8k? SmolLM2-135M: untuned, baseline, M1, M2, GRPO; SFT with three seeds.

    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR               # resumes where it was cut off
    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR --part sft --seed 0
    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR --tiny        # on a CPU: does the script run?
    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR --write       # the table, of what is there

FOLDER holds gsm8k_train.jsonl and gsm8k_test.jsonl, all of whose problems are asked. Plans come from the data set's own
sub-questions (teacher "worked", which asks nobody). Rates are chosen on train problems that are kept apart, never on
test. The parts, in this order; several processes share the card, and no call need take more than nine minutes:

    choose       the learning rate of each arm, on the problems kept apart
    untuned      the three prompts of the untuned model
    sft          baseline (the data set's solutions), M1 (plan, then solution), M2 (plan alone), three seeds
    grpo         from M1: R_ans, R_ans + R_plan, guided (PTA-GRPO): 100 steps of 32 completions, the same for all
    use          does the plan do the work: own, none, another problem's, dropped
    filter       M1 taught what it says itself: unfiltered, plans that score well, and of these the right answers
    mixed        M1 with as many practice problems in the same number of steps

The arms see the same problems and learned tokens, as in benchmarks/arms.py. Nobody scores the plans of `worked`, so the
filters are asked about M1's own plans, scored by their likeness to the data set's; and its working is the data set's,
so the control is the baseline word for word, but for rows that the page counts. Unmeasured so far.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import card, pays_table
from benchmarks.gpu.jobs import Job, known, measured, whole
from benchmarks.gpu.pays_rows import FULL, TINY, Sizes, corpora, filters, split
from benchmarks.gpu.pays_student import GRPO_RATE, IN_MINIATURE, run
from benchmarks.gpu.pays_table import FILTERS, REWARDS, SEEDS, UNTUNED

PARTS = ("choose", "untuned", "sft", "grpo", "use", "filter", "mixed")
AT_ONCE = 6  # their seconds say nothing, their answers do
MOST_PROCESS = 540.0  # seconds; what is not done by then goes on next time


def main(given: list[str] | None = None) -> None:
    """The parts that are asked for, and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pays")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seed", type=int, choices=SEEDS, help="only this seed of sft, filter and mixed")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--write", action="store_true", help="only write down what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    sizes = TINY if asked.tiny else FULL
    if asked.one:
        print(json.dumps(run(asked.one.split(), asked.work, sizes, asked.tiny)))
        return
    if not asked.write:
        from benchmarks.gpu.shapes import written

        ends = time.monotonic() + 60 * asked.minutes
        card.noted(asked.work)
        if asked.tiny:  # else the first processes would all make it at once
            written(IN_MINIATURE, asked.work, tiny=True)
        corpora(asked.work, sizes)
        for part in [part for part in asked.part for _ in range(2)]:  # once more after what it goes on from
            jobs = [_job(name, asked) for name in names(part, asked.work, sizes, asked.seed)]
            measured(jobs, asked.work, "pays", at_once=asked.at_once, ends=ends)
    _, _, test = split(sizes)
    pays_table.write_down(asked.work, test, whole(known(asked.work, "pays")), told(sizes), tiny=asked.tiny)


def _job(name: str, asked: argparse.Namespace) -> Job:
    arguments = ("--work", str(asked.work), "--one", name, *["--tiny"] * asked.tiny)
    made = {f"sft {arm} 0": adapter(arm, asked.work) for arm in ("m1", "m2")} | {"own m1": filters(asked.work)}
    return Job(name, "benchmarks.gpu.pays", arguments, needs=90, most=MOST_PROCESS, makes=made.get(name))


def adapter(arm: str, work: Path) -> Path:
    """What others go on from: too large for some machines to give back, and then it is trained again."""
    return work / f"{arm}0" / "adapter_model.safetensors"


def names(part: str, work: Path, sizes: Sizes, seed: int | None) -> list[str]:
    """What a part is made of; first what it goes on from, and nothing where not even that can be made yet."""
    done = whole(known(work, "pays"))
    seeds = sizes.seeds if seed is None else (seed,)
    chosen = {arm for arm in ("baseline", "m1", "m2") if all(f"choose {arm} {rate}" in done for rate in sizes.rates)}
    if part == "choose":
        return [f"choose {arm} {rate}" for arm in ("m1", "baseline", "m2") for rate in sizes.rates]
    if part == "untuned":
        return [f"untuned {mode}" for mode in UNTUNED]
    if part == "sft":
        return [f"sft {arm} {seed}" for seed in seeds for arm in ("m1", "baseline", "m2") if arm in chosen]
    if part == "mixed":
        return [f"sft mixed {seed}" for seed in seeds if "m1" in chosen]
    arms = {"grpo": ("m1",), "filter": ("m1",), "use": ("m1", "m2")}[part]
    if missing := [arm for arm in arms if not (f"sft {arm} 0" in done and adapter(arm, work).is_file())]:
        return [f"sft {arm} 0" for arm in missing if arm in chosen]
    if part == "filter":
        kept = "own m1" in done and filters(work).is_file()
        return [f"sft {arm} {seed}" for arm in FILTERS for seed in seeds] if kept else ["own m1"]
    return [f"grpo {reward}" for reward in REWARDS] if part == "grpo" else [f"use {arm} 0" for arm in arms]


def told(sizes: Sizes) -> dict[str, Any]:
    """The settings that the page names."""
    return {**vars(sizes), "grpo_rate": GRPO_RATE}


if __name__ == "__main__":
    main()
