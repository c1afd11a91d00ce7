"""The eager loop of the DiMS benchmark is the same algorithm as ours."""

import importlib
from pathlib import Path

import pyro
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["overparameterised", "eight_schools"])
def test_the_eager_loop_takes_our_steps(monkeypatch, name):
    monkeypatch.syspath_prepend(str(FOLDER))
    common = importlib.import_module("_dims_common")
    eager = importlib.import_module("_dims_eager")
    torch.set_default_dtype(torch.float64)
    # short: rounding changes the choice of steps after some fifty of them
    short = {"explore_time": 0.4, "settle_time": 0.1}
    case = common.make_case(name, 3, quick=False, dtype=torch.float64, **short)
    stats, _ = common.throw(case, rung="traced")
    loss = eager.loss_of(case)
    with pyro.validation_enabled(False):
        ends = [
            eager.trajectory(loss, q, v, case.options)
            for q, v in zip(case.q, case.v, strict=True)
        ]
    tried = stats["n_steps"] + stats["n_rejected"]
    assert [end.steps for end in ends] == tried.tolist()
    ours = stats["loss"].tolist()
    assert [end.loss for end in ends] == pytest.approx(ours, rel=1e-6, abs=1e-6)
