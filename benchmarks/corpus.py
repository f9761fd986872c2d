"""Does decontamination find test questions and nothing else?

    PLANTUNE_DATA=... python benchmarks/corpus.py      # writes benchmarks/corpus.json and corpus.md; about 3 minutes

Test questions: those of the data files, as they are and changed.
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
    """Measure it, write it down."""
    overlaps = measure_overlaps()
    planted = [
        measure_planted(suite) for suite in ("gsm8k_test", "mmlu_stem", "olympiadbench", "strategyqa_dev", "bbh")
    ]
    columns = (
        "test questions",
        "as they are",
        "another beginning",
        "first 5 words cut",
        "numbers changed (no find wanted)",
    )
    text = "\n\n".join(
        [
            "## gsm8k train against gsm8k test",
            f"{overlaps['train']} training questions against {overlaps['test']} test questions in "
            f"{overlaps['seconds']} s. {overlaps['shared']} share {LENGTH} words in a row, "
            f"{overlaps['found']} of them with the same numbers and so a find. "
            "All of those that share words, to be looked at:",
            *(f"```text\n{pair['train']}\n{pair['test']}\n```" for pair in overlaps["pairs"]),
            "## Test questions planted in a training set: found",
            markdown(
                columns,
                [(p["suite"], p["as_is"], p["prefix"], p["cut"], p["numbers"]) for p in planted],
            ),
            "Behind another beginning, what is not found is shorter than six words or has all its runs of words in "
            "common with other questions of its suite. With its beginning cut, a question of fewer than "
            f"{LENGTH} words is not there whole, and what is left of others may be too short. Numbers are changed "
            "where there are any.",
        ]
    )
    found = {"machine": machine(), "overlaps": overlaps, "planted": planted}
    write("corpus", command="python benchmarks/corpus.py", about=__doc__.split("\n")[0], found=found, text=text)


def questions(name: str) -> list[tuple[str, str]]:
    """Id and question with its choices, from a data file."""
    lines = (Path(os.environ["PLANTUNE_DATA"]) / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [(row["id"], " ".join([row["question"], *map(str, row.get("choices") or ())])) for row in rows]


def measure_overlaps() -> dict:
    """What of gsm8k's train split stands in its test split."""
    train, test = questions("gsm8k_train"), dict(questions("gsm8k_test"))
    started = time.perf_counter()
    index = TestQuestions({"gsm8k": test.items()}, LENGTH)
    found = {id: suite["gsm8k"] for id, question in train if (suite := index.found_in(question))}
    seconds = time.perf_counter() - started
    holder = {run: id for id, question in test.items() for run in runs(words(question), LENGTH)}
    shared = {id: holder[run] for id, question in train for run in runs(words(question), LENGTH) if run in holder}
    asked = dict(train)
    pairs = [
        {"train": f"{id}: {asked[id]}", "test": f"{other}: {test[other]}", "found": id in found}
        for id, other in {**shared, **found}.items()
    ]
    return {
        "train": len(train),
        "test": len(test),
        "seconds": round(seconds, 1),
        "shared": len(shared),
        "found": len(found),
        "pairs": pairs,
    }


def measure_planted(name: str) -> dict:
    """How many of a suite's own questions are found when they come as training questions, changed."""
    tests = questions(name)
    index = TestQuestions({name: tests}, LENGTH)

    def found(change, only=lambda question: True) -> str:
        changed = [change(question) for _, question in tests if only(question)]
        return f"{sum(bool(index.found_in(text)) for text in changed)} of {len(changed)}"

    return {
        "suite": name,
        "as_is": found(lambda text: text),
        "prefix": found(lambda text: "Here is something to think about for a while. " + text),
        "cut": found(lambda text: " ".join(text.split()[5:])),
        "numbers": found(
            lambda text: re.sub(r"\d+", lambda match: str(int(match[0]) * 7 + 1001), text),
            only=lambda text: numbers(words(text)),
        ),
    }


if __name__ == "__main__":
    main()
