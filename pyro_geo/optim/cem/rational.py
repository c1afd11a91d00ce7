r"""The rational functions that turn uniform numbers into truncated normal ones.

With :math:`v = 1 - u^2 = (1 - u)(1 + u)`, up to where the result is a little above 2,

.. math:: \sqrt 2 \operatorname{erf}^{-1}(u) = u \, P(v) / Q(v).

All coefficients, of lowest order first, are positive, so that nothing cancels. They are
those of the nearly best relative fit, by reweighted least squares in Chebyshev
polynomials. Its error is 7e-8 in single and 3e-12 in double precision: of draws, not of
what is computed from them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["DOUBLE", "SINGLE", "Fit"]


class Fit(NamedTuple):
    """A rational function for one floating type."""

    dtype: torch.dtype
    numerator: tuple[float, ...]
    denominator: tuple[float, ...]


SINGLE = Fit(
    torch.float32,
    (
        3.1105442374406307,
        131.5298656507064,
        755.4902721887896,
        740.1378741897945,
        67.8103017682183,
    ),
    (
        1.0,
        57.400249817717445,
        451.5682366963527,
        686.8613359051516,
        158.040989476551,
    ),
)
DOUBLE = Fit(
    torch.float64,
    (
        3.3769976438629308,
        449.326182120739,
        11289.69889017947,
        84427.22520377736,
        213880.288514084,
        179247.06839267458,
        40508.08806481502,
        1146.4493957277862,
    ),
    (
        1.0,
        167.1931464013659,
        5072.558544149645,
        46090.808516325495,
        146414.18295067945,
        164315.54685223213,
        57457.07612727338,
        4119.6555150938975,
    ),
)
