"""Chains that start in modes, and NumPyro's NUTS from its default starts.

HMC starts from the modes that the finder lists, chains shared out by weight. R-hat
tells whether chains agree; where modes are not joined it cannot be 1, and the run has
to say so. The distance is that of the shares of draws per mode from the masses.
"""

import importlib
import statistics
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from _bench import Row
from _decent_cem_modes import QUICK, STARTS, WEIGHT, apart, shares
from _decent_cem_posteriors import Posterior, posteriors
from _decent_cem_references import Reference, reference, target_of
from _hmc_common import installed, missing, quality, row

from pyro_geo.density import Target
from pyro_geo.errors import ModesNotJoinedWarning
from pyro_geo.infer import HMC, MCMC, ModeSet, find_modes

CHAINS, DRAWS, WARMUP = 32, 400, 400
JOINED = 1.05  # R-hat below which modes count as joined
R_HAT, APART = "largest R-hat", "share of draws per mode, distance from the masses"
OURS, PEER = "HMC from modes", "NumPyro NUTS, default starts"


class Outcome(NamedTuple):
    """What chains gave: quality, draws per mode, and whether the run speaks up."""

    r_hat: float
    apart: float
    visited: int
    says: bool | None


def measure(quick: bool) -> Iterator[list[Row]]:
    """Run chains from modes and from default starts."""
    chains, draws, warmup = (8, 20, 20) if quick else (CHAINS, DRAWS, WARMUP)
    for name, posterior in posteriors().items():
        if quick and name != QUICK[0]:
            continue
        wanted = reference(name, 40 if quick else STARTS)
        target = target_of(posterior)
        found = from_modes(posterior, target, wanted, chains, draws, warmup)
        rows = rows_of(name, OURS, found, wanted)
        if installed("numpyro"):
            peer = importlib.import_module("_decent_cem_numpyro")
            differ = peer.densities_differ(name, posterior, target)
            assert differ < 1e-6, f"{name}: densities differ by {differ}"
            theirs = peer.default_starts(name, posterior, chains, draws, warmup)
            rows += rows_of(name, PEER, outcome(theirs, target, wanted, None), wanted)
        else:
            rows.append(missing(name, PEER, R_HAT))
        yield rows


def from_modes(
    posterior: Posterior,
    target: Target,
    wanted: Reference,
    chains: int,
    draws: int,
    warmup: int,
) -> Outcome:
    """Start HMC from the modes of seed 0."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        modes: ModeSet = find_modes(
            posterior.model, *posterior.args, dtype=torch.float64
        )
        run = MCMC(
            HMC(posterior.model),
            draws,
            warmup,
            chains,
            seed=0,
            initial_params=modes,
            dtype=torch.float64,
            progress_bar=False,
        ).run(*posterior.args)
        data = run.to_arviz()
    samples = {
        site: np.asarray(data["posterior"][site]) for site in target.layout.sites
    }
    says = any(issubclass(w.category, ModesNotJoinedWarning) for w in heard)
    return outcome(samples, target, wanted, says)


def outcome(
    samples: Mapping[str, np.ndarray],
    target: Target,
    wanted: Reference,
    says: bool | None,
) -> Outcome:
    """Judge draws, site to `(chains, draws, *shape)`."""
    values = {site: torch.tensor(x) for site, x in samples.items()}
    q = target.unconstrain(values).flatten(0, 1)
    q = q[q.isfinite().all(-1)]
    found = shares(wanted, q, torch.full((len(q),), 1 / len(q)))
    visited = int((found > 0.002)[wanted.weights > WEIGHT].sum())
    return Outcome(quality(samples).r_hat, float(apart(found, wanted)), visited, says)


def rows_of(name: str, method: str, found: Outcome, wanted: Reference) -> list[Row]:
    """Make the rows of a run of chains."""
    heavy = int((wanted.weights > WEIGHT).sum())
    note = {True: "says that modes are not joined", False: "says nothing"}
    more = {} if found.says is None else {"says": found.says, "note": note[found.says]}
    return [
        row(name, method, R_HAT, found.r_hat, "", **more),
        row(name, method, APART, found.apart, ""),
        row(name, method, "modes visited", found.visited, f"of {heavy}"),
    ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Count posteriors whose chains agree or say that they do not."""
    chains = [r for r in rows if r.get("part") == "chains"]
    table = {(r["case"], r["method"], r["metric"]): r for r in chains}
    own = [r for r in chains if (r["method"], r["metric"]) == (OURS, R_HAT)]
    if not own:
        return {}
    result: dict[str, float] = {
        "chains/joined_or_said": sum(
            r["says"] or (r["value"] is not None and r["value"] < JOINED) for r in own
        ),
        "chains/posteriors": len(own),
    }
    both = [r["case"] for r in own if (r["case"], PEER, APART) in table]
    for key, method in (("ours", OURS), ("numpyro", PEER)):
        gaps = [table[case, method, APART]["value"] for case in both]
        if gaps:
            result[f"chains/distance_from_masses/{key}"] = statistics.median(gaps)
    if both:
        theirs = [table[case, PEER, R_HAT]["value"] for case in both]
        result["chains/numpyro_not_joined"] = sum(
            value is None or value >= JOINED for value in theirs
        )
    return result
