"""A fit's loss and curvature, taken apart into what is forgotten and what stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.partial import weigh
from pyro_geo.errors import MissingCurvatureError
from pyro_geo.geometry.curvature import GaussNewton, LikelihoodHessian
from pyro_geo.ops.derivatives import value_and_grad

__all__ = ["Kind", "Matrix", "Objective", "Part"]

Kind = Literal["auto", "gauss_newton", "hessian"]
Part = Literal["all", "forgotten", "retained"]


class Matrix(NamedTuple):
    """A curvature as a sum of a likelihood's part, a prior's and a damping.

    Attributes:
        likelihood: of some of the data.
        prior: None where the prior does not count.
        damping: added to the diagonal.
    """

    likelihood: GaussNewton | LikelihoodHessian
    prior: LikelihoodHessian | None
    damping: float

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply with vectors, `(count, dim)`."""
        product = self.likelihood.matvec(v) + self.damping * v
        return product if self.prior is None else product + self.prior.matvec(v)

    def dense(self) -> Tensor:
        """The matrix, `(dim, dim)`."""
        matrix = self.likelihood.dense()
        if self.prior is not None:
            matrix = matrix + self.prior.dense()
        return matrix + self.damping * torch.eye(len(matrix)).to(matrix)


class Objective:
    r"""Losses :math:`L_A(\theta) = \sum_{n \in A} \ell_n(\theta) + \rho(\theta)`.

    The prior's part belongs to all data and to the retained ones, never to those that
    are forgotten.

    Args:
        target: density of all data.
        masks: name of `pointwise_log_likelihood` to which data are forgotten.
        kind: curvature of the likelihood; `"auto"` for the Gauss-Newton matrix where
            there is one, and the Hessian elsewhere.
        damping: added to the diagonal of curvatures with the prior.
        jacobian: whether the prior is a density of unconstrained values, as that of
            a Laplace approximation, and not of constrained ones, as for `AutoDelta`.
    """

    def __init__(
        self,
        target: Target,
        masks: Mapping[str, Tensor],
        kind: Kind = "auto",
        damping: float = 0.0,
        *,
        jacobian: bool = True,
    ) -> None:
        self.target = target
        self.prior = Target.from_potential(
            partial(_minus_log_prior, target, jacobian),
            target.dim,
            *target.data,  # it is where the data are
            dtype=target.dtype,
            compile=False,
        )
        self.damping = damping
        self._parts: dict[Part, Target] = {
            "all": target,
            "forgotten": weigh(target, dict(masks)),
            "retained": weigh(target, {name: ~mask for name, mask in masks.items()}),
        }
        gone = sum(int(mask.sum()) for mask in masks.values())
        total = sum(mask.numel() for mask in masks.values())
        self._counts = {"all": total, "forgotten": gone, "retained": total - gone}
        self.kind: Kind = self._kind(kind)

    def count(self, part: Part) -> int:
        """Count data."""
        return self._counts[part]

    def loss(self, part: Part) -> Callable[[Tensor], Tensor]:
        """Make the loss of one position, `(dim,)` to `()`."""
        own, prior = self._parts[part], self.prior
        if part == "forgotten":
            return lambda q: -own.log_likelihood(q[None])[0]
        return lambda q: (
            -(own.log_likelihood(q[None]) + prior.log_likelihood(q[None]))[0]
        )

    def value_and_grad(self, part: Part, q: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate a loss at one position with its gradient, `()` and `(dim,)`."""
        loss = self.loss(part)
        value, grad = value_and_grad(lambda x: loss(x[0])[None], q[None])
        return value[0], grad[0]

    def matrix(self, part: Part, q: Tensor) -> Matrix:
        """Curvature of a loss at a position; the damping counts with the prior."""
        cls = GaussNewton if self.kind == "gauss_newton" else LikelihoodHessian
        likelihood = cls(self._parts[part], q)
        if part == "forgotten":
            return Matrix(likelihood, None, 0.0)
        return Matrix(likelihood, LikelihoodHessian(self.prior, q), self.damping)

    def _kind(self, kind: Kind) -> Kind:
        if kind != "auto":
            return kind
        q = torch.zeros(self.target.dim, dtype=self.target.dtype)
        q = q.to(self.target.device)
        try:
            GaussNewton(self._parts["forgotten"], q).matvec(q[None])
        except MissingCurvatureError:
            return "hessian"
        return "gauss_newton"


def _minus_log_prior(
    target: Target, jacobian: bool, q: Tensor, *data: Tensor
) -> Tensor:
    log_prior = target.density.terms(q, data).log_prior
    if jacobian:
        return -log_prior
    return target.layout.constrain_with_jacobian(q)[1] - log_prior
