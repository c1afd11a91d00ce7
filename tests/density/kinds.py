"""The model kinds a target must serve, each with the highest rung it can reach."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from pyro_geo.density import Rung, Target
from pyro_geo.errors import FallbackWarning


class Kind(NamedTuple):
    model: Callable[..., Any]
    args: tuple[Any, ...]
    rung: Rung = "traced"
    warns: bool = False
    kwargs: Mapping[str, Any] = MappingProxyType({})

    def target(self, dtype: torch.dtype = torch.float64, **options: Any) -> Target:
        """The kind's target, without the warnings that a test is not about."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            return Target.from_model(
                self.model, *self.args, dtype=dtype, **options, **self.kwargs
            )


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


X, Y = _numbers(12, 3), _numbers(12, seed=1)
COUNTS = _numbers(12, seed=2).abs().mul(4).floor()
GROUP = torch.arange(12) % 4
MULTINOMIAL = torch.tensor([[5, 3, 2], [10, 0, 0], [1, 0, 9]], dtype=torch.float64)


def eight_schools(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, noise), obs=y)


def gaussian_process(x, y):
    length = pyro.sample("length", dist.LogNormal(0.0, 1.0))
    distance = torch.cdist(x, x) ** 2
    cov = torch.exp(-distance / (2 * length**2)) + 0.1 * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), cov), obs=y)


def correlation(y):
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(3)).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(3, 2.0))
    tril = scale.unsqueeze(-1) * factor
    with pyro.plate("data", len(y)):
        pyro.sample(
            "y", dist.MultivariateNormal(torch.zeros(3), scale_tril=tril), obs=y
        )


def dirichlet(y):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(5)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Categorical(p), obs=y)


def beta_binomial(y):
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Binomial(20, p), obs=y)


