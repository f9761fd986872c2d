"""Order the rows of a training: the easiest problems first, or one source after the other.

    ranks("by_source", rows, problems, rates) -> [0, 0, 1, 0, ...]      a row of a lower rank comes earlier

A curriculum changes only the order: the same rows, equally often, in as many steps. Problems are ranked by their level;
if any has none, or all have the same, by how often the untuned student solves them:

    {"problem_id": "practice/train/7", "passed": 1, "asked": 4}       a line of pass_rates.jsonl
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.files import JsonlWriter, read_jsonl
from plantune_lite.grading.grade import grade_answer
from plantune_lite.plan import ask_step_by_step
from plantune_lite.types import Generate, Problem, Sampling

SAMPLES = 4  # answers a problem
_AT_ONCE = 16  # problems between two lines of progress


def ranks(
    order: str,
    rows: Sequence[Mapping[str, Any]],
    problems: Sequence[Problem],
    rates: Callable[[Sequence[Problem]], Mapping[str, float]],
) -> list[float] | None:
    """A rank a row; None where any order will do. `rates` says how often the student is right, and costs answers."""
    by_id = {problem.id: problem for problem in problems}
    asked = [by_id[row["problem_id"]] for row in rows]
    if order == "by_source":
        sources = list(dict.fromkeys(problem.source for problem in problems))
        return [sources.index(problem.source) for problem in asked]
    if order == "easy_first":
        levels = [problem.extra.get("level") for problem in asked]
        numbers: list[float] = [level for level in levels if isinstance(level, int | float)]
        if len(set(levels)) > 1 and len(numbers) == len(levels):
            return numbers
        passed = rates(list({problem.id: problem for problem in asked}.values()))
        return [-passed[problem.id] for problem in asked]
    return None


def pass_rates(
    generate: Generate,
    problems: Sequence[Problem],
    file: Path,
    *,
    max_tokens: int,
    seed: int,
    show: Callable[[str, bool], object] = lambda line, last: None,
) -> dict[str, float]:
    """Measure how often each problem is solved, in a few samples; resume from what the file already has."""
    found = {row["problem_id"]: row["passed"] / row["asked"] for row in (read_jsonl(file) if file.is_file() else ())}
    with JsonlWriter(file) as writer:
        for start in range(0, len(problems), _AT_ONCE):
            some = problems[start : start + _AT_ONCE]
            if all(problem.id in found for problem in some):
                continue
            sampling = Sampling(temperature=1.0, n=SAMPLES, max_tokens=max_tokens, seed=seed + start)
            replies = generate([ask_step_by_step(problem) for problem in some], sampling)
            for problem, texts in zip(some, replies, strict=True):
                passed = sum(_is_right(problem, one.text) for one in texts)
                if problem.id not in found:
                    writer.write({"problem_id": problem.id, "passed": passed, "asked": SAMPLES})
                found[problem.id] = passed / SAMPLES
            done = start + len(some)
            words = f"how easy: {done} of {len(problems)} problems tried by the untuned student"
            show(words, done == len(problems))
    return found


def _is_right(problem: Problem, text: str) -> bool:
    """A program is not run here, so it is as hard as any can be."""
    return problem.kind != "code" and grade_answer(problem, text).verdict.same is True
