"""Eleven posteriors with several modes, as Pyro models with fixed data.

Some have modes by symmetry (tones, factor signs, mixture regression, small network),
some because the data fit in several ways (Cauchy locations, one weak tone, phase, GP
hyperparameters, radial velocity), some by construction (wells, Gaussians).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

# The means of Kou, Zhou and Wong (2006), Equi-energy sampler with applications in
# statistical inference and statistical mechanics, whose standard deviation is 0.1.
MEANS = [
    [2.18, 5.76],
    [8.67, 9.59],
    [4.24, 8.48],
    [8.41, 1.68],
    [3.93, 8.82],
    [3.25, 3.47],
    [1.70, 0.50],
    [4.59, 5.60],
    [6.91, 5.81],
    [6.87, 5.40],
    [5.41, 2.65],
    [2.70, 7.88],
    [4.98, 3.70],
    [1.14, 2.39],
    [8.33, 9.50],
    [4.93, 1.50],
    [1.83, 0.09],
    [2.26, 0.31],
    [5.54, 6.86],
    [1.69, 8.11],
]
WIDTH = 0.1
PRIOR = 5.0
TILT = 0.1
OBSERVED = [[-5.0, 4.0], [-3.0, 6.0]]
Values = dict[str, Tensor]


class Posterior(NamedTuple):
    """A model with its data.

    Attributes:
        model: a Pyro model.
        args: its data.
        copies: given constrained values, all that are as probable by symmetry.
    """

    model: Callable[..., Any]
    args: tuple[Tensor, ...]
    copies: Callable[[Values], Iterator[Values]] | None = None


def normal(shape: int | tuple[int, ...], scale: float) -> dist.TorchDistribution:
    """Independent normals with mean zero, one event."""
    size = (shape,) if isinstance(shape, int) else shape
    return dist.Normal(torch.zeros(size), scale).to_event(len(size))


def noise(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in the default type."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return numbers.to(torch.get_default_dtype())


# ------------------------------------------------------------------ made by hand


def cauchy(y: Tensor) -> None:
    """Two locations, each with two Cauchy observations that disagree."""
    x = pyro.sample("x", normal(2, PRIOR))
    pyro.sample("y", dist.Cauchy(x[:, None], 1.0).to_event(2), obs=y)


def wells(tilt: Tensor) -> None:
    """Two wells of unequal depth in each of four coordinates."""
    x = pyro.sample("x", normal(4, 3.0))
    pyro.factor("wells", -((x.square() - 4.0).square() / 4.0 + tilt * x).sum())


def gaussians(means: Tensor) -> None:
    """Twenty narrow Gaussians in a box of width 12."""
    low = torch.full((2,), -1.0)
    x = pyro.sample("x", dist.Uniform(low, low + 12.0).to_event(1))
    square = (x - means).square().sum(-1)
    pyro.factor("mixture", torch.logsumexp(-0.5 * square / WIDTH**2, 0))


# ------------------------------------------------------------------ signals


def tones(y: Tensor, count: int) -> None:
    """Sinusoids of unknown frequency, amplitude and phase in noise."""
    t = torch.arange(len(y), dtype=y.dtype)
    omega = pyro.sample("omega", dist.Uniform(torch.zeros(count), math.pi).to_event(1))
    a = pyro.sample("a", normal((count, 2), 2.0))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.zeros(()), 1.0))
    angle = omega[:, None] * t
    mean = (a[:, :1] * angle.cos() + a[:, 1:] * angle.sin()).sum(0)
    pyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)


def one_tone(y: Tensor) -> None:
    """One tone, so weak that several frequencies fit."""
    tones(y, 1)


def three_tones(y: Tensor) -> None:
    """Three tones that may be named in any order."""
    tones(y, 3)


def phase(y: Tensor) -> None:
    """Amplitude and phase on the line: half a turn changes the sign."""
    amplitude = pyro.sample("amplitude", dist.Normal(torch.zeros(()), 2.0))
    phi = pyro.sample("phi", dist.Normal(torch.zeros(()), 4.0))
    t = torch.arange(len(y), dtype=y.dtype)
    mean = amplitude * torch.cos(0.7 * t + phi)
    pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)


def radial(t: Tensor, y: Tensor) -> None:
    """Radial velocity of a star with one planet on a circle, seen on few nights."""
    low = torch.full((), math.log(1.5))
    log_period = pyro.sample("log_period", dist.Uniform(low, math.log(60.0)))
    a = pyro.sample("a", normal(2, 10.0))
    offset = pyro.sample("offset", dist.Normal(torch.zeros(()), 10.0))
    angle = 2 * math.pi * t * (-log_period).exp()
    mean = offset + a[0] * angle.cos() + a[1] * angle.sin()
    pyro.sample("y", dist.Normal(mean, 2.0).to_event(1), obs=y)


# ------------------------------------------------------------------ models of data


def factors(y: Tensor) -> None:
    """Two factors of five variables; loadings above the diagonal are zero."""
    p = y.shape[-1]
    entries = pyro.sample("loadings", normal(2 * p - 1, 1.0))
    zero = entries.new_zeros(1)
    loadings = torch.stack([entries[:p], torch.cat([zero, entries[p:]])], -1)
    psi = pyro.sample("psi", dist.LogNormal(torch.full((p,), -1.0), 0.5).to_event(1))
    covariance = loadings @ loadings.mT + torch.diag(psi)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MultivariateNormal(y.new_zeros(p), covariance), obs=y)


def lines(x: Tensor, y: Tensor) -> None:
    """A mixture of three regression lines."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((3,), 2.0)))
    line = pyro.sample("line", normal((3, 2), 2.0))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.full((), -1.0), 1.0))
    mean = line[:, 0] + line[:, 1] * x[:, None]
    each = dist.Normal(mean, sigma).log_prob(y[:, None]) + weights.log()
    pyro.factor("y", torch.logsumexp(each, -1).sum())


