"""Does the plan reward know a plan of this problem from one of another? Two independent plans of the same problem.

    PLANTUNE_DATA=FOLDER python -m benchmarks.alignment

The reference is the plan in a problem's sub-questions (gsm8k) or in its template (practice); beside it stands another
plan of the same problem, made of its worked steps alone, and the same of another problem. AUROC is how often the first
scores higher. Words are the default judge. The embedding judge is asked with the only model at hand, SmolLM2-135M,
which is no sentence encoder: a lower bound of what one would do.
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
Case = tuple[str, str, tuple[str, ...], tuple[str, ...]]  # kind, question, reference, another plan of the problem


def main() -> None:
    """Both sets, both judges."""
    sets = {"gsm8k": list(gsm8k(Path(os.environ["PLANTUNE_DATA"]))), "practice": list(practice())}
    table, figures = [], {}
    for name, cases in sets.items():
        corpus = [(question, reference) for _, question, reference, _ in cases]
        judges = {
            "words": (Alignment(corpus), cases),
            "SmolLM2-135M's embeddings": (
                Alignment(corpus[:EMBEDDED], alike=embedding_similarity(str(smollm2.folder()))),
                cases[:EMBEDDED],
            ),
        }
        for judge, (alignment, asked) in judges.items():
            found = scores(alignment, asked)
            area = auroc(found["same problem"], found["another problem"])
            table.append((name, judge, len(asked), area.text(), *(f"{median(found[kind]):.2f}" for kind in KINDS)))
            figures[f"{name}, {judge}"] = {"auroc": vars(area), **{kind: median(found[kind]) for kind in KINDS}}
    write(
        "alignment",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.alignment",
        about="The plan reward: a plan of the same problem beside a plan of another.",
        found={"machine": machine("torch", "transformers"), "figures": figures},
        text=markdown(("problems", "judge", "of", "AUROC (95 %)", *(f"median: {kind}" for kind in KINDS)), table)
        + "\n\nAUROC over all problems' plans; intervals from the bootstrap over problems. 'Another problem' is one "
        "of another kind. 'A step less' is the reference without one of its steps.",
    )


KINDS = ("reference", "a step less", "same problem", "another problem", "question")


def gsm8k(data: Path) -> Iterator[Case]:
    """Problems whose sub-questions and whose steps both make a plan."""
    rows = list(read_jsonl(data / "gsm8k_train.jsonl"))
    Random(0).shuffle(rows)
    made = 0
    for row in rows:
        subquestions = {"subquestions": row.get("subquestions", [])}
        problem = Problem(
            id=row["id"], question=row["question"], answer=row["answer"], steps=tuple(row["steps"]), extra=subquestions
        )
        found = _case(problem, problem.id)
        if found and made < SIZE:
            made += 1
            yield found


def practice() -> Iterator[Case]:
    """Problems of our own generator."""
    for problem in practice_problems("train", seed=0, limit=SIZE):
        if found := _case(problem, problem.extra["template"]):
            yield found


def _case(problem: Problem, kind: str) -> Case | None:
    reference = worked.plan_of(problem).plan
    other = worked.plan_of(replace(problem, extra={})).plan
    return (kind, problem.question, reference, other) if len(reference) > 1 and len(other) > 1 else None


def scores(alignment: Alignment, cases: list[Case]) -> dict[str, list[float]]:
    """What each kind of plan scores, problem by problem."""
    dice = Random(0)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind, question, reference, other in cases:
        strange = dice.choice([plan for another, _, _, plan in cases if another != kind])
        left_out = dice.randrange(len(reference))
        plans = {
            "reference": reference,
            "a step less": (*reference[:left_out], *reference[left_out + 1 :]),
            "same problem": other,
            "another problem": strange,
            "question": (question,),
        }
        for name, plan in plans.items():
            found[name] += alignment([question], [plan], [reference])
    return found


def auroc(high: list[float], low: list[float]) -> "Area":
    """How often one of the first is above one of the second, ties counting half."""
    one, other = np.array(high)[:, None], np.array(low)[None, :]
    above = (one > other) + (one == other) / 2
    dice = np.random.default_rng(0)
    drawn = [dice.integers(len(high), size=len(high)) for _ in range(DRAWS)]
    interval = np.quantile([above[np.ix_(problems, problems)].mean() for problems in drawn], (0.025, 0.975))
    return Area(float(above.mean()), *map(float, interval))


class Area(stats.Estimate):
    """An AUROC with its interval."""

    def text(self) -> str:
        """0.981 (0.972 to 0.989)."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


if __name__ == "__main__":
    main()
