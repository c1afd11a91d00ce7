"""Choices of agents: one pass gives what the filter and the response give apart."""

from typing import Any

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.infer.importance import vectorized_importance_weights
from pyro.optim import Adam  # pyright: ignore[reportAttributeAccessIssue]

from pyro_geo.density import Target
from pyro_geo.filtering import hgf_filter
from pyro_geo.filtering.hgf import agent
from pyro_geo.filtering.hgf.response import BinaryAgent, UnitSquare
from pyro_geo.filtering.hgf.run import run_trajectory
from pyro_geo.infer import HMC, MCMC
from pyro_geo.testing.gates import check_posterior, student_limit

F64 = torch.float64
START = [1.0], [0.0, 1.0], [10.0, 1.0]
SUBJECTS, TRIALS = 3, 40


def number(value):
    return torch.tensor(value, dtype=F64)


def data():
    generator = torch.Generator().manual_seed(0)
    shape = SUBJECTS, TRIALS
    u = (torch.rand(shape, generator=generator) < 0.7).to(F64)
    y = torch.where(torch.rand(shape, generator=generator) < 0.2, 1 - u, u)
    omega = -4 + torch.randn(2, SUBJECTS, 2, generator=generator, dtype=F64)
    zeta = 1 + torch.rand(2, SUBJECTS, generator=generator, dtype=F64)
    return u, y, omega.requires_grad_(), zeta.requires_grad_()


