"""What a sensor may do to a report, and what the state may learn from it then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check, check_number
from pyro_geo.filtering.tracker.update import factor, log_normal

__all__ = ["Biased", "Decoy", "Random", "Report", "SensorMode", "Stuck"]

Learns: TypeAlias = Literal["all", "motion", "nothing"]
Scale: TypeAlias = float | Sequence[float] | None

# Squared distances above these say nothing more, so that all reports that are far from
# everything are alike. The narrower a density, the further its tail goes: then such a
# report is random, not a repeat, and never nominal.
FAR = 2e3
_FARTHER = 1e2 * FAR


class Report(NamedTuple):
    """What a sensor mode sees of a report; the tracks are the last axis.

    Attributes:
        prediction: of the report, `(m, *lanes)`.
        residual: report minus prediction, `(m, *lanes)`.
        cov: covariance of that residual under a nominal sensor, `(m, m, *lanes)`.
        step: report minus the previous report, `(m, 1, 1, tracks)`.
        scale: the mode's own standard deviations, `(m, 1, 1, 1)`.
    """

    prediction: Tensor
    residual: Tensor
    cov: Tensor
    step: Tensor
    scale: Tensor

    def log_normal(
        self, residual: Tensor, cov: Tensor, far: float = _FARTHER
    ) -> Tensor:
        """Compute a Gaussian log-density whose tail ends.

        Args:
            residual: distance from the mean, `(m, *lanes)`.
            cov: covariance, `(m, m, *lanes)` or shapes that broadcast.
            far: squared distance at which it ends.

        Returns:
            The log-density, `(*lanes)`.
        """
        return log_normal(*factor(residual, cov), far)


class SensorMode(Made):
    r"""A way in which a sensor fails, for some reports in a row.

    A mode is a density of the report and what the state may learn from it:

    - `learns = "nothing"`: write :meth:`log_density`, for any fault you can describe.
    - `learns = "motion"`: the report is nominal but for a bias, drawn once when the
      fault begins, with standard deviation `scale`. It says nothing about the place of
      the target and all about its motion.
    - `learns = "all"`: the report is nominal but for noise with standard deviation
      `scale` that is added to it.

    Args:
        scale: standard deviation of the fault, one number or one for each number of a
            report; where left out, `default_scale` times that of the noise.
        share: how often this fault is the one that begins, relative to the others.
        stay: chance that the fault holds on at the next report.

    Example:
        >>> class Zero(SensorMode):
        ...     "A sensor that reports zero when it fails."
        ...
        ...     def log_density(self, report):
        ...         found = report.prediction + report.residual
        ...         cov = widened(0 * report.cov, report.scale)
        ...         return report.log_normal(found, cov)
        >>> Zero(scale=0.01).learns
        'nothing'
    """

    learns: ClassVar[Learns] = "nothing"
    default_scale: ClassVar[float] = 1.0
    proper: bool = True

    def __init__(
        self, scale: Scale = None, *, share: float = 0.2, stay: float = 0.8
    ) -> None:
        _check_scale("scale", scale)
        check_number("share", share, strict=True)
        check(0.0 <= stay <= 1.0, "stay", stay, "a chance in [0, 1]")
        self.scale = scale
        self.share = float(share)
        self.stay = float(stay)

    def scales(self, noise_sd: Tensor) -> Tensor:
        """Give the standard deviation of the fault in each number of a report.

        Args:
            noise_sd: that of a nominal report, `(m,)`.

        Returns:
            The standard deviations, `(m,)`.
        """
        return _scales("scale", self.scale, self.default_scale, noise_sd)

    def log_density(self, report: Report) -> Tensor:
        """Say how probable a report is while this fault holds.

        Args:
            report: what is known of it.

        Returns:
            Logarithm of the density, `(*lanes)`, or a shape that broadcasts to it.
        """
        raise NotImplementedError


class Random(SensorMode):
    r"""A report that could be anything: clutter, a spike, another target.

    .. math:: p(y) = N(y; Hx, S + S_b), \qquad S_b = \mathrm{diag}(\text{scale}^2)

    or half of it and half the density of clutter where that is known. The state learns
    nothing: a report far from the prediction is severed.

    Args:
        scale: see :class:`SensorMode`.
        clutter: density of reports that have nothing to do with the target, one over
            the volume of the field of view.
        rel: the density lies this many nats under the peak of a nominal one, everywhere
            alike. The tracker comes back from any distance, but no density integrates
            to infinity: there is no evidence.
        share: see :class:`SensorMode`.
        stay: see :class:`SensorMode`.

    Example:
        >>> Random(clutter=1e-4).proper, Random(rel=7.0).proper
        (True, False)
    """

    default_scale: ClassVar[float] = 25.0

    def __init__(
        self,
        scale: Scale = None,
        *,
        clutter: float | None = None,
        rel: float | None = None,
        share: float = 0.6,
        stay: float = 0.9,
    ) -> None:
        super().__init__(scale, share=share, stay=stay)
        check_number("clutter", clutter, strict=True)
        check_number("rel", rel)
        check(
            clutter is None or rel is None,
            "rel",
            rel,
            "left out where clutter is given",
        )
        self.clutter = clutter
        self.rel = rel
        self.proper = rel is None

    def log_density(self, report: Report) -> Tensor:
        """Spread the nominal density out; see :meth:`SensorMode.log_density`."""
        if self.rel is not None:
            here = torch.zeros_like(report.residual)
            return report.log_normal(here, report.cov) - self.rel
        cov = widened(report.cov, report.scale)
        near = report.log_normal(report.residual, cov, FAR)
        if self.clutter is None:
            return near
        clutter = torch.full_like(near, math.log(self.clutter))
        return torch.logaddexp(near, clutter) - math.log(2.0)


class Biased(SensorMode):
    r"""Reports that are all shifted alike, by a bias that is drawn once and then walks.

    .. math:: y = Hx + b + v, \qquad b \sim N(0, S_b) \text{ once},
        \quad b' = b + N(0, \text{walk}^2)

    The position is severed; **the velocity is still learned**, for the difference of
    two shifted reports is as good as that of two true ones.

    Args:
        scale: see :class:`SensorMode`.
        walk: standard deviation of what the bias changes from one report to the next;
            a tenth of the noise's where left out.
        share: see :class:`SensorMode`.
        stay: see :class:`SensorMode`.

    Example:
        >>> Biased(5.0, walk=0.1).learns
        'motion'
    """

    learns: ClassVar[Learns] = "motion"
    default_scale: ClassVar[float] = 25.0
    default_walk: ClassVar[float] = 0.1

    def __init__(
        self,
        scale: Scale = None,
        *,
        walk: Scale = None,
        share: float = 0.2,
        stay: float = 0.8,
    ) -> None:
        super().__init__(scale, share=share, stay=stay)
        _check_scale("walk", walk)
        self.walk = walk

    def walks(self, noise_sd: Tensor) -> Tensor:
        """Give the standard deviation of each step of the bias.

        Args:
            noise_sd: that of a nominal report, `(m,)`.

        Returns:
            The standard deviations, `(m,)`.
        """
        return _scales("walk", self.walk, self.default_walk, noise_sd)


class Stuck(SensorMode):
    r"""A sensor that gives its previous report again.

    .. math:: p(y) = N(y; y_{\text{before}}, \mathrm{diag}(\text{scale}^2))

    Args:
        scale: see :class:`SensorMode`; small for a sensor that repeats itself exactly.
        share: see :class:`SensorMode`.
        stay: see :class:`SensorMode`.

    Example:
        >>> Stuck(1e-3).stay
        0.85
    """

    default_scale: ClassVar[float] = math.sqrt(1.5)

    def __init__(
        self, scale: Scale = None, *, share: float = 0.2, stay: float = 0.85
    ) -> None:
        super().__init__(scale, share=share, stay=stay)

    def log_density(self, report: Report) -> Tensor:
        """Compare with the previous report; see :meth:`SensorMode.log_density`."""
        nothing = torch.zeros_like(report.step[:, None])
        cov = torch.cat([nothing] * report.step.shape[0], 1)
        return report.log_normal(report.step, widened(cov, report.scale))


class Decoy(Stuck):
    r"""A false target that hovers: it moves less in a step than the true one could.

    .. math:: p(y) = N(y; y_{\text{before}}, \mathrm{diag}(\text{scale}^2))

    Args:
        scale: standard deviation of the decoy's steps, below the length of a step of
            the target.
        share: see :class:`SensorMode`.
        stay: see :class:`SensorMode`.

    Example:
        >>> Decoy(50.0).learns
        'nothing'
    """

    default_scale: ClassVar[float] = 2.0

    def __init__(
        self, scale: Scale = None, *, share: float = 0.2, stay: float = 0.95
    ) -> None:
        super().__init__(scale, share=share, stay=stay)


def _check_scale(name: str, scale: Scale) -> None:
    if isinstance(scale, Sequence):
        for value in scale:
            check_number(name, value, strict=True)
    else:
        check_number(name, scale, strict=True)


def _scales(name: str, scale: Scale, default: float, noise_sd: Tensor) -> Tensor:
    if scale is None:
        return default * noise_sd
    own = torch.as_tensor(scale).to(noise_sd)
    size = len(noise_sd)
    check(own.numel() in (1, size), name, scale, f"one number or {size}")
    return own.expand_as(noise_sd)


def widened(cov: Tensor, scale: Tensor) -> Tensor:
    """Add independent noise to a covariance.

    Args:
        cov: covariance, `(m, m, *lanes)`.
        scale: standard deviations of the noise, `(m, ...)`.

    Returns:
        The sum, `(m, m, *lanes)`.
    """
    size = cov.shape[0]
    eye = torch.eye(size, dtype=cov.dtype, device=cov.device).reshape(
        size, size, *[1] * (cov.ndim - 2)
    )
    return cov + eye * (scale * scale)
