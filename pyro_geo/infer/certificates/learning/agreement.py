"""Whether chains agree on a mean, before it is called an estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

__all__ = ["Agreement", "compare_chains"]

_RHAT = 1.1  # of a mean alone; what is smaller is left to the comparison of errors
_ALARM = 1e-4  # share of runs that agree and are told to differ by the second test
_FREEDOM = 16  # of one chain's Monte Carlo error, which is an estimate itself
_PARTS = 4  # of a single chain


class Agreement(NamedTuple):
    """What a comparison of chains has found.

    Attributes:
        r_hat: rank-normalised split R-hat; of four parts of a single chain.
        ess: effective number of draws, bulk, all chains together.
        reasons: why the mean is not to be trusted; empty where nothing speaks
            against it.
    """

    r_hat: float
    ess: float
    reasons: tuple[str, ...]


def compare_chains(series: Tensor) -> Agreement:
    """Compare the chains of one quantity: R-hat, and their means by their errors.

    R-hat is small where chains have one shape and differ a little in their means,
    however many draws there are. The second test compares the variance of the chains'
    means with the squared Monte Carlo error that each chain claims for its own.

    Args:
        series: the quantity, `(chains, draws)`.

    Returns:
        R-hat, effective size and what speaks against the mean.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization,
        folding, and localization: an improved R-hat, arXiv:1903.08008.

    Example:
        >>> import torch
        >>> draws = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
        >>> compare_chains(draws).reasons
        ()
        >>> draws[0] += 2
        >>> compare_chains(draws).reasons[0][:17]
        'chains disagree: '
    """
    from pyro_geo._compat.arviz import quiet

    values = series.detach().double().cpu().numpy()
    bad = int((~np.isfinite(values)).sum())
    if bad:
        text = f"{bad} of {values.size} losses are not finite"
        return Agreement(math.nan, math.nan, (text,))
    if (values == values[0, 0]).all():  # nothing that moves, and nothing that differs
        return Agreement(math.nan, float(values.size), ())
    still = [i for i, row in enumerate(values) if (row == row[0]).all()]
    reasons = [f"{_chains(still)} never moved"] if still else []
    with quiet():
        import arviz

        ess = float(np.asarray(arviz.ess(values)))
        parts = _parts(values)
        if parts is None:
            text = "too few draws to compare chains (4 each, or 16 of a single one)"
            return Agreement(math.nan, ess, (*reasons, text))
        r_hat = float(np.asarray(arviz.rhat(parts)))
        if not r_hat <= _RHAT:
            reasons.append(f"chains disagree: R-hat {r_hat:.3g}, above {_RHAT}")
        elif text := _spread(parts, [_ess(row) for row in parts]):
            reasons.append(text)
    return Agreement(r_hat, ess, tuple(reasons))


def _parts(values: np.ndarray) -> np.ndarray | None:
    """Return what is compared: the chains, or the parts of a single one."""
    chains, draws = values.shape
    if chains == 1:
        length = draws // _PARTS
        return (
            values[0, draws - _PARTS * length :].reshape(_PARTS, length)
            if (length >= 4)
            else None
        )
    return values if draws >= 4 else None


def _ess(row: np.ndarray) -> float:
    import arviz

    return float(np.asarray(arviz.ess(row[None], method="mean")))


def _spread(values: np.ndarray, sizes: Sequence[float]) -> str:
    """Compare the spread of the means with their errors; empty where it fits."""
    from scipy.stats import f

    chains = len(values)
    between = float(values.mean(1).var(ddof=1))
    error = float(np.mean(values.var(1, ddof=1) / np.asarray(sizes)))
    limit = float(f.isf(_ALARM, chains - 1, _FREEDOM * chains))
    if not between > limit * error:
        return ""
    ratio = math.sqrt(between / error)
    return (
        f"chains disagree: their means spread {ratio:.1f} times as far as their Monte "
        f"Carlo errors allow for, above {math.sqrt(limit):.1f}"
    )


def _chains(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
    return f"{'chain' if len(indices) == 1 else 'chains'} {shown}"
