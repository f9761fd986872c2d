"""A finished run without its hours of training, for what is published of it."""

import json
from pathlib import Path

from manifests import mark

from plantune_lite.distill import corpus, worked
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.recipe.schema import Corpus
from plantune_lite.runs.folder import outputs_of
from plantune_lite.student import presets
from plantune_lite.types import Trajectory


def finished_run(run: Path, *settings: str, verified: bool | None = True) -> Path:
    """A run folder as training and export leave it, with a real corpus and weights that are none."""
    recipe = override(load_recipe("smollm2_135m"), settings)
    adapter = {"base_model_name_or_path": presets.find(recipe.student.model).repo, "revision": "5" * 40}
    files = {
        "sft/adapter_model.safetensors": "adapter",
        "sft/adapter_config.json": json.dumps(adapter),
        "sft/checkpoint-3/optimizer.pt": "pickle",
        "merged/model.safetensors": "merged",
        "merged/config.json": "{}",
        "gguf/mine-q8_0.gguf": "gguf",
        "gguf/Modelfile": "FROM mine-q8_0.gguf",
        "recipe.json": to_json(recipe),
    }
    for name, text in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    problems = list(practice_problems("train", seed=0, limit=12))
    wanted = corpus.Wanted(Corpus(filter="answer"))
    corpus.build_corpus(_worked(problems), problems, {"own": problems[:1]}, wanted, run / "corpus")
    agreement = "the same likeliest token on 99.4% of 512 positions, largest logit difference 0.125"
    export = {
        "status": "done",
        "summary": {
            "verified": verified,
            "agreement": agreement,
            "gguf": {"mine-q8_0.gguf": {"ran": True, "agreement": "12 of 12"}},
        },
        "outputs": outputs_of(run, ("merged", "gguf")),
    }
    mark(run, {"export": export}, final="sft", versions={"torch": "2.13.0"})
    return run


def _worked(problems):
    for one in problems:
        taken = worked.plan_of(one)
        yield Trajectory(
            problem_id=one.id,
            sample=0,
            question=one.question,
            plan=taken.plan,
            execution=taken.execution,
            answer=one.answer,
            teacher="worked",
        )
