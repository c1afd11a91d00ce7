"""The return form: discounted returns with independent noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.gp._transitions import Transitions

__all__ = ["Regression", "regression", "return_form", "reverse_scan"]

_NOTHING = 1e-30  # a discount this small changes no digit of anything


class Regression(NamedTuple):
    r"""Rows with targets, and noise :math:`\sigma^2 (I + \sum_e g_e g_e')`.

    Attributes:
        rows: inputs of :class:`~pyro_geo.gp.TDKernel`, `(*batch, T, width)`.
        target: what was observed of them, `(*batch, T)`.
        coupling: entries of the vectors `g`, `(*batch, T)`; each row belongs to one.
        group: which one, `(*batch, T)`.
        groups: how many there are; 0 for independent noise.
    """

    rows: Tensor
    target: Tensor
    coupling: Tensor
    group: Tensor
    groups: int


def regression(transitions: Transitions, noise: str) -> Regression:
    """Turn transitions into a regression whose noise is nearly independent.

    Args:
        transitions: steps.
        noise: `"reward"` for the steps themselves, `"return"` for their returns.

    Returns:
        The regression; its posterior and evidence are those of the steps.
    """
    if noise == "return":
        return return_form(transitions)
    zero = torch.zeros_like(transitions.reward)
    rows = transitions.pack()
    return Regression(rows, transitions.reward, zero, zero.long(), 0)


def return_form(transitions: Transitions) -> Regression:
    r"""Turn steps with noise of returns into returns with independent noise.

    Row `t` becomes the value of its node, less the discounted value of the last node of
    its episode, and is observed as the discounted return up to there:

    .. math:: R_t = \sum_{s \ge t} \Bigl(\prod_{t \le u < s} \gamma_u\Bigr) r_s
              = f(x_t) - \Gamma_t f(x_{end}) + \eta_t, \qquad
              \Gamma_t = \prod_{s \ge t} \gamma_s, \quad
              \eta \sim N(0, \sigma^2 (I + \Gamma \Gamma'))

    An episode that terminates has :math:`\Gamma = 0`: plain regression of returns. One
    that is truncated shares the noise of its last visit among its rows. The map has
    determinant one, so that the evidence is the same.

    Args:
        transitions: steps of paths.

    Returns:
        The regression.

    References:
        Engel, Mannor & Meir (2005), Reinforcement learning with Gaussian processes,
        for episodes that terminate; truncated ones are derived.
    """
    transitions.check_chain()
    discount, linked = transitions.discount, transitions.linked
    inside, outside = discount * linked, discount * ~linked
    target = reverse_scan(transitions.reward, inside)
    coupling = reverse_scan(outside, inside)
    coupling = torch.where(coupling < _NOTHING, 0, coupling)
    steps = torch.arange(len(transitions))
    last = torch.where(linked, len(transitions), steps)
    last = (
        last.flip(-1).cummin(-1).values.flip(-1)
    )  # the last row of each row's episode
    x_next = transitions.x_next.reshape(transitions.x.shape)
    ends = x_next.gather(-2, last.unsqueeze(-1).expand(x_next.shape))
    rows = torch.cat([transitions.x, ends, coupling.unsqueeze(-1)], -1)
    used, group = last[coupling > 0].unique(), torch.zeros_like(last)
    if len(used):
        group = torch.searchsorted(used, last).clamp(max=len(used) - 1)
    return Regression(rows, target, coupling, group, len(used))


def reverse_scan(value: Tensor, factor: Tensor) -> Tensor:
    r"""Solve :math:`y_t = v_t + g_t\, y_{t+1}` from the end, in few steps of many rows.

    Args:
        value: `v`, `(*batch, T)`.
        factor: `g`, `(*batch, T)`; the last has no effect.

    Returns:
        `y`, `(*batch, T)`.
    """
    steps, span = value.shape[-1], 1
    # after each round, row t knows what the next `span` rows give it
    while span < steps:
        ahead = torch.nn.functional.pad(value[..., span:], (0, span))
        value = value + factor * ahead
        factor = factor * torch.nn.functional.pad(factor[..., span:], (0, span))
        span *= 2
    return value
