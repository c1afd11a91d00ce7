"""Log-probabilities of the single steps of a sequence, through what is around it.

A distribution of a sequence says what its steps count with a method
`log_prob_steps(value)`, of shape `(*batch_shape, steps)`, whose sum over the steps is
`log_prob(value)`. The steps are the first axis of its event, and `step_dim`, if it has
one, is the name of that axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_geo._compat.pyro import mask_of
from pyro_geo.density.sites import explained, log_prob_of

__all__ = ["StepAxis", "datum_log_prob", "step_axes", "step_axis"]

_AROUND = (
    torch.distributions.Independent,
    dist.MaskedDistribution,
    ExpandedDistribution,
)


class StepAxis(NamedTuple):
    """The axis of steps in the values of a site.

    Attributes:
        axis: counted from the right.
        name: that the distribution gives it; None where it gives none.
    """

    axis: int
    name: str | None


def step_axis(fn: Any) -> StepAxis | None:
    """Find the axis of steps of a distribution.

    Args:
        fn: a distribution, perhaps masked, expanded or with events of several axes.

    Returns:
        The axis; None for what is no sequence.
    """
    while isinstance(fn, _AROUND):
        fn = fn.base_dist
    if not hasattr(fn, "log_prob_steps"):
        return None
    return StepAxis(-len(fn.event_shape), getattr(fn, "step_dim", None))


def datum_log_prob(name: str, site: Mapping[str, Any], steps: bool) -> Tensor:
    """Log-probability of each datum of a site, masked and not scaled.

    Args:
        name: of the site.
        site: its message in a trace.
        steps: whether the steps of a sequence are data of their own.

    Returns:
        `(*batch,)`, or `(*batch, *joined, steps)` of a sequence, where `to_event` has
        joined further axes of the batch to the event.
    """
    if steps and step_axis(site["fn"]) is not None:
        with explained(name):
            each, inside = _steps(site["fn"], site["value"])
        return scale_and_mask(each, 1.0, _aligned(site["mask"], inside))
    return scale_and_mask(log_prob_of(name, site), 1.0, site["mask"])


def step_axes(
    sites: Mapping[str, Any], plates: Mapping[str, int]
) -> dict[str, StepAxis]:
    """Name the axes of steps of all sites.

    Args:
        sites: messages of a trace by name.
        plates: name to size.

    Returns:
        Site to axis, of sequences with a name for it. Where two lengths have the same
        name, among them that of a plate, the name of the site stands before it.
    """
    lengths: dict[str, set[int]] = {name: {size} for name, size in plates.items()}
    named: dict[str, tuple[int, str, bool]] = {}
    for name, site in sites.items():
        found = step_axis(site["fn"])
        if found is None or found.name is None:
            continue
        lengths.setdefault(found.name, set()).add(site["value"].shape[found.axis])
        taken = any(frame.name == found.name for frame in site["cond_indep_stack"])
        named[name] = found.axis, found.name, taken
    return {
        name: StepAxis(
            axis, f"{name}_{step}" if taken or len(lengths[step]) > 1 else step
        )
        for name, (axis, step, taken) in named.items()
    }


def _steps(fn: Any, value: Tensor) -> tuple[Tensor, int]:
    """Log-probability of the steps, and how many of its axes are in the event."""
    if isinstance(fn, torch.distributions.Independent):
        steps, inside = _steps(fn.base_dist, value)
        return steps, inside + fn.reinterpreted_batch_ndims
    if isinstance(fn, dist.MaskedDistribution):
        steps, inside = _steps(fn.base_dist, value)
        return scale_and_mask(steps, 1.0, _aligned(mask_of(fn), inside)), inside
    if isinstance(fn, ExpandedDistribution):
        steps, inside = _steps(fn.base_dist, value)
        batch = steps.shape[: steps.dim() - inside]
        batch = torch.broadcast_shapes(batch, fn.batch_shape)
        return steps.expand(batch + steps.shape[steps.dim() - inside :]), inside
    return fn.log_prob_steps(value), 1


def _aligned(mask: bool | Tensor | None, inside: int) -> bool | Tensor | None:
    """Let a mask of the batch count for all axes in the event."""
    if not isinstance(mask, Tensor):
        return mask
    return mask.reshape(mask.shape + (1,) * inside)
