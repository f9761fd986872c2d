import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "plantune_lite"
ROOT = PACKAGE.parent

# From the ground up; a module imports only from floors below its own. `lab` stands beside the house and the house never
# looks into it.
FLOORS = [
    {"records", "typed", "terminal", "spelling", "units", "arithmetic", "practice_parts", "intervals", "devices"}
    | {"sandbox_child"},
    {"functions", "plans", "values", "symbols", "practice_train", "practice_held_out", "smollm2", "tables"}
    | {"held_out", "benchmarks", "dedup", "attempt", "ledger", "runs", "process", "shards", "trl_config", "pushable"}
    | {"alignment", "embedding", "charts", "pages", "sandbox"},
    {"recipe", "presets", "practice", "compare", "worked", "own_function", "benchmark_rows"}
    | {"prices", "pace", "batched", "mirror", "replies", "watch", "adapters"}
    | {"converter", "llama_child", "judge"},
    {"recipe_files", "columns", "verify", "gym", "order", "gemini", "openai_compatible"}
    | {"embedded", "speech", "job", "shapes", "agreement", "companions", "model_facts", "ollama"}
    | {"grpo_settings", "prompts", "rewarded", "sampled"},
    {
        "problem_rows",
        "studies",
        "sharing",
        "how_soon",
        "one_problem",
        "sift",
        "card",
        "gemini_batch",
        "lessons",
        "origin",
        "lenient",
    }
    | {"activations", "acceptance", "guided"},
    {"answers", "curriculum", "tally", "model_card", "memory", "hub", "programs"},
    {"graders", "evaluated"},
    {"problems", "survey", "teacher", "distill", "corpus", "student", "sft", "grpo", "rewards"}
    | {"evaluate", "interventions", "standing", "harness_json", "estimate", "fitting", "minutes"}
    | {"export", "gguf", "publish"},
    {"report", "arms", "ask", "elsewhere", "ending"},
    {"other_model", "study_page"},
    {"model_stages"},
    {"data_stages", "train_stages"},
    {"evaluate_stage"},
    {"ship_stages"},
    {"stage", "doctor"},
    {"pipeline"},
    {"ablate", "shown"},
    {"command"},
    {"verbs_start", "verbs_stages", "verbs_studies"},
    {"cli"},
    {"__init__"},
]
LAYER = {name: number for number, names in enumerate(FLOORS) for name in names}
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "plantune_lite":
            yield from (alias.name if (PACKAGE / f"{alias.name}.py").exists() else "__init__" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plantune_lite."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("plantune_lite."))


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_only_lower_floors(path):
    assert path.stem in LAYER, f"{path.stem} stands on no floor: say where it belongs"
    for name in imports_of(path):
        lower = LAYER.get(name, 99) < LAYER[path.stem]
        version = name == "__init__" and path.stem in ("pipeline", "command", "hub")
        assert lower or version, f"{path.stem} may not import {name}"


def test_importing_every_module_loads_nothing_heavy_and_changes_nothing():
    names = [f"plantune_lite.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
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


def test_a_wheel_carries_the_recipes(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    carried = sorted(path.name for path in (ROOT / "recipes").glob("*.py"))
    inside = tmp_path / "site/plantune_lite/_recipes"
    assert shipped_by(tmp_path / "site", tmp_path) == [inside / name for name in carried]


def test_an_editable_install_finds_the_recipes_beside_it(tmp_path):
    assert ROOT / "recipes" / "smollm2_135m.py" in shipped_by(ROOT, tmp_path)


def shipped_by(folder, cwd):
    code = "from plantune_lite.recipe_files import *; load('smollm2_135m'); print(*shipped().values(), sep='\\n')"
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
