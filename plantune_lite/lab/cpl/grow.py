"""Grow one search tree: yield requests to the student, turn its replies into nodes. No model is called here.

    steps = grow(tree, chat("How many legs ...?"), CPL(), right=lambda text: "\\boxed{12}" in text)
    wanted = next(steps)              # [Request(... "<plan>\\n", Sampling(n=5, stop=("\\n",))), Request(...)]
    wanted = steps.send(replies)      # their replies; and so on until the generator ends

Yielding requests lets many trees share one batch (search.py), and an interrupted tree regrow from the replies it had:
they determine everything, since each iteration's RNG is seeded by (seed, problem id, iteration).
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from plantune_lite.lab.cpl.tree import Kind, Node, Tree, back_up, begun, expand, select
from plantune_lite.plan import CLOSE, clean_step
from plantune_lite.recipe.schema import CPL
from plantune_lite.types import Messages, Reply, Sampling

_ROLLOUT_SEED_OFFSET = 1_000_003  # rollouts start where steps do: the same seed would give the same words


@dataclass(frozen=True)
class Request:
    """One request of a tree: replies to these messages or, where sampling is None, the value of the state."""

    messages: Messages
    sampling: Sampling | None = None


def grow(
    tree: Tree,
    ask: Messages,
    part: CPL,
    *,
    right: Callable[[str], bool],
    by_value: bool = False,
    solution_tokens: int = 512,
    seed: int = 0,
) -> Generator[list[Request], Sequence[Any], None]:
    """Grow a tree for the number of iterations in the recipe, or until it is fully explored.

    One iteration: the best open leaf is selected, evaluated by rollouts or by the value function, and expanded.
    `right` judges a whole reply; with `by_value`, a state's value is requested instead of rollouts.
    """
    to_line = Sampling(temperature=part.temperature, max_tokens=part.step_tokens, stop=("\n",), seed=seed)
    to_end = Sampling(temperature=part.temperature, max_tokens=solution_tokens, seed=seed + _ROLLOUT_SEED_OFFSET)
    while tree.iterations < part.iterations and not tree.root.closed:
        node = select(tree.root, part.exploration, Random(f"{seed}/{tree.problem_id}/{tree.iterations}"))
        before = begun(node.plan)
        state = _prefilled(ask, before)
        width = part.root_width if node is tree.root else part.width
        leaf = Request(state, None if by_value else _times(part.rollouts, to_end))
        lines, answer = yield [Request(state, _times(width, to_line)), leaf]

        parsed = [_parse_line(reply, len(node.plan) + 1) for reply in lines]
        deep = node.depth + 1 > part.depth
        solutions: list[Reply] = []
        if (count := parsed.count(CLOSE)) and not deep:
            [solutions] = yield [Request(_prefilled(ask, f"{before}{CLOSE}\n"), _times(count, to_end))]

        node.value = answer if by_value else sum(_worth(before + reply.text, right) for reply in answer) / len(answer)
        tree.tokens += sum(reply.tokens_out for reply in (*lines, *solutions, *([] if by_value else answer)))
        back_up(node, node.value)
        expand(node, _children(before, lines, parsed, solutions, deep, right))
        for child in node.children:
            child.tokens = tree.tokens
        tree.iterations += 1


def _times(count: int, sampling: Sampling) -> Sampling:
    return replace(sampling, n=count)


def _prefilled(ask: Messages, begun: str) -> Messages:
    return (*ask, {"role": "assistant", "content": begun})


def _parse_line(reply: Reply, number: int) -> str | None:
    """Parse a line into its step, without the number; CLOSE if it ends the plan; None if it is neither."""
    line = reply.text.partition("\n")[0].strip()
    if line.startswith(CLOSE):
        return CLOSE
    start = f"{number}. "
    is_step = reply.finish == "stop" and line.startswith(start)
    return clean_step(line[len(start) :]) or None if is_step else None


def _worth(text: str, right: Callable[[str], bool]) -> float:
    """Return +1 for a plan that was closed, carried out and led to the right answer, else -1."""
    _, closed, solution = text.partition(CLOSE)
    return 1.0 if closed and "\\boxed" in solution and right(text) else -1.0


def _children(
    before: str,
    lines: Sequence[Reply],
    parsed: Sequence[str | None],
    solutions: Sequence[Reply],
    deep: bool,
    right: Callable[[str], bool],
) -> list[Node]:
    """Build nodes from the sampled lines, dropping duplicates."""
    nodes: dict[tuple[str, str], Node] = {}
    written = iter(solutions)
    for reply, step in zip(lines, parsed, strict=True):
        if deep:
            node = Node("too deep", reply.text.strip(), reward=-1.0)
        elif step is None:
            node = Node("malformed", reply.text.strip(), reward=-1.0)
        elif step == CLOSE:
            reply = next(written)
            text = reply.text.strip()
            kind: Kind = "solution" if "\\boxed" in text else "malformed"
            node = Node(kind, text, reward=_worth(f"{before}{CLOSE}\n{text}", right))
        else:
            node = Node("step", step)
        if reply.mean_logprob is not None:
            node.prior = round(math.exp(reply.mean_logprob), 3)  # later digits change with the batch
        nodes.setdefault((node.kind, node.text), node)
    return list(nodes.values())
