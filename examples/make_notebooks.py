"""Write the notebooks of this folder: `python examples/make_notebooks.py`; a test checks that they are up to date.

Three of them differ only in their model and would drift apart if edited by hand: edit this file and run it. Once
pyproject.toml has `[project.urls] Repository`, they install from there and have badges that open them.
"""

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = {"gemma3_1b": "Gemma-3-1B", "qwen3_4b": "Qwen3-4B", "qwen2_5_7b": "Qwen2.5-7B"}

# --- what every notebook installs -------------------------------------------------------------------------------------

_GIT = """# What pip installs.
INSTALL = "git+REPOSITORY"
"""
_WHEEL = """# What pip installs: a wheel that you upload. In a checkout this makes it: pip wheel . --no-deps
# Colab: to your Drive, or with the folder symbol on the left. Kaggle: Add Input > Upload. Else: next to this notebook.
INSTALL = "plantune_lite-*.whl"
"""
_FROM_GIT = "    source = INSTALL\n"
_FROM_WHEEL = """    places = [Path(), Path("/content/drive/MyDrive"), *Path("/kaggle/input").glob("**")]
    wheels = [path for place in places for path in place.glob(INSTALL)]
    if not wheels:
        raise SystemExit("There is no wheel here: `pip wheel . --no-deps` makes one, see the cell with INSTALL.")
    source = wheels[0].absolute().as_uri()
"""
_INSTALLED = """import importlib.util
from pathlib import Path

if importlib.util.find_spec("plantune_lite") is None:  # a fresh runtime
    extra = EXTRA
SOURCE    %pip install -q "plantune-lite{extra} @ {source}"
    importlib.invalidate_caches()
try:
    importlib.import_module("plantune_lite")
except ImportError as error:  # pip fails without stopping the notebook
    raise SystemExit(f"plantune-lite cannot be used here ({error}): what pip says above is the reason.") from None"""
_BADGE = "[![Open in SITE](IMAGE)](TARGET/REPOSITORY/blob/main/examples/NAME.ipynb)"
_SITES = {
    "Colab": ("https://colab.research.google.com/assets/colab-badge.svg", "https://colab.research.google.com/github"),
    "Kaggle": (
        "https://kaggle.com/static/images/open-in-kaggle.svg",
        "https://kaggle.com/kernels/welcome?src=github.com",
    ),
}


def repository() -> str:
    """Return the project's address on GitHub, or "" while pyproject.toml has none."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def badges(name: str, address: str) -> str:
    """Return the badges that open a notebook in a browser."""
    path = address.removeprefix("https://github.com/")
    shown = []
    for site, (image, target) in _SITES.items():
        badge = _BADGE.replace("SITE", site).replace("IMAGE", image).replace("TARGET", target)
        shown.append(badge.replace("REPOSITORY", path).replace("NAME", name))
    return " ".join(shown) + "\n\n" if address else ""


def install(address: str) -> str:
    """Return the lines that set INSTALL, what pip installs."""
    return _GIT.replace("REPOSITORY", address) if address else _WHEEL


def installed(address: str, extra: str) -> str:
    """Return the cell that installs; if that fails, it stops with a one-line message."""
    source = _FROM_GIT if address else _FROM_WHEEL
    return _INSTALLED.replace("SOURCE", source).replace("EXTRA", extra)


# --- a GPU in a browser: plans on a CPU runtime, training on a GPU runtime --------------------------------------------

_ABOUT = """# TITLE learns to plan before it solves

BADGES**GPU:** SIZE, with room to spare. **Time:** TIME **Gain:** unmeasured; `evaluate` measures it.

On **Colab** plans are written on a CPU runtime, where waiting for a teacher costs no GPU hours; a GPU runtime trains on
them. A folder on your Drive connects the two. On **Kaggle** one GPU session does it all, with Internet on and
Persistence at "Files only" in its settings. If the session is cut off, run the set-up and the same cell again to
resume: finished work is skipped, and no call to the teacher is repeated.
"""
_SET_UP = """## Set-up: on every runtime, before either half

