"""Toy stages for studies: as toy_stages, with an evaluation and a reinforcement that leave what a study reads.

`python toy_variants.py WHAT FOLDER MIRROR` brings a study of the toy recipe to its end; MIRROR may be "".
"""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import toy_stages
from toy_stages import _pause

from plantune_lite.files import JsonlWriter, read_jsonl, read_records, write_whole
from plantune_lite.recipe.load import override
from plantune_lite.runs.manifest import GRPOSummary, SFTSummary, Summary
from plantune_lite.studies.ablate import OF_A_VARIANT, run_study
from plantune_lite.types import Problem, RunError, Score

HERE = str(Path(__file__).resolve())
RECIPE = override(toy_stages.RECIPE, ["problems.limit=30", "problems.held_out=0.9", "evaluate.limit=none"])
REINFORCED = override(RECIPE, ["grpo=default", "grpo.group=6"])
_HOW_GOOD = {"untuned": 0.3, "baseline": 0.5, "control": 0.5, "m1": 0.9, "m2": 0.1, "grpo": 0.95}


def stages(**instead):
    """The toys of a variant's stages; `sft="breaks"` takes another function for one, `corpus=None` the real one."""
    toys = {"distill": "distill", "corpus": "corpus", "sft": "train", "grpo": "reinforce", "evaluate": "answer"}
    chosen = {name: function for name, function in (toys | instead).items() if function}
    homes = {"distill": toy_stages.HERE, "corpus": toy_stages.HERE}
    return tuple(
        replace(stage, work=f"{homes.get(stage.name, HERE)}:{chosen[stage.name]}") if stage.name in chosen else stage
        for stage in OF_A_VARIANT
    )


def train(job):
    return SFTSummary(line=toy_stages.train(job).line, steps=job.recipe.sft.max_steps)


def breaks(job):
    if job.recipe.corpus.filter == "none":
        raise RunError("the toy wants good plans. Give it some.")
    return train(job)


def reinforce(job):
    write_whole(job.out / "adapter.txt", job.recipe.grpo.reward)
    return GRPOSummary(line="reinforced", steps=20)


def answer(job):
    """Every suite, by the untuned model and by the run's own."""
    sft = job.recipe.sft
    solved = {"dataset": "baseline", "teacher": "control"}[sft.solutions]
    own = "grpo" if job.recipe.grpo else {"solution": solved, "plan+solution": "m1", "plan": "m2"}[sft.target]
    for path in sorted(job.run.suites.glob("*.jsonl")):
        for model, modes in (("untuned", ("zero_shot_cot", "few_shot")), (own, ("m1",))):
            out = job.out / f"{path.stem}.{model}.jsonl"
            write_whole(out.with_suffix(".json"), "{}")
            done = {(row["problem_id"], row["mode"]) for row in read_jsonl(out)} if out.is_file() else set()
            with JsonlWriter(out) as file:
                for problem in read_records(Problem, path):
                    for mode in modes:
                        if (problem.id, mode) not in done:
                            _pause()
                            _note(f"{model} {mode}")
                            file.write(_score(problem, model, mode, job.recipe.seed))
    return Summary(line="answered")


def _note(line):
    if asked := os.environ.get("TOY_ASKED"):
        with open(asked, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _score(problem, model, mode, seed):
    luck = int(hashlib.sha256(f"{problem.id}{model}{mode}{seed}".encode()).hexdigest()[:8], 16) / 16**8
    same = luck < _HOW_GOOD[model]
    return Score(
        problem_id=problem.id, sample=0, mode=mode, text="", prediction="", gold=problem.answer, same=same, how=""
    )


if __name__ == "__main__":
    what, folder, mirror = sys.argv[1:]
    run_study(
        what, RECIPE, seeds=1, to=Path(folder), mirror=Path(mirror) if mirror else None, stages=stages(), say=print
    )
