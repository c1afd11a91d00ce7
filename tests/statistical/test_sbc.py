"""HMC calibrated on two models, tuned as a user's run would be."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.infer import HMC
from pyro_geo.testing.geweke import check_geweke, geweke
from pyro_geo.testing.sbc import check_sbc, sbc

F64 = torch.float64
KERNEL = partial(HMC, target_accept_prob=0.9)

# Replicates share one tuning, and starts may lie far from a narrow posterior.
pytestmark = pytest.mark.filterwarnings(
    "ignore:transitions diverged:pyro_geo.errors.DivergenceWarning"
)


def conjugate(y):
    """A normal of unknown mean and precision: both positive and real sites."""
    precision = pyro.sample("precision", dist.Gamma(y.new_tensor(4.0), 4.0))
    scale = precision.rsqrt()
    mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 2 * scale))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def hierarchy(y):
    """Effects of groups around a common one, their scale unknown."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    tau = pyro.sample("tau", dist.LogNormal(y.new_tensor(-0.5), 0.4))
    with pyro.plate("groups", len(y)):
        eta = pyro.sample("eta", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, 1.5), obs=y)


both_models = pytest.mark.parametrize(
    ("model", "rows"), [(conjugate, 5), (hierarchy, 6)], ids=["conjugate", "hierarchy"]
)


def test_hmc_is_calibrated_on_a_conjugate_normal(seed):
    result = sbc(
        conjugate,
        [torch.zeros(5)],
        KERNEL,
        num_replicates=200,
        num_samples=150,
        warmup_steps=150,
        seed=seed,
        dtype=F64,
    )
    check_sbc(result)


@pytest.mark.slow
@both_models
def test_hmc_is_calibrated_on_many_replicates(model, rows, seed):
    """More replicates than chains that tune together."""
    result = sbc(
        model,
        [torch.zeros(rows)],
        KERNEL,
        num_replicates=1000,
        num_samples=400,
        seed=seed,
        dtype=F64,
    )
    check_sbc(result)


@pytest.mark.slow
@both_models
def test_hmc_keeps_the_joint_distribution(model, rows, seed):
    result = geweke(
        model,
        [torch.zeros(rows)],
        KERNEL,
        warmup_steps=200,
        num_chains=512,
        seed=seed,
        dtype=F64,
    )
    check_geweke(result)
