"""Updates of a volatility parent against quadrature, many digits and differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.errors import ConfigurationError
from pyro_geo.filtering import variational_energy, volatility_update
from pyro_geo.filtering.hgf.expansions import Coupling, expand
from pyro_geo.filtering.hgf.volatility import UPDATES
from tests.filtering.hgf import reference

DOUBLE = torch.float64
SOUND = ("unbounded", "ehgf", "moment")


def box(count: int, *, extreme: bool = False) -> list[torch.Tensor]:
    """Draw arguments of an update, far beyond what series lead to if extreme."""
    generator = torch.Generator().manual_seed(21)

    def between(low: float, high: float) -> torch.Tensor:
        draw = torch.rand(count, generator=generator, dtype=DOUBLE)
        return low + (high - low) * draw

    alpha = 10 ** (between(-10, 6) if extreme else between(-6, 3))
    ratio = 10 ** (between(-8, 14) if extreme else between(0, 6))
    kappa = between(-3, 3)
    omega = between(-30, 30) if extreme else between(-10, 10)
    t = 10 ** (between(-3, 3) if extreme else between(-1, 1))
    mu_hat = between(-100, 60) if extreme else between(-30, 30)
    pi_hat = 10 ** (between(-6, 8) if extreme else between(-2, 3))
    return [alpha, alpha * ratio, kappa, omega, t, mu_hat, pi_hat]


def published() -> tuple[list[torch.Tensor | float], torch.Tensor, torch.Tensor]:
    """The published grid, points of the parent, and the log-density there."""
    ratio = torch.tensor([1, 2, 5, 10, 20, 50, 100, 200], dtype=DOUBLE)[:, None]
    mu_hat = torch.linspace(-15, 15, 61, dtype=DOUBLE)
    grid = [0.005, 0.005 * ratio, 1.0, 0.0, 1.0, mu_hat, 0.5]
    x = torch.linspace(-60, 60, 4001, dtype=DOUBLE)
    at = [a[..., None] if isinstance(a, torch.Tensor) else a for a in grid]
    log_p = variational_energy(x, *at)
    return grid, x, log_p - log_p.logsumexp(-1, keepdim=True) - math.log(0.03)


def divergence(kind: str) -> torch.Tensor:
    """Divergence of each belief of the grid from its fit, NaN where that failed."""
    grid, x, log_p = published()
    mean, precision = volatility_update(kind, *grid)
    log_q = 0.5 * torch.log(precision / (2 * math.pi))[..., None]
    log_q = log_q - 0.5 * precision[..., None] * (x - mean[..., None]) ** 2
    return (log_p.exp() * (log_p - log_q)).sum(-1) * 0.03


@pytest.mark.parametrize(
    ("kind", "failed", "mean", "largest"),
    [
        ("unbounded", 0, 0.02268, 1.13),
        ("moment", 0, 0.01058, 0.938),
        ("ehgf", 0, 7.95, 508),
        ("classic", 31, 21.1, 9.1e3),
    ],
)
def test_divergence_on_the_published_grid(kind, failed, mean, largest):
    found = divergence(kind)
    assert found.isnan().sum() == failed
    assert found.nanmean().item() == pytest.approx(mean, rel=2e-3)
    assert found.nan_to_num().max().item() == pytest.approx(largest, rel=2e-3)


def test_the_projection_has_the_moments_of_the_belief():
    grid, x, log_p = published()
    p = log_p.exp() * 0.03
    mean = (p * x).sum(-1)
    variance = (p * (x - mean[..., None]) ** 2).sum(-1)
    found, precision = volatility_update("moment", *grid)
    assert ((found - mean).abs() / variance.sqrt()).max() < 1e-2
    assert ((precision * variance - 1).abs()).max() < 5e-2


@pytest.mark.parametrize("kind", ["unbounded", "ehgf", "ehgf_pyhgf", "classic"])
def test_updates_have_the_digits_of_a_double(kind):
    arguments = box(60)
    found = torch.stack(volatility_update(kind, *arguments), -1)
    points = torch.stack(arguments, -1).tolist()
    expected = [[float(v) for v in reference.update(kind, *point)] for point in points]
    expected = torch.tensor(expected, dtype=DOUBLE)
    error, deviation = (found - expected)[:, 0].abs(), expected[:, 1].abs().rsqrt()
    assert (error <= 1e-11 * deviation + 1e-14 * expected[:, 0].abs()).all()
    torch.testing.assert_close(found[:, 1], expected[:, 1], rtol=1e-10, atol=0)


def test_a_prediction_far_below_what_happened():
    # Lambert's function with its argument cut at the largest double stays at -720
    point = (1e-8, 0.5, 1.0, 0.0, 1.0, -720.0, 0.5)
    mean, precision = volatility_update("unbounded", *point)
    expected, expected_precision = reference.update("unbounded", *point)
    assert mean.item() == pytest.approx(-7.26, abs=5e-3)
    assert mean.item() == pytest.approx(float(expected), rel=1e-12)
    assert precision.item() == pytest.approx(float(expected_precision), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("extreme", [False, True])
def test_values_and_gradients_are_finite_everywhere(kind, dtype, extreme):
    count = 20_000 if extreme and kind != "moment" else 2_000
    arguments = [x.to(dtype).requires_grad_() for x in box(count, extreme=extreme)]
    mean, precision = volatility_update(kind, *arguments)
    good = precision > 0
    assert bool(good.all()) == (kind in SOUND)
    assert mean.isfinite().all()
    assert precision.isfinite().all()
    total = (mean + torch.log(torch.where(good, precision, 1.0))).sum()
    for gradient in torch.autograd.grad(total, arguments):
        assert gradient.isfinite().all()


def test_single_precision_is_near_double():
    arguments = box(2_000)
    rounded = [x.float() for x in arguments]
    mean, precision = volatility_update("unbounded", *(x.double() for x in rounded))
    found, found_precision = volatility_update("unbounded", *rounded)
    error = (found - mean).abs() * precision.sqrt()
    assert error.quantile(0.99) < 1e-4
    assert error.max() < 1e-3
    torch.testing.assert_close(found_precision.double(), precision, rtol=1e-3, atol=0)


def points() -> st.SearchStrategy:
    one = st.floats(-1, 1)
    return st.tuples(one, one, one, one, one, one, one)


def scaled(draw) -> list[torch.Tensor]:
    a, b, kappa, omega, t, mu_hat, pi_hat = draw
    values = [10**a, 10 ** (a + 2 * b), 2 * kappa, omega, 10**t, 3 * mu_hat, 10**pi_hat]
    return [torch.tensor(x, dtype=DOUBLE) for x in values]


def near(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@given(points(), st.sampled_from(UPDATES))
def test_only_what_is_meant_matters(draw, kind):
    alpha, beta, kappa, omega, t, mu_hat, pi_hat = scaled(draw)
    if kappa.abs() < 1e-3:
        return
    mean, precision = volatility_update(
        kind, alpha, beta, kappa, omega, t, mu_hat, pi_hat
    )
    sign = volatility_update(kind, alpha, beta, -kappa, omega, t, -mu_hat, pi_hat)
    near(sign, (-mean, precision))
    moved = omega - 2 * kappa
    shift = volatility_update(kind, alpha, beta, kappa, moved, t, mu_hat + 2, pi_hat)
    near(shift, (mean + 2, precision))
    stretch = volatility_update(
        kind, alpha, beta, kappa / 3, omega, t, 3 * mu_hat, pi_hat / 9
    )
    near(stretch, (3 * mean, precision / 9))
    scale = volatility_update(
        kind, 5 * alpha, 5 * beta, kappa, omega + math.log(5), t, mu_hat, pi_hat
    )
    near(scale, (mean, precision))
    time = volatility_update(
        kind, alpha, beta, kappa, omega + torch.log(t), 1.0, mu_hat, pi_hat
    )
    near(time, (mean, precision))


@given(points())
def test_the_mean_lies_between_the_expansions(draw):
    alpha, beta, kappa, omega, t, mu_hat, pi_hat = scaled(draw)
    r = torch.log(t) + kappa * mu_hat + omega - torch.log(alpha)
    two = expand(r, torch.log(beta / alpha), pi_hat, Coupling.of(kappa))
    mean, precision = volatility_update(
        "unbounded", alpha, beta, kappa, omega, t, mu_hat, pi_hat
    )
    low, high = sorted([two.first.item(), two.second.item()])
    assert low - 1e-12 <= (mean - mu_hat).item() <= high + 1e-12
    assert precision > 0


def test_a_child_that_was_certain_gives_the_mode_itself():
    _, beta, kappa, omega, t, mu_hat, pi_hat = box(200)
    kappa = torch.where(kappa.abs() < 0.1, 0.1, kappa)
    log_alpha = math.log(1e-300)
    r = torch.log(t) + kappa * mu_hat + omega - log_alpha
    two = expand(r, torch.log(beta) - log_alpha, pi_hat, Coupling.of(kappa))
    change = r + log_alpha + kappa * two.second
    pull = 0.5 * kappa * (beta * torch.exp(-change) - 1)
    torch.testing.assert_close(pull, pi_hat * two.second, rtol=1e-9, atol=1e-9)
    mean, _ = volatility_update(
        "unbounded", 1e-300, beta, kappa, omega, t, mu_hat, pi_hat
    )
    alone = two.gain > 40  # the energy at the prediction is no rival
    assert alone.sum() > 50
    mode = (mu_hat + two.second)[alone]
    torch.testing.assert_close(mean[alone], mode, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", UPDATES)
def test_without_coupling_the_prediction_stays(kind):
    kappa = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    mean, precision = volatility_update(kind, 0.1, 50.0, kappa, -2.0, 1.0, 0.7, 3.0)
    assert (mean.item(), precision.item()) == (0.7, 3.0)
    (slope,) = torch.autograd.grad(mean, kappa)
    weight = math.exp(-2) / (0.1 + math.exp(-2))
    expected = weight * (50 / (0.1 + math.exp(-2)) - 1) / (2 * 3.0)
    assert slope.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", UPDATES)
def test_first_and_second_derivatives(kind):
    values = [(0.3, 0.2), (0.4, 3.0), (0.9, -1.4), (-1.0, 0.5), (1.0, 2.0)]
    values += [(0.3, -0.6), (1.7, 0.8)]
    arguments = [torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in values]

    def function(*arguments):
        return volatility_update(kind, *arguments)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


def test_the_energy_is_the_log_density_of_the_child():
    # a child that moves by N(0, alpha + exp(x)), seen without error
    x = torch.linspace(-3, 3, 7, dtype=DOUBLE)
    found = variational_energy(x, 0.2, 1.5**2, 1.0, 0.0, 1.0, 0.4, 2.0)
    spread = torch.sqrt(0.2 + torch.exp(x))
    child = torch.distributions.Normal(0.0, spread).log_prob(x.new_tensor(1.5))
    centre, spread = x.new_tensor(0.4), x.new_tensor(0.5**0.5)
    parent = torch.distributions.Normal(centre, spread).log_prob(x)
    gap = found - child - parent
    torch.testing.assert_close(gap, gap[0].expand(7))


def test_types_and_shapes_of_arguments():
    kappa = torch.ones(3, 1, dtype=torch.float32)
    mu_hat = torch.zeros(2)
    mean, precision = volatility_update("classic", 1, 2, kappa, 0, 1, mu_hat, 2)
    assert mean.shape == precision.shape == (3, 2)
    assert mean.dtype == torch.float32
    assert volatility_update("unbounded", 1, 2, 1, 0, 1, 0, 2)[0].dtype == DOUBLE
    with pytest.raises(ConfigurationError, match="'unbounded' or 'classic'"):
        volatility_update("best", 1, 2, 1, 0, 1, 0, 2)
