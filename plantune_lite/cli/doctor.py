"""Check machine and environment against what a recipe needs: one line per check, with a fix if one is needed.

Check("python", "ok", "3.11.7", "")      Check("torch", "bad", "not installed", "pip install 'plantune-lite[cpu]'")
"""

import os
import platform
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from plantune_lite import files
from plantune_lite.estimate import devices
from plantune_lite.export import llama_cpp
from plantune_lite.grading import sandbox
from plantune_lite.problems.load import load_problems, suite_names
from plantune_lite.recipe.schema import Recipe
from plantune_lite.student import presets, vllm_engine, weights
from plantune_lite.teacher.gemini import Gemini, key_name
from plantune_lite.teacher.openai import OpenAICompatible
from plantune_lite.teacher.provider import TeacherError
from plantune_lite.terminal import size
from plantune_lite.types import PlantuneError


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    state: Literal["ok", "note", "bad"]  # "bad" keeps the recipe from running here
    found: str
    fix: str = ""


def examine(recipe: Recipe) -> Iterator[Check]:
    """Check everything the recipe needs of this machine, the slowest checks last."""
    gpu = list(_gpu())
    has_gpu = any(check.state == "ok" for check in gpu)
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield from gpu
    yield _disk()
    yield from _libraries(recipe, has_gpu=has_gpu)
    yield from _student(recipe, has_gpu=has_gpu)
    yield _teacher(recipe)
    yield _llama_cpp(recipe)
    yield from _sandbox(recipe)
    yield _problems(recipe)


def _gpu() -> Iterator[Check]:
    if find_spec("torch") is None:
        yield Check("gpu", "note", "torch is not installed")
        return
    import torch

    if why := devices.why_no_gpu():
        yield Check("gpu", "note", f"{why}; training runs on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        bf16 = "bf16" if gpu.major >= 8 else "no bf16: computes in fp16, Gemma and Qwen3.5 in float32"
        about = f"{gpu.name}, {size(free)} free of {size(total)}, {bf16}"
        if (gpu.major, gpu.minor) < (7, 5):
            fix = "use a GPU of capability 7.5 or more: a T4, an RTX 20 or later"
            yield Check("gpu", "bad", f"{about}, capability {gpu.major}.{gpu.minor}, which CUDA 13 has dropped", fix)
        else:
            yield Check("gpu", "ok", about)
    yield from _compiler()


def _compiler() -> Iterator[Check]:
    """Check what Triton needs to build its first kernel, and what is different under WSL."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [] if shutil.which("gcc") or shutil.which("cc") else ["a C compiler"]
    missing += [] if header.is_file() else [f"Python's headers ({header})"]
    if missing and platform.system() == "Linux":
        fix = "sudo apt install build-essential python3-dev"
        yield Check("compiler", "bad", f"Triton needs {' and '.join(missing)}", fix)
    if "microsoft" in platform.release().lower():
        fix = "keep runs in your Linux home, not under /mnt/c; what does not fit the GPU spills into RAM, slowly"
        yield Check("wsl", "note", platform.release(), fix)


def _disk() -> Check:
    folder = files.runs_folder().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    fix = "free some, or set PLANTUNE_RUNS to another disk" if free < 1e9 else ""
    return Check("disk", "bad" if fix else "ok", f"{size(free)} free in {folder}", fix)


def _libraries(recipe: Recipe, *, has_gpu: bool) -> Iterator[Check]:
    """Check the libraries the recipe needs against the version windows in our package metadata, their only source."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    trains = any((recipe.sft, recipe.cpl, recipe.grpo)) or recipe.distill.teacher == "self"
    extras = ["", *(["cpu"] if trains else []), *(["train"] if trains and has_gpu else [])]
    extras += ["vllm"] if recipe.student.engine == "vllm" else []
    seen = {"plantune-lite"}  # an extra of extras lists a library again
    for requirement in map(Requirement, requires("plantune-lite") or ()):
        name, marker = requirement.name, requirement.marker
        extra = next((extra for extra in extras if marker is None or marker.evaluate({"extra": extra})), None)
        if extra is None or name in seen:
            continue
        seen.add(name)
        try:
            installed = version(name)
        except PackageNotFoundError:
            what = f"plantune-lite[{extra}]" if extra else "plantune-lite"
            yield Check(name, "bad", "not installed", f"pip install '{what}'")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            yield Check(name, "ok", installed)
        else:
            window = str(requirement.specifier)
            yield Check(name, "bad", f"{installed}, outside {window}", f"pip install '{name}{window}'")


def _student(recipe: Recipe, *, has_gpu: bool) -> Iterator[Check]:
    model = recipe.student.model
    preset = presets.find(model)
    try:
        architecture = weights.check_access(recipe.student, preset)
        if architecture and set(recipe.export.formats) - {"adapter", "merged"}:
            llama_cpp.refuse_unknown(architecture)
    except PlantuneError as error:
        yield Check("student", "bad", str(error))
        return
    if preset is None:
        yield Check("student", "note", f"{model} is not a preset: its own chat template is used as it is")
        return
    if preset.wants_gpu and not has_gpu:
        fix = "use a machine with an NVIDIA GPU (Colab's free one will do), or plantune run smollm2_135m"
        yield Check("student", "bad", f"{preset.repo}: {preset.parameters:g}B parameters want a GPU", fix)
    else:
        yield Check("student", "ok", f"{preset.repo}, licence {preset.licence}")
    if has_gpu and recipe.student.engine == "auto":
        why_not = vllm_engine.why_not(recipe.student)
        yield Check("engine", "note", f"{why_not}: the training backend also answers" if why_not else "vLLM answers")


def _problems(recipe: Recipe) -> Check:
    """Load the problems and look up the suites, as a run does first; this spends nothing."""
    try:
        loaded = load_problems(recipe.problems, seed=recipe.seed, checked=recipe.wants_checked_answers)
        suites = suite_names(recipe.evaluate.suites)
    except PlantuneError as error:
        return Check("problems", "bad", str(error), "set problems.source, problems.path or evaluate.suites")
    return Check("problems", "ok", f"{len(loaded.pool)} to learn from, tested on {', '.join(suites)}")


def _teacher(recipe: Recipe) -> Check:
    """Find what a run would refuse before its first call; only a call could tell whether a server answers."""
    teacher, model = recipe.distill.teacher, recipe.distill.model
    if teacher == "gemini" and not key_name(os.environ):
        fix = "set GEMINI_API_KEY for a large teacher"
        return Check("teacher", "note", "gemini, but no key: the untuned student will plan for itself", fix)
    try:
        if teacher == "gemini":
            Gemini(model)
        elif "://" in teacher:
            OpenAICompatible(teacher, model)
    except TeacherError as error:
        return Check("teacher", "bad", str(error), "or set distill.teacher=self: the untuned student")
    return Check("teacher", "ok", teacher)


def _llama_cpp(recipe: Recipe) -> Check:
    if llama_cpp.runs_llama():
        return Check("llama.cpp", "ok", "the llama-cpp-python package")
    if any(name in ("q6_k", "q5_k_m", "q4_k_m") for name in recipe.export.formats):
        fix = "pip install 'plantune-lite[gguf]' builds it (C++ compiler, a few minutes); q8_0 needs none"
        return Check("llama.cpp", "bad", "not found", fix)
    return Check("llama.cpp", "note", "not found; this recipe needs none")


def _sandbox(recipe: Recipe) -> Iterator[Check]:
    if recipe.evaluate.allow_code:
        why = sandbox.why_not()
        yield Check("sandbox", "note" if why else "ok", why or "programs that a model wrote can be run in isolation")
