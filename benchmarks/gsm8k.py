r"""SmolLM2-135M untuned on gsm8k: the figure, its interval, the time; and does lm-evaluation-harness grade alike?

    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR          # answers; it goes on where it was cut off
    PLANTUNE_DATA=FOLDER python -m benchmarks.gsm8k --work DIR --grade  # in a Python that has lm_eval too

FOLDER holds gsm8k_test.jsonl and gsm8k_train.jsonl. A seeded 300 of the 1,319 test problems, greedy, float32, with
two prompts: zero-shot, and three solved examples in the harness's convention (#### 72). The replies are then graded by
ours and by the harness's own filters and metric, as its gsm8k.yaml sets them, and every reply on which they differ is
printed beside the gold answer.
"""

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from random import Random

from benchmarks.report import machine, markdown, write
from plantune_lite import evaluate, intervals, student
from plantune_lite.lenient import grade
from plantune_lite.recipe import Student
from plantune_lite.records import Problem, Sampling, Score, read_jsonl, read_records, write_records, write_whole

ASKED, SEED, MAX_TOKENS = 300, 0, 256
PART = Student("smollm2_135m", bits=32, max_length=1024)
PROMPTS = ("zero_shot_cot", "harness")
FILTERS = ("strict-match", "flexible-extract")
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
        return answer(problems, rows(data / "gsm8k_train.jsonl"), arguments.work)
    write_down(problems, arguments.work)


def rows(path: Path) -> list[Problem]:
    """The problems of a file."""
    return [
        Problem(id=row["id"], question=row["question"], answer=row["answer"], solution=row["solution"])
        for row in read_jsonl(path)
    ]


def answer(problems: list[Problem], train: list[Problem], work: Path) -> None:
    """Each prompt's replies, with the seconds they took."""
    loaded = student.load(PART)
    for prompt in PROMPTS:
        out, began = work / f"{prompt}.jsonl", time.perf_counter()
        if prompt == "harness":
            if not out.is_file():
                write_records(out, in_the_harness_way(loaded, problems, train))
        else:
            evaluate.evaluate(
                loaded.generate, problems, mode=prompt, out=out, max_tokens=MAX_TOKENS, examples=train, model="smollm2"
            )
        taken = work / f"{prompt}.seconds.json"
        if not taken.is_file():
            write_whole(taken, json.dumps(time.perf_counter() - began))
        print(prompt, taken.read_text(), flush=True)


def in_the_harness_way(loaded: student.Loaded, problems: list[Problem], train: list[Problem]) -> list[Score]:
    """Its question and answer lines as turns of a conversation, worked examples that end in `#### 72`."""
    turns: list[dict[str, str]] = [{"role": "system", "content": "You solve problems carefully."}]
    for one in Random(SEED).sample(train, evaluate.SHOTS):
        turns.append({"role": "user", "content": f"Question: {one.question}\nAnswer:"})
        turns.append({"role": "assistant", "content": f"{one.solution}\n#### {one.answer}"})
    asked = [(*turns, {"role": "user", "content": f"Question: {problem.question}\nAnswer:"}) for problem in problems]
    replies = loaded.generate(asked, Sampling(max_tokens=MAX_TOKENS))
    graded = [grade(problem, reply.text) for problem, [reply] in zip(problems, replies, strict=True)]
    return [
        Score(
            problem_id=problem.id,
            sample=0,
            mode="harness",
            text=reply.text,
            prediction=found.prediction,
            gold=problem.answer,
            same=found.verdict.same,
            how=found.verdict.how,
            finish=reply.finish,
            tokens=reply.tokens_out,
            seconds=0.0,
        )
        for problem, [reply], found in zip(problems, replies, graded, strict=True)
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
    for prompt in (one for one in PROMPTS if (work / f"{one}.jsonl").is_file()):
        scores = [one for one in read_records(Score, work / f"{prompt}.jsonl") if one.mode == prompt]
        ours = {one.problem_id: grade(by_id[one.problem_id], one.text) for one in scores}
        right = {id: found.verdict.same is True for id, found in ours.items()}
        seconds = json.loads((work / f"{prompt}.seconds.json").read_text())
        cut = sum(one.finish == "length" for one in scores) / len(scores)
        interval = intervals.wilson(sum(right.values()), len(right))
        figures[prompt] = {
            **vars(interval),
            "cut_off": cut,
            "seconds": seconds,
            "tokens": sum(o.tokens for o in scores),
        }
        took = "unmeasured" if seconds is None else f"{seconds / 60:.0f} min"  # on a busy machine it says nothing
        table.append((prompt, interval.percent(), f"{cut:.0%}", took))
        for name in FILTERS:
            theirs = {one.problem_id: graded_by_harness(one.text, one.gold, filters[name], settings) for one in scores}
            pairs = Counter((right[id], theirs[id][1]) for id in right)
            only_ours, only_theirs = pairs[True, False], pairs[False, True]
            agreement.append((prompt, name, pairs[True, True], pairs[False, False], only_ours, only_theirs))
            if name == "flexible-extract" or prompt == "harness":
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
