"""Response models of choices: the unit-square sigmoid, softmax, bandits."""

from __future__ import annotations

from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_shape
from pyro_geo.filtering.hgf.features import (
    Beliefs,
    believed,
    input_logit,
    over_time,
)
from pyro_geo.filtering.hgf.responses import Responses
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = ["Bandit", "Softmax", "UnitSquare", "bandit_inputs"]


class UnitSquare(Responses):
    r"""Choices of 0 or 1 by the unit-square sigmoid of a believed probability.

    .. math::
        P(y = 1) = \frac{p^\zeta}{p^\zeta + (1 - p)^\zeta}
        = \mathrm{sigmoid}(\zeta \, \mathrm{logit}\, p)

    It is evaluated by its logit, so that nothing is lost where p is close to 0 or 1.
    With :math:`\zeta = 1` and responses that repeat the inputs the log-likelihood is
    minus the surprise.

    Args:
        trajectory: of a filter with binary input, `(*batch, T, L)`.
        zeta: inverse decision noise, above 0, `(*batch,)`.
        beliefs: `"predictions"`, or `"posteriors"` for responses after the input.
        noise_level: level, from 2 on, whose mean :math:`\mu` turns the inverse noise
            into :math:`\zeta e^{-\mu}`; None for none.
        observed: which responses there are, bool `(*batch, T)`; default all.
        nan_policy: `"missing"` to take NaN as no response.
        validate_args: whether values are checked; Pyro's setting if None.

    References:
        Mathys et al. (2014), Uncertainty in perception and the Hierarchical Gaussian
        Filter, equation 18.

    Example:
        >>> from pyro_geo.filtering import hgf_filter
        >>> u = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
        >>> beliefs = hgf_filter(u, [-2.0], None, [0.0], [1.0], kind="binary")
        >>> same = UnitSquare(beliefs).log_prob_steps(u) + beliefs.surprise
        >>> bool((same.abs() < 1e-12).all())
        True
    """

    def __init__(
        self,
        trajectory: HGFTrajectory,
        zeta: float | Tensor = 1.0,
        *,
        beliefs: Beliefs = "predictions",
        noise_level: int | None = None,
        **options: Any,
    ) -> None:
        sharpness = _sharpness(trajectory, zeta, beliefs, noise_level)
        logits = sharpness * input_logit(trajectory, beliefs)
        super().__init__(
            dist.Bernoulli(logits=logits, validate_args=False),
            trajectory=trajectory,
            **options,
        )


class Softmax(Responses):
    r"""Choices among the values of classes, or of the two values of a binary input.

    .. math:: P(y = k) = \frac{e^{\beta p_k}}{\sum_c e^{\beta p_c}}

    Args:
        trajectory: of a filter with categorical input, `(*batch, K, T, L)`, or with
            binary input, `(*batch, T, L)`, whose classes are 0 and 1.
        inverse_temperature: :math:`\beta`, `(*batch,)`.
        kind: `"categorical"` or `"binary"`.
        beliefs: `"predictions"` or `"posteriors"`.
        noise_level: level whose mean :math:`\mu` (over the classes) turns the inverse
            temperature into :math:`\beta e^{-\mu}`; None for none. Level 2 is level 3
            of toolboxes that count a binary input as level 1.
        **options: `observed`, `nan_policy` and `validate_args` of
            :class:`UnitSquare`.

    References:
        Mathys et al. (2014), Uncertainty in perception and the Hierarchical Gaussian
        Filter.

    Example:
        >>> from pyro_geo.filtering import hgf_filter
        >>> u, levels = torch.tensor([0, 2, 2]), torch.full((3, 1), -2.0)
        >>> beliefs = hgf_filter(
        ...     u, levels, None, 0 * levels, levels.exp(), kind="categorical"
        ... )
        >>> Softmax(beliefs, 2.0).log_prob_steps(u).shape
        torch.Size([3])
    """

    def __init__(
        self,
        trajectory: HGFTrajectory,
        inverse_temperature: float | Tensor = 1.0,
        *,
        kind: Literal["categorical", "binary"] = "categorical",
        beliefs: Beliefs = "predictions",
        noise_level: int | None = None,
        **options: Any,
    ) -> None:
        check_choice("kind", kind, ("categorical", "binary"))
        p = torch.sigmoid(input_logit(trajectory, beliefs))
        if kind == "binary":
            values = torch.stack([1 - p, p], -1)
        else:
            values = (p / p.sum(-2, keepdim=True)).transpose(-1, -2)
        classes = kind == "categorical"
        sharpness = _sharpness(
            trajectory, inverse_temperature, beliefs, noise_level, classes
        )
        super().__init__(_choices(sharpness, values), trajectory=trajectory, **options)


