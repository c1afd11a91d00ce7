"""Modes found of eleven posteriors, beside lists made without the search.

The headline is the share of seeds whose list holds every mode of weight above 0.03 of
the reference. Weights are compared as well, by the total variation distance.
"""

import statistics
import warnings
from collections.abc import Iterator

import torch
from _bench import Row
from _decent_cem_posteriors import posteriors
from _decent_cem_references import Reference, reference
from _hmc_common import row
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer import find_modes

WEIGHT = 0.03  # of the reference modes that have to be found
SAME = 0.5  # standard deviations of the reference mode
STARTS = 200
QUICK = ("cauchy", "phase")
FOUND = "share of seeds with every mode above 0.03"


def measure(quick: bool) -> Iterator[list[Row]]:
    """Find modes with many seeds and hold them against the lists."""
    for name, posterior in posteriors().items():
        if quick and name not in QUICK:
            continue
        wanted = reference(name, 40 if quick else STARTS)
        heavy = wanted.weights > WEIGHT
        kept, seconds, errors = [], [], []
        for seed in range(2 if quick else 20):
            before = Seconds.now()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PyroGeoWarning)
                modes = find_modes(
                    posterior.model, *posterior.args, seed=seed, dtype=torch.float64
                )
            seconds.append((Seconds.now() - before).cpu)
            near = (wanted.distances(modes.q) < SAME).any(1)[heavy]
            kept.append(float(near.double().mean()))
            errors.append(float(apart(shares(wanted, modes.q, modes.weights), wanted)))
        complete = statistics.fmean(share == 1.0 for share in kept)
        more = {"seeds": len(kept), "modes": int(heavy.sum()), "how": wanted.how}
        yield [
            row(name, "find_modes", FOUND, complete, "", **more),
            row(name, "find_modes", "share of modes found", statistics.fmean(kept), ""),
            row(
                name,
                "find_modes",
                "weights, distance from the masses",
                statistics.median(errors),
                "",
                worst=max(errors),
            ),
            row(
                name,
                "find_modes",
                "processor",
                statistics.median(seconds),
                "s",
                sd=statistics.stdev(seconds),
                first=seconds[0],
            ),
        ]


def shares(wanted: Reference, q: Tensor, weights: Tensor) -> Tensor:
    """Weight of the positions that each reference mode claims, `(K,)`."""
    half = 0.5 * torch.logdet(wanted.hessian) + wanted.weights.log()
    density = half[:, None] - 0.5 * wanted.distances(q).square()
    total = torch.zeros(len(wanted.q), dtype=weights.dtype)
    return total.index_add(0, density.argmax(0), weights)


def apart(found: Tensor, wanted: Reference) -> Tensor:
    """Total variation distance between shares and masses."""
    return 0.5 * (found - wanted.weights).abs().sum()


def ratios(rows: list[Row]) -> dict[str, float]:
    """Count posteriors whose modes are found, and whose chains are right or say so."""
    result: dict[str, float] = {}
    found = {r["case"]: r["value"] for r in rows if r["metric"] == FOUND}
    if found:
        result["modes_found/all"] = sum(share >= 0.95 for share in found.values())
        result["modes_found/posteriors"] = len(found)
        result["modes_found/worst"] = min(found.values())
    return result
