"""The graded answers of eval/SUITE.MODEL.jsonl as a results file of lm-evaluation-harness, which other tools read.

write(Path("eval/gsm8k.sft.jsonl"), model="runs/mine/sft") -> eval/results_gsm8k.sft.json with, among much else,

    {"results": {"gsm8k": {"alias": "gsm8k", "exact_match,flexible-extract": 0.367,
                           "exact_match_stderr,flexible-extract": 0.063, "exact_match,strict-match": 0.35, ...}}, ...}

flexible-extract is our lenient grader (lenient.py), strict-match the same without answers that nothing marks as one.
Where a file holds several modes, each is a task: gsm8k_few_shot.
"""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from plantune_lite.evaluate import metrics, stats
from plantune_lite.files import read_records, write_whole
from plantune_lite.grading.lenient import LAST_NUMBER
from plantune_lite.plan import SYSTEM
from plantune_lite.types import PlantuneError, Score

_FILTERS = ("flexible-extract", "strict-match")


def write(path: Path, *, model: str, version: str = "") -> Path:
    """Write the results file that belongs to a file of answers, and say where."""
    scores = read_records(Score, path)
    if not scores:
        raise PlantuneError(f"{path} holds no answers yet: evaluate first")
    beside = path.with_suffix(".json")
    settings = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    target = path.with_name(f"results_{path.stem}.json")
    found = results(scores, suite=path.name.partition(".")[0], model=model, settings=settings, version=version)
    write_whole(target, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return target


def results(
    scores: Sequence[Score],
    *,
    suite: str,
    model: str,
    settings: Mapping[str, Mapping[str, Any]] = {},
    version: str = "",
    date: float | None = None,
) -> dict[str, Any]:
    """The harness's results object (its result_schema.py); what it does not know stands under `plantune_lite`."""
    modes: dict[str, list[Score]] = {}
    for one in scores:
        modes.setdefault(one.mode, []).append(one)
    tasks = {suite if len(modes) == 1 else f"{suite}_{mode}": mode for mode in modes}
    problems = {task: len(metrics.by_problem(modes[mode])) for task, mode in tasks.items()}
    seconds = sum(one.seconds for one in scores)
    return {
        "results": {task: {"name": task, "alias": task, **_metrics(modes[mode])} for task, mode in tasks.items()},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: _config(task, mode, settings.get(mode, {})) for task, mode in tasks.items()},
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": {task: settings.get(mode, {}).get("shots", 0) for task, mode in tasks.items()},
        "higher_is_better": {task: {"exact_match": True} for task in tasks},
        "n-samples": {task: {"original": count, "effective": count} for task, count in problems.items()},
        "config": {
            "model": "plantune_lite",
            "model_args": f"pretrained={model}",
            "batch_size": None,
            "device": None,
            "limit": None,
            "bootstrap_iters": 0,  # the harness's word for an error that comes from a formula
            "gen_kwargs": None,
            "random_seed": next(iter(settings.values()), {}).get("seed"),
        },
        "date": time.time() if date is None else date,
        "task_hashes": {},
        "model_source": "plantune_lite",
        "model_name": model,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", model),
        "system_instruction": SYSTEM,
        "fewshot_as_multiturn": True,
        "total_evaluation_time_seconds": str(round(seconds, 3)),
        "plantune_lite": {
            "version": version,
            "tasks": {
                task: {"mode": mode, "accuracy": asdict(metrics.accuracy(modes[mode]))} for task, mode in tasks.items()
            },
        },
    }


def _metrics(scores: Sequence[Score]) -> dict[str, float]:
    samples = list(metrics.by_problem(scores).values())
    found: dict[str, float] = {"sample_len": len(samples)}
    for name in _FILTERS:
        right = [[_is_right(one, name) for one in these] for these in samples]
        found |= _metric("exact_match", name, [fmean(these) for these in right])
        fewest = min(map(len, right))
        for k in metrics.ks(fewest)[1:]:
            found |= _metric(f"pass@{k}", name, [stats.pass_at(k, sum(these), len(these)) for these in right])
    return found


def _is_right(one: Score, name: str) -> bool:
    return one.same is True and (name != "strict-match" or not one.how.startswith(LAST_NUMBER))


def _metric(name: str, filter: str, values: Sequence[float]) -> dict[str, float]:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {f"{name},{filter}": fmean(values), f"{name}_stderr,{filter}": error}


def _config(task: str, mode: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    temperature = settings.get("temperature", 0.0)
    return {
        "task": task,
        "output_type": "generate_until",
        "num_fewshot": settings.get("shots", 0),
        "repeats": settings.get("samples", 1),
        "generation_kwargs": {
            "until": list(settings.get("stop", ())),
            "do_sample": temperature > 0,
            "temperature": temperature,
            "max_gen_toks": settings.get("max_tokens"),
        },
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {"name": name, "filter": [{"function": "plantune_lite.grading.lenient.grade_answer"}]} for name in _FILTERS
        ],
        "metadata": {"version": 1, "mode": mode, **settings},
    }
