"""Episodes of an environment, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Steps", "play"]


class Steps(NamedTuple):
    """What was seen: nodes, successors and rewards, and where episodes ended."""

    x: np.ndarray
    x_next: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    episode: np.ndarray


def play(
    env: Any,
    policy: Callable[[Any], Any] | None,
    num_steps: int,
    node: Callable[[Any, Any], Any] | None,
    seed: int | None,
) -> Steps:
    """Take steps in an environment; see `Transitions.from_gymnasium`."""
    if policy is None:
        env.action_space.seed(seed)

    def act(state: Any) -> Any:
        return env.action_space.sample() if policy is None else policy(state)

    def place(state: Any, action: Any) -> np.ndarray:
        found = state if node is None else node(state, action)
        return np.asarray(found, float).reshape(-1)

    rows = []
    label = 0
    state, _ = env.reset(seed=seed)
    action = act(state)
    for _ in range(num_steps):
        after, reward, terminated, truncated, _ = env.step(action)
        here = place(state, action)
        if terminated:  # nothing follows, so the policy is not asked
            rows.append((here, here, reward, True, label))
        else:
            # the action that would come next is part of the successor's node
            following = act(after)
            rows.append((here, place(after, following), reward, False, label))
            state, action = after, following
        if terminated or truncated:
            label += 1
            state, _ = env.reset()
            action = act(state)
    columns = (np.asarray(column) for column in zip(*rows, strict=True))
    x, x_next, rewards, ends, labels = columns
    return Steps(x, x_next, np.asarray(rewards, float), ends, labels)
