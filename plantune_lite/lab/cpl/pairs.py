"""Extract training data from search trees: pairs of next steps, paths to imitate, and state values.

    step_pairs(tree)   -> [StepPair(prompt="<plan>\\n", better="1. Count.\\n", worse="1. Guess.\\n", q_better=0.6, ...)]
    paths(tree)        -> ["<plan>\\n1. Count the legs.\\n</plan>\\n... \\\\boxed{14}"]
    states(tree)       -> [State("<plan>\\n1. Count the legs.\\n", 0.6)]

The rules are CPL's (its first author's code): after the same steps, a better step has q > 0 and a worse one q < 0; with
a solution among the siblings, at most one pair. The q of two whole solutions is scaled down, that of two steps next to
a solution is not. A solution without a plan before it takes part in the search, but is not learned from.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from plantune_lite.lab.cpl.tree import Node, Tree, begun
from plantune_lite.plan import CLOSE, as_completion, render
from plantune_lite.types import Messages

SOLUTION_SCALE = 0.3  # of the q of a pair of whole solutions
PATHS = 4  # per question, at most


@dataclass(frozen=True, kw_only=True)
class StepPair:
    """Two next steps after the same prefix, one better."""

    problem_id: str
    prompt: str
    better: str
    worse: str
    q_better: float
    q_worse: float


class State(NamedTuple):
    """A partial plan and its q, the mean result of continuing it."""

    begun: str
    q: float


# --- pairs ------------------------------------------------------------------------------------------------------------


def step_pairs(tree: Tree) -> list[StepPair]:
    """Pair siblings of which one helps and one harms; the prompt is what both follow, in the student's own words."""
    return [pair for node in tree.root.below() for pair in _at(tree, node)]


def _at(tree: Tree, node: Node) -> Iterator[StepPair]:
    tried = [child for child in node.children if child.well_formed and child.visits]
    if node is tree.root:
        tried = [child for child in tried if child.kind == "step"]
    chosen = [(better, worse) for better in tried for worse in tried]
    if any(child.kind == "solution" for child in tried):
        best, worst = max(tried, key=lambda child: child.q), min(tried, key=lambda child: child.q)
        chosen = [(best, worst)] if best.kind == worst.kind else []
    for better, worse in chosen:
        if better.q > 0 > worse.q:
            yield _pair(tree, node, better, worse)


def _pair(tree: Tree, node: Node, better: Node, worse: Node) -> StepPair:
    is_solution = better.kind == "solution"
    scale = SOLUTION_SCALE if is_solution else 1.0
    number = len(node.plan) + 1
    before = begun(node.plan)
    return StepPair(
        problem_id=tree.problem_id,
        prompt=f"{before}{CLOSE}\n" if is_solution else before,
        better=better.text if is_solution else f"{number}. {better.text}\n",
        worse=worse.text if is_solution else f"{number}. {worse.text}\n",
        q_better=scale * better.q,
        q_worse=scale * worse.q,
    )


def answer_pairs(tree: Tree, seed: int = 0) -> list[StepPair]:
    """Pair whole replies, right with wrong, each used once: what instance-level DPO learns from."""
    rng = Random(f"{seed}/{tree.problem_id}")
    right, wrong = ([node for node in _solutions(tree) if node.reward == reward] for reward in (1, -1))
    count = min(PATHS, len(right), len(wrong))
    return [
        StepPair(
            problem_id=tree.problem_id,
            prompt="",
            better=render(better.plan, better.text),
            worse=render(worse.plan, worse.text),
            q_better=1.0,
            q_worse=-1.0,
        )
        for better, worse in zip(rng.sample(right, count), rng.sample(wrong, count), strict=True)
    ]


# --- paths and states -------------------------------------------------------------------------------------------------


def _solutions(tree: Tree) -> list[Node]:
    """List the solutions that follow a plan."""
    return [node for node in tree.root.below() if node.kind == "solution" and node.plan]


def paths(tree: Tree, seed: int = 0) -> list[str]:
    """Sample whole replies with the right answer, at most PATHS per question."""
    right = [render(node.plan, node.text) for node in _solutions(tree) if node.reward == 1]
    return Random(f"{seed}/{tree.problem_id}").sample(right, min(PATHS, len(right)))


def rows(trees: Iterable[Tree], ask: dict[str, Messages], seed: int = 0) -> list[dict[str, Any]]:
    """Build corpus rows as sft.train takes them; `ask` has the prompt of each question."""
    return [
        {"problem_id": tree.problem_id, "prompt": list(ask[tree.problem_id]), "completion": as_completion(text)}
        for tree in trees
        for text in paths(tree, seed)
    ]


def states(tree: Tree) -> list[State]:
    """List every partial plan on the way to a solution, right or wrong, with its q; the bare question too."""
    on_the_way = {id(above) for node in _solutions(tree) for above in _above(node)}
    return [State(begun(node.plan), node.q) for node in tree.root.below() if id(node) in on_the_way]


def _above(node: Node) -> Iterator[Node]:
    while node.parent is not None:
        node = node.parent
        yield node
