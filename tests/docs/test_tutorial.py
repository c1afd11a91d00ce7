"""The pages' code, as a reader would paste it: each page is one session."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


QUICK = "density.md", "runner.md", "gibbs.md"
SLOW = "tutorial.md", "ensembles.md", "durable.md", "dims.md", "hmc.md"


@pytest.mark.parametrize(
    "page",
    [*QUICK, *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW)],
)
def test_blocks_run_in_order(page, tmp_path, monkeypatch):
    path = DOCS / page
    blocks = list(re.finditer(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S))
    assert blocks, page
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        # blank lines in front, so that a failure points at its line of the page
        line = path.read_text()[: block.start(1)].count("\n")
        exec(compile("\n" * line + block.group(1), str(path), "exec"), names)