def gradients(value, *leaves):
    return torch.autograd.grad(value.square().sum(), leaves)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_one_pass_gives_what_two_steps_give(levels):
    """Also with choices that are missing, and gone beyond what is clipped."""
    u, y, omega, zeta = data()
    omega = torch.cat([omega, omega - 1], -1)[..., :levels].detach().requires_grad_()
    y = torch.where(torch.arange(TRIALS) % 5 == 0, torch.nan, y)
    rest = [1.0] * (levels - 1) or None, [15.0] + [0.0] * (levels - 1), [9.0] * levels
    agents = BinaryAgent(u, zeta, omega, *rest, nan_policy="missing")
    beliefs = hgf_filter(u, omega, *rest, kind="binary", backend="torch")
    apart = UnitSquare(beliefs, zeta, nan_policy="missing")
    assert agents._call.fused
    assert agents.batch_shape == (2, SUBJECTS)
    found, expected = agents.log_prob(y), apart.log_prob(y)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(agents.log_prob_steps(y), apart.log_prob_steps(y))
    for one, other in zip(
        gradients(found, omega, zeta), gradients(expected, omega, zeta), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def choices(u, y):
    """Each subject has a volatility and a sharpness."""
    with pyro.plate("subject", len(u)):
        omega = pyro.sample("omega", dist.Normal(number(-4.0), 0.7))
        zeta = pyro.sample("zeta", dist.LogNormal(number(0.5), 0.5))
        both = torch.stack([omega, torch.full_like(omega, -6.0)], -1)
        pyro.sample("y", BinaryAgent(u, zeta, both, *START), obs=y)


def apart(u, y):
    """The same in operations of torch."""
    with pyro.plate("subject", len(u)):
        omega = pyro.sample("omega", dist.Normal(number(-4.0), 0.7))
        zeta = pyro.sample("zeta", dist.LogNormal(number(0.5), 0.5))
        both = torch.stack([omega, torch.full_like(omega, -6.0)], -1)
        beliefs = hgf_filter(u, both, *START, kind="binary", backend="torch")
        pyro.sample("y", UnitSquare(beliefs, zeta), obs=y)


def targets(trials):
    """The fused and the plain model, positions and directions."""
    u, y, *_ = data()
    u, y = u[:, :trials], y[:, :trials]
    fused, plain = (Target.from_model(m, u, y, dtype=F64) for m in (choices, apart))
    generator = torch.Generator().manual_seed(1)
    q, v = torch.randn(2, 4, 6, generator=generator, dtype=F64)
    q[:, fused.layout.sites["omega"].slice] -= 3
    return fused, plain, q, v


def test_a_target_has_values_and_gradients():
    fused, plain, q, _ = targets(trials=3)
    for one, other in zip(
        fused.value_and_grad(q), plain.value_and_grad(q), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert not fused.notes


@pytest.mark.slow
def test_a_target_has_products_with_the_hessian():
    fused, plain, q, v = targets(trials=12)
    expected = plain.hvp(q, v)
    torch.testing.assert_close(fused.hvp(q, v), expected, rtol=1e-8, atol=1e-8)


def test_choices_can_be_drawn_and_the_batch_be_made_larger():
    u, _, omega, zeta = data()
    agents = BinaryAgent(u, zeta[0].detach(), omega[0].detach(), *START)
    assert agents.sample((5,)).shape == (5, SUBJECTS, TRIALS)
    more = agents.expand((7, SUBJECTS))
    y = more.sample()
    torch.testing.assert_close(more.log_prob(y), more.log_prob_steps(y).sum(-1))
    assert agents.beliefs is not None
    drawn = Predictive(lambda: pyro.sample("y", agents.mask(True)), num_samples=2)()
    assert drawn["y"].shape == (2, SUBJECTS, TRIALS)


def test_beliefs_wait_until_they_are_asked_for(monkeypatch):
    """They cost more than the log-density, which has no need of them."""
    u, y, omega, zeta = data()
    runs = []

    def counted(call):
        runs.append(call)
        return run_trajectory(call)

    monkeypatch.setattr(agent, "run_trajectory", counted)
    agents = BinaryAgent(u, zeta[0], omega[0], *START)
    more = agents.expand((7, SUBJECTS))
    agents.log_prob(y).sum().backward()
    more.log_prob(y)
    assert not runs
    expected = hgf_filter(u, omega[0], *START, kind="binary")
    assert more.beliefs is not None
    torch.testing.assert_close(more.beliefs.mu, expected.mu)
    apart = UnitSquare(expected, zeta[0])
    torch.testing.assert_close(more.base.logits[3], apart.base.logits)
    assert len(runs) == 1


def check_guide(guide, u, y, ours, false_alarm=1e-4):
    """Draws of a guide, weighed by importance, have the means of those of chains.

    The weights take out that the guide is normal and that its descent is not at its
    end; what is left is Monte Carlo error, measured on either side.
    """
    with torch.no_grad():
        found: Any = vectorized_importance_weights(
            choices, guide, u, y, num_samples=8000, max_plate_nesting=1
        )
    log_weights, _, trace = found
    _, shape = az.psislw(log_weights.double().numpy())
    assert float(shape) < 0.7  # else the error is not known
    weights = log_weights.double().softmax(0)
    for name, values in ours.items():
        theirs = trace.nodes[name]["value"].reshape(-1, SUBJECTS)
        mean = weights @ theirs
        variance = weights.square() @ (theirs - mean).square()
        chains = values.mean(1)
        variance = variance + chains.var(0) / len(chains)
        score = (mean - chains.mean(0)) / variance.sqrt()
        limit = student_limit(len(chains) - 1, false_alarm / (len(ours) * SUBJECTS))
        assert bool((score.abs() < limit).all())


@pytest.mark.slow
def test_pyro_reaches_the_same_posterior():
    """Our HMC, Pyro's NUTS, and a normal guide whose draws are weighed."""
    u, y, *_ = data()
    fit = MCMC(
        HMC(choices, init_strategy="prior", target_accept_prob=0.9),
        200,
        num_chains=32,
        seed=0,
        dtype=F64,
        progress_bar=False,
    )
    ours = fit.run(u, y).get_samples(group_by_chain=True)
    pyro.set_rng_seed(0)
    kernel = NUTS(choices, jit_compile=False)
    start = {"omega": torch.full((SUBJECTS,), -4.0).to(F64)}
    start["zeta"] = torch.zeros(SUBJECTS, dtype=F64)
    nuts = PyroMCMC(kernel, 800, 300, initial_params=start, disable_progbar=True)
    nuts.run(u, y)
    theirs = nuts.get_samples()
    reference = {name: theirs[name].to(F64)[:, None] for name in ours}
    # draws of one chain are not independent: a tenth of them nearly are
    check_posterior(ours, {k: v[::4] for k, v in reference.items()})
    guide = AutoMultivariateNormal(choices, init_scale=0.1)
    svi = SVI(choices, guide, Adam({"lr": 0.02}), Trace_ELBO(8))
    for _ in range(600):
        svi.step(u, y)
    check_guide(guide, u, y, ours)
    pyro.clear_param_store()
