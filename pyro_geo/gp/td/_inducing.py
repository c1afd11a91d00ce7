"""What the sparse models share: inducing nodes, and predictions from them."""

from __future__ import annotations

import abc
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from gpytorch.models.gp import GP
from linear_operator import to_dense
from linear_operator.operators import MatmulLinearOperator
from torch import Tensor

from pyro_geo.checks import check_count, check_shape
from pyro_geo.gp._batch import dense_algebra
from pyro_geo.gp._transitions import Noise, Transitions, value_rows
from pyro_geo.gp.td._cholesky import factor
from pyro_geo.gp.td._defaults import default_likelihood
from pyro_geo.gp.td._model import ValueModel
from pyro_geo.gp.td._returns import Regression, regression
from pyro_geo.ops.arrays import to_numpy

__all__ = ["InducingModel", "Posterior", "inducing_nodes", "spread"]

CHUNK = 4096  # rows at a time
_SAMPLE = 20_000  # nodes that centres are looked for among
_MOST = 512


class Posterior(NamedTuple):
    """A normal posterior of whitened values at the inducing nodes.

    Attributes:
        lower: factor `L` of their prior covariance, `(*batch, M, M)`; values are `L v`.
        mean: mean of `v`, `(*batch, M)`.
        root: root of the covariance of `v`, `(*batch, M, M)`.
    """

    lower: Tensor
    mean: Tensor
    root: Tensor


class InducingModel(ValueModel, GP):
    r"""A value model that sees the data through values at inducing nodes.

    .. math:: E f = m + a' \mu, \quad
              \operatorname{cov} f = k - a' a + a' S a, \qquad a = L^{-1} k(Z, x)

    Args:
        transitions: what was seen.
        noise: `"reward"` or `"return"`.
        kernel: covariance of values.
        mean: mean of values.
        num_inducing: how many inducing nodes.
        inducing_points: where they are, `(*batch, M, D)`.
        learn_inducing: whether fitting moves them.
    """

    def __init__(
        self,
        transitions: Transitions,
        *,
        noise: Noise = "reward",
        kernel: Kernel | None = None,
        mean: Mean | None = None,
        num_inducing: int | None = None,
        inducing_points: Tensor | None = None,
        learn_inducing: bool = False,
    ) -> None:
        check_count("num_inducing", num_inducing)
        super().__init__()
        self._prior(transitions, kernel, mean)
        self.likelihood = default_likelihood(transitions, noise)
        if inducing_points is None:
            count = num_inducing or min(_MOST, max(1, len(transitions) // 5))
            inducing_points = inducing_nodes(transitions, count)
        points = inducing_points.detach().to(transitions.x).clone()
        words = f"(*batch, M, {transitions.dim})"
        good = points.dim() > 1 and points.shape[-1] == transitions.dim
        check_shape("inducing_points", points.shape, words, good)
        points = points.expand(*transitions.batch_shape, *points.shape[-2:]).clone()
        # values at nodes alone: a coefficient that could be learned would change what
        # the model says
        self.inducing_points = torch.nn.Parameter(points, requires_grad=learn_inducing)
        self.to(transitions.x)
        self._data: Regression = regression(transitions, noise)
        self._posterior: Posterior | None = None

    @abc.abstractmethod
    def _condition(self) -> Posterior:
        """Condition on the data."""

    def posterior(self) -> Posterior:
        """Posterior of the whitened values at the inducing nodes."""
        if self._posterior is None:
            with torch.no_grad():
                self._posterior = self._condition()
        return self._posterior

    def train(self, mode: bool = True) -> Any:
        """Switch to learning, which forgets the posterior, or to prediction."""
        if mode:
            self._posterior = None
        return super().train(mode)

    def forward(self, x: Tensor) -> MultivariateNormal:
        """Prior of rows."""
        mean: Any = self.mean_module(x)
        return MultivariateNormal(mean, self.covar_module(x))

    def residuals(self) -> Tensor:
        """Each reward less its prediction, standardised, `(*batch, T)`."""
        steps = self.transitions
        found = []
        for rows, discount, reward in zip(
            steps.pack().split(CHUNK, -2),
            steps.discount.split(CHUNK, -1),
            steps.reward.split(CHUNK, -1),
            strict=True,
        ):
            law = self._predict(rows)
            noise = self.likelihood.noise
            if self.likelihood.kind == "return":
                noise = noise * (1 + discount.square())
            variance = law.lazy_covariance_matrix.diagonal(dim1=-1, dim2=-2)
            found.append((reward - law.mean) / (variance + noise).sqrt())
        return torch.cat(found, -1)

    def _predict(self, rows: Tensor) -> MultivariateNormal:
        lower, mean, root = self.posterior()
        with dense_algebra():
            features = self._features(lower, rows)
            spread = root.mT @ features
            level: Any = self.mean_module(rows)
            level = level + (features * mean.unsqueeze(-1)).sum(-2)
            left = torch.cat([-features, spread], -2).mT
            update = MatmulLinearOperator(left, torch.cat([features, spread], -2))
            return MultivariateNormal(level, self.covar_module(rows) + update)

    def _lower(self) -> Tensor:
        """Factor of the prior covariance at the inducing nodes."""
        rows = value_rows(self.inducing_points, self.transitions.successors)
        covariance = to_dense(self.covar_module(rows))
        return factor(covariance, "covariance of the inducing nodes")

    def _features(self, lower: Tensor, rows: Tensor) -> Tensor:
        """Whitened covariances of inducing nodes and rows, `(*batch, M, n)`."""
        points = value_rows(self.inducing_points, self.transitions.successors)
        cross = to_dense(self.covar_module(points, rows))
        return torch.linalg.solve_triangular(lower, cross, upper=False)


def inducing_nodes(transitions: Transitions, count: int, seed: int = 0) -> Tensor:
    """Choose inducing nodes: the centres of k-means, or all nodes if there are few.

    Args:
        transitions: whose nodes to cover.
        count: how many.
        seed: of the first centres.

    Returns:
        Nodes, `(*batch, count, D)`.
    """
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng(seed)
    x = transitions.x.reshape(-1, *transitions.x.shape[-2:])
    follow = transitions.x_next.reshape(len(x), -1, transitions.dim)
    nodes = torch.cat([x, follow], -2)
    scale = nodes.std(-2, keepdim=True, correction=0).double()
    scale = torch.where(scale > 0, scale, 1.0)
    centres = []
    for one, unit in zip(nodes.double(), scale, strict=True):
        different = one.unique(dim=0)
        if len(different) <= count:
            spare = different[rng.choice(len(different), count - len(different))]
            centres.append(
                torch.cat([different, spare]) if len(nodes) > 1 else different
            )
            continue
        few = rng.permutation(len(different))[:_SAMPLE]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            found, _ = kmeans2(
                to_numpy(different[few] / unit), count, iter=10, minit="++", rng=rng
            )
        centres.append(torch.from_numpy(found).to(unit) * unit)
    stacked = torch.stack(centres).to(transitions.x)
    return stacked.reshape(*transitions.batch_shape, *stacked.shape[-2:])


def spread(transitions: Transitions, count: int, pieces: int = 16) -> Transitions:
    """Take about `count` steps, in pieces from all over the data.

    The pieces are truncated episodes.

    Args:
        transitions: all steps.
        count: how many to take.
        pieces: in how many pieces.

    Returns:
        Some of the steps.
    """
    if len(transitions) <= count:
        return transitions
    length = max(1, count // pieces)
    starts = np.linspace(0, len(transitions) - length, pieces).astype(int)
    parts = [transitions[start : start + length] for start in starts]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part, new_episode=True)
    return whole
