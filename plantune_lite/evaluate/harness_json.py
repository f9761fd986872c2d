"""Export the graded answers of eval/SUITE.MODEL.jsonl as an lm-evaluation-harness results file, for other tools.

write(Path("eval/gsm8k.sft.jsonl"), model="runs/mine/sft") -> eval/results_gsm8k.sft.json with, among much else,

    {"results": {"gsm8k": {"alias": "gsm8k", "exact_match,flexible-extract": 0.367,
                           "exact_match_stderr,flexible-extract": 0.063, ...}}, ...}

flexible-extract is our grader (grading/grade.py). If a file holds several modes, each is a task: gsm8k_few_shot.
"""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from plantune_lite.evaluate import metrics
from plantune_lite.files import read_records, write_whole
from plantune_lite.types import Score


def write(path: Path, *, model: str) -> None:
    """Write the results file that belongs to a file of answers."""
    suite = path.name.partition(".")[0]
    modes = metrics.by_mode(read_records(Score, path))
    tasks = {suite if len(modes) == 1 else f"{suite}_{mode}": mode for mode in modes}
    settings = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    shots = {task: settings[mode]["shots"] for task, mode in tasks.items()}
    counts = {task: len(metrics.by_problem(modes[mode])) for task, mode in tasks.items()}
    found = {
        "results": {task: {"name": task, "alias": task, **_metrics(modes[mode])} for task, mode in tasks.items()},
        "configs": {task: _config(task, mode, settings[mode]) for task, mode in tasks.items()},
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": shots,
        "higher_is_better": {task: {"exact_match": True} for task in tasks},
        "n-samples": {task: {"original": count, "effective": count} for task, count in counts.items()},
        "config": {"model": "plantune_lite", "model_args": f"pretrained={model}"},
        "date": time.time(),
        "model_source": "plantune_lite",
        "model_name": model,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", model),
    }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    write_whole(path.with_name(f"results_{path.stem}.json"), text)


def _metrics(scores: Sequence[Score]) -> dict[str, float]:
    right = list(metrics.shares(scores).values())
    return {
        "sample_len": len(right),
        "exact_match,flexible-extract": fmean(right),
        "exact_match_stderr,flexible-extract": stdev(right) / math.sqrt(len(right)) if len(right) > 1 else 0.0,
    }


def _config(task: str, mode: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "output_type": "generate_until",
        "num_fewshot": settings["shots"],
        "repeats": settings["samples"],
        "generation_kwargs": {
            "until": settings["stop"],
            "do_sample": settings["temperature"] > 0,
            "temperature": settings["temperature"],
            "max_gen_toks": settings["max_tokens"],
        },
        "metadata": {"version": 1, "mode": mode, **settings},
    }
