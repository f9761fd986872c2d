"""Measure whether the plan reward ranks a plan for the same problem above a plan for another one.

    PLANTUNE_DATA=FOLDER python -m benchmarks.alignment

The reference is the plan in a problem's sub-questions (gsm8k) or its template (practice). It is compared with a plan
made only from the same problem's worked steps, and with such a plan for another problem. AUROC is how often the plan
for the same problem scores higher. Words are the default judge. The embedding judge runs on the only model available,
SmolLM2-135M, which is not a sentence encoder: a lower bound.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

import numpy as np

from benchmarks.report import machine, markdown, write
from plantune_lite.distill import worked
from plantune_lite.evaluate import stats
from plantune_lite.files import read_jsonl
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.student import smollm2
from plantune_lite.train.plan_similarity import Alignment, embedding_similarity
from plantune_lite.types import Problem

SIZE, EMBEDDED, DRAWS = 300, 100, 1000
Case = tuple[str, str, tuple[str, ...], tuple[str, ...]]  # kind, question, reference, another plan for the problem


def main() -> None:
    """Score both problem sets with both judges and write the page."""
    sets = {"gsm8k": list(gsm8k(Path(os.environ["PLANTUNE_DATA"]))), "practice": list(practice())}
    table, figures = [], {}
    for name, all_cases in sets.items():
        corpus = [(question, reference) for _, question, reference, _ in all_cases]
        judges = {
            "words": (Alignment(corpus), all_cases),
            "SmolLM2-135M's embeddings": (
                Alignment(corpus[:EMBEDDED], alike=embedding_similarity(str(smollm2.folder()))),
                all_cases[:EMBEDDED],
            ),
        }
        for judge, (alignment, cases) in judges.items():
            by_kind = scores(alignment, cases)
            area = auroc(by_kind["same problem"], by_kind["another problem"])
            medians = {kind: median(by_kind[kind]) for kind in KINDS}
            table.append((name, judge, len(cases), area.text(), *(f"{value:.2f}" for value in medians.values())))
            figures[f"{name}, {judge}"] = {"auroc": vars(area), **medians}
    write(
        "alignment",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.alignment",
        about="The plan reward: a plan for the same problem compared with a plan for another.",
        found={"machine": machine("torch", "transformers"), "figures": figures},
        text=markdown(("problems", "judge", "n", "AUROC (95 %)", *(f"median: {kind}" for kind in KINDS)), table)
        + "\n\nAUROC over the plans of all problems; intervals by bootstrap over problems. 'another problem' is of "
        "another kind; 'a step less' is the reference without one of its steps.",
    )


KINDS = ("reference", "a step less", "same problem", "another problem", "question")


def gsm8k(data: Path) -> Iterator[Case]:
    """Yield problems whose sub-questions and whose steps both make a plan."""
    rows = list(read_jsonl(data / "gsm8k_train.jsonl"))
    Random(0).shuffle(rows)
    count = 0
    for row in rows:
        subquestions = {"subquestions": row.get("subquestions", [])}
        problem = Problem(
            id=row["id"], question=row["question"], answer=row["answer"], steps=tuple(row["steps"]), extra=subquestions
        )
        case = _case(problem, problem.id)
        if case and count < SIZE:
            count += 1
            yield case


def practice() -> Iterator[Case]:
    """Yield problems of our own generator."""
    for problem in practice_problems("train", seed=0, limit=SIZE):
        if case := _case(problem, problem.extra["template"]):
            yield case


def _case(problem: Problem, kind: str) -> Case | None:
    reference = worked.plan_of(problem).plan
    other = worked.plan_of(replace(problem, extra={})).plan
    return (kind, problem.question, reference, other) if len(reference) > 1 and len(other) > 1 else None


def scores(alignment: Alignment, cases: list[Case]) -> dict[str, list[float]]:
    """Score each kind of plan, problem by problem."""
    rng = Random(0)
    by_kind: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind, question, reference, other in cases:
        unrelated = rng.choice([plan for another, _, _, plan in cases if another != kind])
        left_out = rng.randrange(len(reference))
        plans = {
            "reference": reference,
            "a step less": (*reference[:left_out], *reference[left_out + 1 :]),
            "same problem": other,
            "another problem": unrelated,
            "question": (question,),
        }
        for name, plan in plans.items():
            by_kind[name] += alignment([question], [plan], [reference])
    return by_kind


def auroc(high: list[float], low: list[float]) -> "Area":
    """Compute how often a score of the first list is above one of the second; ties count half."""
    first, second = np.array(high)[:, None], np.array(low)[None, :]
    above = (first > second) + (first == second) / 2
    rng = np.random.default_rng(0)
    resamples = [rng.integers(len(high), size=len(high)) for _ in range(DRAWS)]
    interval = np.quantile([above[np.ix_(problems, problems)].mean() for problems in resamples], (0.025, 0.975))
    return Area(float(above.mean()), *map(float, interval))


class Area(stats.Estimate):
    """Hold an AUROC and its interval."""

    def text(self) -> str:
        """Format as 0.981 (0.972 to 0.989)."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


if __name__ == "__main__":
    main()
