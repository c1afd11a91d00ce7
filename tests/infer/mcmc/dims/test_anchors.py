"""Anchors: trained, looked at, and told apart from points that are no minima."""

import importlib.util
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import (
    AnchorNotConvergedWarning,
    NonFiniteLossError,
    UnboundedMinimumWarning,
)
from pyro_geo.infer.mcmc.dims.anchors import (
    Anchors,
    examine_anchors,
    train_anchors,
)
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.polishing import polish_lanes
from tests.cases import numbers, regression

MODELS = Path(__file__).parents[4] / "models"
X, Y = numbers(3, 5), numbers(3, seed=1)
POINTS = numbers(30, 2, seed=3)


def gallery(name) -> Any:
    spec = importlib.util.spec_from_file_location(name, MODELS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logistic(x, y):
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 10.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def labels(separable):
    logits = POINTS @ torch.tensor([2.0, -1.0], dtype=torch.float64)
    noise = 0.0 if separable else 2.0
    return (logits + noise * numbers(30, seed=4) > 0).double()


@pytest.fixture(scope="module")
def target():
    return Target.from_model(regression, X, Y, dtype=torch.float64)


def train(target, loss: Any = "nll", chains=2, lanes=None, **options):
    strategy = target.default_strategy
    generator = torch.Generator().manual_seed(0)
    start = target.initial(chains, strategy, generator)
    settings = DIMSOptions(**options)
    return train_anchors(target, Objective(loss), start, settings, lanes or chains)


def test_joint_training_finds_the_posterior_mode(target):
    precision = X.T @ X / 0.25 + torch.eye(5, dtype=torch.float64)
    mode = torch.linalg.solve(precision, X.T @ Y / 0.25)
    anchors = train(target, "joint")
    torch.testing.assert_close(anchors.q, mode.expand(2, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(anchors.loss, -target.log_prob(anchors.q))
    assert bool((anchors.predicted < 1e-7).all())
    assert anchors.warnings(1e-2) == []


@pytest.mark.slow
def test_nll_training_finds_different_perfect_fits(target):
    anchors = train(target)
    residual = anchors.q @ X.T - Y
    assert bool((residual.abs() < 1e-4).all())
    assert float((anchors.q[0] - anchors.q[1]).norm()) > 0.1
    assert bool((anchors.grad.norm(dim=-1) < 1e-2).all())


def test_an_anchor_does_not_depend_on_the_others(target):
    generator = torch.Generator().manual_seed(0)
    start = target.initial(3, "median", generator)
    settings, loss = DIMSOptions(anchor_steps=750), Objective("joint")
    # rows that stop early, late, and in between
    start = start * torch.tensor([[0.0], [1.0], [40.0]]).double()
    together = train_anchors(target, loss, start, settings, 3)
    for row in range(3):
        alone = train_anchors(target, loss, start[row : row + 1], settings, 3)
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one[0], other[row])


def test_given_anchors_stay_where_they_are(target):
    trained = train(target, "joint")
    q = trained.q + 0.1 * numbers(2, 5, seed=6)
    anchors = examine_anchors(target, Objective("joint"), q, DIMSOptions(), 2)
    assert torch.equal(anchors.q, q)
    # a rough promise: no more than there is, and not much less
    share = anchors.predicted / (anchors.loss - trained.loss)
    assert bool(((share > 0.5) & (share < 1.001)).all())


def test_points_that_are_no_minima_warn(target):
    q = numbers(3, 5, seed=6)
    q[1] = train(target, "joint").q[0]
    anchors = examine_anchors(target, Objective("joint"), q, DIMSOptions(), 3)
    (warning,) = anchors.warnings(1e-2)
    assert type(warning) is AnchorNotConvergedWarning
    assert "anchors 0, 2" in str(warning)
    assert f"{float(anchors.predicted.max()):.3g} nat" in str(warning)


def test_many_rows_are_counted_not_listed():
    bad, none = torch.ones(20), torch.zeros(20, dtype=torch.bool)
    anchors = Anchors(torch.zeros(20, 2), bad, torch.zeros(20, 2), bad, none, none)
    (warning,) = anchors.warnings(1e-2)
    assert "0, 1, 2, 3, 4, 5, 6, 7, ..." in str(warning)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_an_anchor_without_a_loss_is_an_error(bad):
    target = Target.from_potential(lambda q: q[0].log() ** 2 + q[1] ** 2, 2)
    q = torch.tensor([[1.0, 0.0], [1.0, 0.5], [bad, 0.0]])
    with pytest.raises(NonFiniteLossError, match="anchor 7"):
        examine_anchors(target, Objective(), q, DIMSOptions(), 3, [5, 6, 7])
    examine_anchors(target, Objective(), q[:2], DIMSOptions(), 2)


BOTH = [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOTH)
def test_separable_data_have_no_minimum(dtype):
    target = Target.from_model(logistic, POINTS, labels(True), dtype=dtype)
    anchors = train(target)
    assert bool(anchors.unbounded.all())
    (warning,) = anchors.warnings(1e-2)
    assert type(warning) is UnboundedMinimumWarning


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOTH)
def test_a_scale_that_shrinks_with_its_effects_has_no_minimum(dtype):
    schools = gallery("eight_schools_centred")
    target = Target.from_model(schools.model, *schools.data(), dtype=dtype)
    assert bool(train(target, "joint", chains=3).unbounded.all())


@pytest.mark.slow
def test_ordinary_losses_have_minima(target):
    schools = gallery("eight_schools")
    noisy = Target.from_model(logistic, POINTS, labels(False), dtype=torch.float64)
    separable = Target.from_model(logistic, POINTS, labels(True), dtype=torch.float64)
    effects = Target.from_model(schools.model, *schools.data())
    cases = [
        (noisy, "nll"),
        (separable, "joint"),  # the prior ends it
        (target, "nll"),
        (target, "joint"),
        (effects, "nll"),
        (effects, "joint"),
    ]
    for other, loss in cases:
        anchors = train(other, loss)
        assert not bool(anchors.unbounded.any())
        assert anchors.warnings(1e-2) == []


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["joint", "nll"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_networks_have_minima(loss, dtype):
    network = gallery("gap_network")
    target = Target.from_model(network.model, *network.data(), dtype=dtype)
    anchors = train(target, loss, chains=3)
    assert not bool(anchors.unbounded.any())


@pytest.mark.parametrize("steps", [0, 20])
def test_little_training_is_no_sign_of_a_missing_minimum(target, steps):
    for loss in ("joint", "nll"):
        assert not bool(train(target, loss, anchor_steps=steps).unbounded.any())


def test_polishing_goes_lane_by_lane(target):
    q = numbers(5, 5, seed=8)
    whole = polish_lanes(target, Objective("joint"), q, 3, tolerance=1e-8, max_steps=20)
    one = polish_lanes(
        target, Objective("joint"), q[4:], 3, tolerance=1e-8, max_steps=20
    )
    assert torch.equal(whole.q[4:], one.q)
    assert whole.status.tolist() == [1] * 5
