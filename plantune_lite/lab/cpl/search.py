"""Search over plan steps (MCTS after CPL), many trees at once: questions and a Generate come in, trees go out.

    search(problems, student.generate, right, CPL(), out, ask=plan.ask_plainly)
    -> {"line": "64 of 64 trees, 40 solved with 103 plans, 91,204 tokens", "solved": 40, ...}

    out/trees.jsonl      one finished tree a line (tree.py)
    out/replies.jsonl    replies to unfinished trees: resuming after a kill asks for none of them again
    out/open.jsonl       unfinished trees, if tokens or hours ran out

Every tree waits for one or two requests. Requests with the same sampling settings, from all trees, make a batch, the
largest first, to keep the student busy. Trees are independent: each is determined by its own replies, and a student's
reply by its prompt and the seed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from plantune_lite import files
from plantune_lite.files import JsonlWriter, read_jsonl
from plantune_lite.lab.cpl.grow import Request, grow
from plantune_lite.lab.cpl.tree import Tree, from_row, to_row
from plantune_lite.plan import question_text
from plantune_lite.recipe.schema import CPL
from plantune_lite.types import Generate, Messages, PlantuneError, Problem, Reply, Sampling, present

AT_ONCE = 64  # trees
TREES, OPEN, REPLIES = "trees.jsonl", "open.jsonl", "replies.jsonl"

Right = Callable[[Problem, str], bool]  # whether a whole reply answers the problem
Value = Callable[[Sequence[Messages]], Sequence[float]]  # what states are worth, each between -1 and 1


def search(
    problems: Sequence[Problem],
    generate: Generate,
    right: Right,
    part: CPL,
    out: Path,
    *,
    ask: Callable[[Problem], Messages],
    value: Value | None = None,
    solution_tokens: int = 512,
    seed: int = 0,
    max_tokens: int | None = None,
    hours: float | None = None,
    at_once: int = AT_ONCE,
    show: Callable[[str, bool], object] = lambda line, last: None,
) -> dict[str, Any]:
    """Grow a tree for each problem, or resume; return totals. `value` replaces rollouts."""
    ends = None if hours is None else time.monotonic() + hours * 3600
    totals = _Totals()
    for tree in _read(out / TREES):
        totals.add(tree)
    known = _known(out / REPLIES, totals.ids)
    spent = totals.tokens + sum(_tokens(answer) for answers in known.values() for answer in answers.values())

    def start(problem: Problem) -> _Growing:
        tree = Tree(problem.id, question_text(problem), problem.answer)
        steps = grow(
            tree,
            ask(problem),
            part,
            right=lambda text: right(problem, text),
            by_value=value is not None,
            solution_tokens=solution_tokens,
            seed=seed,
        )
        return _Growing(tree, steps, known.pop(problem.id, {}))

    waiting = [problem for problem in problems if problem.id not in totals.ids]
    growing: list[_Growing] = []
    with JsonlWriter(out / TREES) as trees, JsonlWriter(out / REPLIES) as replies:
        while waiting or growing:
            while waiting and len(growing) < at_once:
                growing.append(start(waiting.pop(0)))
            for growth in [growth for growth in growing if growth.done]:
                trees.write(to_row(growth.tree))
                totals.add(growth.tree)
                growing.remove(growth)
            batch = _batch(growing, None if max_tokens is None else max_tokens - spent)
            into = sum(growth.tree.iterations for growth in growing)
            show(f"{totals.line(len(problems))}, {spent:,} tokens, {into} iterations into {len(growing)} more", False)
            if growing and (not batch or (ends is not None and time.monotonic() > ends)):
                break
            for growth, number, answer, first in _answered(batch, generate, value):
                replies.write({"problem_id": growth.tree.problem_id, "number": number, **_to_row(answer)})
                growth.answer(number, answer)
                spent += _tokens(answer) if first else 0
    partial = bool(waiting or growing)
    files.write_records(out / OPEN, [to_row(growth.tree) for growth in growing])
    if not partial:
        for name in (OPEN, REPLIES):
            (out / name).unlink()
    line = f"{totals.line(len(problems))}, {spent:,} tokens"
    show(line, True)
    counts = {"trees": len(totals.ids), "open": len(growing), "solved": totals.solved, "plans": totals.plans}
    return {"line": line, **counts, "tokens": spent, "partial": partial}


def trees_of(out: Path) -> Iterator[Tree]:
    """Yield the trees of a search, finished ones first."""
    yield from _read(out / TREES)
    yield from _read(out / OPEN)


def _read(path: Path) -> Iterator[Tree]:
    with suppress(FileNotFoundError):
        yield from map(from_row, read_jsonl(path))


class _Totals:
    """Totals over the finished trees; the trees themselves are on disk."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.solved = self.plans = self.tokens = 0

    def add(self, tree: Tree) -> None:
        self.ids.add(tree.problem_id)
        self.solved += tree.solved
        self.plans += len(tree.right_plans)
        self.tokens += tree.tokens

    def line(self, of: int) -> str:
        return f"{len(self.ids)} of {of} trees, {self.solved} solved with {self.plans} plans"


