r"""Action values between the draws of the dynamics under which they are known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check_shape
from pyro_geo.planning._parameter_process import Lanes, Solved, fitted, solved

__all__ = ["ParameterGP", "ParameterPrediction"]


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


class ParameterGP(Made):
    r"""A Gaussian process over parameters, for each action, in one batch.

    Values often explode in a corner of the parameters and have kinks where the best
    action changes. So the process is one of logarithms, and its kernel a rough one.
    With solved draws :math:`\theta_i` of values :math:`y_i`, the least of them `e` and
    their standard deviation `u` (`e` is the greatest, and `u` negative, where the tail
    is one of low values), and draws :math:`\tilde\theta_j` of weights :math:`w_j`,

    .. math::
        \log\Big(\frac{y_i - e}{u} + \delta\Big) = z(\theta_i) + \varepsilon_i,
            \qquad z \mid y \sim N(\mu, C) \\
        f_j = u\, e^{\mu_j + C_{jj}/2}, \qquad
            E = e - u \delta + \sum_j w_j f_j \\
        \mathrm{Var} = \sum_{jl} w_j w_l\, \sigma_j \sigma_l
            \frac{C_{jl}}{\sqrt{C_{jj} C_{ll}}}, \qquad
            \sigma_j^2 = f_j^2\, (e^{C_{jj}} - 1) .

    Means and variances at draws are those of log-normal variables. The variance of the
    average is that of Bayesian quadrature, since errors at two draws are not
    independent; their correlation is that of their logarithms. A constant mean of `z`
    is integrated out. Two kernels, Matern 3/2 and 5/2 with a lengthscale for each
    parameter, are averaged by their evidence. Lengthscales, scale and the shift
    :math:`\delta` maximise it under weak log-normal priors.

    :math:`C` is multiplied by a factor of at least 1: what left-out values, and sums of
    them, are off by, over what was expected. Without it errors of one sign, as kinks
    make them, would count as if they averaged out.

    Args:
        theta: solved draws in the unit cube, `(N, P)`.

    Attributes:
        lanes: the hyperparameters, once fitted.

    References:
        Rasmussen and Ghahramani (2003), Bayesian Monte Carlo, NeurIPS; Snelson,
        Rasmussen and Ghahramani (2004), Warped Gaussian processes, NeurIPS; Dubrule
        (1983), Cross validation of kriging in a unique neighborhood, Mathematical
        Geology. Their use for action values, and the factor, are derived.

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
        self.lanes: Lanes | None = None
        self._raw: Tensor | None = None

    def fit(self, y: Tensor, variance: Tensor) -> ParameterGP:
        """Learn the hyperparameters; a later fit goes on from an earlier one.

        Args:
            y: values under the solved draws, `(B, N)`.
            variance: of their errors, `(B, N)`.

        Returns:
            The process itself.
        """
        y, variance = y.double(), variance.double()
        self.lanes, self._raw = fitted(self.theta, y, variance, self._raw)
        return self

    def predict(
        self,
        y: Tensor,
        variance: Tensor,
        draws: Tensor,
        log_weights: Tensor | None = None,
    ) -> ParameterPrediction:
        """Predict the values at draws of the posterior, and their average.

        The hyperparameters are those of the last fit, or of a first one to `y`.

        Args:
            y: values under the solved draws, `(B, N)`.
            variance: of their errors, `(B, N)`.
            draws: of the posterior, in the unit cube, `(M, P)`.
            log_weights: of the draws, `(M,)`; equal when left out.

        Returns:
            Values and variances.
        """
        lanes, given = self._given(y.double(), variance.double())
        draws = draws.double()
        if log_weights is None:
            log_weights = draws.new_zeros(len(draws))
        w = log_weights.double().softmax(-1)
        mean, half, lever = given.at(lanes.kernel(self.theta, draws))
        own = lanes.scale[:, None] - half.square().sum(-2) + lever.square()
        own = own.clamp_min(1e-14)
        explained = 1 - (own * w).sum(-1) / lanes.scale
        values, sd = _of_logs(lanes, given, mean, own)
        # sd over the root of the variance of the logarithm: what makes the diagonal
        # that of log-normal variables, and the rest of the correlation of these
        pull = w * sd / own.sqrt()
        both = (lanes.kernel(draws, draws) @ pull[..., None])[..., 0]
        spread = (pull * both).sum(-1)
        spread = spread - (half @ pull[..., None]).square().sum((-2, -1))
        spread = (spread + (lever * pull).sum(-1).square()).clamp_min(0)
        count = len(y)
        at_draws = _mixed(lanes, count, values)
        average = (at_draws * w).sum(-1)
        # kernels disagree: that is a part of the error
        off = (values - at_draws[lanes.action]).square()
        mean_off = ((values * w).sum(-1) - average[lanes.action]).square()
        return ParameterPrediction(
            at_draws.mT,
            _mixed(lanes, count, sd.square() + off).mT,
            average,
            _mixed(lanes, count, spread + mean_off),
            _mixed(lanes, count, explained),
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
        y, variance, w = y.double(), variance.double(), log_weights.double().softmax(-1)
        # exact values share one factor; otherwise one posterior after the other
        size = len(y) if not bool(variance.any()) else 1
        parts = zip(y.split(size), variance.split(size), w.split(size), strict=True)
        rows = []
        for own_y, own_variance, own_w in parts:
            lanes, given = self._given(own_y, own_variance)
            mean, half, lever = given.at(lanes.kernel(self.theta, draws.double()))
            own = lanes.scale[:, None] - half.square().sum(-2) + lever.square()
            values, _ = _of_logs(lanes, given, mean, own.clamp_min(1e-14))
            found = torch.einsum("clm,cm->lc", values, own_w)
            rows.append(_mixed(lanes, y.shape[1], found).mT)
        return torch.cat(rows)

    def _given(self, y: Tensor, variance: Tensor) -> tuple[Lanes, Solved]:
        """Condition on values `(..., B, N)`."""
        if self.lanes is None:
            self.fit(y, variance)
        lanes = self.lanes
        assert lanes is not None
        own = variance[..., lanes.action, :]
        if not bool(variance.any()):
            own = torch.zeros_like(own.reshape(-1, *own.shape[-2:])[0])
        return lanes, solved(lanes, self.theta, y[..., lanes.action, :], own)


def _of_logs(
    lanes: Lanes, given: Solved, mean: Tensor, own: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of values, of those of standardised logarithms."""
    logs = given.logs
    m, s, start, unit = (x[..., None] for x in (logs.m, logs.s, logs.start, logs.unit))
    spread = own * s.square() * lanes.widening[:, None]
    # far from all solved draws the mean does not follow the widened variance up
    middle = unit * (m + s * mean + 0.5 * own * s.square()).exp()
    return start + middle, middle.abs() * spread.expm1().sqrt()


def _mixed(lanes: Lanes, count: int, values: Tensor) -> Tensor:
    """Average over the kernels of each action, `(B, ...)` of `(L, ...)`."""
    share = lanes.share.reshape(-1, *[1] * (values.dim() - 1))
    found = values.new_zeros(count, *values.shape[1:])
    return found.index_add(0, lanes.action, share * values)
