r"""Curvature of a target at a position, as an operator: products, matrix, diagonal.

:class:`Hessian` is the full Hessian of minus the log-density, :class:`PriorHessian`
that of its prior alone, and :class:`GaussNewton` the generalised Gauss-Newton matrix
of minus the log-likelihood, which is never negative.

That matrix is read off one scalar function. For outputs `f(q)` and a divergence `D`
that vanishes to first order where its arguments meet,

.. math:: F(q) = D(f(q_0) \,\|\, f(q)), \qquad
          \nabla^2 F(q_0) = J^\top \, \nabla^2 D \, J,

because the term with the second derivative of `f` carries the gradient of `D`, which
is zero there. With `D` the Kullback-Leibler divergence between the observed sites'
distributions this is the Fisher form; with the Bregman divergence of a loss it is the
Gauss-Newton form of a module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check_shape
from pyro_geo.density import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.module import ModuleDensity
from pyro_geo.density.partial import WeightedData
from pyro_geo.errors import MissingCurvatureError
from pyro_geo.geometry._divergence import divergence as site_divergence
from pyro_geo.ops.lanes import map_lanes

__all__ = ["Curvature", "GaussNewton", "Hessian", "LikelihoodHessian", "PriorHessian"]

_ROWS = 256  # products in one batched backward pass, or side by side on the ladder
_PROBES = 8  # of the diagonal at once


class Curvature(Made, ABC):
    """A symmetric matrix of second derivatives at one position.

    Args:
        target: the density.
        q: the position, `(dim,)`.

    Raises:
        ShapeError: `q` is not one position.
    """

    def __init__(self, target: Target, q: Tensor) -> None:
        check_shape("q", q.shape, (target.dim,))
        self.target = target
        self.q = q.detach()

    @abstractmethod
    def matvec(self, v: Tensor) -> Tensor:
        """Multiply with vectors, without forming the matrix.

        Args:
            v: vectors, `(count, dim)`.

        Returns:
            The products, `(count, dim)`.
        """

    def dense(self) -> Tensor:
        """The matrix, `(dim, dim)`, at the cost of `dim` products."""
        eye = torch.eye(len(self.q), dtype=self.q.dtype, device=self.q.device)
        # the products are rows of a symmetric matrix up to rounding
        matrix = self.matvec(eye)
        return (matrix + matrix.T) / 2

    def diagonal(
        self, num_probes: int = 64, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Diagonal of the matrix: exact up to `num_probes` dimensions, else estimated.

        .. math:: \operatorname{diag} A \approx \frac{1}{m} \sum_k z_k \odot A z_k,
                  \qquad z_k \in \{-1, 1\}^{dim}

        The estimate is unbiased, and exact for a diagonal matrix. It serves where the
        dense matrix does not fit.

        Args:
            num_probes: number of products.
            generator: randomness of the probes.

        Returns:
            The diagonal, `(dim,)`.

        References:
            Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal of a matrix.
        """
        dim = len(self.q)
        if dim <= num_probes:
            return self.dense().diagonal()
        # E[z_i z_j] is 1 for i = j and 0 otherwise, so E[z * (A z)] is the diagonal
        signs = torch.randint(2, (num_probes, dim), generator=generator).to(self.q)
        signs = 2 * signs - 1
        total = torch.zeros_like(self.q)
        for probes in signs.split(_PROBES):
            total += (probes * self.matvec(probes)).sum(0)
        return total / num_probes


