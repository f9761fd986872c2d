"""Toy stages that go through the real processes, folder and mirror; `python toy_stages.py FOLDER MIRROR` runs them.

Like the real ones they append a record at a time, save checkpoints, and go on where they were cut off.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from plantune_lite import SFT, Corpus, Distill, Evaluate, Problems, Recipe, Student
from plantune_lite.files import JsonlWriter, read_jsonl, write_records, write_whole
from plantune_lite.pipeline import mirror
from plantune_lite.pipeline.runner import run
from plantune_lite.pipeline.stages import STAGES
from plantune_lite.runs.manifest import Summary
from plantune_lite.types import RunError

HERE = str(Path(__file__).resolve())
RECIPE = Recipe(
    name="toy",
    problems=Problems("practice", limit=12),
    distill=Distill(teacher="worked"),
    corpus=Corpus(filter="answer"),
    student=Student("smollm2_135m", bits=16),
    sft=SFT(max_steps=12),
    evaluate=Evaluate(limit=2),
)


def toy(name, function):
    stage = next(stage for stage in STAGES if stage.name == name)
    return replace(stage, work=f"{HERE}:{function}")


def stages(*names):
    toys = {"distill": "distill", "corpus": "corpus", "sft": "train", "evaluate": "evaluate"}
    chosen = [stage for stage in STAGES if stage.name in names]
    return tuple(toy(stage.name, toys[stage.name]) if stage.name in toys else stage for stage in chosen)


ALL = ("problems", "suites", "distill", "corpus", "sft", "evaluate")


def _pause():
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    if calls := os.environ.get("TOY_CALLS"):  # a count that outlives the folder
        with open(calls, "a", encoding="utf-8") as file:
            file.write("x\n")


def distill(job):
    path = job.run.trajectories
    done = {row["id"] for row in read_jsonl(path)} if path.exists() else set()
    with JsonlWriter(path) as writer:
        for problem in job.run.problems():
            if problem.id not in done:
                _pause()
                writer.write({"id": problem.id, "answer": problem.answer})
    write_records(job.run.rejected, [])
    job.say("[b]not markup[/b]")
    return Summary(line="planned", usd=0.25)


def corpus(job):
    write_records(job.out / "train.jsonl", read_jsonl(job.run.trajectories))
    return Summary(line="gathered")


def train(job):
    checkpoints = [path for path in job.out.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    newest = max(checkpoints, key=lambda path: int(path.name[11:]), default=None)
    start, state = (int(newest.name[11:]), (newest / "state.txt").read_text()) if newest else (0, "")
    job.say(f"from step {start}")
    for step in range(start + 1, job.recipe.sft.max_steps + 1):
        _pause()
        state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
        job.metric(step, loss=1 / step)
        if step % 4 == 0:
            write_whole(job.out / f"checkpoint-{step}" / "state.txt", state)
            write_whole(job.out / f"checkpoint-{step}" / "trainer_state.json", "{}")
    write_whole(job.out / "adapter.txt", state)
    write_whole(job.run.path / "hours_left.txt", str(job.hours_left))
    return Summary(line=f"{job.recipe.sft.max_steps} steps")


def evaluate(job):
    _pause()
    write_whole(job.out / "results.json", json.dumps({"adapter": (job.run.adapter("sft") / "adapter.txt").read_text()}))
    return Summary(line="scored")


def fail(job):
    raise RunError("the toy broke: 3 of 4 wheels are gone. Buy a new one.")


def crash(job):
    return 1 / 0


def die(job):
    os.kill(os.getpid(), 9)


if __name__ == "__main__":
    mirror.INTERVAL_SECONDS = 0.05
    run(RECIPE, to=Path(sys.argv[1]), mirror=Path(sys.argv[2]), stages=stages(*ALL))
