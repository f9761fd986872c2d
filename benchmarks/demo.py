"""The embedded default from beginning to end: the minutes of each stage, and who answered how much.

plantune run smollm2_135m && python -m benchmarks.demo runs/smollm2_135m      # the machine must be idle
"""

import json
import sys
from pathlib import Path

from benchmarks.report import machine, markdown, write
from plantune_lite.evaluate import compare
from plantune_lite.runs.folder import read_manifest


def main() -> None:
    """Write down what a finished run says."""
    run = Path(sys.argv[1])
    stages = read_manifest(run)["stages"]
    stood = compare.standing([run])
    seconds = {name: entry["seconds"] for name, entry in stages.items()}
    minutes = markdown(("stage", "minutes"), [(name, f"{took / 60:.1f}") for name, took in seconds.items()])
    write(
        "demo",
        command="plantune run smollm2_135m && python -m benchmarks.demo runs/smollm2_135m",
        about="The embedded default from beginning to end, on a CPU.",
        found={
            "machine": machine("torch", "transformers", "trl", "peft"),
            "seconds": seconds,
            "recipe": json.loads((run / "recipe.json").read_text(encoding="utf-8")),
            "standing": compare.standing_json(stood),
        },
        text=f"{sum(seconds.values()) / 60:.1f} minutes in all.\n\n{minutes}\n\n{compare.standing_markdown(stood)}",
    )


if __name__ == "__main__":
    main()