def network(x: Tensor, y: Tensor) -> None:
    """One hidden layer of two tanh units."""
    w = pyro.sample("w", normal(2, 2.0))
    b = pyro.sample("b", normal(2, 1.0))
    v = pyro.sample("v", normal(2, 1.0))
    c = pyro.sample("c", dist.Normal(torch.zeros(()), 1.0))
    mean = torch.tanh(x[:, None] * w + b) @ v + c
    pyro.sample("y", dist.Normal(mean, 0.1).to_event(1), obs=y)


def gp(x: Tensor, y: Tensor) -> None:
    """Hyperparameters of a Gaussian process: slow and noisy, or fast and clean."""
    length = pyro.sample("length", dist.LogNormal(torch.zeros(()), 1.5))
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 1.0))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.full((), -1.5), 1.5))
    square = (x[:, None] - x).square()
    covariance = scale.square() * torch.exp(-0.5 * square / length.square())
    covariance = covariance + (sigma.square() + 1e-6) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


# ------------------------------------------------------------------ symmetries


def of_tones(values: Values) -> Iterator[Values]:
    """All orders of the tones."""
    for order in itertools.permutations(range(len(values["omega"]))):
        places = list(order)
        moved = {"omega": values["omega"][places], "a": values["a"][places]}
        yield values | moved


def of_factors(values: Values) -> Iterator[Values]:
    """All signs of the two factors."""
    p = len(values["psi"])
    for first, second in itertools.product((1.0, -1.0), repeat=2):
        signs = torch.tensor([first] * p + [second] * (p - 1))
        yield values | {"loadings": values["loadings"] * signs}


def of_lines(values: Values) -> Iterator[Values]:
    """All orders of the lines."""
    for order in itertools.permutations(range(3)):
        places = list(order)
        moved = {"weights": values["weights"][places], "line": values["line"][places]}
        yield values | moved


