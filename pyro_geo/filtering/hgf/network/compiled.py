"""The filter of a network and its derivatives in compiled loops, lane by lane.

Every number carries its derivatives by the parameters along (forward mode), which costs
little as a network has few parameters: row 0 of an array is the number, the others are
its derivatives. The rules are those of `scan`, `prediction` and `children`.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["run_lanes"]

Array = NDArray[Any]

# All in one file, as the cache on disk sees changes of a function's own file alone.
# Loops in place of slices, which take several times as long to compile.
_part: Any = cast(Any, numba.njit)(
    error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)

_FAR = 1e4
_CAP = 80.0
_CEILING = 300.0
_LEAST = 1e-6


@_part
def _copy(x: Array, to: Array) -> None:
    for d in range(len(x)):
        to[d] = x[d]


@_part
def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


@_part
def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@_part
def _omega(z: float) -> float:
    """Solve w + log w = z."""
    if z < -30.0:
        return math.exp(z)
    if z > 1e20:
        return z
    if z > 1.0:
        w = z - math.log(z) + math.log(z) / z
    else:
        x = math.exp(z)
        w = x * (60.0 + x * (114.0 + 17.0 * x)) / (60.0 + x * (174.0 + 101.0 * x))
    for _ in range(2):
        r = z - w - math.log(w)
        q = r / (1.0 + w)
        a = (1.0 + w) * (1.0 + 2.0 / 3.0 * q)
        w = w + w * q * ((a - 0.5 * q) / (a - q))
    return w


@_part
def _energy(
    x: Array,
    m: Array,
    p: Array,
    kids: int,
    seed: Array,
    kappa: Array,
    alpha: Array,
    beta: Array,
    offset: Array,
    out: Array,
) -> None:
    """Put energy, slope, precision and its concave part at `x` into rows of `out`.

    `alpha` and `beta` are logarithms.
    """
    width = x.shape[0]
    away = x[0] - m[0]
    out[0, 0] = -0.5 * p[0] * away * away
    out[1, 0] = -p[0] * away
    out[2, 0] = p[0]
    out[3, 0] = p[0]
    for d in range(1, width):
        move = x[d] - m[d]
        out[0, d] = -0.5 * p[d] * away * away - p[0] * away * move
        out[1, d] = -p[d] * away - p[0] * move
        out[2, d] = p[d]
        out[3, d] = p[d]
    for j in range(kids):
        k = kappa[j]
        r = k * x[0] + offset[j, 0] - alpha[j, 0]
        w, v = _sigmoid(r), _sigmoid(-r)
        total = alpha[j, 0] + _softplus(r)
        gap = beta[j, 0] - total
        ratio = math.exp(min(gap, _CAP))
        rho = ratio if gap < _CAP else 0.0
        delta = ratio - 1.0
        bend = w + (w - v) * delta
        half = 0.5 * k * k
        out[0, 0] -= 0.5 * (total + ratio)
        out[1, 0] += 0.5 * k * w * delta
        out[2, 0] += half * w * bend
        out[3, 0] += half * w * v
        for d in range(1, width):
            unit = 1.0 if d == seed[j] else 0.0
            dr = k * x[d] + unit * x[0] + offset[j, d] - alpha[j, d]
            dl = alpha[j, d] + w * dr
            dratio = rho * (beta[j, d] - dl)
            dw = w * v * dr
            out[0, d] -= 0.5 * (dl + dratio)
            out[1, d] += 0.5 * (unit * w * delta + k * (dw * delta + w * dratio))
            dbend = dw + 2.0 * dw * delta + (w - v) * dratio
            out[2, d] += unit * k * w * bend + half * (dw * bend + w * dbend)
            out[3, d] += unit * k * w * v + half * (v - w) * dw


@_part
def _expand(
    m: Array,
    p: Array,
    kids: int,
    seed: Array,
    kappa: Array,
    alpha: Array,
    beta: Array,
    offset: Array,
    points: Array,
    spread: Array,
    score: Array,
    out: Array,
) -> None:
    """Put means, variances and energies of the expansions into `points` and others."""
    width = m.shape[0]
    limit = _FAR / math.sqrt(p[0])
    for c in range(kids + 1):
        x = points[c]
        if c == 0:
            _copy(m, x)
        else:
            k, j = kappa[c - 1], c - 1
            shift = 0.5 * k * k / p[0]
            z = beta[j, 0] + math.log(shift) + shift - k * m[0] - offset[j, 0]
            w = _omega(z)
            rate = w / (1.0 + w)
            x[0] = m[0] + (w - shift) / k
            for d in range(1, width):
                unit = 1.0 if d == seed[j] else 0.0
                dshift = shift * (2.0 * unit / k - p[d] / p[0])
                dz = beta[j, d] + dshift / shift + dshift - offset[j, d]
                dz -= k * m[d] + unit * m[0]
                change = (rate * dz - dshift) / k - unit * (w - shift) / (k * k)
                x[d] = m[d] + change
        _energy(x, m, p, kids, seed, kappa, alpha, beta, offset, out)
        row = 2 if c > 0 and out[2, 0] > 0.0 else 3
        step = out[1, 0] / out[row, 0]
        far = abs(step) > limit
        for d in range(1, width):
            if far:
                x[d] -= math.copysign(0.5 * limit * p[d] / p[0], step)
            else:
                x[d] += (out[1, d] - step * out[row, d]) / out[row, 0]
            spread[c, d] = -out[row, d] / (out[row, 0] * out[row, 0])
        x[0] += math.copysign(limit, step) if far else step
        spread[c, 0] = 1.0 / out[row, 0]
        _energy(x, m, p, kids, seed, kappa, alpha, beta, offset, out)
        _copy(out[0], score[c])


@_part
def _match(
    count: int, points: Array, spread: Array, score: Array, mean: Array, var: Array
) -> None:
    """Put the moments of the mixture of the expansions into `mean` and `var`."""
    width = mean.shape[0]
    main = 0
    for c in range(count):
        if score[c, 0] > score[main, 0]:
            main = c
    total = 0.0
    weight = np.empty(count)
    for c in range(count):
        weight[c] = math.exp(score[c, 0] - score[main, 0])
        total += weight[c]
    average = np.zeros(width)
    for c in range(count):
        weight[c] /= total
        for d in range(1, width):
            average[d] += weight[c] * score[c, d]
    for d in range(width):
        mean[d] = var[d] = 0.0
    mean[0] = points[main, 0]
    for c in range(count):
        gap = points[c, 0] - points[main, 0]
        mean[0] += weight[c] * gap
        for d in range(1, width):
            change = weight[c] * (score[c, d] - average[d])
            mean[d] += weight[c] * points[c, d] + change * gap
    for c in range(count):
        gap = points[c, 0] - mean[0]
        both = spread[c, 0] + gap * gap
        var[0] += weight[c] * both
        for d in range(1, width):
            change = weight[c] * (score[c, d] - average[d])
            move = spread[c, d] + 2.0 * gap * (points[c, d] - mean[d])
            var[d] += weight[c] * move + change * both


@_part
def _predict(
    theta: Array,
    t: float,
    order: Array,
    value: Array,
    volatility: Array,
    mean: Array,
    var: Array,
    muhat: Array,
    hat: Array,
    y: Array,
) -> None:
    n, width = mean.shape
    psi = 5 * n
    kappa = psi + len(value)
    for a in order:
        for d in range(width):
            muhat[a, d] = theta[2 * n + a] * mean[a, d]
            y[a, d] = 0.0
        muhat[a, 0] += t * theta[n + a]
        y[a, 0] = math.log(t) + theta[a]
        if width > 1:
            muhat[a, 1 + 2 * n + a] += mean[a, 0]
            muhat[a, 1 + n + a] += t
            y[a, 1 + a] = 1.0
        for e in range(len(value)):
            if value[e, 0] == a:
                b = value[e, 1]
                for d in range(width):
                    muhat[a, d] += t * theta[psi + e] * muhat[b, d]
                if width > 1:
                    muhat[a, 1 + psi + e] += t * muhat[b, 0]
        for e in range(len(volatility)):
            if volatility[e, 0] == a:
                b = volatility[e, 1]
                for d in range(width):
                    y[a, d] += theta[kappa + e] * muhat[b, d]
                if width > 1:
                    y[a, 1 + kappa + e] += muhat[b, 0]
        walk = math.exp(min(y[a, 0], _CEILING))
        rate = walk if y[a, 0] < _CEILING else 0.0
        hat[a, 0] = var[a, 0] + walk
        for d in range(1, width):
            hat[a, d] = var[a, d] + rate * y[a, d]


@_part
def _by_value(
    a: int,
    theta: Array,
    t: float,
    value: Array,
    first_noise: int,
    inputs: Array,
    u: Array,
    seen: Array,
    reported: Array,
    mean: Array,
    muhat: Array,
    hat: Array,
    m: Array,
    p: Array,
) -> None:
    """Fold inputs and value children into `m` and `p`."""
    n, width = mean.shape
    psi = 5 * n
    push = np.zeros(width)
    p[0] = 1.0 / hat[a, 0]
    for d in range(1, width):
        p[d] = -p[0] * p[0] * hat[a, d]
    start = p[0]
    for k in range(len(inputs)):
        if inputs[k, 0] != a or not seen[k]:
            continue
        if inputs[k, 1] == 1:
            c = _sigmoid(muhat[a, 0])
            rate = c * (1.0 - c)
            if c < _LEAST or c > 1.0 - _LEAST:
                rate = 0.0
                c = min(max(c, _LEAST), 1.0 - _LEAST)
            p[0] += c * (1.0 - c)
            push[0] += u[k] - c
            for d in range(1, width):
                p[d] += (1.0 - 2.0 * c) * rate * muhat[a, d]
                push[d] -= rate * muhat[a, d]
        else:
            noise, error = theta[first_noise + k], u[k] - muhat[a, 0]
            p[0] += noise
            push[0] += noise * error
            for d in range(1, width):
                push[d] -= noise * muhat[a, d]
            if width > 1:
                p[1 + first_noise + k] += 1.0
                push[1 + first_noise + k] += error
    for e in range(len(value)):
        child = value[e, 0]
        if value[e, 1] != a or not reported[child]:
            continue
        slope, weight = theta[psi + e] * t, 1.0 / hat[child, 0]
        error = mean[child, 0] - muhat[child, 0]
        p[0] += weight * slope * slope
        push[0] += weight * slope * error
        for d in range(1, width):
            unit = t if d == 1 + psi + e else 0.0
            dweight = -weight * weight * hat[child, d]
            derror = mean[child, d] - muhat[child, d]
            p[d] += dweight * slope * slope + 2.0 * weight * slope * unit
            push[d] += (dweight * slope + weight * unit) * error
            push[d] += weight * slope * derror
    if p[0] == start and push[0] == 0.0:
        _copy(muhat[a], m)
        return
    m[0] = muhat[a, 0] + push[0] / p[0]
    for d in range(1, width):
        m[d] = muhat[a, d] + (push[d] - push[0] / p[0] * p[d]) / p[0]


@_part
def _by_children(
    a: int,
    theta: Array,
    first: int,
    volatility: Array,
    reported: Array,
    mean: Array,
    var: Array,
    before: Array,
    muhat: Array,
    y: Array,
    m: Array,
    p: Array,
) -> None:
    """Put the update of a state by its volatility children into `mean` and `var`."""
    width = mean.shape[1]
    kids = 0
    seed = np.empty(len(volatility), np.int64)
    kappa = np.empty(len(volatility))
    shape = len(volatility), width
    alpha, beta, offset = np.empty(shape), np.empty(shape), np.empty(shape)
    for e in range(len(volatility)):
        child = volatility[e, 0]
        k = theta[first + e]
        if volatility[e, 1] != a or not reported[child] or k == 0.0:
            continue
        error = mean[child, 0] - muhat[child, 0]
        change = var[child, 0] + error * error
        seed[kids], kappa[kids] = 1 + first + e, k
        alpha[kids, 0] = math.log(before[child, 0])
        beta[kids, 0] = math.log(change)
        offset[kids, 0] = y[child, 0] - k * muhat[a, 0]
        for d in range(1, width):
            unit = 1.0 if d == seed[kids] else 0.0
            move = mean[child, d] - muhat[child, d]
            alpha[kids, d] = before[child, d] / before[child, 0]
            beta[kids, d] = (var[child, d] + 2.0 * error * move) / change
            offset[kids, d] = y[child, d] - k * muhat[a, d] - unit * muhat[a, 0]
        kids += 1
    if kids == 0:
        _copy(m, mean[a])
        var[a, 0] = 1.0 / p[0]
        for d in range(1, width):
            var[a, d] = -p[d] / (p[0] * p[0])
        return
    points, spread = np.empty((kids + 1, width)), np.empty((kids + 1, width))
    score, out = np.empty((kids + 1, width)), np.empty((4, width))
    _expand(m, p, kids, seed, kappa, alpha, beta, offset, points, spread, score, out)
    _match(kids + 1, points, spread, score, mean[a], var[a])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def run_lanes(
    theta: Array,
    u: Array,
    observed: Array,
    time: Array,
    order: Array,
    value: Array,
    volatility: Array,
    inputs: Array,
    d_mu: Array,
    d_pi: Array,
    mu: Array,
    pi: Array,
    slope: Array,
) -> None:
    """Filter all lanes by the unbounded rule.

    Args:
        theta: numbers of each lane in the order of `NetworkParameters`, `(lanes, P)`.
        u: inputs, `(lanes, T, inputs)`.
        observed: whether there is one, of the same shape.
        time: of each step, `(lanes, T)`.
        order: indices of states, parents before their children.
        value: child and parent of each value edge.
        volatility: child and parent of each volatility edge.
        inputs: state of each input, and whether it is binary.
        d_mu: what the means are weighed by, `(lanes, T, states)`.
        d_pi: what the precisions are weighed by.
        mu: gets the means; of length zero if they are not wanted.
        pi: gets the precisions.
        slope: gets the derivatives of the weighed sum by `theta`, of length zero if
            they are not wanted.
    """
    n = len(order)
    many = theta.shape[1]
    width = 1 + many if len(slope) else 1
    noise = 5 * n + len(value) + len(volatility)
    shape = n, width
    mean, var, before = np.empty(shape), np.empty(shape), np.empty(shape)
    muhat, hat, y = np.empty(shape), np.empty(shape), np.empty(shape)
    m, p = np.empty(width), np.empty(width)
    reported = np.empty(n, np.bool_)
    for lane in range(len(theta)):
        own = theta[lane]
        for a in range(n):
            for d in range(width):
                mean[a, d] = var[a, d] = 0.0
            mean[a, 0], var[a, 0] = own[3 * n + a], 1.0 / own[4 * n + a]
            if width > 1:
                mean[a, 1 + 3 * n + a] = 1.0
                var[a, 1 + 4 * n + a] = -var[a, 0] * var[a, 0]
        for step in range(time.shape[1]):
            t = time[lane, step]
            _predict(own, t, order, value, volatility, mean, var, muhat, hat, y)
            for a in range(n):
                _copy(var[a], before[a])
                _copy(muhat[a], mean[a])
                _copy(hat[a], var[a])
                reported[a] = False
            for k in range(len(inputs)):
                if observed[lane, step, k]:
                    reported[inputs[k, 0]] = True
            for i in range(n - 1, -1, -1):
                a = order[i]
                for e in range(len(value)):
                    if value[e, 1] == a and reported[value[e, 0]]:
                        reported[a] = True
                for e in range(len(volatility)):
                    if volatility[e, 1] == a and reported[volatility[e, 0]]:
                        reported[a] = True
                if not reported[a]:
                    continue
                _by_value(
                    a,
                    own,
                    t,
                    value,
                    noise,
                    inputs,
                    u[lane, step],
                    observed[lane, step],
                    reported,
                    mean,
                    muhat,
                    hat,
                    m,
                    p,
                )
                _by_children(
                    a,
                    own,
                    5 * n + len(value),
                    volatility,
                    reported,
                    mean,
                    var,
                    before,
                    muhat,
                    y,
                    m,
                    p,
                )
            if len(mu):
                for a in range(n):
                    mu[lane, step, a], pi[lane, step, a] = mean[a, 0], 1.0 / var[a, 0]
            if len(slope):
                for a in range(n):
                    c = d_mu[lane, step, a]
                    g = -d_pi[lane, step, a] / (var[a, 0] * var[a, 0])
                    for d in range(many):
                        slope[lane, d] += c * mean[a, 1 + d] + g * var[a, 1 + d]
