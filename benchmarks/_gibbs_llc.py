"""Part `llc`: learning coefficients of reduced-rank and of deep linear networks.

A map of rank 2 from 6 to 6 through 4 units, 1,000 examples of unit noise, one set of
data; every method estimates the same number, that of the localised posterior at
`1 / log n`. The reference is a long run of NumPyro's NUTS, which shares nothing with
our code. devinterp gets 4 chains of 300 + 500 steps on batches of 100, with its own
SGLD and with RMSProp preconditioning, each at the learning rate of a grid that comes
closest to the reference.
"""

import importlib.util
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from _bench import Row
from _gibbs_common import OURS, Clock, seed_rows
from torch import Tensor

from pyro_geo import Target
from pyro_geo.infer.certificates.learning import llc, rlct

CASE = "reduced_rank"
SIZES, RANK, N = (6, 4, 6), 2, 1_000
SEEDS = tuple(range(7))
RATES = (2e-5, 5e-5, 1e-4, 2e-4, 4e-4)
RMSPROP_RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
NETWORKS = 20
MANY = 1_000_000  # examples, by their moments


class Problem(NamedTuple):
    """Linear regression through layers, and the minimum of its loss.

    Attributes:
        x: inputs, `(n, first width)`.
        y: outputs, `(n, last width)`.
        target: density of the flat weights, by moments.
        best: weights of the least loss, `(dim,)`.
    """

    x: Tensor
    y: Tensor
    target: Target
    best: Tensor


def measure(quick: bool) -> Iterator[list[Row]]:
    """Compare on one problem, then run over networks of known coefficients."""
    yield reduced_rank(quick)
    yield deep_linear(quick)


def reduced_rank(quick: bool) -> list[Row]:
    """Estimate by every method; errors are relative to the reference."""
    torch.manual_seed(0)
    problem = regression(0)
    rows: list[Row] = []
    if quick:
        found = [llc(problem.target, problem.best, n=N, num_samples=20, seed=0)]
        return estimates(
            f"{OURS}, MH-corrected HMC", [f.value for f in found], [0.0], 1
        )
    reference, error = long_run(problem)
    rows.append(
        {
            "case": CASE,
            "method": "NumPyro NUTS, long run",
            "metric": "llc",
            "value": float(f"{reference:.5g}"),
            "sd": float(f"{error:.3g}"),
            "unit": "",
        }
    )
    values, clocks = [], []
    for seed in SEEDS:
        with Clock() as clock:
            values.append(llc(problem.target, problem.best, n=N, seed=seed).value)
        clocks.append(clock.cpu)
    rows += estimates(f"{OURS}, MH-corrected HMC", values, clocks, reference)
    if importlib.util.find_spec("devinterp") is None:
        return rows
    for name, rates in (("sgld", RATES), ("rmsprop_sgld", RMSPROP_RATES)):
        tried = [(rate, *by_langevin(problem, name, rate)) for rate in rates]
        rate, values, clocks = min(
            tried, key=lambda t: abs(sum(t[1]) / len(t[1]) - reference)
        )
        method = f"devinterp, {name}, learning rate {rate:g}"
        rows += estimates(method, values, clocks, reference)
    return rows


def estimates(
    method: str, values: list[float], clocks: list[float], reference: float
) -> list[Row]:
    """Rows of the estimates and of their errors."""
    errors = [abs(value / reference - 1) for value in values]
    return seed_rows(CASE, method, {"llc": values, "relative error": errors}, clocks)


def regression(
    seed: int, sizes: tuple[int, ...] = SIZES, rank: int = RANK, n: int = N
) -> Problem:
    """Simulate data and find the minimum; beyond 1,000 examples by moments alone."""
    generator = torch.Generator().manual_seed(seed)
    like: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    first, last = sizes[0], sizes[-1]
    truth = torch.randn(last, rank, **like) @ torch.randn(rank, first, **like)
    truth = truth / math.sqrt(max(rank, 1))
    if n <= N:
        x = torch.randn(n, first, **like)
        y = x @ truth.mT + torch.randn(n, last, **like)
        xx, xy = x.mT @ x, x.mT @ y
    else:  # what the moments of many examples tend to
        x, y = torch.zeros(0, first), torch.zeros(0, last)
        xx = n * torch.eye(first, dtype=torch.float64)
        xy = n * truth.mT + math.sqrt(n) * torch.randn(first, last, **like)
    best = least_squares(xx, xy, sizes)
    shapes = [(b, a) for a, b in itertools.pairwise(sizes)]

    def potential(q: Tensor, xx: Tensor, xy: Tensor) -> Tensor:
        layers = q.split([a * b for a, b in shapes])
        product = layers[0].reshape(shapes[0])
        for layer, shape in zip(layers[1:], shapes[1:], strict=True):
            product = layer.reshape(shape) @ product
        return 0.5 * ((product @ xx) * product).sum() - (product * xy.mT).sum()

    dim = sum(a * b for a, b in shapes)
    target = Target.from_potential(potential, dim, xx, xy, dtype=torch.float64)
    return Problem(x, y, target, best)


