"""The filter as a distribution: proper, and all that Pyro does with one."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroOptim

from pyro_geo.density import Target
from pyro_geo.distributions import HGF
from pyro_geo.errors import (
    ConfigurationError,
    HGFDomainError,
    HGFShapeError,
    ShapeError,
)
from pyro_geo.filtering import hgf_filter
from pyro_geo.infer import HMC
from pyro_geo.infer import MCMC as OurMCMC
from pyro_geo.results import MemoryDraws, PosteriorDraws

D = torch.float64
EXACT: Any = {"rtol": 1e-10, "atol": 1e-10}
SUBJECTS, STEPS = 3, 6
LEVELS: Any = ([-2.0, -3.0], [1.0], [0.0, 0.2], [1.0, 2.0])


def uniform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=D, generator=generator)


@pytest.fixture
def u():
    return (uniform(SUBJECTS, STEPS) < 0.7).to(D)


def hgf(*batch: int, **options: Any) -> HGF:
    omega = torch.tensor(LEVELS[0], dtype=D).expand(*batch, 2)
    given: dict[str, Any] = {"num_steps": STEPS, "kind": "binary", **options}
    return HGF(omega, *LEVELS[1:], **given)


def model(u, **options):
    omega = pyro.sample("omega", dist.Normal(-2.0, 1.0))
    levels = torch.stack([omega, torch.full_like(omega, -3.0)], -1)
    rows = HGF(levels, *LEVELS[1:], num_steps=u.shape[-1], kind="binary", **options)
    with pyro.plate("subject", len(u)):
        pyro.sample("u", rows, obs=u)


# -- the density -----------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 2])
def test_the_next_input_has_a_density_that_integrates_to_one(step):
    u = uniform(3, seed=1)
    grid = torch.linspace(-60, 60, 40_001, dtype=D)
    rows = u.expand(len(grid), 3).clone()
    rows[:, step] = grid
    series = HGF([-1.0, -2.0], [1.0], [0.0, 0.0], [1.0, 1.0], 2.0, num_steps=3)
    density = series.log_prob_steps(rows)[:, step].exp()
    assert abs(torch.trapezoid(density, grid).item() - 1) < 1e-10


def test_whole_series_of_zeros_and_ones_and_of_classes_add_up_to_one():
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=D)] * STEPS)
    assert abs(hgf().log_prob(every).exp().sum().item() - 1) < 1e-12
    classes = torch.cartesian_prod(*[torch.arange(3)] * 4)
    omega = torch.tensor([[-1.0], [-2.0], [0.0]], dtype=D)
    one = HGF(omega, None, [0.3], [1.0], num_steps=4, kind="categorical")
    assert one.batch_shape == ()
    assert one.log_prob_steps(classes).shape == (81, 4)
    assert abs(one.log_prob(classes).exp().sum().item() - 1) < 1e-12


def test_one_level_is_the_normal_of_a_random_walk():
    omega, pi0, precision = -1.0, 0.5, 4.0
    u = uniform(STEPS, seed=2)
    k = torch.arange(1, STEPS + 1, dtype=D)
    cov = torch.minimum(k[:, None], k) * math.exp(omega) + 1 / pi0
    cov += torch.eye(STEPS, dtype=D) / precision
    expected = dist.MultivariateNormal(torch.full((STEPS,), 0.7, dtype=D), cov)
    found = HGF([omega], None, [0.7], [pi0], precision, num_steps=STEPS).log_prob(u)
    torch.testing.assert_close(found, expected.log_prob(u), **EXACT)


def test_it_is_minus_the_surprise_of_the_filter(u):
    omega, kappa, mu0, pi0 = LEVELS
    trajectory = hgf_filter(u, omega, kappa, mu0, pi0, kind="binary")
    torch.testing.assert_close(
        hgf().log_prob_steps(u), -trajectory.surprise, rtol=1e-12, atol=1e-12
    )
    found = hgf(SUBJECTS).trajectory(u)
    assert torch.equal(found.mu, trajectory.mu)


# -- shapes ----------------------------------------------------------------------------


def test_batches_of_parameters_and_of_series_broadcast(u):
    chains = hgf(4, 1)  # chains, and one row for all subjects
    assert chains.batch_shape == (4, 1)
    assert chains.log_prob(u).shape == (4, SUBJECTS)
    wide = chains.expand([4, SUBJECTS])
    assert wide.shape() == (4, SUBJECTS, STEPS)
    torch.testing.assert_close(wide.log_prob(u), chains.log_prob(u), **EXACT)
    assert wide.omega.data_ptr() == chains.omega.data_ptr()  # nothing is copied
    joined: Any = wide.to_event(1)
    torch.testing.assert_close(joined.log_prob(u), wide.log_prob(u).sum(-1), **EXACT)
    mask: Any = torch.tensor([True, False, True])
    masked = wide.mask(mask).log_prob(u)
    assert bool((masked[:, 1] == 0).all())
    grown = hgf(time_step=torch.ones(SUBJECTS, STEPS, dtype=D))
    assert grown.batch_shape == (SUBJECTS,)
    assert grown.expand([2, SUBJECTS]).sample().shape == (2, SUBJECTS, STEPS)


def test_steps_are_counted_from_what_has_them():
    time = torch.ones(5, dtype=D)
    assert hgf(num_steps=None, time_step=time).event_shape == (5,)
    seen = torch.ones(2, 5, dtype=torch.bool)
    assert hgf(num_steps=None, observed=seen).batch_shape == (2,)
    assert hgf(time_step=time[:1]).event_shape == (STEPS,)
    with pytest.raises(HGFShapeError, match="steps differ"):
        hgf(time_step=time)
    with pytest.raises(ConfigurationError, match="num_steps"):
        hgf(num_steps=None)
    with pytest.raises(ShapeError, match="value"):
        hgf().log_prob(torch.ones(STEPS + 1, dtype=D))


def test_mistakes_are_named():
    with pytest.raises(HGFDomainError, match=r"pi0.*level 1"):
        HGF([-2.0, -2.0], [1.0], [0.0, 0.0], [1.0, -1.0], num_steps=3, kind="binary")
    u = torch.ones(SUBJECTS, STEPS, dtype=D)
    u[1, 2] = 0.5
    with pytest.raises(HGFDomainError, match=r"subject 1, trial 2"):
        hgf().log_prob(u)
    with pytest.raises(ConfigurationError, match="kind"):
        hgf(kind="boolean")
    assert hgf().support.check(torch.ones(STEPS)).all()
    omega, kappa, mu0, pi0 = LEVELS
    continuous = HGF(omega, kappa, mu0, pi0, 1.0, num_steps=STEPS)
    assert continuous.support.check(torch.full((STEPS,), 0.3)).all()
    assert set(continuous.arg_constraints) <= set(dir(continuous))


# -- draws -----------------------------------------------------------------------------


def test_draws_have_the_density():
    draws = 40_000
    pyro.set_rng_seed(0)
    rows = hgf().sample((draws,))
    assert rows.shape == (draws, STEPS)
    # the mean of minus log p is the entropy, and a filter's density is approximate
    first = rows[:, 0].mean().item()
    expected = hgf().log_prob_steps(torch.ones(STEPS, dtype=D))[0].exp().item()
    assert abs(first - expected) < 0.02
    omega = torch.tensor([-1.0, -2.0], dtype=D, requires_grad=True)
    series = HGF(omega, *LEVELS[1:], input_precision=1.0, num_steps=STEPS)
    assert series.has_rsample
    assert series.rsample((2,)).requires_grad
    assert not series.sample().requires_grad
    with pytest.raises(NotImplementedError, match="continuous"):
        hgf().rsample()


def test_the_posterior_of_simulated_data_covers_the_truth_in_evidence(u):
    # the density at the parameters that made the data is larger on average
    pyro.set_rng_seed(1)
    rows = HGF([0.0], None, [0.0], [1.0], 4.0, num_steps=40).sample((200,))
    truth, other = (
        HGF([omega], None, [0.0], [1.0], 4.0, num_steps=40).log_prob(rows).mean()
        for omega in (0.0, -2.0)
    )
    assert truth > other + 1


# -- missing and invalid ---------------------------------------------------------------


def test_missing_inputs_count_nothing(u):
    u[0, 2] = torch.nan
    seen = ~u.isnan()
    found = hgf(nan_policy="missing").log_prob_steps(u)
    torch.testing.assert_close(hgf(observed=seen).log_prob_steps(u), found, **EXACT)
    assert found[0, 2].item() == 0
    with pytest.raises(HGFDomainError, match=r"subject 0, trial 2"):
        hgf().log_prob(u)
    target = Target.from_model(lambda u: model(u, nan_policy="missing"), u, dtype=D)
    q = torch.tensor([[-2.0], [-1.0]], dtype=D)
    steps = target.stepwise_log_likelihood(q)["u"]
    assert steps[0, 0, 2].item() == 0
    torch.testing.assert_close(steps[0], found, rtol=1e-9, atol=1e-9)


def test_a_failed_filter_has_no_probability_and_no_gradient():
    u = torch.zeros(2, 20, dtype=D)
    u[0, 10] = 1e4  # the classic update fails here
    omega = torch.tensor([0.0, 2.0], dtype=D, requires_grad=True)
    series = HGF(
        omega, [1.0], [0.0, 0.0], [1.0, 1.0], 1.0, num_steps=20, update="classic"
    )
    value = series.log_prob(u)
    assert value.isneginf().tolist() == [True, False]
    (grad,) = torch.autograd.grad(value[0], omega, retain_graph=True)
    assert grad.tolist() == [0.0, 0.0]
    (grad,) = torch.autograd.grad(value[1], omega)
    assert bool((grad != 0).all())
    assert series.trajectory(u).mu[0, -1].isnan().any()


@pytest.mark.parametrize("bad", [math.inf, math.nan, 0.0, -1.0])
@pytest.mark.parametrize("name", ["pi0", "input_precision"])
def test_a_value_out_of_range_without_validation_is_rejected(name, bad):
    numbers: dict[str, Any] = {
        "omega": torch.tensor([-2.0, -2.0], dtype=D, requires_grad=True),
        "kappa": torch.ones(1, dtype=D),
        "mu0": torch.zeros(2, dtype=D),
        "pi0": torch.ones(2, 2, dtype=D),
        "input_precision": torch.ones(2, dtype=D),
    }
    numbers[name].reshape(2, -1)[0, 0] = bad
    numbers[name].requires_grad_()
    u = uniform(STEPS, seed=4)
    with pyro.validation_enabled(False):
        series = HGF(**numbers, num_steps=STEPS)
        value = series.log_prob(u)
        assert value.isneginf().tolist() == [True, False]
        given = (numbers["omega"], numbers[name])
        grads = torch.autograd.grad(value[0], given, retain_graph=True)
        assert all(bool((grad == 0).all()) for grad in grads)
        for grad in torch.autograd.grad(value.sum(), given):
            assert grad.isfinite().all()


# -- Pyro ------------------------------------------------------------------------------


def test_a_target_maps_chains_and_derives(u):
    target = Target.from_model(model, u, dtype=D)
    assert target.dims["u"] == ("subject", "trial")
    q = torch.tensor([[-2.5], [-1.0]], dtype=D)
    _, grad = target.with_rung("mapped").value_and_grad(q)
    step = 1e-5
    numeric = target.log_prob(q + step) - target.log_prob(q - step)
    torch.testing.assert_close(grad[:, 0], numeric / (2 * step), rtol=1e-6, atol=1e-6)


def test_a_mask_and_a_scale_count_once(u):
    plain = poutine.trace(poutine.condition(model, {"omega": torch.tensor(-2.0)}))
    whole: Any = plain.get_trace(u)
    whole.compute_log_prob()
    log_prob: Any = whole.nodes["u"]["log_prob"]
    mask: Any = torch.tensor([True, False, True])
    changed = poutine.scale(poutine.mask(plain, mask=mask), scale=2.0)
    trace: Any = poutine.trace(changed).get_trace(u)
    trace.compute_log_prob()
    expected = torch.where(mask, 2 * log_prob, 0.0)
    torch.testing.assert_close(trace.nodes["u"]["log_prob"], expected)


@pytest.mark.filterwarnings("ignore")  # Pyro's progress bar and its warnings
def test_pyros_own_inference_takes_it(u):
    pyro.set_rng_seed(3)
    pyro.clear_param_store()
    guide = AutoNormal(model)
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.05}), Trace_ELBO())
    losses: list[Any] = [svi.step(u) for _ in range(8)]
    assert all(map(math.isfinite, losses))
    sampler = MCMC(
        NUTS(model, max_tree_depth=2),
        num_samples=4,
        warmup_steps=4,
        disable_progbar=True,
    )
    sampler.run(u)
    draws = sampler.get_samples()
    assert draws["omega"].isfinite().all()

    def replicate(u):
        return poutine.uncondition(model)(u)

    found = Predictive(replicate, draws, return_sites=["u"])(u)["u"]
    assert found.shape == (4, SUBJECTS, STEPS)
    assert found.unique().tolist() == [0.0, 1.0]


def test_chains_go_on_where_an_update_fails():
    u = uniform(2, 15, seed=9) * 20  # jumps that the classic update fails at

    def jumps(u):
        omega = pyro.sample(
            "omega", dist.Normal(u.new_tensor([0.0, 0.0]), 2.0).to_event(1)
        )
        rows = HGF(
            omega, [1.0], [0.0, 0.0], [1.0, 1.0], 1.0, num_steps=15, update="classic"
        )
        with pyro.plate("subject", 2):
            pyro.sample("u", rows, obs=u)

    target = Target.from_model(jumps, u, dtype=D)
    q = torch.stack(
        torch.meshgrid(*[torch.linspace(-6, 6, 9, dtype=D)] * 2, indexing="ij"), -1
    ).flatten(0, 1)
    value, grad = target.with_rung("mapped").value_and_grad(q)
    failed = value.isneginf()
    assert 5 < failed.sum().item() < 80
    assert not value.isnan().any()
    assert grad.isfinite().all()
    kernel = HMC(target, init_strategy="prior")
    fit = OurMCMC(kernel, 10, 20, num_chains=4, seed=1, progress_bar=False).run()
    assert target.log_prob(fit.positions.flatten(0, 1)).isfinite().all()
    assert fit.stats["diverging"].dtype == torch.bool


def test_predictive_draws_are_mapped_without_a_fallback(u):
    target = Target.from_model(model, u, dtype=D)
    q = torch.linspace(-3, -1, 8, dtype=D).reshape(2, 4, 1)
    fit = PosteriorDraws(target, MemoryDraws(target, q), seed=1)
    drawn = fit.posterior_predictive()["u"]  # a warning would be an error
    assert drawn.shape == (2, 4, SUBJECTS, STEPS)
    assert drawn.unique().tolist() == [0.0, 1.0]
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
