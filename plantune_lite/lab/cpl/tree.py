"""A search tree over plan steps: what was tried after what, how often, and with what result.

    question ── 1. Count the hens. ── 2. Multiply by two. ── There are 6 hens ... \\boxed{12}     +1
            │                     └── 2. Add three.       ── ...              \\boxed{9}      -1
            └── 1. Guess.

A node is one step of a plan or, at the end of a path, the whole solution; model output that is neither is kept as
malformed. What is added to a node, and when, is decided in search.py: here are the numbers and their meaning, and one
line of JSON for a tree.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from plantune_lite.plan import CLOSE, render
from plantune_lite.types import present

Kind = Literal["root", "step", "solution", "malformed", "too deep"]


@dataclass(eq=False)
class Node:
    """One step or solution that was tried after its parents."""

    kind: Kind = "root"
    text: str = ""
    parent: "Node | None" = None
    prior: float = 1.0  # exp(mean log-probability of its tokens)
    reward: float | None = None  # +1 or -1 where a path ends
    value: float | None = None  # estimated value of a state when it was expanded
    visits: int = 0
    total: float = 0.0  # of all values backed up through it
    tokens: int = 0  # generated for the tree up to when it was added
    closed: bool = False  # nothing left to try: its path ends here, or all its children are closed
    children: list["Node"] = field(default_factory=list)

    @property
    def q(self) -> float:
        """Average what was backed up; 0 before the first visit."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def depth(self) -> int:
        """Count the nodes above it."""
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def plan(self) -> tuple[str, ...]:
        """Collect the steps up to here, its own included."""
        above = self.parent.plan if self.parent is not None else ()
        return (*above, self.text) if self.kind == "step" else above

    @property
    def well_formed(self) -> bool:
        """Tell whether it is one step of a plan, or a solution with an answer."""
        return self.kind in ("step", "solution")

    def below(self) -> Iterator["Node"]:
        """Yield the node and everything under it, parents first."""
        yield self
        for child in self.children:
            yield from child.below()


@dataclass(eq=False)
class Tree:
    """Everything that was tried on one question."""

    problem_id: str
    question: str
    answer: str
    root: Node = field(default_factory=Node)
    iterations: int = 0
    tokens: int = 0  # generated for it

    @property
    def right_plans(self) -> set[tuple[str, ...]]:
        """Collect the plans that led to the right answer."""
        return {node.plan for node in self.root.below() if node.reward == 1}

    @property
    def solved(self) -> bool:
        """Tell whether a plan led to the right answer."""
        return bool(self.right_plans)


def begun(plan: tuple[str, ...]) -> str:
    """Render a partial plan as the student would have written it."""
    return render(plan).removesuffix(f"{CLOSE}\n")


# --- the numbers ------------------------------------------------------------------------------------------------------


def puct(child: Node, exploration: float) -> float:
    """Score a child by PUCT: its q, plus a bonus for being likely and rarely visited."""
    return child.q + exploration * child.prior * math.sqrt(present(child.parent).visits) / (1 + child.visits)


def select(root: Node, exploration: float, rng: Random) -> Node:
    """Walk down to an open leaf by the best PUCT score at each level, breaking ties at random."""
    node = root
    while node.children:
        worth = {child: puct(child, exploration) for child in node.children if not child.closed}
        best = max(worth.values())
        node = rng.choice([child for child in worth if worth[child] == best])
    return node


def back_up(node: Node | None, value: float) -> None:
    """Add a value to a node and all nodes above it."""
    while node is not None:
        node.visits += 1
        node.total += value
        node = node.parent


def expand(node: Node, children: list[Node]) -> None:
    """Add children to a node; where one ends a path, back up its reward at once."""
    for child in children:
        child.parent = node
        child.closed = child.reward is not None
        node.children.append(child)
        if child.reward is not None:
            back_up(child, child.reward)
    above: Node | None = node
    while above is not None and all(child.closed for child in above.children):
        above.closed = True
        above = above.parent


# --- one line of JSON -------------------------------------------------------------------------------------------------


def to_row(tree: Tree) -> dict[str, Any]:
    """Convert a tree to a JSON object: its nodes in a list, parents first, each with its parent's index."""
    nodes = list(tree.root.below())
    place = {node: number for number, node in enumerate(nodes)}
    rows = [
        {
            "parent": None if node.parent is None else place[node.parent],
            "kind": node.kind,
            "text": node.text,
            "prior": node.prior,
            "reward": node.reward,
            "value": node.value,
            "visits": node.visits,
            "total": node.total,
            "tokens": node.tokens,
        }
        for node in nodes
    ]
    about = {name: getattr(tree, name) for name in ("problem_id", "question", "answer", "iterations", "tokens")}
    return {**about, "nodes": rows}


def from_row(row: Mapping[str, Any]) -> Tree:
    """Rebuild the tree that `to_row` wrote."""
    nodes: list[Node] = []
    for given in row["nodes"]:
        parent = None if given["parent"] is None else nodes[given["parent"]]
        node = Node(**{**given, "parent": parent})
        if parent is not None:
            parent.children.append(node)
        nodes.append(node)
    for node in reversed(nodes):
        node.closed = node.reward is not None or bool(node.children) and all(child.closed for child in node.children)
    about = {name: value for name, value in row.items() if name != "nodes"}
    return Tree(**about, root=nodes[0])
