"""A pendulum of unknown mass and length: steps until it stands upright.

The peer plans with certainty equivalence: it solves the pendulum at the posterior mean
of mass and length, anew every few steps. Both know the same posterior.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator

import torch
from _bench import Row, load
from torch import Tensor

from pyro_geo.errors import PyroGeoWarning
from pyro_geo.planning import (
    BayesController,
    GridBackend,
    OfflineLibrary,
    OfflinePlanner,
    Prior,
    PSISPosterior,
)
from pyro_geo.planning.environments import Plant

LONGEST, HELD, AGAIN = 200, 10, 5


def backend(points: int) -> GridBackend:
    """Value iteration over angle and speed."""
    angles = torch.linspace(-torch.pi, torch.pi, points + 1)[:-1]

    def coordinates(s: Tensor) -> Tensor:
        return torch.stack([torch.atan2(s[..., 1], s[..., 0]), s[..., 2]], -1)

    def states(x: Tensor) -> Tensor:
        return torch.stack([x[..., 0].cos(), x[..., 0].sin(), x[..., 1]], -1)

    return GridBackend(
        [angles, torch.linspace(-8, 8, points)],
        coordinates=coordinates,
        states=states,
        periodic=[0],
        discount=0.98,
        num_actions=5,
        tolerance=0.5,
    )


class CertaintyEquivalence:
    """Plans for the posterior mean of the parameters, anew every few steps."""

    def __init__(self, posterior: PSISPosterior, solver: GridBackend) -> None:
        self.posterior, self.solver, self.steps = posterior, solver, 0
        self.learned: dict[str, Tensor] = {}

    def action(self, s: Tensor) -> Tensor:
        """The best action at the mean."""
        if self.steps % AGAIN == 0:
            known = self.posterior.knowledge()
            mean = (known.log_weights.exp()[:, None] * known.theta).sum(0)
            self.learned = self.solver.learn(mean[None], [0]).tensors
        self.steps += 1
        q, _ = self.solver.q(self.learned, s[None])
        return self.solver.grid[q[0, 0].argmax()]


def swing_up(
    plant: Plant,
    theta: Tensor,
    act: Callable[[Tensor], Tensor],
    watch: Callable[..., None],
    seed: int,
) -> int:
    """Steps until the pendulum has stood upright for a while."""
    generator = torch.Generator().manual_seed(seed)
    s, upright = torch.tensor([-1.0, 0.0, 0.0]), 0
    for step in range(LONGEST):
        a = act(s)
        noise = plant.draw_noise((), generator)
        ahead = plant.simulate(theta, s, a, noise)
        watch(s, a, plant.reward(s, a, ahead), ahead)
        s = ahead
        upright = upright + 1 if float(s[0]) > 0.95 else 0
        if upright == HELD:
            return step + 1 - HELD
    return LONGEST


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure both on the same pendulums."""
    file = load("pendulum")
    plant, law = file.plant(), file.log_likelihood
    prior = Prior.from_model(file.model, *file.data())
    solver = backend(15 if quick else 41).bound(plant)
    count, systems = (4, 1) if quick else (32, 10)
    library: OfflineLibrary = OfflinePlanner(
        prior, plant, solver, num_draws=count, group_size=8
    ).run(seed=0)
    truth = prior.sample(systems, 77)
    steps: dict[str, list[float]] = {
        name: [] for name in ("UCB", "mean", "Thompson", "certainty equivalence")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        for system, theta in enumerate(truth):
            for name in steps:
                posterior = PSISPosterior(prior, law, num_draws=1000, seed=system)
                if name == "certainty equivalence":
                    peer = CertaintyEquivalence(posterior, solver)
                    steps[name].append(
                        swing_up(plant, theta, peer.action, posterior.observe, system)
                    )
                    continue
                controller = BayesController(
                    library, posterior, name.lower(), num_draws=256, seed=system
                )

                def act(s: Tensor, own: BayesController = controller) -> Tensor:
                    return solver.grid[own.act(s).number]

                steps[name].append(
                    swing_up(plant, theta, act, controller.observe, system)
                )
            words = ", ".join(
                f"{name} {found[-1]:.0f}" for name, found in steps.items()
            )
            print(f"  steps until upright: {words}", flush=True)
    yield [
        {
            "case": "pendulum",
            "method": name,
            "metric": "steps_to_upright",
            "value": statistics.median(found),
            "mean": statistics.fmean(found),
            "worst": max(found),
            "seeds": systems,
            "unit": "steps",
        }
        for name, found in steps.items()
    ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Steps of the default rule over those of the peer."""
    found = {
        row["method"]: row["mean"] for row in rows if row.get("part") == "pendulum"
    }
    if not found:
        return {}
    return {"pendulum/steps/certainty": found["UCB"] / found["certainty equivalence"]}
