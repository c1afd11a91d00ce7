"""The triple gate: draws against a reference, component by component."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.arviz import import_arviz, quiet
from pyro_geo.checks import check, check_shape
from pyro_geo.errors import ReferenceMismatchError

__all__ = [
    "PosteriorCheck",
    "check_posterior",
    "compare_posterior",
    "component_names",
    "draws_needed",
]

LARGEST_R_HAT = 1.01
LEAST_EFFECTIVE = 400.0

_MANY_CHAINS = 30  # from here on the spread of chain means is the better error
_WINDOW = 12  # lags an effective size is summed over, per effective draw
_ROUNDING = 1e-6  # relative; for components that are constant by construction
_LEAST_DRAWS = 8


class PosteriorCheck(NamedTuple):
    """What the triple gate found, one row per scalar component.

    Attributes:
        names: of the components, such as `theta[3]`.
        scores: differences of the mean and of the second moment, in combined standard
            errors, `(components, 2)`; zero where the reference is constant.
        limits: largest scores allowed, `(components, 2)`.
        r_hat: rank-normalised split R-hat, `(components,)`; NaN where constant.
        r_hat_limit: largest R-hat allowed.
        effective: bulk effective sizes, `(components,)`; NaN where constant.
        failures: one sentence for each condition a component fails.
    """

    names: tuple[str, ...]
    scores: Tensor
    limits: Tensor
    r_hat: Tensor
    r_hat_limit: float
    effective: Tensor
    failures: tuple[str, ...]


def check_posterior(
    draws: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    *,
    false_alarm: float = 1e-3,
    least_effective: float = LEAST_EFFECTIVE,
) -> None:
    """Draws agree with a reference, their chains with each other, and they are enough.

    Three conditions together, for every scalar component of every site that both have;
    see :func:`compare_posterior` for what they are.

    Args:
        draws: site to `(chains, draws, *shape)`.
        reference: site to `(chains, draws, *shape)`; independent draws go in as
            `(n, 1, *shape)`.
        false_alarm: probability that a sound sampler fails, over all comparisons.
        least_effective: floor of the effective size of each component.

    Raises:
        AssertionError: with every component that fails, and by how much.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> draws = {"x": torch.randn(4, 500, generator=generator)}
        >>> exact = {"x": torch.randn(2000, 1, generator=generator)}
        >>> check_posterior(draws, exact)
        >>> check_posterior({"x": draws["x"] + 1}, exact)
        Traceback (most recent call last):
            ...
        AssertionError: 1 of 1 components fail
        x: mean 1.0..., reference -0.0...: ... standard errors apart, limit 3...
    """
    comparison = compare_posterior(
        draws, reference, false_alarm=false_alarm, least_effective=least_effective
    )
    if comparison.failures:
        # component names have no colon
        bad = {line.partition(":")[0] for line in comparison.failures}
        total = len(comparison.names)
        head = f"{len(bad)} of {total} components fail"
        raise AssertionError("\n".join([head, *comparison.failures]))


def compare_posterior(
    draws: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    *,
    false_alarm: float = 1e-3,
    least_effective: float = LEAST_EFFECTIVE,
) -> PosteriorCheck:
    r"""Hold draws against a reference by three conditions.

    1. *Monte Carlo error.* Means, and second moments about the reference's mean, differ
       by less than a Student limit times the combined standard error of both sides. A
       side of 30 chains or more has the standard error of its chain means, which needs
       no autocorrelation and costs nothing. Fewer chains have ArviZ's, from the
       effective size `S`; that estimate is itself uncertain, as a variance of `S / 12`
       degrees of freedom is. The two are put together by Welch's formula. Second
       moments of tails so heavy that they have no variance cannot be compared: see
       :func:`check_exact` for known targets.
    2. *R-hat*, rank-normalised and split, at most 1.01 and what independent draws
       exceed one by: with `n` draws per half chain they reach
       `sqrt(1 + (F - 1) / n)`, `F` a quantile of Fisher's distribution. Draws with an
       autocorrelation time above one have to be that many more, see
       :func:`draws_needed`; when they are not the gate rejects them.
    3. *Effective size* (bulk) at least `least_effective`, and every chain moves. A
       stuck chain inflates its own error bar and would pass the first condition.

    The rate of false alarms is divided over all comparisons: half of it for the moments
    and half for the two parts of R-hat. A component that is constant in the reference
    (the diagonal of a correlation matrix) must be the same constant in the draws. A
    single chain is cut in four.

    Args:
        draws: site to `(chains, draws, *shape)`.
        reference: site to `(chains, draws, *shape)`.
        false_alarm: probability that a sound sampler fails, over all comparisons.
        least_effective: floor of the effective size of each component.

    Returns:
        Scores, limits and failures of each component. Sites without a counterpart are
        left out; none in common raises
        :class:`~pyro_geo.errors.ReferenceMismatchError`.

    References:
        Vehtari et al. (2021), Rank-normalization, folding, and localization: an
        improved R-hat, 1903.08008.
    """
    names, ours, theirs = _components(draws, reference)
    # half of the rate for two moments, half for two parts of R-hat: four a component
    constant = _is_constant(theirs)
    count = int((~constant).sum())
    rate = false_alarm / max(4 * count, 1)
    limit = _r_hat_limit(ours.shape[0], ours.shape[1], rate)
    nan = torch.full((len(names),), math.nan, dtype=torch.float64)
    check = PosteriorCheck(
        names,
        torch.zeros(len(names), 2, dtype=torch.float64),
        torch.full((len(names), 2), math.inf, dtype=torch.float64),
        nan,
        limit,
        nan.clone(),
        (),
    )
    failures: list[str] = []
    for k, name in enumerate(names):
        x, y = ours[..., k], theirs[..., k]
        if not bool(x.isfinite().all()):
            failures.append(f"{name}: {int((~x.isfinite()).sum())} draws not finite")
        elif constant[k]:
            failures += _check_constant(name, x, y)
        else:
            failures += _check_moments(check, k, x, y, rate)
            failures += _check_chains(check, k, x, least_effective)
    return check._replace(failures=tuple(failures))


def draws_needed(
    num_chains: int,
    num_components: int,
    autocorrelation: float = 1.0,
    *,
    false_alarm: float = 1e-3,
    least_effective: float = LEAST_EFFECTIVE,
) -> int:
    r"""Count the draws per chain with which a sound sampler passes the gate.

    .. math:: n \ge 99 (\tau - 1) F, \qquad n \ge \tau S / m

    for R-hat and for the effective size `S`: `m` chains whose draws have the
    autocorrelation time `tau`, and the quantile `F` of Fisher's distribution that half
    chains exceed at the rate left to each R-hat. Independent draws need no more than
    the effective size asks for.

    Args:
        num_chains: chains of the run.
        num_components: scalar components compared.
        autocorrelation: draws per effective draw of the slowest component.
        false_alarm: as the gate is given it.
        least_effective: as the gate is given it.

    Returns:
        Draws per chain, at least 8.

    Example:
        >>> draws_needed(64, 10), draws_needed(64, 10, 3.0), draws_needed(4, 10, 3.0)
        (8, 317, 942)
    """
    tau = max(autocorrelation, 1.0)
    largest = _fisher(num_chains, 10**6, false_alarm / (4 * num_components))
    # R-hat^2 - 1 of autocorrelated draws is about (tau F - 1) / (n / 2)
    for_r_hat = 2 * (tau - 1) * largest / (LARGEST_R_HAT**2 - 1)
    return math.ceil(max(for_r_hat, tau * least_effective / num_chains, _LEAST_DRAWS))


# -- the conditions -----------------------------------------------------------------


def _check_moments(
    check: PosteriorCheck, k: int, x: Tensor, y: Tensor, rate: float
) -> list[str]:
    """Compare mean and second moment of one component; fills in row `k`."""
    centre = y.mean()
    failures = []
    for column, (what, fn) in enumerate(_moments(centre).items()):
        (mean, error, freedom), (wanted, other, others) = _error(fn(x)), _error(fn(y))
        joint = math.hypot(error, other)  # error of the difference
        share = (error / joint) ** 2  # Welch's formula; nan where draws overflow
        welch = 1 / (share**2 / freedom + (1 - share) ** 2 / others)
        score = (mean - wanted) / joint
        limit = student(welch, rate)
        check.scores[k, column], check.limits[k, column] = score, limit
        if not abs(score) <= limit:
            failures.append(
                f"{check.names[k]}: {what} {mean:.6g}, reference {wanted:.6g}: "
                f"{abs(score):.1f} standard errors apart, limit {limit:.1f}"
            )
    return failures


def _check_chains(
    check: PosteriorCheck, k: int, x: Tensor, least_effective: float
) -> list[str]:
    """R-hat, effective size and stuck chains of one component; fills in row `k`."""
    arviz = import_arviz()
    name, values = check.names[k], x.numpy()
    failures = []
    with quiet():
        check.r_hat[k] = _number(arviz.rhat(values, method="rank"))
        check.effective[k] = _number(arviz.ess(values, method="bulk"))
    r_hat, effective = float(check.r_hat[k]), float(check.effective[k])
    if not r_hat <= check.r_hat_limit:
        failures.append(
            f"{name}: R-hat is {r_hat:.4f}, limit {check.r_hat_limit:.4f}: "
            "chains disagree or are too short"
        )
    if not effective >= least_effective:
        failures.append(
            f"{name}: effective size is {effective:.0f}, at least {least_effective:.0f}"
        )
    stuck = (x == x[:, :1]).all(1).nonzero().flatten().tolist()
    if stuck:
        failures.append(f"{name}: chain {stuck[0]} never moves, {len(stuck)} in all")
    return failures


def _check_constant(name: str, x: Tensor, y: Tensor) -> list[str]:
    wanted = y.mean()
    off = float((x - wanted).abs().max())
    if off <= _ROUNDING * (1 + float(wanted.abs())):
        return []
    return [f"{name}: off by {off:.3g} from {float(wanted):.6g}, a constant"]


def _moments(centre: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "mean": lambda x: x,
        "second moment": lambda x: (x - centre) ** 2,
    }


# -- Monte Carlo errors ---------------------------------------------------------------


def _error(x: Tensor) -> tuple[float, float, float]:
    """Mean of `(chains, draws)`, its standard error and the freedom of that."""
    chains = len(x)
    mean = float(x.mean())
    if chains >= _MANY_CHAINS:
        return mean, float(x.mean(1).std()) / math.sqrt(chains), chains - 1
    arviz = import_arviz()
    with quiet():
        error = _number(arviz.mcse(x.numpy(), method="mean"))
        effective = _number(arviz.ess(x.numpy(), method="mean"))
    return mean, error, max(effective / _WINDOW, 1.0)


def _number(value: Any) -> float:
    """ArviZ gives a number for one diagnostic and an array of one for another."""
    return float(np.asarray(value).item())


def _r_hat_limit(chains: int, draws: int, rate: float) -> float:
    """Limit of R-hat: 1.01, and what independent draws are above one by."""
    half = draws // 2
    largest = _fisher(chains, half, rate)
    return LARGEST_R_HAT + math.sqrt(1 + (largest - 1) / half) - 1


def _fisher(chains: int, half: int, rate: float) -> float:
    from scipy.stats import f

    # split R-hat is an F statistic: n (R-hat^2 - 1) + 1 of independent normal halves
    halves = 2 * chains
    return float(f.isf(rate, halves - 1, halves * (half - 1)))


def student(freedom: float, rate: float) -> float:
    from scipy.stats import t

    return float(t.isf(rate / 2, freedom))


# -- shapes -------------------------------------------------------------------------


def _components(
    draws: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Names and values, `(chains, draws, components)`, of what both sides have."""
    common = [name for name in draws if name in reference]
    shown, expected = sorted(draws), f"some of {sorted(reference)}"
    check(bool(common), "draws", shown, expected, error=ReferenceMismatchError)
    names: list[str] = []
    for name in common:
        shape = draws[name].shape[2:]
        check_shape(f"draws, site {name!r}", shape, reference[name].shape[2:])
        names += component_names(name, shape)
    ours, theirs = _flat(draws, common), _flat(reference, common)
    expected = f"(chains, draws, *shape) with at least {_LEAST_DRAWS} draws"
    check_shape("draws", ours.shape, expected, ours.shape[1] >= _LEAST_DRAWS)
    return tuple(names), ours, theirs


def component_names(name: str, shape: Sequence[int]) -> list[str]:
    """Name the scalar components of a site, `theta[0,2]`; a scalar has the site's."""
    indices = [",".join(map(str, i)) for i in np.ndindex(*shape)]
    return [f"{name}[{i}]" if i else name for i in indices]


def _flat(values: Mapping[str, Tensor], names: list[str]) -> Tensor:
    parts = [values[name].detach().cpu().double() for name in names]
    x = torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], -1)
    if len(x) > 1 or x.shape[1] < 16:
        return x
    quarter = x.shape[1] // 4
    return x[:, -4 * quarter :].reshape(4, quarter, -1)


def _is_constant(x: Tensor) -> Tensor:
    flat = x.flatten(0, 1)
    spread = flat.amax(0) - flat.amin(0)
    return spread <= _ROUNDING * 1e-3 * flat.abs().amax(0)
