"""Parts `posteriors`, `pyro` and `chains`: min-ESS per processor second of sampling.

Thirteen posteriors of posteriordb in double precision on one thread; Lotka-Volterra is
left out. Ours and NumPyro's runs take turns, each with a seed and a warm-up of its own;
Pyro runs once. The peers run with a diagonal and with a dense metric.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from _bench import Row
from _hmc_common import (
    DRAWS,
    NUMPYRO,
    OURS,
    PYRO,
    RATE,
    REPEATS,
    Run,
    installed,
    missing,
    rate,
    rate_rows,
    row,
)

from pyro_geo.density import Target
from pyro_geo.testing import posteriordb

LEFT_OUT = "hudson_lynx_hare-lotka_volterra"
NAMES = tuple(name for name in posteriordb.POSTERIORS if name != LEFT_OUT)
QUICK = "eight_schools-eight_schools_noncentered"
MANY = (QUICK, "arK-arK", "garch-garch11")  # for the number of chains
CHAINS = (1, 4, 16, 64, 256)
HEADLINE = 64
PYRO_DRAWS = 1000
# processor seconds by metric: where a diagonal one takes longer, it is the worse
PYRO_LIMIT = {"dense": 150.0, "diagonal": 50.0}
PYRO_PATIENCE = 900.0  # where no metric has come through its warm-up
REPEAT_LIMIT = 120.0  # a peer isn't repeated beyond it

Runs = Callable[[int], Run]  # of a seed


def cases(quick: bool) -> tuple[str, ...]:
    """Posteriors to measure: none where their folder is missing, which is said."""
    if posteriordb.folder() is None:
        print("no posteriordb folder: set PDB_PATH", flush=True)
        return ()
    return (QUICK,) if quick else NAMES


def target_of(name: str, quick: bool) -> Target:
    """Make a posterior's density, compiled except in a quick run."""
    posterior = posteriordb.load(name)
    return Target.from_model(
        posterior.model, *posterior.args, dtype=torch.float64, compile=not quick
    )


def measure(quick: bool) -> Iterator[list[Row]]:
    """Compare ours with NumPyro, one posterior after the other."""
    for name in cases(quick):
        yield compare(name, quick)


def compare(name: str, quick: bool) -> list[Row]:
    """Measure one posterior."""
    draws = 40 if quick else DRAWS
    ours = our_runs(target_of(name, quick), HEADLINE, draws, quick)
    if installed("numpyro"):
        return take_turns(name, ours, numpyro_runs(name, draws, quick), quick)
    rows = take_turns(name, ours, {}, quick)
    return [*rows, missing(name, NUMPYRO, RATE)]


def take_turns(
    name: str, ours: Runs, peers: Mapping[str, Runs], quick: bool
) -> list[Row]:
    """Try every setting of a peer once, then take turns with the best.

    Args:
        name: of the case.
        ours: our run as a function of the seed.
        peers: NumPyro's, by setting; none where it is missing.
        quick: one repetition.

    Returns:
        The rows of both sides.
    """
    mine = [ours(0)]
    tried = {about: [run(0)] for about, run in peers.items()}
    best = max(tried, key=lambda about: rate(tried[about][0]), default=None)
    for seed in range(1, 1 if quick else REPEATS):
        mine.append(ours(seed))
        if best and spent(tried[best]) < REPEAT_LIMIT:
            tried[best].append(peers[best](seed))
    theirs = [rate_rows(name, NUMPYRO, runs) for runs in tried.values()]
    return [*rate_rows(name, OURS, mine), *(one for rows in theirs for one in rows)]


def spent(runs: list[Run]) -> float:
    """Processor seconds of some runs, compilation apart."""
    phases = ("warm-up", "sampling")
    return sum(run.seconds[phase][0] for run in runs for phase in phases)


def our_runs(target: Target, num_chains: int, num_samples: int, quick: bool) -> Runs:
    """Return our run as a function of the seed."""
    from _hmc_ours import run

    quickly = {"compile": False, "warmup_steps": 60} if quick else {}
    return lambda seed: run(target, num_chains, num_samples, seed, **quickly)


def numpyro_runs(name: str, num_samples: int, quick: bool) -> dict[str, Runs]:
    """Compile NumPyro's sampler with either metric; return runs by setting."""
    from _hmc_density import checked
    from _hmc_numpyro import WARMUP, samplers

    folder = posteriordb.folder()
    assert folder is not None
    model = checked(name, folder)
    warmup = 40 if quick else WARMUP
    return samplers(model, HEADLINE, num_samples, quick, warmup=warmup)


def measure_pyro(quick: bool) -> Iterator[list[Row]]:
    """Run Pyro's NUTS once on each posterior with either metric."""
    from _hmc_pyro import run

    few: dict[str, Any] = {"warmup": 20} if quick else {}
    for name in cases(quick):
        posterior = posteriordb.load(name)
        once = partial(
            run, posterior.model, posterior.args, 40 if quick else PYRO_DRAWS, **few
        )
        metrics = ("diagonal",) if quick else ("dense", "diagonal")
        runs = [once(dense=m == "dense", limit=PYRO_LIMIT[m]) for m in metrics]
        if all(one.failed for one in runs):
            runs.append(once(dense=True, limit=PYRO_PATIENCE))
        yield [one for found in runs for one in rate_rows(name, PYRO, [found])]


def measure_chains(quick: bool) -> Iterator[list[Row]]:
    """Ours with few and many chains; fewer chains make more draws each."""
    for name in MANY:
        if name not in cases(quick):
            continue
        target = target_of(name, quick)
        rows, rates = [], {}
        for chains in (1, 4) if quick else CHAINS:
            draws = 40 if quick else max(DRAWS, 4000 // chains)
            one = our_runs(target, chains, draws, quick)
            runs = [one(seed) for seed in range(1 if quick else REPEATS)]
            rows += rate_rows(name, OURS, runs)
            rates[chains] = statistics.median(rate(run) for run in runs)
        most, least = max(rates), min(rates)
        gain = rates[most] / rates[least]
        metric = f"{most} chains over {least}, min-ESS per processor second"
        yield [*rows, row(name, OURS, metric, gain, "")]
