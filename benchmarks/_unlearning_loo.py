"""Leave-one-out of a Poisson regression whose counts are overdispersed, with outliers.

The data are made like those on roaches in flats of Gelman & Hill (2007): 262 flats,
counts after days of trapping, the count before treatment, and more spread than a
Poisson distribution has. The counts are twice as large as there, so that more rows have
a heavy tail. Exact values of the worst rows are ratios of normalisers, by importance
sampling around the modes.
"""

import math
import time
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from _bench import Row
from _unlearning_common import median, row, sample, values
from torch import Tensor

from pyro_geo import Target
from pyro_geo.errors import UnreliableWeightsWarning
from pyro_geo.evaluation.loo import loo
from pyro_geo.geometry.laplace import laplace
from pyro_geo.optim.descent import lbfgs

ROWS = 262
WORST = 5  # rows that are looked at


def model(x: Tensor, exposure: Tensor, y: Tensor) -> None:
    """Poisson regression with an exposure."""
    b = pyro.sample("b", dist.Normal(torch.zeros(x.shape[1]), 2.5).to_event(1))
    with pyro.plate("flats", len(y)):
        pyro.sample("y", dist.Poisson(exposure * (x @ b).exp()), obs=y)


def flats(seed: int, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Columns, exposures and counts."""
    generator = torch.Generator().manual_seed(seed)
    # hundreds of roaches before treatment: none in many flats, 4.5 at most
    before = 0.25 * torch.randn(rows, generator=generator).mul(1.2).exp()
    before = before * (torch.rand(rows, generator=generator) < 0.75)
    treated = (torch.rand(rows, generator=generator) < 0.6).double()
    senior = (torch.rand(rows, generator=generator) < 0.3).double()
    x = torch.stack([torch.ones(rows), before.clamp(max=4.5), treated, senior], 1)
    # trap days of most flats were as planned
    exposure = torch.randn(rows, generator=generator).mul(0.25).exp()
    rate = exposure * (x @ torch.tensor([3.9, 0.7, -0.5, -0.4])).exp()
    # a negative binomial of size 0.3 has a variance of mean + mean^2 / 0.3
    size = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spread = torch.distributions.Gamma(size, size).sample((rows,))
        y = torch.poisson(rate * spread).clamp(max=720.0)  # traps take no more
    return x, exposure, y


def evidence(target: Target) -> float:
    """Logarithm of the normaliser, by Student draws around the mode."""

    def loss(q: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = target.value_and_grad(q)
        return -value, -slope

    mode = lbfgs(loss, torch.zeros(1, target.dim), 300)[0].detach()
    precision = laplace(target, mode, curvature="hessian").precision.dense()
    cov = 1.2 * torch.linalg.inv(precision)
    proposal = dist.MultivariateStudentT(
        torch.tensor(7.0), mode, torch.linalg.cholesky(cov)
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        q = proposal.sample((20_000,))
        weights = target.log_prob(q) - proposal.log_prob(q)
    return float(weights.logsumexp(0)) - math.log(len(q))


def exact(data: tuple[Tensor, Tensor, Tensor], place: int) -> float:
    """Log-density of one row given all others, a ratio of normalisers."""
    keep = [i for i in range(len(data[-1])) if i != place]
    x, exposure, y = (part[keep] for part in data)
    fewer = Target.from_model(model, x, exposure, y, compile=False)
    whole = Target.from_model(model, *data, compile=False)
    return evidence(whole) - evidence(fewer)


def measure(quick: bool) -> Iterator[list[Row]]:
    """Leave every row out, with and without moments matched."""
    sizes = (100, 100, 2) if quick else (1000, 500, 4)
    for seed in range(1 if quick else 3):
        data = flats(seed, 40 if quick else ROWS)
        target = Target.from_model(model, *data)
        timed = time.process_time()
        fit = sample(target, *sizes, seed)
        refit = time.process_time() - timed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableWeightsWarning)
            timed = time.process_time()
            raw = loo(fit)
            plain = time.process_time() - timed
            timed = time.process_time()
            matched = loo(fit, moment_match=True)
            moved = time.process_time() - timed
        case, rows = f"{len(data[-1])} flats", []
        before, after = len(raw.bad), len(matched.bad)
        each = (moved - plain) / max(1, before)
        for method, metric, value, unit in (
            ("PSIS", "khat above the limit", before, "rows"),
            ("moment matching", "khat above the limit", after, "rows"),
            ("moment matching", "largest khat", np.max(matched.table["khat"]), ""),
            ("PSIS", "largest khat", np.max(raw.table["khat"]), ""),
            ("PSIS", "elpd", raw.elpd, "nats"),
            ("moment matching", "elpd", matched.elpd, "nats"),
            ("moment matching", "processor time of a row", each, "s"),
            ("refit", "processor time", refit, "s"),
        ):
            rows.append(row(case, method, metric, value, unit, seed=seed))
        order = np.argsort(-np.asarray(raw.table["khat"]))[:WORST]
        for place in order.tolist():
            truth = exact(data, place)
            for method, found in (("PSIS", raw), ("moment matching", matched)):
                off = abs(float(found.table["elpd"].iloc[place]) - truth)
                rows.append(
                    row(case, method, "error of a worst row", off, "nats", seed=seed)
                )
        yield rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Rows not to be trusted before and after: the fewest, and the most."""
    metric = "khat above the limit"
    before = values(rows, method="PSIS", metric=metric)
    if not before:
        return {}
    after = values(rows, method="moment matching", metric=metric)
    times = zip(
        values(rows, metric="processor time of a row"),
        values(rows, method="refit", metric="processor time"),
        strict=True,
    )
    error = "error of a worst row"
    return {
        "loo_bad_khat/before": min(before),
        "loo_bad_khat/after_moment_matching": max(after),
        "loo_row/refit_time": median([a / b for a, b in times]),
        "loo_worst_rows/error": median(
            values(rows, method="moment matching", metric=error)
        ),
        "loo_worst_rows/error_without": median(
            values(rows, method="PSIS", metric=error)
        ),
    }
