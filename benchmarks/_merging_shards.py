"""Logistic regressions on shards of patients, combined, against all patients at once.

Divergences are from the posterior of all data (moments of long HMC runs, corrected for
their bias) to each combination. NumPyro gets draws of the same samplers. Its
`consensus` and `parametric` divide by no prior, so each is given twice: on draws of
shards that hold the whole prior, which are those that ours gets, and on draws of shards
with the prior to the power 1/K, for which it is made.
"""

import importlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from _bench import Row, load
from torch import Tensor

from pyro_geo import Target
from pyro_geo.geometry.laplace import laplace
from pyro_geo.infer import HMC, MCMC
from pyro_geo.optim.descent import lbfgs
from pyro_geo.summaries import GaussianPosterior, combine, compare, consensus

SHARDS = (2, 4, 8)
FULL = "all data"
OURS = "expected-Hessian product"
MOMENTS = "product of draws' moments"
CONSENSUS = "NumPyro consensus"
PARAMETRIC = "NumPyro parametric"
FRACTIONS = ", prior to the power 1/K"
GATE = "Laplace product"


class Sizes(NamedTuple):
    """Draws of one run."""

    chains: int
    samples: int
    warmup: int
    points: int


def model(x: Tensor, y: Tensor, power: float = 1.0) -> None:
    """Logistic regression, its standard normal prior to a power."""
    scale = power**-0.5
    prior = dist.Normal(torch.zeros(x.shape[-1]), scale).to_event(1)
    intercept = pyro.sample("intercept", dist.Normal(torch.zeros(()), scale))
    weights = pyro.sample("weights", prior)
    with pyro.plate("rows", len(y)):
        logits = intercept + (x * weights).sum(-1)
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def data_of(case: str) -> tuple[Tensor, Tensor]:
    """All records of a case."""
    if case != "breast_cancer":
        return load(case).data()
    file = load("logistic_breast_cancer")
    x, y = file.split(0)
    return (x - x.mean(0)) / x.std(0), y


def sample(x: Tensor, y: Tensor, sizes: Sizes, seed: int, power: float = 1.0) -> Any:
    """Draw from a posterior."""
    run = MCMC(
        HMC(model),
        sizes.samples,
        sizes.warmup,
        sizes.chains,
        seed=seed,
        compile=False,
        progress_bar=False,
    )
    return run.run(x, y, power)