class _OfScalar(Curvature):
    """Hessian of a scalar function of the position, by batched backward passes."""

    @abstractmethod
    def _function(self) -> Callable[[Tensor], Tensor]:
        """Make the function `(dim,) -> ()`."""

    @cached_property
    def _gradient(self) -> tuple[Tensor, Tensor] | None:
        """A leaf and the function's gradient there; None where nothing depends on it.

        Stored for all products, because its graph is their common part.
        """
        with torch.enable_grad():
            x = self.q.detach().requires_grad_()
            value = self._function()(x)
            if not value.requires_grad:
                return None
            # unused, where parameters of the model alone ask for gradients
            (gradient,) = torch.autograd.grad(
                value, x, create_graph=True, allow_unused=True
            )
        if gradient is None or not gradient.requires_grad:
            return None
        return x, gradient

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply with vectors, `(count, dim)`, without forming the matrix."""
        if self._gradient is None:
            return torch.zeros_like(v)
        x, gradient = self._gradient
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


class GaussNewton(_OfScalar):
    r"""Generalised Gauss-Newton matrix of the negative log-likelihood, in nats.

    Positive semidefinite by construction, unlike the Hessian. The dense matrix costs
    `dim / 256` batched backward passes and `dim**2` memory. A target without such a
    matrix, as one with an observed site without a known divergence, raises
    :class:`~pyro_geo.errors.MissingCurvatureError` at the first product.

    Args:
        target: made from a Pyro model or a module.
        q: the position, `(dim,)`.

    References:
        Martens (2020), New insights and perspectives on the natural gradient method.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        ...     y = torch.zeros(len(x))
        ...     pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> GaussNewton(Target.from_model(model, x), torch.zeros(2)).dense().tolist()
        [[8.0, 4.0], [4.0, 8.0]]
    """

    def _function(self) -> Callable[[Tensor], Tensor]:
        return _divergence(self.target, self.q)

    def diagonal(
        self, num_probes: int = 64, generator: torch.Generator | None = None
    ) -> Tensor:
        """Diagonal as by :meth:`Curvature.diagonal`; never negative.

        Args:
            num_probes: number of products.
            generator: randomness of the probes.

        Returns:
            The diagonal, `(dim,)`; an estimate that is negative by chance is zero.
        """
        return super().diagonal(num_probes, generator).clamp(min=0)


class LikelihoodHessian(_OfScalar):
    """Hessian of minus the log-likelihood alone; it can be indefinite.

    With :func:`~pyro_geo.density.partial.weigh` it is that of some of the data.

    Args:
        target: any target.
        q: the position, `(dim,)`.

    Example:
        >>> target = Target.from_potential(lambda q: 1.5 * q[0] ** 2, 1)
        >>> LikelihoodHessian(target, torch.zeros(1)).dense().tolist()
        [[3.0]]
    """

    def _function(self) -> Callable[[Tensor], Tensor]:
        return lambda x: -self.target.log_likelihood(x[None])[0]


class PriorHessian(_OfScalar):
    """Hessian of minus the log-prior, log-Jacobians included.

    For independent normal priors the diagonal of their precisions. It can be
    indefinite for hierarchical priors.

    Args:
        target: any target.
        q: the position, `(dim,)`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("w", dist.Normal(0.0, 0.5).expand([2]).to_event(1))
        ...     pyro.factor("data", torch.tensor(0.0))
        >>> PriorHessian(Target.from_model(model), torch.zeros(2)).diagonal().tolist()
        [4.0, 4.0]
    """

    def _function(self) -> Callable[[Tensor], Tensor]:
        return lambda x: -self.target.log_prior(x[None])[0]


class Hessian(Curvature):
    """Hessian of minus the log-density, its products on the target's ladder.

    Many positions may be given at once: each has its own matrix then. A target fixed
    on the rung `"mapped"` saves the tracing where only a few products are asked for.

    Args:
        target: any target.
        q: one position, `(dim,)`, or several, `(n, dim)`.

    Example:
        >>> potential = lambda q: q[0] ** 2 + q[0] * q[1] + q[1] ** 2
        >>> target = Target.from_potential(potential, 2)
        >>> Hessian(target, torch.zeros(2)).dense().tolist()
        [[2.0, 1.0], [1.0, 2.0]]
        >>> Hessian(target, torch.zeros(3, 2)).dense().shape
        torch.Size([3, 2, 2])
    """

    def __init__(self, target: Target, q: Tensor) -> None:
        # the check is of one position; all have the same length
        super().__init__(target, q[0] if q.dim() == 2 and len(q) else q)
        self.q = q.detach()

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply with vectors, without forming the matrix.

        Args:
            v: vectors, `(count, dim)`; with several positions one for each.

        Returns:
            The products, `(count, dim)`.
        """
        return -self.target.hvp(self.q.expand_as(v).contiguous(), v)

    def dense(self) -> Tensor:
        """The matrix, `(dim, dim)`, or one for each position, `(n, dim, dim)`."""
        dim = self.q.shape[-1]
        eye = torch.eye(dim, dtype=self.q.dtype, device=self.q.device)
        positions = self.q.reshape(-1, dim)
        count = len(positions)
        pairs = positions.repeat_interleave(dim, 0), eye.repeat(count, 1)
        # always as many products at once, so that the ladder makes one graph
        rows = map_lanes(
            lambda pair: -self.target.hvp(*pair), pairs, min(_ROWS, count * dim)
        )
        matrix = rows.reshape(*self.q.shape, dim)
        return 0.5 * (matrix + matrix.mT)


def _divergence(target: Target, q: Tensor) -> Callable[[Tensor], Tensor]:
    """Make the scalar function whose Hessian at `q` is the Gauss-Newton matrix."""
    density, data = target.density, target.data
    if isinstance(density, ModelDensity):
        if density.enumerated:
            raise MissingCurvatureError(
                "no Gauss-Newton matrix where discrete latents are summed out",
                where=f"site {next(iter(density.enumerated))!r}",
                found="a sum over its values",
                expected="continuous latents only",
                todo="Use isotropic or fixed-energy velocities.",
            )
        # KL(p_q || p_x) has at x = q the Fisher information as its Hessian, which is
        # the Gauss-Newton matrix of the likelihood (Martens 2020)
        fixed = density.observations(q, data)

        def divergence(x: Tensor) -> Tensor:
            total = x.new_zeros(())
            for name, site in density.observations(x, data).items():
                scale: Any = site.scale
                kl = site_divergence(name, fixed[name].fn, site.fn)
                total = total + scale_and_mask(kl, scale, site.mask).sum()
            return total

        return divergence
    weights: Tensor | None = None
    if isinstance(density, WeightedData):  # its weights stand before the data
        weights, density, data = data[0], density.inner, data[1:]
    if isinstance(density, ModuleDensity):
        # the Bregman divergence of the loss between outputs: its Hessian at `q` is
        # J' (loss'') J, without the curvature of the outputs themselves
        def loss(outputs: Tensor) -> Tensor:
            each = density.loss(outputs, data[-1])
            return (each if weights is None else weights * each).sum()

        outputs = density.outputs(q, data).detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(outputs), outputs)

        def bregman(x: Tensor) -> Tensor:
            new = density.outputs(x, data)
            return loss(new) - (slope * new).sum()

        return bregman
    raise MissingCurvatureError(
        "a potential function has no Gauss-Newton matrix",
        where="argument target",
        found=type(density).__name__,
        expected="a target made from a Pyro model or a module",
        todo="Use isotropic or fixed-energy velocities, or pass a model.",
    )
