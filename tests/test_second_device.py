"""Kernels run where their inputs are: on a device that refuses the processor's tensors.

The same call on the processor gives the numbers to compare with.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from pyro_geo import Target
from pyro_geo.filtering import BoundedTracker
from pyro_geo.gp import (
    ExactGPTD,
    OnlineGPTD,
    SparseGPTD,
    Transitions,
    VariationalGPTD,
)
from pyro_geo.infer import HMC, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import certify
from pyro_geo.infer.mcmc.hmc.fisher import fit_metric
from pyro_geo.ops.random import private_randomness
from pyro_geo.planning.mpc import CEMPlanner, PyroDynamics
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.summaries import (
    GaussianPosterior,
    combine,
    conflict,
    consensus,
    deviation_report,
    prior_moments,
    selective_projection,
)
from pyro_geo.unlearning import delete_point
from tests.elsewhere import AWAY, away, home, second_device

Put = Callable[[Any], Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def check_same(run: Callable[[Put], Any], rtol: float = 1e-9) -> None:
    """Run on both devices: all results are on the second one, with the same numbers."""
    with private_randomness(0):
        here = run(lambda tree: tree)
    with second_device() as put, private_randomness(0):
        there = run(put)
        leaves = [x for x in pytree.tree_leaves(there) if isinstance(x, Tensor)]
        assert leaves
        assert {x.device for x in leaves} == {AWAY}
    assert_close(home(there), here, rtol=rtol, atol=rtol)


def regression(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


# -- the device itself -------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x * torch.ones(3),
        lambda x: torch.cat([x, torch.ones(1)]),
        lambda x: torch.ones(3).add_(x),
        lambda x: torch.stack([x[0], torch.tensor(1.0)]),
        lambda x: torch.ones(3)[torch.zeros(2, dtype=torch.long, device=x.device)],
        lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
        lambda x: torch.randn(3, generator=torch.Generator(x.device)),
        lambda x: x.numpy(),
    ],
)
def test_second_device_refuses_mistakes(mistake):
    with second_device() as put:
        x = put(torch.arange(3.0))
        with pytest.raises(RuntimeError, match=r"two devices|generator|not supported"):
            mistake(x)


def test_second_device_allows_what_a_gpu_allows():
    with second_device() as put:
        x = put(torch.arange(3.0))
        results = [
            2 * x,
            x * torch.tensor(2.0),
            x[torch.tensor([0, 2])],
            x + torch.ones(3).to(x.device),
            torch.eye(2, device=x.device)[:, :1],
            torch.randn(2, device=x.device, generator=torch.Generator(x.device)),
            torch.tensor([1.0], device=x.device),
        ]
        assert {r.device for r in results} == {AWAY}
        assert x.tolist() == [0.0, 1.0, 2.0]
        assert float(x[1]) == 1.0
    assert away(torch.ones(1)).device == AWAY


# -- samplers ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "diagonal", "low_rank"])
def test_metric_is_fitted_where_the_draws_are(kind):
    q, grad = numbers(40, 3), -numbers(40, 3) + 0.1 * numbers(40, 3, seed=1)

    def run(put: Put) -> Any:
        metric = fit_metric(kind, put(q), put(grad), 2, None)
        assert metric is not None
        return [x for x in metric if isinstance(x, Tensor)]

    check_same(run)


def test_hmc_run_follows_its_data():
    x, y = numbers(12, 3), numbers(12, seed=1)

    def run(put: Put) -> Any:
        target = Target.from_model(regression, *put((x, y)), dtype=torch.float64)
        kernel = HMC(target, metric="dense", step_size=0.1, trajectory_length=0.3)
        fit = MCMC(kernel, 3, 0, 2, seed=1, progress_bar=False, compile=False).run()
        return fit.positions, fit.stats["lp"]

    check_same(run)


def test_certificate_of_particles_elsewhere():
    def predictor(x):
        w = pyro.sample("w", dist.Normal(x.new_zeros(3), 3.0).to_event(1))
        return x @ w

    def loss(prediction, y):
        return softplus(-prediction * y)

    def wrong(prediction, y):
        return (prediction * y <= 0).to(prediction)

    x, y = numbers(12, 3), numbers(12, seed=1).sign()

    def run(put: Put) -> Any:
        here = put((x, y))
        model = GibbsModel(predictor, loss)
        posterior = GibbsPosterior(
            model,
            betas=[0.1],
            num_particles=8,
            pilot_particles=8,
            num_leapfrog=2,
            moves=1,
            seed=1,
            dtype=torch.float64,
            progress_bar=False,
        ).run(*here)
        certificate = certify(posterior.codebook(), wrong, here)
        figures = [certificate.value, certificate.complexity]
        figures = here[0].new_tensor(figures)
        return posterior.get_samples()["w"], figures, certificate.sample(4, seed=2)

    check_same(run)


# -- filters and values of states --------------------------------------------------


def test_tracker_follows_its_reports():
    t = torch.arange(4, dtype=torch.float64)
    y = numbers(2, 4, 1)

    def run(put: Put) -> Any:
        tracker = BoundedTracker.preset("level")
        here = put((y, t))
        track = tracker.filter(*here, progress_bar=False, compile=False)
        online = tracker.step(None, here[0][:, 0], 1.0)
        return track.mean, track.log_evidence, online.mean

    check_same(run)


@pytest.mark.parametrize("kind", [ExactGPTD, SparseGPTD, VariationalGPTD, OnlineGPTD])
def test_values_of_states_follow_their_steps(kind):
    episode = torch.arange(2).repeat_interleave(10)
    data = numbers(20, 2), numbers(20, 2, seed=1), numbers(20, seed=2), episode

    def run(put: Put) -> Any:
        x, x_next, reward, episode = put(data)
        steps = Transitions(x, x_next, reward, 0.9, episode=episode)
        value = kind(steps).fit(num_steps=1).value(put(numbers(3, 2, seed=3)))
        return value.mean.detach(), value.stddev.detach()

    check_same(run, rtol=1e-6)


# -- planning ----------------------------------------------------------------------


def test_planner_follows_its_draws():
    def step(s, a):
        push = pyro.sample("push", dist.LogNormal(s.new_zeros(()), 0.3))
        return pyro.sample("next", dist.Normal(s + push * a, 0.05).to_event(1))

    def cost(s, a, s_next):
        return (s_next - 3.0).square().sum(-1)

    def run(put: Put) -> Any:
        dynamics = PyroDynamics(step, cost, state_dim=1, lower=[-1.0], upper=[1.0])
        draws = {"push": put(numbers(4).exp())}
        planner = CEMPlanner(dynamics, draws=draws, horizon=3, seed=0)
        plan = planner.plan(put(torch.zeros(1, dtype=torch.float64)))
        return plan.action, plan.cost

    check_same(run, rtol=1e-6)


# -- summaries ---------------------------------------------------------------------


def test_posteriors_are_combined_where_they_are():
    def run(put: Put) -> Any:
        x, y = put((numbers(12, 3), numbers(12, seed=1)))
        prior = GaussianPosterior.from_prior(regression, x, y)
        found = [
            GaussianPosterior.from_moments(
                put(numbers(3, seed=i)),
                put(0.1 * torch.eye(3, dtype=torch.float64)),
                prior.layout,
            )
            for i in range(3)
        ]
        assert conflict(found, prior=prior) is not None
        product = combine(found, how="product", prior=prior).loc
        others = [combine(found, how=h).loc for h in ("barycenter", "mixture")]
        return [product, *others]

    check_same(run)


def test_deviation_of_draws_elsewhere():
    x, y = numbers(12, 3), numbers(12, seed=1)
    tables = []

    def run(put: Put) -> Any:
        target = Target.from_model(regression, *put((x, y)), dtype=torch.float64)
        kernel = HMC(target, metric="diagonal", step_size=0.1, trajectory_length=0.3)
        fit = MCMC(kernel, 5, 0, 2, seed=1, progress_bar=False, compile=False).run()
        tables.append(
            deviation_report(fit, prior=prior_moments(regression, *put((x, y))))
        )
        return consensus([fit, fit], weights="uniform")

    check_same(run)
    for one, two in zip(*(table.data_vars.values() for table in tables), strict=True):
        if one.dtype.kind == "f":
            here, there = torch.tensor(one.values), torch.tensor(two.values)
            assert_close(here, there, equal_nan=True)


# -- unlearning --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton", "woodbury", "influence"])
def test_deletion_from_a_point_is_where_the_data_are(method):
    def run(put: Put) -> Any:
        x, y = put((numbers(12, 3), numbers(12, seed=1)))
        fitted = 4.0 * x.mT @ x + torch.eye(3, dtype=x.dtype, device=x.device)
        q = torch.linalg.solve(fitted, 4.0 * x.mT @ y)
        target = Target.from_model(regression, x, y, dtype=torch.float64)
        found = delete_point(target, q, None, [2, 5], method=method)
        return found.values["w"]

    check_same(run)


def test_draws_are_moved_where_they_are():
    x, y = numbers(12, 3), numbers(12, seed=1)

    def run(put: Put) -> Any:
        here = put((x, y))
        target = Target.from_model(regression, *here, dtype=torch.float64)
        draws = MemoryDraws(target, put(2 + 0.1 * numbers(2, 5, 3)))
        fit = PosteriorDraws(target, draws)
        anchor = prior_moments(regression, *here)
        found = selective_projection(fit, target, anchor, num_draws=8, seed=1)
        return found.shift

    check_same(run)
