"""Describe the public benchmarks: their Hugging Face Hub ids, their columns, and how these map to our fields.

BENCHMARKS["mmlu"].fields({"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "arithmetic"})
    -> {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": "B", "subject": "arithmetic"}
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from plantune_lite.types import Kind

Cells = dict[str, Any]  # of one row of a Hub data set, or of our fields


def _columns(**columns: str) -> Callable[[Cells], Cells]:
    """Take each of our fields from the given column."""
    return lambda row: {name: row[column] for name, column in columns.items()}


def _gsm8k(row: Cells) -> Cells:
    """Split `How many eggs? ** She has 16 - 3 = <<16-3=13>>13 eggs.` lines and a last `#### 13`."""
    lines = re.sub(r"<<[^>]*>>", "", row["answer"]).strip().split("\n")
    parts = [line.split(" ** ", 1) for line in lines if not line.startswith("####")]
    steps = [pieces[-1].strip() for pieces in parts]
    questions = [pieces[0].strip() for pieces in parts if len(pieces) == 2]
    return {
        "question": row["question"],
        "answer": lines[-1],
        "solution": "\n".join(steps),
        "steps": steps,
        "subquestions": questions,
    }


def _olympiadbench(row: Cells) -> Cells:
    """Join the answers, each in dollar signs, into one text: `$(1,8,19), (2,7,13)$`."""
    question = "\n\n".join(text for text in (row.get("context"), row["question"]) if text)
    answer = ", ".join(text.strip().strip("$") for text in row["final_answer"] or [])
    return {"question": question, "answer": answer, "solution": (row["solution"] or [None])[0]}


def _contest(row: Cells) -> Cells:
    question = row["problem"] if "problem" in row else row["question"]
    return {"question": question, "answer": row["answer"], "solution": row.get("solution")}


def _arc(row: Cells) -> Cells:
    """Map labels to letters: they are A to E in most rows and 1 to 4 in some."""
    labels = row["choices"]["label"]
    letter = chr(ord("A") + labels.index(row["answerKey"])) if row["answerKey"] in labels else row["answerKey"]
    return {"question": row["question"], "choices": row["choices"]["text"], "answer": letter}


def _mmlu(row: Cells) -> Cells:
    return {**row, "answer": "ABCD"[row["answer"]]}


def _strategyqa(row: Cells) -> Cells:
    facts = row["facts"]
    return {
        "question": row["question"],
        "answer": row["answer"],
        "solution": facts if isinstance(facts, str) else " ".join(facts),
    }


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One row of the table."""

    hub: str
    configs: tuple[str | None, ...] = (None,)  # one after another
    train: str | None = None  # the Hub's name of the split; None = there is none to train on
    test: str
    fields: Callable[[Cells], Cells]  # ours, from a row of the Hub; a KeyError where it lacks the columns
    kind: Kind | None = None
    only: frozenset[str] = frozenset()  # MMLU subjects; empty = all
    task: str = ""  # name on the Hub's leaderboard; "" = none


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STEM = frozenset(
    _names(
        """abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics
        college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics
        high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics
        high_school_physics high_school_statistics machine_learning"""
    )
)
_MATH_PARTS = _names(
    "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus"
)
_BBH_TASKS = _names(
    """boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies
    geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects
    logical_deduction_three_objects movie_recommendation multistep_arithmetic_two navigate object_counting
    penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks
    sports_understanding temporal_sequences tracking_shuffled_objects_five_objects
    tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting"""
)

# Ids, configs, splits and columns as public dataset cards and loaders had them in November 2026, not checked against
# the Hub then: every load checks them, and an error names the id.
_MMLU = Benchmark(
    hub="cais/mmlu",
    configs=("all",),
    test="test",
    fields=_mmlu,
    kind="choice",
)
BENCHMARKS = {
    "gsm8k": Benchmark(
        hub="openai/gsm8k",
        task="gsm8k",
        configs=("socratic",),
        train="train",
        test="test",
        fields=_gsm8k,
    ),
    "math": Benchmark(
        hub="EleutherAI/hendrycks_math",
        configs=_MATH_PARTS,
        train="train",
        test="test",
        fields=_columns(question="problem", answer="solution", solution="solution", level="level"),
    ),
    "math500": Benchmark(
        hub="HuggingFaceH4/MATH-500",
        test="test",
        fields=_columns(answer="answer", question="problem", solution="solution", level="level"),
    ),
    "olympiadbench": Benchmark(
        hub="Hothan/OlympiadBench",
        configs=("OE_TO_maths_en_COMP",),
        test="train",  # its only split, which the authors call a test set
        fields=_olympiadbench,
    ),
    "aime24": Benchmark(hub="HuggingFaceH4/aime_2024", test="train", fields=_contest),
    "aime25": Benchmark(hub="math-ai/aime25", test="test", fields=_contest),
    "aime_1983_2024": Benchmark(
        hub="di-zhang-fdu/AIME_1983_2024",
        test="train",
        fields=_columns(question="Question", answer="Answer"),
    ),
    "amc23": Benchmark(hub="math-ai/amc23", test="test", fields=_contest),
    "arc_challenge": Benchmark(
        hub="allenai/ai2_arc",
        configs=("ARC-Challenge",),
        train="train",
        test="test",
        fields=_arc,
        kind="choice",
    ),
    "mmlu": _MMLU,
    "mmlu_stem": replace(_MMLU, only=_STEM),
    "bbh": Benchmark(
        hub="SaylorTwift/bbh",  # lukaemon/bbh is a loading script, which datasets 4 no longer runs
        configs=_BBH_TASKS,
        test="test",
        fields=_columns(question="input", answer="target"),
    ),
    "strategyqa": Benchmark(
        hub="ChilleD/StrategyQA",
        train="train",
        test="test",
        fields=_strategyqa,
    ),
    "humaneval": Benchmark(
        hub="openai/openai_humaneval",
        configs=("openai_humaneval",),
        test="test",
        fields=_columns(
            question="prompt",
            answer="canonical_solution",
            solution="canonical_solution",
            entry_point="entry_point",
            test="test",
        ),
        kind="code",
    ),
}
