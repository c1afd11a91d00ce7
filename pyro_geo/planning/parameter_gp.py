r"""Action values between the draws of the dynamics under which they are known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_shape

__all__ = ["ParameterGP", "ParameterPrediction"]

_JITTER = 1e-4  # of the variance of the values
_STEPS = 40


class ParameterPrediction(NamedTuple):
    """Values at draws of the posterior, and of their average.

    Attributes:
        values: at each draw, `(..., draws, B)`.
        variance: of the error of each, `(..., draws, B)`.
        mean: of the values over the posterior, `(..., B)`.
        mean_variance: of the error of that average, `(..., B)`.
        explained: share of the prior variance that is explained at the draws,
            `(..., B)`.
    """

    values: Tensor
    variance: Tensor
    mean: Tensor
    mean_variance: Tensor
    explained: Tensor


class ParameterGP:
    r"""A Gaussian process over parameters, one for each action, in one batch.

    With solved draws :math:`\theta_i`, their values :math:`y_i` and the variances
    :math:`v_i` of these, and draws :math:`\tilde\theta_j` of weights :math:`w_j`,

    .. math::
        E &= c + \bar k^\top (K + V)^{-1} (y - c), \qquad
            \bar k_i = \sum_j w_j\, k(\tilde\theta_j, \theta_i) \\
        \mathrm{Var} &= \sum_{jl} w_j w_l\, k(\tilde\theta_j, \tilde\theta_l)
            - \bar k^\top (K + V)^{-1} \bar k .

    The second is the variance of an integral, which Bayesian quadrature gives; the
    errors at two draws are not independent. The kernel is squared exponential with a
    lengthscale for each parameter. Lengthscales and scale are those of largest evidence
    under weak log-normal priors.

    Args:
        theta: solved draws in the unit cube, `(N, P)`.

    References:
        Rasmussen and Ghahramani (2003), Bayesian Monte Carlo, NeurIPS. Its use for
        action values is derived.

    Example:
        >>> theta = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
        >>> y, exact, x = theta.T.sin(), torch.zeros(1, 9), torch.tensor([[0.3], [0.6]])
        >>> found = ParameterGP(theta).fit(y, exact).predict(y, exact, x)
        >>> bool((found.values - x.sin()).abs().max() < 0.01)
        True
    """

    def __init__(self, theta: Tensor) -> None:
        good = theta.dim() == 2 and len(theta) > 1
        check_shape("theta", theta.shape, "(N, P) with N of at least 2", good)
        self.theta = theta.double()
        count = theta.shape[1]
        self.lengthscale = torch.full((1, count), 0.5, dtype=torch.float64)
        self.scale = torch.ones(1, dtype=torch.float64)

    def fit(self, y: Tensor, variance: Tensor) -> ParameterGP:
        """Learn lengthscales and scales.

        Args:
            y: values under the solved draws, `(B, N)`.
            variance: of their errors, `(B, N)`.

        Returns:
            The process itself.
        """
        y, variance, _, _ = _standardised(y, variance)
        batch, count = len(y), self.theta.shape[1]
        start = torch.cat(
            [y.new_full((batch, count), math.log(0.5)), y.new_zeros(batch, 1)], 1
        )
        raw = start.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [raw], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-6
        )
        noise = variance + _JITTER

        def loss() -> Tensor:
            optimiser.zero_grad()
            lower = _factor(self._kernel(raw, self.theta, self.theta), noise)
            _, residual, log_weight = _constant(lower, y)
            half = torch.linalg.solve_triangular(
                lower, residual[..., None], upper=False
            )
            evidence = -0.5 * half.square().sum((-2, -1))
            evidence = evidence - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            # the constant is integrated out: it costs a degree of freedom
            evidence = evidence - 0.5 * log_weight
            width = torch.tensor([1.0] * count + [2.0], dtype=torch.float64)
            prior = -0.5 * ((raw - start) / width).square().sum(-1)
            total = -(evidence + prior).sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimiser.step(loss)
        found = raw.detach()
        found = torch.where(found.isfinite().all(-1, keepdim=True), found, start)
        self.lengthscale, self.scale = found[:, :-1].exp(), found[:, -1].exp()
        return self

    def predict(
        self,
        y: Tensor,
        variance: Tensor,
        draws: Tensor,
        log_weights: Tensor | None = None,
    ) -> ParameterPrediction:
        """Predict the values at draws of the posterior, and their average.

        Args:
            y: values under the solved draws, `(B, N)`.
            variance: of their errors, `(B, N)`.
            draws: of the posterior, in the unit cube, `(M, P)`.
            log_weights: of the draws, `(M,)`; equal when left out.

        Returns:
            Values and variances.
        """
        draws = draws.double()
        if log_weights is None:
            log_weights = draws.new_zeros(len(draws))
        w = log_weights.double().softmax(-1)
        y, variance, centre, unit = _standardised(y, variance)
        raw = torch.cat([self.lengthscale.log(), self.scale.log()[:, None]], 1)
        lower = _factor(self._kernel(raw, self.theta, self.theta), variance + _JITTER)
        constant, residual, log_weight = _constant(lower, y)
        cross = self._kernel(raw, self.theta, draws)  # (B, N, M)
        alpha = torch.cholesky_solve(residual[..., None], lower)
        values = constant[:, None] + (cross * alpha).sum(-2)  # (B, M)
        half = torch.linalg.solve_triangular(lower, cross, upper=False)
        ones = torch.ones_like(y)[..., None]
        half_ones = torch.linalg.solve_triangular(lower, ones, upper=False)
        # what the constant's own error adds
        lever = 1 - (half_ones * half).sum(-2)  # (B, M)
        drift = (-log_weight).exp()[:, None]
        own = self.scale[:, None] - half.square().sum(-2) + drift * lever.square()
        own = own.clamp_min(0)
        within = self._kernel(raw, draws, draws)
        both = torch.einsum("j,bjl,l->b", w, within, w)
        mean_half = (half * w).sum(-1)
        mean_lever = (lever * w).sum(-1)
        spread = both - mean_half.square().sum(-1) + drift[:, 0] * mean_lever.square()
        explained = 1 - (own * w).sum(-1) / self.scale
        return ParameterPrediction(
            (centre[:, None] + unit[:, None] * values).mT,
            (unit[:, None].square() * own).mT,
            centre + unit * (values * w).sum(-1),
            unit.square() * spread.clamp_min(0),
            explained,
        )

    def averages(
        self, y: Tensor, variance: Tensor, draws: Tensor, log_weights: Tensor
    ) -> Tensor:
        """Average the values over several posteriors of the same draws.

        Args:
            y: values under the solved draws, `(C, B, N)`.
            variance: of their errors, `(C, B, N)`.
            draws: in the unit cube, `(M, P)`.
            log_weights: of the draws under each posterior, `(C, M)`.

        Returns:
            Averages, `(C, B)`.
        """
        w = log_weights.double().softmax(-1)
        shape = y.shape
        y, variance, centre, unit = _standardised(
            y.reshape(-1, shape[-1]), variance.reshape(-1, shape[-1])
        )
        raw = torch.cat([self.lengthscale.log(), self.scale.log()[:, None]], 1)
        inner = self._kernel(raw, self.theta, self.theta).expand(*shape, -1)
        lower = _factor(inner.reshape(-1, *inner.shape[-2:]), variance + _JITTER)
        constant, residual, _ = _constant(lower, y)
        alpha = torch.cholesky_solve(residual[..., None], lower)[..., 0].reshape(shape)
        cross = self._kernel(raw, self.theta, draws.double())  # (B, N, M)
        mean = torch.einsum("bnm,cm,cbn->cb", cross, w, alpha)
        return (centre + unit * constant).reshape(shape[:2]) + unit.reshape(
            shape[:2]
        ) * mean

    def _kernel(self, raw: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Covariances, `(B, n, m)`."""
        lengthscale, scale = raw[:, None, :-1].exp(), raw[:, -1].exp()
        # sums of squares, not cdist: its gradient at equal points is not a number
        a, b = x / lengthscale, y / lengthscale
        square = (
            a.square().sum(-1)[..., None]
            + b.square().sum(-1)[..., None, :]
            - 2 * a @ b.mT
        )
        return scale[:, None, None] * (-0.5 * square.clamp_min(0)).exp()


def _standardised(y: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, variance = y.double(), variance.double()
    centre, unit = y.mean(-1), y.std(-1)
    unit = torch.where(unit > 1e-12 * (1 + centre.abs()), unit, 1.0)
    scaled = (y - centre[:, None]) / unit[:, None]
    return scaled, variance / unit[:, None].square(), centre, unit


def _factor(kernel: Tensor, noise: Tensor) -> Tensor:
    lower, info = torch.linalg.cholesky_ex(kernel + noise.diag_embed())
    if bool((info > 0).any()):
        more = 1e-2 * torch.ones_like(noise)
        lower, _ = torch.linalg.cholesky_ex(kernel + (noise + more).diag_embed())
    return lower


def _constant(lower: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate the constant mean under a flat prior, and the log of its precision."""
    ones = torch.ones_like(y)[..., None]
    half = torch.linalg.solve_triangular(lower, ones, upper=False)
    own = torch.linalg.solve_triangular(lower, y[..., None], upper=False)
    weight = half.square().sum((-2, -1))
    constant = (half * own).sum((-2, -1)) / weight
    return constant, y - constant[..., None], weight.log()
