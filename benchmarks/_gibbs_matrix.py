"""Part `matrix`: completing a matrix, beside the bound by covering numbers.

The excess risk of a 10 x 10 matrix of rank 2, its factors of rank 4, noise known. The
bound by covering numbers is the classical one for matrices of bounded rank: a net of
the factors, a union over it, Bernstein's inequality at each point.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from _bench import Row, load
from _gibbs_common import DELTA, OURS, SEEDS, Clock, seed_rows
from torch import Tensor

from pyro_geo.infer import GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import certify

CASE = "matrix completion"
SIZES = (500, 2_000, 8_000)


def measure(quick: bool) -> Iterator[list[Row]]:
    """Certify with more and more entries."""
    module = load("matrix_completion")
    for n in (100,) if quick else SIZES:
        values: dict[str, list[float]] = {"excess risk, bound": [], "excess risk": []}
        clocks = []
        for seed in SEEDS[:1] if quick else SEEDS:
            with Clock() as clock:
                bound, true = one(module, n, seed, quick)
            values["excess risk, bound"].append(bound)
            values["excess risk"].append(true)
            clocks.append(clock.cpu)
            print(f"{CASE}, n = {n}, seed {seed}: {bound:.4f} ({true:.4f})", flush=True)
        case = f"{CASE}, n = {n}"
        rows = seed_rows(case, f"{OURS}, Gibbs ensemble", values, clocks)
        covering = covering_bound(module, n)
        yield [
            *rows,
            {
                "case": case,
                "method": "covering numbers",
                "metric": "excess risk, bound",
                "value": float(f"{covering:.5g}"),
                "unit": "",
            },
        ]


def one(module: Any, n: int, seed: int, quick: bool) -> tuple[float, float]:
    """Bound and true excess risk of the re-weighted ensemble."""
    row, column, y = module.entries(n, seed)
    arguments = (row, column, y)
    gibbs = GibbsModel(module.model, module.loss)
    # the likelihood's own temperature is 1 / (2 noise^2) = 2
    posterior = GibbsPosterior(
        gibbs,
        betas=(0.25, 0.5, 1.0, 2.0)[: 1 if quick else 4],
        num_particles=16 if quick else 128,
        num_leapfrog=10,
        seed=seed,
        progress_bar=False,
    ).run(arguments, y)
    found = certify(
        posterior.codebook(),
        module.loss,
        (arguments, y),
        bound="squared_excess",
        limit=module.BOUND,
        noise=module.NOISE,
        delta=DELTA,
    )
    assert found.log_rho is not None
    book = posterior.codebook()
    sites = posterior.target.constrain(book.q)
    matrices = (sites["u"] @ sites["v"].mT).clamp(-module.BOUND, module.BOUND)
    gaps = (matrices - truth(module).double()).square().mean((1, 2))
    return found.value, float(found.log_rho.exp() @ gaps)


def truth(module: Any) -> Tensor:
    """The matrix to be completed."""
    factors = module.truth()
    return factors["u"] @ factors["v"].mT


def covering_bound(module: Any, n: int) -> float:
    r"""Excess risk of least squares over matrices of bounded rank.

    .. math:: \min_{\epsilon, \omega} \; \frac{\log N(\epsilon) + \log(1/\delta)}
              {n \kappa(\omega)} + 8 B \epsilon

    with `log N = rank (rows + columns + 1) log(9 B / epsilon)` (Candes and Plan 2011,
    lemma 3.1), a union over the net and the moment condition that our own bound rests
    on, its temperature chosen for nothing.
    """
    size, rank, limit = module.SIZE, module.FACTORS, module.BOUND
    omega = torch.linspace(0.05, 0.95, 19, dtype=torch.float64) / (2 * module.NOISE**2)
    c = omega * (1 - 2 * omega * module.NOISE**2)
    kappa = float((-torch.expm1(-4 * c * limit**2) / (4 * limit**2)).max())
    radii = torch.logspace(-6, 0, 400, dtype=torch.float64)
    nets = rank * (2 * size + 1) * torch.log(9 * limit / radii)
    bounds = (nets + math.log(1 / DELTA)) / (n * kappa) + 8 * limit * radii
    return float(bounds.min())
