"""Certificates side by side, on a problem whose true risk is known."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_geo.infer import GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import certify
from pyro_geo.infer.certificates.report import certificate_report

DOUBLE = torch.float64


def points(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of a half plane, a tenth of them turned over."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
    flip = torch.rand(n, generator=generator) < 0.1
    y = (x @ torch.tensor([1.0, -0.5], dtype=DOUBLE)).sign()
    return x, torch.where(flip, -y, y)


def model(x: Tensor, y: Tensor) -> Tensor:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=x.dtype), 2.0).to_event(1))
    f = x @ w
    pyro.sample("y", dist.Normal(f, 1.0).to_event(1), obs=y)
    return f


def wrong(f: Tensor, y: Tensor) -> Tensor:
    return (f * y <= 0).to(f)


def test_report_of_a_noisy_half_plane(tmp_path) -> None:
    data, test = points(300, 0), points(5_000, 1)
    gibbs = GibbsModel(model, lambda f, y: softplus(-f * y))
    run = GibbsPosterior(
        gibbs, betas=[0.1, 1.0], num_particles=64, seed=1, progress_bar=False
    )
    posterior = run.run(data, data[1])
    report = certificate_report(
        posterior, wrong, (data, data[1]), test=(test, test[1]), seed=3
    )
    table = report.tables["Certificates"].set_index("what is deployed")
    assert len(table) == 5
    assert set(table["status"]) == {"finite_sample"}
    assert set(table["delta"]) == {0.05}
    # one failure in twenty each is allowed; a tenth of the labels is noise
    tested, bound = table["test risk"].to_numpy(), table["risk at most"].to_numpy()
    assert tested.min() > 0.08
    assert (tested < bound).all()

    ladder = report.tables["Temperatures"]
    assert len(ladder) == len(posterior.stages)
    price = ladder["price"] - ladder["complexity"]
    # within the pooled codebook each temperature pays for their number
    assert price.to_numpy() == pytest.approx(math.log(len(ladder)), abs=1e-3)
    last = certify(posterior.codebook(), wrong, (data, data[1]), predictor="gibbs")
    assert ladder["certificate"].iloc[-1] == pytest.approx(last.value, abs=1e-4)

    path = posterior.report(tmp_path / "r.html", report.tables, report.curves)
    text = path.read_text()
    assert "risk at most" in text
    assert text.count("<img") >= 2
    assert "over inverse temperature" in text
