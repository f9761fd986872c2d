r"""Measure untuned SmolLM2-135M on gsm8k, and compare our grading with lm-evaluation-harness.

    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR          # answers; resumes after a stop
    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR --grade  # in a Python that also has lm_eval

FOLDER holds gsm8k_test.jsonl. Asks a seeded sample of 300 of the 1,319 test problems, greedy, float32, zero-shot.
Then our grader and the harness's own filters and metric, set as in its gsm8k.yaml, grade the replies; the page lists
every reply on which they differ. So small a model is hardly ever right, so both also grade the data set's own
solutions, every other one ending in another problem's answer, in the harness's convention (#### 72) and in words.
"""

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from random import Random

from benchmarks.report import machine, markdown, write
from plantune_lite.evaluate import modes, stats
from plantune_lite.evaluate.answers import Asking
from plantune_lite.files import read_jsonl, read_records, write_whole
from plantune_lite.grading.grade import grade_answer
from plantune_lite.recipe.schema import Student
from plantune_lite.student.load import load_student
from plantune_lite.types import Problem, Sampling, Score

PROBLEMS, SEED, MAX_TOKENS = 300, 0, 256
PART = Student("smollm2_135m", bits=32, max_length=1024)
PROMPT = "zero_shot_cot"
FILTERS = ("strict-match", "flexible-extract")
ENDINGS = ("#### {}", "So the answer is {}.")
SHOWN = 160  # characters of a reply's end


def main() -> None:
    """Generate the missing replies, or grade them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--grade", action="store_true")
    arguments = parser.parse_args()
    data = Path(os.environ["PLANTUNE_DATA"])
    problems = Random(SEED).sample(rows(data / "gsm8k_test.jsonl"), PROBLEMS)
    if not arguments.grade:
        return answer(problems, arguments.work)
    write_down(problems, arguments.work)


def rows(path: Path) -> list[Problem]:
    """Read the problems of a file."""
    return [
        Problem(id=row["id"], question=row["question"], answer=row["answer"], solution=row["solution"])
        for row in read_jsonl(path)
    ]


def answer(problems: list[Problem], work: Path) -> None:
    """Generate the student's replies and record their seconds."""
    loaded, began = load_student(PART), time.perf_counter()
    modes.evaluate_problems(
        loaded.generate,
        problems,
        mode=PROMPT,
        out=work / f"{PROMPT}.jsonl",
        how=Asking(sampling=Sampling(max_tokens=MAX_TOKENS), model="smollm2"),
    )
    timing = work / f"{PROMPT}.seconds.json"
    if not timing.is_file():
        write_whole(timing, json.dumps(time.perf_counter() - began))


def written(problems: list[Problem], ending: str) -> list[Score]:
    """Use the data set's own solutions as replies; every other one ends in the previous problem's answer."""
    return [
        Score(
            problem_id=problem.id,
            sample=0,
            mode=ending,
            text=f"{problem.solution}\n{ending.format(problems[number - number % 2].answer)}",
            prediction=None,
            gold=problem.answer,
            same=None,
            how="",
            finish="stop",
        )
        for number, problem in enumerate(problems)
    ]


# --- the harness ------------------------------------------------------------------------------------------------------


def harness() -> tuple[dict, dict]:
    """Read the filters and the metric's settings from the harness's own gsm8k.yaml."""
    import lm_eval
    import yaml

    text = (Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text(encoding="utf-8")
    task = yaml.safe_load(text)
    filters = {
        item["name"]: [(step.pop("function"), step or None) for step in item["filter"]] for item in task["filter_list"]
    }
    settings = {key: value for key, value in task["metric_list"][0].items() if "regex" in key or "ignore" in key}
    return filters, settings


def graded_by_harness(text: str, gold: str, steps: list, settings: dict) -> tuple[str, bool]:
    """Grade a reply with the harness's filters and its exact_match."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters import build_filter_ensemble

    ensemble = build_filter_ensemble("it", steps)
    instance = Instance(request_type="generate_until", doc={}, arguments=("", {}), idx=0, resps=[text])
    ensemble.apply([instance])
    prediction = instance.filtered_resps["it"]
    same = exact_match_fn(predictions=[prediction], references=[f"#### {gold}"], **settings)["exact_match"]
    return prediction, bool(same)


def write_down(problems: list[Problem], work: Path) -> None:
    """Write the figures, and the replies on which the graders differ."""
    by_id = {problem.id: problem for problem in problems}
    filters, settings = harness()
    table, agreement, differing, figures = [], [], [], {}
    replies = {PROMPT: read_records(Score, work / f"{PROMPT}.jsonl")}
    replies |= {f"solutions, `{ending.format(72)}`": written(problems, ending) for ending in ENDINGS}
    for prompt, scores in replies.items():
        ours = {row.problem_id: grade_answer(by_id[row.problem_id], row.text) for row in scores}
        right = {id: grade.verdict.same is True for id, grade in ours.items()}
        cut = sum(row.finish == "length" for row in scores) / len(scores)
        interval = stats.wilson(sum(right.values()), len(right))
        if prompt == PROMPT:
            seconds = json.loads((work / f"{prompt}.seconds.json").read_text())
            tokens = sum(row.tokens for row in scores)
            figures[prompt] = {**vars(interval), "cut_off": cut, "seconds": seconds, "tokens": tokens}
            table.append((prompt, interval.percent(), f"{cut:.0%}", f"{seconds / 60:.0f} min"))
        for name in FILTERS:
            theirs = {row.problem_id: graded_by_harness(row.text, row.gold, filters[name], settings) for row in scores}
            pairs = Counter((right[id], theirs[id][1]) for id in right)
            only_ours, only_theirs = pairs[True, False], pairs[False, True]
            agreement.append((prompt, name, pairs[True, True], pairs[False, False], only_ours, only_theirs))
            if name == "flexible-extract" or "####" in prompt:
                differing += [
                    {
                        "prompt": prompt,
                        "filter": name,
                        "problem": row.problem_id,
                        "gold": row.gold,
                        "ours": ours[row.problem_id].prediction,
                        "theirs": theirs[row.problem_id][0],
                        "end": row.text[-SHOWN:],
                    }
                    for row in scores
                    if right[row.problem_id] != theirs[row.problem_id][1]
                ]
    text = markdown(("prompt", "right (95 %)", "cut off", "time"), table)
    columns = ("prompt", "harness filter", "both right", "both wrong", "only ours", "only theirs")
    text += "\n\n" + markdown(columns, agreement)
    text += f"\n\nReplies graded differently, of those that the harness could read: {len(differing)}.\n\n"
    if differing:
        names = ("prompt", "filter", "problem", "gold", "ours", "theirs")
        listed = [(*(row[name] for name in names), _cell(row["end"])) for row in differing]
        text += markdown((*names, "end of the reply"), listed)
    write(
        "gsm8k",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR, and the same with --grade",
        about=f"SmolLM2-135M-Instruct, untuned, on a seeded sample of {PROBLEMS} of gsm8k's 1,319 test problems, "
        f"greedy, float32, at most {MAX_TOKENS} tokens; the same replies graded by lm-evaluation-harness.",
        found={
            "machine": machine("torch", "transformers", "lm_eval"),
            "figures": figures,
            "agreement": agreement,
            "differing": differing,
        },
        text=text,
    )


def _cell(text: str) -> str:
    return "`" + " ".join(text.split()).replace("|", "/").replace("`", "'") + "`"


if __name__ == "__main__":
    main()
