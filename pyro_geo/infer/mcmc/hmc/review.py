"""Warnings about the draws of HMC."""

from __future__ import annotations

from torch import Tensor

from pyro_geo.errors import ConvergenceWarning, DivergenceWarning, PyroGeoWarning

__all__ = ["review_draws"]

_STUCK_RATE = 0.1  # mean acceptance below which a chain that stands still is stuck


def review_draws(stats: dict[str, Tensor]) -> list[PyroGeoWarning]:
    """Count divergent transitions and chains that never moved.

    Args:
        stats: name to `(chains, draws)`.

    Returns:
        One warning for each kind of trouble.

    Example:
        >>> import torch
        >>> stats = {"diverging": torch.tensor([[True, False]])}
        >>> stats |= {"lp": torch.zeros(1, 2), "acceptance_rate": torch.ones(1, 2)}
        >>> [type(warning).__name__ for warning in review_draws(stats)]
        ['DivergenceWarning']
    """
    warnings: list[PyroGeoWarning] = []
    diverging = stats["diverging"]
    if bool(diverging.any()):
        chains = int(diverging.any(1).sum())
        warnings.append(
            DivergenceWarning(
                "transitions diverged",
                where=f"HMC, {chains} of {len(diverging)} chains",
                found=f"{int(diverging.sum())} of {diverging.numel()} transitions",
                expected="none",
                todo="Raise target_accept_prob or reparametrise the model.",
            )
        )
    stuck = (stats["lp"] == stats["lp"][:, :1]).all(1)
    # a chain with a few draws may stand still by chance, but then accepts some
    stuck &= stats["acceptance_rate"].mean(1) < _STUCK_RATE
    if bool(stuck.any()) and stats["lp"].shape[1] > 1:
        first = ", ".join(map(str, stuck.nonzero().flatten()[:8].tolist()))
        warnings.append(
            ConvergenceWarning(
                "chains never moved",
                where=f"HMC, chains {first}",
                found=f"{int(stuck.sum())} of {len(stuck)} chains",
                expected="accepted transitions in every chain",
                todo="Warm up longer or reparametrise; do not use the draws.",
            )
        )
    return warnings
