"""`DIMS` in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from pyro_geo.density import Target
from pyro_geo.infer.mcmc.dims.kernel import DIMS
from pyro_geo.infer.mcmc.runner import MCMC

__all__ = ["sample_minima"]


def sample_minima(
    model: Callable[..., Any] | Target,
    *args: Any,
    num_samples: int = 100,
    num_chains: int = 1,
    seed: int | None = None,
    compile: Literal["auto"] | bool = "auto",
    dtype: torch.dtype | None = None,
    progress_bar: bool = True,
    **options: Any,
) -> MCMC:
    """Sample minima of a model's loss in one call.

    The same as `MCMC(DIMS(model, **options), ...).run(*args)`.

    Args:
        model: a Pyro model or a target.
        *args: the model's arguments.
        num_samples: draws per anchor.
        num_chains: anchors.
        seed: see :class:`~pyro_geo.infer.MCMC`.
        compile: see :class:`~pyro_geo.infer.MCMC`.
        dtype: floating type; torch's default if None.
        progress_bar: whether to show one.
        **options: of :class:`DIMS`.

    Returns:
        The finished run.

    Example:
        >>> target = Target.from_potential(lambda q: (q[0] * q[1] - 1) ** 2, 2)
        >>> start = torch.tensor([[1.0, 1.0]])
        >>> fit = sample_minima(
        ...     target, num_samples=4, seed=1, anchors=start, velocity="isotropic"
        ... )
        >>> q = fit.positions[0]
        >>> bool((q.prod(-1) - 1).abs().max() < 0.1)
        True
    """
    fit = MCMC(
        DIMS(model, **options),
        num_samples=num_samples,
        num_chains=num_chains,
        seed=seed,
        compile=compile,
        dtype=dtype,
        progress_bar=progress_bar,
    )
    return fit.run(*args)
