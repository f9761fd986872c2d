"""Compare a run folder with a recipe: fingerprints, and the state of each stage."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

from plantune_lite.files import as_path, default_of, sha256_of
from plantune_lite.pipeline.stages import Stage
from plantune_lite.recipe import user_code
from plantune_lite.recipe.lab import means_the_same
from plantune_lite.recipe.schema import PARTS, Recipe, is_pace, leaves
from plantune_lite.runs.folder import changed_outputs, is_empty
from plantune_lite.runs.manifest import Entry, HeadroomSummary, Manifest


def inputs_of(wanted: Recipe, stage: Stage, known: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Return every field the stage reads, by its dotted name; files and functions by their content too.

    A file whose content is `known` from an earlier run may be gone: its recorded content still counts.
    """
    read = {}
    for name, value in leaves(wanted):
        if name in known and means_the_same(value, known[name]):
            value = known[name]  # an earlier run may spell parts of the lab differently
        if is_pace(name) or not any(name == entry or name.startswith(entry + ".") for entry in stage.reads):
            continue
        if stage.name == "distill" and name.startswith("student") and wanted.distill.teacher != "self":
            continue  # distill uses the student only where it is its own teacher
        read[name] = list(value) if isinstance(value, tuple) else value
        for text in _texts(name, value):
            place = f"{name}{_CONTENT}{text})"
            content = known[place] if place in known and _is_gone(text) else _content(name, text)
            if content is not None:
                read[place] = content
    return read


def _texts(name: str, value: Any) -> list[str]:
    """List the texts of a field that may name a file or a function."""
    if name == "grpo.rewards":
        return list(value)
    if name == "problems.path":
        return [value or ""]
    if name == "problems.source":
        return [value] if as_path(value).is_file() else [text.strip() for text in value.split("+")]
    return []


def _content(name: str, text: str) -> str | None:
    if name != "problems.path" and user_code.is_reference(text):
        return user_code.source_hash(text)
    file = as_path(text)
    return sha256_of(file) if name != "grpo.rewards" and file.is_file() else None


def _is_gone(text: str) -> bool:
    """Return whether a text names a file, or a function in one, that does not exist."""
    is_function = user_code.is_reference(text)
    file = as_path(text.rpartition(":")[0] if is_function else text)
    return not file.is_file() and (file.suffix == ".py" or not is_function)


def fingerprint(stage: Stage, inputs: Mapping[str, Any], earlier: Mapping[str, str]) -> str:
    """Hash what identifies a stage: its inputs, and the stages it comes after."""
    after = {name: earlier[name] for name in stage.after if name in earlier}  # a recipe may leave stages out
    text = json.dumps({"format": 1, "inputs": inputs, "after": after}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


State = Literal["to do", "resumes", "done", "differs", "damaged"]


def states(
    folder: Path, wanted: Recipe, manifest: Manifest, active: Sequence[Stage], anew: Collection[str] = ()
) -> Iterator[tuple[Stage, State, str]]:
    """Yield what a run would do with each stage, and why, for one that differs; those in `anew` count as missing."""
    expected: dict[str, str] = {}
    partial: set[str] = set()  # stages that max_hours or a budget ended early, and those after them
    for stage in active:
        entry = None if stage.name in anew else manifest.stages.get(stage.name)
        inputs = inputs_of(wanted, stage, {} if entry is None else entry.inputs)
        if entry is not None:
            # Ignore a field that is newer than the entry and has its default value.
            known = entry.inputs
            inputs = {name: value for name, value in inputs.items() if name in known or value != _default(name)}
        expected[stage.name] = fingerprint(stage, inputs, expected)
        if entry is None or (entry.status != "done" and is_empty(folder, stage.outputs)):
            yield stage, "to do", ""
        elif stage.advice:
            yield stage, "done" if entry.status == "done" and _looked(entry, inputs) else "to do", ""
        elif entry.fingerprint != expected[stage.name]:
            yield stage, "differs", _difference(stage, entry, inputs)
        elif entry.status != "done" or (entry.summary and entry.summary.partial) or partial & set(stage.after):
            if entry.status == "done":
                partial.add(stage.name)  # and stages made from its partial output are rerun
            yield stage, "resumes", ""
        else:
            missing, different = changed_outputs(folder, entry.outputs)
            if different:
                yield stage, "damaged", f"{different[0]} is not what {stage.name} wrote"
            else:  # merged/ and gguf/ are not mirrored: missing files are rebuilt
                yield stage, "resumes" if missing else "done", ""


def _default(name: str) -> Any:
    """Return a field's default value."""
    part, _, inner = name.rpartition(".")
    for field in fields(PARTS.get(part, Recipe)):
        if field.name == inner:
            value = default_of(field)
            return list(value) if isinstance(value, tuple) else value
    return MISSING


def _looked(entry: Entry, inputs: Mapping[str, Any]) -> bool:
    """Return whether advice exists and still holds: not for another model, nor from a machine that could not run it."""
    same = all(entry.inputs.get(name) == inputs[name] for name in inputs if name.startswith("student."))
    return same and not (isinstance(entry.summary, HeadroomSummary) and not entry.summary.looked)


_CONTENT = " (content of "


def _difference(stage: Stage, entry: Entry, inputs: Mapping[str, Any]) -> str:
    """Describe the first difference between a recorded stage and this one."""
    recorded = entry.inputs
    for name in [*inputs, *(name for name in recorded if name not in inputs)]:
        was, is_now = recorded.get(name, "absent"), inputs.get(name, "absent")
        if json.dumps(was) != json.dumps(is_now):
            return f"{name} has changed" if _CONTENT in name else f"{name} was {was!r} and is now {is_now!r}"
    return "it was made by another version, or a stage before it was rerun"
