"""Tails of deletion weights, predicted from a Laplace approximation before any draw.

Forget sets are random shares of the patients, and shares of those with the highest
influence, whose deletion is hardest.
"""

from collections.abc import Iterator, Sequence

import torch
from _bench import Row
from _unlearning_common import (
    influence,
    logistic,
    median,
    records,
    row,
    sample,
    values,
)
from torch import Tensor

from pyro_geo import Target
from pyro_geo.geometry.laplace import laplace
from pyro_geo.ops.weights import khat
from pyro_geo.optim.descent import lbfgs
from pyro_geo.unlearning import leverage

CASES = ("breast_cancer", "hiv_trial", "tumour_trial")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
HIGH = (0.005, 0.01, 0.02, 0.03, 0.05)
DRAWS = 4000
RUNS = 8  # of the sampler: the shape of one run has an error of its own


def mode_of(target: Target) -> Tensor:
    """The posterior mode."""

    def loss(q: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = target.value_and_grad(q)
        return -value, -slope

    return lbfgs(loss, torch.zeros(1, target.dim), 300)[0].detach()


def forget_sets(x: Tensor, y: Tensor, loc: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Ten sets of rows with their names."""
    generator = torch.Generator().manual_seed(0)
    for share in SHARES:
        count = max(1, round(share * len(y)))
        rows = torch.randperm(len(y), generator=generator)[:count]
        yield f"random {share:.1%}", rows.sort().values
    order = influence(x, y, loc).argsort(descending=True)
    for share in HIGH:
        count = max(1, round(share * len(y)))
        yield f"highest influence {share:.1%}", order[:count].sort().values


def measure(quick: bool) -> Iterator[list[Row]]:
    """Predict and measure every set of every case."""
    for case in CASES[:1] if quick else CASES:
        x, y = records(case)
        target = Target.from_model(logistic, x, y)
        mode = mode_of(target)
        normal = laplace(target, mode, curvature="hessian")
        chains = 2 if quick else 8
        draws = 200 if quick else DRAWS
        runs = []
        for seed in range(2 if quick else RUNS):
            fit = sample(target, draws // chains, 100 if quick else 400, chains, seed)
            q = fit.positions.flatten(0, 1)
            with torch.no_grad():
                runs.append(target.pointwise_log_likelihood(q)["y"])
        rows = []
        for name, gone in forget_sets(x, y, mode):
            found = leverage(normal, gone, target=target)
            shapes_of_runs = [khat(-each[:, gone].sum(1)) for each in runs]
            measured, again = shapes_of_runs[:2]
            mean = sum(shapes_of_runs) / len(shapes_of_runs)
            shapes = {
                "leverage": found.leverage,
                "predicted": found.khat(draws),
                "another run": again,
                "measured": measured,
                "mean of runs": mean,
            }
            for method, value in shapes.items():
                rows.append(row(case, method, "khat", value, "", forget=name))
            for method in ("leverage", "predicted", "another run"):
                for metric, value in (("error", measured), ("error of mean", mean)):
                    error = abs(shapes[method] - value)
                    rows.append(row(case, method, metric, error, "", forget=name))
        yield rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Median errors of the prediction, and of the leverage alone."""
    found = {}
    for method, metric, key in (
        ("predicted", "error", "khat_prediction_error"),
        ("predicted", "error of mean", "khat_prediction_error/mean_of_runs"),
        ("another run", "error", "khat_error/another_run"),
        ("leverage", "error", "khat_error/leverage_alone"),
    ):
        errors = values(rows, method=method, metric=metric)
        if errors:
            found[key] = median(errors)
    return found
