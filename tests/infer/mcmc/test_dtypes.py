"""Runs whose model holds data of another floating type than the run has."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.errors import UnsupportedError
from pyro_geo.infer import DIMS, HMC, MCMC

SINGLE, DOUBLE = torch.float32, torch.float64
X = torch.tensor(np.linspace(-1.0, 1.0, 12).reshape(6, 2))
Y = torch.tensor(np.array([1.0, 2.0, 0.0, 1.5, 0.5, 1.0]))
MEAN = float(Y.sum()) / 7  # prior and data all have variance 1
VARIANCE = 1 / 7


def holds(dtype):
    x, y = X.to(dtype), Y.to(dtype)

    def model():
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("line", x @ w)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return model


KERNELS = {
    "diagonal": lambda model: HMC(model, metric="diagonal"),
    "dense": lambda model: HMC(model, metric="dense"),
    "low_rank": lambda model: HMC(model, metric="low_rank"),
    "laplace": lambda model: HMC(model, init_strategy="laplace"),
    "prior": lambda model: HMC(model, init_strategy="prior"),
    "dims": lambda model: DIMS(model, loss="joint"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.PyroGeoWarning")  # few draws
@pytest.mark.parametrize(
    ("name", "run", "held"),
    [
        *(
            pytest.param(
                name,
                SINGLE,
                DOUBLE,
                marks=[] if name == "low_rank" else pytest.mark.slow,
            )
            for name in KERNELS
        ),
        ("dense", DOUBLE, SINGLE),
        pytest.param("diagonal", SINGLE, torch.float16, marks=pytest.mark.slow),
    ],
)
def test_kernels_and_starts(name, run, held):
    fit = MCMC(
        KERNELS[name](holds(held)),
        num_samples=5 if name == "dims" else 100,
        num_chains=8,
        seed=1,
        dtype=run,
        compile=False,
        progress_bar=False,
    ).run()
    found = fit.get_samples(group_by_chain=True)
    assert {value.dtype for value in found.values()} == {run}
    mean = found["mean"].double()
    if name == "dims":  # every draw falls on the one minimum
        torch.testing.assert_close(mean, torch.full_like(mean, MEAN), atol=0.1, rtol=0)
        return
    # the spread of means of chains; false alarm below 1e-5 with seven degrees
    error = mean.mean(1).std() / len(mean) ** 0.5
    assert abs(mean.mean() - MEAN) < 10 * error
    assert error < 0.1 * VARIANCE**0.5


def test_what_a_run_in_another_type_gives():
    fit = MCMC(
        HMC(holds(DOUBLE)),
        num_samples=20,
        warmup_steps=20,
        num_chains=2,
        seed=1,
        progress_bar=False,
    ).run()
    q = fit.target.initial(3)
    assert fit.target.pointwise_log_likelihood(q)["y"].dtype == SINGLE
    data = fit.to_arviz(posterior_predictive=True)
    assert data["posterior"]["line"].dtype == np.float32
    assert data["posterior_predictive"]["y"].shape == (2, 20, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [HMC, DIMS])
def test_half_precision_is_refused_by_name(kernel, dtype):
    run = MCMC(kernel(holds(DOUBLE)), num_samples=2, dtype=dtype, progress_bar=False)
    with pytest.raises(UnsupportedError, match=f"found {dtype}.* Pass dtype="):
        run.run()
