"""Start guides and Pyro's own kernels at a mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide.initialization import init_to_value

from pyro_geo.infer.modes.mode_set import ModeSet

__all__ = ["init_to_mode"]


def init_to_mode(modes: ModeSet, k: int = 0) -> Callable[..., Any]:
    """Make a start at one mode, for guides and kernels.

    Pass it as `init_loc_fn` of an autoguide, or as `init_strategy` of Pyro's NUTS and
    of :class:`~pyro_geo.infer.HMC`. Each of these starts in one mode and may see no
    other: compare guides started at several.

    Args:
        modes: from :func:`~pyro_geo.infer.find_modes`.
        k: which mode; the heaviest is 0.

    Returns:
        A function of a site. Sites that the modes do not know start uniform.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyro_geo.infer import find_modes
        >>> def model():
        ...     x = pyro.sample("x", dist.Normal(0.0, 3.0))
        ...     pyro.sample("y", dist.Normal(x.abs(), 0.5), obs=torch.tensor(2.0))
        >>> modes = find_modes(model)
        >>> guide = AutoNormal(model, init_loc_fn=init_to_mode(modes, 1))
        >>> _ = guide()
        >>> bool(guide.median()["x"].sign() == modes.values(1)["x"].sign())
        True
    """
    return init_to_value(values=modes.values(k))
