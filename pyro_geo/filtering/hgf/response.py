r"""Response models: what a person does, given what the filter says they believe.

Each comes twice. A class, such as :class:`UnitSquare`, is a distribution of the
responses of all trials, for `pyro.sample("y", UnitSquare(...), obs=y)`. A function,
such as :func:`unit_square`, gives the log-likelihood of each trial, for
`pyro.factor` or for use outside of Pyro. By default a response follows from the
prediction, as it precedes the outcome of its trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_geo.filtering.hgf.agent import BinaryAgent
from pyro_geo.filtering.hgf.choices import Bandit, Softmax, UnitSquare, bandit_inputs
from pyro_geo.filtering.hgf.features import features
from pyro_geo.filtering.hgf.measures import Custom, Gaussian, ResponseTime
from pyro_geo.filtering.hgf.responses import Responses
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = [
    "Bandit",
    "BinaryAgent",
    "Custom",
    "Gaussian",
    "ResponseTime",
    "Responses",
    "Softmax",
    "UnitSquare",
    "bandit",
    "bandit_inputs",
    "custom",
    "features",
    "gaussian",
    "response_time",
    "softmax",
    "unit_square",
]


def unit_square(
    trajectory: HGFTrajectory, y: Tensor, zeta: float | Tensor = 1.0, **options: Any
) -> Tensor:
    """Log-likelihood of each choice under :class:`UnitSquare`, `(*batch, T)`."""
    return UnitSquare(trajectory, zeta, **options).log_prob_steps(y)


def softmax(
    trajectory: HGFTrajectory,
    y: Tensor,
    inverse_temperature: float | Tensor = 1.0,
    **options: Any,
) -> Tensor:
    """Log-likelihood of each choice under :class:`Softmax`, `(*batch, T)`."""
    return Softmax(trajectory, inverse_temperature, **options).log_prob_steps(y)


def bandit(
    trajectory: HGFTrajectory,
    y: Tensor,
    inverse_temperature: float | Tensor = 1.0,
    **options: Any,
) -> Tensor:
    """Log-likelihood of each choice under :class:`Bandit`, `(*batch, T)`."""
    return Bandit(trajectory, inverse_temperature, **options).log_prob_steps(y)


def gaussian(
    trajectory: HGFTrajectory,
    y: Tensor,
    coefficients: Tensor,
    sigma: float | Tensor,
    **options: Any,
) -> Tensor:
    """Log-likelihood of each number under :class:`Gaussian`, `(*batch, T)`."""
    return Gaussian(trajectory, coefficients, sigma, **options).log_prob_steps(y)


def response_time(
    trajectory: HGFTrajectory,
    y: Tensor,
    coefficients: Tensor,
    sigma: float | Tensor,
    **options: Any,
) -> Tensor:
    """Log-likelihood of each time under :class:`ResponseTime`, `(*batch, T)`."""
    return ResponseTime(trajectory, coefficients, sigma, **options).log_prob_steps(y)


def custom(
    trajectory: HGFTrajectory,
    y: Tensor,
    model: Callable[[HGFTrajectory], TorchDistribution],
    **options: Any,
) -> Tensor:
    """Log-likelihood of each response under :class:`Custom`, `(*batch, T)`."""
    return Custom(trajectory, model, **options).log_prob_steps(y)
