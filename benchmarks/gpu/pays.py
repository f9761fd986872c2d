"""Measure whether planning pays on real gsm8k. SmolLM2-135M: untuned, baseline, M1, M2, GRPO; SFT with three seeds.

    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR               # resumes after a stop
    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR --part sft --seed 0
    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR --tiny        # on a CPU: does the script run?
    PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR --write       # the page, from what is there

FOLDER holds gsm8k_train.jsonl and gsm8k_test.jsonl, whose problems are all used. Plans come from the data set's own
sub-questions (teacher "worked", which calls no model). Learning rates are chosen on held-out train problems, never on
test. The parts, in this order; several processes share the GPU, and no call needs more than nine minutes:

    choose       the learning rate of each arm, on the held-out problems
    untuned      the three prompts of the untuned model
    sft          baseline (the data set's solutions), M1 (plan, then solution), M2 (plan alone), three seeds
    grpo         from M1: R_ans, R_ans + R_plan, guided (PTA-GRPO): 100 steps of 32 completions, the same for all
    use          whether answers depend on the plan: own, none, another problem's, shortened
    filter       M1 trained on its own replies: unfiltered, plans that score well, and of these the right answers
    mixed        M1 with as many practice problems in the same number of steps

The arms see the same problems and learned tokens, as in benchmarks/arms.py. Plans of `worked` have no scores, so the
filters judge M1's own plans, scored by their similarity to the data set's; and its working is the data set's, so the
control equals the baseline word for word, except for rows that the page counts. Unmeasured so far.
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
AT_ONCE = 6  # only answers matter, not seconds
PROCESS_LIMIT = 540.0  # seconds; what is unfinished resumes in the next call


def main(given: list[str] | None = None) -> None:
    """Run the parts given, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pays")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seed", type=int, choices=SEEDS, help="only this seed of sft, filter and mixed")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--write", action="store_true", help="only write the page, from what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    sizes = TINY if options.tiny else FULL
    if options.one:
        print(json.dumps(run(options.one.split(), options.work, sizes, options.tiny)))
        return
    if not options.write:
        from benchmarks.gpu.shapes import written

        ends = time.monotonic() + 60 * options.minutes
        card.noted(options.work)
        if options.tiny:  # else the first processes would all write it at once
            written(IN_MINIATURE, options.work, tiny=True)
        corpora(options.work, sizes)
        for part in [part for part in options.part for _ in range(2)]:  # again once what it starts from is there
            jobs = [_job(name, options) for name in names(part, options.work, sizes, options.seed)]
            measured(jobs, options.work, "pays", at_once=options.at_once, ends=ends)
    _, _, test = split(sizes)
    pays_table.write_down(options.work, test, whole(known(options.work, "pays")), told(sizes), tiny=options.tiny)


def _job(name: str, options: argparse.Namespace) -> Job:
    arguments = ("--work", str(options.work), "--one", name, *["--tiny"] * options.tiny)
    makes = {f"sft {arm} 0": adapter(arm, options.work) for arm in ("m1", "m2")} | {"own m1": filters(options.work)}
    return Job(name, "benchmarks.gpu.pays", arguments, needs=90, limit=PROCESS_LIMIT, makes=makes.get(name))


def adapter(arm: str, work: Path) -> Path:
    """Return the adapter that others start from; where it was too large to bring back, it is trained again."""
    return work / f"{arm}0" / "adapter_model.safetensors"


def names(part: str, work: Path, sizes: Sizes, seed: int | None) -> list[str]:
    """List the jobs of a part: first those it starts from, or none if these cannot run yet."""
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
    """Return the settings that the page names."""
    return {**vars(sizes), "grpo_rate": GRPO_RATE}


if __name__ == "__main__":
    main()
