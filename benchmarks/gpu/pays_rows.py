"""What benchmarks/gpu/pays.py teaches and asks: the problems, the rows of every arm, and how much of everything.

train, apart, test = split(FULL)      apart: train problems that rates are chosen on
corpora(work, FULL)                   work/rows/ARM/train.jsonl, the same problems for all arms
filtered(work, FULL)                  the same of what M1 itself said, of which each filter keeps as many rows
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
    """How much of everything."""

    train: int | None = None  # problems; None = all
    kept_apart: int = 400
    test: int | None = None
    steps: int = 450
    m1_rows: int = 16  # a step
    length: int = 768  # tokens of a row
    tokens: int = 384  # of an answer
    grpo_steps: int = 100
    prompts: int = 4  # a step
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
    """Train problems, those of them that are kept apart to choose by, and test problems."""
    from plantune_lite.problems.load import load_problems, load_suite
    from plantune_lite.recipe.schema import Problems

    train = list(load_problems(Problems("gsm8k", held_out=0.0), seed=0).pool)
    test = load_suite("gsm8k", limit=sizes.test, seed=0, own=()).problems
    apart = {one.id for one in Random(0).sample(train, sizes.kept_apart)}
    kept = [one for one in train if one.id not in apart][: sizes.train]
    return kept, [one for one in train if one.id in apart], list(test)


def corpora(work: Path, sizes: Sizes) -> None:
    """The rows of every arm, of the same problems; and how many of the control's are not the baseline's."""
    if (work / "rows" / "control.json").is_file():
        return
    train, _, test = split(sizes)
    made = {arm: _built(train, test, work / "rows" / arm, **ARMS[arm].rows) for arm in ("baseline", "m1", "m2")}
    control = _built(train, test, work / "rows" / "control", target="solution", solutions="teacher")
    baseline = {row["problem_id"]: row["completion"] for row in made["baseline"]}
    other = sum(baseline.get(row["problem_id"]) != row["completion"] for row in control)
    _mix(made["m1"], work, sizes)
    stats = json.loads((work / "rows" / "control" / "stats.json").read_text(encoding="utf-8"))
    told = {"rows": len(control), "other_than_the_baseline": other, "rejected": stats["rejected"]}
    (work / "rows" / "control.json").write_text(json.dumps(told) + "\n", encoding="utf-8")


def filtered(work: Path, sizes: Sizes) -> None:
    """Rows of what M1 said on train problems: any of it, well-scored plans, and of these the right answers.

    A plan's score is how far it goes the way of the data set's own (R_plan, of 100), and the better half passes.
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
    asked = {problem.id: problem for problem in train}
    reference = {row["problem_id"]: row["plan"] for row in read_jsonl(work / "rows" / "m1" / "prompts.jsonl")}
    judge = Alignment([(asked[id].question, plan) for id, plan in reference.items()])
    said = read_records(Score, own_answers(work))
    planned = [(one, plan) for one in said if one.problem_id in reference and (plan := parse(one.text))]
    alike = judge(
        [asked[one.problem_id].question for one, _ in planned],
        [plan.plan for _, plan in planned],
        [reference[one.problem_id] for one, _ in planned],
    )
    trajectories = [
        Trajectory(
            problem_id=one.problem_id,
            sample=one.sample,
            question=asked[one.problem_id].question,
            plan=plan.plan,
            execution=plan.execution,
            answer=one.prediction,
            score=round(100 * like),
            teacher="m1",
        )
        for (one, plan), like in zip(planned, alike, strict=True)
    ]
    bar = round(100 * median(alike))
    kept = {}
    for arm, filter in FILTERS.items():
        part = Corpus(filter=filter, min_score=bar, per_problem=sizes.own_tries, dedup="exact", validation=0.0)
        corpus.build_corpus(trajectories, train, {"gsm8k": test}, corpus.Wanted(part), work / "rows" / arm)
        kept[arm] = list(read_jsonl(work / "rows" / arm / "train.jsonl"))
    least = min(map(len, kept.values()))
    for arm, rows in kept.items():
        _write(work, arm, Random(0).sample(rows, least))
    right = sum(bool(one.same) for one in said)
    told = {"answers": len(said), "with_a_plan": len(planned), "right": right, "bar": bar, "rows_each": least}
    told["passed"] = {arm: len(rows) for arm, rows in kept.items()}
    filters(work).write_text(json.dumps(told) + "\n", encoding="utf-8")


def filters(work: Path) -> Path:
    """What each filter kept, written once its rows are there."""
    return work / "rows" / "filters.json"


def own_answers(work: Path) -> Path:
    """What M1's first seed said on train problems."""
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
            plan=one.plan,
            execution=one.execution,
            answer=problem.answer,
            teacher="worked",
        )
        for problem in train
        if (one := worked.plan_of(problem)).plan
    ]
    wanted = corpus.Wanted(Corpus(filter="answer", validation=0.0), target=target, solutions=solutions)
    corpus.build_corpus(trajectories, train, {"gsm8k": test}, wanted, out)
    return list(read_jsonl(out / "train.jsonl"))


def _mix(rows: list[dict], work: Path, sizes: Sizes) -> None:
    """Half gsm8k, half practice, as many as before."""
    from plantune_lite.plan import ask_plainly, render
    from plantune_lite.problems.practice.generate import practice_problems

    half = len(rows) // 2
    practice = [
        {
            "problem_id": one.id,
            "prompt": list(ask_plainly(one)),
            "completion": render(one.extra["plan"], one.solution),
        }
        for one in practice_problems("train", seed=0, limit=len(rows) - half)
    ]
    _write(work, "mixed", Random(0).sample(rows, half) + practice)


def _write(work: Path, arm: str, rows: list[dict]) -> None:
    from plantune_lite.files import write_records

    write_records(work / "rows" / arm / "train.jsonl", rows)
