"""A tiny student and rows for it; `python sft_child.py MODEL OUT SETTINGS KILL...` trains one twice.

OUT/whole is trained undisturbed, OUT/killed is killed at each point and gone on with: a step's number, or a file that
has just appeared, say checkpoint-4/optimizer.pt. Each attempt is forked from one process that has imported torch and
trl, which takes seconds. SETTINGS is JSON: {"student": {...}, "sft": {...}, "rows": 20}.
"""

import gc
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from tiny import tiny_student, tiny_tokenizer
from trl import SFTTrainer  # noqa: F401 - its import takes seconds: once, before the forks

from plantune_lite import plan
from plantune_lite.recipe.schema import SFT, Student
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student import chat, presets
from plantune_lite.student.load import load_student
from plantune_lite.train import callbacks, sft, stage
from plantune_lite.types import Problem, RunError

gc.freeze()  # every training collects garbage, and need not look through the libraries

PRESET = {
    "llama": presets.find("smollm2_135m"),
    "gemma3_text": presets.find("gemma3_1b"),
    "qwen3": presets.find("qwen3_4b"),
    "qwen2": presets.find("qwen2_5_7b"),
}


def make_base(folder, family):
    """A tiny base on the disk that speaks as its family's preset does."""
    tiny_student(folder, family, dtype=torch.float32)
    tokenizer = tiny_tokenizer(family)
    chat.prepare(tokenizer, PRESET[family])
    tokenizer.save_pretrained(folder)
    return folder


def learner(base, **settings):
    """A base on the disk with a new adapter."""
    part = Student(str(base), **{"bits": 32, "lora_rank": 4, "checkpointing": False, **settings})
    return load_student(part, training=True, seed=0, say=lambda line: None)


def rows(count, start=0):
    """Sums, of many lengths."""
    found = []
    for number in range(start, start + count):
        left, right = number * 7 % 90, number * 13 % 80
        asked = Problem(id=str(number), question=f"How much is {left} + {right}?", answer=str(left + right))
        text = "Add them. " * (number % 4) + f"\\boxed{{{left + right}}}"
        prompt, completion = list(plan.ask_plainly(asked)), plan.as_completion(text)
        found.append({"problem_id": asked.id, "prompt": prompt, "completion": completion})
    return found


def train(model, out, settings, kill):
    """One attempt, in this process."""
    if kill and not kill.isdigit():
        threading.Thread(target=_kill_when, args=(out / "sft" / kill,), daemon=True).start()

    def metric(step, **figures):
        with open(out / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if str(step) == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    out.mkdir(parents=True, exist_ok=True)
    validation = rows(4, start=1000)
    part = SFT(**settings["sft"])
    sft.train(
        learner(model, **settings.get("student", {})),
        rows(settings["rows"]),
        part,
        out / "sft",
        Training(reporter=Reporter(metric=metric)),
        validation=validation,
    )


def _kill_when(file):
    while not file.exists():
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)


def second_fails(job):
    """The sft stage, in which the second of two processes breaks at step 3."""
    log = callbacks.Figures.on_log

    def on_log(self, args, state, control, **named):
        if os.environ["RANK"] == "1" and state.global_step == 3:
            raise RunError("the second card broke")
        log(self, args, state, control, **named)

    callbacks.Figures.on_log = on_log
    return stage.run_sft(job)


def attempt(*arguments):
    """One attempt in a process of its own; the signal that ended it, 0 for none."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            train(*arguments)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status > 0:
        sys.exit("an attempt failed")
    return -status


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, out, text, *kills = sys.argv[1:]
    settings = json.loads(text)
    attempt(model, Path(out, "whole"), settings, None)
    print("ends:", *(attempt(model, Path(out, "killed"), settings, kill) for kill in (*kills, None)))
