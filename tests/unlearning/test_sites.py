"""Sites of data taken out of guides, against exact posteriors and quadrature."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from pyro_geo.errors import (
    ConfigurationError,
    ForgetSetError,
    LeverageError,
    MissingCurvatureError,
    NonStationaryWarning,
    UnsupportedError,
)
from pyro_geo.unlearning.sites import delete_sites
from tests.unlearning.exact import (
    Gaussian,
    data,
    intercepts,
    intercepts_posterior,
    leverage,
    linear,
    posterior,
)

ROWS = [3, 17, 40]


def keep(x: Tensor, rows: list[int]) -> Tensor:
    return x[[i for i in range(len(x)) if i not in rows]]


def dense_guide(model: object, args: tuple[Tensor, ...], q: Gaussian, order: list[int]):
    """A guide at a known normal distribution, in the order of its own sites."""
    guide = AutoMultivariateNormal(model)
    guide(*args)
    guide.double()
    root = torch.linalg.cholesky(q.covariance[order][:, order])
    with torch.no_grad():
        guide.loc.copy_(q.loc[order])
        guide.scale = root.diagonal().clone()
        guide.scale_tril = root / root.diagonal()[:, None]
    return guide


def linear_guide(x: Tensor, y: Tensor):
    return dense_guide(linear, (x, y), posterior(x, y), [0, 1, 2])


def test_removal_is_exact_for_a_gaussian_likelihood() -> None:
    x, y = data()
    less = delete_sites(linear, linear_guide(x, y), x, y, forget=ROWS)
    truth = posterior(keep(x, ROWS), keep(y, ROWS))
    torch.testing.assert_close(less.loc, truth.loc, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(less.covariance, truth.covariance, rtol=1e-9, atol=1e-12)
    assert less.leverage.leverage == pytest.approx(leverage(x, y, ROWS), abs=1e-9)
    found = less.guide.get_posterior()
    torch.testing.assert_close(found.mean, truth.loc)
    torch.testing.assert_close(found.covariance_matrix, truth.covariance)


def test_the_guide_and_the_store_are_left_alone() -> None:
    x, y = data()
    guide = linear_guide(x, y)
    names = set(pyro.get_param_store().keys())
    before = {n: p.detach().clone() for n, p in guide.named_parameters()}
    state = torch.random.get_rng_state()
    delete_sites(linear, guide, x, y, forget=ROWS, polish=2)
    assert all(torch.equal(p, before[n]) for n, p in guide.named_parameters())
    assert set(pyro.get_param_store().keys()) == names
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_independent_coordinates_stay_so(kind: type) -> None:
    """One step is one unit step of natural gradient in the family of the guide."""
    x, y = data()
    q = posterior(x, y)
    guide = kind(linear)
    guide(x, y)
    guide.double()
    sd = q.precision.diagonal().rsqrt()
    with torch.no_grad():
        if kind is AutoNormal:
            guide.locs.w.copy_(q.loc)
            guide.scales.w = sd
        else:
            guide.loc.copy_(q.loc)
            guide.scale = sd
    less = delete_sites(linear, guide, x, y, forget=ROWS)
    truth = posterior(keep(x, ROWS), keep(y, ROWS))
    assert type(less.guide) is kind
    gradient = truth.precision @ (truth.loc - q.loc)  # of what stays, at the guide
    torch.testing.assert_close(less.loc, q.loc + gradient / truth.precision.diagonal())
    torch.testing.assert_close(
        less.precision.dense().diagonal(), truth.precision.diagonal()
    )


# -- a logistic regression with one coefficient, by quadrature ------------------------


def logistic(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=w * x), obs=y)


X = torch.tensor([1.0, -0.5, 2.0, 0.7, -1.5, 0.4, 1.1, -0.9], dtype=torch.float64)
Y = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
NODES, SHARES = (
    torch.as_tensor(x) for x in __import__("numpy").polynomial.hermite_e.hermegauss(80)
)
SHARES = SHARES / SHARES.sum()


def slopes(w: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
    """First and second derivative of the log-likelihood of some rows."""
    p = torch.sigmoid(w[:, None] * X[rows])
    first = ((Y[rows] - p) * X[rows]).sum(1)
    return first, -(p * (1 - p) * X[rows].square()).sum(1)


def expectations(loc: float, precision: float, rows: list[int]) -> tuple[float, float]:
    w = loc + NODES / math.sqrt(precision)
    first, second = slopes(w, rows)
    return float(SHARES @ first), float(SHARES @ second)


def fixed_point(rows: list[int]) -> tuple[float, float]:
    """Optimum of the ELBO on some rows, by natural-gradient steps."""
    loc, precision = 0.0, 2.0
    for _ in range(300):
        first, second = expectations(loc, precision, rows)
        precision = 0.5 * precision + 0.5 * (1 - second)
        loc = loc + 0.5 * (first - loc) / precision
    return loc, precision


def scalar_guide(loc: float, precision: float):
    q = Gaussian(torch.tensor([loc]).double(), torch.tensor([[precision]]).double())
    return dense_guide(logistic, (X, Y), q, [0])


def test_one_step_is_one_natural_step_of_the_retained_elbo() -> None:
    loc, precision = fixed_point(list(range(8)))
    less = delete_sites(
        logistic, scalar_guide(loc, precision), X, Y, forget=[2, 7], num_samples=4096
    )
    first, second = expectations(loc, precision, [0, 1, 3, 4, 5, 6])
    new = 1 - second  # unit step: prior and retained sites
    assert float(less.precision.dense()) == pytest.approx(new, rel=2e-4)
    assert float(less.loc) == pytest.approx(loc + (first - loc) / new, abs=2e-4)


def test_the_iteration_ends_at_the_eubo_optimum() -> None:
    loc, precision = fixed_point(list(range(8)))
    less = delete_sites(
        logistic,
        scalar_guide(loc, precision),
        *(X, Y),
        forget=[2, 7],
        steps=300,
        step_size=0.5,
        cutoff=0.0,
        num_samples=4096,
    )
    assert less.change < 1e-5

    def eubo(mean: Tensor, log_sd: Tensor) -> Tensor:
        w = mean + NODES * log_sd.exp()
        p = torch.sigmoid(w[:, None] * X[[2, 7]])
        goes = SHARES @ torch.where(Y[[2, 7]] > 0, p, 1 - p).log().sum(1)
        apart = 0.5 * precision * ((2 * log_sd).exp() + (mean - loc) ** 2) - log_sd
        return goes + apart

    mean = torch.tensor(loc, dtype=torch.float64, requires_grad=True)
    log_sd = torch.tensor(-0.5 * math.log(precision), dtype=torch.float64)
    log_sd.requires_grad_()
    optimiser = torch.optim.LBFGS([mean, log_sd], max_iter=200, tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = eubo(mean, log_sd)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert float(less.loc) == pytest.approx(mean.item(), abs=2e-4)
    assert float(less.covariance.sqrt()) == pytest.approx(log_sd.exp().item(), rel=2e-4)
    # the twin: one step alone is not the optimum
    one = delete_sites(logistic, scalar_guide(loc, precision), X, Y, forget=[2, 7])
    assert abs(float(one.loc) - mean.item()) > 1e-3


def test_a_likelihood_that_runs_away_is_cut_off() -> None:
    """Twice the data that pull to one side: far out, the EUBO falls for long."""
    loc, precision = fixed_point(list(range(8)))
    guide = scalar_guide(loc, precision)
    options = {"forget": [0, 2, 6, 7], "steps": 100, "step_size": 0.5}
    near = delete_sites(logistic, guide, X, Y, **options)
    # all that is left of the guide is where its mass was
    assert abs(float(near.loc) - loc) * math.sqrt(precision) < 3.3


def test_two_guides_of_one_class_keep_their_numbers() -> None:
    x, y = data()
    guide = linear_guide(x, y)
    one, two = (
        delete_sites(linear, guide, x, y, forget=r) for r in (ROWS, [1, 2, 5, 8])
    )
    for less in (guide, one.guide, two.guide):  # all are called, and meet in the store
        less()
    torch.manual_seed(0)
    for less in (one, two):
        drawn = torch.stack([less.guide()["w"] for _ in range(300)])
        sd = less.covariance.diagonal().sqrt()
        off = (drawn.mean(0) - less.loc) / sd * math.sqrt(300)
        assert float(off.detach().abs().max()) < 4.5
    apart = (one.loc - two.loc) / one.covariance.diagonal().sqrt() * math.sqrt(300)
    assert float(apart.abs().max()) > 4.5  # else the gate could not tell them apart


def test_a_polish_goes_on_to_the_retained_optimum() -> None:
    loc, precision = fixed_point(list(range(8)))
    guide = scalar_guide(loc + 1.0, precision)  # one and a half standard deviations off
    truth = fixed_point([0, 1, 3, 4, 5, 6])[0]
    options = {"forget": [2, 7], "seed": 1}
    with pytest.warns(NonStationaryWarning):
        less = delete_sites(logistic, guide, X, Y, **options)
    with pytest.warns(NonStationaryWarning):
        more = delete_sites(
            logistic, guide, X, Y, polish=80, learning_rate=0.08, **options
        )
    assert abs(float(less.loc) - truth) > 0.2
    assert abs(float(more.loc) - truth) < 0.12


def test_latents_of_deleted_subjects_are_dropped() -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    # the model samples the mean before the intercepts
    guide = dense_guide(
        intercepts, (y,), intercepts_posterior(y), [6, 0, 1, 2, 3, 4, 5]
    )
    less = delete_sites(intercepts, guide, y, forget=[0, 5])
    truth = intercepts_posterior(y[1:5])
    torch.testing.assert_close(less.loc, truth.loc)
    torch.testing.assert_close(less.covariance, truth.covariance)
    assert less.guide()["b"].shape == (4,)


def test_wrong_data_are_refused() -> None:
    x, y = data()
    guide = linear_guide(x, y)
    wrong = x.clone()
    wrong[3] = 40.0
    with pytest.raises(LeverageError, match="leverage"):
        delete_sites(linear, guide, wrong, y, forget=[3])
    with pytest.warns(NonStationaryWarning, match="not converged"):
        delete_sites(linear, guide, x, y + 1, forget=[3])


def test_mistakes_are_named() -> None:
    x, y = data()
    guide = linear_guide(x, y)
    for rows in ([], [1, 1], [60], list(range(60))):
        with pytest.raises(ForgetSetError):
            delete_sites(linear, guide, x, y, forget=rows)
    with pytest.raises(ConfigurationError, match="step_size"):
        delete_sites(linear, guide, x, y, forget=ROWS, step_size=1.5)
    point = AutoDelta(linear)
    point(x, y)
    with pytest.raises(MissingCurvatureError):
        delete_sites(linear, point, x, y, forget=ROWS)
    with pytest.raises(UnsupportedError):
        delete_sites(linear, linear, x, y, forget=ROWS)


def test_data_of_the_model_alone_stay_in_it() -> None:
    x, y = data()

    def closed(y: Tensor) -> None:
        linear(x, y)

    guide = dense_guide(closed, (y,), posterior(x, y), [0, 1, 2])
    less = delete_sites(closed, guide, y, forget=ROWS)
    truth = posterior(keep(x, ROWS), keep(y, ROWS))
    torch.testing.assert_close(less.covariance, truth.covariance)
    assert less.notes
    with pytest.raises(UnsupportedError, match="SVI"):
        delete_sites(closed, guide, y, forget=ROWS, polish=5)
