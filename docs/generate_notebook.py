"""Write `tutorial.ipynb` from the Python of the tutorial, without outputs.

python docs/generate_notebook.py
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOTEBOOK = HERE / "tutorial.ipynb"

INTRODUCTION = """\
# From a loop to a step

The Python of the [tutorial](tutorial.md), to be run from top to bottom. It needs Perigee with
TensorFlow. Written by docs/generate_notebook.py."""


def render() -> str:
    """Return the notebook: the prose and the code of the part that needs no shell."""
    page = (HERE / "tutorial.md").read_text(encoding="utf-8")
    _, _, part = page.partition("\n## From a loop to a step\n")
    part, _, _ = part.partition("\n## ")
    cells = [_cell(0, "markdown", INTRODUCTION)]
    for piece in re.split(r"^(```\w+\n.*?^```\n)", part, flags=re.MULTILINE | re.DOTALL):
        fenced = re.fullmatch(r"```(\w+)\n(.*?)```\n", piece, re.DOTALL)
        if fenced is None and piece.strip():
            cells.append(_cell(len(cells), "markdown", piece.strip()))
        elif fenced is not None and fenced[1] == "python":
            cells.append(_cell(len(cells), "code", fenced[2].strip()))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


if __name__ == "__main__":
    NOTEBOOK.write_text(render(), encoding="utf-8")
    print(NOTEBOOK.name)
