"""Seconds to condition on transitions and to predict, as these become more.

One path, one set of hyperparameters for all, nothing learned. Models are made anew in
each repetition.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _bench import Row, interleaved
from _gptd_peers import Hyperparameters, engel, lstd
from _gptd_systems import GAMMA, NOISE, STEPS, Pendulum

from pyro_geo.gp import (
    ExactGPTD,
    OnlineGPTD,
    SparseGPTD,
    Transitions,
    VariationalGPTD,
)

GIVEN = Hyperparameters(np.array([0.9, 1.4]), 40.0, NOISE**2, 0.0)
NEW, INDUCING, FEATURES = 200, 100, 50
DENSE = (200, 800, 3000)
LINEAR = (200, 800, 3000, 12_000)
ENGEL, LSTD = "Engel (2003), NumPy", f"LSTD(0), {FEATURES} features, NumPy"
EXACT, SPARSE = "ExactGPTD", f"SparseGPTD, {INDUCING} nodes"
VARIATIONAL, ONLINE = f"VariationalGPTD, {INDUCING} nodes", "OnlineGPTD, nu 0.001"


def measure(quick: bool) -> Iterator[list[Row]]:
    """Time all methods for one number of transitions after the other."""
    for count in (100, 200) if quick else LINEAR:
        yield of_count(count, quick)


def of_count(count: int, quick: bool) -> list[Row]:
    """Time all methods that can take so many transitions, and compare what they say."""
    rng = np.random.default_rng(0)
    system = Pendulum()
    path = system.path(-(-count // STEPS), rng)[:, :-1].reshape(-1, 2)[: count + 1]
    path = np.concatenate([path, path[-1:]])[: count + 1]
    reward = system.reward(path[:-1]) + NOISE * rng.normal(size=count)
    steps = Transitions(path[:-1], path[1:], reward, GAMMA)
    new = system.held_out(NEW, rng)
    nodes = torch.from_numpy(path[rng.choice(count, min(INDUCING, count), False)])
    centres = path[rng.choice(count, min(FEATURES, count), False)]

    def fitted(make: Callable[[], object]) -> tuple[np.ndarray, np.ndarray]:
        model = with_given(make())
        if isinstance(model, VariationalGPTD):  # one pass over all rows
            rows = torch.randperm(count)
            for step, part in enumerate(rows.split(1024)):
                model.natural_step(1 / (1 + step), part)
        with torch.no_grad():
            law = model.value(torch.from_numpy(new))
            return law.mean.numpy(), law.variance.numpy()

    methods: dict[str, Callable[[], object]] = {}
    if count <= DENSE[-1]:
        methods[ENGEL] = lambda: engel(path, reward, GAMMA, new, GIVEN)
        methods[EXACT] = lambda: fitted(lambda: ExactGPTD(steps))
    points: dict[str, Any] = {"inducing_points": nodes}
    methods |= {
        SPARSE: lambda: fitted(lambda: SparseGPTD(steps, **points)),
        VARIATIONAL: lambda: fitted(lambda: VariationalGPTD(steps, **points)),
        ONLINE: lambda: fitted(lambda: OnlineGPTD(steps)),
        LSTD: lambda: lstd(path, reward, GAMMA, new, centres, 0.7),
    }
    few = quick or count > DENSE[-1]
    times = interleaved(methods, repetitions=1 if quick else 5, seconds=0.05)
    rows = []
    for name, one in times.items():
        rows += [
            row(count, name, "processor seconds", one.cpu, "s", one.sd),
            row(count, name, "wall seconds", one.wall, "s"),
        ]
    if not few:
        rows += agreement(count, methods)
    return rows


def agreement(count: int, methods: dict[str, Callable[[], object]]) -> list[Row]:
    """Compare means with those of the dense peer."""
    found = {name: method() for name, method in methods.items()}
    want = first(found[ENGEL])
    return [
        row(count, name, "largest difference of means", float(off), "")
        for name, value in found.items()
        if name != ENGEL
        for off in [np.abs(first(value) - want).max()]
    ]


def first(found: object) -> np.ndarray:
    """Take the means out of what a method gives."""
    means = found[0] if isinstance(found, tuple) else found
    assert isinstance(means, np.ndarray)
    return means


def with_given(model: object) -> ExactGPTD | SparseGPTD | VariationalGPTD | OnlineGPTD:
    """Set the hyperparameters, which stay."""
    assert isinstance(model, ExactGPTD | SparseGPTD | VariationalGPTD | OnlineGPTD)
    kernel = model.covar_module.base_kernel
    model.mean_module.base_mean.constant.data.fill_(GIVEN.mean)
    kernel.outputscale = torch.tensor(GIVEN.outputscale, dtype=torch.float64)
    kernel.base_kernel.lengthscale = torch.from_numpy(GIVEN.lengthscale)
    model.likelihood.noise = torch.tensor(GIVEN.noise, dtype=torch.float64)
    model.requires_grad_(False)
    return model


def row(
    count: int, method: str, metric: str, value: float, unit: str, sd: float = 0.0
) -> Row:
    """Make one row."""
    found: Row = {"case": f"T={count}", "method": method, "metric": metric}
    found |= {"value": float(f"{value:.4g}"), "unit": unit, "count": count}
    return found | ({"sd": float(f"{sd:.2g}")} if sd else {})
