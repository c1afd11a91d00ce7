r"""Curvature of a target: the generalised Gauss-Newton matrix and the prior's Hessian.

The matrix is read off one scalar function. For outputs `f(q)` and a divergence `D`
that vanishes to first order where its arguments meet,

.. math:: F(q) = D(f(q_0) \,\|\, f(q)), \qquad
          \nabla^2 F(q_0) = J^\top \, \nabla^2 D \, J,

because the term with the second derivative of `f` carries the gradient of `D`, which
is zero there. With `D` the Kullback-Leibler divergence between the observed sites'
distributions this is the Fisher form; with the Bregman divergence of a loss it is the
Gauss-Newton form of a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.module import ModuleDensity
from pyro_geo.errors import MissingCurvatureError, ShapeError
from pyro_geo.geometry._divergence import divergence as site_divergence

__all__ = ["ggn", "ggn_diagonal", "ggn_product", "prior_diagonal", "prior_hessian"]

_ROWS = 256  # rows of a dense matrix differentiated in one batched backward pass


def ggn(target: Target, q: Tensor) -> Tensor:
    r"""Generalised Gauss-Newton matrix of the negative log-likelihood at `q`.

    Positive semidefinite by construction, unlike the Hessian. Costs `dim / 256`
    batched backward passes and `dim**2` memory.

    Args:
        target: made from a Pyro model or a module.
        q: one position, `(dim,)`.

    Returns:
        The matrix, `(dim, dim)`, in nats. An observed site without a known divergence
        raises :class:`~pyro_geo.errors.MissingCurvatureError`.

    References:
        Martens (2020), New insights and perspectives on the natural gradient method.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        ...     y = torch.zeros(len(x))
        ...     pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> ggn(Target.from_model(model, x), torch.zeros(2)).tolist()
        [[8.0, 4.0], [4.0, 8.0]]
    """
    return _dense_hessian(_divergence(target, q), q)


def ggn_product(target: Target, q: Tensor, v: Tensor) -> Tensor:
    """Multiply the Gauss-Newton matrix at `q` with vectors, without forming it.

    Args:
        target: made from a Pyro model or a module.
        q: one position, `(dim,)`.
        v: vectors, `(count, dim)`.

    Returns:
        The products, `(count, dim)`.
    """
    return _hessian_rows(_divergence(target, q), q, v)


def ggn_diagonal(
    target: Target,
    q: Tensor,
    num_probes: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate the diagonal of the Gauss-Newton matrix from random products.

    .. math:: \operatorname{diag} G \approx \frac{1}{m} \sum_k z_k \odot G z_k,
              \qquad z_k \in \{-1, 1\}^{dim}

    Unbiased; entries that come out negative by chance are set to zero. For dimensions
    where the dense matrix does not fit.

    Args:
        target: made from a Pyro model or a module.
        q: one position, `(dim,)`.
        num_probes: number of products.
        generator: randomness of the probes.

    Returns:
        The estimate, `(dim,)`, not negative.

    References:
        Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal of a matrix.
    """
    divergence = _divergence(target, q)
    return _diagonal(divergence, q, num_probes, generator).clamp(min=0)


def prior_diagonal(
    target: Target,
    q: Tensor,
    num_probes: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate the diagonal of :func:`prior_hessian` from random products.

    Exact where the Hessian is diagonal, as for independent priors; unbiased elsewhere.

    Args:
        target: any target.
        q: one position, `(dim,)`.
        num_probes: number of products.
        generator: randomness of the probes.

    Returns:
        The estimate, `(dim,)`.
    """
    return _diagonal(_prior_energy(target), q, num_probes, generator)


def prior_hessian(target: Target, q: Tensor) -> Tensor:
    """Hessian of minus the log-prior (with log-Jacobians) at `q`.

    Args:
        target: any target.
        q: one position, `(dim,)`.

    Returns:
        The matrix, `(dim, dim)`; for independent normal priors the diagonal of
        their precisions. It can be indefinite for hierarchical priors.
    """
    return _dense_hessian(_prior_energy(target), q)


def _prior_energy(target: Target) -> Callable[[Tensor], Tensor]:
    return lambda x: -target.log_prior(x[None])[0]


def _diagonal(
    fn: Callable[[Tensor], Tensor],
    q: Tensor,
    num_probes: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Average `z * H z` over random signs `z`."""
    signs = torch.randint(2, (num_probes, len(q)), generator=generator).to(q)
    signs = 2 * signs - 1
    total = torch.zeros_like(q)
    for probes in signs.split(8):
        total += (probes * _hessian_rows(fn, q, probes)).sum(0)
    return total / num_probes


def _divergence(target: Target, q: Tensor) -> Callable[[Tensor], Tensor]:
    """Make the scalar function whose Hessian at `q` is the Gauss-Newton matrix."""
    if q.shape != (target.dim,):
        raise ShapeError(
            "position has the wrong shape",
            where="argument q",
            found=str(tuple(q.shape)),
            expected=f"({target.dim},)",
            todo="Pass one position.",
        )
    density, data = target.density, target.data
    q = q.detach()
    if isinstance(density, ModelDensity):
        if density.enumerated:
            raise MissingCurvatureError(
                "no Gauss-Newton matrix where discrete latents are summed out",
                where=f"site {next(iter(density.enumerated))!r}",
                found="a sum over its values",
                expected="continuous latents only",
                todo="Use isotropic or fixed-energy velocities.",
            )
        fixed = density.observations(q, data)

        def divergence(x: Tensor) -> Tensor:
            total = x.new_zeros(())
            for name, site in density.observations(x, data).items():
                scale: Any = site.scale
                kl = site_divergence(name, fixed[name].fn, site.fn)
                total = total + scale_and_mask(kl, scale, site.mask).sum()
            return total

        return divergence
    if isinstance(density, ModuleDensity):
        outputs = density.outputs(q, data).detach().requires_grad_()
        loss = density.loss(outputs, data[-1]).sum()
        (slope,) = torch.autograd.grad(loss, outputs)

        def bregman(x: Tensor) -> Tensor:
            new = density.outputs(x, data)
            return density.loss(new, data[-1]).sum() - (slope * new).sum()

        return bregman
    raise MissingCurvatureError(
        "a potential function has no Gauss-Newton matrix",
        where="argument target",
        found=type(density).__name__,
        expected="a target made from a Pyro model or a module",
        todo="Use isotropic or fixed-energy velocities, or pass a model.",
    )


def _dense_hessian(fn: Callable[[Tensor], Tensor], q: Tensor) -> Tensor:
    matrix = _hessian_rows(fn, q, torch.eye(len(q), dtype=q.dtype, device=q.device))
    return (matrix + matrix.T) / 2


def _hessian_rows(fn: Callable[[Tensor], Tensor], q: Tensor, v: Tensor) -> Tensor:
    with torch.enable_grad():
        x = q.detach().requires_grad_()
        value = fn(x)
        if not value.requires_grad:
            return torch.zeros_like(v)
        # unused, where parameters of the model alone ask for gradients
        (gradient,) = torch.autograd.grad(
            value, x, create_graph=True, allow_unused=True
        )
        if gradient is None or not gradient.requires_grad:
            return torch.zeros_like(v)
        rows = []
        for part in v.split(_ROWS):
            (row,) = torch.autograd.grad(
                gradient,
                x,
                part,
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
            rows.append(torch.zeros_like(part) if row is None else row)
    return torch.cat(rows).detach()
