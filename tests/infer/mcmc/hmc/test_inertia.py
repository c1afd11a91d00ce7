"""Inertia: a normal density keeps its energy, others as well as a number can."""

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer import HMC, MCMC
from pyro_geo.infer.mcmc.hmc.inertia import InertiaSearch, inertia_of, inertia_update
from pyro_geo.infer.transition import TransitionLoop, chain_state_at
from pyro_geo.testing.gates import check_gaussian
from tests.cases import numbers

F64 = torch.float64


def flights(potential, scale, step, inertia, *, dim=6, chains=400, steps=2):
    """Ends of trajectories that start in the density N(0, scale^2)."""
    target = Target.from_potential(potential, dim, dtype=F64).with_rung("traced")
    metric = Diagonal(torch.ones(dim, dtype=F64))
    start = chain_state_at(target, scale * numbers(chains, dim))
    loop = TransitionLoop(target, start, metric, unroll=1)
    size = torch.full((chains,), step, dtype=F64)
    uniform = torch.ones(chains, dtype=F64)
    factor = torch.tensor(inertia, dtype=F64)
    momentum = numbers(chains, dim, seed=1)
    _, end = loop(metric, start, momentum, uniform, size, steps, factor)
    return start, end


@pytest.mark.parametrize("step", [0.3, 1.0, 1.7])
def test_a_normal_density_in_its_metric_keeps_its_energy(step):
    _, end = flights(lambda q: 0.5 * q.square().sum(), 1.0, step, inertia_of(1.0, step))
    assert float(end.error.abs().max()) < 1e-12
    _, plain = flights(lambda q: 0.5 * q.square().sum(), 1.0, step, 1.0)
    assert float(plain.error.abs().max()) > 1e-3


@pytest.mark.parametrize("frequency", [0.5, 1.3])
def test_the_search_finds_the_frequency_whatever_the_inertia_was(frequency):
    def potential(q):
        return 0.5 * frequency * q.square().sum()

    step, inertia = 0.8, 1.1
    start, end = flights(potential, frequency**-0.5, step, inertia)
    change = end.potential - start.potential
    kinetic = (end.error - change) / inertia
    weights = (-end.error).exp().clamp(max=1.0)
    search = inertia_update(InertiaSearch(), change, kinetic, weights, step)
    assert search.frequency == pytest.approx(frequency, abs=1e-10)


def test_what_is_not_finite_teaches_nothing():
    nothing = InertiaSearch()
    bad = torch.tensor([torch.inf, torch.nan], dtype=F64)
    one = torch.ones(2, dtype=F64)
    assert inertia_update(nothing, bad, one, one, 0.5) == nothing
    assert inertia_update(nothing, one, one, 0 * one, 0.5) == nothing
    assert nothing.frequency == 0.0
    assert inertia_of(0.0, 5.0) == 1.0
    assert inertia_of(1.0, 100.0) == 4.0  # a step beyond all bounds stays defined


def test_many_dimensions_cost_few_steps():
    """Without inertia the step falls with the fourth root of the dimension."""
    dim = 500
    target = Target.from_potential(lambda q: 0.5 * q.square().sum(), dim, dtype=F64)
    kernel = HMC(target, metric="diagonal")
    fit = MCMC(kernel, 60, 120, 32, seed=2, progress_bar=False).run()
    assert float(fit.attributes["inertia"]) > 1.1
    assert float(fit.stats["acceptance_rate"].mean()) > 0.99
    assert float(fit.stats["n_steps"].double().mean()) < 4
    few = fit.positions[..., :3]
    check_gaussian(few, torch.zeros(3), torch.eye(3), false_alarm=1e-4)
