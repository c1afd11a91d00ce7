"""Temporal differences as the data come in."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from gpytorch.models.gp import GP
from linear_operator import to_dense
from linear_operator.operators import MatmulLinearOperator
from torch import Tensor

from pyro_geo.checks import check_count, check_number
from pyro_geo.errors import UnsupportedError
from pyro_geo.gp._batch import dense_algebra
from pyro_geo.gp._transitions import Noise, Transitions
from pyro_geo.gp.td._defaults import default_likelihood
from pyro_geo.gp.td._exact import ExactGPTD
from pyro_geo.gp.td._inducing import spread
from pyro_geo.gp.td._model import ValueModel
from pyro_geo.gp.td._recursion import Recursion
from pyro_geo.ops.arrays import to_numpy

__all__ = ["OnlineGPTD"]

_BLOCK = 256  # rows whose covariances are computed in one go


class OnlineGPTD(ValueModel, GP):
    r"""The posterior of values, step by step on a dictionary of nodes.

    .. math:: E f(x) = m(x) + \tilde k(x)' \tilde\alpha, \qquad
              \operatorname{cov} f = k - \tilde k' \tilde C \tilde k

    A step costs the square of the dictionary's size, however many steps came before.
    A node joins the dictionary when its value, given those of the others, keeps more
    than a share `nu` of its prior variance (approximate linear dependence). With
    `nu` towards zero the posterior is that of :class:`~pyro_geo.gp.ExactGPTD`.

    Use it while an agent acts: :meth:`update` takes further steps at any time. For data
    that are all there :class:`~pyro_geo.gp.SparseGPTD` is faster and more accurate.

    Args:
        transitions: steps to begin with; the scale of the defaults comes from them.
        noise: `"reward"` or `"return"`, see :class:`~pyro_geo.gp.TDLikelihood`.
        nu: least share of its prior variance that a node must add.
        kernel: covariance of values over the `D` columns of a node; a scaled Matern-5/2
            kernel with a lengthscale for each column when left out.
        mean: mean of values; a constant, which is learned, when left out.

    Raises:
        UnsupportedError: transitions are batched.

    References:
        Engel, Mannor & Meir (2003), Bayes meets Bellman, table 1; Engel, Mannor & Meir
        (2005), Reinforcement learning with Gaussian processes, table 1.

    Example:
        >>> x = torch.linspace(0, 1, 41)[:, None]
        >>> steps = Transitions(x[:-1], x[1:], torch.ones(40), 0.9)
        >>> gp = OnlineGPTD(steps[:20]).fit().update(steps[20:])
        >>> gp.value(x[:1]).mean.round().tolist()
        [10.0]
    """

    def __init__(
        self,
        transitions: Transitions,
        *,
        noise: Noise = "reward",
        nu: float = 1e-3,
        kernel: Kernel | None = None,
        mean: Mean | None = None,
    ) -> None:
        check_number("nu", nu, 0.0, 1.0)
        if transitions.batch_shape:
            raise UnsupportedError(
                "a batch of recursions",
                where="argument transitions",
                found=f"batch shape {tuple(transitions.batch_shape)}",
                expected="none: each member would have a dictionary of its own",
                todo="Make one model for each, or use ExactGPTD or SparseGPTD.",
            )
        super().__init__()
        self._prior(transitions, kernel, mean)
        self.likelihood = default_likelihood(transitions, noise)
        self.nu = nu
        self.to(transitions.x)
        self._recursion: Recursion | None = None
        self._nodes = transitions.x[:0]
        self._seen: list[tuple[float, float]] = []
        self._last: np.ndarray | None = None

    @property
    def dictionary(self) -> Tensor:
        """Nodes of the dictionary, `(M, D)`."""
        self._started()
        return self._nodes

    def fit(self, num_steps: int = 50, *, subset: int = 512) -> Self:
        """Learn the hyperparameters by evidence, and go through the transitions again.

        Args:
            num_steps: at most so many iterations of L-BFGS; 0 to keep them.
            subset: how many of the transitions to learn from, in pieces from all over.

        Returns:
            The model itself, in evaluation mode.
        """
        check_count("num_steps", num_steps, 0)
        check_count("subset", subset)
        few = spread(self.transitions, subset)
        kernel, mean = self.covar_module.base_kernel, self.mean_module.base_mean
        exact = ExactGPTD(few, noise=self.likelihood.kind, kernel=kernel, mean=mean)
        exact.likelihood.noise = self.likelihood.noise.detach()
        exact.fit(num_steps)
        self.likelihood.noise = exact.likelihood.noise.detach()
        self._recursion = None
        self._started()
        return self.eval()

    def update(self, transitions: Transitions, *, new_episode: bool = False) -> Self:
        """Take further steps into account, without learning hyperparameters.

        They go on with the last episode if they start where it has got to.

        Args:
            transitions: further steps, with the same columns.
            new_episode: they begin an episode, wherever they start.

        Returns:
            The model itself.
        """
        self._started()
        joined = self.transitions.joined(transitions, new_episode=new_episode)
        first = len(self.transitions)
        self.transitions = joined
        self._learn(first)
        return self

    def log_marginal(self) -> Tensor:
        """Logarithm of the evidence, summed as the steps came in; no derivative."""
        self._started()
        d, s = np.asarray(self._seen).T
        value = -0.5 * (np.log(2 * math.pi * s) + d * d / s).sum()
        return self.transitions.x.new_tensor(value)

    def residuals(self) -> Tensor:
        """Each reward less its prediction from all before, standardised, `(T,)`."""
        self._started()
        d, s = np.asarray(self._seen).T
        return torch.from_numpy(d / np.sqrt(s)).to(self.transitions.x)

    def _predict(self, rows: Tensor) -> MultivariateNormal:
        recursion = self._started()
        weights = torch.from_numpy(recursion.weights.copy()).to(rows)
        covariance = torch.from_numpy(recursion.covariance.copy()).to(rows)
        points = self.value_rows(self._nodes)
        with dense_algebra():
            cross = to_dense(self.covar_module(rows, points))
            mean = self.mean_module(rows) + (cross @ weights)
            update = MatmulLinearOperator(-cross @ covariance, cross.mT)
            return MultivariateNormal(mean, self.covar_module(rows) + update)

    def _started(self) -> Recursion:
        """Go through the transitions, unless that was done already."""
        if self._recursion is None:
            kind, noise = self.likelihood.kind, float(self.likelihood.noise.detach())
            self._recursion = Recursion(self.nu, noise, returns=kind == "return")
            self._nodes = self.transitions.x[:0]
            self._seen, self._last = [], None
            self._learn(0)
        return self._recursion

    @torch.no_grad()
    def _learn(self, first: int) -> None:
        """Go through the transitions from a row on."""
        before = max(first - 1, 0)
        steps = self.transitions[before:]
        if self.likelihood.kind == "return":
            steps.check_chain()
        x, follow = steps.x, steps.x_next.reshape(len(steps), -1)[:, : steps.dim]
        path = (follow[:-1] == x[1:]).all(-1).tolist()
        # the last row's episode may go on later; the next call knows
        linked = [*steps.linked.tolist()[:-1], True]
        path = [a and b for a, b in zip(linked, [*path, True], strict=True)]
        if self._recursion is not None and first and not linked[0]:
            self._recursion.carry = None
        if first and not path[0]:
            self._last = None
        for start in range(first - before, len(steps), _BLOCK):
            rows = slice(start, start + _BLOCK)
            self._block(steps[rows], linked[rows], path[rows])

    def _block(self, steps: Transitions, linked: list[bool], path: list[bool]) -> None:
        """Learn from some rows; their covariances are computed together."""
        recursion = self._recursion
        assert recursion is not None
        n, dim, count = len(steps), steps.dim, steps.successors
        follow = steps.x_next.reshape(n * count, dim)
        nodes = torch.cat([steps.x, follow])
        base = self.covar_module.base_kernel
        with dense_algebra():
            inside = to_numpy(to_dense(base(nodes)).double())
            # columns: the dictionary as it is, then the nodes that will join it
            cross = np.empty((len(nodes), recursion.size + len(nodes)))
            if recursion.size:
                known = to_numpy(to_dense(base(nodes, self._nodes)).double())
                cross[:, : recursion.size] = known
        mean = self.mean_module(steps.pack())
        rewards = (steps.reward - mean).double().tolist()
        coefficients = to_numpy(steps.coefficient.double())
        joined: list[int] = []

        def placed(i: int) -> np.ndarray:
            found = recursion.place(cross[i, : recursion.size], inside[i, i])
            if found is None:  # a new member, which is itself
                cross[:, recursion.size - 1] = inside[:, i]
                joined.append(i)
                found = np.zeros(recursion.size)
                found[-1] = 1.0
            return found

        for t in range(n):
            own = placed(t) if self._last is None else self._last
            after = [
                placed(n + t * count + j) if c else None
                for j, c in enumerate(coefficients[t])
            ]
            m = recursion.size
            h = np.zeros(m)
            h[: len(own)] = own
            for j, found in enumerate(after):
                if found is not None:
                    h[: len(found)] -= coefficients[t, j] * found
            discount = float(coefficients[t].sum())
            self._seen.append(recursion.learn(h, rewards[t], discount))
            self._last = after[0] if path[t] and count == 1 else None
            if not linked[t]:
                recursion.carry = None
        self._nodes = torch.cat([self._nodes, nodes[joined]])
