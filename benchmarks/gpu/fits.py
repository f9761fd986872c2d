"""Do the shipped recipes fit into the memory that users really have free? Random weights of the true shapes.

    python -m benchmarks.gpu.fits --work DIR              # some nine minutes; resumes where it was cut off
    python -m benchmarks.gpu.fits --work DIR --tiny       # on a CPU, in miniature: does the script run?

Each recipe, with the settings it ships, through our own SFT or GRPO (Unsloth), in a process of its own that may have so
much of the card and no more. First the peak is measured at 22.5 GiB; then the smallest size above it is tried. Rows and
answers are as long as they may be. 14.6 GiB is also tried in the types of a T4: fp16, Gemma in float32, no bf16, no
flash attention. Beside it what `plantune estimate` says; goal: within 15 %. Unmeasured so far.
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
FREE = (7.4, 11.0, 14.6, 22.5)  # GiB that a user of a card of 8, 12, 16 and 24 GB has free
T4 = 14.6
STEPS = {"sft": 3, "grpo": 2}  # the second has the optimiser's state already, and sampling takes long
PROMPT = 256  # tokens: what memory.py assumes of a question and the turns around it
AT_ONCE = 6  # only memory is looked at


def main(given: list[str] | None = None) -> None:
    """Measure what is not measured yet, and write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.fits")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--write", action="store_true", help="only write down what is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=4, metavar=("RECIPE", "GIB", "OUTSIDE", "T4"), help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    if asked.one:
        name, gib, outside, t4 = asked.one
        print(json.dumps(run(name, float(gib), float(outside), t4 == "t4", asked.work, asked.tiny)))
        return
    if not asked.write:
        measure(asked)
    write_down(asked.work, asked.tiny)


def measure(asked: argparse.Namespace) -> None:
    """All at 22.5 GiB and as on a T4; then each at the smallest size above its peak, and at the next if it fails."""
    from benchmarks.gpu.shapes import written

    ends = time.monotonic() + 60 * asked.minutes
    card.noted(asked.work)
    for recipe in asked.recipes:
        written(student_of(recipe), asked.work, tiny=asked.tiny)
    how = {"at_once": asked.at_once, "ends": ends}
    jobs = [job(asked, recipe, FREE[-1]) for recipe in asked.recipes]
    jobs += [job(asked, recipe, T4, t4=True) for recipe in asked.recipes]
    first = whole(measured(jobs, asked.work, "fits", **how))
    taken = [one["outside_gib"] for one in first.values() if one["outside_gib"]]
    outside = max(taken, default=card.CUDA_BYTES / card.GIB)
    for _ in FREE[:-1]:  # where one fails, the next round has it at the next size
        found = in_work(asked.work)
        wanted = {recipe: to_try(found, recipe, outside) for recipe in asked.recipes}
        jobs = [job(asked, recipe, gib, outside) for recipe, gib in wanted.items() if gib is not None]
        if not jobs:
            break
        measured(jobs, asked.work, "fits", **how)


def job(asked: argparse.Namespace, recipe: str, gib: float, outside: float | None = None, t4: bool = False) -> Job:
    """A process that has one recipe in so much memory."""
    outside = card.CUDA_BYTES / card.GIB if outside is None else outside
    one = ("--one", recipe, str(gib), f"{outside:.3f}", "t4" if t4 else "bf16")
    tiny = ("--tiny",) if asked.tiny else ()
    return Job(
        key(recipe, gib, t4), "benchmarks.gpu.fits", ("--work", str(asked.work), *one, *tiny), needs=90, most=500
    )


def key(recipe: str, gib: float, t4: bool = False) -> str:
    """What a measurement is called."""
    return f"{recipe} {gib}{' t4' if t4 else ''}"


def in_work(work: Path) -> dict[str, dict[str, Any]]:
    """All that was measured."""
    return whole(known(work, "fits"))


def to_try(found: dict[str, dict[str, Any]], recipe: str, outside: float) -> float | None:
    """The smallest size above the peak that has not failed; None: it is known, or nothing is."""
    top = found.get(key(recipe, FREE[-1]))
    if top is None or not top["fits"]:
        return None
    peak = top["allocated_gib"] + (top["outside_gib"] or outside)
    for gib in FREE[:-1]:
        one = found.get(key(recipe, gib))
        if gib > peak and one is None:
            return gib
        if one is not None and one["fits"]:
            return None
    return None


def student_of(recipe: str) -> str:
    """The preset whose shape a recipe needs."""
    return load_recipe(recipe).student.model


# --- in the process ---------------------------------------------------------------------------------------------------