def gamma_poisson(y):
    rate = pyro.sample("rate", dist.Gamma(1.0, 0.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def logistic(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def student(y):
    df = pyro.sample("df", dist.Gamma(2.0, 0.1))
    loc = pyro.sample("loc", dist.Cauchy(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.StudentT(df, loc, 1.0), obs=y)


def factor(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("soft", -((x - y.mean()) ** 4))


def scaled(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with poutine.scale(scale=2.5), pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def masked(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def horseshoe(x, y):
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    with pyro.plate("weight", x.shape[-1]):
        local = pyro.sample("local", dist.HalfCauchy(1.0))
        w = pyro.sample("w", dist.Normal(0.0, local * tau))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def random_walk(y):
    scale = pyro.sample("scale", dist.Exponential(1.0))
    steps = pyro.sample("steps", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(scale * steps.cumsum(-1), 1.0).to_event(1), obs=y)


def network(x, y):
    w1 = pyro.sample("w1", dist.Normal(torch.zeros(x.shape[-1], 4), 1.0).to_event(2))
    w2 = pyro.sample("w2", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(torch.tanh(x @ w1) @ w2, 0.3), obs=y)


class Module(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        linear: Any = PyroModule[torch.nn.Linear]
        self.linear = linear(3, 1, dtype=torch.float64)
        weight = dist.Normal(torch.zeros(1, 3, dtype=torch.float64), 1.0).to_event(2)
        self.linear.weight = PyroSample(weight)

    def forward(self, x, y):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def with_param(y):
    scale = pyro.param("s", torch.tensor(2.0), constraint=constraints.positive)
    x = pyro.sample("x", dist.Normal(0.0, scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def nested_plates(y):
    with pyro.plate("column", 3, dim=-1):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y), dim=-2):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def improper(y):
    x = pyro.sample("x", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def interval(y):
    x = pyro.sample("x", dist.Uniform(-1.0, 3.0))
    pyro.sample("y", dist.Normal(x.expand(len(y)), 1.0).to_event(1), obs=y)


def sequential_plate(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    for i in pyro.plate("data", len(y)):
        pyro.sample(f"y_{i}", dist.Normal(x, 1.0), obs=y[i])


def sequential_latents(y):
    """A plate in another, latents inside, one of them discrete."""
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    for i in pyro.plate("block", 2):
        x = pyro.sample(f"x_{i}", dist.Normal(0.0, 1.0))
        z = pyro.sample(f"z_{i}", dist.Bernoulli(p))
        for j in pyro.plate(f"row_{i}", 2):
            pyro.sample(f"y_{i}{j}", dist.Normal(x + z, 1.0), obs=y[2 * i + j])


def data_as_number(y):
    x = pyro.sample("x", dist.Normal(0.0, float(y.std())))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def mask_as_count(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    kept = y[y > 0]
    with pyro.plate("data", int((y > 0).sum())):
        pyro.sample("y", dist.Normal(x, 1.0), obs=kept)


def data_as_array(y):
    x = pyro.sample("x", dist.Normal(0.0, float(np.std(y.numpy()))))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def selection(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    kept = y[y > 0]
    with pyro.plate("data", len(kept)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=kept)


def branch(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    scale = 1.0 if x > 0 else 2.0
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, scale), obs=y)


def in_place(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    mean = torch.zeros(len(y))
    for i in range(1, len(y)):
        mean[i] = 0.5 * mean[i - 1] + x
    pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


def partly_observed(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y, obs_mask=y > 0)


def with_module(net, x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    pyro.module("net", net)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(slope * net(x).squeeze(-1), 1.0), obs=y)


def with_keywords(*, x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def ordered(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    cuts = torch.tensor([-1.0, 0.0, 1.0])
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.OrderedLogistic(x, cuts), obs=y)


def ordered_cuts(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    widths = pyro.sample("widths", dist.Gamma(torch.ones(3), 1.0).to_event(1))
    cuts = widths.cumsum(-1) - 2
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)


def multinomial(y):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Multinomial(10, p), obs=y)


def mixture(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((3,), 2.0)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("component", 3):
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    pyro.deterministic("spread", loc.max() - loc.min())
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.deterministic("center", loc[z])
        pyro.sample("y", dist.Normal(loc[z], scale), obs=y)


def grouped_mixture(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("group", y.shape[1], dim=-1):
        z = pyro.sample("z", dist.Bernoulli(p))
        with pyro.plate("row", len(y), dim=-2):
            pyro.sample("y", dist.Normal(loc[z.long()], 1.0), obs=y)


def hidden_markov(y):
    with pyro.plate("state", 2):
        move = pyro.sample("move", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    z = 0
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(move[z]))
        pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])


def discrete_hmm(y):
    with pyro.plate("state", 2):
        move = pyro.sample("move", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    noise = dist.Normal(loc, 1.0)
    pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), move.log(), noise), obs=y)


def continuous_on_discrete(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p))
        x = pyro.sample("x", dist.Normal(3 * z, 1 + z))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


KINDS: dict[str, Kind] = {
    "hierarchical": Kind(eight_schools, (X[:8, 0].abs() + 1, Y[:8])),
    "regression": Kind(regression, (X, Y)),
    "gaussian_process": Kind(gaussian_process, (X, Y)),
    "lkj": Kind(correlation, (X,)),
    "dirichlet": Kind(dirichlet, (GROUP,)),
    "beta": Kind(beta_binomial, (COUNTS,)),
    "gamma": Kind(gamma_poisson, (COUNTS,)),
    "logistic": Kind(logistic, (X, (Y > 0).double())),
    "student": Kind(student, (Y,)),
    "factor": Kind(factor, (Y,)),
    "scale": Kind(scaled, (Y,)),
    "mask": Kind(masked, (Y,)),
    "horseshoe": Kind(horseshoe, (X, Y)),
    "random_walk": Kind(random_walk, (Y,)),
    "network": Kind(network, (X, Y)),
    "pyro_module": Kind(Module(), (X, Y)),
    "pyro_param": Kind(with_param, (Y,)),
    "nested_plates": Kind(nested_plates, (X,)),
    "improper_uniform": Kind(improper, (Y,)),
    "interval": Kind(interval, (Y,)),
    "conditioned": Kind(
        pyro.condition(eight_schools, {"y": Y[:8]}), (X[:8, 0].abs() + 1,)
    ),
    "obs_mask": Kind(partly_observed, (Y,)),
    "module_argument": Kind(with_module, (torch.nn.Linear(3, 1).double(), X, Y)),
    "keywords": Kind(with_keywords, (), kwargs={"y": Y, "x": X[:, 0]}),
    "sequential_plate": Kind(sequential_plate, (Y,)),
    "sequential_latents": Kind(sequential_latents, (Y[:4],)),
    "data_as_number": Kind(data_as_number, (Y,), warns=True),
    "data_as_array": Kind(data_as_array, (Y,), warns=True),
    "mask_as_count": Kind(mask_as_count, (Y,), warns=True),
    "selection": Kind(selection, (Y,), warns=True),
    "branch": Kind(branch, (Y,), "sequential", warns=True),
    "in_place": Kind(in_place, (Y[:4],), "sequential", warns=True),
    "ordered_logistic": Kind(ordered, (GROUP,)),
    "ordered_cutpoints": Kind(ordered_cuts, (X[:, 0], GROUP)),
    "multinomial": Kind(multinomial, (MULTINOMIAL,)),
    "mixture": Kind(mixture, (Y,)),
    "grouped_mixture": Kind(grouped_mixture, (X,)),
    "hidden_markov": Kind(hidden_markov, (Y[:4],)),
    "discrete_hmm": Kind(discrete_hmm, (Y,)),
    "continuous_on_discrete": Kind(continuous_on_discrete, (Y,)),
}
