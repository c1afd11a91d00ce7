"""Sparse temporal differences, by the collapsed variational bound."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_geo.checks import check_count
from pyro_geo.gp.td._cholesky import factor
from pyro_geo.gp.td._defaults import maximise
from pyro_geo.gp.td._inducing import CHUNK, InducingModel, Posterior, spread
from pyro_geo.gp.td._returns import Regression, regression

__all__ = ["SparseGPTD"]


class Sums(NamedTuple):
    """Sums over rows, in whitened features `a` and targets `y`.

    Attributes:
        outer: of `a a'`, `(*batch, M, M)`.
        cross: of `a y`, `(*batch, M)`.
        square: of `y ** 2`, `(*batch,)`.
        variance: of prior variances, `(*batch,)`.
        coupled: of `g a` for each vector of the noise, `(*batch, groups, M)`.
        coupled_target: of `g y`, `(*batch, groups)`.
    """

    outer: Tensor
    cross: Tensor
    square: Tensor
    variance: Tensor
    coupled: Tensor
    coupled_target: Tensor


class SparseGPTD(InducingModel):
    r"""The posterior of values through inducing nodes, for many transitions.

    .. math:: \log p(r) \ge \log N(r; Hm, Q_{ff} + \Sigma)
              - \frac{1}{2 \sigma^2} \operatorname{tr}(K_{ff} - Q_{ff})

    with :math:`Q_{ff} = K_{ru} K_{uu}^{-1} K_{ur}`. Time grows with
    :math:`T M^2`, memory with :math:`M^2` alone: rows are read in chunks. Noise of
    returns is taken in the return form, whose noise is independent but for one vector
    of each truncated episode.

    Args:
        transitions: steps of one or of many episodes.
        noise: `"reward"` or `"return"`, see :class:`~pyro_geo.gp.TDLikelihood`.
        kernel: covariance of values over the `D` columns of a node; a scaled Matern-5/2
            kernel with a lengthscale for each column when left out.
        mean: mean of values; a constant, which is learned, when left out.
        num_inducing: how many inducing nodes, centres of the nodes by k-means; a fifth
            of the transitions and at most 512 when left out.
        inducing_points: inducing nodes of your own, `(*batch, M, D)`.
        learn_inducing: whether :meth:`fit` moves them.

    References:
        Titsias (2009), Variational learning of inducing variables in sparse Gaussian
        processes. With rows of transitions and noise of returns: derived.

    Example:
        >>> from pyro_geo.gp import Transitions
        >>> x = torch.linspace(0, 1, 201)[:, None]
        >>> steps = Transitions(x[:-1], x[1:], torch.ones(200), 0.9)
        >>> gp = SparseGPTD(steps, num_inducing=10).fit()
        >>> gp.value(x[:1]).mean.round().tolist()
        [10.0]
    """

    def fit(self, num_steps: int = 50, *, subset: int | None = 2048) -> Self:
        """Learn the hyperparameters by the bound, and condition on all transitions.

        Args:
            num_steps: at most so many iterations of L-BFGS; 0 to keep them.
            subset: how many transitions to learn from, in pieces from all over the
                data; None for all.

        Returns:
            The model itself, in evaluation mode.
        """
        check_count("num_steps", num_steps, 0)
        check_count("subset", subset)
        self.train()
        steps = self.transitions
        few = steps if subset is None else spread(steps, subset)
        data = self._data
        if few is not steps:
            data = regression(few, self.likelihood.kind)
        size = few.reward.numel()
        maximise(
            self,
            lambda: (self._bound(data).sum() + self._log_priors()) / size,
            steps,
            num_steps,
        )
        self.eval()
        self.posterior()
        return self

    def log_marginal(self) -> Tensor:
        """Lower bound of the logarithm of the evidence, `(*batch,)`."""
        return self._bound(self._data)

    def _bound(self, data: Regression) -> Tensor:
        lower = self._lower()
        sums = self._sums(lower, data)
        noise = self.likelihood.noise.squeeze(-1)
        outer, cross, square, coupling = _without_coupling(sums, data)
        root, white = _solve(outer, cross, noise)
        size = data.target.shape[-1]
        logs = size * (2 * math.pi * noise).log() + coupling.log1p().sum(-1)
        logs = logs + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        fit = square / noise - white.square().sum(-1)
        missing = sums.variance - sums.outer.diagonal(dim1=-2, dim2=-1).sum(-1)
        return -0.5 * (logs + fit + missing / noise)

    def _condition(self) -> Posterior:
        lower = self._lower()
        outer, cross, *_ = _without_coupling(self._sums(lower, self._data), self._data)
        root, white = _solve(outer, cross, self.likelihood.noise.squeeze(-1))
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        inverse = torch.linalg.solve_triangular(root, eye, upper=False).mT
        return Posterior(lower, (inverse @ white.unsqueeze(-1)).squeeze(-1), inverse)

    def _sums(self, lower: Tensor, data: Regression) -> Sums:
        total: Sums | None = None
        for rows, target, coupling, group in zip(
            data.rows.split(CHUNK, -2),
            data.target.split(CHUNK, -1),
            data.coupling.split(CHUNK, -1),
            data.group.split(CHUNK, -1),
            strict=True,
        ):
            args = lower, rows, target, coupling, group, data.groups
            if torch.is_grad_enabled() and data.target.shape[-1] > CHUNK:
                # features of a chunk are computed again instead of being kept
                part: Any = checkpoint(self._chunk, *args, use_reentrant=False)
            else:
                part = self._chunk(*args)
            total = part if total is None else Sums(*map(torch.add, total, part))
        assert total is not None
        return total

    def _chunk(
        self,
        lower: Tensor,
        rows: Tensor,
        target: Tensor,
        coupling: Tensor,
        group: Tensor,
        groups: int,
    ) -> Sums:
        a = self._features(lower, rows)  # (*batch, M, n)
        mean: Any = self.mean_module(rows)
        y = target - mean
        variance = self.covar_module(rows, diag=True)
        assert isinstance(variance, Tensor)
        shape = (*a.shape[:-2], groups, a.shape[-2])
        coupled, coupled_target = a.new_zeros(shape), y.new_zeros(*y.shape[:-1], groups)
        if groups:
            terms = (coupling.unsqueeze(-2) * a).mT
            place = group.unsqueeze(-1).expand(terms.shape)
            coupled = coupled.scatter_add(-2, place, terms)
            coupled_target = coupled_target.scatter_add(-1, group, coupling * y)
        return Sums(
            a @ a.mT,
            (a @ y.unsqueeze(-1)).squeeze(-1),
            y.square().sum(-1),
            variance.sum(-1),
            coupled,
            coupled_target,
        )


def _without_coupling(
    sums: Sums, data: Regression
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Weigh the sums by :math:`(I + g g')^{-1} = I - g g' / (1 + g' g)`."""
    size = data.coupling.new_zeros(*data.coupling.shape[:-1], data.groups)
    if not data.groups:
        return sums.outer, sums.cross, sums.square, size
    size = size.scatter_add(-1, data.group, data.coupling.square())
    weighed = sums.coupled / (1 + size).unsqueeze(-1)
    cross = (weighed * sums.coupled_target.unsqueeze(-1)).sum(-2)
    square = (sums.coupled_target.square() / (1 + size)).sum(-1)
    outer = sums.outer - sums.coupled.mT @ weighed
    return outer, sums.cross - cross, sums.square - square, size


def _solve(outer: Tensor, cross: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    r"""Factorise :math:`B = I + A A' / \sigma^2`, and solve for the mean's weights."""
    eye = torch.eye(outer.shape[-1], dtype=outer.dtype, device=outer.device)
    root = factor(eye + outer / noise[..., None, None], "precision of the values")
    right = (cross / noise.unsqueeze(-1)).unsqueeze(-1)
    return root, torch.linalg.solve_triangular(root, right, upper=False).squeeze(-1)
