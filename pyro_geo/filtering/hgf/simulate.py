"""Simulation of hidden states and inputs from the generative model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import fields_html, fields_line
from pyro_geo.checks import check, check_count
from pyro_geo.filtering.hgf._draws import draw_inputs, draw_states
from pyro_geo.filtering.hgf.checks import Numbers, hgf_parameters
from pyro_geo.filtering.hgf.parameters import HGFParameters

__all__ = ["HGFSimulation", "simulate", "simulate_hgf"]


class HGFSimulation(NamedTuple):
    """What a simulation has drawn.

    Attributes:
        states: hidden states, `(*sample_shape, *batch, T, L)`; of K chains,
            `(*sample_shape, *batch, K, T, L)`, with categorical input.
        inputs: numbers, 0 or 1, or class numbers, `(*sample_shape, *batch, T)`.
    """

    states: Tensor
    inputs: Tensor

    def __repr__(self) -> str:
        """Name the fields with their shapes."""
        return fields_line(self)

    def _repr_html_(self) -> str:
        """Show the shapes in a notebook."""
        return fields_html(self)


def simulate_hgf(
    omega: Numbers,
    kappa: Numbers | None,
    mu0: Numbers,
    pi0: Numbers,
    input_precision: Numbers | None = None,
    *,
    num_steps: int | None = None,
    time_step: Numbers | None = None,
    kind: Literal["continuous", "binary", "categorical"] = "continuous",
    drift: Numbers | None = None,
    autoconnection: Numbers | None = None,
    value_coupling: Numbers | None = None,
    num_classes: int | None = None,
    sample_shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> HGFSimulation:
    r"""Draw hidden states and inputs.

    .. math::
        x_j \sim \mathrm N(\lambda_j x_j' + t (\rho_j + \psi_j x_{j+1}),
        \; t \exp(\kappa_j x_{j+1} + \omega_j)) , \quad
        u \sim \mathrm N(x_1, 1/\pi_u)

    from :math:`x_j(0) \sim \mathrm N(\mu_{0j}, 1/\pi_{0j})`. A binary input is 1 with
    the probability sigmoid(:math:`x_1`); a categorical one is a class with a
    probability in proportion to that of the class's own chain. Log-variances of steps
    are cut off at 600 (60 in single precision), so that states stay finite where the
    highest levels wander off.

    Args:
        omega: tonic log-volatility, `(*batch, L)`.
        kappa: volatility coupling, `(*batch, L - 1)`; None with one level.
        mu0: mean of the state before the first step, `(*batch, L)`.
        pi0: its precision, `(*batch, L)`.
        input_precision: of continuous input, `(*batch,)`.
        num_steps: T; left out where `time_step` tells.
        time_step: time since the step before, `(*batch, T)`; default 1.
        kind: of input; with "categorical" the axis of parameters before the levels is
            that of the classes.
        drift: change of the state per time, `(*batch, L)`.
        autoconnection: share of the state that stays, `(*batch, L)`.
        value_coupling: of a level's drift to the level above, `(*batch, L - 1)`.
        num_classes: K, if the parameters do not tell.
        sample_shape: of independent draws.
        generator: of random numbers; torch's global one if None.

    Returns:
        States and inputs. Values out of range are a
        :class:`~pyro_geo.errors.HGFDomainError`.

    References:
        Mathys et al. (2014), Uncertainty in perception and the Hierarchical Gaussian
        Filter; The generalized Hierarchical Gaussian Filter, arXiv 2305.10937.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn = simulate_hgf(
        ...     [-3.0, -4.0],
        ...     [1.0],
        ...     [0.0, 0.0],
        ...     [1.0, 1.0],
        ...     num_steps=300,
        ...     kind="binary",
        ...     sample_shape=(20,),
        ...     generator=generator,
        ... )
        >>> drawn.states.shape, drawn.inputs.shape
        (torch.Size([20, 300, 2]), torch.Size([20, 300]))
    """
    parameters = hgf_parameters(
        omega,
        kappa,
        mu0,
        pi0,
        input_precision,
        kind=kind,
        drift=drift,
        autoconnection=autoconnection,
        value_coupling=value_coupling,
        num_classes=num_classes,
    )
    like = parameters.omega
    if time_step is None:
        check(num_steps is not None, "num_steps", None, "a number, or time_step")
        check_count("num_steps", num_steps)
        time_step = like.new_ones(num_steps or 1)
    time = torch.as_tensor(time_step, dtype=like.dtype, device=like.device)
    good = num_steps in (None, time.shape[-1])
    check(good, "num_steps", num_steps, f"the {time.shape[-1]} steps of time_step")
    return simulate(parameters, time, kind, sample_shape, generator)


def simulate(
    parameters: HGFParameters,
    time_step: Tensor,
    kind: Literal["continuous", "binary", "categorical"],
    sample_shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> HGFSimulation:
    """Draw from checked parameters: the pure layer of :func:`simulate_hgf`.

    Args:
        parameters: of the levels.
        time_step: `(*batch, T)`, without an axis of classes.
        kind: of input.
        sample_shape: of independent draws.
        generator: of random numbers; torch's global one if None.

    Returns:
        States and inputs.
    """
    if kind == "categorical":
        time_step = time_step.unsqueeze(-2)
    states = draw_states(parameters, time_step, sample_shape, generator)
    precision = parameters.input_precision
    return HGFSimulation(states, draw_inputs(states, precision, kind, generator))
