"""Run the benchmarks that need a CUDA GPU, in order of importance; each part resumes after a stop.

    python -m benchmarks.gpu                                            # the parts, and about how long they take
    python -m benchmarks.gpu fits-sft sft --work DIR --minutes 9        # these; starts none that would not end in time
    python -m benchmarks.gpu all --work DIR --tiny                      # on a CPU, in miniature: do the scripts run?
    python -m benchmarks.gpu all --work DIR --write                     # only the pages, from what DIR holds

Results are kept in DIR; the pages benchmarks/gpu/NAME.md and .json are made from them, on any machine.
"""

import argparse
import importlib
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.fits import RECIPES
from benchmarks.report import markdown


@dataclass(frozen=True)
class Part:
    """Describe a part: its script and its question."""

    module: str
    minutes: float  # about, on a large GPU; not measured yet
    question: str
    arguments: tuple[str, ...] = ()


def _recipes(stage: str) -> tuple[str, ...]:
    return ("--recipes", *(recipe for recipe in RECIPES if recipe.endswith(stage)))


PARTS = {
    "fits-sft": Part("fits", 6, "do the SFT recipes fit into 8, 12, 16, 24 GB and a T4's dtypes?", _recipes("_sft")),
    "fits-grpo": Part("fits", 9, "do the GRPO recipes?", _recipes("_grpo")),
    "sft": Part("sft", 8, "how fast is SFT, compared with plain TRL + PEFT + bitsandbytes?"),
    "grpo": Part("grpo", 15, "how fast is GRPO, and how much of it is sampling?"),
    "same": Part("same", 3, "does the export match what was trained?"),
    "pays-sft": Part("pays", 18, "does learning to plan pay on gsm8k?", ("--part", "choose", "untuned", "sft", "use")),
    "pays-rl": Part("pays", 25, "which reward and filter pay, and does mixing?", ("--part", "grpo", "filter", "mixed")),
}


def main(given: list[str] | None = None) -> None:
    """Run the parts given, or list them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all", []], metavar="PART")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(given)
    if not options.parts:
        print(markdown(("part", "minutes, about", "question"), [(n, p.minutes, p.question) for n, p in PARTS.items()]))
        return
    if options.work is None:
        parser.error("--work DIR is missing: the folder for the results")
    ends = time.monotonic() + 60 * options.minutes
    flags = [flag for flag in ("--tiny", "--write") if getattr(options, flag.strip("-"))]
    for name in PARTS if "all" in options.parts else options.parts:
        left = (ends - time.monotonic()) / 60
        if left <= 0:
            print(f"{name}: no time left for it", flush=True)
            continue
        print(f"== {name}, {left:.1f} minutes left", flush=True)
        module = importlib.import_module(f"benchmarks.gpu.{PARTS[name].module}")
        module.main([*PARTS[name].arguments, "--work", str(options.work), "--minutes", f"{left:.2f}", *flags])


if __name__ == "__main__":
    main()