Keys belong in the secrets (Colab: the key symbol on the left; Kaggle: Add-ons > Secrets; allow this notebook to read
them): `GEMINI_API_KEY` for the teacher, `HF_TOKEN` for gated weights and for pushing. Without a Gemini key the untuned
model plans for itself: then run both halves on a GPU runtime.
"""
_CONSTANTS = """RECIPE = "MODEL_sft"  # or "MODEL_grpo": the same, then GRPO
OVERRIDES = ""  # settings for every command below, such as "problems.limit=300 sft.epochs=1"
HUB = "you/MODEL-plans"  # the Hub repository that the last cell would push to
"""
_PLACES = """import os

MIRROR = "mirror"
if "COLAB_RELEASE_TAG" in os.environ:
    from google.colab import drive, userdata

    drive.mount("/content/drive")
    MIRROR = "/content/drive/MyDrive/plantune"
    secret, unread = userdata.get, (userdata.SecretNotFoundError, userdata.NotebookAccessError)
elif "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
    from kaggle_secrets import BackendError, UserSecretsClient

    secret, unread = UserSecretsClient().get_secret, (BackendError, ConnectionError)
else:
    secret, unread = os.environ.__getitem__, KeyError
for name in ("GEMINI_API_KEY", "HF_TOKEN"):
    try:  # into this process's environment, where commands read it; never shown, never written
        os.environ[name] = secret(name)
    except unread:
        print(name, "is not among the secrets that this notebook may read")"""

_FIRST = """## First half: plans, on a CPU runtime

Minutes, money and memory, before anything is spent. The recipe never spends more than its `distill.max_usd`.
"""
_DISTIL = "Problems, plans, their scores, and the answers they lead to: teacher calls and waiting, no local computing."
_ROW = """import json

with open(f"runs/{RECIPE}/corpus/train.jsonl", encoding="utf-8") as file:
    row = json.loads(next(file))
print(row["prompt"][-1]["content"], row["completion"][-1]["content"], sep="\\n\\n")"""
_SECOND = """## Second half: training, on a GPU runtime

On Colab: Runtime > Change runtime type > a GPU. Then run the three set-up cells again and continue here: the first
command with `--mirror` restores the plans from the Drive. On an L4 or A100, not on a T4, `"[train,vllm]"` in place of
`"[train]"` in the set-up lets vLLM write the replies (unmeasured by us).
"""
_TRAIN = "Checkpoints go to the Drive: if this runtime ends, another one resumes from the last checkpoint."
_EVALUATE = "The untuned model at its best prompt comes first: training is worth what it adds to that."
_QUESTION = "A pen costs 3 dollars and a book 12. What do 4 pens and 2 books cost?"
_ASK = "One question, after and before training: the trained model's answer, and the untuned model's below it."
_EXPORT = """
The adapter is merged into its 16-bit base, and the result is compared with it; GGUF files are for llama.cpp, LM Studio
and Ollama, with Ollama's `Modelfile` next to them. They are large and are not copied to the Drive automatically.
"""
_TO_DRIVE = """import shutil

if os.path.isdir(f"runs/{RECIPE}/gguf"):
    shutil.copytree(f"runs/{RECIPE}/gguf", f"{MIRROR}/gguf", dirs_exist_ok=True)"""
_PUSH = """
This writes what would go to the Hub to the folder `pushed`. Without `--dry-run pushed` it is pushed to the Hub, private
unless you add `--public`; `plantune push RUN USER/NAME --data` pushes the plans.
"""


def colab(model: str, title: str, address: str) -> list[dict[str, Any]]:
    """Return the cells of both halves for one model; GPU and time are from the recipe's docstring."""
    docstring = (HERE.parent / "recipes" / f"{model}_sft.py").read_text(encoding="utf-8")
    size = re.search(r"one (\d+ GB) GPU", docstring)[1]
    time = re.search(r"^Time: (.+)$", docstring, re.MULTILINE)[1]
    about = _ABOUT.replace("TITLE", title).replace("SIZE", size).replace("TIME", time)
    return [
        text(about.replace("BADGES", badges(model, address))),
        text(_SET_UP),
        code(_CONSTANTS.replace("MODEL", model) + install(address)),
        code(_PLACES),
        code(installed(address, '"[train]" if os.path.exists("/dev/nvidia0") else ""  # the light core without a GPU')),
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
        text(_ASK),
        code(f'!plantune ask {{RECIPE}} "{_QUESTION}" --beside-base'),
        text(_EXPORT),
        code("!plantune export {RECIPE} {OVERRIDES} --mirror {MIRROR}"),
        code(_TO_DRIVE),
        text(_PUSH),
        code("!plantune push {RECIPE} {HUB} --dry-run pushed"),
    ]


