"""What instances have found, over all their lives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.optim.cem.result import Basins, CEMResult

__all__ = ["Lives", "Record"]


class Lives(NamedTuple):
    """Searches at some moment: their state, and whose they are.

    Attributes:
        mean: centres, `(lives, dim)`.
        var: variances, `(lives, dim)`.
        best_x: best candidate of each, `(lives, dim)`.
        best_fun: its cost, `(lives,)`.
        elite_fun: mean cost of its last elites, `(lives,)`.
        age: its iterations, `(lives,)`.
        home: problem times the number of instances, plus the instance, `(lives,)`.
        converged: whether its variance is below the limit, `(lives,)`.
    """

    mean: Tensor
    var: Tensor
    best_x: Tensor
    best_fun: Tensor
    elite_fun: Tensor
    age: Tensor
    home: Tensor
    converged: Tensor


class Record:
    """The best of every instance over its finished lives.

    Args:
        means: first centres, `(problems, instances, dim)`; of mixtures
            `(problems, 1, components * dim)`.
        std: first standard deviations, `(problems, dim)`.
    """

    def __init__(self, means: Tensor, std: Tensor) -> None:
        self._shape = (*means.shape[:2], std.shape[-1])
        flat = means.flatten(0, 1)
        self.mean = flat.clone()
        components = means.shape[-1] // std.shape[-1]
        var = std.square().repeat(1, components)
        self.var = var.repeat_interleave(means.shape[1], 0)
        self.best_x = flat[:, : std.shape[-1]].clone()
        self.best = torch.full_like(flat[:, 0], math.inf)
        self.converged = torch.zeros_like(self.best, dtype=torch.bool)
        self.n_lives = torch.zeros_like(self.best, dtype=torch.long)
        self._ended: list[Lives] = []
        self._centre_fun: Tensor | None = None

    @property
    def any_ended(self) -> bool:
        """Whether a life has been written down."""
        return bool(self._ended)

    def copy(self) -> Record:
        """Make a copy that can be written to."""
        twin = object.__new__(Record)
        for name, value in vars(self).items():
            value = value.clone() if isinstance(value, Tensor) else value
            vars(twin)[name] = list(value) if isinstance(value, list) else value
        return twin

    def end(self, lives: Lives) -> None:
        """Write lives down that have ended.

        Args:
            lives: of different instances; one that never drew a candidate leaves
                nothing.
        """
        begun = lives.age > 0
        if not bool(begun.all()):
            lives = Lives(*[leaf[begun] for leaf in lives])
        home = lives.home
        if not len(home):
            return
        self.mean[home], self.var[home] = lives.mean, lives.var
        _keep_better(self.best_x, self.best, lives.best_x, lives.best_fun, home)
        self.converged[home] |= lives.converged
        self.n_lives[home] += 1
        self._ended.append(lives)

    def centres(self) -> tuple[Tensor, Tensor]:
        """Give the last centre of each life, and the problem that it is of.

        Returns:
            Centres, `(lives, dim)`, and problems, `(lives,)`, in ascending order.
        """
        lives = self._lives()
        problem = lives.home // self._shape[1]
        order = problem.argsort(stable=True)
        return lives.mean[order], problem[order]

    def score_centres(self, cost: Tensor) -> None:
        """Take the costs of the centres.

        Args:
            cost: of each, in their order, `(lives,)`.
        """
        order = (self._lives().home // self._shape[1]).argsort(stable=True)
        self._centre_fun = torch.empty_like(cost).index_copy_(0, order, cost)

    def _lives(self) -> Lives:
        """Join all lives that have ended, in the order in which they did."""
        if self._ended:
            return Lives(*[torch.cat(x) for x in zip(*self._ended, strict=True)])
        mean, point, none = self.mean[:0], self.best_x[:0], self.best[:0]
        where, flag = none.long(), none.bool()
        return Lives(mean, mean, point, none, none, where, where, flag)

    def _answers(self, score: str, lives: Lives) -> tuple[Tensor, Tensor]:
        """Give the answer of each instance and its cost by a score."""
        if score == "best_sample" or not len(lives.home):
            return self.best_x, self.best
        fun = lives.elite_fun if score == "elite_mean" else self._centre_fun
        if fun is None:  # not evaluated yet
            return self.best_x, self.best
        # each instance's life of the lowest score comes first
        order = fun.argsort(stable=True)
        order = order[lives.home[order].argsort(stable=True)]
        home = lives.home[order]
        first = torch.ones_like(home, dtype=torch.bool)
        first[1:] = home[1:] != home[:-1]
        rows = order[first]
        x = self.best_x.index_copy(0, lives.home[rows], lives.mean[rows])
        cost = torch.full_like(self.best, math.inf)
        return x, cost.index_copy(0, lives.home[rows], fun[rows])

    def result(
        self,
        *,
        batch_shape: tuple[int, ...],
        score: str,
        elites: Tensor,
        n_evals: Tensor,
        n_non_finite: Tensor,
        n_fillers: int,
        history: Sequence[Tensor],
        reason: str,
    ) -> CEMResult:
        """Make the result of a search.

        Args:
            batch_shape: shape of the problems.
            score: what decides between instances.
            elites: of the last iteration.
            n_evals: evaluations of each problem.
            n_non_finite: of them without a finite cost.
            n_fillers: further points that the objective got.
            history: lowest costs of the instances after each iteration.
            reason: why the search ended.

        Returns:
            The result.
        """
        problems, instances, dim = self._shape
        lives = self._lives()
        x, fun = self._answers(score, lives)
        fun, instance = fun.view(problems, instances).min(-1)
        numbers = torch.arange(problems, device=fun.device) * instances
        x = x.index_select(0, numbers + instance)
        each, point = (*batch_shape, instances), (*batch_shape, instances, dim)
        costs = torch.stack([*history]) if history else self.best[:0]
        return CEMResult(
            x=x.view(*batch_shape, dim),
            fun=fun.view(batch_shape),
            means=self.mean.view(*batch_shape, -1, dim).clone(),
            stds=self.var.sqrt().view(*batch_shape, -1, dim),
            best_x=self.best_x.view(point).clone(),
            best_fun=self.best.view(each).clone(),
            instance=instance.view(batch_shape),
            elites=elites,
            basins=_basins(lives, instances),
            n_evals=n_evals.view(batch_shape).clone(),
            n_restarts=(self.n_lives - 1).clamp(min=0).view(each),
            n_non_finite=n_non_finite.view(batch_shape).clone(),
            n_fillers=n_fillers,
            history=costs.view(len(history), *each),
            converged=self.converged.view(each).clone(),
            reason=reason,
        )


def _basins(lives: Lives, num_instances: int) -> Basins:
    return Basins(
        x=lives.best_x,
        fun=lives.best_fun,
        mean=lives.mean,
        std=lives.var.sqrt(),
        elite_fun=lives.elite_fun,
        problem=lives.home // num_instances,
        instance=lives.home % num_instances,
        converged=lives.converged,
    )


def _keep_better(
    x: Tensor, fun: Tensor, new_x: Tensor, new: Tensor, at: Tensor
) -> None:
    """Keep the better of what is known and what is new, in place."""
    old = fun[at]
    better = new < old
    fun[at] = torch.where(better, new, old)
    x[at] = torch.where(better.unsqueeze(-1), new_x, x[at])
