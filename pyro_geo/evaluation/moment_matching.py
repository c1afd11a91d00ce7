r"""Moment matching: draws moved by affine maps until their importance weights are good.

Draws of one density stand for another one by weights. Where the weights have a heavy
tail, the draws are shifted and stretched towards the weighted mean, the weighted
variances and the weighted covariance, and weighted anew. Every map is kept only if the
tail gets lighter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_count, check_number, check_shape
from pyro_geo.ops.weights import ess, smooth

__all__ = [
    "Affine",
    "LogDensity",
    "Matched",
    "khat_limit",
    "match_moments",
    "split_match",
]

LogDensity = Callable[[Tensor], Tensor]
"""Positions `(draws, dim)` to a log-density up to a constant, `(draws,)`."""

_FINITE_VARIANCE = 0.5
_WIDER = 1.15
_WHOLE = 4  # maps by weights for the whole ratio
_SHARE = 0.5  # effective draws that a power of the ratio may leave
_FEWEST_BY_DIM = 10  # draws for each coordinate, to match a whole covariance


class Affine(NamedTuple):
    """An affine map of positions.

    Attributes:
        matrix: `(dim, dim)`.
        shift: `(dim,)`.
    """

    matrix: Tensor
    shift: Tensor

    def __call__(self, q: Tensor) -> Tensor:
        """Map positions, `(draws, dim)`."""
        return q @ self.matrix.mT + self.shift

    def inverse(self, q: Tensor) -> Tensor:
        """Map positions back, `(draws, dim)`."""
        return torch.linalg.solve(self.matrix, (q - self.shift).mT).mT

    def then(self, other: Affine) -> Affine:
        """The map that applies this one first, and `other` to its result."""
        return Affine(other.matrix @ self.matrix, other(self.shift[None])[0])

    @property
    def log_det(self) -> Tensor:
        """Logarithm of the factor by which the map stretches volume."""
        return torch.linalg.slogdet(self.matrix).logabsdet


class Matched(NamedTuple):
    """Draws that stand for another density, with their weights.

    Attributes:
        q: positions, `(draws, dim)`.
        log_weights: smoothed and normalised, `(draws,)`.
        khat: shape of the tail of the weights before smoothing.
        ess: effective number of draws by the smoothed weights.
        steps: maps that were kept, in order: `"mean"`, `"variances"`,
            `"covariance"` and `"wider"`.
        map: all of them as one.
        wanted: log-density wanted, `(draws,)`.
    """

    q: Tensor
    log_weights: Tensor
    khat: float
    ess: float
    steps: tuple[str, ...]
    map: Affine
    wanted: Tensor


def khat_limit(num_draws: int) -> float:
    r"""Largest shape of a tail that is still to be trusted.

    .. math:: \min(1 - 1 / \log_{10} S, \; 0.7)

    Args:
        num_draws: of the weights.

    Returns:
        The limit.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, 1507.02646.

    Example:
        >>> khat_limit(4000), round(khat_limit(100), 2)
        (0.7, 0.5)
    """
    return min(1 - 1 / math.log10(max(num_draws, 11)), 0.7)


def match_moments(
    q: Tensor,
    sampled: LogDensity,
    wanted: LogDensity,
    *,
    at_draws: tuple[Tensor, Tensor] | None = None,
    log_weights: Tensor | None = None,
    limit: float | None = None,
    max_steps: int = 30,
    covariance: bool = True,
) -> Matched:
    r"""Move draws of a density until they stand for another one.

    A map `T` gives the draw :math:`\theta` the weight

    .. math:: w = \frac{p_{\mathrm{wanted}}(T\theta)}{p(\theta)}

    The volume factor of an affine map is the same for all draws. Maps of the mean, of
    mean and variances, and of mean and covariance are tried, and a wider spread; the
    one with the lightest tail is kept, and so on from there. Draws whose tail is below
    `limit` are left as they are. Once they are moved, it goes on until the tail is
    below 0.5, where weights have a variance, or no map helps. If that is above `limit`
    still, the draws are moved through powers of the ratio of the two densities, whose
    weights are good, and on from there.

    Args:
        q: draws of the density `p`, `(draws, dim)`.
        sampled: log-density `p`.
        wanted: the other one.
        at_draws: both at `q`, where they are known already.
        log_weights: of the draws, for `p`; equal ones if None.
        limit: shape of the tail that is good enough; :func:`khat_limit` if None.
        max_steps: maps to keep at most.
        covariance: whether to try the whole covariance, too; it needs ten draws for
            each coordinate.

    Returns:
        The draws.

    References:
        Paananen, Piironen, Buerkner & Vehtari (2021), Implicitly adaptive importance
        sampling, 1906.08850, algorithm 1.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = torch.randn(1000, 1, generator=generator, dtype=torch.float64)
        >>> near = lambda x: -0.5 * x[:, 0] ** 2  # N(0, 1)
        >>> far = lambda x: -0.5 * (x[:, 0] - 3) ** 2  # N(3, 1)
        >>> found = match_moments(q, near, far)
        >>> found.steps, round(float(found.log_weights.exp() @ found.q[:, 0]), 1)
        (('mean',), 3.0)
    """
    good = q.dim() == 2 and len(q) > 0
    check_shape("q", q.shape, "(draws, dim)", good)
    check_count("max_steps", max_steps, 0)
    check_number("limit", limit, -math.inf)
    limit = khat_limit(len(q)) if limit is None else limit
    start, there = (sampled(q), wanted(q)) if at_draws is None else at_draws
    if log_weights is not None:
        start = start - log_weights
    whole = covariance and len(q) >= _FEWEST_BY_DIM * q.shape[1]
    kinds = ("mean", "variances", *["covariance"] * whole, "wider")
    search = _Search(sampled, wanted, start, kinds)
    found = search.weighed(q, there, (), _identity(q))
    if found.khat <= limit or not max_steps:
        return found
    aim = min(limit, _FINITE_VARIANCE)
    found = search.improved(found, aim, max_steps)
    if found.khat > limit:
        bridged = search.bridged(q, max_steps)
        bridged = search.improved(bridged, aim, max_steps)
        found = bridged if bridged.khat < found.khat else found
    return found


class _Search:
    """Maps of draws, with the weights that they bring.

    Args:
        sampled: log-density that was sampled.
        wanted: the other one.
        start: log-density that the draws stand for, where they are, `(draws,)`.
        kinds: of the maps.
    """

    def __init__(
        self,
        sampled: LogDensity,
        wanted: LogDensity,
        start: Tensor,
        kinds: tuple[str, ...],
    ) -> None:
        self.sampled, self.wanted = sampled, wanted
        self.start, self.kinds = start, kinds

    def weighed(
        self, q: Tensor, there: Tensor, steps: tuple[str, ...], map: Affine
    ) -> Matched:
        """Weights of moved draws for the density wanted, of value `there`."""
        return _weighed(q, there - self.start, steps, map, there)

    def improved(self, found: Matched, aim: float, max_steps: int) -> Matched:
        """Keep the best map again and again, until the tail is light or none helps."""
        while found.khat > aim and len(found.steps) < max_steps:
            best = found
            for kind in self.kinds:
                step = _map_to(kind, found.q, found.log_weights)
                if step is None:
                    continue
                new = step(found.q)
                steps, total = (*found.steps, kind), found.map.then(step)
                tried = self.weighed(new, self.wanted(new), steps, total)
                best = tried if tried.khat < best.khat else best
                if best.khat <= aim:
                    break
            if best is found:
                break
            found = best
        return found

    def bridged(self, q: Tensor, max_steps: int) -> Matched:
        """Move draws through powers of the ratio, each as far as weights are good.

        Where the density wanted is far away, weights for it rest on a few draws, whose
        moments say nothing. Those for a power of the ratio say where to go first.

        Returns:
            The draws where that has led to.
        """
        kind = self.kinds[-2]  # the most that can be matched
        map, steps, power = _identity(q), (), 0.0
        density, there = self.sampled(q), self.wanted(q)
        best, whole = self.weighed(q, there, steps, map), 0
        while whole < _WHOLE and len(steps) < max_steps:
            base, ratio = density - self.start, there - density
            after = 1.0 if whole else _power(base, ratio, power)
            if after <= power < 1:  # as far as this family of maps goes
                break
            power = after
            step = _map_to(kind, q, _weights(base + power * ratio))
            if step is None:
                break
            q, map, steps = step(q), map.then(step), (*steps, kind)
            density, there = self.sampled(q), self.wanted(q)
            tried = self.weighed(q, there, steps, map)
            best = tried if tried.khat < best.khat or not whole else best
            whole += power == 1
        return best


def _weights(log_weights: Tensor) -> Tensor:
    """Smoothed and normalised weights."""
    log_weights = torch.where(log_weights.isnan(), -torch.inf, log_weights).double()
    return smooth(log_weights)[0]


def _power(base: Tensor, ratio: Tensor, power: float) -> float:
    """Largest power of a ratio whose weights leave half of the effective draws."""

    def share(power: float) -> float:
        weights = (base + power * ratio).double()
        weights = torch.where(weights.isnan(), -torch.inf, weights)
        return float(ess(weights)) / len(weights)

    # draws were moved to where weights for the present power are good
    low, high, goal = power, 1.0, _SHARE * share(power)
    if share(high) >= goal:
        return high
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if share(middle) >= goal else (low, middle)
    return low


def split_match(
    q: Tensor,
    sampled: LogDensity,
    found: Matched,
    at_draws: tuple[Tensor, Tensor],
    *,
    log_weights: Tensor | None = None,
) -> tuple[Matched, Tensor]:
    r"""Weigh half of the draws moved and half as they are, as one mixture.

    .. math:: w = \frac{p_{\mathrm{wanted}}(\theta)}
                       {p(\theta) + p(T^{-1}\theta) / |T|}

    Draws that were moved to where leaving a datum out sends them are few where that
    datum is likely. A mean of the datum's likelihood needs both, as leave-one-out
    cross-validation does.

    Args:
        q: draws of the density `p`, `(draws, dim)`.
        sampled: log-density `p`.
        found: what :func:`match_moments` has found from them.
        at_draws: both log-densities at `q`, `(draws,)`.
        log_weights: of the draws, for `p`; equal ones if None.

    Returns:
        The draws, every other one moved, with their weights; and the log-ratio of the
        density wanted to `p` at each, `(draws,)`.

    References:
        Paananen et al. (2021), 1906.08850, section 3.3.
    """
    map, (start, there) = found.map, at_draws
    odd = torch.arange(len(q), device=q.device) % 2 == 1
    mixed = torch.where(odd[:, None], found.q, q)
    there = torch.where(odd, found.wanted, there)
    # what is known already is not evaluated again: p where draws were, or came from
    density, back = start.clone(), start.clone()
    density[odd] = sampled(found.q[odd])
    back[~odd] = sampled(map.inverse(q[~odd]))
    mixture = there - torch.logaddexp(density, back - map.log_det)
    if log_weights is not None:
        mixture = mixture + log_weights
    return _weighed(mixed, mixture, (), map, there), there - density


def _weighed(
    q: Tensor,
    log_weights: Tensor,
    steps: tuple[str, ...],
    map: Affine,
    wanted: Tensor,
) -> Matched:
    # a draw of no density under the wanted one has no weight
    log_weights = torch.where(log_weights.isnan(), -torch.inf, log_weights).double()
    if not bool((log_weights > -torch.inf).any()):
        return Matched(q, log_weights, math.inf, 0.0, steps, map, wanted)
    smoothed, khat = smooth(log_weights)
    if math.isnan(khat):  # equal weights have no tail, too few have none to be seen
        alive = log_weights[log_weights > -torch.inf]
        khat = -math.inf if float(alive.max() - alive.min()) < 1e-12 else math.inf
    size = float((-(2 * smoothed).logsumexp(0)).exp())
    return Matched(q, smoothed, khat, size, steps, map, wanted)


def _identity(q: Tensor) -> Affine:
    dim = q.shape[1]
    eye = torch.eye(dim, dtype=q.dtype, device=q.device)
    return Affine(eye, q.new_zeros(dim))


def _map_to(kind: str, q: Tensor, log_weights: Tensor) -> Affine | None:
    """Map the plain moments of draws to their weighted ones; None if there is none."""
    weights = log_weights.exp().to(q)
    plain, wanted = q.mean(0), weights @ q
    eye = torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
    matrix = eye
    if kind == "variances":
        old = (q - plain).square().mean(0)
        new = weights @ (q - wanted).square()
        if not bool((old > 0).all() & (new > 0).all()):
            return None
        matrix = torch.diag((new / old).sqrt())
    elif kind == "wider":
        # draws that are spread more widely have weights of a lighter tail
        return Affine(_WIDER * eye, (1 - _WIDER) * plain)
    elif kind == "covariance":
        old, info = torch.linalg.cholesky_ex(_spread(q - plain, None))
        new, other = torch.linalg.cholesky_ex(_spread(q - wanted, weights))
        if int(info) or int(other):
            return None
        matrix = torch.linalg.solve_triangular(old, new, upper=False, left=False)
    return Affine(matrix, wanted - matrix @ plain)


def _spread(centred: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return centred.mT @ centred / len(centred)
    return (weights[:, None] * centred).mT @ centred
