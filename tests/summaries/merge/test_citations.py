"""Every merging method names the work that it follows."""

import re

import pytest
import torch

from pyro_geo import citation
from pyro_geo.summaries.merge import baselines, frechet_merge

KEYS = {
    "average": "2203.05482",
    "dare": "2311.03099",
    "fisher": "2111.09832",
    "gram": "2212.09849",
    "iso_c": "2502.04959",
    "iso_cts": "2502.04959",
    "larv": "2602.09413",
    "regmean": "2212.09849",
    "regmean_pp": "2508.03121",
    "task_arithmetic": "2212.04089",
    "ties": "2306.01708",
    "tsv_merge": "2412.00081",
    "wudi": "2503.08099",
}


def test_the_list_is_whole():
    assert set(KEYS) == set(baselines.__all__)


@pytest.mark.parametrize("name", KEYS)
def test_a_baseline_cites_its_paper(name):
    method = getattr(baselines, name)
    text = citation(method)
    assert re.findall(r"eprint\s*=\s*{(.*)}", text) == [KEYS[name]]
    # the same paper as in its docstring
    assert KEYS[name] in (method.__doc__ or "")


def test_a_merge_and_its_report_cite_epimer():
    base = {"w": torch.zeros(2, 2)}
    x = torch.eye(2)
    result = frechet_merge(
        base,
        [{"w": torch.eye(2)}, {"w": -torch.eye(2)}],
        forwards=lambda p, x: x @ p["w"],
        inputs=[x, x],
    )
    for obj in (result, result.report):
        assert "2605.26693" in citation(obj)
