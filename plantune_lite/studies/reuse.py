"""Reuse finished stages, searches and untuned answers of other runs instead of making them again.

    take(Path("runs/mine/ablate/target/m1"), recipe, [Path("runs/mine")], ...) -> {"problems": Path("runs/mine"), ...}

A stage is reused if its fingerprint is the one it would have here: then any run would have made the same. Its files are
copied, not linked: a folder stays complete when it moves, when a mirror restores it, and when another is deleted.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from plantune_lite.files import copy_whole
from plantune_lite.pipeline.stages import Stage, active_stages
from plantune_lite.pipeline.state import fingerprint, inputs_of
from plantune_lite.recipe import user_code
from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import RunFolder, changed_outputs
from plantune_lite.runs.manifest import Entry, read_manifest, write_manifest


def take(
    folder: Path, wanted: Recipe, donors: Sequence[Path], stages: Sequence[Stage], versions: Mapping[str, str]
) -> dict[str, Path]:
    """Copy what donors have finished and is not done here; return stage, or part of one -> the folder it came from.

    `versions` are this machine's: an answer of the untuned model is reused only if they made it.
    """
    manifest = read_manifest(folder)
    fingerprints = prints(wanted, stages)
    taken: dict[str, Path] = {}
    for stage in active_stages(wanted, stages):
        if stage.name in manifest.stages:  # done, or begun and able to resume
            continue
        for donor in donors:
            entry = finished(donor).get((stage.name, fingerprints[stage.name]))
            if entry is None or any(changed_outputs(donor, entry.outputs)):
                continue
            for name in entry.outputs:
                copy_whole(donor / name, folder / name)
            manifest.stages[stage.name] = replace(entry, taken_from=os.path.relpath(donor, folder))
            write_manifest(folder, manifest)  # last: a kill before it leaves the stage to do
            taken[stage.name] = donor
            break
    taken |= _take_first_round(folder, wanted, donors, stages, fingerprints)
    if "evaluate" not in manifest.stages:
        _take_untuned(folder, wanted, donors, fingerprints, versions)
    return taken


def prints(wanted: Recipe, stages: Sequence[Stage]) -> dict[str, str]:
    """Fingerprint each stage that this recipe has."""
    fingerprints: dict[str, str] = {}
    for stage in active_stages(wanted, stages):
        fingerprints[stage.name] = fingerprint(stage, inputs_of(wanted, stage), fingerprints)
    return fingerprints


def finished(run: Path) -> dict[tuple[str, str], Entry]:
    """Map name and fingerprint to the stages that a folder has finished; a stage that was cut short is not finished."""
    return {
        (name, entry.fingerprint): entry
        for name, entry in read_manifest(run).stages.items()
        if entry.status == "done" and not (entry.summary and entry.summary.cut_short)
    }


def donors(parent: Path, apart_from: Path | None = None) -> list[Path]:
    """List the run itself and all variants of it that have begun, except `apart_from`."""
    runs = [parent, *sorted(parent.glob("ablate/*/*"))]
    return [run for run in runs if run != apart_from and RunFolder(run).manifest.is_file()]


# --- the first round of CPL -------------------------------------------------------------------------------------------


def _take_first_round(
    folder: Path, wanted: Recipe, donors: Sequence[Path], stages: Sequence[Stage], fingerprints: Mapping[str, str]
) -> dict[str, Path]:
    """Reuse a search and its SFT if only the use of its pairs differs; the donor's stage need not be done."""
    stage = next((active for active in active_stages(wanted, stages) if active.name == "cpl"), None)
    if stage is None or read_manifest(folder).is_done("cpl"):
        return {}
    inputs = inputs_of(wanted, stage)
    for donor in donors:
        entry = read_manifest(donor).stages.get("cpl")
        if entry is None or any(changed_outputs(donor, entry.outputs)):
            continue
        known = finished(donor)
        if any((name, fingerprints[name]) not in known for name in stage.after if name in fingerprints):
            continue
        if parts := user_code.load_from_lab("take_first_round")(folder, donor, inputs, entry.inputs):
            return {f"{part} of cpl": donor for part in parts}
    return {}


# --- the untuned model's answers --------------------------------------------------------------------------------------


# What decides an untuned answer, apart from the problems.
_STUDENT = tuple(f"student.{name}" for name in ("model", "revision", "bits", "max_length"))
_ASKED = tuple(
    f"evaluate.{name}" for name in ("samples", "temperature", "top_p", "max_tokens", "prompts", "allow_code")
)
_ASKING = Stage(name="evaluate", reads=("seed", *_STUDENT, *_ASKED))


def _take_untuned(
    folder: Path, wanted: Recipe, donors: Sequence[Path], fingerprints: Mapping[str, str], versions: Mapping[str, str]
) -> None:
    """Copy the untuned model's answers: it answers the same problems the same way in every variant."""
    if any(RunFolder(folder).eval.glob("*.untuned.jsonl")):
        return
    asking = inputs_of(wanted, _ASKING)
    for donor in donors:
        manifest = read_manifest(donor)
        donor_prints = {name: entry.fingerprint for name, entry in manifest.stages.items()}
        same = all(donor_prints.get(name) == fingerprints.get(name) for name in ("problems", "suites"))
        same &= manifest.is_done("evaluate") and manifest.versions == versions
        if same and asking.items() <= manifest.stages["evaluate"].inputs.items():
            for path in sorted(RunFolder(donor).eval.glob("**/*.untuned.jsonl")):
                if (settings := path.with_suffix(".json")).is_file():
                    copy_whole(settings, folder / settings.relative_to(donor))
                    copy_whole(path, folder / path.relative_to(donor))
            return
