"""Noise of rewards, independent or that of returns."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import Prior
from linear_operator.operators import LinearOperator
from torch import Tensor

from pyro_geo.checks import check_choice
from pyro_geo.errors import EpisodeError, UnsupportedError
from pyro_geo.gp._transitions import NOISES, Noise, Transitions
from pyro_geo.gp.td._tridiagonal import TridiagonalLinearOperator

__all__ = ["TDLikelihood"]


class TDLikelihood(GaussianLikelihood):
    r"""Gaussian noise of rewards.

    With `noise="reward"` each reward has noise of its own, :math:`\Sigma = \sigma^2 I`.
    This suits transitions that are nearly deterministic. With `noise="return"` each
    *visit* has noise, which two neighbouring steps of an episode share:

    .. math:: \Sigma_{tt} = \sigma^2 (1 + \gamma_t^2), \qquad
              \Sigma_{t,t+1} = -\sigma^2 \gamma_t

    which is zero across episodes. The sum of a discounted episode then has independent
    noise. This is the choice for random transitions with one sampled successor, where
    noise of rewards is biased however many data there are.

    Args:
        noise: `"reward"` or `"return"`.
        transitions: the training data, for `noise="return"`. Without them the steps of
            an episode are found by comparing successors with nodes, and GPyTorch has to
            pass rows: `likelihood(model(rows), rows)`.
        noise_prior: of :math:`\sigma^2`, for GPyTorch.
        noise_constraint: of :math:`\sigma^2`, for GPyTorch.
        batch_shape: of :math:`\sigma^2`.

    References:
        Engel, Mannor & Meir (2003), Bayes meets Bellman (noise of rewards); Engel,
        Mannor & Meir (2005), Reinforcement learning with Gaussian processes (noise of
        returns).

    Example:
        >>> x = torch.arange(2.0)[:, None]
        >>> steps = Transitions(x, x + 1, torch.ones(2), 0.5, dtype=torch.float32)
        >>> likelihood = TDLikelihood("return", steps)
        >>> likelihood.noise = 1.0
        >>> likelihood.covariance(steps.pack()).to_dense().detach()
        tensor([[ 1.2500, -0.5000],
                [-0.5000,  1.2500]])
    """

    def __init__(
        self,
        noise: Noise = "reward",
        transitions: Transitions | None = None,
        *,
        noise_prior: Prior | None = None,
        noise_constraint: Interval | None = None,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008 (as in GPyTorch)
    ) -> None:
        check_choice("noise", noise, NOISES)
        super().__init__(noise_prior, noise_constraint, batch_shape)
        self.kind = noise
        self.discount: Tensor | None = None
        self.linked: Tensor | None = None
        if noise == "return" and transitions is not None:
            self.bind(transitions)

    def bind(self, transitions: Transitions) -> None:
        """Take discounts and episodes from transitions.

        Args:
            transitions: whose successors are the next nodes of their episodes.
        """
        if self.kind == "return":
            transitions.check_chain()
            self.discount, self.linked = transitions.discount, transitions.linked

    def covariance(self, rows: Tensor) -> LinearOperator:
        r"""Noise covariance :math:`\Sigma` of rows.

        Args:
            rows: `(*batch, n, D + D + 1)` for noise of returns.

        Returns:
            A diagonal or a tridiagonal operator, `(*batch, n, n)`.
        """
        return self._shaped_noise_covar(rows.shape[:-1], [rows])

    def _shaped_noise_covar(
        self, base_shape: torch.Size, *params: Any, **kwargs: Any
    ) -> Any:
        if self.kind == "reward":
            return super()._shaped_noise_covar(base_shape, **kwargs)
        discount, linked = self._structure(base_shape, params)
        variance = self.noise  # (*batch, 1)
        main = variance * (1 + discount.square())
        side = -variance * discount[..., :-1] * linked[..., :-1]
        return TridiagonalLinearOperator(main, side)

    def _structure(
        self, shape: torch.Size, params: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        """Find the discount of each row, and whether the next row continues it."""
        known = None if self.discount is None else self.discount.shape[-1]
        if not params:
            if self.discount is None or self.linked is None or known != shape[-1]:
                raise EpisodeError(
                    "discounts of the rows are unknown",
                    where="TDLikelihood(noise='return')",
                    found=f"{shape[-1]} rows, and {known or 'no'} transitions",
                    expected="the transitions of these rows, or the rows themselves",
                    todo="Call likelihood(distribution, rows), or pass transitions.",
                )
            return self.discount, self.linked
        rows = params[0] if isinstance(params[0], Tensor) else params[0][0]
        dim = rows.shape[-1] // 2
        x, x_next, discount = rows.split([dim, dim, rows.shape[-1] - 2 * dim], -1)
        if discount.shape[-1] != 1:
            raise EpisodeError(
                "several successors are not a path",
                where="TDLikelihood(noise='return')",
                found=f"rows of {rows.shape[-1]} columns",
                expected="rows of one successor",
                todo="Use noise='reward', or one successor for each step.",
            )
        discount = discount.squeeze(-1)
        same = (x_next[..., :-1, :] == x[..., 1:, :]).all(-1)
        linked = torch.nn.functional.pad(same, (0, 1)) & (discount > 0)
        if self.discount is not None and self.linked is not None and known is not None:
            # what is told of the first rows counts more than what they look like
            first = discount[..., :known]
            if first.shape[-1] == known and bool((first == self.discount).all()):
                told = self.linked[..., : known - 1].expand(*linked.shape[:-1], -1)
                linked = torch.cat([told, linked[..., known - 1 :]], -1)
        return discount, linked

    def expected_log_prob(
        self, target: Tensor, input: Any, *params: Any, **kwargs: Any
    ) -> Tensor:
        """Expected log-density for variational inference; GPyTorch calls this.

        Args:
            target: rewards, `(*batch, n)`.
            input: distribution of the noiseless rewards.
            *params: rows.
            **kwargs: for GPyTorch.

        Returns:
            One term for each reward, `(*batch, n)`.

        Raises:
            UnsupportedError: the noise is correlated, and the terms do not separate.
        """
        if self.kind == "return":
            raise UnsupportedError(
                "correlated noise has no separate terms",
                where="TDLikelihood(noise='return')",
                found="a variational objective, which reads the diagonal only",
                expected="noise='reward'",
                todo="Use VariationalGPTD(noise='return'): it takes the return form, "
                "whose noise is independent.",
            )
        return super().expected_log_prob(target, input, *params, **kwargs)
