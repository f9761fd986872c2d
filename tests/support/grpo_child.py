"""Prompts, rewards and students for a reinforcement; `python grpo_child.py MODEL OUT SETTINGS KILL...` makes one twice.

As sft_child.py does it: OUT/whole undisturbed, OUT/killed killed at each point and gone on with, each attempt forked
from one process. SETTINGS is JSON: {"grpo": {...}, "start": FOLDER or null, "student": {...}}.
"""

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path

import sft_child
import torch
from tiny import tiny_student, tiny_tokenizer
from trl import GRPOTrainer  # noqa: F401 - its import takes seconds: once, before the forks

from plantune_lite import plan
from plantune_lite.recipe.schema import GRPO, SFT, Student
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student import chat
from plantune_lite.student.load import load_student
from plantune_lite.train import grpo, sft
from plantune_lite.types import Problem

gc.freeze()  # every training collects garbage, and need not look through the libraries

LOW = 96  # ids below it are liked


def make_base(folder, family="llama"):
    """A tiny base that is sure of itself: with the usual small weights all tokens are as likely, whatever it learns."""
    tiny_student(folder, family, dtype=torch.float32, initializer_range=0.1)
    tokenizer = tiny_tokenizer(family)
    chat.prepare(tokenizer, sft_child.PRESET[family])
    tokenizer.save_pretrained(folder)
    return folder


def asked(count):
    """Prompts with an answer, of a few lengths."""
    found = []
    for number in range(count):
        problem = Problem(id=str(number), question=f"How much is {number} + {number * 37 % 1000}?", answer=str(number))
        found.append({"problem_id": problem.id, "prompt": list(plan.ask_plainly(problem)), "answer": problem.answer})
    return found


def low_ids(prompts, completions, *, completion_ids, **_):
    """The share of tokens with a low id: any model earns some of it, and can learn to earn all."""
    return [sum(id < LOW for id in ids) / len(ids) for ids in completion_ids]


def many_low_ids(prompts, completions, *, completion_ids, **_):
    """1 for a share that a random model reaches at times."""
    return [float(share > LOW / 320) for share in low_ids(prompts, completions, completion_ids=completion_ids)]


def start_of(base, folder, texts, **settings):
    """An adapter that an SFT on short texts has left, to begin with."""
    rows = [{**row, "completion": texts[place % len(texts)]} for place, row in enumerate(sft_child.rows(16))]
    part = SFT(**{"max_steps": 40, "batch_size": 8, "accumulate": 1, "learning_rate": 1e-2, **settings})
    learns = sft_child.learner(base)
    sft.train(learns, rows, part, folder, Training(reporter=Reporter(say=lambda line: None)))
    return folder


def load(base, start=None, **settings):
    """A student to reinforce."""
    part = Student(str(base), **{"bits": 32, "lora_rank": 4, "checkpointing": False, **settings})
    adapter = Path(start) if start else None
    return load_student(part, adapter=adapter, training=True, seed=0, say=lambda line: None)


def train(model, out, settings, kill):
    """One attempt, in this process."""
    if kill and not kill.isdigit():
        threading.Thread(target=sft_child._kill_when, args=(out / "grpo" / kill,), daemon=True).start()

    def metric(step, **figures):
        with open(out / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if str(step) == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    if settings.get("by_trl"):
        grpo._rollout = lambda *_: None
    out.mkdir(parents=True, exist_ok=True)
    summary = grpo.train(
        load(model, settings.get("start"), **settings.get("student", {})),
        asked(12),
        grpo.Rewards(lambda most: [("low_ids", low_ids, 1.0)], many_low_ids),
        GRPO(**settings["grpo"]),
        out / "grpo",
        Training(reporter=Reporter(metric=metric)),
    )
    (out / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sft_child.train = train
    model, out, text, *kills = sys.argv[1:]
    settings = json.loads(text)
    sft_child.attempt(model, Path(out, "whole"), settings, None)
    print("ends:", *(sft_child.attempt(model, Path(out, "killed"), settings, kill) for kill in (*kills, None)))
