"""Copy the first round of CPL from a run that would make the same one.

    take(Path("runs/mine/ablate/preference/step-dpo"), Path("runs/mine/ablate/preference/sft"), ours, theirs)
    -> ["search", "sft"]

The search takes hours, and neither it nor the SFT on its right paths depends on how its pairs are used: variants that
differ only in that learn from the same trees. `ours` and `theirs` are what the two stages read of their recipes; the
caller (studies/reuse.py) makes sure that everything before them is the same.
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
# tokens or hours, which hangs on the number of rounds, is not taken over.
_LATER = ("cpl.rounds", "cpl.pairs", "cpl.alpha", "cpl.beta", "cpl.learning_rate")
_FILES = {"search": ("trees.jsonl", "search.json"), "sft": ("sft", "sft.json")}


def take(folder: Path, donor: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Copy what the donor has finished, where nothing of it is finished here; what was copied."""
    theirs_run, run = RunFolder(donor), RunFolder(folder)
    source, target = (one.adapter("cpl") / "round1" for one in (theirs_run, run))
    parts = _finished(source)
    if not parts or _finished(target) or _without_later(ours) != _without_later(theirs):
        return []
    rows = [row for row in run.metric_rows() if row["stage"] != "cpl"]  # what was begun here is begun anew
    if "sft" in parts:
        first = [row for row in theirs_run.metric_rows() if row["stage"] == "cpl" and row["round"] == 1]
        rows += [row for row in first if any(name.startswith("sft_") for name in row)]
    write_records(run.metrics, rows)
    if (base := source.parent / "base.json").is_file():  # a server's search loads none
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
    os.replace(temporary, target)  # whole or not at all: a kill before it leaves a round that is to do
    return parts


def _finished(round_: Path) -> list[str]:
    """List the complete parts of a round: the search, and the SFT after it."""
    found: list[str] = []
    for part in _FILES:
        file = round_ / f"{part}.json"
        if not file.is_file() or TrainingSummary.read(json.loads(file.read_text(encoding="utf-8"))).cut_short:
            break
        found.append(part)
    return found


def _without_later(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in _LATER}
