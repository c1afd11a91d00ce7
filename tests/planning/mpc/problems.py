"""Dynamics whose costs are known by hand, and small planners of them."""

from typing import Any

import torch
from torch import Tensor

from pyro_geo.optim import DecentCEM
from pyro_geo.planning import Simulator
from pyro_geo.planning.environments import LinearQuadratic
from pyro_geo.planning.mpc import CEMPlanner, ICEMPlanner, MPPIPlanner, Planner

NAMES = ["cem", "icem", "mppi"]
SMALL = {"pop_size": 60, "num_iters": 3}


def line(noise: float = 0.0) -> Simulator:
    """A number that an action pushes: `s' = s + theta a + noise w`, cost `s'^2`."""

    def simulate(theta: Tensor, s: Tensor, a: Tensor, w: Tensor) -> Tensor:
        return s + theta * a + noise * w

    def reward(s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        return -s_next.square().sum(-1)

    def initial(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.ones(*shape, 1)

    return Simulator(
        simulate, reward, initial, parameters=["push"], theta=torch.ones(1)
    )


def mass() -> LinearQuadratic:
    return LinearQuadratic.double_integrator()


def best_open_loop(
    plant: LinearQuadratic, theta: Tensor, s: Tensor, horizon: int
) -> tuple[Tensor, Tensor]:
    """Lowest expected quadratic cost over draws, and its actions, by least squares.

    Args:
        plant: without noise.
        theta: draws of equal weight, `(S, P)`.
        s: first state, `(n,)`.
        horizon: steps.

    Returns:
        Cost `()` and actions `(H, m)`.
    """
    A, B = plant.matrices(theta.double())
    m = B.shape[-1]
    rows, targets = [], []
    state = plant.state_cost.double().sqrt()  # diagonal in these tests
    for draw in range(len(theta)):
        effect = torch.zeros(len(s), horizon * m, dtype=torch.float64)
        free = s.double()
        for t in range(horizon):
            rows.append(state @ effect)  # the cost is that of the state before a step
            targets.append(-state @ free)
            effect = A[draw] @ effect
            effect[:, t * m : (t + 1) * m] += B[draw]
            free = A[draw] @ free
    price = plant.action_cost.double().sqrt() * len(theta) ** 0.5
    for t in range(horizon):
        row = torch.zeros(m, horizon * m, dtype=torch.float64)
        row[:, t * m : (t + 1) * m] = price
        rows.append(row)
        targets.append(torch.zeros(m, dtype=torch.float64))
    X, y = torch.cat(rows), torch.cat(targets)
    u = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    cost = (X @ u - y).square().sum() / len(theta)
    return cost, u.view(horizon, m)


def few(**options: Any) -> DecentCEM:
    options = {"pop_size": 60, "max_iters": 3, **options}
    return DecentCEM(3, layout="uniform", restart=False, elite_frac=0.2, **options)


def planners(dynamics: Any, **options: Any) -> dict[str, Planner]:
    return {
        "cem": CEMPlanner(dynamics, optimizer=few(), num_kept=3, **options),
        "icem": ICEMPlanner(dynamics, **SMALL, **options),
        "mppi": MPPIPlanner(dynamics, **SMALL, **options),
    }