def of_network(values: Values) -> Iterator[Values]:
    """Both orders of the units with all their signs."""
    for order in itertools.permutations(range(2)):
        for signs in itertools.product((1.0, -1.0), repeat=2):
            sign, places = torch.tensor(signs), list(order)
            yield values | {n: sign * values[n][places] for n in ("w", "b", "v")}


# ------------------------------------------------------------------ data


def tone_data(
    omega: list[float], a: list[list[float]], sigma: float, length: int, seed: int
) -> Tensor:
    """A sum of tones with noise."""
    t = torch.arange(length) * 1.0
    angle = torch.tensor(omega)[:, None] * t
    parts = torch.tensor(a)[:, :1] * angle.cos() + torch.tensor(a)[:, 1:] * angle.sin()
    return parts.sum(0) + sigma * noise(length, seed=seed)


def factor_data() -> Tensor:
    """A hundred rows of five variables."""
    loadings = torch.tensor(
        [[0.9, 0.0], [0.7, 0.5], [-0.4, 0.8], [0.3, 0.9], [0.6, -0.5]]
    )
    numbers = noise(100, 7, seed=3)
    return numbers[:, :2] @ loadings.mT + 0.6 * numbers[:, 2:]


def line_data() -> tuple[Tensor, Tensor]:
    """Ninety points about three lines."""
    x = torch.linspace(-1.0, 1.0, 90)
    truth = torch.tensor([[1.0, 1.5], [-1.0, 0.5], [0.0, -2.0]])
    line = truth[torch.arange(90) * 7 % 3]
    return x, line[:, 0] + line[:, 1] * x + 0.2 * noise(90, seed=4)


def network_data() -> tuple[Tensor, Tensor]:
    """Twenty points about a bump."""
    x = torch.linspace(-2.0, 2.0, 20)
    return x, torch.exp(-(x.square())) + 0.1 * noise(20, seed=5)


def gp_data() -> tuple[Tensor, Tensor]:
    """Ten points that two kinds of curves go through."""
    x = torch.linspace(-4.0, 4.0, 10) + 0.2 * noise(10, seed=20)
    return x, torch.sin(1.6 * x) + 0.8 * noise(10, seed=21)


def radial_data() -> tuple[Tensor, Tensor]:
    """Ten nights of a season."""
    generator = torch.Generator().manual_seed(9)
    nights = torch.randperm(70, generator=generator)[:10].sort().values
    t = nights + 0.1 * noise(10, seed=10)
    angle = 2 * math.pi * t / 9.3
    return t, 3.0 + 4.0 * angle.cos() - 2.0 * angle.sin() + 2.0 * noise(10, seed=11)


def posteriors() -> dict[str, Posterior]:
    """All of them, in the default type."""
    three = [[1.0, 0.3], [-0.5, 0.8], [0.2, -0.9]]
    weak = tone_data([1.7], [[0.48, 0.36]], 1.0, 40, seed=6)
    strong = tone_data([0.6, 1.1, 1.7], three, 0.5, 60, seed=2)
    wave = 1.2 * torch.cos(0.7 * torch.arange(12) + 0.6) + 0.5 * noise(12, seed=11)
    return {
        "cauchy": Posterior(cauchy, (torch.tensor(OBSERVED),)),
        "wells": Posterior(wells, (torch.tensor(TILT),)),
        "gaussians": Posterior(gaussians, (torch.tensor(MEANS),)),
        "one tone": Posterior(one_tone, (weak,)),
        "three tones": Posterior(three_tones, (strong,), of_tones),
        "phase": Posterior(phase, (wave,)),
        "factors": Posterior(factors, (factor_data(),), of_factors),
        "lines": Posterior(lines, line_data(), of_lines),
        "network": Posterior(network, network_data(), of_network),
        "gp": Posterior(gp, gp_data()),
        "radial velocity": Posterior(radial, radial_data()),
    }
