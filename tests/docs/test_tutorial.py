"""The pages' code, as a reader would paste it: each page is one session."""

import contextlib
import math
import re
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer import HMC

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIALS = [f"tutorials/{path.name}" for path in (DOCS / "tutorials").glob("*.md")]
PAGES = [
    *sorted(TUTORIALS),
    "density.md",
    "runner.md",
    "durable.md",
    "dims.md",
    "hmc.md",
    "gibbs.md",
    "gp.md",
    "gptd.md",
    "tracking.md",
    "hgf.md",
    "decent_cem.md",
    "modes.md",
    "merging.md",
    "mpc.md",
    "how_to/cluster.md",
    "how_to/kernel.md",
    "how_to/report.md",
    "how_to/resume.md",
    "explanation/reproduction.md",
]

# these trace eight models, or the derivative of a large step: too long for every change
LONG = ("dims.md", "tracking.md")
# of the tutorials one alone: what the others show needs its full length
FIRST = "tutorials/first_posterior.md"
SHORT = [FIRST, *(page for page in PAGES if page not in (*TUTORIALS, *LONG))]
SHORT_AND_SOON = (FIRST, "how_to/kernel.md")  # the others in the long tests alone
CHOSEN = [
    page if page in SHORT_AND_SOON else pytest.param(page, marks=pytest.mark.slow)
    for page in SHORT
]


BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
# a cell of a notebook, with its options: `:tags: [hide-input]`
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n((?::[^\n]*\n)*)(.*?)^```", re.M | re.S)


def blocks_of(text):
    """Options, line and code of each block of a page, or of its cells if it has any."""
    cells = [(cell[1], cell.start(2), cell[2]) for cell in CELL.finditer(text)]
    found = cells or [("", block.start(1), block[1]) for block in BLOCK.finditer(text)]
    return [(options, text[:at].count("\n"), code) for options, at, code in found]


def run_page(page, text):
    """Run a page's blocks in order, in one namespace."""
    names: dict[str, object] = {"__name__": "page"}
    blocks = blocks_of(text)
    assert blocks, page
    for options, line, code in blocks:
        # blank lines in front, so that a failure points at its line of the page
        compiled = compile("\n" * line + code, str(DOCS / page), "exec")
        raises = "raises-exception" in options
        with (
            pytest.raises(Exception, match=".") if raises else contextlib.nullcontext()
        ):
            exec(compiled, names)


def test_a_notebook_runs_its_cells_and_no_other_block():
    page = """
```{code-cell} python
:tags: [hide-input]
seen = [1]
```
```python
seen.append(2)
```
```{code-cell} python
:tags: [raises-exception]
seen.append(1 / 0)
```
```{code-cell} python
assert seen == [1]
seen
```
"""
    assert [line for _, line, _ in blocks_of(page)] == [3, 10, 13]
    run_page("page.md", page)
    with pytest.raises(ZeroDivisionError):
        run_page("page.md", page.replace("raises-exception", "hide-input"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own for each page, and pictures that nobody sees."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    yield
    plt.close("all")


@pytest.mark.parametrize("page", CHOSEN)
def test_blocks_run_in_order_when_runs_are_short(page, monkeypatch):
    # short runs call what the long ones call, and may say that they are too short
    monkeypatch.setattr(HMC, "default_warmup", lambda *counts: 80)
    rule = "pyro_geo.engine.compiling.worthwhile_steps"
    monkeypatch.setattr(rule, lambda size: math.inf)
    text = (DOCS / page).read_text()
    for option, few in {"num_samples": 4, "warmup_steps": 30, "betas": "[1.0]"}.items():
        text = re.sub(rf"{option}=(\d{{2,}}|\[.*?\])", f"{option}={few}", text)
    short = "anchor_steps=200, explore_time=0.5, settle_time=0.5"
    text = re.sub(r"\bDIMS\((\w+), ", rf"DIMS(\1, {short}, ", text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        run_page(page, text)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_in_order_without_a_warning(page):
    run_page(page, (DOCS / page).read_text())
