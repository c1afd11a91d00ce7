"""Options of a run, checked before it starts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.kernel import BlockKernel
from pyro_geo.errors import ConfigurationError, InitializationError

__all__ = [
    "check_dtype",
    "check_kernel",
    "unconstrained_starts",
]


def check_kernel(kernel: object) -> None:
    """Refuse what is not a kernel of the block protocol.

    Args:
        kernel: the argument.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(kernel, BlockKernel):
        raise ConfigurationError(
            "not a batched kernel",
            where="argument kernel",
            found=type(kernel).__name__,
            expected="a kernel of pyro_geo.infer",
            todo="wrap the model, as in MCMC(DIMS(model), ...)",
        )


def check_dtype(target: Target, dtype: torch.dtype | None) -> None:
    """Refuse another type than that of a finished target.

    Args:
        target: the density.
        dtype: what was asked for.

    Raises:
        ConfigurationError: they differ.
    """
    if dtype not in (None, target.dtype):
        raise ConfigurationError(
            "a finished target keeps its dtype",
            where="argument dtype",
            found=f"{dtype}",
            expected=f"{target.dtype} or None",
            todo="make the target with the dtype wanted",
        )


def unconstrained_starts(
    target: Target, initial_params: Mapping[str, Tensor] | None, num_chains: int
) -> Tensor | None:
    """Lay given starts out flat.

    Args:
        target: the density.
        initial_params: unconstrained values, site to `(chains, *shape)`.
        num_chains: of the run.

    Returns:
        Positions, `(chains, dim)`; None where none are given.

    Raises:
        ConfigurationError: their number is not that of the chains.
        InitializationError: the density of one is not finite.
    """
    if initial_params is None:
        return None
    for name, value in initial_params.items():
        site = target.layout.sites.get(name)
        expected = (num_chains, *(site.shape if site else ()))
        if site is not None and tuple(value.shape) != expected:
            raise ConfigurationError(
                "starts do not match the chains",
                where=f"argument initial_params, site {name!r}",
                found=f"{tuple(value.shape)}",
                expected=f"{expected}",
                todo="pass unconstrained values with a leading axis of chains",
            )
    q = target.layout.flatten(initial_params).to(target.dtype).detach()
    log_prob = target.log_prob(q)
    bad = (~log_prob.isfinite()).nonzero().flatten()
    if len(bad):
        chain = int(bad[0])
        raise InitializationError(
            "a start has no finite density",
            where=f"argument initial_params, chain {chain}",
            found=f"log-density {float(log_prob[chain])}",
            expected="a finite number",
            todo="start inside the support of the model",
        )
    return q
