"""Part `gradients`: min-ESS per gradient beside nutpie on the same density.

nutpie's NUTS with its low-rank metric, the best adaptation there is, and with its
diagonal one. It evaluates our target, one position at a time; every evaluation counts
on both sides, warm-up included, and both keep 10,000 draws.
"""

import importlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from _bench import Row
from _hmc_common import (
    GRADIENT_RATE,
    NUTPIE,
    OURS,
    REPEATS,
    Run,
    gradient_rows,
    installed,
    missing,
)
from _hmc_posteriors import cases, our_runs, target_of

from pyro_geo.density import Target

CHAINS, DRAWS = 16, 625  # ours
PEER_CHAINS, PEER_DRAWS = 10, 1000
LIMIT = 120.0  # processor seconds after which nutpie starts no further chain


class Counted:
    """A log-density with its gradient that counts its calls."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.calls = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.calls += 1
        q = torch.from_numpy(np.array(x, np.float64)).unsqueeze(0)
        value, grad = self._target.value_and_grad(q)
        return float(value), grad[0].numpy()


def measure(quick: bool) -> Iterator[list[Row]]:
    """Compare on one posterior after the other."""
    for name in cases(quick):
        target = target_of(name, quick)
        chains, draws = (CHAINS, 40) if quick else (CHAINS, DRAWS)
        ours = our_runs(target, chains, draws, quick)
        runs = [ours(seed) for seed in range(1 if quick else REPEATS)]
        rows = gradient_rows(name, OURS, runs)
        if not installed("nutpie"):
            yield [*rows, missing(name, f"{NUTPIE}, low-rank", GRADIENT_RATE)]
            continue
        for low_rank in (True, False):
            rows += gradient_rows(name, NUTPIE, [nutpie_run(target, low_rank, quick)])
        yield rows


def nutpie_run(target: Target, low_rank: bool, quick: bool) -> Run:
    """Sample with nutpie, chain after chain until the time is up.

    Args:
        target: the density.
        low_rank: the metric: low-rank or diagonal.
        quick: two short chains.

    Returns:
        The run, with all gradients of its finished chains.
    """
    nutpie: Any = importlib.import_module("nutpie")
    pyfunc: Any = importlib.import_module("nutpie.compiled_pyfunc")
    counted = Counted(target.with_rung("traced" if quick else "compiled"))
    model = pyfunc.from_pyfunc(
        target.dim,
        lambda: counted,
        lambda *_: lambda x: {"q": np.array(x)},
        [np.dtype("float64")],
        [(target.dim,)],
        ["q"],
    )
    counted(np.zeros(target.dim))  # compiles
    counted.calls = 0
    chains, draws = (2, 40) if quick else (PEER_CHAINS, PEER_DRAWS)
    positions, divergences = [], 0
    cpu, wall = time.process_time(), time.perf_counter()
    for seed in range(chains):
        if positions and time.process_time() - cpu > LIMIT:
            break
        found = nutpie.sample(
            model,
            draws=draws,
            chains=1,
            cores=1,
            seed=seed,
            progress_bar=False,
            save_warmup=False,
            low_rank_modified_mass_matrix=low_rank,
            **({"tune": 40} if quick else {}),
        )
        positions.append(torch.from_numpy(found.posterior["q"].values.copy()))
        divergences += int(found.sample_stats["diverging"].sum())
    spent = time.process_time() - cpu, time.perf_counter() - wall
    sites = target.constrain(torch.cat(positions))
    metric = "low-rank" if low_rank else "diagonal"
    about = f"{metric} metric, {len(positions)} chains"
    if len(positions) < chains:
        about += f", stopped after {LIMIT:g} s"
    return Run(
        {name: value.numpy() for name, value in sites.items()},
        {"warm-up and sampling": spent},
        divergences,
        about,
        gradients=counted.calls,
    )
