"""Rounds of climbs until hardly any finds a new mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_geo.infer.modes._basins import Basins
from pyro_geo.infer.modes._climb import Climber, Ends
from pyro_geo.infer.modes._starts import Sources, tournament
from pyro_geo.infer.modes._symmetry import Symmetries, find_symmetries
from pyro_geo.optim.cem import DecentCEM

__all__ = ["Search"]

_CEM_ITERATIONS = (4, 10)  # in one dimension, and at most
_RELEVANT = 7.0  # nats of mass below the heaviest mode
_FEWEST_ROUNDS = 2
_FEWEST = 20  # climbs to modes that count, before the search may end
_GIVEN_UP = (30.0, 2.0)  # nats below the best mode, and more for each dimension
_FEWEST_SAMPLES = 20  # of one cross-entropy search: two elites
_ROWS = 4  # populations in units of the rows that fit into one evaluation
_CANDIDATES = 10  # for each climb


class Search:
    """A search for the modes of one density.

    Args:
        climber: of the density.
        num_instances: cross-entropy searches at once.
        pop_size: of all of them together, and candidates for starts.
        std: of the starts.
        merge_distance: see :class:`Basins`.
        noise: randomness.

    Attributes:
        basins: what was found.
        sources: of starts.
        rounds: that were made.
        climbs: that were made.
        symmetries: of the density, known after the first round.
        points: where symmetries are verified, `(points, dim)`.
        enough: chance of a new mode at which the search ends.
        visited: where climbs ended, roughly, `(climbs, dim)`.
    """

    def __init__(
        self,
        climber: Climber,
        *,
        num_instances: int,
        pop_size: int,
        std: float,
        merge_distance: float,
        noise: torch.Generator,
    ) -> None:
        self.climber, self.noise = climber, noise
        self.num_instances, self.std = num_instances, std
        # one chain at a time costs thousands of times more
        slow = climber.target.ceiling == "sequential"
        few = _FEWEST_SAMPLES * num_instances
        # where data are many, climbs find more for the same time
        most = few // 2 if slow else max(few, _ROWS * climber.rows)
        self.pop_size = min(pop_size, most)
        self.candidates = min(self.pop_size, _CANDIDATES * climber.lanes)
        self.enough = 0.0
        self.sources = Sources(climber.target, std, noise)
        self.basins = Basins(climber, merge_distance, noise)
        self.symmetries = Symmetries([])
        self.points = self.sources.anchors
        self.visited = self.sources.anchors[:0]
        self.rounds = self.climbs = 0
        self.history = torch.empty(0, 0, dtype=torch.float64)

    def run(self, max_rounds: int, chance_of_new: float) -> None:
        """Make rounds until the chance of a new mode is small."""
        self.enough = chance_of_new
        for _ in range(max_rounds):
            self._round()
            if self.rounds == 1:
                self._look_for_symmetries()
            if self.rounds >= _FEWEST_ROUNDS and self.settled:
                break

    def relevant(self) -> Tensor:
        """Which modes have a mass that counts beside the heaviest."""
        mass = self.basins.log_laplace
        return (mass >= mass.max() - _RELEVANT).cpu()

    @property
    def settled(self) -> bool:
        """Whether hardly any mode that counts was found once alone."""
        if not len(self.basins):
            return False
        counts = self.basins.counts[self.relevant()]
        rare, total = int((counts <= 1).sum()), int(counts.sum())
        return total >= _FEWEST and rare <= self.enough * total

    def chance(self) -> float:
        """Estimate the chance that a climb to a mode that counts finds a new one.

        One is added to both counts, so that few climbs do not show certainty. Copies
        count as one mode.

        Returns:
            The estimate of Turing and Good.
        """
        if not len(self.basins):
            return 1.0
        counts = self.basins.counts[self.relevant()]
        # a mode that only informed climbs found is one that the others have missed
        rare = int((counts <= 1).sum())
        return min(1.0, (rare + 1) / (int(counts.sum()) + 1))

    def facts(self, chance: float) -> dict[str, Any]:
        """What was searched, and how far."""
        climber, lost = self.climber, self.basins.lost
        return {
            "rounds": self.rounds,
            "climbs": self.climbs,
            "instances": self.num_instances,
            "pop_size": self.pop_size,
            "std": self.std,
            "polish_steps": climber.polish_steps,
            "evaluations": climber.evaluations,
            "gradients": climber.gradients,
            "hessian_products": climber.products,
            "non_finite": climber.non_finite,
            "saddles": lost["saddle"],
            "not_converged": lost["not converged"],
            "chance_of_new": chance,
        }

    # -- one round ---------------------------------------------------------------------

    def _round(self) -> None:
        lanes = self.climber.lanes
        if self.rounds == 0:
            starts = torch.cat([self.sources.anchors[: lanes // 4], self._instances()])
            fresh = self._chosen(
                self.sources.fresh(self.candidates), lanes - len(starts)
            )
            self._climb(torch.cat([starts, fresh]), fresh[:0])
        else:
            count = lanes // 2
            fresh = self._chosen(self.sources.fresh(self.candidates), count)
            self._climb(fresh, self._informed(lanes - len(fresh)))
        self.rounds += 1

    def _climb(self, fresh: Tensor, informed: Tensor) -> None:
        """Climb from both kinds of starts in one go, and count them apart."""
        self.climbs += len(fresh) + len(informed)
        starts = torch.cat([fresh, informed])
        canonical = None
        if len(self.symmetries):
            canonical = self.symmetries.canonical
        ends, visited = self.climber.climb(starts, canonical, self._floor())
        self.visited = torch.cat([self.visited, visited])
        rows = torch.arange(len(starts), device=starts.device)
        self.basins.add(ends.take(rows < len(fresh)), independent=True)
        if len(informed):
            self.basins.add(ends.take(rows >= len(fresh)), independent=False)

    def _floor(self) -> float:
        """Log-density so far below the best mode that a climb there is given up."""
        if not len(self.basins):
            return -torch.inf
        margin = _GIVEN_UP[0] + _GIVEN_UP[1] * self.climber.target.dim
        return float(self.basins.log_prob.max()) - margin

    def _look_for_symmetries(self) -> None:
        """Look for symmetries, and take copies for one mode from here on."""
        old = self.basins
        if not len(old):
            return
        count = 3
        order = old.log_prob.argsort(descending=True)[:count]
        near = old.q[order] + 0.1 * self.sources.normal(len(order), old.q.shape[1])
        fresh = self.sources.fresh(4 * count)
        points = torch.cat([near, self.sources.anchors[:1], fresh])
        value = self.climber.log_prob(points)
        self.points = points[value.isfinite()][: 2 * count]
        self.symmetries = find_symmetries(self.climber, self.points)
        if not len(self.symmetries):
            return
        ends = self.climber.polish(self.symmetries.canonical(old.q))
        self.basins = Basins(self.climber, old.merge_distance, self.noise)
        self.basins.lost, self.basins.loose = old.lost, old.loose
        number = old.counts.to(ends.q.device)
        self.basins.add(
            Ends(*(x.repeat_interleave(number, 0) for x in ends)), independent=True
        )

    def _chosen(self, q: Tensor, count: int) -> Tensor:
        return tournament(q, self.climber.log_prob(q), count)

    def _informed(self, count: int) -> Tensor:
        """Starts from what is known: crossed modes, and a cloud over all of them."""
        if not len(self.basins):
            return self._chosen(self.sources.fresh(self.candidates), count)
        keep = self.relevant().to(self.basins.q.device)
        q, values = self.basins.q[keep], self.basins.values[keep]
        spread = (self.basins.vectors[keep].square() / values.clamp(1e-4)[:, None]).sum(
            -1
        )
        third = count // 3
        crossed = self.sources.crossed(q, spread.sqrt(), self.candidates)
        cloud = self.sources.cloud(self.basins.q, self.candidates)
        return torch.cat(
            [self._chosen(crossed, count - third), self._chosen(cloud, third)]
        )

    def _instances(self) -> Tensor:
        """End points of the lives of cross-entropy searches that ran side by side."""
        dim = self.climber.target.dim
        # centres where the fresh starts are, in three widths
        count = max(1, min(self.num_instances, self.pop_size // _FEWEST_SAMPLES))
        mean = self.sources.fresh(count)
        optimizer = DecentCEM(
            count,
            layout="uniform",
            pop_size=max(self.pop_size // count, _FEWEST_SAMPLES) * count,
            max_iters=min(_CEM_ITERATIONS[0] + dim - 1, _CEM_ITERATIONS[1]),
        )
        std = torch.full((dim,), self.std).to(mean)
        found = optimizer.minimize(
            lambda q: -self.climber.log_prob(q.reshape(-1, dim)).reshape(q.shape[:-1]),
            mean=mean,
            std=std,
            generator=self.noise,
        )
        if not len(self.history):  # the first search knew nothing of the modes
            seen = found.history.double().nan_to_num(torch.inf, torch.inf)
            self.history = -seen.cummin(0).values
        basins = found.basins
        best = basins.x[basins.fun.isfinite()]
        return best[: self.climber.lanes // 2]
