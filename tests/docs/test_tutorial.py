"""The pages' code, as a reader would paste it: each page is one session."""

import math
import re
import warnings
from pathlib import Path

import pytest

from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer import HMC

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    "tutorials/first_posterior.md",
    "tutorials/first_ensemble.md",
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
SHORT = [page for page in PAGES if page not in ("dims.md", "tracking.md")]
# the others in the long tests alone
SHORT_AND_SOON = ("tutorials/first_posterior.md", "how_to/kernel.md")
CHOSEN = [
    page if page in SHORT_AND_SOON else pytest.param(page, marks=pytest.mark.slow)
    for page in SHORT
]


def run_page(page, text):
    """Run a page's blocks in order, in one namespace."""
    names: dict[str, object] = {"__name__": "page"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S))
    assert blocks, page
    for block in blocks:
        # blank lines in front, so that a failure points at its line of the page
        line = text[: block.start(1)].count("\n")
        source = "\n" * line + block.group(1)
        exec(compile(source, str(DOCS / page), "exec"), names)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own for each page."""
    monkeypatch.chdir(tmp_path)


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