# --- the embedded default ---------------------------------------------------------------------------------------------

_HERE = """# A 135M model learns to plan, on a CPU

BADGES**GPU:** none. **Time:** some ten minutes on two CPU cores; `plantune estimate smollm2_135m` estimates yours.
**Gain:** see `benchmarks/demo.md`, five seeds. No key, and no network beyond the package index, from which the model
comes.
"""
_HERE_CONSTANTS = """SETTINGS = []  # such as ["problems.limit=100", "sft.max_steps=10"]
"""
_RECIPE = """## The recipe

This is `recipes/smollm2_135m.py`. `plantune_lite/recipe/schema.py` explains every field.
"""
_RUN = """## The run

If this cell is interrupted, run it again to resume. Other settings under the same name are refused, with a message
that says what to do; `name=another` starts another run.
"""
_TABLE = """from IPython.display import Markdown

Markdown(filename=run_folder / "eval" / "standing.md")"""
_AFTER = """## Results

The untuned model at its best prompt comes first. `report.html` in the run's folder shows everything on one page.
"""


def embedded(address: str) -> list[dict[str, Any]]:
    """Return the cells that show the recipe as a literal and call run(RECIPE)."""
    return [
        text(_HERE.replace("BADGES", badges("smollm2_135m", address))),
        code(_HERE_CONSTANTS + install(address)),
        code(installed(address, '"[demo]"')),
        text(_RECIPE),
        code(literal(HERE.parent / "recipes" / "smollm2_135m.py")),
        code("!plantune doctor smollm2_135m"),
        text(_RUN),
        code("run_folder = run(RECIPE, *SETTINGS)"),
        text(_AFTER),
        code(_TABLE),
        code("!plantune show {run_folder}"),
        text(_ASK),
        code(f'!plantune ask {{run_folder}} "{_QUESTION}" --beside-base'),
        text(_PUSH),
        code("!plantune push {run_folder} you/smollm2-plans --dry-run pushed"),
    ]


def literal(recipe: Path) -> str:
    """Return a recipe's file without its docstring and without what only a script needs."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    docstring, *_, main = ast.parse("\n".join(lines)).body
    return "\n".join(lines[docstring.end_lineno : main.lineno - 1]).strip()


# --- the file ---------------------------------------------------------------------------------------------------------


def text(source: str) -> dict[str, Any]:
    """Return a Markdown cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(source)}


def code(source: str) -> dict[str, Any]:
    """Return a code cell without outputs."""
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": _lines(source)}


def _lines(source: str) -> list[str]:
    return source.strip().splitlines(keepends=True)


def notebooks(address: str) -> dict[str, str]:
    """Return each notebook's text by file name, for a project with this address."""
    cells_of = {f"{model}.ipynb": colab(model, title, address) for model, title in MODELS.items()}
    cells_of["smollm2_135m.ipynb"] = embedded(address)
    texts = {}
    for name, cells in cells_of.items():
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = {
            "cells": [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)],
            "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        texts[name] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    return texts


if __name__ == "__main__":
    for name, content in notebooks(repository()).items():
        (HERE / name).write_text(content, encoding="utf-8", newline="\n")
