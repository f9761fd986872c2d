"""Measure whether decontamination finds test questions and nothing else.

    PLANTUNE_DATA=... python benchmarks/corpus.py      # writes benchmarks/corpus.json and corpus.md; about 3 minutes

The test questions are those of the data files, unchanged and changed.
"""

import json
import os
import re
import time
from pathlib import Path

from report import machine, markdown, write

from plantune_lite.distill.dedup import TestQuestions, numbers, runs, words

LENGTH = 13


def main() -> None:
    """Measure both cases and write the page."""
    overlaps = measure_overlaps()
    planted = [
        measure_planted(suite) for suite in ("gsm8k_test", "mmlu_stem", "olympiadbench", "strategyqa_dev", "bbh")
    ]
    columns = ("test questions", "unchanged", "text prepended", "first 5 words cut", "numbers changed (expect 0)")
    text = "\n\n".join(
        [
            "## gsm8k train against gsm8k test",
            f"{overlaps['train']} training questions against {overlaps['test']} test questions in "
            f"{overlaps['seconds']} s. {overlaps['shared']} share {LENGTH} words in a row, "
            f"{overlaps['found']} of them with the same numbers, which makes a match. All pairs that share words:",
            *(f"```text\n{pair['train']}\n{pair['test']}\n```" for pair in overlaps["pairs"]),
            "## Test questions planted in a training set: matches",
            markdown(
                columns,
                [(p["suite"], p["as_is"], p["prefix"], p["cut"], p["numbers"]) for p in planted],
            ),
            "With text prepended, the questions missed have fewer than six words or share all their runs of words "
            f"with others of the suite. With 5 words cut, a question of fewer than {LENGTH} words is incomplete, and "
            "the rest of a longer one may be too short. Numbers are changed only in questions that have some.",
        ]
    )
    results = {"machine": machine(), "overlaps": overlaps, "planted": planted}
    write("corpus", command="python benchmarks/corpus.py", about=__doc__.split("\n")[0], found=results, text=text)


def questions(name: str) -> list[tuple[str, str]]:
    """Read ids, and questions with their choices, from a data file."""
    lines = (Path(os.environ["PLANTUNE_DATA"]) / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [(row["id"], " ".join([row["question"], *map(str, row.get("choices") or ())])) for row in rows]


def measure_overlaps() -> dict:
    """Count questions of gsm8k's train split that overlap with its test split."""
    train, test = questions("gsm8k_train"), dict(questions("gsm8k_test"))
    started = time.perf_counter()
    index = TestQuestions({"gsm8k": test.items()}, LENGTH)
    matches = {id: suite["gsm8k"] for id, question in train if (suite := index.found_in(question))}
    seconds = time.perf_counter() - started
    test_of = {run: id for id, question in test.items() for run in runs(words(question), LENGTH)}
    shared = {id: test_of[run] for id, question in train for run in runs(words(question), LENGTH) if run in test_of}
    train_questions = dict(train)
    pairs = [
        {"train": f"{id}: {train_questions[id]}", "test": f"{other}: {test[other]}", "found": id in matches}
        for id, other in {**shared, **matches}.items()
    ]
    return {
        "train": len(train),
        "test": len(test),
        "seconds": round(seconds, 1),
        "shared": len(shared),
        "found": len(matches),
        "pairs": pairs,
    }


def measure_planted(name: str) -> dict:
    """Count the matches when a suite's own questions, unchanged or changed, come as training questions."""
    tests = questions(name)
    index = TestQuestions({name: tests}, LENGTH)

    def matches(change, only=lambda question: True) -> str:
        changed = [change(question) for _, question in tests if only(question)]
        return f"{sum(bool(index.found_in(text)) for text in changed)} of {len(changed)}"

    return {
        "suite": name,
        "as_is": matches(lambda text: text),
        "prefix": matches(lambda text: "Here is something to think about for a while. " + text),
        "cut": matches(lambda text: " ".join(text.split()[5:])),
        "numbers": matches(
            lambda text: re.sub(r"\d+", lambda match: str(int(match[0]) * 7 + 1001), text),
            only=lambda text: numbers(words(text)),
        ),
    }


if __name__ == "__main__":
    main()
