"""A notebook as its reader runs it: in a real kernel, in a folder of its own, a few of its constants changed.

    notebook = load("qwen3_4b")
    said = run(cells(notebook, "## First half"), tmp_path, OVERRIDES="problems.limit=12")

Commands in it that fail raise nothing, as in a browser: what they said is in what comes back.
"""

import re
from pathlib import Path

import nbclient
import nbformat

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    """One of the examples."""
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def cells(notebook, *titles):
    """The cells under headings that begin so, up to the next heading of the same kind."""
    found, wanted = [], False
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            wanted = cell.source.startswith(titles)
        if wanted:
            found.append(cell)
    assert found, titles
    return found


def run(chosen, folder, **constants):
    """Execute cells in that folder; everything that they showed."""
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.from_dict(cell) for cell in chosen])
    for name, value in constants.items():
        assigned = re.compile(rf"^{name} = .*$", re.MULTILINE)
        (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and assigned.search(cell.source))
        cell.source = assigned.sub(lambda _, name=name, value=value: f"{name} = {value!r}", cell.source)
    nbclient.NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(folder)}}).execute()
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(_shown(notebook)))  # IPython's ! is a terminal, with colours


def _shown(notebook):
    for cell in notebook.cells:
        # What a program says comes in pieces that end anywhere, also within a word.
        yield "".join(
            output.get("text") or "\n".join([*map(str, output.get("data", {}).values()), ""])
            for output in cell.get("outputs", ())
        )
