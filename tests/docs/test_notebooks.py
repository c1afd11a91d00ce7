"""The tutorials as notebooks: each runs from top to bottom in Jupyter."""

import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted((DOCS / "tutorials").glob("*.md"))


def outputs(page: Path, folder: Path) -> list[dict]:
    """Run a page as a notebook, in a folder of its own."""
    notebook = jupytext.read(page)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


def test_all_tutorials_are_here():
    assert len(PAGES) == 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_tutorial_is_a_notebook_with_cells(page):
    notebook = jupytext.read(page)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 4
    assert re.match("# .+", notebook.cells[0].source)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_in_jupyter(page, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    found = outputs(page, tmp_path)
    assert any("image/png" in output.get("data", {}) for output in found)
    warned = [
        output["text"]
        for output in found
        if output["output_type"] == "stream" and output["name"] == "stderr"
    ]
    assert not [text for text in warned if "Warning" in text]
