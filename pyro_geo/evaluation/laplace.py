"""The Laplace approximation, in weights and through a linearised model."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_geo.density import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.errors import (
    ConfigurationError,
    NotPositiveDefiniteError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.geometry.curvature import ggn, prior_hessian

__all__ = ["laplace", "linearised_laplace"]

# Parameters that are linearised, in the unconstrained coordinates of their support.
_PARAMETERS: dict[type, tuple[str, ...]] = {
    dist.Normal: ("loc", "scale"),
    dist.StudentT: ("df", "loc", "scale"),
    dist.Poisson: ("rate",),
    dist.Bernoulli: ("logits",),
    dist.Categorical: ("logits",),
}


def laplace(target: Target, q_map: Tensor, num_draws: int, seed: int = 0) -> Tensor:
    r"""Draw from the normal distribution at a MAP with the Gauss-Newton precision.

    .. math:: q \sim N\bigl(\hat q, (G(\hat q) + P(\hat q))^{-1}\bigr)

    with `G` the Gauss-Newton matrix of minus the log-likelihood and `P` the Hessian of
    minus the log-prior. Exact where the posterior is normal; a network's draws leave
    the region where it is, and predict badly. Costs `dim**3`.

    Args:
        target: made from a Pyro model or a module.
        q_map: where to expand, `(dim,)`.
        num_draws: how many.
        seed: of the draws; the global random state stays untouched.

    Returns:
        Draws, `(num_draws, dim)`.

    Raises:
        ConfigurationError: fewer than one draw.
        ShapeError: `q_map` is not one position.
        NotPositiveDefiniteError: the prior's Hessian outweighs the data somewhere, as
            a hierarchical prior's can.

    References:
        MacKay (1992), A practical Bayesian framework for backpropagation networks;
        Ritter, Botev and Barber (2018), A scalable Laplace approximation for neural
        networks.

    Example:
        >>> import pyro
        >>> def model(y):
        ...     m = pyro.sample("m", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(m, 1.0).expand([3]).to_event(1), obs=y)
        >>> target = Target.from_model(model, torch.zeros(3))
        >>> laplace(target, torch.zeros(1), 5).shape
        torch.Size([5, 1])
    """
    if num_draws < 1:
        raise ConfigurationError(
            "Too few draws", "'num_draws'", num_draws, "at least 1", "Pass 1."
        )
    if q_map.shape != (target.dim,):
        raise ShapeError(
            "Wrong shape",
            "argument 'q_map'",
            tuple(q_map.shape),
            (target.dim,),
            "Pass one position, such as `map_estimate(target)[0]`.",
        )
    precision = (ggn(target, q_map) + prior_hessian(target, q_map)).double()
    factor, info = torch.linalg.cholesky_ex(precision)
    if info > 0:
        raise NotPositiveDefiniteError(
            "No Laplace approximation",
            f"leading minor {int(info)} of the precision",
            "not positive definite",
            "positive definite",
            "Reparameterise the model, or use another method.",
        )
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(target.dim, num_draws, generator=generator, dtype=torch.float64)
    moves = torch.linalg.solve_triangular(factor.mT, z, upper=True).mT
    return q_map + moves.to(q_map)


def linearised_laplace(
    target: Target, q_map: Tensor, test: Target, num_draws: int = 100, seed: int = 0
) -> dict[str, Any]:
    r"""Predict with the Laplace approximation through the model linearised at the MAP.

    .. math:: \eta(q) = \eta(\hat q) + J(\hat q) (q - \hat q), \qquad q \sim
              \text{Laplace}

    with `eta` the unconstrained parameters of each observed distribution: mean and
    log-scale, log-rate, logits. The predictions that go with the Gauss-Newton matrix.
    Where they are much wider than the noise, a mixture of few draws scores worse than
    one of many: compare methods at the same number.

    Args:
        target: made from a Pyro model, on the data learnt from.
        q_map: where to expand, `(dim,)`.
        test: the same model on the data to predict.
        num_draws: how many draws of the weights.
        seed: of the draws; the global random state stays untouched.

    Returns:
        For each observed site the distributions of its values in `test`, with the draws
        as first axis of their batch: `log_prob(y)` is `(num_draws, *shape)`.

    Raises:
        ShapeError: `test` has other latent sites than `target`.
        UnsupportedError: the target was not made from a Pyro model, or a site's
            distribution has no known parameters.

    References:
        Immer, Korzepa and Bauer (2021), Improving predictions of Bayesian neural nets
        via local linearization, equation 8.

    Example:
        >>> import pyro
        >>> def model(x, y=None):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)
        >>> train = Target.from_model(model, torch.ones(3), torch.ones(3))
        >>> test = Target.from_model(model, torch.ones(2), torch.ones(2))
        >>> found = linearised_laplace(train, torch.zeros(1), test, num_draws=5)["y"]
        >>> found.log_prob(torch.ones(2)).shape
        torch.Size([5, 2])
    """
    density = test.density
    if not isinstance(density, ModelDensity):
        raise UnsupportedError(
            "No observed distributions to linearise",
            "argument 'test'",
            type(density).__name__,
            "a target made from a Pyro model",
            "Make the target with `Target.from_model`.",
        )
    if test.layout.dim != target.layout.dim:
        raise ShapeError(
            "Two different models",
            "argument 'test'",
            f"{test.layout.dim} latent dimensions",
            target.layout.dim,
            "Use the same model on other data.",
        )
    moves = laplace(target, q_map, num_draws, seed) - q_map
    sites = density.observations(q_map.detach(), test.data)
    return {name: _linearise(density, test.data, name, q_map, moves) for name in sites}


def _linearise(
    density: ModelDensity,
    data: tuple[Tensor, ...],
    name: str,
    q_map: Tensor,
    moves: Tensor,
) -> Any:
    """Distribution of one observed site with its parameters moved along tangents."""
    with torch.enable_grad():
        q = q_map.detach().requires_grad_()
        base, event_dims = _unwrap(density.observations(q, data)[name].fn)
        family = next((f for f in _PARAMETERS if isinstance(base, f)), None)
        if family is None:
            raise UnsupportedError(
                "No known parameters to linearise",
                f"site {name!r}",
                type(base).__name__,
                ", ".join(f.__name__ for f in _PARAMETERS),
                "Compare with another baseline for this model.",
            )
        moved = {}
        for parameter in _PARAMETERS[family]:
            transform = biject_to(base.arg_constraints[parameter])
            value = transform.inv(getattr(base, parameter))
            moved[parameter] = transform(value.detach() + _tangents(value, q, moves))
    found = family(**moved, validate_args=False)
    return found.to_event(event_dims) if event_dims else found


def _tangents(value: Tensor, q: Tensor, moves: Tensor) -> Tensor:
    """Directional derivatives `J moves`, `(draws, *value.shape)`, in reverse mode."""
    shape = moves.shape[:1] + value.shape
    if not value.requires_grad:
        return value.new_zeros(shape)
    # J^T u is linear in u, and its derivative along a move is J times the move
    u = torch.zeros_like(value, requires_grad=True)
    (pulled,) = torch.autograd.grad(value, q, u, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, u, moves, is_grads_batched=True)
    return pushed


def _unwrap(fn: Any) -> tuple[Any, int]:
    """Take masks and event dimensions off a distribution, and count the latter."""
    if isinstance(fn, dist.MaskedDistribution):
        return _unwrap(fn.base_dist)
    if isinstance(fn, torch.distributions.Independent):
        base, inner = _unwrap(fn.base_dist)
        return base, inner + fn.reinterpreted_batch_ndims
    return fn, 0
