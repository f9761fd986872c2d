"""Write the results of a study for a terminal, as Markdown (table.md) and as JSON (table.json)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from plantune_lite.evaluate.compare import Row, Standing, named, standing_markdown, standing_text
from plantune_lite.files import write_whole
from plantune_lite.studies.definitions import Study
from plantune_lite.terminal import markdown_table, printable


@dataclass(frozen=True, kw_only=True)
class Found:
    """A study's outcome."""

    study: Study
    folder: Path
    recipe: str
    command: str
    beside: Standing  # its notes are the study's as well
    failed: Mapping[str, str]  # run -> why
    figures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # arm -> more columns of its line


def study_text(found: Found) -> str:
    """Render for a terminal."""
    tables = standing_text(found.beside, lines=partial(_lines, found))
    return printable(f"{found.study.asks}\n{tables}")


def study_markdown(found: Found) -> str:
    """Render for a page: the terminal's, with what each variant is and how to make it again."""
    variants = [(one.name, one.tests, " ".join(one.settings)) for one in found.study.variants]
    parts = [
        f"# {found.study.what} of {found.recipe}",
        found.study.asks,
        standing_markdown(found.beside, lines=partial(_lines, found)).rstrip(),
        "## The variants",
        markdown_table(("variant", "what it learns", "settings"), variants),
        f"Made by `{found.command}`; the same command goes on, or makes it again.",
    ]
    return "\n\n".join(parts) + "\n"


def study_json(found: Found) -> dict[str, Any]:
    """For programs."""
    return {
        "study": found.study.what,
        "folder": str(found.folder),
        "recipe": found.recipe,
        "command": found.command,
        **asdict(found.beside),
        "figures": found.figures,
        "variants": [{"name": one.name, "tests": one.tests, "settings": one.settings} for one in found.study.variants],
        "failed": dict(found.failed),
    }


def write(found: Found) -> list[Path]:
    """Write them all; the files."""
    texts = {
        "table.md": study_markdown(found),
        "table.json": json.dumps(study_json(found), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        write_whole(found.folder / name, text)
    return [found.folder / name for name in texts]


def _lines(found: Found, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Make the columns of a table and its lines."""
    more = list(dict.fromkeys(name for cells in found.figures.values() for name in cells))
    lines = []
    for row in rows:
        share, _, interval = row.accuracy.percent().partition(" (")
        seeds = ", ".join(f"{100 * one:.1f}" for one in row.by_seed)
        cells = [found.figures.get(row.model, {}).get(name, "") for name in more]
        lines.append([named(row.model, row.mode), str(row.problems), share, interval.rstrip(")"), seeds, *cells])
    return ["variant", "of", "right", "95 %", "seeds", *more], lines
