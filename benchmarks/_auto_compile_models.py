"""The ten models that the rule of `compile="auto"` is measured on, with their data.

Small and large graphs, on few and on many numbers: what compiling costs grows with the
operations of a graph, and what it saves with the operations and not with the numbers
in them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from _bench import load
from torch import Tensor


class Model(NamedTuple):
    """A model and its data."""

    model: Callable[..., Any]
    data: tuple[Tensor, ...]


def random(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gallery(name: str) -> Model:
    """Load a model of the gallery with its data."""
    module = load(name)
    return Model(module.model, module.data())


def linear(x: Tensor, y: Tensor) -> None:
    """Regress on the columns of `x`, with unknown noise."""
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), 5.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def robust(x: Tensor, y: Tensor) -> None:
    """Regress with noise of heavy tails, and an intercept."""
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
    df = pyro.sample("df", dist.Gamma(2.0, 0.1))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.StudentT(df, a + x @ w, scale), obs=y)


def poisson(x: Tensor, y: Tensor, group: Tensor) -> None:
    """Regress counts, with an intercept for each group."""
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("group", 20):
        raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        rate = (x @ w + spread * raw[group]).exp()
        pyro.sample("y", dist.Poisson(rate), obs=y)


def logistic(x: Tensor, y: Tensor) -> None:
    """Regress a binary outcome."""
    prior = dist.Normal(torch.zeros(x.shape[-1]), 1.0)
    w = pyro.sample("w", prior.to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def arma(y: Tensor) -> None:
    """Follow an autoregression with moving average by a loop over time."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.HalfCauchy(2.5))
    error = y[0] - (mu + phi * mu)
    errors = [error]
    for t in range(1, len(y)):
        error = y[t] - (mu + phi * y[t - 1] + theta * error)
        errors.append(error)
    with pyro.plate("time", len(y)):
        noise = dist.Normal(torch.stack(errors), scale)
        pyro.sample("y", noise, obs=torch.zeros(len(y)))


def hidden_markov(y: Tensor) -> None:
    """Sum over two hidden states by the forward algorithm, a loop over time."""
    rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    low = pyro.sample("low", dist.Normal(3.0, 1.0))
    gap = pyro.sample("gap", dist.LogNormal(1.5, 0.5))
    means = torch.stack([low, low + gap])
    emission = dist.Normal(means, 1.0).log_prob(y[:, None])
    forward = emission[0] - math.log(2.0)
    for t in range(1, len(y)):
        forward = (forward[:, None] + rows.log()).logsumexp(0) + emission[t]
    pyro.factor("likelihood", forward.logsumexp(0))


def gaussian_process(x: Tensor, y: Tensor) -> None:
    """Regress with a squared-exponential kernel and unknown lengthscale."""
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    noise = pyro.sample("noise", dist.HalfNormal(0.5))
    square = (x[:, None] - x[None, :]).square() / length.square()
    covariance = scale.square() * (-0.5 * square).exp()
    covariance = covariance + (noise.square() + 1e-3) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def network(x: Tensor, y: Tensor) -> None:
    """Regress by eight hidden units."""
    hidden = dist.Normal(torch.zeros(x.shape[-1], 8), 1.0).to_event(2)
    first = pyro.sample("first", hidden)
    second = pyro.sample("second", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(torch.tanh(x @ first) @ second, 0.5), obs=y)


def regression_data(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Draw inputs, and outcomes on a plane with standard normal noise."""
    x = random(rows, columns)
    return x, x.sum(1) + random(rows, seed=1)


def count_data() -> tuple[Tensor, Tensor, Tensor]:
    """Draw 300 counts in 20 groups."""
    x, group = random(300, 4), torch.arange(300) % 20
    rate = (0.3 * x.sum(1) + 0.5 * random(20, seed=1)[group]).exp()
    generator = torch.Generator().manual_seed(2)
    return x, torch.poisson(rate, generator=generator), group


def binary_data() -> tuple[Tensor, Tensor]:
    """Draw 1,000 rows of 24 inputs, and outcomes that follow a random plane."""
    x = random(1000, 24)
    chance = torch.sigmoid(x @ random(24, seed=1))
    return x, torch.bernoulli(chance, generator=torch.Generator().manual_seed(2))


def state_data() -> tuple[Tensor]:
    """Draw 100 values around 3 or 10, in stretches of ten."""
    state = torch.arange(100) // 10 % 2
    return (3.0 + 7.0 * state + random(100),)


def curve_data() -> tuple[Tensor, Tensor]:
    """Draw 40 values of a sine with noise."""
    x = torch.linspace(-3.0, 3.0, 40)
    return x, x.sin() + 0.2 * random(40)


MODELS: dict[str, Callable[[], Model]] = {
    "eight_schools": lambda: gallery("eight_schools"),
    "regression": lambda: Model(linear, regression_data(434, 3)),
    "robust": lambda: Model(robust, regression_data(100, 8)),
    "poisson": lambda: Model(poisson, count_data()),
    "logistic": lambda: Model(logistic, binary_data()),
    "arma": lambda: Model(arma, (0.1 * random(200).cumsum(0),)),
    "hmm": lambda: Model(hidden_markov, state_data()),
    "gp": lambda: Model(gaussian_process, curve_data()),
    "network": lambda: Model(network, regression_data(100, 4)),
    "saas": lambda: gallery("saas_gp"),
}
