"""Learning coefficients: closed forms, exact integrals, estimates against them."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from scipy import integrate
from torch import Tensor

from pyro_geo import Target
from pyro_geo.errors import (
    BetaRangeError,
    ConfigurationError,
    ConvergenceWarning,
    NonFiniteLossError,
    ShapeError,
)
from pyro_geo.infer.certificates.learning import (
    fit_free_energy,
    heat_capacity,
    llc,
    population_bound,
    rlct,
    tempered_losses,
    two_temperature,
    wbic,
)
from pyro_geo.infer.certificates.learning.agreement import compare_chains

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


# -- closed forms ----------------------------------------------------------------------


def test_deep_linear_networks_of_one_hidden_layer_are_reduced_rank() -> None:
    for m, h, n in itertools.product(range(1, 7), repeat=3):
        for r in range(min(m, h, n) + 1):
            deep, shallow = (
                rlct.deep_linear([m, h, n], r),
                rlct.reduced_rank(m, h, n, r),
            )
            assert deep.value == pytest.approx(shallow.value)
            assert deep.multiplicity == shallow.multiplicity


def test_coefficients_are_at_most_half_the_parameters() -> None:
    for widths in itertools.product(range(1, 5), repeat=4):
        count = sum(a * b for a, b in itertools.pairwise(widths))
        for r in range(min(widths) + 1):
            found = rlct.deep_linear(widths, r)
            # at least the parameters of the map itself
            least = r * (widths[0] + widths[-1] - r) / 2
            assert least - 1e-9 <= found.value <= count / 2 + 1e-9
            assert found.multiplicity >= 1
            assert rlct.deep_linear(widths[::-1], r) == found


@pytest.mark.parametrize(
    ("found", "value", "multiplicity"),
    [
        (rlct.reduced_rank(6, 4, 6, 2), 13.5, 1),
        (rlct.reduced_rank(4, 3, 4, 1), 6.0, 1),
        (rlct.deep_linear([2, 2, 2, 2], 0), 1.5, 3),
        (rlct.deep_linear([3, 3, 3, 3], 1), 4.0, 3),
        (rlct.tanh_zero(1), 0.5, 2),
        (rlct.tanh_zero(4), 1.0, 2),
        (rlct.normal_crossing([1, 1, 1]), 0.5, 3),
        (rlct.normal_crossing([1, 2], [0, 3]), 0.5, 1),
        (rlct.regular(4), 2.0, 1),
    ],
)
def test_published_values(found: Any, value: float, multiplicity: int) -> None:
    assert found.value == pytest.approx(value)
    assert found.multiplicity == multiplicity


def free_energy_of_xy(t: float) -> float:
    """Of x^2 y^2 on [-1, 1]^2, by quadrature."""

    def inner(x: float) -> float:
        root = math.sqrt(t) * x
        return math.sqrt(math.pi) * math.erf(root) / (2 * root)

    total, _ = integrate.quad(inner, 0, 1, limit=200)
    return -math.log(total)


def test_a_normal_crossing_shows_in_its_free_energy() -> None:
    t = torch.logspace(3, 6, 25, dtype=DOUBLE)
    energy = torch.tensor([free_energy_of_xy(float(x)) for x in t], dtype=DOUBLE)
    exact = [
        -math.log(
            0.5
            * math.sqrt(math.pi / x)
            / 2
            * (math.log(x) + 0.5772157 + 2 * math.log(2))
        )
        for x in t.tolist()
    ]
    torch.testing.assert_close(energy, torch.tensor(exact).double(), atol=1e-5, rtol=0)
    # the multiplicity 2 is known: without it the slope is far too small
    assert fit_free_energy(t, energy, 2).value == pytest.approx(0.5, abs=0.03)
    assert fit_free_energy(t, energy, 1).value < 0.44


# -- estimates -----------------------------------------------------------------------


def regression(d: int = 4, n: int = 500) -> tuple[Target, Tensor]:
    """Linear regression by its moments, and the least-squares solution."""
    x = random(n, d)
    y = x @ random(d, seed=1) + random(n, seed=2)
    xx, xy, yy = x.mT @ x, x.mT @ y, y @ y

    def potential(w: Tensor, xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
        return 0.5 * (yy - 2 * w @ xy + w @ xx @ w)

    target = Target.from_potential(potential, d, xx, xy, yy, dtype=DOUBLE)
    return target, torch.linalg.solve(xx, xy)


def test_a_regular_model_has_half_its_parameters() -> None:
    target, best = regression()
    # of a quadratic loss: sum over directions of h / (h + pull) / 2
    beta = 1 / math.log(500)
    xx = target.data[0]
    h = beta * torch.linalg.eigvalsh(xx)
    exact = float(0.5 * (h / (h + 1.0)).sum())
    found = llc(target, best, n=500, seed=1)
    assert found.value == pytest.approx(exact, abs=4.5 * found.standard_error)
    assert found.standard_error < 0.15
    assert found.r_hat < 1.05
    assert found.reliable
    assert found.reasons == ()
    assert found.estimate == found.value
    assert found.heat_capacity == pytest.approx(2.0, abs=0.5)
    assert found.acceptance == pytest.approx(0.8, abs=0.15)
    assert found.trace.shape == (8, 200)


@pytest.mark.slow
def test_directions_that_do_not_count_are_not_counted() -> None:
    target = Target.from_potential(
        lambda q: 200 * (q[0] * q[1]) ** 2 + 200 * q[2] ** 2, 6, dtype=DOUBLE
    )
    found = llc(target, torch.zeros(6, dtype=DOUBLE), n=400, seed=0)
    # by quadrature over the crossing, half for the third direction
    beta = 1 / math.log(400)

    def mean(power: int) -> float:
        # the second direction integrated out, normal of precision a = 400 beta x^2 + 1
        def density(x: float) -> float:
            a = 400 * beta * x**2 + 1
            value = math.exp(-0.5 * x**2) * a**-0.5
            return value * (200 * beta * x**2 / a if power else 1.0)

        return integrate.quad(density, -8, 8, points=[0.0], limit=400)[0]

    h = 400 * beta
    exact = mean(1) / mean(0) + 0.5 * h / (h + 1)
    assert found.value == pytest.approx(exact, abs=4.5 * found.standard_error + 0.02)


@pytest.mark.slow
def test_runs_reproduce_and_leave_the_global_state_alone() -> None:
    target, best = regression(2, 100)
    state = torch.get_rng_state()
    options: dict[str, Any] = {"n": 100, "num_samples": 100, "warmup_steps": 50}
    first = llc(target, best, seed=3, **options)
    again = llc(target, best, seed=3, **options)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.trace, again.trace)


@pytest.mark.slow
def test_sites_and_positions_are_the_same() -> None:
    import pyro
    import pyro.distributions as dist

    def model(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 1.0))
        pyro.sample("y", dist.Normal(torch.zeros_like(y), scale).to_event(1), obs=y)

    y = random(200)
    target = Target.from_model(model, y, dtype=DOUBLE)
    best = y.square().mean().sqrt()
    by_site = llc(target, {"scale": best}, n=200, seed=0)
    flat = llc(target, best.log()[None], n=200, seed=0)
    assert by_site.value == flat.value
    assert by_site.value == pytest.approx(0.5, abs=4.5 * by_site.standard_error + 0.02)


SHORT: dict[str, Any] = {
    "n": 500,
    "num_chains": 4,
    "num_samples": 30,
    "warmup_steps": 30,
    "num_leapfrog": 5,
    "seed": 1,
}


def factors(q: Tensor) -> Tensor:
    """A matrix of rank two as a product: zero is a saddle."""
    u, v = q[:6].reshape(3, 2), q[6:].reshape(2, 3)
    return 250 * (u @ v - torch.diag(q.new_tensor([2.0, 1.0, 0.0]))).square().sum()


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("off the minimum", "a Newton step predicts a decrease"),
        ("double well", "curves down in a direction along which it falls"),
        ("factors at zero", "curves down in a direction along which it falls"),
        ("another valley", "found a lower loss"),
    ],
)
def test_a_start_that_is_no_minimum_gives_no_number(case: str, reason: str) -> None:
    target, at = regression()
    if case == "off the minimum":
        at = at + 1.0
    elif case == "double well":
        target = Target.from_potential(
            lambda q: 500 * ((q[0] ** 2 - 1) ** 2 + q[1] ** 2), 2, dtype=DOUBLE
        )
        at = torch.zeros(2, dtype=DOUBLE)
    elif case == "factors at zero":
        target = Target.from_potential(factors, 12, dtype=DOUBLE)
        at = torch.zeros(12, dtype=DOUBLE)
    else:  # a minimum at zero, above others that chains reach
        target = Target.from_potential(
            lambda q: (10 * (1 - (4 * q).cos()) - 8 * q * q).sum(), 2, dtype=DOUBLE
        )
        at = torch.zeros(2, dtype=DOUBLE)
    with pytest.warns(ConvergenceWarning, match=reason):
        found = quietly(lambda: llc(target, at, **SHORT), but=reason)
    assert not found.reliable
    assert any(reason in text for text in found.reasons)
    assert math.isnan(found.value)
    assert math.isnan(found.heat_capacity)
    assert math.isfinite(found.estimate)
    assert str(found).startswith("no learning coefficient: ")
    assert reason in str(found)


def quietly(call: Any, but: str = "nothing") -> Any:
    """Call, and let through the warnings that hold a text alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("always", f".*{but}", ConvergenceWarning)
        return call()