def run(name: str, gib: float, outside: float, t4: bool, work: Path, tiny: bool) -> dict[str, Any]:
    """One recipe in so much memory: whether it fits, and what it took."""
    card.smaller(gib, turing=t4, outside=outside)
    from benchmarks.gpu.shapes import written
    from plantune_lite.student.attention import out_of_memory
    from plantune_lite.student.load import load_student

    recipe = load_recipe(name)
    smaller = {"bits": 32, "max_length": 320} if tiny else {}
    part = replace(recipe.student, model=str(written(student_of(name), work, tiny=tiny)), **smaller)
    recipe = replace(recipe, student=part)
    found: dict[str, Any] = {"recipe": name, "gib": gib, "t4": t4}
    try:
        loaded = load_student(part, training=True, say=lambda line: None)
        found |= {"loading_gib": card.loaded(), "dtype": str(loaded.model.dtype)}
        found["attention"] = loaded.model.config._attn_implementation
        with tempfile.TemporaryDirectory() as out:
            found["steps"] = (reinforced if recipe.grpo else tuned)(loaded, recipe, Path(out))["steps"]
    except Exception as error:
        if not (out_of_memory(error) or "memory" in str(error)):
            raise
        return {**found, "fits": False, "why": str(error).replace(str(work), "DIR")[:300], **card.taken()}
    return {**found, "fits": True, **card.taken()}


def _training(recipe: Any) -> Any:
    from plantune_lite.runs.job import Reporter, Training

    part = recipe.student
    quiet = Reporter(say=lambda line: None)
    return Training(max_length=part.max_length, checkpointing=part.checkpointing, reporter=quiet)


def tuned(loaded: Any, recipe: Any, out: Path) -> dict[str, Any]:
    """A few steps of the recipe's SFT, all rows as long as they may be, with a look at rows that are kept apart."""
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


def reinforced(loaded: Any, recipe: Any, out: Path) -> dict[str, Any]:
    """A few steps of the recipe's GRPO; an answer may have all that a prompt leaves, and takes it."""
    from benchmarks.gpu.shapes import asked
    from plantune_lite.train import grpo, rewards

    grpo.prompt_selection.calibrated = lambda student, rows, room, file, *how: room
    grpo.prompt_selection.solved_at_times = lambda student, rows, *given, **named: list(rows)
    part = replace(recipe.grpo, steps=STEPS["grpo"], save_steps=STEPS["grpo"])
    rows = asked(loaded, part.steps * part.prompts_per_step, PROMPT)
    return grpo.train(
        loaded,
        rows,
        grpo.Rewards(lambda most: rewards.of(part, rows, max_completion=most), rewards.right_answer),
        part,
        out,
        _training(recipe),
    )


# --- writing it down --------------------------------------------------------------------------------------------------


def estimated(name: str, t4: bool) -> float:
    """What `plantune estimate` says, in GiB: of 4-bit weights made from the original, as they are here."""
    from plantune_lite.estimate import memory
    from plantune_lite.recipe.load import load_recipe

    recipe = load_recipe(name)
    of_original = replace(recipe, student=replace(recipe.student, revision="main"))  # else Unsloth's own copies
    needs = memory.needs(of_original, bf16=not t4)
    stage = "grpo" if recipe.grpo else "sft"
    return next(need.memory for need in needs if need.stage == stage) / card.GIB


def write_down(work: Path, tiny: bool) -> None:
    """A line a recipe, and one more in a T4's types."""
    found = in_work(work)
    table, figures = [], {}
    for t4 in (False, True):
        for recipe in RECIPES:
            runs = {gib: found.get(key(recipe, gib, t4)) for gib in ((T4,) if t4 else FREE)}
            top = runs[T4 if t4 else FREE[-1]]
            said = estimated(recipe, t4)
            peak = top["allocated_gib"] + (top["outside_gib"] or card.CUDA_BYTES / card.GIB) if top else None
            cells = [_cell(gib, runs, t4) for gib in FREE]
            fits = top is not None and top["fits"]
            measured_gib = f"{peak:.1f}" if fits else "more" if top else "not tried"
            off = f"{100 * (said / peak - 1):+.0f} %" if fits and peak else ""
            table.append((recipe + (", T4" if t4 else ""), measured_gib, f"{said:.1f}", off, *cells))
            figures[table[-1][0]] = {"peak_gib": peak, "estimated_gib": round(said, 3), "runs": runs}
    columns = ("recipe", "peak, GiB", "estimated", "estimate off by", *(f"{gib} GiB free" for gib in FREE))
    card.write_down(
        "fits",
        work,
        tiny=tiny,
        about="Which recipe fits into which memory, as shipped, random weights of the true shapes, through Unsloth.",
        command="python -m benchmarks.gpu.fits --work DIR",
        found={"found": figures},
        text=markdown(columns, table)
        + "\n\nThe peak is what torch has allocated at most, and what CUDA has beside it. SFT: rows of max_length "
        f"tokens, {STEPS['sft']} steps; GRPO: prompts of {PROMPT} tokens and answers that fill max_length, "
        f"{STEPS['grpo']} steps, adapter freshly made; loading is not counted. 4-bit weights are made from 16-bit ones "
        "here; Unsloth's own 4-bit copies, which users get, keep some layers in 16 bits and need more. The memory is a "
        "cap on one large card: kernels are the large card's, and a T4 is its types alone.",
    )


def _cell(gib: float, runs: dict[float, dict[str, Any] | None], t4: bool) -> str:
    """Whether it fits there; where a smaller size does, it does."""
    one = runs.get(gib)
    if one is not None:
        return "fits" if one["fits"] else "fails"
    smaller = any(other["fits"] for size, other in runs.items() if other and size < gib)
    return "" if t4 else "fits" if smaller else "not tried"


if __name__ == "__main__":
    main()
