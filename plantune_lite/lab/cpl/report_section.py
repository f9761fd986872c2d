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

_LINES, _WORDS = 60, 110  # of a tree as text: lines, and characters of one
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
        f"Round {number}, {what}: {one[name]['line']}."
        for number, one in enumerate(rounds, 1)
        for name, what in {"search": "search", "sft": "SFT on right paths", "apo": "preferences"}.items()
        if name in one
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
        "asked for": ("apo", "asked"),
    }
    for words, (part, figure) in counted.items():
        if any(part in one for one in rounds):
            yield [words, *(f"{one[part][figure]:,}" if part in one else "" for one in rounds)]


# --- how it learned ---------------------------------------------------------------------------------------------------


def figures(rows: Sequence[Mapping[str, Any]], rounds: int) -> dict[str, str]:
    """Charts of what was preferred and what was asked, and of the losses, round by round."""

    def of_each_round(named: Mapping[str, str]) -> dict[str, Points]:
        return {
            f"round {number}, {words}" if rounds > 1 else words: _course(rows, number, key)
            for number in range(1, rounds + 1)
            for key, words in named.items()
        }

    wanted = {"apo_preference": "preference", "apo_asked": "asked"}
    losses = {"sft_loss": "SFT on right paths", "apo_loss": "preferences"}
    return {
        "preference": charts.curves("preference of the better step, and what is asked", of_each_round(wanted)),
        "loss": charts.curves("loss", of_each_round(losses)),
    }


def _course(rows: Iterable[Mapping[str, Any]], number: int, key: str) -> Points:
    """One figure of one round, step by step; of a step that was done again after a kill the later one."""
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
    """A tree as lines, the best first: what a step is worth, its visits, its words."""
    lines = [f"answer: {tree.answer}", *_below(tree.root)]
    left_out = len(lines) - _LINES
    return "\n".join(lines[:_LINES] + ([f"and {left_out} more"] if left_out > 0 else []))


def _below(node: Node) -> Iterator[str]:
    for child in sorted(node.children, key=lambda one: (-one.q, -one.visits)):
        if child.visits:
            words = " ".join(child.text.split())
            said = f"{len(child.plan)}. {words}" if child.kind == "step" else f"{child.kind}: {words}"
            shown = said if len(said) <= _WORDS else f"{said[: _WORDS - 1]}…"
            yield f"{child.q:+.2f} {child.visits:3}x  {'  ' * (child.depth - 1)}{shown}"
            yield from _below(child)
