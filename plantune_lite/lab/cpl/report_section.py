"""Write the report's CPL section: each round in numbers, curves of its preference learning, and one tree to read.

    write(Path("runs/mine"), Path("runs/mine/cpl"), rounds)   # each round as cpl/stage.py sums it up

Writes section.json (a title, sentences, tables, chart names, collapsed texts), preference.svg and loss.svg.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.files import write_whole
from plantune_lite.lab.cpl import pairs, search
from plantune_lite.lab.cpl.tree import Node, Tree
from plantune_lite.report import charts
from plantune_lite.runs.folder import RunFolder

_LINES, _WORDS = 60, 110  # of a tree as text: lines, and characters per line
Points = list[tuple[float, float]]
Rounds = Sequence[Mapping[str, Mapping[str, Any]]]


def write(run: Path, out: Path, rounds: Rounds) -> None:
    """Write the section and its charts."""
    rows = [row for row in RunFolder(run).metric_rows() if row["stage"] == "cpl"]
    drawn = {name: svg for name, svg in figures(rows, len(rounds)).items() if svg}
    for name, svg in drawn.items():
        write_whole(out / f"{name}.svg", svg + "\n")
    trees = {number: list(search.trees_of(out / f"round{number}")) for number in range(1, len(rounds) + 1)}
    shown = section(rounds, sorted(drawn), trees)
    write_whole(out / "section.json", json.dumps(shown, indent=1, ensure_ascii=False) + "\n")


def section(rounds: Rounds, names: Sequence[str], trees: Mapping[int, Sequence[Tree]]) -> dict[str, Any]:
    """Assemble the section: title, sentences, table, charts, and a folded tree per round."""
    sentences = [
        f"Round {number}, {what}: {by_part[name]['line']}."
        for number, by_part in enumerate(rounds, 1)
        for name, what in {"search": "search", "sft": "SFT on right paths", "apo": "preferences"}.items()
        if name in by_part
    ]
    pages = ", ".join(f"cpl/round{number}/trees.html" for number in trees)
    sentences.append(f"Trees to unfold and read: {pages}.")
    chosen = {number: tree for number, some in trees.items() if (tree := _example(some))}
    return {
        "title": "What the search found, and what was learned from it",
        "sentences": sentences,
        "tables": [{"columns": ["", *(f"round {number}" for number in trees)], "rows": list(_rows(rounds))}],
        "charts": [f"{name}.svg" for name in names],
        "folded": [
            {"title": f"A tree of round {number}: {tree.question}", "text": as_text(tree)}
            for number, tree in chosen.items()
        ],
    }


def _rows(rounds: Rounds) -> Iterator[list[str]]:
    counted = {
        "questions searched": ("search", "trees"),
        "of them solved": ("search", "solved"),
        "right plans": ("search", "plans"),
        "tokens generated": ("search", "tokens"),
        "right paths to imitate": ("taught", "rows"),
        "pairs to prefer by": ("taught", "pairs"),
        "preference at the end": ("apo", "preference_last"),
        "target margin": ("apo", "asked"),
    }
    for words, (part, figure) in counted.items():
        if any(part in by_part for by_part in rounds):
            yield [words, *(f"{by_part[part][figure]:,}" if part in by_part else "" for by_part in rounds)]


# --- how it learned ---------------------------------------------------------------------------------------------------


def figures(rows: Sequence[Mapping[str, Any]], rounds: int) -> dict[str, str]:
    """Draw charts of preferences and the margins asked of them, and of the losses, round by round."""

    def of_each_round(named: Mapping[str, str]) -> dict[str, Points]:
        return {
            f"round {number}, {words}" if rounds > 1 else words: _course(rows, number, key)
            for number in range(1, rounds + 1)
            for key, words in named.items()
        }

    wanted = {"apo_preference": "preference", "apo_asked": "asked"}
    losses = {"sft_loss": "SFT on right paths", "apo_loss": "preferences"}
    return {
        "preference": charts.curves("preference of the better step, and the margin asked", of_each_round(wanted)),
        "loss": charts.curves("loss", of_each_round(losses)),
    }


def _course(rows: Iterable[Mapping[str, Any]], number: int, key: str) -> Points:
    """List one figure of one round, step by step; of a step that was repeated after a kill, the later value."""
    points: dict[float, float] = {}
    for row in rows:
        if row.get("round") == number and key in row:
            for later in [step for step in points if step > row["step"]]:
                del points[later]
            points[row["step"]] = row[key]
    return list(points.items())


# --- a tree to read ---------------------------------------------------------------------------------------------------


def _example(trees: Sequence[Tree]) -> Tree | None:
    """Pick the smallest solved tree, of those that yield step pairs where there are any."""
    solved = [tree for tree in trees if tree.solved]
    telling = [tree for tree in solved if pairs.step_pairs(tree)]
    return min(telling or solved, key=lambda tree: sum(1 for _ in tree.root.below()), default=None)


def as_text(tree: Tree) -> str:
    """Format a tree as lines, best first: each step's value, visits and words."""
    lines = [f"answer: {tree.answer}", *_below(tree.root)]
    left_out = len(lines) - _LINES
    return "\n".join(lines[:_LINES] + ([f"and {left_out} more"] if left_out > 0 else []))


def _below(node: Node) -> Iterator[str]:
    for child in sorted(node.children, key=lambda child: (-child.q, -child.visits)):
        if child.visits:
            words = " ".join(child.text.split())
            label = f"{len(child.plan)}. {words}" if child.kind == "step" else f"{child.kind}: {words}"
            shown = label if len(label) <= _WORDS else f"{label[: _WORDS - 1]}…"
            yield f"{child.q:+.2f} {child.visits:3}x  {'  ' * (child.depth - 1)}{shown}"
            yield from _below(child)
