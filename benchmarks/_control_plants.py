"""Regret to known dynamics: a plant of unknown sign, and a network of ten genes.

The plant starts at 2 and is regulated for thirty steps; its actions may push either
way, or the way they push is known. Regret is the cost beyond that of a controller that
knows the parameters, under the same noise.
"""

import math
import warnings
from collections.abc import Callable, Iterator

import pyro.distributions as dist
import torch
from _bench import Row
from _control_networks import LEARNING, controllers, myopic
from torch import Tensor

from pyro_geo.errors import PyroGeoWarning
from pyro_geo.planning import (
    BayesController,
    EnumeratedPosterior,
    ExactValues,
    GPTDPolicyIteration,
    GridBackend,
    OfflineLibrary,
    OfflinePlanner,
    ParameterGP,
    Prior,
    PSISPosterior,
    ValueBackend,
    mean_rule,
)
from pyro_geo.planning.boolean_network import (
    Channel,
    NetworkRuns,
    melanoma,
    no_control,
)
from pyro_geo.planning.environments import LinearQuadratic, unknown_sign

NOISE, START, STEPS, SYSTEMS, DISCOUNT = 0.1, 2.0, 30, 30, 0.95
ENTRIES = (("RET1", 3), ("RET1", 5), ("S100P", 0), ("WNT5A", 2))


