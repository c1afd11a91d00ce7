"""Response models of numbers: ratings, reaction times, whatever you write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pyro.distributions import LogNormal, Normal, TorchDistribution
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.filtering.hgf.features import Beliefs, Feature, features, over_time
from pyro_geo.filtering.hgf.responses import Responses
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = ["Custom", "Gaussian", "ResponseTime"]

_TIMES = ("surprise", "bernoulli_variance", "uncertainty_1")


class Gaussian(Responses):
    r"""Numbers that depend linearly on features of the beliefs.

    .. math:: y \sim \mathrm N(b_0 + \sum_i b_i f_i, \; \sigma)

    Args:
        trajectory: of a filter, `(*batch, T, L)`.
        coefficients: :math:`b_0, b_1, \dots`, `(*batch, 1 + features)`.
        sigma: standard deviation, `(*batch,)`.
        names: of the features, see
            :func:`~pyro_geo.filtering.hgf.features.features`, or functions of the
            trajectory to `(*batch, T)`.
        kind: of input of the filter.
        beliefs: `"predictions"` or `"posteriors"`.
        **options: `observed`, `nan_policy` and `validate_args` of
            :class:`UnitSquare`.

    Example:
        >>> import torch
        >>> from pyro_geo.filtering import hgf_filter
        >>> u = torch.tensor([1.0, 1.0, 0.0])
        >>> beliefs = hgf_filter(u, [-2.0], None, [0.0], [1.0], kind="binary")
        >>> b = torch.tensor([0.5, 1.0])
        >>> Gaussian(beliefs, b, 0.1, names=["prediction"]).base.mean[0].item()
        1.0
    """

    def __init__(
        self,
        trajectory: HGFTrajectory,
        coefficients: Tensor,
        sigma: float | Tensor,
        *,
        names: Sequence[Feature] = ("prediction",),
        kind: Literal["continuous", "binary"] = "binary",
        beliefs: Beliefs = "predictions",
        **options: Any,
    ) -> None:
        mean = _linear(trajectory, coefficients, names, kind, beliefs)
        base = Normal(mean, over_time(sigma, mean), validate_args=False)
        super().__init__(base, trajectory=trajectory, **options)


class ResponseTime(Responses):
    r"""Reaction times whose logarithm depends linearly on features of the beliefs.

    .. math:: \log y \sim \mathrm N(b_0 + \sum_i b_i f_i, \; \sigma)

    The density is that of the times themselves. For logarithms of times use
    :class:`Gaussian` with the same features.

    Args:
        trajectory: of a filter, `(*batch, T, L)`.
        coefficients: :math:`b_0, b_1, \dots`, `(*batch, 1 + features)`.
        sigma: standard deviation of the logarithm, `(*batch,)`.
        names: of the features, as of :class:`Gaussian`: by default surprise, the
            variance of a Bernoulli of the believed probability, and the uncertainty
            of level 1.
        kind: of input of the filter.
        beliefs: `"predictions"` or `"posteriors"`.
        **options: `observed`, `nan_policy` and `validate_args` of
            :class:`UnitSquare`.

    Example:
        >>> import torch
        >>> from pyro_geo.filtering import hgf_filter
        >>> u = torch.tensor([1.0, 1.0, 0.0])
        >>> beliefs = hgf_filter(u, [-2.0], None, [0.0], [1.0], kind="binary")
        >>> b = torch.tensor([-1.0, 0.1, 0.2, 0.0])
        >>> pause = torch.tensor([0.4, torch.nan, 0.7])
        >>> times = ResponseTime(beliefs, b, 0.2, nan_policy="missing")
        >>> times.log_prob_steps(pause)[1].item()
        0.0
    """

    def __init__(
        self,
        trajectory: HGFTrajectory,
        coefficients: Tensor,
        sigma: float | Tensor,
        *,
        names: Sequence[Feature] = _TIMES,
        kind: Literal["continuous", "binary"] = "binary",
        beliefs: Beliefs = "predictions",
        **options: Any,
    ) -> None:
        mean = _linear(trajectory, coefficients, names, kind, beliefs)
        base = LogNormal(mean, over_time(sigma, mean), validate_args=False)
        super().__init__(base, trajectory=trajectory, **options)


class Custom(Responses):
    """Responses by a function of yours.

    Args:
        trajectory: of a filter.
        model: function of the trajectory to a distribution whose batch ends with
            time, `(*batch, T)`.
        **options: `observed`, `nan_policy` and `validate_args` of
            :class:`UnitSquare`.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyro_geo.filtering import hgf_filter
        >>> u = torch.tensor([0.3, 0.1])
        >>> beliefs = hgf_filter(u, [-2.0], None, [0.0], [1.0], 4.0)
        >>> rating = Custom(beliefs, lambda t: dist.StudentT(4.0, t.pred, 0.1))
        >>> rating.event_shape
        torch.Size([2])
    """

    def __init__(
        self,
        trajectory: HGFTrajectory,
        model: Callable[[HGFTrajectory], TorchDistribution],
        **options: Any,
    ) -> None:
        super().__init__(model(trajectory), trajectory=trajectory, **options)


def _linear(
    trajectory: HGFTrajectory,
    coefficients: Tensor,
    names: Sequence[Feature],
    kind: Literal["continuous", "binary"],
    beliefs: Beliefs,
) -> Tensor:
    found = features(trajectory, names, kind=kind, beliefs=beliefs)
    number = found.shape[-1] + 1
    good = coefficients.shape[-1:] == (number,)
    expected = f"(*batch, {number}): a constant and one for each feature"
    check_shape("coefficients", coefficients.shape, expected, good)
    constant, slopes = coefficients[..., None, 0], coefficients[..., None, 1:]
    return constant + (slopes * found).sum(-1)
