"""The filter against its formulas with fifty digits, closed forms and symmetries."""

import math
from typing import Any

import pytest
import torch

from pyro_geo._compat.torch import make_fx
from pyro_geo.filtering import HGFTrajectory, hgf_filter, hgf_surprise
from tests.filtering.hgf import reference

DOUBLE = torch.float64


def run(*arguments: Any, **options: Any) -> HGFTrajectory:
    """Filter with the operations of torch."""
    return hgf_filter(*arguments, backend="torch", **options)


def near(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Compare with a tolerance that is relative above 1 and absolute below."""
    expected = torch.as_tensor(expected, dtype=DOUBLE)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def walk(count: int, *batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(*batch, count, generator=generator, dtype=DOUBLE)
    return steps.cumsum(-1) * 0.7 + 0.5 * steps


def settings(levels: int) -> dict:
    """Parameters of one series, all different."""
    return {
        "omega": [-2.0, -1.0, -3.0][:levels],
        "kappa": [0.8, -1.3][: levels - 1],
        "mu0": [0.3, -0.4, 0.2][:levels],
        "pi0": [2.0, 0.7, 1.5][:levels],
    }


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("kind", ["continuous", "binary"])
@pytest.mark.parametrize("update", ["unbounded", "ehgf"])
def test_every_step_has_the_digits_of_a_double(levels, kind, update):
    generator = torch.Generator().manual_seed(levels)
    u = walk(12)
    u = (u > 0).double() if kind == "binary" else u
    observed = torch.ones(12, dtype=torch.bool)
    observed[[3, 7, 8]] = False
    steps = 0.2 + 2 * torch.rand(12, generator=generator, dtype=DOUBLE)
    own = settings(levels)
    more = {
        "drift": [0.1, -0.2, 0.05][:levels],
        "autoconnection": [0.9, 1.0, 0.8][:levels],
        "value_coupling": [0.4, -0.3][: levels - 1],
    }
    path = run(
        u,
        **own,
        input_precision=1.7,
        kind=kind,
        update=update,
        observed=observed,
        time_step=steps,
        **more,
    )
    seen = [x if o else None for x, o in zip(u.tolist(), observed, strict=True)]
    mu, pi, surprise = reference.series(
        seen,
        **own,
        input_precision=1.7,
        kind=kind,
        update=update,
        steps=steps.tolist(),
        drift=more["drift"],
        rate=more["autoconnection"],
        value=more["value_coupling"],
    )
    near(path.mu, mu)
    near(path.pi, pi)
    near(path.surprise, surprise)


@pytest.mark.parametrize("update", ["classic", "ehgf_pyhgf"])
def test_updates_that_may_fail_are_right_where_they_do_not(update):
    u, own = walk(15, seed=3) * 0.2, settings(3)
    path = run(u, **own, input_precision=4.0, update=update, predictive="state")
    mu, pi, surprise = reference.series(
        u.tolist(), **own, input_precision=4.0, update=update, predictive="state"
    )
    near(path.mu, mu)
    near(path.pi, pi)
    near(path.surprise, surprise)


@pytest.mark.parametrize("levels", [1, 3])
def test_without_coupling_the_evidence_is_that_of_a_random_walk(levels):
    u = walk(40)
    own = settings(levels) | {"kappa": [0.0] * (levels - 1)}
    path = run(u, **own, input_precision=1.7)
    steps = torch.arange(1, 41, dtype=DOUBLE)
    covariance = torch.minimum(steps[:, None], steps) * math.exp(-2.0)
    covariance = covariance + 1 / 2.0 + torch.eye(40, dtype=DOUBLE) / 1.7
    mean = torch.full((40,), 0.3, dtype=DOUBLE)
    whole = torch.distributions.MultivariateNormal(mean, covariance).log_prob(u)
    assert path.surprise.sum().item() == pytest.approx(-whole.item(), rel=1e-13)
    # and the last belief is the conditional one of all inputs
    cross = steps * math.exp(-2.0) + 1 / 2.0
    gain = torch.linalg.solve(covariance, cross)
    last = 40 * math.exp(-2.0) + 1 / 2.0 - gain @ cross
    assert path.mu[-1, 0].item() == pytest.approx(0.3 + (gain @ (u - 0.3)).item())
    assert path.pi[-1, 0].item() == pytest.approx(1 / last.item(), rel=1e-11)
    assert (path.mu[:, 1:] == path.muhat[:, 1:]).all()


def test_one_level_is_a_kalman_filter_with_gaps_drift_and_uneven_steps():
    u, observed = walk(30), torch.rand(30, generator=torch.Generator()) < 0.7
    steps = torch.linspace(0.1, 3, 30, dtype=DOUBLE)
    path = run(
        u,
        [-1.0],
        None,
        [0.3],
        [2.0],
        1.7,
        observed=observed,
        time_step=steps,
        drift=0.2,
    )
    mean, variance = 0.3, 0.5
    for k, (x, seen, t) in enumerate(zip(u, observed, steps, strict=True)):
        mean, variance = mean + 0.2 * t, variance + t * math.exp(-1)
        gain = variance / (variance + 1 / 1.7) if seen else 0.0
        mean, variance = mean + gain * (x - mean), (1 - gain) * variance
        assert path.mu[k, 0].item() == pytest.approx(float(mean), rel=1e-12)
        assert 1 / path.pi[k, 0].item() == pytest.approx(float(variance), rel=1e-12)


def same(path, other, **changes) -> None:
    """Compare beliefs and surprise, after undoing what the change does to them."""
    mean = changes.get("mean", lambda x: x)
    precision = changes.get("precision", lambda x: x)
    near(mean(other.mu), path.mu, 1e-11)
    near(precision(other.pi), path.pi, 1e-11)
    near(other.surprise - changes.get("surprise", 0.0), path.surprise, 1e-11)


@pytest.mark.parametrize("update", ["unbounded", "ehgf", "moment"])
def test_symmetries_of_the_whole_filter(update):
    u = walk(60)
    own = {k: torch.tensor(v, dtype=DOUBLE) for k, v in settings(3).items()}
    omega, kappa, mu0, pi0 = own.values()

    def go(u, omega, kappa, mu0, pi0, noise=1.7):
        return run(u, omega, kappa, mu0, pi0, noise, update=update)

    path = go(u, omega, kappa, mu0, pi0)
    unit, second = torch.eye(3, dtype=DOUBLE)[0], torch.eye(3, dtype=DOUBLE)[1]
    c = 7.0
    wide = 1 + (c - 1) * unit
    scale = go(
        c * u, omega + 2 * torch.log(wide), kappa, wide * mu0, pi0 / wide**2, 1.7 / c**2
    )
    same(
        path,
        scale,
        mean=lambda x: x / wide,
        precision=lambda x: x * wide**2,
        surprise=math.log(c),
    )
    shift = go(u, omega - 2.5 * kappa[0] * unit, kappa, mu0 + 2.5 * second, pi0)
    same(path, shift, mean=lambda x: x - 2.5 * second)
    s = 1 + 1.5 * second
    stretch = go(
        u,
        omega + 2 * torch.log(s),
        torch.stack([kappa[0] / 2.5, kappa[1]]),
        mu0 * s,
        pi0 / s**2,
    )
    same(path, stretch, mean=lambda x: x / s, precision=lambda x: x * s**2)
    flip = 1 - 2 * unit
    same(path, go(-u, omega, kappa, flip * mu0, pi0), mean=lambda x: flip * x)
    flip = 1 - 2 * second
    turned = torch.stack([-kappa[0], kappa[1]])
    same(path, go(u, omega, turned, flip * mu0, pi0), mean=lambda x: flip * x)


def test_a_constant_step_is_more_volatility_and_drift():
    u, own = walk(40), settings(3)
    slow = run(u, **own, input_precision=1.7, time_step=0.4, drift=[0.5, 0.0, -0.1])
    own["omega"] = [x + math.log(0.4) for x in own["omega"]]
    same(slow, run(u, **own, input_precision=1.7, drift=[0.2, 0.0, -0.04]))


def test_two_pieces_are_one():
    u, own = walk(50), settings(3)
    observed = torch.arange(50) % 7 != 3
    options = {"input_precision": 1.7, "value_coupling": 0.2}
    whole = run(u, **own, observed=observed, **options)
    first = run(u[:23], **own, observed=observed[:23], **options)
    second = run(
        u[23:],
        own["omega"],
        own["kappa"],
        observed=observed[23:],
        init_state=first.final_state,
        **options,
    )
    for name in ("mu", "pi", "muhat", "pihat", "surprise", "pe_value", "pe_volatility"):
        both = torch.cat([getattr(first, name), getattr(second, name)])
        assert torch.equal(both, getattr(whole, name)), name


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_series_do_not_depend_on_the_batch(kind):
    u = walk(20, 1, 4)
    u = (u > 0).double() if kind == "binary" else u
    omega = torch.tensor([[-3.0, -1.0], [-1.0, 0.5], [2.0, -6.0]], dtype=DOUBLE)
    own = ([1.0], [0.0, 0.0], [1.0, 1.0], 2.0)
    # three sets of parameters for each of four series
    path = run(u, omega[:, None], *own, kind=kind)
    assert path.mu.shape == (3, 4, 20, 2)
    for i in range(3):
        for j in range(4):
            one = run(u[0, j], omega[i], *own, kind=kind)
            near(path.mu[i, j], one.mu, 1e-13)
            near(path.surprise[i, j], one.surprise, 1e-13)


def test_steps_without_input_only_widen():
    u, own = walk(30), settings(3)
    observed = torch.arange(30) < 10
    path = run(u, **own, input_precision=1.7, observed=observed)
    assert (path.mu[10:] == path.mu[9]).all()
    assert (path.pi[10:].diff(dim=0) < 0).all()
    assert (path.surprise[10:] == 0).all()
    assert (path.pe_value[10:] == 0).all()
    assert (path.pe_volatility[10:] == 0).all()
    other = torch.where(observed, u, 1e9)
    assert torch.equal(
        run(other, **own, input_precision=1.7, observed=observed).mu, path.mu
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e12, 1e15])
def test_an_outlier_is_survived_and_forgotten(dtype, size):
    u = walk(140).to(dtype) * 0.1
    u[20] = size
    own = {k: torch.tensor(v, dtype=dtype) for k, v in settings(2).items()}
    own["kappa"] = torch.ones(1, dtype=dtype)
    for x in own.values():
        x.requires_grad_()
    path = run(u, **own, input_precision=1.0)
    gradients = torch.autograd.grad(path.surprise.sum(), list(own.values()))
    assert all(g.isfinite().all() for g in gradients)
    mu = path.mu.detach()
    assert mu.isfinite().all()
    change = (path.mu - path.muhat)[20, 0].item()
    assert mu[20, 1].item() == pytest.approx(2 * math.log(change), rel=0.25)
    assert (mu[23, 0] - u[23]).abs() < 2
    assert mu[121:, 1].max() < 1.1


def test_single_precision_stays_close_over_a_long_series():
    u, own = walk(300, seed=5), settings(2)
    found = []
    for dtype in (torch.float32, torch.float64):
        omega = torch.tensor(own["omega"], dtype=dtype, requires_grad=True)
        rest = (own["kappa"], own["mu0"], own["pi0"], 2.0)
        total = hgf_surprise(u.to(dtype), omega, *rest, backend="torch").sum()
        (gradient,) = torch.autograd.grad(total, omega)
        found.append((total.detach().double(), gradient.double()))
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=2e-6)
    torch.testing.assert_close(*(g for _, g in found), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("update", ["unbounded", "classic", "ehgf", "collapsed"])
def test_first_and_second_derivatives_of_the_surprise(update):
    u = walk(3)
    own = [[-2.0, -1.0], [0.8], [0.3, -0.4], [2.0, 3.0], 1.7]
    leaves = [torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in own]

    def total(*leaves):
        return hgf_surprise(u, *leaves, update=update, backend="torch").sum()

    assert torch.autograd.gradcheck(total, leaves)
    assert torch.autograd.gradgradcheck(total, leaves)


def test_the_surprise_is_traced_under_transforms():
    u = walk(3)
    own = ([0.8], [0.3, -0.4], [2.0, 3.0], 1.7)

    def total(omega):
        surprise = hgf_surprise(u, omega, *own, backend="torch", on_invalid="-inf")
        return surprise.sum()

    omega = torch.tensor([[-2.0, -1.0], [-4.0, 2.0]], dtype=DOUBLE)
    plain: Any = torch.autograd.functional
    expected = torch.stack([plain.jacobian(total, o) for o in omega])
    mapped = torch.func.vmap(torch.func.grad(total))
    torch.testing.assert_close(mapped(omega), expected)
    traced = make_fx(mapped)(omega)
    torch.testing.assert_close(traced(omega + 0.5), mapped(omega + 0.5))
    hessian = torch.func.vmap(torch.func.hessian(total))(omega)
    again = torch.stack([plain.hessian(total, o) for o in omega])
    torch.testing.assert_close(hessian, again)


def test_the_collapsed_mode_integrates_the_lower_level_out():
    u, own = walk(25, seed=4), settings(2) | {"kappa": [1.0]}
    path = run(u, **own, input_precision=2.0, update="collapsed")
    x = torch.linspace(-60, 60, 60_001, dtype=DOUBLE)
    before = torch.cat([torch.tensor([[0.5, 1 / 0.7]], dtype=DOUBLE), 1 / path.pi])
    for k in range(25):
        prior = torch.distributions.Normal(path.muhat[k, 1], path.pihat[k, 1].rsqrt())
        spread = before[k, 0] + 0.5 + torch.exp(x - 2.0)
        child = torch.distributions.Normal(path.muhat[k, 0], spread.sqrt())
        log_p = prior.log_prob(x) + child.log_prob(u[k])
        evidence = log_p.logsumexp(0) + math.log(0.002)
        p = torch.softmax(log_p, 0)
        mean = (p * x).sum()
        variance = (p * (x - mean) ** 2).sum()
        assert path.surprise[k].item() == pytest.approx(-evidence.item(), abs=2e-3)
        assert ((path.mu[k, 1] - mean) / variance.sqrt()).abs() < 1e-2
        assert path.pi[k, 1].item() == pytest.approx(1 / variance.item(), rel=3e-2)
        hat = 1 / (before[k, 0] + math.exp(path.muhat[k, 1].item() - 2.0))
        assert path.pi[k, 0].item() == pytest.approx(hat.item() + 2.0, rel=1e-12)
