"""Which modes a posterior has, found without the search that is measured.

Closed forms where there are any (roots of polynomials, the means of a mixture). Else
scipy's L-BFGS-B from many starts: draws of the prior, or, for signals, the best of a
fine grid of frequencies with least squares for the rest. Symmetries add what the starts
missed. Weights are masses: quadrature where coordinates are independent, elsewhere
importance sampling from a mixture of Student's t at the modes, each draw counted for
the mode whose normal density there is highest.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from _decent_cem_posteriors import (
    MEANS,
    OBSERVED,
    PRIOR,
    TILT,
    Posterior,
    Values,
    posteriors,
)
from numpy.polynomial import Polynomial
from scipy.integrate import quad
from scipy.optimize import minimize
from torch import Tensor

from pyro_geo.density import Target

SIGNALS = ("one tone", "three tones", "radial velocity")
NEAR = 0.5  # standard deviations within which two positions are one mode
LOWER = 15.0  # nats below the best that a mode may lie
DEGREES = 4.0  # of freedom of the proposals

Curve = Callable[[float], float]


class Reference(NamedTuple):
    """The modes of a posterior.

    Attributes:
        q: positions on the real line, `(K, dim)`, heaviest first.
        weights: share of the mass of each, `(K,)`.
        hessian: of minus the log-density, `(K, dim, dim)`.
        how: they were found, in words.
    """

    q: Tensor
    weights: Tensor
    hessian: Tensor
    how: str

    def distances(self, q: Tensor) -> Tensor:
        """Standard deviations between modes and positions `(n, dim)`: `(K, n)`."""
        gap = q - self.q[:, None]
        return torch.einsum("kni,kij,knj->kn", gap, self.hessian, gap).sqrt()


def target_of(posterior: Posterior) -> Target:
    """The density of a posterior, in double precision."""
    return Target.from_model(posterior.model, *posterior.args, dtype=torch.float64)


def reference(name: str, starts: int) -> Reference:
    """Find the modes of a posterior.

    Args:
        name: of the posterior.
        starts: of the searches, where there is no closed form.

    Returns:
        All modes that the searches reach.
    """
    posterior = posteriors()[name]
    target = target_of(posterior)
    if name in ("cauchy", "wells"):
        q, weights = closed_form(name)
        return ordered(q, weights, hessians(target, q), "roots of a polynomial")
    if name == "gaussians":
        centres = target.unconstrain({"x": torch.tensor(MEANS)})
        q = torch.stack([descend(target, start) for start in centres])
        weights = torch.full((len(q),), 1 / len(q))
        return ordered(q, weights, hessians(target, q), "the means of the mixture")
    if name in SIGNALS:
        first, how = grid_starts(name, target, starts), "grid of frequencies"
    else:
        random = torch.Generator().manual_seed(0)
        first = target.initial(starts, "prior", random)
        how = f"{starts} draws of the prior"
    q, hessian = distinct(target, torch.stack([descend(target, s) for s in first]))
    if posterior.copies is not None:
        values = [target.constrain(row) for row in q]
        spread = [target.unconstrain(c) for v in values for c in posterior.copies(v)]
        q, hessian = distinct(target, torch.stack([*q, *spread]))
        how += ", symmetries"
    weights = masses(target, q, hessian, 2_000 if starts < 100 else 50_000)
    if posterior.copies is not None:
        weights = evened(target.log_prob(q), weights)
    return ordered(q, weights, hessian, f"L-BFGS-B from {how}")


def ordered(q: Tensor, weights: Tensor, hessian: Tensor, how: str) -> Reference:
    """Put the heaviest mode first."""
    order = weights.argsort(descending=True, stable=True)
    return Reference(q[order], weights[order], hessian[order], how)


def closed_form(name: str) -> tuple[Tensor, Tensor]:
    """Modes and masses where coordinates are independent."""
    if name == "cauchy":
        slopes, logs = zip(*map(cauchy_slope, OBSERVED), strict=True)
    else:
        # d/dx of (x^2 - 4)^2 / 4 + tilt x + x^2 / 18
        slope = Polynomial([TILT, -4 + 1 / 9, 0, 1])
        potential = slope.integ()
        slopes, logs = [slope] * 4, [lambda x: -potential(x)] * 4
    each = [peaks(s, f) for s, f in zip(slopes, logs, strict=True)]
    places = [[place for place, _ in row] for row in each]
    shares = [[share for _, share in row] for row in each]
    q = torch.tensor(list(itertools.product(*places)))
    return q, torch.tensor([math.prod(row) for row in itertools.product(*shares)])


def cauchy_slope(y: list[float]) -> tuple[Polynomial, Curve]:
    """Minus the derivative of a log-density times its denominators, and that."""
    below = [Polynomial([1 + a * a, -2 * a, 1]) for a in y]
    slope = Polynomial([0, 1 / PRIOR**2]) * below[0] * below[1]
    slope += 2 * Polynomial([-y[0], 1]) * below[1]
    slope += 2 * Polynomial([-y[1], 1]) * below[0]

    def log_density(x: float) -> float:
        return -0.5 * (x / PRIOR) ** 2 - sum(np.log(b(x)) for b in below)

    return slope, log_density


def peaks(slope: Polynomial, log_density: Curve) -> list[tuple[float, float]]:
    """Places and masses of the peaks of a density on the line."""
    roots = np.sort([r.real for r in slope.roots() if abs(r.imag) < 1e-9])
    top, bottom = roots[::2], roots[1::2]
    highest = max(map(log_density, top))

    def density(x: float) -> float:
        return math.exp(log_density(x) - highest)

    cuts = [-40.0, *bottom, 40.0]
    parts = [
        quad(density, a, b, points=[place], limit=200)[0]
        for a, b, place in zip(cuts[:-1], cuts[1:], top, strict=True)
    ]
    return [(place, part / sum(parts)) for place, part in zip(top, parts, strict=True)]


def descend(target: Target, start: Tensor) -> Tensor:
    """Go down from a start by scipy, then by Newton's method to the last digit."""

    def potential(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = target.value_and_grad(torch.from_numpy(x)[None])
        return -float(value), -slope[0].numpy()

    options = {"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-8}
    found = minimize(
        potential, start.numpy().copy(), jac=True, method="L-BFGS-B", options=options
    )
    q = torch.from_numpy(found.x)
    for _ in range(3):
        hessian = hessians(target, q[None])[0]
        factor, info = torch.linalg.cholesky_ex(hessian)
        if info:
            break
        slope = target.value_and_grad(q[None])[1][0]
        ahead = q + torch.cholesky_solve(slope[:, None], factor)[:, 0]
        if target.log_prob(ahead[None]) < target.log_prob(q[None]):
            break
        q = ahead
    return q


def hessians(target: Target, q: Tensor) -> Tensor:
    """Second derivatives of minus the log-density, `(K, dim, dim)`."""
    count, dim = q.shape
    axes = torch.eye(dim).expand(count, dim, dim).reshape(-1, dim)
    rows = target.hvp(q.repeat_interleave(dim, 0), axes)
    return -rows.reshape(count, dim, dim)


def distinct(target: Target, q: Tensor) -> tuple[Tensor, Tensor]:
    """Keep one of each mode: stationary, curved in all directions, not too low."""
    value, slope = target.value_and_grad(q)
    order = value.argsort(descending=True)
    kept, hessian = [], []
    for i in order.tolist():
        if value[i] < value[order[0]] - LOWER:
            break
        near = False
        for other, matrix in zip(kept, hessian, strict=True):
            gap = q[i] - other
            near |= bool(gap @ matrix @ gap < NEAR**2)
        if near:
            continue
        own = hessians(target, q[i : i + 1])[0]
        factor, info = torch.linalg.cholesky_ex(own)
        if info:
            continue
        step = torch.cholesky_solve(slope[i][:, None], factor)[:, 0]
        if slope[i] @ step < 1e-4:  # the step ahead, in standard deviations, squared
            kept.append(q[i])
            hessian.append(own)
    return torch.stack(kept), torch.stack(hessian)


def masses(target: Target, q: Tensor, hessian: Tensor, draws: int) -> Tensor:
    """Estimate the share of the mass about each mode by importance sampling."""
    random = torch.Generator().manual_seed(1)
    dim = q.shape[-1]
    factor = torch.linalg.cholesky(hessian)
    half = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    share = torch.log_softmax(target.log_prob(q) - half, 0)
    proposal = torch.logaddexp(share, share.new_tensor(0.01).log()).softmax(0)
    which = torch.multinomial(proposal, draws, replacement=True, generator=random)
    normal = torch.randn(draws, dim, 1, generator=random)
    gamma = torch.from_numpy(np.random.default_rng(2).chisquare(DEGREES, draws))
    step = torch.linalg.solve_triangular(factor.mT[which], normal, upper=True)
    x = q[which] + step[..., 0] * (DEGREES / gamma).sqrt()[:, None]
    gap = torch.einsum("kij,kni->knj", factor, x - q[:, None])
    square = gap.square().sum(-1)
    t = -0.5 * (DEGREES + dim) * torch.log1p(square / DEGREES)
    density = torch.logsumexp(proposal.log()[:, None] + half[:, None] + t, 0)
    log_prob = torch.cat([target.log_prob(part) for part in x.split(5_000)])
    log_weight = (log_prob - density).nan_to_num(-math.inf)
    weight = (log_weight - log_weight.max()).exp()
    owner = (share[:, None] + half[:, None] - 0.5 * square).argmax(0)
    total = torch.zeros(len(q)).index_add(0, owner, weight)
    return total / total.sum()


def evened(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Give modes of one height the same weight: they are copies of each other."""
    same = ((log_prob[:, None] - log_prob).abs() < 1e-7).to(weights)
    return same @ weights / same.sum(-1)


def grid_starts(name: str, target: Target, starts: int) -> Tensor:
    """Best frequencies of a grid, all else by least squares."""
    posterior = posteriors()[name]
    *times, series = (x.numpy() for x in posterior.args)
    t = times[0] if times else np.arange(len(series))
    count = 3 if name == "three tones" else 1
    size = min(96, 4 * starts) if count == 3 else 8 * starts
    if times:
        grid = 2 * math.pi / np.exp(np.linspace(math.log(1.5), math.log(60.0), size))
    else:
        grid = np.linspace(0.0, math.pi, size + 2)[1:-1]
    chosen = np.array(list(itertools.combinations(grid, count)))
    best = []
    for part in np.array_split(chosen, max(1, len(chosen) // 2_000)):
        angle = part[:, :, None] * t
        columns = np.concatenate([np.cos(angle), np.sin(angle)], 1)
        if times:
            columns = np.concatenate([columns, np.ones_like(columns[:, :1])], 1)
        gram = columns @ columns.swapaxes(-1, -2) + 0.1 * np.eye(columns.shape[1])
        fit = np.linalg.solve(gram, (columns @ series)[..., None])[..., 0]
        rest = series - np.einsum("kct,kc->kt", columns, fit)
        best += zip((rest**2).sum(-1), part, fit, strict=True)
    best.sort(key=lambda entry: entry[0])
    found = [start(rest, w, fit, bool(times), len(t)) for rest, w, fit in best[:starts]]
    return torch.stack([target.unconstrain(values) for values in found])


def start(
    rest: float, frequencies: np.ndarray, fit: np.ndarray, by_period: bool, length: int
) -> Values:
    """Values of all sites for frequencies with their fit."""
    w, linear = torch.from_numpy(frequencies), torch.from_numpy(fit)
    if by_period:
        log_period = (2 * math.pi / w[0]).log().clamp(math.log(1.501), math.log(59.9))
        return {"log_period": log_period, "a": linear[:2], "offset": linear[2]}
    sigma = torch.tensor(math.sqrt(rest / length))
    return {"omega": w, "a": linear.reshape(2, len(w)).mT, "sigma": sigma}
