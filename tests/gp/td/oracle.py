"""Temporal differences written out in NumPy: dense matrices and no library of ours."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from gpytorch.means import ZeroMean

from pyro_geo.gp import Transitions

GAMMA = 0.9
KINDS: list[Any] = ["reward", "return"]  # of noise


def double(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


@dataclass
class Episodes:
    """Episodes of a random walk; `H` acts on the visits, `(steps, visits)`."""

    nodes: list[np.ndarray]
    terminated: list[bool]
    rewards: list[np.ndarray]
    gamma: float = GAMMA

    @property
    def visits(self) -> np.ndarray:
        return np.concatenate(self.nodes)

    @property
    def reward(self) -> np.ndarray:
        return np.concatenate(self.rewards)

    @property
    def discount(self) -> np.ndarray:
        found = []
        for nodes, over in zip(self.nodes, self.terminated, strict=True):
            one = np.full(len(nodes) - 1, self.gamma)
            one[-1] *= not over
            found.append(one)
        return np.concatenate(found)

    @property
    def H(self) -> np.ndarray:  # noqa: N802 (the name in the formulas)
        h = np.zeros((len(self.reward), len(self.visits)))
        row = column = 0
        for nodes in self.nodes:
            for _ in range(len(nodes) - 1):
                h[row, column] = 1
                h[row, column + 1] = -self.discount[row]
                row, column = row + 1, column + 1
            column += 1
        return h

    def noise(self, kind: str, variance: float) -> np.ndarray:
        h = self.H
        return variance * (h @ h.T if kind == "return" else np.eye(len(h)))

    def transitions(self, order: list[int] | None = None) -> Transitions:
        order = list(range(len(self.nodes))) if order is None else order
        one = Episodes(
            [self.nodes[i] for i in order],
            [self.terminated[i] for i in order],
            [self.rewards[i] for i in order],
            self.gamma,
        )
        label = np.repeat(np.arange(len(order)), [len(r) for r in one.rewards])
        x = np.concatenate([n[:-1] for n in one.nodes])
        x_next = np.concatenate([n[1:] for n in one.nodes])
        return Transitions(x, x_next, one.reward, one.discount, episode=label)


def walk(seed: int = 0, lengths: tuple[int, ...] = (9, 12, 7, 10)) -> Episodes:
    """Every second episode terminates, the others are cut off."""
    rng = np.random.default_rng(seed)
    nodes = [0.5 * rng.normal(size=(n + 1, 2)).cumsum(0) for n in lengths]
    rewards = [np.cos(x[:-1]).sum(1) + 0.3 * rng.normal(size=len(x) - 1) for x in nodes]
    return Episodes(nodes, [i % 2 == 1 for i in range(len(lengths))], rewards)


def matern(
    a: np.ndarray, b: np.ndarray, scale: Any = 1.3, length: Any = (0.7, 1.1)
) -> np.ndarray:
    d = np.sqrt(5 * (((a[:, None] - b[None]) / np.asarray(length)) ** 2).sum(-1))
    return scale * (1 + d + d**2 / 3) * np.exp(-d)


def posterior(data: Episodes, kind: str, new: np.ndarray, variance=0.05, mean=0.4):
    """Mean, covariance and evidence, by solving with dense matrices."""
    h, x = data.H, data.visits
    q = h @ matern(x, x) @ h.T + data.noise(kind, variance)
    residual = data.reward - mean * h.sum(1)
    cross = matern(new, x) @ h.T
    level = mean + cross @ np.linalg.solve(q, residual)
    covariance = matern(new, new) - cross @ np.linalg.solve(q, cross.T)
    logs = np.linalg.slogdet(q)[1] + len(q) * np.log(2 * np.pi)
    evidence = -0.5 * (residual @ np.linalg.solve(q, residual) + logs)
    return level, covariance, evidence


def set_up(
    model: Any,
    variance: Any = 0.05,
    mean: float = 0.4,
    scale: Any = 1.3,
    length: Any = (0.7, 1.1),
) -> Any:
    """Give a model with the default modules the oracle's hyperparameters."""
    model.mean_module.base_mean.constant.data.fill_(mean)
    model.covar_module.base_kernel.outputscale = double(scale)
    model.covar_module.base_kernel.base_kernel.lengthscale = double(length)
    model.likelihood.noise = double(variance)
    return model


class Features(Kernel):
    """The linear kernel of some features, `f(a)' S f(b)`."""

    def __init__(self, features, prior=None):
        super().__init__()
        self.features = features
        self.prior = prior

    def forward(self, x1, x2, diag=False, last_dim_is_batch=False, **params):
        a, b = self.features(x1), self.features(x2)
        a = a if self.prior is None else a @ self.prior
        return (a * b).sum(-1) if diag else a @ b.mT


def table(count):
    """One feature for each of so many states, which are numbers."""

    def features(x):
        return torch.nn.functional.one_hot(x[..., 0].long(), count).double()

    return features


def zero_mean():
    return ZeroMean()


def new_nodes(seed=9, count=6):
    return np.random.default_rng(seed).normal(size=(count, 2))


def deviation(law, level, covariance):
    """Largest error of a prediction."""
    with torch.no_grad():
        first = np.abs(law.mean.numpy() - level).max()
        return max(first, np.abs(law.covariance_matrix.numpy() - covariance).max())
