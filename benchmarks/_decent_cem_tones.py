"""One tone and three exchangeable ones: searches for the highest mode.

Success is a density within a hundredth of a nat of the best known. All searches may
evaluate 40,000 points, multistart Adam as many gradients or ten times as many, and all
climb from the best twenty by L-BFGS at the end. The starts of
NumPyro's NUTS are its default ones; the share of its chains that end in a highest mode
says how good a start they are.
"""

import importlib
import statistics
from collections.abc import Callable, Iterator

import torch
from _bench import Row
from _decent_cem_posteriors import posteriors
from _decent_cem_problems import single_elites
from _decent_cem_references import Reference, reference, target_of
from _hmc_common import installed, missing, row
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.density import Target
from pyro_geo.infer import find_modes
from pyro_geo.optim.cem import CEM, DecentCEM
from pyro_geo.optim.descent import lbfgs

BUDGET, POP_SIZE = 40_000, 4_000
STD = 1.5
BEST, STEPS = 20, 150
ADAM_STEPS = 1_000
NEAR = 0.01  # nats below the best mode
SUCCESS, SPENT = "highest mode found", "processor"
NUTS = "NumPyro NUTS, default starts"
Search = Callable[[int], Tensor]


def climb(target: Target, q: Tensor) -> Tensor:
    """Climb from all positions; return the highest log-density."""

    def potential(x: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = target.value_and_grad(x)
        return -value, -slope

    end = target.log_prob(lbfgs(potential, q, STEPS))
    return end[end.isfinite()].max()


def by_search(target: Target, method: CEM) -> Search:
    """Search, then climb from the best that the instances found in all their lives."""
    centre = torch.zeros(target.dim)

    def potential(x: Tensor) -> Tensor:
        return -target.log_prob(x)

    def search(seed: int) -> Tensor:
        found = method.minimize(
            potential, mean=centre, std=STD, budget=BUDGET, seed=seed
        )
        order = found.basins.fun.argsort()[:BEST]
        return climb(target, found.basins.x[order])

    return search


def by_draws(target: Target) -> Search:
    """Draw starts from the same normal and climb from the best."""

    def search(seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        q = STD * torch.randn(BUDGET, target.dim, generator=random)
        best = target.log_prob(q).nan_to_num(-torch.inf).topk(BEST).indices
        return climb(target, q[best])

    return search


def by_adam(target: Target, starts: int) -> Search:
    """Descend by Adam from many starts before the climb."""

    def search(seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        q = STD * torch.randn(starts, target.dim, generator=random)
        optimizer = torch.optim.Adam([q], lr=0.05)
        for _ in range(ADAM_STEPS):
            q.grad = -target.value_and_grad(q)[1].nan_to_num()
            optimizer.step()
        best = target.log_prob(q).nan_to_num(-torch.inf).topk(BEST).indices
        return climb(target, q[best])

    return search


def by_modes(name: str) -> Search:
    """The mode finder, whole."""
    posterior = posteriors()[name]

    def search(seed: int) -> Tensor:
        modes = find_modes(
            posterior.model, *posterior.args, seed=seed, dtype=torch.float64
        )
        return modes.log_prob.max()

    return search


def measure(quick: bool) -> Iterator[list[Row]]:
    """Search with many seeds."""
    seeds = 2 if quick else 20
    for name in ("one tone",) if quick else ("one tone", "three tones"):
        target = target_of(posteriors()[name])
        wanted = reference(name, 40 if quick else 200)
        highest = target.log_prob(wanted.q).max()
        with single_elites():
            methods = {
                "CEM": by_search(target, CEM(pop_size=POP_SIZE)),
                "CEM, restarts": by_search(
                    target, CEM(pop_size=POP_SIZE // 10, restart=True)
                ),
                "DecentCEM, M = 5": by_search(
                    target, DecentCEM(5, pop_size=POP_SIZE, layout="uniform")
                ),
                "DecentCEM, M = 20": by_search(
                    target, DecentCEM(20, pop_size=POP_SIZE, layout="uniform")
                ),
                "random draws": by_draws(target),
                "Adam, 40 starts": by_adam(target, 40),
                "Adam, 400 starts": by_adam(target, 400),
                "find_modes": by_modes(name),
            }
            rows = []
            for label, search in methods.items():
                search(1000)  # the first call of a density costs more
                found, seconds = [], []
                for seed in range(seeds):
                    before = Seconds.now()
                    found.append(bool(search(seed) > highest - NEAR))
                    seconds.append((Seconds.now() - before).cpu)
                share, cpu = statistics.fmean(found), statistics.median(seconds)
                rows += [
                    row(name, label, SUCCESS, share, "", seeds=seeds),
                    row(name, label, SPENT, cpu, "s", sd=statistics.stdev(seconds)),
                ]
        rows.append(of_nuts(name, target, wanted, quick))
        yield rows


def of_nuts(name: str, target: Target, wanted: Reference, quick: bool) -> Row:
    """Share of default chains that end in a highest mode."""
    if not installed("numpyro"):
        return missing(name, NUTS, SUCCESS)
    peer = importlib.import_module("_decent_cem_numpyro")
    chains, draws = (4, 20) if quick else (40, 200)
    found = peer.default_starts(name, posteriors()[name], chains, draws, 5 * draws)
    sites = {site: torch.tensor(value) for site, value in found.items()}
    q = target.unconstrain(sites)  # (chains, draws, dim)
    best = wanted.q[target.log_prob(wanted.q) > target.log_prob(wanted.q).max() - NEAR]
    best = wanted._replace(q=best, hessian=wanted.hessian[: len(best)])
    # the middle of a chain's last half lies within a few deviations of its mode
    middle = q[:, draws // 2 :].median(1).values
    reached = best.distances(middle).amin(0) < 2.0 * target.dim**0.5
    share = float(reached.double().mean())
    return row(name, NUTS, SUCCESS, share, "", runs=chains)


def ratios(rows: list[Row]) -> dict[str, float]:
    """Success at three tones of many instances, and of the alternatives."""
    found = {
        (r["case"], r["method"]): r["value"] for r in rows if r["metric"] == SUCCESS
    }
    keys = {
        "many_instances": "DecentCEM, M = 20",
        "one_instance": "CEM",
        "random_draws": "random draws",
        "find_modes": "find_modes",
    }
    return {
        f"success/three_tones/{key}": found["three tones", method]
        for key, method in keys.items()
        if ("three tones", method) in found
    }
