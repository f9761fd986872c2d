"""Your own problems, from a file or from a function.

A file needs no Python: CSV, TSV, JSON, JSONL or Parquet, with any column names.

    plantune show examples/my.csv                                # what is in it, before anything is spent
    plantune run qwen3_4b_sft problems.path=examples/my.csv problems.question=Frage problems.answer=Antwort name=mine

A function is for problems that are generated or fetched. It may take `seed` and `limit`, and yields dicts with at least
a question and an answer. With worked steps, the `worked` teacher writes plans without a model, as in the recipe below:

    python examples/own_problems.py --dry-run                    # then without it

This file is code, so it runs when the recipe does.
"""

import random
from collections.abc import Iterator
from typing import Any

from plantune_lite import SFT, Corpus, Distill, Problems, Recipe, Student, run


def change_problems(seed: int, limit: int | None) -> Iterator[dict[str, Any]]:
    """Generate problems about paying with a note: one addition, one subtraction."""
    rng = random.Random(seed)
    for _ in range(limit or 500):
        bread, cheese = rng.randint(2, 9), rng.randint(2, 9)
        note = rng.choice((20, 50))
        yield {
            "question": f"Bread costs {bread} euros and cheese {cheese}. You pay with {note}. What is the change?",
            "answer": note - bread - cheese,
            "steps": [
                f"Together they cost {bread} + {cheese} = {bread + cheese} euros.",
                f"You get back {note} - {bread + cheese} = {note - bread - cheese} euros.",
            ],
            "plan": ["Add both prices to find the cost.", "Subtract the cost from the note to find the change."],
        }


RECIPE = Recipe(
    name="own_problems",
    problems=Problems(change_problems, limit=400),
    distill=Distill(teacher="worked"),
    corpus=Corpus(filter="answer"),
    student=Student("smollm2_135m", bits=16, max_length=512),
    sft=SFT(),
)

if __name__ == "__main__":
    run(RECIPE)
