"""One in a hundred of 10,000 rows deleted from draws, beside a refit without them.

Errors are those of the posterior means, root mean square over coordinates, in posterior
standard deviations, against a long run on the rows that stay.
"""

import time
from collections.abc import Iterator, Sequence

import torch
from _bench import Row
from _unlearning_common import logistic, median, row, sample, values
from torch import Tensor

from pyro_geo import Target
from pyro_geo.results import PosteriorDraws
from pyro_geo.unlearning import delete_draws


def rows_of(count: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """A logistic regression with correlated columns."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator)
    x = x + 0.5 * torch.randn(count, 1, generator=generator)
    w = torch.linspace(-1, 1, dim)
    y = torch.rand(count, generator=generator) < torch.sigmoid(x @ w)
    return x, y.double()


def moments(fit: PosteriorDraws) -> tuple[Tensor, Tensor]:
    """Mean and standard deviations."""
    q = fit.positions.flatten(0, 1)
    weights = torch.full((len(q),), 1 / len(q))
    if fit.log_weights is not None:
        weights = fit.log_weights.softmax(0)
    loc = weights @ q
    return loc, (weights @ (q - loc).square()).sqrt()


def measure(quick: bool) -> Iterator[list[Row]]:
    """Delete and refit with several seeds."""
    count, dim = (400, 3) if quick else (10_000, 10)
    samples, warmup, chains = (30, 30, 2) if quick else (1000, 500, 4)
    for seed in range(1 if quick else 3):
        x, y = rows_of(count, dim, seed)
        generator = torch.Generator().manual_seed(seed)
        gone = torch.randperm(count, generator=generator)[: count // 100]
        stay = torch.ones(count, dtype=torch.bool)
        stay[gone] = False
        fit = sample(Target.from_model(logistic, x, y), samples, warmup, chains, seed)
        case = f"{count} rows"
        rows = []
        timed = time.process_time()
        less = delete_draws(fit, gone)
        spent = time.process_time() - timed
        timed = time.process_time()
        fewer = Target.from_model(logistic, x[stay], y[stay])
        again = sample(fewer, samples, warmup, chains, seed + 100)
        refit = time.process_time() - timed
        long = sample(fewer, 2 * samples, warmup, 2 * chains, seed + 200)
        truth, sd = moments(long)
        for name, result, seconds in (
            ("delete_draws", less, spent),
            ("refit", again, refit),
            ("none", fit, 0.0),
        ):
            loc, spread = moments(result)
            off = float(((loc - truth) / sd).square().mean().sqrt())
            wide = float((spread / sd - 1).abs().max())
            rows.append(row(case, name, "error of means", off, "sd", seed=seed))
            rows.append(row(case, name, "error of sds", wide, "relative", seed=seed))
            rows.append(row(case, name, "processor time", seconds, "s", seed=seed))
        facts = less.attributes
        for name in ("khat", "ess"):
            number = float(facts[name])
            extra = {"seed": seed, "rung": facts["rung"]}
            rows.append(row(case, "delete_draws", name, number, "", **extra))
        yield rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Compare times and errors, medians over seeds."""
    found = {}
    for key, metric in (("time", "processor time"), ("error", "error of means")):
        ours = values(rows, method="delete_draws", metric=metric)
        theirs = values(rows, method="refit", metric=metric)
        if ours:
            shares = [a / b for a, b in zip(ours, theirs, strict=True)]
            found[f"delete_draws/refit_{key}"] = median(shares)
    return found
