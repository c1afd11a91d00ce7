"""The filter by its plain formulas, one number at a time, with fifty digits."""

from collections.abc import Sequence

import mpmath as mp

DIGITS = 50


def energy(x, alpha, beta, kappa, omega, t, mu_hat, pi_hat):
    total = alpha + t * mp.exp(kappa * x + omega)
    return -(mp.log(total) + beta / total + pi_hat * (x - mu_hat) ** 2) / 2


def update(kind, *values):
    """Return mean and precision of a volatility parent."""
    with mp.workdps(DIGITS):
        return _update(kind, *(mp.mpf(x) for x in values))


def _update(kind, alpha, beta, kappa, omega, t, mu_hat, pi_hat):
    rest = (alpha, beta, kappa, omega, t, mu_hat, pi_hat)

    def terms(x):
        change = t * mp.exp(kappa * x + omega)
        weight = change / (alpha + change)
        error = beta / (alpha + change) - 1
        bend = kappa**2 / 2 * weight * (weight + (2 * weight - 1) * error)
        slope = kappa / 2 * weight * error - pi_hat * (x - mu_hat)
        return slope, pi_hat + bend, pi_hat + kappa**2 / 2 * weight * (1 - weight)

    if kappa == 0:
        return mu_hat, pi_hat
    slope, full, concave = terms(mu_hat)
    if kind == "classic":
        return mu_hat + slope / full, full
    if kind == "ehgf_pyhgf":
        return mu_hat + slope / pi_hat, full
    if kind == "ehgf":
        mean = mu_hat + slope / pi_hat
        return mean, max(pi_hat, terms(mean)[1])
    first, precision_1 = mu_hat + slope / concave, concave
    gamma = mp.log(t) + kappa * mu_hat + omega
    ratio = kappa**2 / pi_hat / 2
    # Lambert's function of a huge argument, by the equation that defines it
    z = mp.log(beta) + mp.log(ratio) + ratio - gamma
    if z < 1000:
        root = mp.lambertw(mp.exp(z)).real
    else:
        root = mp.findroot(lambda w: w + mp.log(w) - z, z - mp.log(z))
    mode = mu_hat + (root - ratio) / kappa
    slope, full, concave = terms(mode)
    precision_2 = full if full > 0 else concave
    second = mode + slope / precision_2
    b = 1 / (1 + mp.exp(energy(first, *rest) - energy(second, *rest)))
    variance = (1 - b) / precision_1 + b / precision_2
    variance += b * (1 - b) * (first - second) ** 2
    return (1 - b) * first + b * second, 1 / variance


def series(
    u: Sequence[float | None],
    omega: Sequence[float],
    kappa: Sequence[float],
    mu0: Sequence[float],
    pi0: Sequence[float],
    input_precision: float = 1.0,
    *,
    kind: str = "continuous",
    update: str = "unbounded",
    steps: Sequence[float] | None = None,
    drift: Sequence[float] | None = None,
    rate: Sequence[float] | None = None,
    value: Sequence[float] | None = None,
    predictive: str = "input",
):
    """Return means, precisions and surprises of all steps; None is not observed."""
    with mp.workdps(DIGITS):
        count = len(omega)
        steps = steps or [1.0] * len(u)
        drift, rate = drift or [0.0] * count, rate or [1.0] * count
        value = value or [0.0] * (count - 1)
        lists = (omega, kappa, mu0, pi0, drift, rate, value)
        omega, kappa, mean, precision, drift, rate, value = (
            [mp.mpf(x) for x in xs] for xs in lists
        )
        noise = mp.mpf(input_precision)
        means, precisions, surprises = [], [], []
        for x, t in zip(u, map(mp.mpf, steps), strict=True):
            hat, hat_precision = [mp.mpf(0)] * count, [mp.mpf(0)] * count
            for j in reversed(range(count)):
                hat[j] = rate[j] * mean[j] + t * drift[j]
                log_change = omega[j]
                if j + 1 < count:
                    hat[j] += t * value[j] * hat[j + 1]
                    log_change += kappa[j] * hat[j + 1]
                hat_precision[j] = 1 / (1 / precision[j] + t * mp.exp(log_change))
            old = precision
            mean, precision = list(hat), list(hat_precision)
            surprise = mp.mpf(0)
            if x is not None:
                if kind == "continuous":
                    precision[0] = hat_precision[0] + noise
                    mean[0] = hat[0] + noise / precision[0] * (x - hat[0])
                    spread = 1 / hat_precision[0]
                    spread += 1 / noise if predictive == "input" else 0
                    surprise = mp.log(2 * mp.pi * spread) + (x - hat[0]) ** 2 / spread
                    surprise /= 2
                else:
                    p = 1 / (1 + mp.exp(-hat[0]))
                    p = min(max(p, mp.mpf("1e-6")), 1 - mp.mpf("1e-6"))
                    precision[0] = hat_precision[0] + p * (1 - p)
                    mean[0] = hat[0] + (x - p) / precision[0]
                    surprise = -mp.log(p if x else 1 - p)
                for j in range(1, count):
                    change = mean[j - 1] - hat[j - 1]
                    weight = t * value[j - 1]
                    folded = hat_precision[j] + hat_precision[j - 1] * weight**2
                    start = hat[j] + weight * hat_precision[j - 1] * change / folded
                    beta = 1 / precision[j - 1] + change**2
                    mean[j], precision[j] = _update(
                        update,
                        1 / old[j - 1],
                        beta,
                        kappa[j - 1],
                        omega[j - 1],
                        t,
                        start,
                        folded,
                    )
            means.append([float(m) for m in mean])
            precisions.append([float(p) for p in precision])
            surprises.append(float(surprise))
        return means, precisions, surprises
