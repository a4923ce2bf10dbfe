"""Notebooks of a few cells, and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import papermill


def execute(folder: Path, *cells: str) -> list[Any]:
    """Run cells as papermill would a stage's notebook, in `folder`; return what each printed."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, folder / "notebook.ipynb")
    run = papermill.execute_notebook(folder / "notebook.ipynb", folder / "run.ipynb", cwd=folder, progress_bar=False)
    streams = [[out for out in cell.outputs if out.get("name") == "stdout"] for cell in run.cells]
    return [json.loads(stream[0].text) if stream else None for stream in streams]


def report(*expressions: str) -> str:
    """A cell that prints the values of some expressions."""
    return f"import json, os, sys, time; print(json.dumps([{', '.join(expressions)}]))"
