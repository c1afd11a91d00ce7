"""One report and many lanes: linearise, compare, learn. All of it written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.mixing import Bias, Blocks, block, pairs

if TYPE_CHECKING:
    from pyro_geo.filtering.tracker.measurements import Measurement

__all__ = [
    "Innovation",
    "ekf",
    "factor",
    "learn",
    "log_normal",
    "ukf",
]


class Innovation(NamedTuple):
    """A report as the lanes foresee it, before the noise of the sensor.

    Attributes:
        prediction: `(m, *lanes)`.
        cov: its covariance, `(m, m, *lanes)`.
        cross: its covariance with each order of the state, `(m, axes, *lanes)`.
        slope: derivative in each order that is read, `(m, axes, *lanes)`; None for the
            identity.
        reads: the orders that are read.
    """

    prediction: Tensor
    cov: Tensor
    cross: Blocks
    slope: Blocks | None
    reads: tuple[int, ...]


def _through(slope: Tensor, cov: Tensor) -> Tensor:
    """Multiply `(m, k, *lanes)` by `(k, n, *lanes)`."""
    return (slope.unsqueeze(2) * cov.unsqueeze(0)).sum(1)


def ekf(measurement: Measurement, mean: Blocks, cov: Blocks) -> Innovation:
    """Foresee a report by the tangent of the measurement at the mean.

    Args:
        measurement: what a nominal sensor reports.
        mean: of the state.
        cov: of the state.

    Returns:
        What the lanes foresee.

    References:
        Bar-Shalom, Li and Kirubarajan (2001), section 10.3.
    """
    orders, reads = len(mean), measurement.reads
    x = tuple(mean[a] for a in reads)
    prediction = measurement.predict(x)
    if measurement.identity:
        cross = tuple(block(cov, orders, 0, b) for b in range(orders))
        return Innovation(prediction, cross[0], cross, None, reads)
    slope = measurement.slope(x)
    cross = _cross(slope, cov, orders, reads)
    spread = sum(
        _through(cross[a], s.transpose(0, 1)) for a, s in zip(reads, slope, strict=True)
    )
    return Innovation(prediction, torch.as_tensor(spread), cross, slope, reads)


def _cross(
    slope: Blocks, cov: Blocks, orders: int, reads: Sequence[int]
) -> tuple[Tensor, ...]:
    return tuple(
        torch.as_tensor(
            sum(
                _through(s, block(cov, orders, a, b))
                for a, s in zip(reads, slope, strict=True)
            )
        )
        for b in range(orders)
    )


def ukf(measurement: Measurement, mean: Blocks, cov: Blocks) -> Innovation:
    r"""Foresee a report by sigma points of the numbers that it depends on.

    The points are :math:`x_0 = m` and :math:`x_{\pm i} = m \pm \sqrt{r + \kappa} L_i`,
    with :math:`r` numbers read, :math:`\kappa = \max(3 - r, 0)` and :math:`L` the
    Cholesky factor of their covariance. Numbers that are not read do not move the
    report, so their points would add nothing.

    Args:
        measurement: what a nominal sensor reports.
        mean: of the state.
        cov: of the state.

    Returns:
        What the lanes foresee; `slope` is the statistical one.

    References:
        Julier and Uhlmann (2004), Unscented filtering and nonlinear estimation.
    """
    orders, reads = len(mean), measurement.reads
    axes = mean[0].shape[0]
    size = axes * len(reads)
    rows = [
        torch.cat([block(cov, orders, a, b) for b in reads], 1) for a in reads
    ]  # (axes, size, *lanes) each
    lower, _ = cholesky(torch.cat(rows))
    x = tuple(mean[a] for a in reads)
    kappa = max(3.0 - size, 0.0)
    stretch = math.sqrt(size + kappa)
    steps = []  # (size, *lanes): the columns of the factor
    for column in range(size):
        zero = torch.zeros_like(lower[0][0])
        entries = [lower[i][column] if i >= column else zero for i in range(size)]
        steps.append(stretch * torch.stack(entries))
    offsets = torch.stack([*steps, *[-step for step in steps]], 1)
    points = tuple(
        order.unsqueeze(1) + offsets[number * axes : (number + 1) * axes]
        for number, order in enumerate(x)
    )
    centre = measurement.predict(x)
    away = measurement.residual(measurement.predict(points), centre.unsqueeze(1))
    share = 0.5 / (size + kappa)
    middle = share * away.sum(1)
    gap = away - middle.unsqueeze(1)
    spread = (gap.unsqueeze(1) * gap.unsqueeze(0)).sum(2) * share
    spread = spread + (1 - 2 * size * share) * (
        middle.unsqueeze(1) * middle.unsqueeze(0)
    )
    # slope times factor, then the slope by substitution from the last column
    tilt = (away[:, :size] - away[:, size:]) * (share * stretch)
    columns: list[Tensor] = [tilt[:, 0]] * size
    for j in reversed(range(size)):
        rest = tilt[:, j]
        for i in range(j + 1, size):
            rest = rest - columns[i] * lower[i][j]
        columns[j] = rest / lower[j][j]
    flat = torch.stack(columns, 1)
    slope = tuple(
        flat[:, number * axes : (number + 1) * axes] for number in range(len(reads))
    )
    cross = _cross(slope, cov, orders, reads)
    return Innovation(centre + middle, spread, cross, slope, reads)


def cholesky(cov: Tensor) -> tuple[list[list[Tensor]], Tensor]:
    """Factor small covariances, one for each lane.

    Args:
        cov: `(m, m, *lanes)`; its lower half is read.

    Returns:
        Rows of the lower factor, and where it does not exist, `(*lanes)`; there the
        numbers are finite and mean nothing.
    """
    size = cov.shape[0]
    lower: list[list[Tensor]] = []
    bad = torch.zeros_like(cov[0, 0], dtype=torch.bool)
    for i in range(size):
        row: list[Tensor] = []
        for j in range(i + 1):
            rest = cov[i, j]
            for k in range(j):
                rest = rest - row[k] * (row[k] if i == j else lower[j][k])
            if i == j:
                good = rest > 0
                bad = bad | ~good
                row.append(torch.where(good, rest, 1.0).sqrt())
            else:
                row.append(rest / lower[j][j])
        lower.append(row)
    return lower, bad


def solve(lower: list[list[Tensor]], right: Sequence[Tensor]) -> list[Tensor]:
    """Multiply by the inverse of a lower factor.

    Args:
        lower: its rows, entries `(*lanes)`.
        right: rows, `(..., *lanes)` each.

    Returns:
        Rows of the product.
    """
    out: list[Tensor] = []
    for i, row in enumerate(lower):
        rest = right[i]
        for k in range(i):
            rest = rest - row[k] * out[k]
        out.append(rest / row[i])
    return out


def factor(residual: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, int]:
    """Measure how far a residual is, and the volume of its covariance.

    Args:
        residual: `(m, *lanes)`.
        cov: `(m, m, *lanes)`.

    Returns:
        Squared Mahalanobis distance, half the log-determinant, and `m`.
    """
    lower, _ = cholesky(cov)
    size = len(lower)
    white = solve(lower, [residual[i] for i in range(size)])
    return _length(white), _log_volume(lower), size


def _length(white: Sequence[Tensor]) -> Tensor:
    return torch.as_tensor(sum(e * e for e in white))


def _log_volume(lower: list[list[Tensor]]) -> Tensor:
    diagonal = lower[0][0]
    for i in range(1, len(lower)):
        diagonal = diagonal * lower[i][i]
    return diagonal.log()


def log_normal(
    distance: Tensor, log_volume: Tensor, size: int, far: float = math.inf
) -> Tensor:
    r"""Compute a Gaussian log-density from what :func:`factor` returns.

    .. math:: -\tfrac12 \min(d^2, \text{far}) - \log|L| - \tfrac{m}{2} \log 2\pi

    Args:
        distance: squared Mahalanobis distance.
        log_volume: half the log-determinant.
        size: numbers in a report.
        far: where the distance ends.

    Returns:
        The log-density.

    Example:
        >>> round(log_normal(torch.tensor(0.0), torch.tensor(0.0), 2).item(), 4)
        -1.8379
    """
    if math.isfinite(far):
        distance = distance.clamp(max=far)
    return -0.5 * distance - log_volume - 0.5 * size * math.log(2 * math.pi)


class Learned(NamedTuple):
    """What lanes know after a report, and how probable it was to them.

    Attributes:
        mean: of the state.
        cov: of the state.
        bias: of the report, in the last lanes.
        distance: squared Mahalanobis distance of the report, `(*lanes)`.
        log_volume: half the log-determinant of its covariance.
        bad: where that covariance is not positive definite.
    """

    mean: Blocks
    cov: Blocks
    bias: Bias | None
    distance: Tensor
    log_volume: Tensor
    bad: Tensor


def learn(
    mean: Blocks,
    cov: Blocks,
    bias: Bias | None,
    innovation: Innovation,
    residual: Tensor,
    noise: Tensor,
    use: Tensor,
    far: float,
) -> Learned:
    r"""Update every lane by a report, jointly in all its numbers.

    .. math:: S = H P H^T + R = L L^T, \quad W = L^{-1} H P, \quad
        x' = x + W^T L^{-1} r, \quad P' = P - W^T W

    Args:
        mean: of the state, lanes `(lanes, dynamics, tracks)`.
        cov: of the state.
        bias: of the report, in the last of the lanes only; None where no lane has one.
        innovation: what the lanes foresee of the report without its bias.
        residual: report minus that, without the bias, `(m, *lanes)`.
        noise: covariance of the sensor, `(m, m, *lanes)` or shapes that broadcast.
        use: tracks that have a report, `(tracks,)`.
        far: squared distance beyond which a lane does not move.

    Returns:
        What the lanes know then.
    """
    size = residual.shape[0]
    cross, spread = innovation.cross, innovation.cov
    own = None
    if bias is not None:
        cross, spread, residual, own = _with_bias(bias, innovation, residual)
    lower, bad = cholesky(spread + noise)
    white = solve(lower, [residual[i] for i in range(size)])
    distance = _length(white)
    log_volume = _log_volume(lower)
    near = use & (distance < far) if math.isfinite(far) else use
    white = [torch.where(near, e, 0.0) for e in white]
    gains = []  # of each order: rows of W, zero where there is no report
    for c in cross:
        rows = solve(lower, [c[i] for i in range(size)])
        gains.append([torch.where(use, w, 0.0) for w in rows])
    mean = tuple(_shifted(x, g, white) for x, g in zip(mean, gains, strict=True))
    cov = tuple(
        _shrunk(p, gains[a], gains[b])
        for p, (a, b) in zip(cov, pairs(len(mean)), strict=True)
    )
    if bias is not None and own is not None:
        first = distance.shape[0] - bias.mean.shape[1]
        tail = [[entry[first:] for entry in row] for row in lower]
        rows = solve(tail, [own[i] for i in range(size)])
        mine = [torch.where(use, w, 0.0) for w in rows]
        theirs = [[w[:, first:] for w in gain] for gain in gains]
        bias = Bias(
            _shifted(bias.mean, mine, [e[first:] for e in white]),
            _shrunk(bias.cov, mine, mine),
            tuple(
                _shrunk(c, their, mine)
                for c, their in zip(bias.cross, theirs, strict=True)
            ),
        )
    return Learned(mean, cov, bias, distance, log_volume, bad)


def _with_bias(
    bias: Bias, innovation: Innovation, residual: Tensor
) -> tuple[Blocks, Tensor, Tensor, Tensor]:
    """Add the bias of the last lanes to what they foresee."""
    first = residual.shape[1] - bias.mean.shape[1]
    turned = [c.transpose(0, 1) for c in bias.cross]  # (m, axes, *lanes)
    cross = tuple(
        torch.cat([c[:, :, :first], c[:, :, first:] + t], 2)
        for c, t in zip(innovation.cross, turned, strict=True)
    )
    if innovation.slope is None:
        seen = bias.cross[0]  # (m, m, *lanes): report and bias
    else:
        seen = torch.as_tensor(
            sum(
                _through(s[:, :, first:], bias.cross[a])
                for a, s in zip(innovation.reads, innovation.slope, strict=True)
            )
        )
    own = seen + bias.cov
    spread = innovation.cov[:, :, first:] + seen.transpose(0, 1) + own
    spread = torch.cat([innovation.cov[:, :, :first], spread], 2)
    residual = torch.cat([residual[:, :first], residual[:, first:] - bias.mean], 1)
    return cross, spread, residual, own


def _shifted(x: Tensor, rows: Sequence[Tensor], white: Sequence[Tensor]) -> Tensor:
    for w, e in zip(rows, white, strict=True):
        x = x + w * e
    return x


def _shrunk(cov: Tensor, left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    for a, b in zip(left, right, strict=True):
        cov = cov - a.unsqueeze(1) * b.unsqueeze(0)
    return cov
