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

_OTHER_DICE = 1_000_003  # rollouts begin where steps do: with the same seed they would begin with the same words


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
    """Grow a tree for so many iterations as the recipe says, or until nothing new can come of it.

    One iteration: the open leaf that is most worth it is taken for what rollouts or the value function make of it, and
    expanded. `right` judges a whole reply; a state's value is asked for where `by_value` says that somebody knows it.
    """
    to_line = Sampling(temperature=part.temperature, max_tokens=part.step_tokens, stop=("\n",), seed=seed)
    to_end = Sampling(temperature=part.temperature, max_tokens=solution_tokens, seed=seed + _OTHER_DICE)
    while tree.iterations < part.iterations and not tree.root.closed:
        node = select(tree.root, part.exploration, Random(f"{seed}/{tree.problem_id}/{tree.iterations}"))
        before = begun(node.plan)
        state = _going_on(ask, before)
        width = part.root_width if node is tree.root else part.width
        leaf = Request(state, None if by_value else _times(part.rollouts, to_end))
        lines, found = yield [Request(state, _times(width, to_line)), leaf]

        said = [_said(reply, len(node.plan) + 1) for reply in lines]
        deep = node.depth + 1 > part.depth
        solutions: list[Reply] = []
        if (count := said.count(CLOSE)) and not deep:
            [solutions] = yield [Request(_going_on(ask, f"{before}{CLOSE}\n"), _times(count, to_end))]

        node.value = found if by_value else sum(_worth(before + one.text, right) for one in found) / len(found)
        tree.tokens += sum(one.tokens_out for one in (*lines, *solutions, *([] if by_value else found)))
        back_up(node, node.value)
        expand(node, _children(before, lines, said, solutions, deep, right))
        for child in node.children:
            child.tokens = tree.tokens
        tree.iterations += 1


def _times(count: int, sampling: Sampling) -> Sampling:
    return replace(sampling, n=count)


def _going_on(ask: Messages, begun: str) -> Messages:
    return (*ask, {"role": "assistant", "content": begun})


def _said(reply: Reply, number: int) -> str | None:
    """Parse a line into its step, without the number; CLOSE where it ends the plan; None where it is neither."""
    line = reply.text.partition("\n")[0].strip()
    if line.startswith(CLOSE):
        return CLOSE
    start = f"{number}. "
    is_step = reply.finish == "stop" and line.startswith(start)
    return clean_step(line[len(start) :]) or None if is_step else None


def _worth(text: str, right: Callable[[str], bool]) -> float:
    """+1 for a plan that was closed, carried out and led to the right answer, else -1."""
    _, closed, solution = text.partition(CLOSE)
    return 1.0 if closed and "\\boxed" in solution and right(text) else -1.0


def _children(
    before: str,
    lines: Sequence[Reply],
    said: Sequence[str | None],
    solutions: Sequence[Reply],
    deep: bool,
    right: Callable[[str], bool],
) -> list[Node]:
    """Build nodes from the sampled lines, dropping duplicates."""
    found: dict[tuple[str, str], Node] = {}
    written = iter(solutions)
    for reply, step in zip(lines, said, strict=True):
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
            node.prior = round(math.exp(reply.mean_logprob), 3)  # the digits behind it change with the batch
        found.setdefault((node.kind, node.text), node)
    return list(found.values())
