"""Episodes of several rules on one plant, compared and pictured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_geo._showing import Shown
from pyro_geo.checks import check_count
from pyro_geo.citations import citation
from pyro_geo.errors import UnsupportedError
from pyro_geo.io.reports import Curves, page_title, write_report
from pyro_geo.ops.random import private_randomness, substream
from pyro_geo.planning.backends import TabularBackend
from pyro_geo.planning.controller import BayesController
from pyro_geo.planning.library import OfflineLibrary
from pyro_geo.planning.network_posterior import FilterPosterior
from pyro_geo.planning.offline import OfflinePlanner
from pyro_geo.planning.policy_iteration import GPTDPolicyIteration
from pyro_geo.planning.posteriors import ParameterPosterior, PSISPosterior
from pyro_geo.planning.priors import Prior

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.planning.environments import Plant

__all__ = ["BASELINES", "Comparison", "Study", "compare", "report", "study_of"]

BASELINES = ("mean", "certainty", "prior")
_WALK = 9  # states of a picture of values


@dataclass
class Study:
    """A plant with unknown parameters, and how they are learned.

    Attributes:
        plant: the truth; its `theta` holds the true parameters.
        planner: of the offline stage.
        posterior: makes a posterior that has seen nothing.
        measure: what is seen of a state, given a seed; the state itself when None.
    """

    plant: Plant
    planner: OfflinePlanner
    posterior: Callable[[], ParameterPosterior]
    measure: Callable[[Tensor, int], Tensor] | None = None

    def seen(self, s: Tensor, seed: int) -> Tensor:
        """What a controller sees of a state."""
        return s if self.measure is None else self.measure(s, seed)


@dataclass(repr=False)
class Comparison(Shown):
    """Episodes of several rules under the same noise.

    Attributes:
        costs: rule to minus the rewards, `(runs, steps)`.
        states: of the first run of the first rule, `(steps + 1, n)`.
        controller: of that run.
        beliefs: mean and standard deviation of the parameters before each step of that
            run, `(steps, 2, P)`.
    """

    costs: dict[str, Tensor]
    states: Tensor
    controller: BayesController
    beliefs: Tensor

    def _shown_facts(self) -> dict[str, object]:
        runs, steps = next(iter(self.costs.values())).shape
        rules = {name: float(cost.sum(1).mean()) for name, cost in self.costs.items()}
        return {"runs": runs, "steps": steps, **rules}

    def _shown_table(self) -> pd.DataFrame:
        return self.table()

    def table(self) -> pd.DataFrame:
        """Tabulate the costs.

        Returns:
            One row for each rule: mean cost of an episode, its standard error, and the
            difference to the first rule with its own, over pairs.
        """
        import pandas as pd

        first = next(iter(self.costs.values())).sum(1)
        rows = {}
        for name, cost in self.costs.items():
            total = cost.sum(1)
            gap = total - first
            root = len(total) ** 0.5
            rows[name] = {
                "cost": float(total.mean()),
                "error": float(total.std(correction=0)) / root,
                "above the first": float(gap.mean()),
                "error of that": float(gap.std(correction=0)) / root,
            }
        return pd.DataFrame(rows).T.rename_axis("rule")


def study_of(file: Mapping[str, Any], num_draws: int = 32) -> Study:
    """Make a study of a file of the gallery.

    Args:
        file: its names: `problem`, a Boolean network with unknown entries; or `plant`,
            `model`, `data` and `log_likelihood`, and perhaps `states`, where values are
            learned, and `sites`, those of the model that are the plant's parameters.
        num_draws: draws of the prior.

    Returns:
        The study.

    Raises:
        UnsupportedError: the file has neither.
    """
    if "problem" in file and file["problem"]().network.unknown:
        return _of_network(file["problem"]())
    if "plant" not in file or "log_likelihood" not in file:
        raise UnsupportedError(
            "nothing to control",
            where="the file of the model",
            found="no plant() with a log_likelihood, no problem() with unknown entries",
            expected="one of them",
            todo="Look at models/unknown_sign_plant.py.",
        )
    plant = file["plant"]()
    sites = file["sites"]() if "sites" in file else None
    prior = Prior.from_model(file["model"], *file["data"](), sites=sites)
    backend = GPTDPolicyIteration(num_steps=100, states=file.get("states"))
    planner = OfflinePlanner(prior, plant, backend, num_draws=num_draws)
    law = file["log_likelihood"]
    return Study(plant, planner, lambda: PSISPosterior(prior, law, num_draws=2000))


def _of_network(problem: Any) -> Study:
    from pyro_geo.planning.environments import BooleanPlant

    sets = problem.network.rule_sets().to(torch.get_default_dtype())
    backend = TabularBackend.of_network(problem, tolerance=1e-3)
    planner = OfflinePlanner(sets, None, backend)

    def measure(s: Tensor, seed: int) -> Tensor:
        with private_randomness(seed):
            return problem.channel.sample(s.long())

    return Study(
        BooleanPlant(problem),
        planner,
        lambda: FilterPosterior(problem.filter()),
        None if problem.channel is None else measure,
    )


def compare(
    study: Study,
    library: OfflineLibrary,
    rules: Sequence[str],
    *,
    num_runs: int = 4,
    num_steps: int = 30,
    seed: int = 0,
) -> Comparison:
    """Run several rules on the same first states and noise.

    Args:
        study: the plant.
        library: of the offline stage.
        rules: names of rules, the first of which is pictured.
        num_runs: episodes of each.
        num_steps: steps of an episode.
        seed: of everything random.

    Returns:
        Their costs, and the first episode of the first rule.
    """
    check_count("num_runs", num_runs)
    check_count("num_steps", num_steps)
    costs: dict[str, Tensor] = {}
    kept: tuple[Tensor, BayesController, Tensor] | None = None
    for rule in dict.fromkeys(rules):
        rows = []
        for run in range(num_runs):
            controller = BayesController(library, study.posterior(), rule, seed=run)
            own = substream(seed, run)
            cost, states, beliefs = _episode(study, controller, num_steps, own)
            rows.append(cost)
            kept = kept or (states, controller, beliefs)
        costs[rule] = torch.stack(rows)
    assert kept is not None
    return Comparison(costs, *kept)


def _episode(
    study: Study, controller: BayesController, num_steps: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    plant, generator = study.plant, torch.Generator().manual_seed(seed)
    s = plant.initial((), generator)
    states, costs, beliefs = [s], [], []
    y = study.seen(s, substream(seed, 0))
    for step in range(num_steps):
        known = controller.posterior.knowledge()
        w = known.log_weights.exp()[:, None].to(known.theta)
        mean = (w * known.theta).sum(0)
        sd = (w * (known.theta - mean).square()).sum(0).sqrt()
        beliefs.append(torch.stack([mean, sd]).double())
        action = controller.act(y).action
        if study.planner.plant is None:  # a network numbers its actions
            assert plant.actions is not None
            action = plant.actions[action]
        noise = plant.draw_noise((), generator)
        ahead = plant.simulate(plant.theta.to(s), s, action, noise)
        reward = plant.reward(s, action, ahead)
        y_next = study.seen(ahead, substream(seed, step + 1))
        controller.observe(y, action, reward, y_next)
        costs.append(-reward.double())
        states.append(ahead)
        s, y = ahead, y_next
    return torch.stack(costs), torch.stack(states).double(), torch.stack(beliefs)


def report(
    study: Study, library: OfflineLibrary, found: Comparison, folder: Path
) -> Path:
    """Write a report with pictures in one HTML file.

    Args:
        study: the plant.
        library: of the offline stage.
        found: the episodes.
        folder: where to.

    Returns:
        The page.
    """
    rule = next(iter(found.costs))
    facts = {
        "model": type(study.plant).__name__,
        "rule": rule,
        "solved draws": str(len(library)),
        "failed draws": str(len(library.failed)),
        "runs and steps": " x ".join(map(str, found.costs[rule].shape)),
    }
    tables = {"Costs": found.table(), "Decisions": found.controller.record.table()}
    return write_report(
        found.controller.to_arviz(),
        folder / "report.html",
        title=page_title(f"Bayesian control by {rule}", facts["model"]),
        facts=facts,
        citation=citation(found.controller),
        tables=tables,
        curves=[
            *_surfaces(study, library, found),
            _states(study, found),
            *_beliefs(library, found),
            _regret(found),
        ],
    )


def _surfaces(study: Study, library: OfflineLibrary, found: Comparison) -> list[Curves]:
    """Value of the best action along a line of states, with its uncertainty."""
    if study.planner.plant is None:
        return []
    states = found.states
    low, high = states.amin(0), states.amax(0)
    share = torch.linspace(0, 1, _WALK, dtype=torch.float64)[:, None]
    line = low + share * (high - low)
    probe = BayesController(library, found.controller.posterior, seed=0)
    lines: dict[str, list[float]] = {"mean": [], "mean - 2 sd": [], "mean + 2 sd": []}
    for s in line:
        decision = probe.act(s)
        best = int(decision.mean.argmax())
        mean, sd = float(decision.mean[best]), float(decision.sd[best])
        for name, value in zip(
            lines, (mean, mean - 2 * sd, mean + 2 * sd), strict=True
        ):
            lines[name].append(value)
    text = "Value of the best action, from the smallest state met to the largest"
    return [Curves(text, share[:, 0].tolist(), lines, "share of the way", "value")]


def _states(study: Study, found: Comparison) -> Curves:
    steps = list(range(len(found.states)))
    lines = {f"state {i}": x.tolist() for i, x in enumerate(found.states.T[:6])}
    return Curves("First episode", steps, lines, "step", "state")


def _beliefs(library: OfflineLibrary, found: Comparison) -> list[Curves]:
    pictures = []
    for column, name in enumerate(library.parameters[:6]):
        mean, sd = found.beliefs[:, 0, column], found.beliefs[:, 1, column]
        lines = {"mean": mean.tolist(), "mean - sd": (mean - sd).tolist()}
        lines["mean + sd"] = (mean + sd).tolist()
        steps = list(range(len(mean)))
        pictures.append(Curves(f"Belief of {name}", steps, lines, "step", name))
    return pictures


def _regret(found: Comparison) -> Curves:
    first = next(iter(found.costs.values()))
    lines = {
        name: (cost - first).cumsum(1).mean(0).tolist()
        for name, cost in found.costs.items()
    }
    steps = list(range(1, first.shape[1] + 1))
    text = "Cost beyond that of the first rule, mean over runs"
    return Curves(text, steps, lines, "step", "cumulated difference")
