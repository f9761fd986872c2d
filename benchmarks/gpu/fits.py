"""Test which shipped recipes fit into the memory that users have free, with random weights of the true shapes.

    python -m benchmarks.gpu.fits --work DIR              # about nine minutes; resumes after a stop
    python -m benchmarks.gpu.fits --work DIR --tiny       # on a CPU, in miniature: does the script run?

Each recipe trains as shipped through our own SFT or GRPO (Unsloth), in its own process with a cap on GPU memory. The
peak is measured at 22.5 GiB first; then the smallest size above it is tried. Rows and answers have maximum length. 14.6
GiB is also tried with a T4's dtypes: fp16, Gemma in float32, no bf16, no flash attention. The page compares the peaks
with `plantune estimate`; goal: within 15 %. Unmeasured so far.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import card
from benchmarks.gpu.jobs import Job, known, measured, whole
from benchmarks.report import markdown
from plantune_lite.recipe.load import load_recipe

RECIPES = (
    *(f"{student}_{stage}" for stage in ("sft", "grpo") for student in ("qwen3_4b", "gemma3_1b", "qwen2_5_7b")),
    "qwen3_4b_pta_grpo",
)
FREE = (7.4, 11.0, 14.6, 22.5)  # GiB that are free on a GPU of 8, 12, 16 and 24 GB
T4 = 14.6
STEPS = {"sft": 3, "grpo": 2}  # by the second the optimiser has its state; sampling takes long
PROMPT = 256  # tokens: what memory.py assumes for a question and its chat template
AT_ONCE = 6  # only memory matters


def main(given: list[str] | None = None) -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.fits")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--write", action="store_true", help="only write the page, from what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=4, metavar=("RECIPE", "GIB", "OUTSIDE", "T4"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.one:
        name, gib, outside, t4 = options.one
        print(json.dumps(run(name, float(gib), float(outside), t4 == "t4", options.work, options.tiny)))
        return
    if not options.write:
        measure(options)
    write_down(options.work, options.tiny)


def measure(options: argparse.Namespace) -> None:
    """Run all at 22.5 GiB and as on a T4; then each at the smallest size above its peak, or the next if that fails."""
    from benchmarks.gpu.shapes import written

    ends = time.monotonic() + 60 * options.minutes
    card.noted(options.work)
    for recipe in options.recipes:
        written(student_of(recipe), options.work, tiny=options.tiny)
    how = {"at_once": options.at_once, "ends": ends}
    jobs = [job(options, recipe, FREE[-1]) for recipe in options.recipes]
    jobs += [job(options, recipe, T4, t4=True) for recipe in options.recipes]
    first = whole(measured(jobs, options.work, "fits", **how))
    taken = [result["outside_gib"] for result in first.values() if result["outside_gib"]]
    outside = max(taken, default=card.CUDA_BYTES / card.GIB)
    for _ in FREE[:-1]:  # what fails in one round runs at the next size in the next
        results = in_work(options.work)
        sizes = {recipe: to_try(results, recipe, outside) for recipe in options.recipes}
        jobs = [job(options, recipe, gib, outside) for recipe, gib in sizes.items() if gib is not None]
        if not jobs:
            break
        measured(jobs, options.work, "fits", **how)


def job(options: argparse.Namespace, recipe: str, gib: float, outside: float | None = None, t4: bool = False) -> Job:
    """Describe the process that runs a recipe in so much memory."""
    outside = card.CUDA_BYTES / card.GIB if outside is None else outside
    arguments = ("--one", recipe, str(gib), f"{outside:.3f}", "t4" if t4 else "bf16")
    arguments += ("--work", str(options.work), *["--tiny"] * options.tiny)
    return Job(key(recipe, gib, t4), "benchmarks.gpu.fits", arguments, needs=90, limit=500)


def key(recipe: str, gib: float, t4: bool = False) -> str:
    """Name a measurement."""
    return f"{recipe} {gib}{' t4' if t4 else ''}"


def in_work(work: Path) -> dict[str, dict[str, Any]]:
    """Read all results."""
    return whole(known(work, "fits"))


def to_try(results: dict[str, dict[str, Any]], recipe: str, outside: float) -> float | None:
    """Return the smallest untried size above the peak; None if the answer is known or no peak is."""
    top = results.get(key(recipe, FREE[-1]))
    if top is None or not top["fits"]:
        return None
    peak = top["allocated_gib"] + (top["outside_gib"] or outside)
    for gib in FREE[:-1]:
        result = results.get(key(recipe, gib))
        if gib > peak and result is None:
            return gib
        if result is not None and result["fits"]:
            return None
    return None


def student_of(recipe: str) -> str:
    """Return the preset whose shape a recipe needs."""
    return load_recipe(recipe).student.model


# --- in the process ---------------------------------------------------------------------------------------------------


def run(name: str, gib: float, outside: float, t4: bool, work: Path, tiny: bool) -> dict[str, Any]:
    """Run a recipe in so much memory; return whether it fits and what it takes."""
    card.smaller(gib, turing=t4, outside=outside)
    from benchmarks.gpu.shapes import written
    from plantune_lite.student.attention import out_of_memory
    from plantune_lite.student.load import load_student

    recipe = load_recipe(name)
    smaller = {"bits": 32, "max_length": 320} if tiny else {}
    part = replace(recipe.student, model=str(written(student_of(name), work, tiny=tiny)), **smaller)
    recipe = replace(recipe, student=part)
    result: dict[str, Any] = {"recipe": name, "gib": gib, "t4": t4}
    try:
        loaded = load_student(part, training=True, say=lambda line: None)
        result |= {"loading_gib": card.loaded(), "dtype": str(loaded.model.dtype)}
        result["attention"] = loaded.model.config._attn_implementation
        with tempfile.TemporaryDirectory() as out:
            result["steps"] = (run_grpo if recipe.grpo else run_sft)(loaded, recipe, Path(out))["steps"]
    except Exception as error:
        if not (out_of_memory(error) or "memory" in str(error)):
            raise
        return {**result, "fits": False, "why": str(error).replace(str(work), "DIR")[:300], **card.taken()}
    return {**result, "fits": True, **card.taken()}


def _training(recipe: Any) -> Any:
    from plantune_lite.runs.job import Reporter, Training

    part = recipe.student
    quiet = Reporter(say=lambda line: None)
    return Training(max_length=part.max_length, checkpointing=part.checkpointing, reporter=quiet)


def run_sft(loaded: Any, recipe: Any, out: Path) -> dict[str, Any]:
    """Run a few steps of the recipe's SFT with rows of maximum length, and evaluate on validation rows."""
    from benchmarks.gpu.shapes import filled
    from plantune_lite.train import sft

    part = replace(recipe.sft, max_steps=STEPS["sft"], save_steps=STEPS["sft"])
    length = recipe.student.max_length
    return sft.train(
        loaded,
        filled(loaded, part.max_steps * part.batch_size * part.accumulate, length),
        part,
        out,
        _training(recipe),
        validation=filled(loaded, part.batch_size, length),
    )


