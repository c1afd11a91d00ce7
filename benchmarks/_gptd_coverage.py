"""How often 95 % intervals of values hold the truth, which is known by other means.

Coverage is counted over held-out states and averaged over independent data sets: errors
at neighbouring states are alike, so that a single data set says little.
"""

import statistics
from collections.abc import Iterator

import numpy as np
import torch
from _bench import Row
from _gptd_systems import Drift, Pendulum

from pyro_geo._process import Seconds
from pyro_geo.gp import SparseGPTD, Transitions, VariationalGPTD

HELD_OUT = 2000
NODES = 60  # of one column
LARGE = {5_000: 20, 100_000: 10}  # transitions to data sets


def measure(quick: bool) -> Iterator[list[Row]]:
    """Fit the pendulum's values, hyperparameters included."""
    for count, seeds in ({300: 2} if quick else LARGE).items():
        yield pendulum(count, seeds, quick, SparseGPTD)


def minibatches(quick: bool) -> Iterator[list[Row]]:
    """Fit the same values from minibatches."""
    count, seeds = (300, 2) if quick else (100_000, 2)
    yield pendulum(count, seeds, quick, VariationalGPTD)


def pendulum(
    count: int, seeds: int, quick: bool, model: type[SparseGPTD | VariationalGPTD]
) -> list[Row]:
    """Fit so many transitions of several data sets."""
    system, found = Pendulum(), []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        steps = system.transitions(count, rng)
        new = system.held_out(100 if quick else HELD_OUT, rng)
        found.append(scores(model, steps, new, system.value(new)))
        print(count, seed, found[-1], flush=True)
    return rows(f"pendulum, T={count}", model.__name__, found)


def random_successors(quick: bool) -> Iterator[list[Row]]:
    """Fit values of a system whose successors are random, by all kinds of data."""
    system, count = Drift(), 300 if quick else 5000
    kinds = {
        "noise of rewards, one sampled successor": ("reward", 0),
        "noise of returns, one sampled successor": ("return", 0),
        "noise of rewards, five weighted successors": ("reward", 5),
    }
    for name, (noise, nodes) in kinds.items():
        found = []
        for seed in range(2 if quick else 5):
            rng = np.random.default_rng(seed)
            steps = system.transitions(count, rng, nodes)
            new = system.held_out(100 if quick else HELD_OUT, rng)
            found.append(
                scores(
                    SparseGPTD,
                    steps,
                    new,
                    system.value(new),
                    noise=noise,
                    num_inducing=NODES,
                )
            )
        yield rows(f"random successors, T={count}", name, found)


def scores(
    model: type[SparseGPTD | VariationalGPTD],
    steps: Transitions,
    new: np.ndarray,
    truth: np.ndarray,
    **options: object,
) -> dict[str, float]:
    """Fit, and hold the intervals against the truth."""
    before = Seconds.now()
    gp = model(steps, **options).fit()  # type: ignore[arg-type]
    with torch.no_grad():
        law = gp.value(torch.from_numpy(new))
        mean, sd = law.mean.numpy(), law.stddev.numpy()
    spent = Seconds.now() - before
    error = truth - mean
    return {
        "coverage of 95 %": float((np.abs(error) < 1.959964 * sd).mean()),
        "root mean square error": float(np.sqrt((error**2).mean())),
        "mean standard deviation": float(sd.mean()),
        "processor seconds": spent.cpu,
    }


def rows(case: str, method: str, found: list[dict[str, float]]) -> list[Row]:
    """Average over data sets."""
    made = []
    for metric in found[0]:
        values = [one[metric] for one in found]
        one: Row = {"case": case, "method": method, "metric": metric}
        one |= {"value": float(f"{statistics.fmean(values):.4g}")}
        if len(values) > 1:
            one |= {"sd": float(f"{statistics.stdev(values):.2g}")}
        unit = "s" if metric.endswith("seconds") else ""
        made.append(one | {"unit": unit, "seeds": len(values)})
    return made
