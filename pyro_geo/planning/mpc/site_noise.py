r"""Values of random sites as functions of given standard normal numbers.

A planner compares candidates under the same noise, so a site may not draw: its value
is a fixed function of its parameters and of numbers from outside.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch import distributions as law

from pyro_geo.density.structure import base_distribution
from pyro_geo.errors import UnsupportedError

__all__ = ["noise_shape", "value_of"]

_TRIES = 8  # a gamma proposal is refused once in twenty at most: 1 in 10^10 for all
_GAMMA = 2 * _TRIES + 1  # a proposal and its acceptance each, and one for small shapes


def noise_shape(fn: Any, name: str) -> tuple[int, ...]:
    """Shape of the standard normal numbers that a site takes.

    Args:
        fn: its distribution.
        name: of the site, for the message.

    Returns:
        The shape, empty in its first axis for a point mass. The first axis counts
        numbers for each number of the value.

    Raises:
        UnsupportedError: no function of normal numbers is known for it.
    """
    shape = fn.batch_shape + fn.event_shape
    count = _numbers(fn)
    if count is None:
        raise UnsupportedError(
            "a site whose value is no function of given noise",
            where=f"site {name!r}",
            found=type(base_distribution(fn)).__name__,
            expected="a normal or Student-t distribution, one with a quantile function,"
            " a gamma or Beta, one with finitely many values, or a transform of these",
            todo="Write the noise of the step with one of them.",
        )
    return (count, *shape)


def value_of(fn: Any, noise: Tensor) -> Tensor:
    """Make the value of a site from noise.

    Args:
        fn: its distribution; draws of the noise give draws of it.
        noise: as :func:`noise_shape` says.

    Returns:
        The value.
    """
    fn = _inside(fn)
    if isinstance(fn, law.TransformedDistribution):
        x: Any = value_of(fn.base_dist, noise)
        for transform in fn.transforms:
            x = transform(x)
        return x
    if isinstance(fn, Delta):
        return torch.as_tensor(fn.v)
    if isinstance(fn, law.OneHotCategorical):
        return _one_hot(fn, noise[0])
    if isinstance(fn, law.Normal):
        return fn.loc + fn.scale * noise[0]
    if isinstance(fn, law.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ noise[0].unsqueeze(-1)).squeeze(-1)
    if isinstance(fn, law.StudentT):
        return fn.loc + fn.scale * _student(fn.df, noise)
    if isinstance(fn, law.Gamma):
        return _gamma(fn.concentration, noise) / fn.rate
    if isinstance(fn, law.Beta):
        a = _gamma(fn.concentration1, noise[:_GAMMA])
        b = _gamma(fn.concentration0, noise[_GAMMA:])
        return a / (a + b)
    if isinstance(fn, law.Dirichlet):
        x = _gamma(fn.concentration, noise)
        return x / x.sum(-1, keepdim=True)
    if fn.has_enumerate_support:
        return _finite(fn, _uniform(noise[0]))
    return fn.icdf(_uniform(noise[0]))


def _inside(fn: Any) -> Any:
    fn = base_distribution(fn)
    while isinstance(fn, ExpandedDistribution):
        fn = base_distribution(fn.base_dist)
    return fn


def _numbers(fn: Any) -> int | None:
    """Normal numbers for each number of a value; None where there is no function."""
    fn = _inside(fn)
    if isinstance(fn, law.TransformedDistribution):
        # a transform that changes the shape would need noise of another shape
        same = fn.base_dist.batch_shape + fn.base_dist.event_shape
        return (
            _numbers(fn.base_dist) if same == fn.batch_shape + fn.event_shape else None
        )
    if isinstance(fn, Delta):
        return 0
    if isinstance(fn, law.StudentT):
        return 2
    if isinstance(fn, (law.Gamma, law.Dirichlet)):
        return _GAMMA
    if isinstance(fn, law.Beta):
        return 2 * _GAMMA
    known = (law.Normal, law.MultivariateNormal, law.OneHotCategorical)
    if isinstance(fn, known):
        return 1
    if fn.event_shape:
        return None
    if fn.has_enumerate_support:
        return 1
    try:
        fn.icdf(torch.full(fn.batch_shape, 0.5))
    except NotImplementedError:
        return None
    return 1


def _uniform(z: Tensor) -> Tensor:
    """Uniform numbers inside (0, 1); quantiles of the ends may be infinite."""
    edge = torch.finfo(z.dtype).eps
    return torch.special.ndtr(z).clamp(edge, 1 - edge)


def _student(df: Tensor, noise: Tensor) -> Tensor:
    """Student-t numbers by the polar form, exact for every number of degrees."""
    u, turn = _uniform(noise[0]), 2 * math.pi * _uniform(noise[1])
    # u^(-2/df) - 1 loses its digits where df is large
    return (df * torch.expm1(-2 / df * u.log())).sqrt() * turn.cos()


def _gamma(shape: Tensor, noise: Tensor) -> Tensor:
    """Gamma numbers of unit rate by refusal, from a fixed number of proposals."""
    small = shape < 1
    d = torch.where(small, shape + 1, shape) - 1 / 3
    z, u = noise[:_TRIES], _uniform(noise[_TRIES : 2 * _TRIES])
    v = (1 + z / (9 * d).sqrt()) ** 3
    safe = v.clamp_min(torch.finfo(v.dtype).tiny)
    accepted = (v > 0) & (u.log() < z**2 / 2 + d - d * v + d * safe.log())
    # the first one that is accepted
    first = accepted.to(torch.int64).argmax(0, keepdim=True)
    x = d * safe.gather(0, first).squeeze(0)
    lower = _uniform(noise[2 * _TRIES]) ** (1 / shape)
    return torch.where(small, x * lower, x)


def _finite(fn: Any, u: Tensor) -> Tensor:
    """Value of a distribution with finitely many, where the sum of chances passes u."""
    if isinstance(fn, law.Bernoulli):
        return (u > 1 - fn.probs).to(u.dtype)
    if isinstance(fn, law.Categorical):
        return _passed(fn.probs, u).to(torch.int64)
    values = fn.enumerate_support(expand=False)
    chances = fn.log_prob(values).exp().movedim(0, -1)
    rank = _passed(chances, u)
    return values.flatten()[rank.to(torch.int64)]


def _one_hot(fn: Any, noise: Tensor) -> Tensor:
    rank = _passed(fn.probs, _uniform(noise[..., 0])).to(torch.int64)
    return torch.nn.functional.one_hot(rank, fn.probs.shape[-1]).to(fn.probs)


def _passed(chances: Tensor, u: Tensor) -> Tensor:
    # rounding may leave the last sum below u
    return (u.unsqueeze(-1) > chances.cumsum(-1)[..., :-1]).sum(-1)
