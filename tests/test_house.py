import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plantune_lite.recipe.lab import FUNCTIONS
from plantune_lite.recipe.user_code import load

PACKAGE = Path(__file__).parent.parent / "plantune_lite"
ROOT = PACKAGE.parent

# From the ground up, the way of the data: a package imports itself and what stands before it.
ORDER = (
    "_version",
    "types",
    "files",
    "terminal",
    "plan",
    "recipe",
    "runs",
    "grading",
    "student",
    "teacher",
    "problems",
) + ("estimate", "distill", "train", "evaluate", "report", "export", "pipeline", "studies", "lab", "cli")
FILES_IN_A_FOLDER = 16
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "unsloth",
    "numpy",
    "google.genai",
    "math_verify",
    "sympy",
    "rich",
    "gguf",
    "llama_cpp",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
}


def imports_of(path):
    """Yield our own imports: the module, whether it is imported inside a function, and the name it is given instead."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "plantune_lite":
            names = [(f"{node.module}.{alias.name}", alias.asname) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [(alias.name, alias.asname) for alias in node.names if alias.name.startswith("plantune_lite.")]
        for name, renamed in names:
            yield name.removeprefix("plantune_lite."), id(node) in inside, renamed


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path):
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_its_own_package_and_those_before_it(path):
    package = package_of(path)
    assert package in ORDER, f"{package} is no package of the house"
    for name, _, _ in imports_of(path):
        assert ORDER.index(name.split(".")[0]) <= ORDER.index(package), f"{name_of(path)} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_our_own_imports_stand_at_the_top_under_their_own_names(path):
    for name, inside, renamed in imports_of(path):
        assert package_of(path) == "cli" or not inside, f"{name} is imported inside a function"
        assert renamed is None, f"{name} is renamed to {renamed}"


def test_a_stage_is_imported_by_the_child_alone():
    stages = {name_of(path).replace("/", ".") for path in MODULES if path.stem == "stage"}
    assert stages == {f"{name}.stage" for name in ("problems", "distill", "train", "evaluate", "export", "report")} | {
        "lab.cpl.stage"
    }
    for path in MODULES:
        own = name_of(path).replace("/", ".").rpartition(".")[0] + ".stage"
        for name, _, _ in imports_of(path):
            found = {stage for stage in stages if f"{name}.".startswith(f"{stage}.")} - {own}
            assert not found or name_of(path) == "pipeline/child", f"{name_of(path)} imports {found}"


def test_the_core_reaches_the_lab_through_one_table():
    for path in MODULES:
        if name_of(path) != "recipe/lab" and package_of(path) != "lab":
            assert "plantune_lite.lab" not in path.read_text(encoding="utf-8"), path
    for reference in FUNCTIONS.values():
        assert callable(load(reference))


def test_a_package_holds_a_docstring_and_a_handful_of_files():
    for folder in {path.parent for path in MODULES} - {PACKAGE}:
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{folder.name} holds code in __init__.py"
        assert len([path for path in MODULES if path.parent == folder]) <= FILES_IN_A_FOLDER, folder.name


def test_importing_every_module_loads_nothing_heavy_and_changes_nothing():
    names = [f"plantune_lite.{name_of(path).replace('/', '.')}" for path in MODULES if package_of(path) != "lab"]
    code = f"""
import importlib, os, sys
before = dict(os.environ)
for name in {names!r}:
    importlib.import_module(name)
assert dict(os.environ) == before, "the environment was changed"
print([name for name in {sorted(HEAVY)!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.slow
def test_a_wheel_made_from_the_sdist_carries_the_recipes_and_runs_in_an_empty_folder(tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()

    def run(*command, cwd):  # what `python -m build` does, and pip, without a network
        environ = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=cwd, env=environ, check=True, capture_output=True, text=True).stdout

    build = (sys.executable, "-m", "hatchling", "build", "-d", tmp_path, "-t")
    run(*build, "sdist", cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    run(*build, "wheel", cwd=tmp_path / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=empty)
    carried = sorted(path.name for path in (ROOT / "recipes").glob("*.py"))
    assert shipped_by(site, empty) == [site / "plantune_lite/_recipes" / name for name in carried]
    assert "plantune run smollm2_135m" in run(site / "bin/plantune", "--help", cwd=empty)
    assert "sft        about" in run(site / "bin/plantune", "estimate", "smollm2_135m", cwd=empty)


def test_an_editable_install_finds_the_recipes_beside_it(tmp_path):
    assert ROOT / "recipes" / "smollm2_135m.py" in shipped_by(ROOT, tmp_path)


def shipped_by(folder, cwd):
    code = "from plantune_lite.recipe.load import *; load_recipe('smollm2_135m'); print(*shipped().values(), sep='\\n')"
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=cwd, capture_output=True, text=True, check=True
    )
    return [Path(line) for line in done.stdout.splitlines()]


def test_no_file_names_a_registry_host_or_a_path_of_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [ROOT / name for name in listed.split("\0") if name] or list(ROOT.rglob("*.py"))
    banned = ["pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "/work" + "/main", "/root" + "/"]
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        assert not [word for word in banned if word in text], file
