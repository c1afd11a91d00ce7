"""Guides after deletion against guides trained without the data (breast cancer).

Divergences are from each normal distribution to that of variational inference on the
data that stay, both at the fixed point of their own expected gradients and Hessians.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from _bench import Row
from _unlearning_common import (
    influence,
    logistic,
    median,
    row,
    values,
    whitened_cancer,
)
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

from pyro_geo import Target
from pyro_geo.evaluation.moment_matching import match_moments
from pyro_geo.geometry.curvature import Hessian
from pyro_geo.ops.random import normal_points
from pyro_geo.ops.weights import khat, smooth
from pyro_geo.unlearning import delete_sites

SETS = ("random 5%", "random 20%", "5% of highest influence")
DRAWS = 4000


class Normal(NamedTuple):
    """Mean and precision."""

    loc: Tensor
    precision: Tensor

    def kl(self, other: "Normal") -> float:
        """Divergence from this one to the other, in nats."""
        ratio = torch.linalg.solve(self.precision, other.precision)
        apart = self.loc - other.loc
        quadratic = apart @ other.precision @ apart
        value = ratio.trace() + quadratic - len(apart) - torch.logdet(ratio)
        return float(0.5 * value)


def train(target: Target, start: Normal, points: int) -> list[Normal]:
    """Natural-gradient steps to the optimum, all of them."""
    noise, path = normal_points(len(start.loc), points, 0), [start]
    for _ in range(200):
        loc, precision = path[-1]
        root = torch.linalg.cholesky(torch.linalg.inv(precision))
        q = loc + noise @ root.mT
        slope = target.value_and_grad(q)[1].mean(0)
        new = 0.5 * precision + 0.5 * Hessian(target, q).dense().mean(0)
        path.append(Normal(loc + 0.5 * torch.linalg.solve(new, slope), new))
        if path[-1].kl(path[-2]) < 1e-14:
            return path
    raise RuntimeError("variational inference has not converged")


def guide_at(q: Normal, x: Tensor, y: Tensor) -> Any:
    """An AutoMultivariateNormal with this mean and precision."""
    guide = AutoMultivariateNormal(logistic)
    guide(x, y)
    root = torch.linalg.cholesky(torch.linalg.inv(q.precision))
    with torch.no_grad():
        guide.loc.copy_(q.loc)
        guide.scale = root.diagonal().clone()
        guide.scale_tril = root / root.diagonal()[:, None]
    return guide


def forget_set(kind: str, x: Tensor, y: Tensor, loc: Tensor, seed: int) -> Tensor:
    """Rows to delete."""
    if "influence" in kind:
        return influence(x, y, loc).topk(len(y) // 20).indices.sort().values
    count = len(y) // 20 if "5%" in kind else len(y) // 5
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(y), generator=generator)[:count].sort().values


def by_draws(whole: Target, fewer: Target, q: Normal, seed: int) -> dict[str, Any]:
    """Moments of weighted draws of a guide, plain and moved, and the tail."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(DRAWS, len(q.loc), generator=generator)
    draws = q.loc + noise @ torch.linalg.cholesky(torch.linalg.inv(q.precision)).mT
    with torch.no_grad():
        goes = whole.log_likelihood(draws) - fewer.log_likelihood(draws)

    def sampled(rows: Tensor) -> Tensor:  # the guide, which was drawn from
        apart = rows - q.loc
        return -0.5 * ((apart @ q.precision) * apart).sum(1)

    def wanted(rows: Tensor) -> Tensor:  # the guide without the data
        with torch.no_grad():
            gone = whole.log_likelihood(rows) - fewer.log_likelihood(rows)
        return sampled(rows) - gone

    moved = match_moments(draws, sampled, wanted)
    return {
        "PSIS": moments(draws, smooth(-goes)[0].exp()),
        "moment matching": moments(moved.q, moved.log_weights.exp()),
        "khat": khat(-goes),
    }


def moments(q: Tensor, weights: Tensor) -> Normal:
    """Normal distribution with the moments of weighted draws."""
    loc = weights @ q
    spread = (weights[:, None] * (q - loc)).mT @ (q - loc)
    return Normal(loc, torch.linalg.inv(spread))


def steps_to(path: Sequence[Normal], truth: Normal) -> int:
    """Steps until the divergence to the optimum is below 1e-6."""
    return next(i for i, q in enumerate(path) if q.kl(truth) < 1e-6)


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure every forget set, with several seeds for the random ones."""
    x, y = whitened_cancer(3 if quick else 8)
    points = 64 if quick else 1024
    whole = Target.from_model(logistic, x, y, compile=False)
    prior = Normal(torch.zeros(x.shape[1]), torch.eye(x.shape[1]))
    fit = train(whole, prior, points)[-1]
    guide = guide_at(fit, x, y)
    for kind in SETS[:1] if quick else SETS:
        for seed in range(1 if quick or "influence" in kind else 3):
            gone = forget_set(kind, x, y, fit.loc, seed)
            stay = torch.ones(len(y), dtype=torch.bool)
            stay[gone] = False
            fewer = Target.from_model(logistic, x[stay], y[stay], compile=False)
            truth = train(fewer, fit, points)[-1]
            one = delete_sites(logistic, guide, x, y, forget=gone, seed=seed)
            eubo, far = (
                delete_sites(
                    logistic,
                    guide,
                    *(x, y),
                    forget=gone,
                    steps=100,
                    step_size=0.5,
                    cutoff=cutoff,
                    seed=seed,
                )
                for cutoff in (1e-3, 0.0)
            )
            found = by_draws(whole, fewer, fit, seed)
            removed = Normal(one.loc, one.precision.dense())
            normals = {
                "none": fit,
                "site removal": removed,
                "EUBO": Normal(eubo.loc, eubo.precision.dense()),
                "EUBO without cut-off": Normal(far.loc, far.precision.dense()),
                "PSIS": found["PSIS"],
                "moment matching": found["moment matching"],
            }
            rows = [
                row(kind, name, "divergence", q.kl(truth), "nats", seed=seed)
                for name, q in normals.items()
            ]
            shape = one.leverage.leverage
            rows.append(row(kind, "leverage", "h", shape, "", seed=seed))
            rows.append(row(kind, "PSIS", "khat", found["khat"], "", seed=seed))
            for name, start in (("warm", removed), ("old", fit), ("cold", prior)):
                count = steps_to(train(fewer, start, points), truth)
                rows.append(row(kind, name, "iterations", count, "", seed=seed))
            yield rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Compare divergences after and before deletion, medians over forget sets."""
    found = {}
    names = ("site removal", "EUBO", "EUBO without cut-off", "PSIS", "moment matching")
    for name in names:
        pairs = zip(
            values(rows, method=name, metric="divergence"),
            values(rows, method="none", metric="divergence"),
            strict=True,
        )
        shares = [after / before for after, before in pairs]
        if shares:
            found[f"kl_to_retrained/{name.replace(' ', '_')}"] = median(shares)
    return found
