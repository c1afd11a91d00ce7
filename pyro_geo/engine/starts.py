"""Starts of chains that a user gives, checked and laid out flat."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError, InitializationError

__all__ = ["start_positions"]


def start_positions(
    target: Target, initial_params: Mapping[str, Tensor] | None, num_chains: int
) -> Tensor | None:
    """Lay the starts of all chains out flat.

    Args:
        target: the density.
        initial_params: unconstrained values, site to `(chains, *shape)`.
        num_chains: of the run.

    Returns:
        Positions, `(chains, dim)`; None where there are no values.

    Raises:
        ConfigurationError: their number is not that of the chains.
        InitializationError: the density of one is not finite.

    Example:
        >>> import torch
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> start_positions(target, {"q": torch.ones(3, 2)}, 3).shape
        torch.Size([3, 2])
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
