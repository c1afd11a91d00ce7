"""R-hat of many short chains."""

import numpy as np

from pyro_geo.checks import check, check_shape

__all__ = ["nested_r_hat"]


def nested_r_hat(
    draws: np.ndarray, num_superchains: int, *, ranked: bool = False
) -> np.ndarray:
    r"""Compare groups of chains that started at the same point.

    Ordinary R-hat compares single chains, so each must be long enough to have a mean
    worth comparing. Here the means of whole superchains are compared, and a run of
    many chains may be as short as one draw per chain:

    .. math::
        \hat R = \sqrt{1 + B / W}, \quad B = \mathrm{var}_k(\bar z_k), \quad
        W = \mathrm{mean}_k \bigl(\mathrm{var}_m(\bar z_{km})
        + \mathrm{mean}_m \mathrm{var}_n(z_{kmn})\bigr)

    over superchains `k`, their chains `m` and draws `n`; a variance over one chain or
    one draw counts as zero. Chains that have forgotten their start give about
    `1 + 1 / (2 S)`, `S` being the effective size of a superchain, so 1.01 needs
    an effective size of some fifty. It shows where superchains differ, not where the
    chains of each one do: a chain that is stuck alone shows in ordinary R-hat.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where the chains do not
    divide into so many superchains.

    Raises :class:`~pyro_geo.errors.ShapeError` where `draws` has fewer than two
    axes.

    Args:
        draws: `(chains, draws, *shape)`, the chains of a superchain side by side.
        num_superchains: number of superchains, at least 2, all of one size.
        ranked: replace draws by the normal scores of their ranks, for scalars without
            a variance too, and report the larger of theirs and of that of the
            distances from the median, as ArviZ's R-hat does.

    Returns:
        Nested R-hat of each component, `shape`; NaN for constants, for one draw in
        all of each superchain, and where a draw is not finite.

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman (2024), Nested
        R-hat: assessing the convergence of MCMC when running many short chains,
        arXiv:2110.13017. Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021),
        Rank-normalization, folding, and localization, arXiv:1903.08008, for ranks.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(512, 1, 2))
        >>> draws[:64, :, 1] += 2.0  # one of eight superchains is elsewhere
        >>> (nested_r_hat(draws, 8) > 1.05).tolist()
        [False, True]
    """
    draws = np.asarray(draws, dtype=float)
    check_shape("draws", draws.shape, "(chains, draws, *shape)", draws.ndim >= 2)
    good = num_superchains >= 2 and len(draws) % num_superchains == 0
    shown = f"{num_superchains} for {len(draws)} chains"
    check(
        good,
        "num_superchains",
        shown,
        "at least 2, and a divisor of the number of chains",
    )
    usable = np.isfinite(draws).all(axis=(0, 1))
    draws = np.where(usable, draws, 0.0)
    if not ranked:
        return np.where(usable, _nested(draws, num_superchains), np.nan)
    # folded draws show differences of spread, as ArviZ's rank R-hat does
    folded = np.abs(draws - np.median(draws, axis=(0, 1)))
    bulk_and_tails = [
        _nested(_normal_scores(x), num_superchains) for x in (draws, folded)
    ]
    return np.where(usable, np.fmax(*bulk_and_tails), np.nan)


def _nested(draws: np.ndarray, num_superchains: int) -> np.ndarray:
    grouped = draws.reshape(num_superchains, -1, *draws.shape[1:])
    if grouped.shape[1] * grouped.shape[2] == 1:  # no spread within a superchain
        return np.full(draws.shape[2:], np.nan)
    chain_means = grouped.mean(axis=2)
    between = _variance(chain_means.mean(axis=1), 0)
    within = _variance(chain_means, 1) + _variance(grouped, 2).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(1 + between / within.mean(axis=0))


def _variance(values: np.ndarray, axis: int) -> np.ndarray:
    """Variance along an axis, zero along one of length 1."""
    return values.var(axis=axis, ddof=min(1, values.shape[axis] - 1))


def _normal_scores(draws: np.ndarray) -> np.ndarray:
    """Replace draws by the normal quantiles of their ranks, ties by their mean."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1)
    ranks = rankdata(flat, axis=0)
    return ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(draws.shape)