def test_chains_in_two_valleys_give_no_number() -> None:
    """Chains of one temperature that lie in valleys of different height."""
    series = random(2, 100)
    series = torch.cat([series, 5 + series])
    with pytest.warns(ConvergenceWarning, match="heat_capacity.*disagree"):
        assert math.isnan(heat_capacity(series, 1.0))
    with pytest.warns(ConvergenceWarning, match="inverse temperature 1, chains dis"):
        found = two_temperature(series, 1.0, series[:2].repeat(2, 1), 2.0)
    assert not found.reliable
    assert math.isnan(found.value)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (random(4, 100) + torch.tensor([0.0, 0, 0, 3])[:, None], "R-hat"),
        (random(4, 4000) + torch.tensor([0.0, 0, 0, 0.2])[:, None], "Monte Carlo"),
        (random(3, 50).index_fill(0, torch.tensor([1]), 2.0), "chain 1 never moved"),
        (random(3, 50).index_fill(1, torch.tensor([7]), math.nan), "3 of 150 losses"),
        (random(3, 50).index_fill(1, torch.tensor([7]), math.inf), "not finite"),
        (random(4, 3), "too few draws"),
        (random(1, 12), "too few draws"),
        (random(1, 400).cumsum(1), "R-hat"),
    ],
)
def test_chains_that_cannot_be_trusted(series: Tensor, reason: str) -> None:
    found = compare_chains(series)
    assert reason in "; ".join(found.reasons)
    with pytest.warns(ConvergenceWarning, match="heat_capacity"):
        assert math.isnan(heat_capacity(series, 1.0))


