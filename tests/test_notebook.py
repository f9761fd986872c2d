"""run() inside a real ipykernel: its own event loop and its own sys.stdout must not be in the way."""

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")


def test_run_works_in_a_notebook_and_prints_as_it_goes(tmp_path):
    cell = """
import sys
sys.path.insert(0, %r)
from toy_stages import ALL, RECIPE, stages
from dataclasses import replace
from plantune_lite import Problems, run
folder = run(replace(RECIPE, problems=Problems("practice", limit=2)), to="r", stages=stages(*ALL))
print(folder)
"""
    from toy_stages import HERE

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell % HERE.rpartition("/")[0])])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "from step 0" in text and "[6/6] evaluate  done" in text
    assert (tmp_path / "r" / "sft" / "adapter.txt").exists()
