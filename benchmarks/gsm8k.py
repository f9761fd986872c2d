r"""SmolLM2-135M untuned on gsm8k: the figure, its interval, the time; and does lm-evaluation-harness grade alike?

    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR          # answers; it resumes where it was cut off
    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR --grade  # in a Python that has lm_eval too

FOLDER holds gsm8k_test.jsonl. A seeded 300 of the 1,319 test problems, greedy, float32, zero-shot. The replies are then
graded by ours and by the harness's own filters and metric, as its gsm8k.yaml sets them, and every reply on which they
differ is printed beside the gold answer. So small a model is hardly ever right: the data set's own solutions are graded
too, every other one ending in the answer of another problem, in the harness's convention (#### 72) and in words.
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

ASKED, SEED, MAX_TOKENS = 300, 0, 256
PART = Student("smollm2_135m", bits=32, max_length=1024)
PROMPT = "zero_shot_cot"
FILTERS = ("strict-match", "flexible-extract")
ENDINGS = ("#### {}", "So the answer is {}.")
SHOWN = 160  # characters of a reply's end


def main() -> None:
    """Answer what is not answered yet, or grade."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--grade", action="store_true")
    arguments = parser.parse_args()
    data = Path(os.environ["PLANTUNE_DATA"])
    problems = Random(SEED).sample(rows(data / "gsm8k_test.jsonl"), ASKED)
    if not arguments.grade:
        return answer(problems, arguments.work)
    write_down(problems, arguments.work)


def rows(path: Path) -> list[Problem]:
    """The problems of a file."""
    return [
        Problem(id=row["id"], question=row["question"], answer=row["answer"], solution=row["solution"])
        for row in read_jsonl(path)
    ]


def answer(problems: list[Problem], work: Path) -> None:
    """The student's replies, with the seconds they took."""
    loaded, began = load_student(PART), time.perf_counter()
    modes.evaluate_problems(
        loaded.generate,
        problems,
        mode=PROMPT,
        out=work / f"{PROMPT}.jsonl",
        how=Asking(sampling=Sampling(max_tokens=MAX_TOKENS), model="smollm2"),
    )
    taken = work / f"{PROMPT}.seconds.json"
    if not taken.is_file():
        write_whole(taken, json.dumps(time.perf_counter() - began))


def written(problems: list[Problem], ending: str) -> list[Score]:
    """The data set's own solutions as replies; every other one ends in the answer of the problem before it."""
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
    """The filters and the metric's settings of the harness's own gsm8k.yaml."""
    import lm_eval
    import yaml

    text = (Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text(encoding="utf-8")
    task = yaml.safe_load(text)
    filters = {
        one["name"]: [(step.pop("function"), step or None) for step in one["filter"]] for one in task["filter_list"]
    }
    settings = {key: value for key, value in task["metric_list"][0].items() if "regex" in key or "ignore" in key}
    return filters, settings


def graded_by_harness(text: str, gold: str, steps: list, settings: dict) -> tuple[str, bool]:
    """One reply through the harness's filters and its exact_match."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters import build_filter_ensemble

    ensemble = build_filter_ensemble("it", steps)
    instance = Instance(request_type="generate_until", doc={}, arguments=("", {}), idx=0, resps=[text])
    ensemble.apply([instance])
    found = instance.filtered_resps["it"]
    same = exact_match_fn(predictions=[found], references=[f"#### {gold}"], **settings)["exact_match"]
    return found, bool(same)


def write_down(problems: list[Problem], work: Path) -> None:
    """The figures, and who says what where the graders differ."""
    by_id = {problem.id: problem for problem in problems}
    filters, settings = harness()
    table, agreement, differing, figures = [], [], [], {}
    replies = {PROMPT: read_records(Score, work / f"{PROMPT}.jsonl")}
    replies |= {f"solutions, `{ending.format(72)}`": written(problems, ending) for ending in ENDINGS}
    for prompt, scores in replies.items():
        ours = {one.problem_id: grade_answer(by_id[one.problem_id], one.text) for one in scores}
        right = {id: found.verdict.same is True for id, found in ours.items()}
        cut = sum(one.finish == "length" for one in scores) / len(scores)
        interval = stats.wilson(sum(right.values()), len(right))
        if prompt == PROMPT:
            seconds = json.loads((work / f"{prompt}.seconds.json").read_text())
            tokens = sum(one.tokens for one in scores)
            figures[prompt] = {**vars(interval), "cut_off": cut, "seconds": seconds, "tokens": tokens}
            table.append((prompt, interval.percent(), f"{cut:.0%}", f"{seconds / 60:.0f} min"))
        for name in FILTERS:
            theirs = {one.problem_id: graded_by_harness(one.text, one.gold, filters[name], settings) for one in scores}
            pairs = Counter((right[id], theirs[id][1]) for id in right)
            only_ours, only_theirs = pairs[True, False], pairs[False, True]
            agreement.append((prompt, name, pairs[True, True], pairs[False, False], only_ours, only_theirs))
            if name == "flexible-extract" or "####" in prompt:
                differing += [
                    {
                        "prompt": prompt,
                        "filter": name,
                        "problem": one.problem_id,
                        "gold": one.gold,
                        "ours": ours[one.problem_id].prediction,
                        "theirs": theirs[one.problem_id][0],
                        "end": one.text[-SHOWN:],
                    }
                    for one in scores
                    if right[one.problem_id] != theirs[one.problem_id][1]
                ]
    text = markdown(("prompt", "right (95 %)", "cut off", "time"), table)
    columns = ("prompt", "filter of the harness", "both right", "both wrong", "only ours", "only theirs")
    text += "\n\n" + markdown(columns, agreement)
    text += f"\n\nReplies on which they differ, of those that the harness could read: {len(differing)}.\n\n"
    if differing:
        names = ("prompt", "filter", "problem", "gold", "ours", "theirs")
        listed = [(*(one[name] for name in names), _cell(one["end"])) for one in differing]
        text += markdown((*names, "the reply ends"), listed)
    write(
        "gsm8k",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR, and the same with --grade",
        about=f"SmolLM2-135M-Instruct, untuned, on a seeded {ASKED} of gsm8k's 1,319 test problems, greedy, float32, "
        f"at most {MAX_TOKENS} tokens; and the same replies graded by lm-evaluation-harness.",
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
