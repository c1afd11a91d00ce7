"""What all cross-entropy optimisers do alike."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, shown_options
from pyro_geo.errors import ElitesError
from pyro_geo.optim.cem.domain import GivenNoise, domain_of, noise_of
from pyro_geo.optim.cem.layouts import Layout, groups_of, populations
from pyro_geo.optim.cem.mixture import Mixture
from pyro_geo.optim.cem.normal import slope_reach
from pyro_geo.optim.cem.objective import Objective, evaluate
from pyro_geo.optim.cem.options import Options, check_candidates, warn_of_one_elite
from pyro_geo.optim.cem.polish import polished
from pyro_geo.optim.cem.result import CEMResult
from pyro_geo.optim.cem.rules import Replay, Rules
from pyro_geo.optim.cem.search import Search
from pyro_geo.optim.cem.starts import Init, Start, keep_inside
from pyro_geo.optim.cem.step import Gaussians

__all__ = ["Optimizer"]

Real = Tensor | float | None


class Optimizer:
    """Starts searches and runs them; the options are those of its subclasses.

    Attributes:
        num_instances: searches of each problem.
        shares: population of each instance.
        options: those that all optimisers share.
    """

    citations = ("decent_cem",)
    num_instances = 1
    layout: Layout = "uniform"
    init: Init | Tensor = "random"
    horizon: int | None = None

    def _configure(self, given: dict[str, Any]) -> None:
        """Check the options, and share the population out."""
        self.options = Options(*[given[name] for name in Options._fields]).checked()
        pop_size = self.options.pop_size
        self.shares = populations(pop_size, self.num_instances, self.layout)
        if min(self.shares) < 1:
            raise ElitesError(
                "an instance without candidates",
                where="argument pop_size",
                found=f"{pop_size} for {self.num_instances} instances",
                expected="at least one candidate for each",
                todo="Raise pop_size or lower num_instances.",
            )
        self.groups = groups_of(self.shares, self.options.elite_frac)
        warn_of_one_elite(self.groups, stacklevel=4)

    @property
    def reach(self) -> float:
        """How many first standard deviations an instance can travel down a slope."""
        options = self.options
        rates = options.rates()
        return slope_reach(options.elite_frac, rates.alpha, rates.trunc, rates.inflate)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(shown_options(self))})"

    @property
    def _method(self) -> Gaussians | Mixture:
        return Gaussians(self.options.rates())

    @property
    def _num_centres(self) -> int:
        """Gaussians of each problem."""
        return self.num_instances

    def start(
        self,
        *,
        lower: Real = None,
        upper: Real = None,
        mean: Real = None,
        std: Real = None,
        batch_shape: tuple[int, ...] = (),
        budget: int | None = None,
        noise: GivenNoise = None,
        candidates: Tensor | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
        flat: bool = False,
    ) -> Search:
        """Begin a search that asks for candidates and is told their costs.

        Everything is as for :meth:`minimize`; `polish` is not used.

        Args:
            lower: lower bounds.
            upper: upper bounds.
            mean: first centre.
            std: first standard deviations.
            batch_shape: shape of the problems.
            budget: most evaluations of each problem.
            noise: what replaces random draws; here also a function of the number of the
                iteration that gives `(*batch_shape, rows, dim)`, so that no more than
                one iteration is in memory.
            candidates: some of the first population.
            seed: of the randomness.
            generator: source of randomness, in place of the seed.
            flat: whether candidates come as rows.

        Returns:
            The search.

        Example:
            >>> from pyro_geo.optim import CEM
            >>> search = CEM(pop_size=50).start(mean=torch.zeros(1), std=2.0)
            >>> while not search.done:
            ...     x = search.ask()
            ...     search.tell((x - 3).square().sum(-1))
            >>> bool((search.result().x - 3).abs() < 0.1)
            True
        """
        return self._begun(
            (lower, upper, mean, std),
            tuple(batch_shape),
            budget,
            (noise, candidates),
            (seed, generator),
            flat,
        )[1]

    def _begun(
        self,
        where: tuple[Real, Real, Real, Real],
        batch_shape: tuple[int, ...],
        budget: int | None,
        replay: tuple[GivenNoise, Tensor | None],
        randomness: tuple[int, torch.Generator | None],
        flat: bool,
    ) -> tuple[Start, Search]:
        options = self.options
        domain = domain_of(*where, batch_shape, self._num_centres)
        bounded = domain.lower.isfinite() | domain.upper.isfinite()
        good = math.isfinite(options.trunc) or not bool(bounded.any())
        check(good, "trunc", options.trunc, "finite where there are bounds")
        generator = randomness[1]
        if generator is None:
            generator = torch.Generator(domain.mean.device).manual_seed(randomness[0])
        steps = self._steps(domain.mean.shape[-1])
        start = Start(*domain[2:4], *domain[:2], trunc=options.trunc, steps=steps)
        rules = Rules(
            options.min_var,
            options.max_iters,
            self._budget_of_search(budget),
            options.restart,
            options.score,
            options.allow_infeasible,
        )
        shape, like = batch_shape, domain.mean
        search = Search(
            self.groups,
            start,
            self._first_means(start, domain.means, generator),
            self._method,
            rules,
            batch_shape=batch_shape,
            flat=flat,
            generator=generator,
            replay=Replay(
                *noise_of(replay[0], like, shape, self.shares, options.trunc),
                check_candidates(replay[1], shape, self.shares, like),
            ),
        )
        return start, search

    def _budget_of_search(self, budget: int | None) -> int | None:
        """Give what is left of a budget after polishing and scoring."""
        if budget is None:
            return None
        options = self.options
        extra = 0
        if options.polish is not None:
            extra += (options.polish + 1) * self.num_instances
        least = options.pop_size + extra
        if options.score == "mean":
            least += self.num_instances
        check_count("budget", budget, least)
        return budget - extra

    def _steps(self, dim: int) -> int:
        """Give the steps of time in a point, of a coloured start; else none."""
        if not (isinstance(self.init, str) and self.init == "coloured"):
            return 0
        steps = self.horizon
        assert steps is not None
        check(dim % steps == 0, "horizon", steps, f"a divisor of {dim} dimensions")
        return steps

    def _first_means(
        self, start: Start, means: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Choose the first centres, `(problems, instances, dim)`."""
        problems, dim = start.mean.shape
        count = self._num_centres
        if means is None and isinstance(self.init, Tensor):
            means = self._given_means(self.init, problems, dim).to(start.mean)
        if means is None:
            each = torch.arange(problems, device=start.mean.device)
            each = each.repeat_interleave(count)
            means = start.centres(each, generator).view(problems, count, dim)
            if not isinstance(self.init, Tensor) and self._starts_in_the_middle:
                means[:, 0] = start.mean
        lower, upper = start.lower.unsqueeze(1), start.upper.unsqueeze(1)
        means = keep_inside(means, lower, upper)
        return means.reshape(problems, self.num_instances, -1)

    @property
    def _starts_in_the_middle(self) -> bool:
        """Whether the first instance starts at the mean itself."""
        return (
            self.num_instances == 1
            or self.layout == "portfolio"
            or self.init == "coloured"
        )

    def _given_means(self, means: Tensor, problems: int, dim: int) -> Tensor:
        count = self._num_centres
        good = means.shape[-2:] == (count, dim)
        good = good and means.shape[:-2].numel() in (1, problems)
        check(good, "init", tuple(means.shape), f"(..., {count}, {dim})")
        return means.detach().reshape(-1, count, dim).expand(problems, count, dim)

    def minimize(
        self,
        f: Objective,
        *,
        lower: Real = None,
        upper: Real = None,
        mean: Real = None,
        std: Real = None,
        batch_shape: tuple[int, ...] = (),
        budget: int | None = None,
        noise: Tensor | None = None,
        candidates: Tensor | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
        flat: bool = False,
        vectorized: bool = True,
        max_points: int | None = None,
    ) -> CEMResult:
        """Minimise a function over a box, or functions over boxes.

        At least one of the bounds, the mean and the spread is a tensor, whose last axis
        says how many dimensions there are; it gives type and device too.

        Args:
            f: gets candidates `(*batch_shape, rows, dim)` of all instances and returns
                their costs `(*batch_shape, rows)`. The number of rows may differ from
                call to call. It keeps the caller's gradient mode.
            lower: lower bounds, a number, `(dim,)` or `(*batch_shape, dim)`; None or
                infinite for none.
            upper: upper bounds.
            mean: first centre, a number, `(dim,)` or `(*batch_shape, dim)`; one for
                each instance as `(*batch_shape, instances, dim)`. The middle of the box
                if None.
            std: first standard deviations, like the bounds; a quarter of the range if
                None.
            batch_shape: shape of the problems that are solved side by side.
            budget: most evaluations of each problem; `max_iters` populations if None.
                An instance is never evaluated with less than its whole population.
            noise: truncated normal numbers in place of random ones, `(iterations,
                *batch_shape, rows, dim)`; with equal populations also `(iterations,
                *batch_shape, instances, pop_size, dim)`. Centres of random starts come
                from the seed all the same.
            candidates: in place of the first candidates of each instance in the first
                iteration, `(*batch_shape, instances, candidates, dim)`, or of the first
                instance alone, `(*batch_shape, candidates, dim)`.
            seed: of the randomness; no global state is used.
            generator: source of randomness, in place of the seed.
            flat: whether `f` takes rows `(rows, dim)` and the problem of each `(rows,)`
                instead, numbered in the flattened batch.
            vectorized: whether `f` takes many points; with False it gets one, `(dim,)`.
            max_points: most points in one call of `f`; all of an iteration if None.

        Returns:
            What was found.

        Example:
            >>> from pyro_geo.optim import CEM
            >>> targets = torch.tensor([[1.0], [2.0], [3.0]])
            >>> fn = lambda x: (x - targets[:, None]).square().sum(-1)
            >>> box = dict(lower=torch.zeros(1), upper=4.0)
            >>> found = CEM().minimize(fn, **box, batch_shape=(3,))
            >>> (found.x - targets).abs() < 0.1
            tensor([[True],
                    [True],
                    [True]])
        """
        check_count("max_points", max_points)
        start, search = self._begun(
            (lower, upper, mean, std),
            tuple(batch_shape),
            budget,
            (noise, candidates),
            (seed, generator),
            flat,
        )
        grad = torch.is_grad_enabled()
        with torch.no_grad():
            while not search.done:
                x = search.ask()
                problem = search.problem
                with torch.set_grad_enabled(grad):
                    cost = evaluate(
                        f,
                        x,
                        problem,
                        flat=flat,
                        vectorized=vectorized,
                        max_points=max_points,
                    )
                search.tell(cost)
            result = search.result()
        if self.options.polish is not None:
            result = polished(
                f,
                result,
                start,
                self.options.polish,
                flat=flat,
                vectorized=vectorized,
            )
        return replace(result, citations=self.citations)
