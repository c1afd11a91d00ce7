"""Methods of part `gap` and their scores, on one data seed."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import pyro
import torch
from _dims_common import Scores, anchor_gap, seconds
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS
from pyro.infer.autoguide.initialization import init_to_uniform, init_to_value
from torch import Tensor

from pyro_geo import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.evaluation.baselines import (
    fan_in_starts,
    linearised_laplace,
    map_estimate,
    sghmc,
)
from pyro_geo.evaluation.comparison import predict
from pyro_geo.evaluation.scores import negative_log_likelihood
from pyro_geo.geometry.laplace import laplace
from pyro_geo.infer import DIMS, MCMC

MEMBERS = 8
HEADLINE = "DiMS, explore + settle, alpha 0"
LINEARISED = "linearised Laplace"
ENSEMBLE = f"ensemble of {MEMBERS}"
UNITS = {
    "gap_nll": "nat",
    "inside_nll": "nat",
    "processor": "s",
    "loss_above_the_anchor": "nat",
}
VARIANTS: dict[str, dict[str, Any]] = {
    HEADLINE: {},
    "DiMS, explore + settle + polish, alpha 0": {"polish": True},
    "DiMS, one stage of 8, alpha 0": {"explore_time": 8.0, "settle_time": 0.0},
    "DiMS, one stage of 8, alpha 1": {
        "explore_time": 8.0,
        "settle_time": 0.0,
        "alpha": 1.0,
    },
}
BUDGET_NOTE = "draws that spend their evaluations stop before the end of the stage"


class Sizes(NamedTuple):
    """How much of everything."""

    seeds: int = 3
    draws: int = 24
    many: int = 400
    adam: int = 2_000
    lbfgs: int = 200
    langevin: int = 3_000
    nuts: tuple[int, int, int] = (100, 60, 6)
    sets: int = 20
    rung: bool = True  # compile
    max_evals: int = 20_000


class Data(NamedTuple):
    """One data seed: the model learnt from and the two sets to predict."""

    module: ModuleType
    seed: int
    target: Target
    gap: Target
    inside: Target


def dims(
    data: Data, q: Tensor, draws: int, sizes: Sizes, variant: dict[str, Any]
) -> MCMC:
    """Run DiMS from the MAP."""
    options = {"loss": "joint", "alpha": 0.0, "polish": False}
    options |= {"max_evals": sizes.max_evals, **variant, "anchors": q}
    return MCMC(
        DIMS(data.target, **options),
        num_samples=draws,
        num_chains=len(q),
        seed=data.seed,
        compile=sizes.rung,
        progress_bar=False,
    ).run()


def others(scores: Scores, data: Data, sizes: Sizes) -> None:
    """Score Langevin dynamics, from short training runs."""
    target, seed = data.target, data.seed
    starts = fan_in_starts(target, sizes.draws, seed=seed)

    def run() -> Tensor:
        begin = map_estimate(
            target,
            sizes.draws,
            seed=seed,
            num_steps=sizes.adam // 4,
            polish_steps=0,
            initial=starts,
        )
        return sghmc(target, sizes.draws, sizes.langevin, seed=seed, initial=begin)

    draws, cost = seconds(run)
    method = f"SGHMC, {sizes.draws} chains x {sizes.langevin}"
    score(scores, method, data, draws[:, 0], cost)


def nuts(scores: Scores, data: Data, q: Tensor, spent: float, sizes: Sizes) -> None:
    """Score Pyro's NUTS with its graph compiled by jit, from either start."""
    warmup, draws, depth = sizes.nuts
    values = data.target.constrain(q)
    starts = {
        "uniform start": (init_to_uniform, 0.0),
        "from the MAP": (init_to_value(values=values), spent),
    }
    for label, (start, before) in starts.items():
        pyro.set_rng_seed(data.seed)
        kernel = NUTS(
            data.module.model,
            max_tree_depth=depth,
            jit_compile=True,
            ignore_jit_warnings=True,
            init_strategy=start,
        )
        run = PyroMCMC(
            kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True
        )
        _, cost = seconds(lambda run=run: run.run(*data.module.data(data.seed)))
        found = data.target.unconstrain(run.get_samples())
        method = f"Pyro NUTS {warmup}+{draws}, {label}"
        scores.notes[method] = "jit and its compilation included, one run a seed"
        score(scores, method, data, found, cost + before)


def score(scores: Scores, method: str, data: Data, q: Tensor, cost: float) -> None:
    """Score draws `(draws, dim)` by the mixture of their predictions."""
    gap, inside = (
        negative_log_likelihood(predict(test, q).log_prob)
        for test in (data.gap, data.inside)
    )
    scores.add(method, gap_nll=float(gap), inside_nll=float(inside), processor=cost)