class Bandit(Responses):
    r"""Choices among arms of which only the chosen one shows its reward.

    .. math:: P(y = k) \propto e^{\beta v_k}

    Each arm has a filter of its own, which observes the trials in which it was chosen;
    :func:`bandit_inputs` makes the inputs. The value :math:`v_k` of an arm is the
    reward that it is predicted to give: choices precede rewards, so that predictions
    are all that is offered.

    Args:
        trajectory: of a filter with the axis of arms before time, `(*batch, arms, T,
            L)`.
        inverse_temperature: :math:`\beta`, `(*batch,)`.
        kind: of rewards, `"binary"` or `"continuous"`.
        stickiness: added to the value of the arm chosen last, in units of the logit,
            `(*batch,)`.
        choices: arms chosen, `(*batch, T)`; only for a `stickiness`.
        noise_level: level whose mean :math:`\mu` (over the arms) turns the inverse
            temperature into :math:`\beta e^{-\mu}`; None for none.
        **options: `observed`, `nan_policy` and `validate_args` of
            :class:`UnitSquare`.

    Example:
        >>> from pyro_geo.filtering import hgf_filter
        >>> choices, rewards = torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 1.0])
        >>> u, observed = bandit_inputs(choices, rewards, 2)
        >>> beliefs = hgf_filter(
        ...     u, [-2.0], None, [0.0], [1.0], kind="binary", observed=observed
        ... )
        >>> Bandit(beliefs, 3.0).log_prob_steps(choices).exp()[
        ...     0
        ... ].item()  # nothing is known yet
        0.5
    """

    def __init__(
        self,
        trajectory: HGFTrajectory,
        inverse_temperature: float | Tensor = 1.0,
        *,
        kind: Literal["binary", "continuous"] = "binary",
        stickiness: float | Tensor | None = None,
        choices: Tensor | None = None,
        noise_level: int | None = None,
        **options: Any,
    ) -> None:
        check_choice("kind", kind, ("binary", "continuous"))
        both = (stickiness is None) == (choices is None)
        check(both, "stickiness", stickiness, "a number beside choices")
        values = trajectory.muhat[..., 0]
        if kind == "binary":
            values = torch.sigmoid(input_logit(trajectory))
        values = values.transpose(-1, -2)
        sharpness = _sharpness(
            trajectory, inverse_temperature, "predictions", noise_level, True
        )
        extra = None
        if choices is not None and stickiness is not None:
            last = _chosen(choices, values.shape[-1]).to(values.dtype)
            last = torch.cat(
                [torch.zeros_like(last[..., :1, :]), last[..., :-1, :]], -2
            )
            extra = over_time(stickiness, values)[..., None] * last
        super().__init__(
            _choices(sharpness, values, extra), trajectory=trajectory, **options
        )


def bandit_inputs(
    choices: Tensor, rewards: Tensor, num_arms: int
) -> tuple[Tensor, Tensor]:
    """Arrange the rewards of a bandit as inputs of one filter for each arm.

    Args:
        choices: arms chosen, numbers from 0, `(*batch, T)`; negative where none was.
        rewards: of the arm chosen, `(*batch, T)`; NaN where it was not shown.
        num_arms: how many arms there are.

    Returns:
        Inputs and whether each is observed, `(*batch, num_arms, T)`.

    Example:
        >>> choices, rewards = torch.tensor([0, 1]), torch.tensor([1.0, 0.5])
        >>> u, observed = bandit_inputs(choices, rewards, 2)
        >>> u.tolist(), observed.tolist()
        ([[1.0, 0.0], [0.0, 0.5]], [[True, False], [False, True]])
    """
    check_shape("rewards", rewards.shape, choices.shape)
    chosen = _chosen(choices, num_arms).transpose(-1, -2)
    observed = chosen & ~rewards.isnan().unsqueeze(-2)
    return torch.where(observed, rewards.unsqueeze(-2), 0.0), observed


def _sharpness(
    trajectory: HGFTrajectory,
    value: float | Tensor,
    beliefs: Beliefs,
    level: int | None,
    classes: bool = False,
) -> Tensor:
    """Inverse noise of each trial, `(*batch, T)`."""
    mean = believed(trajectory, beliefs)[0]
    sharpness = over_time(value, mean)
    if level is None:
        return sharpness
    levels = mean.shape[-1]
    good = isinstance(level, int) and 2 <= level <= levels
    check(good, "noise_level", level, f"a level from 2 to {levels}")
    volatility = mean[..., level - 1]
    volatility = volatility.mean(-2) if classes else volatility
    return sharpness * torch.exp(-volatility)


def _choices(
    sharpness: Tensor, values: Tensor, extra: Tensor | None = None
) -> TorchDistribution:
    logits = sharpness.unsqueeze(-1) * values
    logits = logits if extra is None else logits + extra
    return dist.Categorical(logits=logits, validate_args=False)


def _chosen(choices: Tensor, number: int) -> Tensor:
    """Whether each arm was chosen, `(*batch, T, arms)`."""
    return choices.unsqueeze(-1) == torch.arange(number, device=choices.device)
