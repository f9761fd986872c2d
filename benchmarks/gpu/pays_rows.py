"""Build the problems and training rows of benchmarks/gpu/pays.py, and set its sizes.

train, apart, test = split(FULL)      apart: held-out train problems, on which rates are chosen
corpora(work, FULL)                   writes work/rows/ARM/train.jsonl, the same problems for all arms
filtered(work, FULL)                  the same from M1's own replies; each filter gets equally many rows
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks.gpu.pays_table import ARMS, FILTERS, SEEDS

RATES = ("2e-4", "5e-4", "1e-3")


@dataclass(frozen=True)
class Sizes:
    """Set the sizes of all parts."""

    train: int | None = None  # problems; None = all
    kept_apart: int = 400
    test: int | None = None
    steps: int = 450
    m1_rows: int = 16  # per step
    length: int = 768  # tokens per row
    tokens: int = 384  # per answer
    grpo_steps: int = 100
    prompts: int = 4  # per step
    group: int = 8
    completion: int = 320
    own_problems: int = 3000  # train problems that M1 answers for the filters
    own_tries: int = 4
    filter_steps: int = 40
    rates: tuple[str, ...] = RATES
    seeds: tuple[int, ...] = SEEDS


FULL = Sizes()
TINY = Sizes(12, 2, 2, 1, 1, 2048, 6, 1, 1, 4, 6, 4, 2, 1, RATES[:1], SEEDS[:1])


def split(sizes: Sizes) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the train problems, the train problems held out to choose rates on, and the test problems."""
    from plantune_lite.problems.load import load_problems, load_suite
    from plantune_lite.recipe.schema import Problems

    train = list(load_problems(Problems("gsm8k", held_out=0.0), seed=0).pool)
    test = load_suite("gsm8k", limit=sizes.test, seed=0, own=()).problems
    apart = {problem.id for problem in Random(0).sample(train, sizes.kept_apart)}
    kept = [problem for problem in train if problem.id not in apart][: sizes.train]
    return kept, [problem for problem in train if problem.id in apart], list(test)


def corpora(work: Path, sizes: Sizes) -> None:
    """Write the rows of every arm, from the same problems; count how many control rows differ from the baseline's."""
    if (work / "rows" / "control.json").is_file():
        return
    train, _, test = split(sizes)
    rows = {arm: _built(train, test, work / "rows" / arm, **ARMS[arm].rows) for arm in ("baseline", "m1", "m2")}
    control = _built(train, test, work / "rows" / "control", target="solution", solutions="teacher")
    baseline = {row["problem_id"]: row["completion"] for row in rows["baseline"]}
    differing = sum(baseline.get(row["problem_id"]) != row["completion"] for row in control)
    _mix(rows["m1"], work, sizes)
    stats = json.loads((work / "rows" / "control" / "stats.json").read_text(encoding="utf-8"))
    record = {"rows": len(control), "other_than_the_baseline": differing, "rejected": stats["rejected"]}
    (work / "rows" / "control.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def filtered(work: Path, sizes: Sizes) -> None:
    """Write rows from M1's replies on train problems: all, those with high-scoring plans, of these the right ones.

    A plan's score is its similarity to the data set's own (R_plan, of 100), and the better half passes.
    """
    if filters(work).is_file():
        return
    from plantune_lite.distill import corpus
    from plantune_lite.files import read_jsonl, read_records
    from plantune_lite.plan import parse
    from plantune_lite.recipe.schema import Corpus
    from plantune_lite.train.plan_similarity import Alignment
    from plantune_lite.types import Score, Trajectory

    train, _, test = split(sizes)
    problems = {problem.id: problem for problem in train}
    reference = {row["problem_id"]: row["plan"] for row in read_jsonl(work / "rows" / "m1" / "prompts.jsonl")}
    judge = Alignment([(problems[id].question, plan) for id, plan in reference.items()])
    replies = read_records(Score, own_answers(work))
    planned = [(reply, plan) for reply in replies if reply.problem_id in reference and (plan := parse(reply.text))]
    similarities = judge(
        [problems[reply.problem_id].question for reply, _ in planned],
        [plan.plan for _, plan in planned],
        [reference[reply.problem_id] for reply, _ in planned],
    )
    trajectories = [
        Trajectory(
            problem_id=reply.problem_id,
            sample=reply.sample,
            question=problems[reply.problem_id].question,
            plan=plan.plan,
            execution=plan.execution,
            answer=reply.prediction,
            score=round(100 * similarity),
            teacher="m1",
        )
        for (reply, plan), similarity in zip(planned, similarities, strict=True)
    ]
    min_score = round(100 * median(similarities))
    kept = {}
    for arm, filter in FILTERS.items():
        part = Corpus(filter=filter, min_score=min_score, per_problem=sizes.own_tries, dedup="exact", validation=0.0)
        corpus.build_corpus(trajectories, train, {"gsm8k": test}, corpus.Wanted(part), work / "rows" / arm)
        kept[arm] = list(read_jsonl(work / "rows" / arm / "train.jsonl"))
    rows_each = min(map(len, kept.values()))
    for arm, rows in kept.items():
        _write(work, arm, Random(0).sample(rows, rows_each))
    right = sum(bool(reply.same) for reply in replies)
    record = {"answers": len(replies), "with_a_plan": len(planned), "right": right, "bar": min_score}
    record |= {"rows_each": rows_each, "passed": {arm: len(rows) for arm, rows in kept.items()}}
    filters(work).write_text(json.dumps(record) + "\n", encoding="utf-8")


def filters(work: Path) -> Path:
    """Return the file of what each filter kept, written once its rows are there."""
    return work / "rows" / "filters.json"


def own_answers(work: Path) -> Path:
    """Return the file of replies of M1's first seed on train problems."""
    return work / "m10" / "own.jsonl"


def _built(train: list[Any], test: list[Any], out: Path, *, target: str, solutions: str) -> list[dict]:
    from plantune_lite.distill import corpus, worked
    from plantune_lite.files import read_jsonl
    from plantune_lite.recipe.schema import Corpus
    from plantune_lite.types import Trajectory

    trajectories = [
        Trajectory(
            problem_id=problem.id,
            sample=0,
            question=problem.question,
            plan=solution.plan,
            execution=solution.execution,
            answer=problem.answer,
            teacher="worked",
        )
        for problem in train
        if (solution := worked.plan_of(problem)).plan
    ]
    wanted = corpus.Wanted(Corpus(filter="answer", validation=0.0), target=target, solutions=solutions)
    corpus.build_corpus(trajectories, train, {"gsm8k": test}, wanted, out)
    return list(read_jsonl(out / "train.jsonl"))


def _mix(rows: list[dict], work: Path, sizes: Sizes) -> None:
    """Write equally many rows, half gsm8k, half practice."""
    from plantune_lite.plan import ask_plainly, render
    from plantune_lite.problems.practice.generate import practice_problems

    half = len(rows) // 2
    practice = [
        {
            "problem_id": problem.id,
            "prompt": list(ask_plainly(problem)),
            "completion": render(problem.extra["plan"], problem.solution),
        }
        for problem in practice_problems("train", seed=0, limit=len(rows) - half)
    ]
    _write(work, "mixed", Random(0).sample(rows, half) + practice)


def _write(work: Path, arm: str, rows: list[dict]) -> None:
    from plantune_lite.files import write_records

    write_records(work / "rows" / arm / "train.jsonl", rows)