def law(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    """Log-density of a step of the plant."""
    mean = theta[..., 0] * s[..., 0] + theta[..., 1] * a[..., 0]
    return dist.Normal(mean, NOISE).log_prob(s_next[..., 0])


def prior_of(case: str) -> Prior:
    """What is known beforehand."""
    least = -1.2 if case == "unknown sign" else 0.4
    keep = dist.Uniform(torch.tensor(0.8), 1.0)
    return Prior({"keep": keep, "push": dist.Uniform(torch.tensor(least), 1.2)})


def two_steps(plant: LinearQuadratic) -> ExactValues:
    """Values of a myopic rule: this reward and the next, without a further action."""
    quiet = torch.zeros(1)

    def values(theta: Tensor, s: Tensor) -> Tensor:
        a = plant.actions
        assert a is not None
        ahead = plant.simulate(theta[:, None, None], s[:, None], a, quiet)
        later = ahead.square().sum(-1)
        return plant.reward(s[:, None], a, ahead) - DISCOUNT * later

    return ExactValues(values, discount=DISCOUNT)


def episodes(
    plant: LinearQuadratic, truth: Tensor, make: Callable[[int], BayesController]
) -> Tensor:
    """Costs of one episode of each system, `(systems,)`."""
    costs = []
    for system, theta in enumerate(truth):
        generator = torch.Generator().manual_seed(1000 + system)
        controller, s = make(system), torch.full((1,), START)
        total = 0.0
        for _ in range(STEPS):
            action = controller.act(s).action
            ahead = plant.simulate(theta, s, action, plant.draw_noise((), generator))
            reward = plant.reward(s, action, ahead)
            controller.observe(s, action, reward, ahead)
            total, s = total - float(reward), ahead
        costs.append(total)
    return torch.tensor(costs)


def regret_row(case: str, method: str, regret: Tensor) -> Row:
    """Make the row of a rule, from its regret in each run."""
    return {
        "case": case,
        "method": method,
        "metric": "regret",
        "value": float(regret.mean()),
        "sd": float(regret.std()),
        "seeds": len(regret),
        "unit": "cost of an episode",
    }


def measure_plant(case: str, quick: bool) -> list[Row]:
    """All rules on one plant."""
    plant, prior = unknown_sign(NOISE), prior_of(case)
    count, systems = (8, 2) if quick else (48, SYSTEMS)
    exact = GridBackend([torch.linspace(-8, 8, 161)], discount=DISCOUNT)
    learned = GPTDPolicyIteration(num_steps=40 if quick else 100, discount=DISCOUNT)

    def library(backend: ValueBackend, number: int) -> OfflineLibrary:
        return OfflinePlanner(prior, plant, backend, num_draws=number).run(seed=0)

    solved, few = library(exact, count), library(exact, 5)
    truth = prior.sample(systems, 99)
    known = OfflinePlanner(truth, plant, exact).run()

    def bayes(own: OfflineLibrary, select: str) -> Callable[[int], BayesController]:
        def make(seed: int) -> BayesController:
            posterior = PSISPosterior(prior, law, num_draws=1000, seed=seed)
            return BayesController(own, posterior, select, num_draws=256, seed=seed)

        return make

    def mixture(own: OfflineLibrary) -> Callable[[int], BayesController]:
        return lambda seed: BayesController(own, EnumeratedPosterior(own.theta, law))

    def knowing(seed: int) -> BayesController:
        rows = {"q": known.tensors["q"][seed : seed + 1]}
        own = OfflineLibrary(
            truth[seed : seed + 1], rows, backend=known.backend, plant=plant
        )
        return BayesController(own, EnumeratedPosterior(own.theta, law))

    rules = {
        "mean": bayes(solved, "mean"),
        "UCB": bayes(solved, "ucb"),
        "Thompson": bayes(solved, "thompson"),
        "lookahead": bayes(solved, "lookahead"),
        "certainty equivalence": bayes(solved, "certainty"),
        "prior mean": bayes(solved, "prior"),
        f"MMRL, {count} draws": mixture(solved),
        "MMRL, 5 draws": mixture(few),
        "myopic, two steps": bayes(library(two_steps(plant), count), "mean"),
        "mean, GPTD": bayes(library(learned, min(count, 24)), "mean"),
        "UCB, GPTD": bayes(library(learned, min(count, 24)), "ucb"),
    }
    base = episodes(plant, truth, knowing)
    rows: list[Row] = []
    for name, make in rules.items():
        regret = episodes(plant, truth, make) - base
        error = float(regret.std()) / math.sqrt(systems)
        print(
            f"  {case:14s} {name:24s} {float(regret.mean()):7.2f} +- {error:.2f}",
            flush=True,
        )
        rows.append(regret_row(case, name, regret))
    return [*rows, {**coverage(plant, prior, solved, exact, quick), "case": case}]


def coverage(
    plant: LinearQuadratic,
    prior: Prior,
    library: OfflineLibrary,
    exact: GridBackend,
    quick: bool,
) -> Row:
    """How often 95 % intervals of the expected return hold the exact one."""
    generator, actions = torch.Generator().manual_seed(5), plant.actions
    assert actions is not None
    inside, total = 0, 0
    for trial in range(2 if quick else 60):
        posterior = PSISPosterior(prior, law, num_draws=1000, seed=trial)
        theta, s = prior.sample(1, 500 + trial)[0], torch.full((1,), START)
        for _ in range(trial % 4):
            a = actions[torch.randint(9, (), generator=generator)]
            ahead = plant.simulate(theta, s, a, plant.draw_noise((), generator))
            posterior.observe(s, a, 0.0, ahead)
            s = ahead
        rows = posterior.log_weights.exp().multinomial(100, True, generator=generator)
        draws = posterior.theta[rows]
        y, v = library.q(s[None])
        gp = ParameterGP(library.unit(library.theta)).fit(y[:, 0].mT, v[:, 0].mT)
        found = gp.predict(y[:, 0].mT, v[:, 0].mT, library.unit(draws))
        truth = OfflinePlanner(draws, plant, exact).run().q(s[None])[0][:, 0].mean(0)
        gap = (found.mean - truth).abs()
        inside += int((gap <= 1.96 * found.mean_variance.sqrt()).sum())
        total += gap.numel()
    return {
        "method": "parameter GP",
        "metric": "coverage_95",
        "value": inside / total,
        "unit": "share",
        "seeds": total,
    }


def measure_melanoma(quick: bool) -> list[Row]:
    """Rules on ten genes, four entries unknown, expression measured with noise."""
    problem = melanoma(unknown=ENTRIES, channel=Channel.normal(1.0, 0.8, 3.0, 0.8))
    sets = problem.network.rule_sets()
    count = 4 if quick else 96
    runs = NetworkRuns(problem, num_runs=count, num_steps=60, seed=0)
    q = problem.solve(sets, tolerance=1e-3).action_values
    base = runs.known(q).costs.sum(0)
    few = controllers(len(sets))
    costs = {name: runs.unknown(few[name], q).costs.sum(0) for name in LEARNING}
    for name, near in myopic(problem):
        costs[name] = runs.unknown(mean_rule, near).costs.sum(0)
    costs["no control"] = runs.known(q, no_control).costs.sum(0)
    rows: list[Row] = []
    for name, cost in costs.items():
        regret = cost - base
        print(f"  melanoma       {name:24s} {float(regret.mean()):7.2f}", flush=True)
        rows.append(regret_row("melanoma", name, regret))
    return rows


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure the network, then the plant with a known and an unknown sign."""
    yield measure_melanoma(quick)
    for case in ("known sign", "unknown sign"):
        with warnings.catch_warnings():
            # few draws near the posterior are among what is measured
            warnings.simplefilter("ignore", PyroGeoWarning)
            yield measure_plant(case, quick)


def ratios(rows: list[Row]) -> dict[str, float]:
    """Headline comparisons."""
    found = {
        (row["case"], row["method"]): row["value"]
        for row in rows
        if row.get("part") == "plants" and row["metric"] == "regret"
    }
    covered = {
        row["case"]: row["value"]
        for row in rows
        if row.get("part") == "plants" and row["metric"] == "coverage_95"
    }
    result: dict[str, float] = {}
    if ("melanoma", "UCB") in found:
        gain = found["melanoma", "myopic, one step"] - found["melanoma", "UCB"]
        result["melanoma/myopic_regret_less_ours"] = gain
    for case in covered:
        result[f"coverage/expected_return/{case}"] = covered[case]
        gain = found[case, "mean"] - found[case, "lookahead"]
        result[f"{case}/mean_regret_less_lookahead"] = gain
    return result
