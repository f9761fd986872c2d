"""Manifests as tests want them."""

from pathlib import Path
from typing import Any

from plantune_lite.runs.manifest import Manifest, read_manifest, write_manifest


def manifest_of(stages: dict[str, Any] | None = None, **fields: Any) -> Manifest:
    """A manifest of these fields; its stages as rows."""
    return Manifest.read({"format": 1, **fields, "stages": stages or {}})


def mark(run: Path, stages: dict[str, Any] | None = None, **fields: Any) -> None:
    """Write into the manifest that it is so: of the run, and of these stages."""
    row = read_manifest(run).to_row()
    write_manifest(run, Manifest.read({**row, **fields, "stages": {**row["stages"], **(stages or {})}}))
