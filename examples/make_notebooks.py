"""Writes the notebooks of this folder: `python examples/make_notebooks.py`; a test says that they are what it writes.

Three of them differ in their model alone and could drift apart if each were edited by hand. Edit here, and run it.
"""

import ast
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = {"gemma3_1b": "Gemma-3-1B", "qwen3_4b": "Qwen3-4B", "qwen2_5_7b": "Qwen2.5-7B"}

# What every notebook installs, and the only line about it; {extra} is filled in where it runs.
INSTALL = """# What pip installs: the wheel that `pip wheel . --no-deps` makes, laid on your Drive.
# Nothing is released under the bare name yet: what pip would find there is not ours.
INSTALL = "plantune-lite{extra} @ file:///content/drive/MyDrive/plantune_lite-0.1.0-py3-none-any.whl\""""

# --- Colab: plans on a CPU runtime, training on a GPU runtime ---------------------------------------------------------

_ABOUT = """# TITLE learns to plan before it solves

Plans are written on a **CPU runtime**, where waiting for a teacher costs no GPU hours; a **GPU runtime** trains on
them. Between the two lies a folder on your Drive. Whatever is cut off, by Colab or by you: run the set-up and the same
cell again, and it goes on; what is done is skipped, and no call to the teacher is asked twice.

Minutes and gains are unmeasured: nobody has run this recipe on a GPU yet. `estimate` guesses, `evaluate` measures.
"""
_SET_UP = """## Set-up: on every runtime, before either half

Keys belong into Colab's secrets (the key symbol on the left; allow this notebook to read them): `GEMINI_API_KEY` for
the teacher, `HF_TOKEN` for gated weights and for pushing. Without a Gemini key the untuned model plans for itself: then
do both halves on a GPU runtime.
"""
_CONSTANTS = """RECIPE = "MODEL_sft"  # or "MODEL_grpo": the same, then GRPO
OVERRIDES = ""  # settings for every command below, say "problems.limit=300 sft.epochs=1"
HUB = "you/MODEL-plans"  # where the last cell would push to
"""
_PLACES = """import os

IN_COLAB = "COLAB_RELEASE_TAG" in os.environ
MIRROR = "/content/drive/MyDrive/plantune" if IN_COLAB else "mirror"
if IN_COLAB:
    from google.colab import drive, userdata

    drive.mount("/content/drive")
    for name in ("GEMINI_API_KEY", "HF_TOKEN"):
        try:  # into this process's environment, from which commands take it; never shown, never written
            os.environ[name] = userdata.get(name)
        except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
            print(name, "is not among the secrets that this notebook may read")"""
_INSTALLED = """import importlib.util

if importlib.util.find_spec("plantune_lite") is None:  # a fresh runtime; without a GPU the light core is enough
    wanted = INSTALL.format(extra="[train]" if os.path.exists("/dev/nvidia0") else "")
    %pip install -q "{wanted}"
    importlib.invalidate_caches()
    if importlib.util.find_spec("plantune_lite") is None:  # pip fails without stopping the notebook
        raise RuntimeError("plantune-lite was not installed: is the wheel that INSTALL names on your Drive?")"""

_FIRST = """## First half: plans, on a CPU runtime

Minutes, money and memory, before anything is spent. The recipe never spends more than its `distill.max_usd`.
"""
_DISTIL = "Problems, plans, their scores, and the answers they lead to: calls and waiting, no computing."
_ROW = """import json

with open(f"runs/{RECIPE}/corpus/train.jsonl", encoding="utf-8") as file:
    row = json.loads(next(file))
print(row["prompt"][-1]["content"], row["completion"][-1]["content"], sep="\\n\\n")"""
_SECOND = """## Second half: training, on a GPU runtime

Runtime > Change runtime type > a GPU. Then the three cells of the set-up again, and on from here: the first command
that is given `--mirror` brings the plans back from the Drive.
"""
_TRAIN = "Checkpoints go to the Drive: if this runtime ends, another one goes on from the last of them."
_EVALUATE = "The untuned model at its best prompt comes first: what training is worth is what it adds to that."
_QUESTION = "A pen costs 3 dollars and a book 12. What do 4 pens and 2 books cost?"
_EXPORT = """
The adapter is merged into its 16-bit base and compared with it; GGUF files are for llama.cpp, LM Studio and Ollama,
with Ollama's `Modelfile` beside them. Neither goes to the Drive by itself: they are large.
"""
_TO_DRIVE = """import shutil

if os.path.isdir(f"runs/{RECIPE}/gguf"):
    shutil.copytree(f"runs/{RECIPE}/gguf", f"{MIRROR}/gguf", dirs_exist_ok=True)"""
_PUSH = """
What would go to the Hub, in the folder `pushed`. Without `--dry-run pushed` it goes there, private unless you add
`--public`; `plantune push RUN USER/NAME --data` is for the plans.
"""


