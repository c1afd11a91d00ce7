"""What the parts of the unlearning benchmark share: records, fits and rows."""

import importlib
import statistics
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from _bench import Row, load
from torch import Tensor

from pyro_geo import Target
from pyro_geo.infer import HMC, MCMC


def logistic(x: Tensor, y: Tensor) -> None:
    """Logistic regression with standard normal priors."""
    prior = dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1)
    w = pyro.sample("w", prior)
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def whitened_cancer(components: int = 8) -> tuple[Tensor, Tensor]:
    """Principal components of the breast-cancer measurements, of variance 1."""
    records = importlib.import_module("sklearn.datasets").load_breast_cancer()
    x = torch.tensor(records.data)
    x = (x - x.mean(0)) / x.std(0)
    left, _, _ = torch.linalg.svd(x, full_matrices=False)
    x = left[:, :components] * (len(x) - 1) ** 0.5
    return x, torch.tensor(records.target).double()


def records(case: str) -> tuple[Tensor, Tensor]:
    """Records of patients, with a column of ones."""
    if case == "breast_cancer":
        return whitened_cancer()
    x, y = load(case).data()[:2]
    x = x.double()
    return torch.cat([torch.ones(len(x), 1), x], 1), y.double()


def sample(target: Target, samples: int, warmup: int, chains: int, seed: int) -> MCMC:
    """Draw from a posterior."""
    run = MCMC(
        HMC(target),
        samples,
        warmup,
        chains,
        seed=seed,
        compile=False,
        progress_bar=False,
    )
    return run.run()


def influence(x: Tensor, y: Tensor, loc: Tensor) -> Tensor:
    """Pull of each row on the fit, times how much of it is its own, `(rows,)`."""
    p = torch.sigmoid(x @ loc)
    precision = torch.eye(x.shape[1]) + x.mT @ (x * (p * (1 - p))[:, None])
    step = torch.linalg.solve(precision, (x * (y - p)[:, None]).mT)
    return (step * (precision @ step)).sum(0)


def row(
    case: str, method: str, metric: str, value: float, unit: str, **more: Any
) -> Row:
    """One measurement, printed as it comes."""
    print(f"{case}: {method}, {metric} {value:.4g} {unit}", flush=True)
    found = {"case": case, "method": method, "metric": metric}
    return {**found, "value": float(value), "unit": unit, **more}


def values(rows: Sequence[Row], **wanted: Any) -> list[float]:
    """Values of the rows that have these entries."""
    return [
        r["value"] for r in rows if all(r.get(name) == x for name, x in wanted.items())
    ]


def median(found: Sequence[float]) -> float:
    """Median of some numbers."""
    return statistics.median(found)
