"""Parameters of subjects come back, with intervals that mean what they say."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.filtering import hgf_filter
from pyro_geo.filtering.hgf.response import UnitSquare
from pyro_geo.infer import HMC, MCMC
from pyro_geo.testing.gates import check_posterior
from pyro_geo.testing.sbc import check_sbc, sbc
from pyro_geo.testing.twins import TWINS

F64 = torch.float64
TWIN = TWINS["classic as unbounded"]
# two jumps: after them the classic update has learned something else
SERIES = torch.cat([0.3 * torch.sin(torch.arange(40.0) * 2), torch.zeros(40)])
SERIES = (SERIES + 4.0 * (torch.arange(80) // 20 % 2)).to(F64)

# replicates share one tuning, and starts may lie far from a narrow posterior
pytestmark = pytest.mark.filterwarnings(
    "ignore:transitions diverged:pyro_geo.errors.DivergenceWarning"
)


def number(value):
    return torch.tensor(value, dtype=F64)


def forecasts(u, y, filter_fn=hgf_filter):
    """Someone says before each number what they expect."""
    low = pyro.sample("omega_1", dist.Normal(number(-1.0), 0.5))
    high = pyro.sample("omega_2", dist.Normal(number(-1.0), 0.5))
    beliefs = filter_fn(
        u,
        torch.stack([low, high], -1),
        [1.0],
        [0.0, 0.0],
        [1.0, 1.0],
        1.0,
        kind="continuous",
        update="unbounded",
    )
    expected = beliefs.muhat[..., 0]
    pyro.sample("y", dist.Normal(expected, 0.3).to_event(1), obs=y)


def choices(u, y):
    """Subjects with their own learning rate and sharpness choose before each outcome.

    In so few trials a subject shows little, so that parameters are in units of the
    group's spread.
    """
    mean = pyro.sample("omega_mean", dist.Normal(number(-4.0), 0.7))
    sd = pyro.sample("omega_sd", dist.LogNormal(number(-0.7), 0.3))
    with pyro.plate("subject", len(y)):
        z = pyro.sample("z", dist.Normal(number(0.0), 1.0))
        omega = mean + sd * z
        zeta = pyro.sample("zeta", dist.LogNormal(number(0.7), 0.5))
        both = torch.stack([omega, torch.full_like(omega, -6.0)], -1)
        beliefs = hgf_filter(u, both, [1.0], [0.0, 1.0], [10.0, 1.0], kind="binary")
        pyro.sample("y", UnitSquare(beliefs, zeta), obs=y)


def told():
    """Forecasts of a sound agent."""
    levels = torch.tensor([-1.0, -0.8], dtype=F64)
    options = {"input_precision": 1.0, "kind": "continuous", "backend": "torch"}
    beliefs = hgf_filter(SERIES, levels, [1.0], [0.0, 0.0], [1.0, 1.0], **options)
    noise = torch.randn(80, generator=torch.Generator().manual_seed(0), dtype=F64)
    return beliefs.muhat[..., 0] + 0.3 * noise


def exact(y, filter_fn, seed):
    """Independent draws of the posterior of forecasts, from a fine grid."""
    low = torch.linspace(-2.6, 0.6, 33, dtype=F64)
    grid = torch.cartesian_prod(low, low)
    options = {"input_precision": 1.0, "kind": "continuous", "update": "unbounded"}
    beliefs = filter_fn(
        SERIES[None], grid, [1.0], [0.0, 0.0], [1.0, 1.0], backend="torch", **options
    )
    log_density = -0.5 * ((y - beliefs.muhat[..., 0]) / 0.3).square().sum(-1)
    log_density = log_density - 0.5 * ((grid + 1.0) / 0.5).square().sum(-1)
    weights = log_density.nan_to_num(-torch.inf).softmax(0)
    generator = torch.Generator().manual_seed(seed)
    rows = grid[torch.multinomial(weights, 2000, True, generator=generator)]
    within = torch.rand(rows.shape, generator=generator, dtype=F64) - 0.5
    rows = rows + within * (low[1] - low[0])
    return {f"omega_{i + 1}": rows[:, i].reshape(4, 500) for i in range(2)}


def test_the_gate_passes_the_filter_and_rejects_its_twin():
    """The twin's beliefs pass for the sound ones until the posteriors are compared."""
    y = told()
    reference = exact(y, hgf_filter, seed=1)
    check_posterior(exact(y, hgf_filter, seed=2), reference)
    with pytest.raises(AssertionError, match="standard errors apart"):
        check_posterior(exact(y, TWIN.make(hgf_filter), seed=2), reference)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.ConvergenceWarning")
def test_hmc_draws_what_the_grid_says_and_with_the_twin_it_does_not():
    y = told()
    reference = exact(y, hgf_filter, seed=1)
    for filter_fn in (hgf_filter, TWIN.make(hgf_filter)):
        fit = MCMC(
            HMC(partial(forecasts, filter_fn=filter_fn), init_strategy="prior"),
            150,
            num_chains=32,
            seed=2,
            dtype=F64,
            progress_bar=False,
        )
        draws = fit.run(SERIES, y).get_samples(group_by_chain=True)
        if filter_fn is hgf_filter:
            check_posterior(draws, reference)
        else:
            with pytest.raises(AssertionError, match="standard errors apart"):
                check_posterior(draws, reference)


# replicates have data of their own, and so log-densities that cannot be compared
@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:chains are where:pyro_geo.errors.ConvergenceWarning"
)
def test_a_cohort_is_calibrated():
    """Four subjects of sixty trials, 128 cohorts at once."""
    u = (torch.arange(60) // 15 % 2).to(F64).expand(4, -1).clone()
    u[:, ::7] = 1 - u[:, ::7]
    result = sbc(
        choices,
        [u, torch.zeros(4, 60, dtype=F64)],
        partial(HMC, target_accept_prob=0.9),
        num_replicates=128,
        num_samples=400,
        warmup_steps=300,
        initial="prior",
        observed=["y"],
        dtype=F64,
        seed=0,
    )
    check_sbc(result)