def run_grpo(loaded: Any, recipe: Any, out: Path) -> dict[str, Any]:
    """Run a few steps of the recipe's GRPO with answers that fill what the prompt leaves."""
    from benchmarks.gpu.shapes import asked
    from plantune_lite.train import grpo, rewards

    grpo.prompt_selection.calibrated = lambda student, rows, room, file, *how: room
    grpo.prompt_selection.solved_at_times = lambda student, rows, *given, **named: list(rows)
    part = replace(recipe.grpo, steps=STEPS["grpo"], save_steps=STEPS["grpo"])
    rows = asked(loaded, part.steps * part.prompts_per_step, PROMPT)
    return grpo.train(
        loaded,
        rows,
        grpo.Rewards(lambda limit: rewards.of(part, rows, max_completion=limit), rewards.right_answer),
        part,
        out,
        _training(recipe),
    )


# --- the page ---------------------------------------------------------------------------------------------------------


def estimated(name: str, t4: bool) -> float:
    """Return the GiB of `plantune estimate` for 4-bit weights made from the original, as here."""
    from plantune_lite.estimate import memory
    from plantune_lite.recipe.load import load_recipe

    recipe = load_recipe(name)
    of_original = replace(recipe, student=replace(recipe.student, revision="main"))  # not Unsloth's own copies
    needs = memory.needs(of_original, bf16=not t4)
    stage = "grpo" if recipe.grpo else "sft"
    return next(need.memory for need in needs if need.stage == stage) / card.GIB


def write_down(work: Path, tiny: bool) -> None:
    """Write a row per recipe, and another with a T4's dtypes."""
    results = in_work(work)
    table, figures = [], {}
    for t4 in (False, True):
        for recipe in RECIPES:
            runs = {gib: results.get(key(recipe, gib, t4)) for gib in ((T4,) if t4 else FREE)}
            top = runs[T4 if t4 else FREE[-1]]
            estimate = estimated(recipe, t4)
            peak = top["allocated_gib"] + (top["outside_gib"] or card.CUDA_BYTES / card.GIB) if top else None
            cells = [_cell(gib, runs, t4) for gib in FREE]
            fits = top is not None and top["fits"]
            measured_gib = f"{peak:.1f}" if fits else "more" if top else "not tried"
            off = f"{100 * (estimate / peak - 1):+.0f} %" if fits and peak else ""
            table.append((recipe + (", T4" if t4 else ""), measured_gib, f"{estimate:.1f}", off, *cells))
            figures[table[-1][0]] = {"peak_gib": peak, "estimated_gib": round(estimate, 3), "runs": runs}
    columns = ("recipe", "peak, GiB", "estimated", "estimate off by", *(f"{gib} GiB free" for gib in FREE))
    card.write_down(
        "fits",
        work,
        tiny=tiny,
        about="Which recipe fits into which memory: as shipped, through Unsloth, random weights of the true shapes.",
        command="python -m benchmarks.gpu.fits --work DIR",
        found={"found": figures},
        text=markdown(columns, table)
        + "\n\nThe peak is torch's maximum allocation plus what CUDA takes outside it. SFT: rows of max_length "
        f"tokens, {STEPS['sft']} steps; GRPO: prompts of {PROMPT} tokens and answers that fill max_length, "
        f"{STEPS['grpo']} steps, a new adapter; loading is not counted. 4-bit weights are made from 16-bit ones here; "
        "Unsloth's own 4-bit copies, which users get, keep some layers in 16 bits and need more. The memory is a cap "
        "on one large GPU: kernels are the large GPU's, and a T4 is its dtypes alone.",
    )


def _cell(gib: float, runs: dict[float, dict[str, Any] | None], t4: bool) -> str:
    """Say whether a recipe fits a size: measured, or because it fits a smaller one."""
    run = runs.get(gib)
    if run is not None:
        return "fits" if run["fits"] else "fails"
    smaller = any(other["fits"] for size, other in runs.items() if other and size < gib)
    return "" if t4 else "fits" if smaller else "not tried"


if __name__ == "__main__":
    main()
