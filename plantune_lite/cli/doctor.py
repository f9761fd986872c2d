"""What is wrong here: this machine and environment against what a recipe needs, one fix a line.

Check("python", "ok", "3.11.7", "")      Check("torch", "bad", "not installed", "pip install 'plantune-lite[cpu]'")
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from plantune_lite import files
from plantune_lite.export import llama_cpp
from plantune_lite.grading import sandbox
from plantune_lite.problems.benchmarks import BENCHMARKS
from plantune_lite.problems.load import suite_names
from plantune_lite.recipe import user_code
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.lab import PREFIX, canonical
from plantune_lite.recipe.schema import Recipe
from plantune_lite.student import presets
from plantune_lite.teacher.openai import OpenAICompatible
from plantune_lite.teacher.provider import TeacherError
from plantune_lite.terminal import size
from plantune_lite.types import ProblemError, RecipeError

_KEYS = {  # what each key is for; only whether it is set is ever said
    "GEMINI_API_KEY": "the Gemini teacher",
    "GOOGLE_API_KEY": "the Gemini teacher",
    "OPENAI_API_KEY": "an OpenAI-compatible teacher",
    "HF_TOKEN": "gated models and data sets, and pushing to the Hub",
}


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    state: Literal["ok", "note", "bad"]  # "bad" keeps the recipe from running here
    found: str
    fix: str = ""


def examine(recipe: Recipe) -> list[Check]:
    """Everything the recipe needs of this machine."""
    gpu = list(_gpu())
    return [
        *_python(),
        *gpu,
        *_memory(),
        *_disk(recipe),
        *_libraries(recipe, has_gpu=any(check.state == "ok" for check in gpu)),
        *_student(recipe, has_gpu=any(check.state == "ok" for check in gpu)),
        *_problems(recipe),
        *_teacher(recipe),
        *_keys(),
        *_llama_cpp(recipe),
        *_sandbox(recipe),
    ]


def _python() -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    if "microsoft" in platform.release().lower():
        system += " (WSL)"
    if "COLAB_RELEASE_TAG" in os.environ:
        system += " (Colab)"
    yield Check("platform", "ok", system)
    wanted = sys.version_info >= (3, 11)
    fix = "" if wanted else "install Python 3.11 or newer"
    yield Check("python", "ok" if wanted else "bad", sys.version.split()[0], fix)


def _gpu() -> Iterator[Check]:
    try:
        import torch
    except ImportError:
        there = shutil.which("nvidia-smi") is not None
        yield Check(
            "gpu", "note", "an NVIDIA driver is here, torch is not" if there else "none seen (torch is not installed)"
        )
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            bf16 = "bf16" if card.major >= 8 else "no bf16: computes in fp16, Gemma in float32"
            yield Check("gpu", "ok", f"{card.name}, {size(free)} free of {size(total)}, {bf16}")
    elif shutil.which("nvidia-smi"):
        fix = "install a torch build for CUDA, or update the driver"
        yield Check("gpu", "note", f"an NVIDIA driver is here, but torch {torch.__version__} does not see a card", fix)
    else:
        yield Check("gpu", "note", "none: training runs on the CPU, in bf16 or float32")


def _memory() -> Iterator[Check]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    except (AttributeError, ValueError, OSError):
        return  # Windows has no sysconf, and nothing depends on it
    few = total < 6e9
    fix = "close other programs; a stage that runs out of memory says so and goes on" if few else ""
    yield Check("memory", "note" if few else "ok", f"{size(free)} unused of {size(total)}", fix)


def _disk(recipe: Recipe) -> Iterator[Check]:
    folder = files.runs_folder().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    preset = presets.find(recipe.student.model)
    copies = 1 + (recipe.export.formats != ("adapter",))  # the base, and a merged or converted model
    needed = 1e9 + (preset.parameters if preset else 0) * 2e9 * copies
    if not os.access(folder, os.W_OK):
        yield Check("disk", "bad", f"{folder} cannot be written", "set PLANTUNE_RUNS to a folder of yours, or use --to")
    elif free < 1e9:
        yield Check("disk", "bad", f"{size(free)} free in {folder}", "free some, or set PLANTUNE_RUNS to another disk")
    elif free < needed:
        fix = f"about {size(needed)} are wanted; export.formats=adapter needs the least"
        yield Check("disk", "note", f"{size(free)} free in {folder}", fix)
    else:
        yield Check("disk", "ok", f"{size(free)} free in {folder}")


def _libraries(recipe: Recipe, *, has_gpu: bool) -> Iterator[Check]:
    """Each installed version against the window in our own package metadata: the windows stand nowhere else."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    trains = any((recipe.sft, recipe.cpl, recipe.grpo)) or recipe.distill.teacher == "self"
    needed = {""} | ({"cpu"} if trains else set()) | ({"train"} if trains and has_gpu else set())
    seen = set()
    for requirement in map(Requirement, requires("plantune-lite") or ()):
        extra = next((extra for extra in ("cpu", "train") if _only_with(requirement, extra)), "")
        if requirement.name in (*seen, "plantune-lite") or (requirement.marker and not extra):
            continue
        seen.add(requirement.name)  # an extra of extras lists the same library again
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            if extra in needed:
                what = f"plantune-lite[{extra}]" if extra else "plantune-lite"
                yield Check(requirement.name, "bad", "not installed", f"pip install '{what}'")
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Check(requirement.name, "ok", found)
        else:
            state = "bad" if extra in needed else "note"
            window = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Check(requirement.name, state, f"{found}, outside {requirement.specifier}", window)


