"""Exact temporal differences."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from gpytorch.models import ExactGP
from gpytorch.settings import debug
from torch import Tensor

from pyro_geo.checks import check_count
from pyro_geo.errors import ShapeError
from pyro_geo.gp._batch import dense_algebra
from pyro_geo.gp._transitions import Noise, Transitions
from pyro_geo.gp.td._cholesky import log_normal
from pyro_geo.gp.td._defaults import default_likelihood, maximise
from pyro_geo.gp.td._model import ValueModel
from pyro_geo.gp.td._strategy import TDPredictionStrategy, noisy

__all__ = ["ExactGPTD"]


class ExactGPTD(ValueModel, ExactGP):
    r"""The posterior of values given transitions, exactly.

    .. math:: r = H f(X) + \epsilon, \quad Q = H K H' + \Sigma, \qquad
              E f(x) = m(x) + k(x, X) H' Q^{-1} (r - H m)

    For up to some three thousand transitions; time grows with their cube. It is an
    `ExactGP` whose training inputs are packed transitions, and everything that GPyTorch
    does with one can be done with it. Batches of transitions of equal length give
    batches of posteriors.

    With a *linear* kernel and a flat prior, noise of rewards minimises the squared
    Bellman residual, and noise of returns on episodes that terminate is least squares
    on Monte Carlo returns, LSTD(1). Neither is LSTD(0), whose fixed point is another
    one.

    Args:
        transitions: steps of one or of many episodes.
        noise: `"reward"` or `"return"`, see :class:`~pyro_geo.gp.TDLikelihood`.
        kernel: covariance of values over the `D` columns of a node; a scaled Matern-5/2
            kernel with a lengthscale for each column when left out.
        mean: mean of values; a constant, which is learned, when left out.

    References:
        Engel, Mannor & Meir (2003), Bayes meets Bellman; Engel, Mannor & Meir (2005),
        Reinforcement learning with Gaussian processes.

    Example:
        >>> x = torch.linspace(0, 1, 11)[:, None]
        >>> steps = Transitions(x[:-1], x[1:], torch.ones(10), 0.9)
        >>> gp = ExactGPTD(steps).fit()  # a reward of 1 at each step, for ever
        >>> gp.value(x[:1]).mean.round().tolist()
        [10.0]
    """

    def __init__(
        self,
        transitions: Transitions,
        *,
        noise: Noise = "reward",
        kernel: Kernel | None = None,
        mean: Mean | None = None,
    ) -> None:
        likelihood = default_likelihood(transitions, noise)
        super().__init__(transitions.pack(), transitions.reward, likelihood)
        self._prior(transitions, kernel, mean)
        self.to(transitions.x)

    def forward(self, x: Tensor) -> MultivariateNormal:
        """Prior of rows."""
        mean: Any = self.mean_module(x)
        return MultivariateNormal(mean, self.covar_module(x))

    def fit(self, num_steps: int = 50) -> Self:
        """Learn the hyperparameters by evidence, priors included.

        Args:
            num_steps: at most so many iterations of L-BFGS; 0 to keep them.

        Returns:
            The model itself, in evaluation mode.
        """
        check_count("num_steps", num_steps, 0)
        self.train()
        size = self.transitions.reward.numel()
        maximise(
            self,
            lambda: (self.log_marginal().sum() + self._log_priors()) / size,
            self.transitions,
            num_steps,
        )
        self.prediction_strategy = None
        return self.eval()

    def log_marginal(self) -> Tensor:
        """Logarithm of the evidence of the rewards, `(*batch,)`."""
        rows, reward = self._data()
        prior = self.forward(rows)
        covariance = noisy(prior, self.likelihood, [rows])
        return log_normal(reward - prior.loc, covariance)

    def residuals(self) -> Tensor:
        r"""Each reward less its prediction from all others, standardised.

        .. math:: \alpha_t / \sqrt{(Q^{-1})_{tt}}

        Returns:
            Residuals in standard deviations, `(*batch, T)`.
        """
        strategy = self._strategy()
        inverse = torch.cholesky_inverse(strategy.lower)
        return strategy.mean_cache / inverse.diagonal(dim1=-2, dim2=-1).sqrt()

    def condition(
        self, transitions: Transitions, *, new_episode: bool = False
    ) -> ExactGPTD:
        """Add transitions, without learning and without factorising again.

        They go on with the last episode if they start where it has got to.

        Args:
            transitions: further steps, with the same columns.
            new_episode: they begin an episode, wherever they start.

        Returns:
            A new model of all transitions; this one does not change.

        Raises:
            ShapeError: they have other columns or another number of successors.
        """
        old = self.transitions
        if (transitions.dim, transitions.successors) != (old.dim, old.successors):
            raise ShapeError(
                "transitions of another kind",
                where="argument transitions",
                found=f"{transitions.dim} columns, {transitions.successors} successors",
                expected=f"{old.dim} columns, {old.successors} successors",
                todo="Describe nodes by the same columns.",
            )
        joined = old.joined(transitions, new_episode=new_episode)
        strategy = self._strategy()
        kernel = copy.deepcopy(self.covar_module.base_kernel)
        mean = copy.deepcopy(self.mean_module.base_mean)
        kind = self.likelihood.kind
        new = ExactGPTD(joined, noise=kind, kernel=kernel, mean=mean)
        new.likelihood = copy.deepcopy(self.likelihood)
        new.likelihood.bind(joined)
        rows, reward = new._data()
        with torch.no_grad(), dense_algebra():
            prior = new.forward(rows)
            new.prediction_strategy = strategy.extended(
                [rows], reward, prior, new.likelihood
            )
        return new.eval()

    def _predict(self, rows: Tensor) -> MultivariateNormal:
        with dense_algebra(), debug(False):
            return self(rows)

    def _data(self) -> tuple[Tensor, Tensor]:
        assert self.train_inputs is not None
        assert isinstance(self.train_targets, Tensor)
        return next(iter(self.train_inputs)), self.train_targets

    def _strategy(self) -> TDPredictionStrategy:
        """Condition on the data, unless that was done already."""
        if self.prediction_strategy is None:
            with torch.no_grad():
                self.value(self.transitions.x[..., :1, :])
        assert isinstance(self.prediction_strategy, TDPredictionStrategy)
        return self.prediction_strategy