def test_chains_that_agree_are_seldom_told_to_differ() -> None:
    """100 sets of correlated, skewed series: no more alarms than are claimed."""
    alarms = 0
    for seed in range(100):
        noise, z = random(8, 200, seed=seed), random(8, seed=1_000 + seed)
        rows = []
        for k in range(200):
            z = 0.6 * z + 0.8 * noise[:, k]
            rows.append(z.square())
        alarms += bool(compare_chains(torch.stack(rows, 1)).reasons)
    # a rate of 1e-4 gives two or more of 100 once in 20,000 times
    assert alarms <= 1


def test_a_loss_that_nothing_changes_has_no_parameters() -> None:
    target = Target.from_potential(lambda q: 7 + 0 * q.sum(), 2, dtype=DOUBLE)
    found = llc(target, torch.zeros(2, dtype=DOUBLE), **SHORT)
    assert (found.value, found.reliable) == (0.0, True)
    assert str(found) == "learning coefficient 0 ± 0"


def test_a_start_without_a_loss_is_an_error() -> None:
    target = Target.from_potential(lambda q: q.log().square().sum(), 2, dtype=DOUBLE)
    with pytest.raises(NonFiniteLossError, match="argument at.*nan"):
        llc(target, -torch.ones(2, dtype=DOUBLE), **SHORT)


