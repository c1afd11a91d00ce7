"""Numbers of a trajectory that responses may depend on, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = [
    "Beliefs",
    "Feature",
    "believed",
    "features",
    "input_logit",
    "learning_rates",
    "over_time",
    "weighted_errors",
]

Beliefs = Literal["predictions", "posteriors"]
Feature: TypeAlias = str | Callable[[HGFTrajectory], Tensor]

_LARGEST_LOGIT = 13.815509557963774  # of the probability 1 - 1e-6, as in the filter
_LEVEL = re.compile(r"(mean|volatility|uncertainty|weighted_error|learning_rate)_(\d+)")
_PLAIN = ("prediction", "posterior", "surprise", "input_error", "bernoulli_variance")


def believed(trajectory: HGFTrajectory, beliefs: Beliefs) -> tuple[Tensor, Tensor]:
    """Return means and precisions of all levels, before or after each input.

    Args:
        trajectory: of a filter.
        beliefs: `"predictions"`, before the input, or `"posteriors"`.

    Returns:
        Both, `(*batch, T, L)`.
    """
    check_choice("beliefs", beliefs, ("predictions", "posteriors"))
    if beliefs == "predictions":
        return trajectory.muhat, trajectory.pihat
    return trajectory.mu, trajectory.pi


def input_logit(trajectory: HGFTrajectory, beliefs: Beliefs = "predictions") -> Tensor:
    """Return the logit of the believed probability that a binary input is 1.

    Args:
        trajectory: of a filter with binary input, or of one for each class.
        beliefs: `"predictions"` or `"posteriors"`.

    Returns:
        `(*batch, T)`, within the logits of 1e-6 and 1 - 1e-6 as in the filter.
    """
    mean = believed(trajectory, beliefs)[0][..., 0]
    return mean.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def over_time(value: float | Tensor, like: Tensor) -> Tensor:
    """Give a parameter of each series an axis of time.

    Args:
        value: a number, or `(*batch,)`.
        like: tensor of the floating type to take for a number.

    Returns:
        A scalar, or `(*batch, 1)`.
    """
    return value.unsqueeze(-1) if isinstance(value, Tensor) else like.new_tensor(value)


def weighted_errors(trajectory: HGFTrajectory) -> Tensor:
    r"""Return the precision-weighted prediction error of each level.

    .. math::
        \epsilon_1 = \frac{\pi_u}{\pi_1} \delta_u , \quad
        \epsilon_j = \frac{\hat\pi_{j-1}}{\pi_j} \delta_{j-1} , \quad
        \delta_j = \hat\pi_j \left(\frac{1}{\pi_j} + (\mu_j - \hat\mu_j)^2\right) - 1

    The first is what level 1 was moved by, :math:`\mu_1 - \hat\mu_1`. By the classic
    update level j moves by :math:`\kappa_{j-1} \Omega_{j-1} \epsilon_j / 2`.

    Args:
        trajectory: of a filter.

    Returns:
        `(*batch, T, L)`; zero where no input was observed.

    References:
        Mathys et al. (2011), A Bayesian foundation for individual learning under
        uncertainty, equations 9 to 12.
    """
    first = (trajectory.mu - trajectory.muhat)[..., :1]
    ratio = trajectory.pihat[..., :-1] / trajectory.pi[..., 1:]
    rest = ratio * trajectory.pe_volatility
    return torch.cat([first, rest], -1)


def learning_rates(
    trajectory: HGFTrajectory, kind: Literal["continuous", "binary"]
) -> Tensor:
    r"""Return how much each level moves for one unit of its prediction error.

    .. math:: \pi_u / \pi_1 , \; \text{of binary input} \; 1 / \pi_1 , \quad
        \hat\pi_{j-1} / \pi_j

    The first is the gain of a Kalman filter. That of a binary input weighs an error of
    a probability. Those of the levels above weigh the volatility error below them.

    Args:
        trajectory: of a filter.
        kind: of input; `"binary"` for classes too.

    Returns:
        `(*batch, T, L)`; zero where no input was observed.
    """
    check_choice("kind", kind, ("continuous", "binary"))
    gain = 1 - trajectory.pihat[..., :1] / trajectory.pi[..., :1]
    observed = gain > 0
    first = gain if kind == "continuous" else trajectory.pi[..., :1].reciprocal()
    rest = trajectory.pihat[..., :-1] / trajectory.pi[..., 1:]
    rates = torch.cat([first, rest], -1)
    # the rates of a belief that is NaN are NaN
    return torch.where(observed | gain.isnan(), rates, 0.0)


def features(
    trajectory: HGFTrajectory,
    names: Sequence[Feature],
    *,
    kind: Literal["continuous", "binary"] = "binary",
    beliefs: Beliefs = "predictions",
) -> Tensor:
    """Return numbers of a trajectory by name.

    - `prediction`: predicted input, its mean or its probability of being 1;
    - `posterior`: the same after the input;
    - `surprise`: of the input, in nats;
    - `input_error`: input minus prediction;
    - `bernoulli_variance`: p (1 - p) of the believed probability p;
    - `mean_J`, `volatility_J`: mean of level J, counted from 1;
    - `uncertainty_J`: variance of level J;
    - `weighted_error_J`: see :func:`weighted_errors`;
    - `learning_rate_J`: see :func:`learning_rates`.

    Args:
        trajectory: of a filter.
        names: names, or functions of the trajectory to `(*batch, T)`.
        kind: of input.
        beliefs: whether means, variances and probabilities are `"predictions"` or
            `"posteriors"`.

    Returns:
        `(*batch, T, features)`. An unknown name, or a level that the filter does not
        have, is a :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> from pyro_geo.filtering import hgf_filter
        >>> u = torch.tensor([1.0, 0.0, 1.0])
        >>> zero, one = torch.zeros(2), torch.ones(2)
        >>> beliefs = hgf_filter(u, -3 * one, [1.0], zero, one, kind="binary")
        >>> features(beliefs, ["surprise", "volatility_2"]).shape
        torch.Size([3, 2])
    """
    check_choice("kind", kind, ("continuous", "binary"))
    columns = [
        name(trajectory) if callable(name) else _named(trajectory, name, kind, beliefs)
        for name in names
    ]
    return torch.stack(torch.broadcast_tensors(*columns), -1)


def _named(
    trajectory: HGFTrajectory,
    name: str,
    kind: Literal["continuous", "binary"],
    beliefs: Beliefs,
) -> Tensor:
    match = _LEVEL.fullmatch(name)
    levels = trajectory.mu.shape[-1]
    known = [*_PLAIN, "mean_1", "volatility_2", "uncertainty_1", "weighted_error_1"]
    good = name in _PLAIN or (match is not None and 1 <= int(match[2]) <= levels)
    check(good, "features", repr(name), f"such as {known}, levels 1 to {levels}")
    if match is not None:
        level = int(match[2]) - 1
        if match[1] == "learning_rate":
            return learning_rates(trajectory, kind)[..., level]
        return _of_level(trajectory, match[1], level, beliefs)
    if name == "surprise":
        return trajectory.surprise
    if name == "input_error":
        return trajectory.pe_value
    which: Beliefs = beliefs
    if name in ("prediction", "posterior"):
        which = "posteriors" if name == "posterior" else "predictions"
    if name == "bernoulli_variance":
        p = torch.sigmoid(input_logit(trajectory, which))
        return p * (1 - p)
    if kind == "binary":
        return torch.sigmoid(input_logit(trajectory, which))
    return believed(trajectory, which)[0][..., 0]


def _of_level(
    trajectory: HGFTrajectory, what: str, level: int, beliefs: Beliefs
) -> Tensor:
    mean, precision = believed(trajectory, beliefs)
    if what in ("mean", "volatility"):
        return mean[..., level]
    if what == "uncertainty":
        return precision[..., level].reciprocal()
    return weighted_errors(trajectory)[..., level]
