"""Runs of a planner: in an environment of Gymnasium, or on a plant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check, check_count
from pyro_geo.planning.environments import Plant
from pyro_geo.planning.mpc.dynamics import box_of
from pyro_geo.planning.mpc.plan import Plan
from pyro_geo.planning.mpc.planner import Planner

__all__ = ["Episode", "play", "run_plant"]


class Episode(NamedTuple):
    """What happened.

    Attributes:
        states: `(T + 1, n)`.
        actions: `(T, m)`.
        rewards: `(T,)`.
        plans: of each step.
        terminated: whether the environment ended the run.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    plans: list[Plan]
    terminated: bool


def play(
    env: Any,
    planner: Planner,
    *,
    num_steps: int = 200,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    state: Callable[[np.ndarray], Any] | None = None,
    watch: Callable[[Tensor, Tensor, float, Tensor], None] | None = None,
) -> Episode:
    """Run a planner in an environment whose actions are numbers in a box.

    The planner is reset. The environment may be anything with Gymnasium's `reset` and
    `step`; the bounds of its actions must be those that the planner plans with
    (`action_space=env.action_space`).

    Args:
        env: the environment.
        planner: plans for one state.
        num_steps: at most so many steps.
        seed: of the environment.
        options: of its reset.
        state: the planner's state of an observation; the observation when left out.
        watch: `watch(s, a, reward, s_next)`, called after each step, such as the
            `observe` of a posterior that the planner takes its draws from.

    Returns:
        The run.

    Example:
        >>> from pyro_geo.planning.environments import Pendulum, PendulumEnv
        >>> from pyro_geo.planning.mpc import ICEMPlanner
        >>> planner = ICEMPlanner(Pendulum(), horizon=5, pop_size=30, num_elites=5)
        >>> play(PendulumEnv(), planner, num_steps=3, seed=1).rewards.shape
        torch.Size([3])
    """
    check_count("num_steps", num_steps)
    box = box_of(env.action_space)
    same = torch.equal(box.lower, planner.box.lower)
    same = same and torch.equal(box.upper, planner.box.upper)
    check(
        same,
        "env",
        f"actions in [{box.lower.tolist()}, {box.upper.tolist()}]",
        "the bounds of the planner; pass it action_space=env.action_space",
    )
    planner.reset()

    def of(observation: Any) -> Tensor:
        found = np.asarray(observation) if state is None else state(observation)
        return torch.as_tensor(found, dtype=torch.get_default_dtype()).flatten()

    observation, _ = env.reset(seed=seed, options=options)
    states, actions, rewards, plans = [of(observation)], [], [], []
    terminated = False
    for _ in range(num_steps):
        plan = planner.plan(states[-1])
        action = plan.action.cpu().numpy().reshape(box.shape)
        kind = getattr(env.action_space, "dtype", np.float32)
        observation, reward, terminated, truncated, _ = env.step(action.astype(kind))
        plans.append(plan)
        actions.append(plan.action)
        rewards.append(float(reward))
        states.append(of(observation))
        if watch is not None:
            watch(states[-2], actions[-1], rewards[-1], states[-1])
        if terminated or truncated:
            break
    return Episode(
        torch.stack(states),
        torch.stack(actions),
        torch.tensor(rewards),
        plans,
        bool(terminated),
    )


def run_plant(
    plant: Plant,
    planner: Planner,
    s: Tensor,
    *,
    theta: Tensor | None = None,
    num_steps: int = 50,
    seed: int = 0,
) -> Episode:
    """Run a planner on a plant, whose true parameters it need not know.

    The planner is reset.

    Args:
        plant: the truth.
        planner: plans for one state.
        s: the first state, `(n,)`.
        theta: true parameters, `(P,)`; those that the plant was made with when left
            out.
        num_steps: of the run.
        seed: of the plant's noise.

    Returns:
        The run.

    Example:
        >>> from pyro_geo.planning.environments import Pendulum
        >>> from pyro_geo.planning.mpc import ICEMPlanner
        >>> planner = ICEMPlanner(Pendulum(), horizon=5, pop_size=30, num_elites=5)
        >>> down = torch.tensor([-1.0, 0.0, 0.0])
        >>> run_plant(Pendulum(), planner, down, num_steps=2).states.shape
        torch.Size([3, 3])
    """
    check_count("num_steps", num_steps)
    planner.reset()
    theta = (plant.theta if theta is None else theta).to(s)
    noise = plant.draw_noise((num_steps,), torch.Generator().manual_seed(seed)).to(s)
    states, actions, rewards, plans = [s], [], [], []
    for t in range(num_steps):
        plan = planner.plan(states[-1])
        after = plant.simulate(theta, states[-1], plan.action, noise[t])
        plans.append(plan)
        actions.append(plan.action)
        rewards.append(plant.reward(states[-1], plan.action, after))
        states.append(after)
    return Episode(
        torch.stack(states), torch.stack(actions), torch.stack(rewards), plans, False
    )
