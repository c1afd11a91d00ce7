"""What a chain of Gaussian states is given by, and what is observed of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

__all__ = ["HGFInputs", "HGFParameters", "Kind", "Predictive", "Update"]

Kind = Literal["continuous", "binary", "categorical"]
Predictive = Literal["input", "state"]
Update = Literal["unbounded", "classic", "ehgf", "ehgf_pyhgf", "moment", "collapsed"]


class HGFParameters(NamedTuple):
    r"""Parameters of a chain of levels 1..L, level 1 (index 0) nearest to the input.

    .. math::
        x_j \sim \mathrm N(\lambda_j x_j' + t (\rho_j + \psi_j x_{j+1}),
        \; t \exp(\kappa_j x_{j+1} + \omega_j))

    All have the same batch shape.

    Attributes:
        omega: tonic log-volatility, `(*batch, L)`.
        kappa: volatility coupling to the level above, `(*batch, L - 1)`.
        mu0: mean before the first input, `(*batch, L)`.
        pi0: precision before the first input, `(*batch, L)`.
        drift: :math:`\rho`, `(*batch, L)`.
        autoconnection: :math:`\lambda`, `(*batch, L)`.
        value_coupling: :math:`\psi`, `(*batch, L - 1)`.
        input_precision: of a continuous input, `(*batch,)`; unused by binary ones.
    """

    omega: Tensor
    kappa: Tensor
    mu0: Tensor
    pi0: Tensor
    drift: Tensor
    autoconnection: Tensor
    value_coupling: Tensor
    input_precision: Tensor


class HGFInputs(NamedTuple):
    """What is observed.

    Attributes:
        u: inputs, 0 where none is observed, `(*batch, T)`.
        observed: whether there is an input, bool `(*batch, T)`.
        time_step: time since the step before, `(*batch, T)`.
    """

    u: Tensor
    observed: Tensor
    time_step: Tensor
