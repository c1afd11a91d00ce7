"""The posteriors of the mode finder for NumPyro, and its NUTS from default starts.

The models are those of `_decent_cem_posteriors`, written again; their densities are
compared before anything is sampled. Starts are NumPyro's own: uniform on (-2, 2) in
unconstrained space, one for each chain.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _decent_cem_posteriors import PRIOR, WIDTH, Posterior
from _hmc_numpyro import compile_sampler, sample
from torch import Tensor

from pyro_geo.density import Target

# Peers of the `bench` extra: not there where only `dev` is installed.
jax: Any = importlib.import_module("jax")
jnp: Any = importlib.import_module("jax.numpy")
numpyro: Any = importlib.import_module("numpyro")
dist: Any = importlib.import_module("numpyro.distributions")
infer: Any = importlib.import_module("numpyro.infer")

Array = Any


def normal(name: str, shape: int | tuple[int, ...], scale: float) -> Array:
    """Sample independent normals with mean zero."""
    size = (shape,) if isinstance(shape, int) else shape
    prior = dist.Normal(0.0, scale).expand(size).to_event(len(size))
    return numpyro.sample(name, prior)


def observe(mean: Array, scale: Any, y: Array) -> None:
    """Observe independent normal outcomes."""
    numpyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=y)


def cauchy(y: Array) -> None:
    """Two locations."""
    x = normal("x", 2, PRIOR)
    numpyro.sample("y", dist.Cauchy(x[:, None], 1.0).to_event(2), obs=y)


def wells(tilt: Array) -> None:
    """Two wells in each coordinate."""
    x = normal("x", 4, 3.0)
    numpyro.factor("wells", -((x**2 - 4.0) ** 2 / 4.0 + tilt * x).sum())


def gaussians(means: Array) -> None:
    """Twenty narrow Gaussians."""
    box = dist.Uniform(-1.0, 11.0).expand([2]).to_event(1)
    x = numpyro.sample("x", box)
    square = ((x - means) ** 2).sum(-1)
    numpyro.factor("mixture", jax.nn.logsumexp(-0.5 * square / WIDTH**2))


def tones(count: int) -> Callable[[Array], None]:
    """Sinusoids in noise."""

    def model(y: Array) -> None:
        t = jnp.arange(len(y))
        band = dist.Uniform(0.0, math.pi).expand([count]).to_event(1)
        omega = numpyro.sample("omega", band)
        a = normal("a", (count, 2), 2.0)
        sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        angle = omega[:, None] * t
        mean = (a[:, :1] * jnp.cos(angle) + a[:, 1:] * jnp.sin(angle)).sum(0)
        observe(mean, sigma, y)

    return model


def phase(y: Array) -> None:
    """Amplitude and phase."""
    amplitude = numpyro.sample("amplitude", dist.Normal(0.0, 2.0))
    phi = numpyro.sample("phi", dist.Normal(0.0, 4.0))
    observe(amplitude * jnp.cos(0.7 * jnp.arange(len(y)) + phi), 0.5, y)


def radial(t: Array, y: Array) -> None:
    """Radial velocity."""
    prior = dist.Uniform(math.log(1.5), math.log(60.0))
    angle = 2 * math.pi * t * jnp.exp(-numpyro.sample("log_period", prior))
    a = normal("a", 2, 10.0)
    offset = numpyro.sample("offset", dist.Normal(0.0, 10.0))
    observe(offset + a[0] * jnp.cos(angle) + a[1] * jnp.sin(angle), 2.0, y)


def factors(y: Array) -> None:
    """Two factors."""
    p = y.shape[-1]
    entries = normal("loadings", 2 * p - 1, 1.0)
    second = jnp.concatenate([jnp.zeros(1), entries[p:]])
    loadings = jnp.stack([entries[:p], second], -1)
    prior = dist.LogNormal(-1.0, 0.5).expand([p]).to_event(1)
    covariance = loadings @ loadings.T + jnp.diag(numpyro.sample("psi", prior))
    rows = dist.MultivariateNormal(jnp.zeros(p), covariance)
    numpyro.sample("y", rows.expand([len(y)]).to_event(1), obs=y)


def lines(x: Array, y: Array) -> None:
    """Three lines."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(3, 2.0)))
    line = normal("line", (3, 2), 2.0)
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0))
    mean = line[:, 0] + line[:, 1] * x[:, None]
    each = dist.Normal(mean, sigma).log_prob(y[:, None]) + jnp.log(weights)
    numpyro.factor("y", jax.nn.logsumexp(each, -1).sum())


def network(x: Array, y: Array) -> None:
    """Two tanh units."""
    w, b, v = normal("w", 2, 2.0), normal("b", 2, 1.0), normal("v", 2, 1.0)
    c = numpyro.sample("c", dist.Normal(0.0, 1.0))
    observe(jnp.tanh(x[:, None] * w + b) @ v + c, 0.1, y)


def gp(x: Array, y: Array) -> None:
    """Hyperparameters of a Gaussian process."""
    length = numpyro.sample("length", dist.LogNormal(0.0, 1.5))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.5, 1.5))
    square = (x[:, None] - x) ** 2
    covariance = scale**2 * jnp.exp(-0.5 * square / length**2)
    covariance = covariance + (sigma**2 + 1e-6) * jnp.eye(len(x))
    prior = dist.MultivariateNormal(jnp.zeros(len(x)), covariance)
    numpyro.sample("y", prior, obs=y)


MODELS: dict[str, Callable[..., None]] = {
    "cauchy": cauchy,
    "wells": wells,
    "gaussians": gaussians,
    "one tone": tones(1),
    "three tones": tones(3),
    "phase": phase,
    "factors": factors,
    "lines": lines,
    "network": network,
    "gp": gp,
    "radial velocity": radial,
}


def bound(name: str, posterior: Posterior) -> Callable[[], None]:
    """The model with its data."""
    data = [jnp.asarray(x.numpy()) for x in posterior.args]

    def model() -> None:
        MODELS[name](*data)

    return model


def densities_differ(name: str, posterior: Posterior, target: Target) -> float:
    """Largest difference of the log-densities of both models, beyond a constant."""
    random = torch.Generator().manual_seed(0)
    q = target.initial(8, "prior", random)
    values = [target.constrain(row) for row in q]
    model = bound(name, posterior)
    theirs = []
    for row in values:
        sites = {site: jnp.asarray(x.numpy()) for site, x in row.items()}
        theirs.append(float(infer.util.log_density(model, (), {}, sites)[0]))
    gap = log_density(posterior, values) - torch.tensor(theirs)
    return float((gap - gap.mean()).abs().max())


def log_density(posterior: Posterior, values: list[dict[str, Tensor]]) -> Tensor:
    """Log-density of a Pyro model at constrained values."""
    from pyro import poutine

    found = []
    for row in values:
        model = poutine.condition(posterior.model, data=row)
        found.append(poutine.trace(model).get_trace(*posterior.args).log_prob_sum())
    return torch.stack(found)


def default_starts(
    name: str, posterior: Posterior, num_chains: int, num_samples: int, warmup: int
) -> dict[str, np.ndarray]:
    """Draws of NUTS from default starts, site to `(chains, draws, *shape)`."""
    nuts = compile_sampler(
        bound(name, posterior), num_chains, num_samples, dense=False, warmup=warmup
    )
    return dict(sample(nuts, num_samples, 0, warmup).draws)