def trajectories(
    scores: Scores, method: str, data: Data, fit: MCMC, cost: float
) -> None:
    """Score draws of DiMS, and say how they ended."""
    score(scores, method, data, fit.positions[0], cost)
    stats, limit = fit.stats, fit.kernel.options.max_evals  # pyright: ignore[reportAttributeAccessIssue]
    scores.add(
        method,
        evaluations_per_draw=float(stats["n_evals"].double().mean()),
        loss_above_the_anchor=anchor_gap(stats),
        kinetic_energy_left=float(stats["kinetic"].mean()),
        share_converged=float(stats["converged"].double().mean()),
    )
    if "alpha 1" in method:
        spent = stats["n_evals"] >= limit
        scores.add(method, share_out_of_evaluations=float(spent.double().mean()))
        scores.notes[method] = BUDGET_NOTE


def in_sets(scores: Scores, data: Data, q: Tensor, sizes: Sizes) -> None:
    """Score sets of few draws out of many, averaged: what few draws are worth."""
    sets = len(q) // sizes.draws
    found = []
    for test in (data.gap, data.inside):
        log_prob = predict(test, q[: sets * sizes.draws]).log_prob
        parts = log_prob.split(sizes.draws)
        found.append(float(sum(map(negative_log_likelihood, parts)) / sets))
    method = f"{HEADLINE}, {sizes.draws} draws, mean of sets"
    scores.add(method, gap_nll=found[0], inside_nll=found[1])


def linearised(
    scores: Scores,
    data: Data,
    q: Tensor,
    count: int,
    seeds: Sequence[int],
    spent: float,
) -> None:
    """Score the linearised Laplace, averaged over sets of draws."""
    found, cost = [], 0.0
    tests = (data.gap, data.inside)
    for seed in seeds:
        fits, once = seconds(
            lambda seed=seed: [
                linearised_laplace(data.target, q, test, count, seed=seed)["y"]
                for test in tests
            ]
        )
        cost += once / len(seeds)
        found.append([nll_of(f, t) for f, t in zip(fits, tests, strict=True)])
    gap, inside = torch.tensor(found).mean(0).tolist()
    method = f"{LINEARISED}, {count} draws"
    if len(seeds) > 1:
        method += ", mean of sets"
    scores.add(method, gap_nll=gap, inside_nll=inside, processor=spent + cost)


def nll_of(fit: Any, test: Target) -> float:
    """Score distributions with a leading axis of draws."""
    return float(negative_log_likelihood(fit.log_prob(test.observed["y"])))


def from_anchors(
    scores: Scores, data: Data, members: Tensor, sizes: Sizes, spent: float
) -> None:
    """Score what leaves one trained network, averaged over many of them.

    One network and one set of draws are a matter of luck; the mean over the members
    of the ensemble, each with draws of its own, says what to expect of them.
    """
    count, draws = len(members), sizes.draws
    label = f"mean of {count} anchors"
    fit, cost = seconds(lambda: dims(data, members, draws, sizes, {}))
    scored = [
        [negative_log_likelihood(predict(test, q).log_prob) for q in fit.positions]
        for test in (data.gap, data.inside)
    ]
    gap, inside = (float(sum(values)) / count for values in scored)
    cost = (spent + cost) / count
    method = f"{HEADLINE}, {draws} draws, {label}"
    scores.add(method, gap_nll=gap, inside_nll=inside, processor=cost)
    parts = Scores("", {})
    for i, q in enumerate(members):
        linearised(parts, data, q, draws, [1000 * data.seed + i], spent / count)
        closed_form(parts, data, q, spent / count)
    for name in (f"{LINEARISED}, {draws} draws", f"{LINEARISED}, closed form"):
        means = {m: parts.mean(name, m) for m in ("gap_nll", "inside_nll", "processor")}
        scores.add(f"{name}, {label}", **means)


def closed_form(scores: Scores, data: Data, q: Tensor, spent: float) -> None:
    """Score the linearised Laplace's normal predictive, with no draws at all."""

    def predictive(test: Target) -> Any:
        density = test.density
        assert isinstance(density, ModelDensity)

        def mean(x: Tensor) -> Tensor:
            return density.observations(x, test.data)["y"].fn.loc

        slope = torch.func.jacrev(mean)(q).double()
        precision = laplace(data.target, q, flat="refuse").precision
        spread = precision.root_solve(slope.to(q)).double()
        variance = spread.square().sum(-1) + data.module.NOISE**2
        return torch.distributions.Normal(mean(q)[None], variance.sqrt().to(q)[None])

    tests = (data.gap, data.inside)
    fits, cost = seconds(lambda: [predictive(test) for test in tests])
    gap, inside = (nll_of(f, t) for f, t in zip(fits, tests, strict=True))
    method = f"{LINEARISED}, closed form"
    scores.add(method, gap_nll=gap, inside_nll=inside, processor=spent + cost)