@pytest.mark.slow
def test_estimates_of_a_normal_model() -> None:
    target, best = regression()
    beta = 1 / math.log(500)
    losses = tempered_losses(target, beta, seed=1)
    least = -float(target.log_likelihood(best[None])[0])
    # flat prior: E[nL] = nL0 + d / (2 beta), exactly
    spread = float(losses.mean(1).std()) / 4
    assert float(losses.mean()) == pytest.approx(least + 2 / beta, abs=4.5 * spread)
    assert heat_capacity(losses, beta) == pytest.approx(2.0, abs=0.25)
    colder = tempered_losses(target, 3 * beta, seed=2)
    found = two_temperature(losses, beta, colder, 3 * beta)
    assert found.value == pytest.approx(2.0, abs=4.5 * found.standard_error)
    assert found.standard_error < 0.1
    whole = wbic(target, 500, seed=1)
    assert whole.value == pytest.approx(float(losses.mean()), rel=1e-12)


def test_slope_is_that_of_the_line() -> None:
    t = torch.logspace(1, 5, 40, dtype=DOUBLE)
    energy = 2.5 * t.log() - 2 * t.log().log() + 7 + 0.01 * random(40)
    found = fit_free_energy(t, energy, 3)
    assert found.value == pytest.approx(2.5, abs=5 * found.standard_error)
    with pytest.raises(ShapeError, match="three points"):
        fit_free_energy(t[:2], energy[:2])


def test_sharp_bound_is_never_above_the_published_one() -> None:
    for lam, constant, omega, n in itertools.product(
        (0.5, 3.0), (0.5, 1.5), (0.1, 1.0), (10, 1000)
    ):

        def phi(t: float, lam: float = lam) -> float:
            return lam * math.log1p(t)

        sharp, published = (
            population_bound(phi, omega, constant, n, form=form).value
            for form in ("sharp", "published")
        )
        assert sharp <= published + 1e-12
    assert population_bound(math.log1p, 1.0, 1.0, 100).status == "oracle"


def test_published_figures_of_the_crossing() -> None:
    # x^2 y^2 as excess risk, L = 1, omega = 1: .368 and .341 at 50, .0227, .0192
    def phi(t: float) -> float:
        return free_energy_of_xy(t)

    for n, published, sharp in ((50, 0.368, 0.341), (1000, 0.0227, 0.0192)):
        found = population_bound(phi, 1.0, 1.0, n, form="published").value
        assert found == pytest.approx(published, rel=0.01)
        assert population_bound(phi, 1.0, 1.0, n).value == pytest.approx(
            sharp, rel=0.01
        )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: population_bound(math.log1p, 1.0, 2.0, 9), BetaRangeError),
        (lambda: population_bound(math.log1p, 1.0, 1.0, 9, 2.0), ConfigurationError),
        (lambda: rlct.reduced_rank(2, 2, 2, 3), ConfigurationError),
        (lambda: rlct.normal_crossing([0, 0]), ConfigurationError),
        (lambda: rlct.deep_linear([3], 1), ConfigurationError),
        (lambda: rlct.tanh_zero(0), ConfigurationError),
        (lambda: rlct.relu_upper([3]), ConfigurationError),
        (lambda: two_temperature(random(2, 2), 1.0, random(2, 2), 1.0), BetaRangeError),
        (lambda: tempered_losses(regression()[0], 0.0), BetaRangeError),
        (lambda: llc(*regression(), n=500, num_chains=0), ConfigurationError),
        (lambda: llc(*regression(), n=1), ConfigurationError),
        (lambda: wbic(regression()[0], 1), BetaRangeError),
        (
            lambda: fit_free_energy(torch.arange(2.0, 9), torch.full((7,), math.nan)),
            ConfigurationError,
        ),
        (lambda: llc(regression()[0], torch.zeros(3), n=9), ShapeError),
    ],
)
def test_bad_input(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()
