r"""The exact normal projection of a volatility parent's belief, by quadrature.

The belief :math:`p(x) \propto e^{I(x)}` is integrated with the nodes of Gauss and
Hermite at two or three normal components, weighted by importance to their mixture.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pyro_geo.filtering.hgf.expansions import (
    CAP,
    Coupling,
    Expansions,
    relative_energy,
)

__all__ = ["project"]

_NODES = 16


@lru_cache(maxsize=1)
def _rule() -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return nodes.tolist(), np.log(weights / weights.sum()).tolist()


def project(
    r: Tensor,
    e: Tensor,
    pi_hat: Tensor,
    coupling: Coupling,
    expansions: Expansions,
    *,
    prior: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Find mean and variance of the belief, and its normaliser.

    Args:
        r: logarithm of the predicted volatility over the child's variance.
        e: logarithm of the child's squared change over its variance.
        pi_hat: predicted precision of the parent.
        coupling: of the child to the parent.
        expansions: of the energy.
        prior: whether the prediction is a third component.

    Returns:
        Offset of the mean from the prediction, variance, and
        :math:`\log \int \sqrt{\alpha} \, e^{I(x)} dx`.
    """
    first, precision_1, second, precision_2, gain = expansions
    absent = coupling.absent
    second = torch.where(absent, first, second)
    precision_2 = torch.where(absent, precision_1, precision_2)
    share = 0.4 if prior else 0.5
    shares = [0.25 + share * torch.sigmoid(-gain), 0.25 + share * torch.sigmoid(gain)]
    centres, precisions = [first, second], [precision_1, precision_2]
    if prior:
        centres.append(torch.zeros_like(first))
        precisions.append(pi_hat)
        shares.append(torch.full_like(gain, 0.1))
    # components first, nodes second, then the batch
    batch = torch.broadcast_shapes(*(x.shape for x in (*centres, *precisions, e)))
    centre, precision, weight = (
        torch.stack([x.expand(batch) for x in parts])
        for parts in (centres, precisions, shares)
    )
    nodes, log_weights = (
        torch.tensor(x, dtype=gain.dtype, device=gain.device).reshape(
            -1, *(1,) * len(batch)
        )
        for x in _rule()
    )
    place = centre.unsqueeze(1) + nodes * torch.rsqrt(precision).unsqueeze(1)
    at = torch.addcmul(r, coupling.kappa, place)
    log_density = -0.5 * relative_energy(at, e, pi_hat, place)
    apart = place.unsqueeze(0) - centre[:, None, None]
    of_each = torch.log(weight) + 0.5 * torch.log(precision / (2 * math.pi))
    log_mixture = of_each[:, None, None] - 0.5 * precision[:, None, None] * apart**2
    log_share = log_density + torch.log(weight).unsqueeze(1) + log_weights
    log_share = (log_share - log_mixture.logsumexp(0)).flatten(0, 1)
    place = place.flatten(0, 1)
    shares_of_nodes = torch.softmax(log_share, 0)
    offset = (shares_of_nodes * place).sum(0)
    variance = (shares_of_nodes * (place - offset) ** 2).sum(0)
    # A belief far narrower than its components falls between their nodes. No belief
    # has less variance than the inverse of its largest curvature.
    bend = 1 + torch.exp(e.clamp(max=CAP))
    variance = torch.maximum(
        variance, torch.addcmul(pi_hat, coupling.half_square, bend).reciprocal()
    )
    return offset, variance, torch.logsumexp(log_share, 0)
