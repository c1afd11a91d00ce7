"""Regression with grouped outliers: 15 of 100 points agree at one leverage point.

All posteriors have several modes or, for the Gaussian, a wrong one; all chains start at
the same robust start, so that none is charged for where it began.
"""

from collections.abc import Callable, Iterator

import pyro
import pyro.distributions as dist
import torch
from _bench import Row
from _tracking_common import rows
from _tracking_scenes import stream
from torch import Tensor

from pyro_geo.distributions import BoundedLikelihood, density_power_factor
from pyro_geo.infer import HMC, MCMC, robust_init

COEFFICIENTS = (1.0, -2.0, 0.5, 1.5)
NOISE = 0.3
SEEDS = (0, 1, 2)
CHAINS = {"num_chains": 4, "compile": False, "progress_bar": False}

Likelihood = Callable[[Tensor, Tensor, Tensor], None]


def data(seed: int) -> tuple[Tensor, Tensor]:
    """Simulate inputs with a constant column, and responses."""
    rng = stream(seed, "regression")
    x = rng.normal(size=(100, 4))
    x[:, 0] = 1.0
    y = x @ COEFFICIENTS + NOISE * rng.normal(size=100)
    x[85:, 1:] = 4.0 + 0.1 * rng.normal(size=(15, 3))
    y[85:] = -15.0 + NOISE * rng.normal(size=15)
    return torch.as_tensor(x), torch.as_tensor(y)


def gaussian(mean: Tensor, noise: Tensor, y: Tensor) -> None:
    """Normal noise."""
    pyro.sample("y", dist.Normal(mean, noise), obs=y)


def student(mean: Tensor, noise: Tensor, y: Tensor) -> None:
    """Noise of a Student-t with three degrees."""
    pyro.sample("y", dist.StudentT(3.0, mean, noise), obs=y)


def bounded(mean: Tensor, noise: Tensor, y: Tensor) -> None:
    """Normal noise, or anything in the range of the data."""
    wide = dist.Normal(torch.zeros_like(mean), 20.0)
    pyro.sample("y", BoundedLikelihood(dist.Normal(mean, noise), wide, 0.1), obs=y)


def power(mean: Tensor, noise: Tensor, y: Tensor) -> None:
    """Normal noise by the density power divergence."""
    pyro.factor("y", density_power_factor(dist.Normal(mean, noise), y, 0.3))


METHODS: dict[str, Likelihood] = {
    "Gaussian": gaussian,
    "Student-t": student,
    "BoundedLikelihood": bounded,
    "density power": power,
}


def model_of(likelihood: Likelihood) -> Callable[[Tensor, Tensor], None]:
    """Make the Pyro model with one likelihood."""

    def model(x: Tensor, y: Tensor) -> None:
        wide = dist.Normal(x.new_zeros(x.shape[1]), 10.0)
        beta = pyro.sample("beta", wide.to_event(1))
        noise = pyro.sample("noise", dist.HalfNormal(x.new_tensor(2.0)))
        with pyro.plate("data", len(y)):
            likelihood(x @ beta, noise, y)

    return model


def measure(quick: bool) -> Iterator[list[Row]]:
    """Sample each posterior by NUTS, and hold its mean against the coefficients.

    Args:
        quick: one data set and a few draws.

    Yields:
        The rows.
    """
    seeds, draws = (SEEDS[:1], 20) if quick else (SEEDS, 400)
    true = torch.tensor(COEFFICIENTS, dtype=torch.float64)
    new = []
    for name, likelihood in METHODS.items():
        errors = []
        for seed in seeds:
            x, y = data(seed)
            begin = robust_init(model_of(bounded), x, y, seed=seed)
            kernel = HMC(model_of(likelihood), init_strategy=begin)
            run = MCMC(kernel, draws, draws, seed=seed, **CHAINS)
            run.run(x, y)
            mean = run.get_samples()["beta"].mean(0)
            errors.append(float((mean - true).square().mean().sqrt()))
        error = torch.tensor(errors).median().item()
        found = rows("regression", name, {"coefficient rmse": error}, {})
        new += [row | {"seeds": len(seeds)} for row in found]
    yield new
