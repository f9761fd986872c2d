"""Copy the first round of CPL from a run that would make the same one.

    take(Path("runs/mine/ablate/preference/step-dpo"), Path("runs/mine/ablate/preference/sft"), inputs, donor_inputs)
    -> ["search", "sft"]

The search takes hours, and neither it nor the SFT on its right paths depends on how its pairs are used: variants that
differ only in that learn from the same trees. `inputs` and `donor_inputs` are the recipe fields that the two stages
read; the caller (studies/reuse.py) makes sure that everything before them is the same.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plantune_lite.files import write_records, write_whole
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import TrainingSummary

# Fields of the recipe that the first round's search and SFT do not depend on. A search that ran out of its share of
# tokens or hours, which depends on the number of rounds, is not copied.
_LATER = ("cpl.rounds", "cpl.pairs", "cpl.alpha", "cpl.beta", "cpl.learning_rate")
_FILES = {"search": ("trees.jsonl", "search.json"), "sft": ("sft", "sft.json")}


def take(folder: Path, donor: Path, inputs: Mapping[str, Any], donor_inputs: Mapping[str, Any]) -> list[str]:
    """Copy what the donor has finished, if nothing of it is finished here; return the names of what was copied."""
    donor_run, run = RunFolder(donor), RunFolder(folder)
    source, target = (owner.adapter("cpl") / "round1" for owner in (donor_run, run))
    parts = _finished(source)
    if not parts or _finished(target) or _without_later(inputs) != _without_later(donor_inputs):
        return []
    rows = [row for row in run.metric_rows() if row["stage"] != "cpl"]  # what was begun here starts over
    if "sft" in parts:
        first = [row for row in donor_run.metric_rows() if row["stage"] == "cpl" and row["round"] == 1]
        rows += [row for row in first if any(name.startswith("sft_") for name in row)]
    write_records(run.metrics, rows)
    if (base := source.parent / "base.json").is_file():  # a search by a server loads none
        write_whole(target.parent / "base.json", base.read_text(encoding="utf-8"))
    temporary = target.with_name(".round1.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name in (name for part in parts for name in _FILES[part]):
        if (source / name).is_dir():
            shutil.copytree(source / name, temporary / name, ignore=shutil.ignore_patterns("checkpoint-*"))
        else:
            shutil.copyfile(source / name, temporary / name)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)  # whole or not at all: a kill before it leaves the round to be done
    return parts


def _finished(round_: Path) -> list[str]:
    """List the complete parts of a round: the search, and the SFT after it."""
    parts: list[str] = []
    for part in _FILES:
        file = round_ / f"{part}.json"
        if not file.is_file() or TrainingSummary.read(json.loads(file.read_text(encoding="utf-8"))).cut_short:
            break
        parts.append(part)
    return parts


def _without_later(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in _LATER}
