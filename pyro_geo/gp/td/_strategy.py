"""Prediction from one Cholesky factor, which new rows extend."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch import settings
from gpytorch.distributions import MultivariateNormal
from gpytorch.models.exact_prediction_strategies import DefaultPredictionStrategy
from gpytorch.utils.memoize import cached
from linear_operator import to_dense
from linear_operator.operators import MatmulLinearOperator, to_linear_operator
from torch import Tensor

from pyro_geo.gp.td._cholesky import factor
from pyro_geo.gp.td._likelihood import TDLikelihood
from pyro_geo.gp.td._tridiagonal import TridiagonalLinearOperator

__all__ = ["TDPredictionStrategy"]


def noisy(prior: Any, likelihood: Any, rows: Any) -> Tensor:
    """Covariance of the rewards, dense, without a second matrix for the noise."""
    covariance = to_dense(prior.lazy_covariance_matrix)
    if not _td(likelihood):
        # as an operator: of a tensor, the law would be factorised without its noise
        noiseless = MultivariateNormal(prior.loc, to_linear_operator(covariance))
        return likelihood(noiseless, rows).covariance_matrix
    noise = likelihood.covariance(rows[0])
    found = covariance.expand(*noise.batch_shape, *covariance.shape[-2:]).clone()
    found.diagonal(dim1=-2, dim2=-1).add_(noise.diagonal(dim1=-1, dim2=-2))
    if isinstance(noise, TridiagonalLinearOperator):
        for offset in (-1, 1):
            found.diagonal(offset, dim1=-2, dim2=-1).add_(noise.side)
    return found


def _td(likelihood: Any) -> bool:
    return isinstance(likelihood, TDLikelihood)


def _kept(value: Tensor) -> Tensor:
    """Cut what is kept for later off its graph, as GPyTorch does by default."""
    return value.detach() if settings.detach_test_caches.on() else value


class TDPredictionStrategy(DefaultPredictionStrategy):
    r"""Condition on rewards, with a single factorisation.

    .. math:: Q = H K H' + \Sigma = L L', \quad \alpha = Q^{-1}(r - H m), \quad
              \operatorname{var} f(x) = k(x, x) - |L^{-1} H k(X, x)|^2

    GPyTorch's own strategy factorises again for the mean, and for each prediction, and
    knows no noise that rows share.

    Args:
        train_inputs: rows.
        train_prior_dist: their prior.
        train_labels: rewards.
        likelihood: gives the noise.
        lower: the factor, when it is known.
    """

    def __init__(
        self,
        train_inputs: Any,
        train_prior_dist: Any,
        train_labels: Tensor,
        likelihood: Any,
        lower: Tensor | None = None,
    ) -> None:
        super().__init__(train_inputs, train_prior_dist, train_labels, likelihood)
        self._known = lower

    @property
    @cached(name="lower")
    def lower(self) -> Tensor:
        """The factor `L`, `(*batch, n, n)`."""
        if self._known is not None:
            return self._known
        return _kept(
            factor(noisy(self.train_prior_dist, self.likelihood, self.train_inputs))
        )

    @property
    @cached(name="weights")
    def mean_cache(self) -> Tensor:
        """The weights of the rows in the mean, `(*batch, n)`."""
        residual = (self.train_labels - self.train_prior_dist.loc).unsqueeze(-1)
        return _kept(torch.cholesky_solve(residual, self.lower).squeeze(-1))

    def exact_predictive_mean(self, test_mean: Tensor, test_train_covar: Any) -> Tensor:
        """Posterior mean; GPyTorch calls this."""
        cross = to_dense(test_train_covar)
        return test_mean + (cross @ self.mean_cache.unsqueeze(-1)).squeeze(-1)

    def exact_predictive_covar(
        self, test_test_covar: Any, test_train_covar: Any
    ) -> Any:
        """Posterior covariance; GPyTorch calls this."""
        cross = to_dense(test_train_covar)
        white = torch.linalg.solve_triangular(self.lower, cross.mT, upper=False)
        if isinstance(test_test_covar, Tensor):
            return to_linear_operator(test_test_covar - white.mT @ white)
        # lazy: the variances alone cost no square matrix
        return test_test_covar + MatmulLinearOperator(-white.mT, white)

    def get_fantasy_strategy(
        self,
        inputs: Any,
        targets: Tensor,
        full_inputs: Any,
        full_targets: Tensor,
        full_output: Any,
        **kwargs: Any,
    ) -> TDPredictionStrategy:
        """Extend the factor by new rows; GPyTorch calls this.

        Args:
            inputs: new rows.
            targets: new rewards.
            full_inputs: old and new rows.
            full_targets: old and new rewards.
            full_output: prior of old and new rows.
            **kwargs: for the likelihood.

        Returns:
            The strategy of all rows.
        """
        likelihood = self.likelihood.get_fantasy_likelihood(**kwargs)
        return self.extended(full_inputs, full_targets, full_output, likelihood)

    def extended(
        self, full_inputs: Any, full_targets: Tensor, full_output: Any, likelihood: Any
    ) -> TDPredictionStrategy:
        """Extend the factor by rows that come last."""
        n = self.num_train
        prior = full_output.lazy_covariance_matrix
        cross, block = to_dense(prior[..., :n, n:]), to_dense(prior[..., n:, n:])
        noise = likelihood.covariance(full_inputs[0]) if _td(likelihood) else None
        if isinstance(noise, TridiagonalLinearOperator):
            # the last old row and the first new one may share a visit
            shared = torch.zeros_like(cross)
            shared[..., -1, 0] = noise.side[..., n - 1]
            cross = cross + shared
            own = TridiagonalLinearOperator(noise.main[..., n:], noise.side[..., n:])
            block = block + own.to_dense()
        else:
            mean = torch.zeros_like(full_output.loc[..., n:])
            noisy = likelihood(
                MultivariateNormal(mean, to_linear_operator(block)), full_inputs
            )
            block = noisy.covariance_matrix
        corner = torch.linalg.solve_triangular(self.lower, cross, upper=False)
        last = factor(block - corner.mT @ corner)
        top = torch.cat([self.lower, torch.zeros_like(corner)], -1)
        lower = torch.cat([top, torch.cat([corner.mT, last], -1)], -2)
        return TDPredictionStrategy(
            full_inputs, full_output, full_targets, likelihood, lower
        )
