"""Posteriors of parameters, against conjugate ones and lists."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    NonFiniteDataError,
    PriorSupportError,
    ShapeError,
)
from pyro_geo.planning import (
    EnumeratedPosterior,
    Experience,
    FilterPosterior,
    MCMCPosterior,
    ParameterPosterior,
    Prior,
    PSISPosterior,
    dynamics_model,
)
from pyro_geo.planning.boolean_network import Channel, melanoma, rule_posterior

NOISE = 0.5


def law(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    return dist.Normal(s + theta[..., 0] * a, NOISE).log_prob(s_next)


def prior() -> Prior:
    return Prior({"push": dist.Normal(torch.tensor(0.0), 1.0)})


def watch(posterior: ParameterPosterior, count: int = 6) -> tuple[float, float]:
    """Show some steps; give mean and variance of the conjugate posterior."""
    g = torch.Generator().manual_seed(0)
    precision, total = 1.0, 0.0
    for _ in range(count):
        s, a, w = torch.randn(3, generator=g)
        s_next = s + 0.7 * a + NOISE * w
        posterior.observe(s, a, 0.0, s_next)
        precision += float(a) ** 2 / NOISE**2
        total += float(a * (s_next - s)) / NOISE**2
    return total / precision, 1 / precision


def moments(posterior: ParameterPosterior) -> tuple[float, float]:
    known = posterior.knowledge()
    w = known.log_weights.double().exp()
    assert float(w.sum()) == pytest.approx(1.0, abs=1e-6)
    mean = float(w @ known.theta[:, 0].double())
    return mean, float(w @ (known.theta[:, 0].double() - mean) ** 2)


def test_weighted_draws_are_the_conjugate_posterior() -> None:
    posterior = PSISPosterior(prior(), law)
    assert posterior.reliable
    mean, variance = watch(posterior)
    assert posterior.reliable
    assert 100 < posterior.ess < 4000
    assert posterior.khat < 0.7
    found = moments(posterior)
    assert abs(found[0] - mean) < 4 * math.sqrt(variance / posterior.ess)
    assert found[1] == pytest.approx(variance, rel=0.2)


def test_chains_are_the_conjugate_posterior_and_start_warm() -> None:
    posterior = MCMCPosterior(
        prior(), law, num_draws=1024, num_chains=128, warmup_steps=30
    )
    mean, variance = watch(posterior)
    found = moments(posterior)
    error = math.sqrt(variance / posterior.ess)
    assert posterior.ess > 300
    assert abs(found[0] - mean) < 4 * error
    assert found[1] == pytest.approx(variance, rel=0.2)


def test_a_pyro_model_of_the_dynamics_will_do() -> None:
    def model(steps: Experience) -> None:
        push = pyro.sample("push", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("steps", len(steps.reward)):
            mean = steps.s + push * steps.a
            pyro.sample("next", dist.Normal(mean, NOISE), obs=steps.s_next)

    options: Any = {"num_draws": 256, "num_chains": 64, "warmup_steps": 20}
    posterior = MCMCPosterior(prior(), model=model, **options)
    same = MCMCPosterior(prior(), law, **options)
    watch(posterior, 8)  # as many as are traced, so that nothing is padded
    watch(same, 8)
    torch.testing.assert_close(
        posterior.knowledge().theta, same.knowledge().theta, atol=1e-4, rtol=1e-4
    )


def test_padding_leaves_the_density_as_it_is() -> None:
    def steep(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        # not finite at a step of zeros, which no padding may be
        return law(theta, s, a, s_next) - a.abs().log()

    g = torch.Generator().manual_seed(1)
    steps = Experience(*torch.randn(4, 5, generator=g, dtype=torch.float64))
    model = dynamics_model(prior(), steep)
    q = torch.randn(7, 1, generator=g, dtype=torch.float64)
    options: Any = {"dtype": torch.float64}
    plain = Target.from_model(model, steps, **options)
    padded = Target.from_model(model, *steps.padded(16), **options)
    for found, expected in zip(
        padded.value_and_grad(q), plain.value_and_grad(q), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    # steps that count for something where they should not are another density
    twin = Target.from_model(model, steps.padded(16)[0], **options)
    assert bool(((twin.log_prob(q) - plain.log_prob(q)).abs() > 1).all())


def test_one_trace_serves_a_capacity_of_steps() -> None:
    options: Any = {"num_draws": 64, "num_chains": 32, "warmup_steps": 5}
    posterior = MCMCPosterior(prior(), law, **options)
    kept = []
    g = torch.Generator().manual_seed(2)
    for _ in range(9):
        s, a, w = torch.randn(3, generator=g)
        posterior.observe(s, a, 0.0, s + 0.7 * a + NOISE * w)
        if len(kept) in (0, 7, 8):
            posterior.knowledge()
        kept.append(posterior.target)
    assert kept[0] is not None
    assert all(target is kept[0] for target in kept[:8])
    assert kept[8] is not kept[0]


def test_the_fallback_steps_in_where_weights_fail() -> None:
    chains = MCMCPosterior(prior(), law, num_draws=64, num_chains=32, warmup_steps=20)
    posterior = PSISPosterior(prior(), law, num_draws=100, fallback=chains)
    far = torch.tensor(30.0)
    posterior.observe(torch.tensor(0.0), torch.tensor(10.0), 0.0, far)
    assert not posterior.reliable
    known = posterior.knowledge()
    assert known.theta.shape == (64, 1)
    assert float(known.theta.mean()) == pytest.approx(3 * 400 / 401, abs=0.05)


def test_enumeration_multiplies_likelihoods() -> None:
    theta = torch.tensor([[-1.0], [0.0], [0.7]], dtype=torch.float64)
    log_prior = torch.tensor([0.2, 0.5, 0.3]).double().log()
    posterior = EnumeratedPosterior(theta, law, log_prior)
    s, a, s_next = torch.tensor([0.3, 1.0, 0.9]).double()
    posterior.observe(s, a, 0.0, s_next)
    expected = log_prior + torch.distributions.Normal(s + theta[:, 0], NOISE).log_prob(
        s_next
    )
    weights = posterior.knowledge().log_weights
    torch.testing.assert_close(weights, expected.log_softmax(0))


@pytest.mark.parametrize("noisy", [False, True])
def test_a_filter_is_the_posterior_of_the_rules(noisy: bool) -> None:
    channel = Channel.bernoulli(0.1) if noisy else None
    problem = melanoma(unknown=[("RET1", 3), ("S100P", 0)], channel=channel)
    posterior = FilterPosterior(problem.filter())
    g = torch.Generator().manual_seed(1)
    y = torch.randint(2, (8, 10), generator=g).float()
    actions = torch.randint(3, (7,), generator=g)
    for t in range(7):
        posterior.observe(y[t], actions[t], 0.0, y[t + 1])
    known = posterior.knowledge()
    found = rule_posterior(
        problem.network, y, problem.actions[actions], mutation=0.01, channel=channel
    )
    torch.testing.assert_close(
        known.log_weights, found.log_weights, atol=1e-4, rtol=1e-4
    )
    assert (known.states is None) is not noisy
    if noisy:
        assert known.belief is not None
        torch.testing.assert_close(known.belief.sum(-1), torch.ones(4))


def test_steps_that_say_nothing_good_are_refused() -> None:
    uniform = Prior({"push": dist.Uniform(torch.tensor(0.0), 1.0)})

    def exact(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        return torch.where((theta[..., 0] - s_next).abs() < 0.1, 0.0, -torch.inf)

    posterior = PSISPosterior(uniform, exact, num_draws=100)
    one = torch.tensor(1.0)
    posterior.observe(one, one, 0.0, torch.tensor(0.5))
    with pytest.raises(PriorSupportError, match="no draw"):
        posterior.observe(one, one, 0.0, torch.tensor(0.9))
    with pytest.raises(NonFiniteDataError, match="reward"):
        posterior.observe(one, one, math.nan, one)
    with pytest.raises(ShapeError, match="theta"):
        EnumeratedPosterior(torch.zeros(3), exact)
    with pytest.raises(ConfigurationError, match="log_likelihood"):
        MCMCPosterior(uniform)
