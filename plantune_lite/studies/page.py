"""What a study has found, for a terminal, for a page, for programs, and as a figure.

write(found) -> table.md, table.json, figure.svg, figure_SUITE.svg of other suites, learning.svg of a reinforcement
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from plantune_lite.evaluate import arms
from plantune_lite.evaluate.compare import Standing, named, standing_markdown, standing_text
from plantune_lite.evaluate.results import UNTUNED
from plantune_lite.files import write_whole
from plantune_lite.report import charts
from plantune_lite.studies import learning_curve
from plantune_lite.studies.definitions import Study
from plantune_lite.terminal import markdown_table, printable


@dataclass(frozen=True, kw_only=True)
class Found:
    """A study's outcome."""

    study: Study
    folder: Path
    recipe: str
    command: str
    seeds: int
    beside: Standing
    failed: Mapping[str, str]  # run -> why
    learning: Mapping[str, learning_curve.Curve] = field(default_factory=dict)  # arm -> right answers, step by step
    figures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # arm -> more columns of its line
    remarks: tuple[str, ...] = ()  # more notes

    def notes(self) -> Iterator[str]:
        """What the tables must not be read without."""
        yield from self.study.notes
        yield from self.beside.notes
        yield from self.remarks
        if self.learning:
            level = 100 * learning_curve.reached(self.learning)[0]
            yield (
                f"at step: the first at which {level:.0f} % of the answers sampled in training are right, where the "
                "lowest arm ends; each a mean of a tenth of the steps, at least five."
            )
        for run, why in self.failed.items():
            yield f"{run} failed, and is not in the table: {why}"


def study_text(found: Found, *, width: int | None = None) -> str:
    """Render for a terminal."""
    shown = replace(found.beside, notes=tuple(found.notes()))
    tables = standing_text(shown, lines=partial(_rows, found), width=width)
    return printable(f"{found.study.asks}\n{tables}")


def study_markdown(found: Found) -> str:
    """Render for a page: the terminal's, with what each variant is and how to make it again."""
    variants = [(one.name, one.tests, " ".join(one.settings)) for one in found.study.variants]
    parts = [
        f"# {found.study.what} of {found.recipe}",
        found.study.asks,
        standing_markdown(replace(found.beside, notes=()), lines=partial(_rows, found)).rstrip(),
        "## The variants",
        markdown_table(("variant", "what it learns", "settings"), variants),
        "\n".join(f"- {note}" for note in found.notes()),
        f"Made by `{found.command}`; the same command goes on, or makes it again.",
    ]
    return "\n\n".join(parts) + "\n"


def study_json(found: Found) -> dict[str, Any]:
    """For programs."""
    level, steps = learning_curve.reached(found.learning) if found.learning else (None, {})
    return {
        "study": found.study.what,
        "folder": str(found.folder),
        "recipe": found.recipe,
        "command": found.command,
        "seeds": found.seeds,
        **asdict(found.beside),
        "figures": found.figures,
        "notes": list(found.notes()),
        "variants": [{"name": one.name, "tests": one.tests, "settings": one.settings} for one in found.study.variants],
        "failed": dict(found.failed),
        "level": level,
        "steps_to_level": steps,
    }


def write(found: Found) -> list[Path]:
    """Write them all; the files."""
    texts = {
        "table.md": study_markdown(found),
        "table.json": json.dumps(study_json(found), indent=1, ensure_ascii=False) + "\n",
        **dict(_figures(found)),
    }
    for name, text in texts.items():
        write_whole(found.folder / name, text)
    return [found.folder / name for name in texts]


def _figures(found: Found) -> Iterator[tuple[str, str]]:
    for place, (suite, rows, _) in enumerate(found.beside.suites()):
        named_rows = [(_called(row), row.accuracy) for row in rows]
        title = f"{found.study.what} of {found.recipe}: {suite}"
        yield "figure.svg" if place == 0 else f"figure_{suite}.svg", charts.shares(title, named_rows)
    if found.learning:
        yield "learning.svg", charts.curves("share of right answers while it learns", found.learning)


def _rows(found: Found, rows: Sequence[arms.Row]) -> tuple[list[str], list[list[str]]]:
    """Make the columns of a table and its lines."""
    figures = found.figures or learning_curve.columns(found.learning)
    more = list(dict.fromkeys(name for cells in figures.values() for name in cells))
    seeds = ["seeds"] if found.seeds > 1 else []
    columns = ["variant", "of", "right", "95 %", *seeds, "rows", "steps", *more]
    lines = []
    for row in rows:
        share, _, interval = row.accuracy.percent().partition(" (")
        by_seed = [", ".join(f"{100 * one:.1f}" for one in row.by_seed)] if seeds else []
        cells = [figures.get(row.name, {}).get(name, "") for name in more]
        right = [_called(row), str(row.problems), share, interval.rstrip(")")]
        lines.append([*right, *by_seed, row.learned, row.steps, *cells])
    return columns, lines


def _called(row: arms.Row) -> str:
    return named(row.name, row.mode) if row.name == UNTUNED else row.name