# --- one tree among many ----------------------------------------------------------------------------------------------


class _Growing:
    """A tree and the requests it waits for; answers saved before a kill are replayed."""

    def __init__(self, tree: Tree, steps: Generator[list[Request], Any, None], known: dict[int, Any]) -> None:
        self.tree, self.done = tree, False
        self.waits: dict[int, Request] = {}  # by their number, counted per tree
        self._steps, self._known, self._numbers = steps, known, range(0)
        self._grow(None)

    def answer(self, number: int, answer: Any) -> None:
        """Take one answer; after the last, grow to the next requests."""
        self._known[number] = answer
        del self.waits[number]
        if not self.waits:
            self._grow([self._known.pop(number) for number in self._numbers])

    def _grow(self, answers: list[Any] | None) -> None:
        while not self.done and not self.waits:
            try:
                wanted = self._steps.send(answers)
            except StopIteration:
                self.done = True
                return
            self._numbers = range(self._numbers.stop, self._numbers.stop + len(wanted))
            numbered = zip(self._numbers, wanted, strict=True)
            self.waits = {number: request for number, request in numbered if number not in self._known}
            if not self.waits:
                answers = [self._known.pop(number) for number in self._numbers]


# --- a batch ----------------------------------------------------------------------------------------------------------

_Waiting = tuple[_Growing, int, Request]


def _batch(growing: Sequence[_Growing], left: int | None) -> list[_Waiting]:
    """Pick the largest group of requests that can be answered together; states come first, being quick to evaluate.

    Groups are first cut to what the remaining tokens cover in the worst case.
    """
    states: list[_Waiting] = []
    alike: dict[Sampling, list[_Waiting]] = defaultdict(list)
    for growth in growing:
        for number, request in growth.waits.items():
            (states if request.sampling is None else alike[request.sampling]).append((growth, number, request))
    if states:
        return states
    if left is not None:
        alike = {kind: some[: max(0, left // (kind.n * kind.max_tokens))] for kind, some in alike.items()}
    most = max(alike, key=lambda kind: len(alike[kind]) * kind.n, default=None)
    return alike[most] if most else []


def _answered(
    batch: list[_Waiting], generate: Generate, value: Value | None
) -> Iterator[tuple[_Growing, int, Any, bool]]:
    """Yield each request with its answer, and whether it is the first to have it: equal requests are asked once."""
    if not batch:
        return
    distinct = {_words(request.messages): request for _, _, request in batch}
    prompts, sampling = [request.messages for request in distinct.values()], batch[0][2].sampling
    answers: Sequence[Any] = present(value)(prompts) if sampling is None else generate(prompts, sampling)
    if len(answers) != len(prompts) or (sampling and any(len(replies) != sampling.n for replies in answers)):
        raise PlantuneError(
            f"the policy did not return {sampling.n if sampling else 1} replies for each of {len(prompts)} prompts: "
            "a Generate returns P lists of n replies, a value function P numbers"
        )
    answer_to = dict(zip(distinct, answers, strict=True))
    given = set()
    for growth, number, request in batch:
        words = _words(request.messages)
        yield growth, number, answer_to[words], words not in given
        given.add(words)


def _words(messages: Messages) -> tuple[str, ...]:
    return tuple(turn["content"] for turn in messages)


# --- answers on the disk ----------------------------------------------------------------------------------------------


def _to_row(answer: Any) -> dict[str, Any]:
    if isinstance(answer, float):
        return {"value": answer}
    return {"replies": [files.to_row(replace(reply, token_ids=())) for reply in answer]}


def _from_row(row: Mapping[str, Any]) -> Any:
    return row["value"] if "value" in row else [files.from_row(Reply, reply) for reply in row["replies"]]


def _known(path: Path, finished: set[str]) -> dict[str, dict[int, Any]]:
    """Load what unfinished trees were answered, by tree and number; drop finished trees from the file."""
    rows = [row for row in read_jsonl(path) if row["problem_id"] not in finished] if path.is_file() else []
    if rows:
        files.write_records(path, rows)
    known: dict[str, dict[int, Any]] = defaultdict(dict)
    for row in rows:
        known[row["problem_id"]][row["number"]] = _from_row(row)
    return known


def _tokens(answer: Any) -> int:
    return 0 if isinstance(answer, float) else sum(reply.tokens_out for reply in answer)