def least_squares(xx: Tensor, xy: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Balanced layers whose product is the best map of the rank they allow."""
    factor = torch.linalg.cholesky(xx)
    free = torch.linalg.solve(xx, xy).mT
    u, s, v = torch.linalg.svd(free @ factor, full_matrices=False)
    width = min(sizes)
    best = (u[:, :width] * s[:width]) @ v[:width] @ torch.linalg.inv(factor)
    u, s, v = torch.linalg.svd(best, full_matrices=False)
    depth = len(sizes) - 1
    root = s[:width].pow(1 / depth)
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        left = u[:, :width] if i == depth - 1 else torch.eye(b, width)
        right = v[:width] if i == 0 else torch.eye(width, a)
        layers.append(((left.to(root) * root) @ right.to(root)).flatten())
    return torch.cat(layers)


def long_run(problem: Problem) -> tuple[float, float]:
    """The coefficient and its standard error by 32 long chains of NumPyro's NUTS."""
    jax: Any = importlib.import_module("jax")
    numpyro: Any = importlib.import_module("numpyro")
    numpyro.enable_x64()
    jnp, infer = jax.numpy, importlib.import_module("numpyro.infer")
    xx, xy = (jnp.array(t.numpy()) for t in problem.target.data)
    where = jnp.array(problem.best.numpy())
    beta = 1 / math.log(N)
    (m, h, k) = SIZES

    def loss(q: Any) -> Any:
        product = q[m * h :].reshape(k, h) @ q[: m * h].reshape(h, m)
        return 0.5 * ((product @ xx) * product).sum() - (product * xy.T).sum()

    def potential(q: Any) -> Any:
        return beta * loss(q) + 0.5 * ((q - where) ** 2).sum()

    chains = infer.MCMC(
        infer.NUTS(potential_fn=potential, dense_mass=True),
        num_warmup=1_000,
        num_samples=3_000,
        num_chains=32,
        chain_method="vectorized",
        progress_bar=False,
    )
    starts = where + 0.05 * jax.random.normal(jax.random.PRNGKey(1), (32, len(where)))
    chains.run(jax.random.PRNGKey(0), init_params=starts)
    draws = chains.get_samples(group_by_chain=True)
    losses = jax.lax.map(jax.vmap(loss), draws)
    means = beta * (losses.mean(1) - loss(where))
    return float(means.mean()), float(means.std(ddof=1)) / 32**0.5


def by_langevin(
    problem: Problem, name: str, rate: float
) -> tuple[list[float], list[float]]:
    """Estimates of devinterp over the seeds, with their processor seconds."""
    sampler: Any = importlib.import_module("devinterp.slt.sampler")
    method = getattr(importlib.import_module("devinterp.optim").SGMCMC, name)
    from torch.utils.data import DataLoader, TensorDataset

    m, h, k = SIZES
    values, clocks = [], []
    for seed in SEEDS[:5]:
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(m, h, bias=False), torch.nn.Linear(h, k, bias=False)
        ).double()
        first, second = problem.best.split([m * h, h * k])
        network[0].weight.data = first.reshape(h, m).clone()
        network[1].weight.data = second.reshape(k, h).clone()
        loader = DataLoader(TensorDataset(problem.x, problem.y), 100, shuffle=True)

        def mean_loss(model: Any, data: Any) -> Any:
            x, y = data
            return 0.5 * (model(x) - y).square().sum(1).mean(), {}

        full = float(mean_loss(network, (problem.x, problem.y))[0])
        with warnings.catch_warnings(), Clock() as clock:
            warnings.simplefilter("ignore")
            found = sampler.estimate_learning_coeff_with_summary(
                network,
                loader,
                evaluate=mean_loss,
                sampling_method=method,
                optimizer_kwargs={
                    "lr": rate,
                    "nbeta": N / math.log(N),
                    "localization": 1.0,
                },
                num_chains=4,
                num_draws=500,
                num_burnin_steps=300,
                init_loss=full,
                seed=seed,
                verbose=False,
            )
        values.append(float(found["llc/mean"]))
        clocks.append(clock.cpu)
    return values, clocks


def deep_linear(quick: bool) -> list[Row]:
    """Random networks with very many examples: error, and rank correlation."""
    from scipy import stats

    generator = torch.Generator().manual_seed(5)
    rows, errors, found, known = [], [], [], []
    n = N if quick else MANY
    with Clock() as clock:
        for i in range(2 if quick else NETWORKS):
            depth = int(torch.randint(3, 6, (), generator=generator))
            sizes = torch.randint(2, 7, (depth,), generator=generator).tolist()
            rank = int(torch.randint(0, min(sizes) + 1, (), generator=generator))
            exact = rlct.deep_linear(sizes, rank)
            problem = regression(100 + i, tuple(sizes), rank, n)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # the estimate itself, of runs that are not reliable too
                value = llc(problem.target, problem.best, n=n, seed=i).estimate
            errors.append(abs(value / exact.value - 1))
            found.append(value)
            known.append(exact.value)
            print(f"{sizes}, rank {rank}: {value:.3f} ({exact})", flush=True)
    correlation = float(np.asarray(stats.spearmanr(found, known))[0])
    case = "deep linear networks"
    for metric, value in (
        ("median relative error", float(torch.tensor(errors).median())),
        ("rank correlation", correlation),
        ("processor seconds, all", clock.cpu),
    ):
        rows.append(
            {
                "case": case,
                "method": f"{OURS}, MH-corrected HMC",
                "metric": metric,
                "value": float(f"{value:.4g}"),
                "seeds": len(errors),
                "unit": "s" if "seconds" in metric else "",
            }
        )
    return rows