def _only_with(requirement: Any, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _student(recipe: Recipe, *, has_gpu: bool) -> Iterator[Check]:
    model = recipe.student.model
    preset = presets.find(model)
    if model.startswith(("/", ".", "~")) and not Path(model).expanduser().is_dir():
        yield Check("student", "bad", f"no folder {model}", "set student.model")
        return
    if preset is None:
        yield Check("student", "note", f"{model} is no preset: its own chat template is used as it is")
        return
    if preset.wants_gpu and not has_gpu:
        fix = "use a machine with an NVIDIA GPU (Colab's free one will do), or plantune run smollm2_135m"
        yield Check("student", "bad", f"{preset.title}: {preset.parameters:g}B parameters want a GPU", fix)
    else:
        yield Check("student", "ok", f"{preset.title}, licence {preset.licence}")
    if preset.licence == "gemma" and not os.environ.get("HF_TOKEN"):
        fix = "accept the terms on the model's page and set HF_TOKEN, or use the same weights under unsloth/"
        yield Check("licence", "note", f"{preset.repo} is gated", fix)


def _problems(recipe: Recipe) -> Iterator[Check]:
    part = recipe.problems
    for name in [part.path] if part.path else part.source.split("+"):
        yield _source(name.strip())
    try:
        suites = suite_names(recipe.evaluate.suites)
        yield Check("suites", "ok", ", ".join(suites))
    except ProblemError as error:
        yield Check("suites", "bad", str(error), "mend evaluate.suites")


def _source(name: str) -> Check:
    if files.is_data_file(name):
        found = Path(name).expanduser().is_file()
        return Check("problems", "ok" if found else "bad", name if found else f"no file {name}", "" if found else _MEND)
    if user_code.is_reference(name):
        try:
            user_code.source_hash(name)
        except RecipeError as error:
            return Check("problems", "bad", str(error), _MEND)
        if not canonical(name).startswith(PREFIX):
            return Check("problems", "ok", f"the function {name}: it is your code, and it will run")
        there = all(find_spec(module) for module in ("unified_planning", "up_pyperplan"))
        fix = "" if there else "pip install 'plantune-lite[lab]'"
        return Check("problems", "ok" if there else "bad", f"{name}, from unified-planning and pyperplan", fix)
    if name.startswith("gym:"):
        there = find_spec("reasoning_gym") is not None
        fix = "" if there else "pip install 'plantune-lite[gym]' (needs a C compiler)"
        return Check("problems", "ok" if there else "bad", f"{name}, from reasoning-gym", fix)
    if name in ("practice", "practice_stories"):
        return Check("problems", "ok", f"{name}: made here, no network needed")
    if name not in BENCHMARKS:
        return Check(
            "problems",
            "bad",
            f"no source {name!r}{nearest(name, [*BENCHMARKS, 'practice', 'practice_stories'])}",
            _MEND,
        )
    data = os.environ.get("PLANTUNE_DATA")
    where = f"from {data}, else the Hub" if data else "from the Hugging Face Hub, when the run starts"
    return Check("problems", "ok", f"{name}, {where}")


_MEND = "set problems.source or problems.path"


def _teacher(recipe: Recipe) -> Iterator[Check]:
    teacher = recipe.distill.teacher
    if teacher == "gemini" and not (os.environ.get("GEMINI_API_KEY") or os.environ.get("GOOGLE_API_KEY")):
        fix = "set GEMINI_API_KEY for a large teacher"
        yield Check("teacher", "note", "gemini, but no key: the untuned student will plan for itself", fix)
    elif "://" in teacher:
        yield _server(teacher, recipe.distill.model)
    else:
        words = {"self": "self: the untuned student", "worked": "worked: the problems' own solutions, no model"}
        yield Check("teacher", "ok", words.get(teacher, teacher))


def _server(url: str, model: str | None) -> Check:
    """What a run would refuse before its first call; whether the server answers, only a call could tell."""
    try:
        OpenAICompatible(url, model)
    except TeacherError as error:
        return Check("teacher", "bad", str(error), "or set distill.teacher=self: the untuned student")
    return Check("teacher", "ok", url)


def _keys() -> Iterator[Check]:
    for name, purpose in _KEYS.items():
        yield Check(
            name,
            "ok" if os.environ.get(name) else "note",
            ("set" if os.environ.get(name) else "not set") + f": {purpose}",
        )


def _llama_cpp(recipe: Recipe) -> Iterator[Check]:
    found = llama_cpp.quantiser() or ("the llama-cpp-python package" if llama_cpp.runs_llama() else None)
    needed = any(name in ("q6_k", "q5_k_m", "q4_k_m") for name in recipe.export.formats)
    if found:
        yield Check("llama.cpp", "ok", str(found))
    elif needed:
        fix = "pip install 'plantune-lite[gguf]' builds it (C++ compiler, a few minutes); q8_0 needs none"
        yield Check("llama.cpp", "bad", "not found", fix)
    else:
        yield Check("llama.cpp", "note", "not found; this recipe needs none")


def _sandbox(recipe: Recipe) -> Iterator[Check]:
    if recipe.evaluate.allow_code:
        why = sandbox.why_not()
        yield Check("sandbox", "note" if why else "ok", why or "programs that a model wrote can be run in isolation")
