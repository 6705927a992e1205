"""The notebook of the tutorial runs from top to bottom, and is kept without outputs."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.project.pages import DOCS


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    assert [cell.id for cell in notebook.cells if cell.get("outputs")] == []

    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()

    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert "Nothing found." in "".join(o.get("text", "") for o in outputs)