def laplace_of(target: Target) -> GaussianPosterior:
    """Find the mode, and take the Hessian there."""

    def loss(q: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = target.value_and_grad(q)
        return -value, -slope

    mode = lbfgs(loss, torch.zeros(1, target.dim), 500)[0]
    normal = laplace(target, mode, curvature="hessian", flat="refuse")
    return GaussianPosterior(normal.mean, normal.precision, target.layout)


def numpyro_products(draws: Sequence[Any], layout: Any) -> dict[str, GaussianPosterior]:
    """Combine draws as NumPyro does; empty where it is not installed."""
    try:
        jax: Any = importlib.import_module("jax")
        util: Any = importlib.import_module("numpyro.infer.hmc_util")
    except ImportError:
        return {}
    jax.config.update("jax_enable_x64", True)
    shards = [
        {name: x.numpy() for name, x in run.get_samples().items()} for run in draws
    ]
    merged = {
        name: torch.tensor(x.tolist()) for name, x in util.consensus(shards).items()
    }
    count = len(merged["intercept"])
    mean, covariance = (torch.tensor(x.tolist()) for x in util.parametric(shards))
    # JAX flattens dictionaries in the order of their keys, as our layouts have them
    return {
        CONSENSUS: GaussianPosterior.from_samples(merged, layout, ess=float(count)),
        PARAMETRIC: GaussianPosterior.from_moments(mean, covariance, layout),
    }


def combinations(
    parts: list[tuple[Tensor, Tensor]], sizes: Sizes, seed: int
) -> dict[str, GaussianPosterior]:
    """Combine the posteriors of shards in every way."""
    targets = [Target.from_model(model, *part, compile=False) for part in parts]
    prior = GaussianPosterior.from_prior(model, *parts[0])
    points = [
        GaussianPosterior.from_target(t, num_points=sizes.points) for t in targets
    ]
    whole = [sample(*part, sizes, seed + k) for k, part in enumerate(parts)]
    share = 1 / len(parts)
    small = [sample(*part, sizes, seed + k, share) for k, part in enumerate(parts)]
    fits = [GaussianPosterior.from_mcmc(run) for run in whole]
    layout = targets[0].layout
    product = combine(points, how="product", prior=prior)
    mean = torch.stack([p.loc for p in points]).mean(0)
    laplaces = [laplace_of(t) for t in targets]
    found = {
        GATE: combine(laplaces, how="product", prior=prior),
        OURS: product,
        f"{OURS}, prior not divided": combine(points, how="product"),
        "averaged means": GaussianPosterior(mean, product.precision, layout),
        MOMENTS: combine(fits, how="product", prior=prior, on_indefinite="clip"),
        f"our consensus{FRACTIONS}": GaussianPosterior.from_samples(
            consensus(small), layout, ess=float(sizes.chains * sizes.samples)
        ),
    }
    found |= numpyro_products(whole, layout)
    fractions = numpyro_products(small, layout)
    return found | {name + FRACTIONS: p for name, p in fractions.items()}


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure each case and number of shards."""
    torch.set_default_dtype(torch.float64)
    sizes = Sizes(4, 60, 60, 64) if quick else Sizes(16, 500, 500, 256)
    cases = (
        ("tumour_trial",) if quick else ("breast_cancer", "hiv_trial", "tumour_trial")
    )
    for case in cases:
        x, y = data_of(case)
        longer = sizes if quick else sizes._replace(samples=4 * sizes.samples)
        full = GaussianPosterior.from_mcmc(sample(x, y, longer, 0))
        target = Target.from_model(model, x, y, compile=False)
        alone = {
            "Laplace": laplace_of(target),
            "expected Hessian": GaussianPosterior.from_target(
                target, num_points=sizes.points
            ),
        }
        yield list(rows_of(f"{case} K=1", full, alone))
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
        for k in SHARDS[:1] if quick else SHARDS:
            start = time.process_time()
            parts = [(x[rows], y[rows]) for rows in order.tensor_split(k)]
            found = combinations(parts, sizes, seed=100 * k)
            yield list(rows_of(f"{case} K={k}", full, found))
            seconds = time.process_time() - start
            print(f"{case} K={k}: {seconds:.0f} processor seconds", flush=True)


def rows_of(
    case: str, full: GaussianPosterior, found: dict[str, GaussianPosterior]
) -> Iterator[Row]:
    """Tabulate divergences and errors of means."""
    table = compare(full, found)
    print(f"-- {case}\n{table.round(3).to_string()}", flush=True)
    units = {"kl": "nat", "mean_error": "sd", "sd_ratio": "1"}
    for method in found:
        for metric, unit in units.items():
            row = {"case": case, "method": method, "metric": metric}
            yield {**row, "value": table[metric].to_dict()[method], "unit": unit}
    if not any(name.startswith("NumPyro") for name in found) and "K=1" not in case:
        nothing = {"case": case, "method": CONSENSUS, "metric": "not installed"}
        yield {**nothing, "value": math.nan, "unit": "1"}


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Compare our products with NumPyro's, and with Laplace approximations.

    Args:
        rows: everything measured.

    Returns:
        Divergences, ours over theirs. `kl_to_full/consensus` is the largest over the
        numbers of shards of breast cancer.
    """
    kl = {(r["case"], r["method"]): r["value"] for r in rows if r["metric"] == "kl"}
    cases = list(dict.fromkeys(case for case, _ in kl if not case.endswith("K=1")))
    pairs = {
        "consensus": (OURS, CONSENSUS),
        "parametric": (OURS, PARAMETRIC),
        "consensus_same_draws": (MOMENTS, CONSENSUS),
        "consensus_fractions": (OURS, CONSENSUS + FRACTIONS),
        "laplace": (OURS, GATE),
    }
    found: dict[str, float] = {}
    for key, (ours, theirs) in pairs.items():
        worst = []
        for case in cases:
            one, two = kl.get((case, ours)), kl.get((case, theirs))
            if one is None or two is None:
                continue
            name, _, k = case.partition(" K=")
            found[f"kl_to_full/{key}/{name}@{k}"] = one / two
            worst.append((name, one / two))
        names = {name for name, _ in worst}
        chosen = "breast_cancer" if "breast_cancer" in names else min(names, default="")
        values = [ratio for name, ratio in worst if name == chosen]
        if values:
            found[f"kl_to_full/{key}"] = max(values)
    return found