def colab(model: str, title: str) -> list[dict[str, Any]]:
    """The two halves for one model."""
    return [
        text(_ABOUT.replace("TITLE", title)),
        text(_SET_UP),
        code(_CONSTANTS.replace("MODEL", model) + INSTALL),
        code(_PLACES),
        code(_INSTALLED),
        text(_FIRST),
        code("!plantune estimate {RECIPE} {OVERRIDES}"),
        text(_DISTIL),
        code("!plantune distill {RECIPE} {OVERRIDES} --mirror {MIRROR}"),
        code("!plantune show runs/{RECIPE}"),
        code(_ROW),
        text(_SECOND),
        code("!plantune doctor {RECIPE} {OVERRIDES}"),
        text(_TRAIN),
        code("!plantune train {RECIPE} {OVERRIDES} --mirror {MIRROR}"),
        text(_EVALUATE),
        code("!plantune evaluate {RECIPE} {OVERRIDES} --mirror {MIRROR}"),
        code("!plantune report {RECIPE}"),
        code(f'!plantune ask {{RECIPE}} "{_QUESTION}" --beside-base'),
        text(_EXPORT),
        code("!plantune export {RECIPE} {OVERRIDES} --mirror {MIRROR}"),
        code(_TO_DRIVE),
        text(_PUSH),
        code("!plantune push {RECIPE} {HUB} --dry-run pushed"),
    ]


# --- the embedded default ---------------------------------------------------------------------------------------------

_HERE = """# A 135M model learns to plan, on a CPU

No GPU, no key, and no network beyond the package index, from which the model comes. `plantune estimate smollm2_135m`
guesses how long it takes on your cores, and `max_hours` in the recipe is the most that it may. It shows that everything
works; whether plans help at this size was measured in `benchmarks/arms.md`.
"""
_HERE_CONSTANTS = """SETTINGS = []  # say ["problems.limit=100", "sft.max_steps=10"]
"""
_HERE_INSTALLED = """import importlib.util

if importlib.util.find_spec("plantune_lite") is None:
    wanted = INSTALL.format(extra="[demo]")
    %pip install -q "{wanted}"
    importlib.invalidate_caches()
    if importlib.util.find_spec("plantune_lite") is None:  # pip fails without stopping the notebook
        raise RuntimeError("plantune-lite was not installed: is there a wheel where INSTALL says?")"""
_RECIPE = """## The recipe

It is `recipes/smollm2_135m.py`. Every field has its meaning written beside it in `plantune_lite/recipe/schema.py`.
"""
_RUN = """## The run

The same cell goes on after whatever interrupts it. Another setting under the same name is refused with a sentence that
says how to go on; `name=another` starts another run.
"""
_TABLE = """from IPython.display import Markdown

Markdown(filename=run_folder / "eval" / "standing.md")"""
_AFTER = """## What came of it

The untuned model at its best prompt first. `report.html` in the run's folder is the whole of it on one page.
"""


def embedded() -> list[dict[str, Any]]:
    """The recipe as a literal, and run(RECIPE)."""
    return [
        text(_HERE),
        code(_HERE_CONSTANTS + INSTALL),
        code(_HERE_INSTALLED),
        text(_RECIPE),
        code(literal(HERE.parent / "recipes" / "smollm2_135m.py")),
        code("!plantune doctor smollm2_135m"),
        text(_RUN),
        code("run_folder = run(RECIPE, *SETTINGS)"),
        text(_AFTER),
        code(_TABLE),
        code("!plantune show {run_folder}"),
        code(f'!plantune ask {{run_folder}} "{_QUESTION}" --beside-base'),
        text(_PUSH),
        code("!plantune push {run_folder} you/smollm2-plans --dry-run pushed"),
    ]


def literal(recipe: Path) -> str:
    """A recipe's file without its docstring and without what only a script needs."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    docstring, *_, main = ast.parse("\n".join(lines)).body
    return "\n".join(lines[docstring.end_lineno : main.lineno - 1]).strip()


# --- the file ---------------------------------------------------------------------------------------------------------


def text(source: str) -> dict[str, Any]:
    """A cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(source.strip())}


def code(source: str) -> dict[str, Any]:
    """A cell of code, never run."""
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": _lines(source)}


def _lines(source: str) -> list[str]:
    return source.splitlines(keepends=True)


def notebooks() -> dict[str, str]:
    """Every notebook's file name and text."""
    made = {f"{model}.ipynb": colab(model, title) for model, title in MODELS.items()}
    made["smollm2_135m.ipynb"] = embedded()
    found = {}
    for name, cells in made.items():
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = {
            "cells": [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)],
            "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        found[name] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    return found


if __name__ == "__main__":
    for name, content in notebooks().items():
        (HERE / name).write_text(content, encoding="utf-8", newline="\n")
