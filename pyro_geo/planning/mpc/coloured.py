r"""Coloured noise: random sequences whose power falls with frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.checks import check_count, check_number

__all__ = ["coloured", "truncated"]


def _amplitudes(length: int, beta: float) -> Tensor:
    """Amplitude of each frequency, so that a value has variance one, `(F,)`."""
    frequency = torch.fft.rfftfreq(length, dtype=torch.float64)
    # a constant has no finite power under the law; it gets that of the lowest frequency
    frequency[0] = frequency[1] if length > 1 else 1.0
    amplitude = frequency ** (-beta / 2)
    # all but the constant and the highest frequency of an even length count twice
    times = torch.full_like(frequency, 2.0)
    times[0] = 1.0
    if length % 2 == 0:
        times[-1] = 1.0
    return amplitude / (times * amplitude**2).sum().sqrt()


def coloured(white: Tensor, beta: float) -> Tensor:
    r"""Colour white noise along its last axis.

    The result is normal and stationary around a circle, its spectrum is
    :math:`S(f) \propto f^{-\beta}`, and every value has mean zero and variance one. An
    exponent of 0 leaves the noise as it is in law, 1 is pink noise and 2 that of a
    random walk; the larger it is, the longer an action keeps its sign. Independent
    noise at each step cancels itself over a horizon, coloured noise goes somewhere.

    The frequency zero gets the power of the lowest one, as in the method of Timmer and
    Koenig; the variance is exactly one here, for every length and exponent (derived).

    Args:
        white: independent standard normal numbers, `(..., T)`.
        beta: the exponent, at least 0.

    Returns:
        Coloured noise, `(..., T)`, a linear function of `white`.

    References:
        Timmer and Koenig (1995), On generating power law noise, Astronomy and
        Astrophysics; Pinneri et al. (2020), Sample-efficient cross-entropy method for
        real-time planning, arXiv 2008.06389.

    Example:
        >>> white = torch.randn(2, 8)
        >>> torch.allclose(coloured(white, 0.0), white, atol=1e-5)
        True
    """
    check_number("beta", beta)
    length = white.shape[-1]
    check_count("length of the noise", length)
    amplitude = _amplitudes(length, beta).to(white)
    # an orthonormal transform keeps white noise white; each frequency is then scaled
    spectrum = torch.fft.rfft(white, norm="ortho") * amplitude * length**0.5
    return torch.fft.irfft(spectrum, length, norm="ortho")


def truncated(z: Tensor, limit: float) -> Tensor:
    r"""Map standard normal numbers to ones that are cut at a limit.

    .. math:: z' = F^{-1}(\Phi(z)), \qquad F \text{ the law of } z
        \text{ given } |z| \le a

    Each number gets the law of a truncated normal number, and what connects it with
    others in time is kept (derived).

    Args:
        z: standard normal numbers, coloured or not.
        limit: where they are cut, :math:`a`.

    Returns:
        Numbers within the limit, of the same shape.

    Example:
        >>> truncated(torch.tensor([0.0, 6.0]), 2.0)
        tensor([0.0000, 2.0000])
    """
    check_number("limit", limit, strict=True)
    root = math.sqrt(2.0)
    inside = math.erf(limit / root) * (z / root).erf()
    return (root * inside.erfinv()).clamp(-limit, limit)
