"""The search itself: ask for candidates, tell their costs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.errors import NoFeasibleSampleError
from pyro_geo.optim.cem.crews import Crew, Places, places_of
from pyro_geo.optim.cem.layouts import Group
from pyro_geo.optim.cem.mixture import Mixture
from pyro_geo.optim.cem.noise import Drawn, Given, Stream
from pyro_geo.optim.cem.objective import arranged, check_costs
from pyro_geo.optim.cem.record import Lives, Record
from pyro_geo.optim.cem.result import CEMResult
from pyro_geo.optim.cem.rules import Replay, Rules
from pyro_geo.optim.cem.starts import Start
from pyro_geo.optim.cem.step import Box, Elites, Gaussians

__all__ = ["Search"]


class _Asked(NamedTuple):
    """Candidates whose costs are awaited."""

    x: Tensor
    place: Tensor | None
    problem: Tensor
    parts: list[Tensor]


class Search:
    """A search that is driven from outside: ask for candidates, tell their costs.

    The method `start` of an optimiser makes one; `minimize` is the loop ::

        while not search.done:
            search.tell(f(search.ask()))

    Args:
        groups: populations of the instances.
        start: where instances begin.
        means: first centres, `(problems, instances, dim)`; of a mixture those of its
            components, one after another.
        method: the steps.
        rules: when instances stop.
        batch_shape: shape of the problems.
        flat: whether candidates are asked for as rows, without fillers.
        generator: source of randomness.
        replay: what replaces random numbers.
    """

    def __init__(
        self,
        groups: tuple[Group, ...],
        start: Start,
        means: Tensor,
        method: Gaussians | Mixture,
        rules: Rules,
        *,
        batch_shape: tuple[int, ...],
        flat: bool,
        generator: torch.Generator,
        replay: Replay,
    ) -> None:
        self.batch_shape, self.flat = batch_shape, flat
        self.num_problems, self.num_instances = means.shape[:2]
        self.dim = start.mean.shape[-1]
        self._start, self._method, self._rules = start, method, rules
        self._generator, self._replay = generator, replay
        bounded = start.lower.isfinite() | start.upper.isfinite()
        self._bounded = bool(bounded.any())
        problems = torch.arange(self.num_problems, device=means.device)
        self._crews: list[Crew] = []
        for group in groups:
            last = group.first + group.num_instances
            mean = means[:, group.first : last].flatten(0, 1)
            problem = problems.repeat_interleave(group.num_instances)
            inside = torch.arange(group.first, last, device=means.device)
            home = problem * self.num_instances + inside.repeat(self.num_problems)
            state = method.begin(mean, start.std[problem])
            self._crews.append(Crew(group, state, home, problem))
        self._record = Record(means, start.std)
        self._elites: list[tuple[Tensor, Elites]] = []
        self.iteration = 0
        self.n_evals = torch.zeros_like(problems)
        self.n_non_finite = torch.zeros_like(problems)
        self.n_fillers = 0
        self.reason = ""
        self._history: list[Tensor] = []
        self._asked: _Asked | None = None
        # evaluations put aside for the centres of all lives, with the score "mean"
        self._owed = torch.zeros_like(problems)
        if rules.score == "mean":
            self._owed += self.num_instances
        self._places = self._placed()
        self._budget = rules.budget
        if self._budget is None:
            whole = sum(group.num_rows for group in groups)
            extra = self.num_instances if rules.score == "mean" else 0
            self._budget = rules.max_iters * whole + extra
        # without restarts most of a budget is seldom used
        planned = self._budget * self.num_problems * self.dim if rules.restart else 0
        self._stream = Stream(generator, method.rates.trunc, planned)
        self._end_problems()

    # -- what a caller needs ----------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask for."""
        return not self._crews and not self._awaits_centres

    @property
    def problem(self) -> Tensor:
        """Problem of each candidate asked for, `(rows,)`, in the flattened batch."""
        self.ask()
        assert self._asked is not None
        return self._asked.problem

    @property
    def best_x(self) -> Tensor:
        """Best candidate of each problem so far, `(*batch_shape, dim)`."""
        return self.result().x

    @property
    def best_fun(self) -> Tensor:
        """Its cost, `(*batch_shape,)`."""
        return self.result().fun

    def ask(self) -> Tensor:
        """Give the next candidates of all live instances.

        Returns:
            `(*batch_shape, rows, dim)`, or `(rows, dim)` of a flat search; the same
            until their costs are told.
        """
        if self._asked is None:
            check(not self.done, "search", "a search that is done", "one under way")
            self._asked = self._next()
        return self._asked.x

    def tell(self, cost: Tensor) -> None:
        """Take the costs of the candidates that were asked for.

        Args:
            cost: of each, the shape of the candidates without their dimensions; one
                that is NaN or infinite is counted and never elite.
        """
        self.ask()
        asked = self._asked
        assert asked is not None
        cost = check_costs(cost, asked.x.shape[:-1]).reshape(-1).to(asked.x.dtype)
        if asked.place is not None:
            self.n_fillers += len(cost) - len(asked.place)
            cost = cost.index_select(0, asked.place)
        # a sum is finite where all are, unless it overflows
        if not bool(cost.sum().isfinite()):
            finite = cost.isfinite()
            cost = torch.where(finite, cost, math.inf)
            self._count_lost(asked.problem, ~finite)
        self._asked = None
        if not self._crews:
            self._record.score_centres(cost)
            self.n_evals += asked.problem.bincount(minlength=self.num_problems)
            self._owed = torch.zeros_like(self._owed)
            return
        self.n_evals += self._places.need
        costs = self._places.parted(cost, self._crews)
        self._elites = []
        for number, (crew, x) in enumerate(zip(self._crews, asked.parts, strict=True)):
            state, elites = self._method.refit(
                cast(Any, crew.state), x, costs[number], crew.group.num_elites
            )
            self._crews[number] = crew._replace(state=state)
            self._elites.append((crew.home, elites))
        self.iteration += 1
        best = self._record.best.clone()
        for crew in self._crews:
            best[crew.home] = torch.minimum(best[crew.home], crew.state.best_fun)
        self._history.append(best)
        self._end_lives()

    @property
    def elites(self) -> Tensor:
        """Elites of the last iteration, `(*batch_shape, instances, elites, dim)`.

        Best first; NaN where an instance was not live or has fewer than another.
        """
        most = max((e.cost.shape[-1] for _, e in self._elites), default=0)
        shape = (self.num_problems * self.num_instances, most, self.dim)
        result = torch.full_like(self._record.mean[:1, :1, None], math.nan).expand(
            shape
        )
        result = result.contiguous()
        for home, elites in self._elites:
            order = elites.cost.argsort(dim=-1, stable=True).unsqueeze(-1)
            ordered = elites.x.gather(1, order.expand(-1, -1, self.dim))
            lost = elites.cost.gather(1, order.squeeze(-1)).isinf()
            ordered = ordered.masked_fill(lost.unsqueeze(-1), math.nan)
            result[home, : ordered.shape[1]] = ordered
        return result.view(*self.batch_shape, self.num_instances, most, self.dim)

    def result(self) -> CEMResult:
        """Give what has been found so far.

        Returns:
            The result; live instances are in it as if they ended now.
        """
        record = self._record
        if self._crews:
            record = record.copy()
            for crew in self._crews:
                record.end(self._lives(crew))
        return record.result(
            batch_shape=self.batch_shape,
            score=self._rules.score,
            elites=self.elites,
            n_evals=self.n_evals,
            n_non_finite=self.n_non_finite,
            n_fillers=self.n_fillers,
            history=self._history,
            reason=self.reason or "unfinished",
        )

    # -- drawing ----------------------------------------------------------------------

    def _next(self) -> _Asked:
        parts: list[Tensor] = []
        if self._crews:
            parts = self._drawn()
            rows, problem = self._places.joined(parts), self._places.problem
        else:
            rows, problem = self._record.centres()
        if self.flat:
            return _Asked(rows, None, problem, parts)
        even = bool(self._crews) and self._places.full
        x, place = arranged(rows, problem, self.batch_shape, even=even)
        return _Asked(x, place, problem, parts)

    def _drawn(self) -> list[Tensor]:
        parts, given = [], None
        if self._replay.noise is not None:
            given = self._replay.noise(self.iteration)
        for crew in self._crews:
            if given is None:
                like, size = self._start.mean, crew.group.pop_size
                noise = Drawn(self._stream, crew.home, self.iteration, size, like)
            else:
                noise = Given(self._replayed(crew, given))
            x = self._method.draw(cast(Any, crew.state), noise, self._box(crew))
            parts.append(x)
        if self.iteration == 0 and self._replay.candidates is not None:
            self._put(self._replay.candidates, parts)
        return parts

    def _put(self, given: Tensor, parts: list[Tensor]) -> None:
        """Put given candidates in place of the first that were drawn."""
        for crew, x in zip(self._crews, parts, strict=True):
            wanted = crew.home % self.num_instances
            rows = (wanted < given.shape[1]).nonzero().squeeze(-1)
            x[rows, : given.shape[2]] = given[crew.problem[rows], wanted[rows]]

    def _replayed(self, crew: Crew, noise: Tensor) -> Tensor:
        group = crew.group
        rows = slice(group.first_row, group.first_row + group.num_rows)
        noise = noise[:, rows].reshape(-1, group.pop_size, self.dim)
        if len(noise) == len(crew.home):
            return noise
        inside = crew.home % self.num_instances - group.first
        return noise.index_select(0, crew.problem * group.num_instances + inside)

    def _box(self, crew: Crew) -> Box:
        lower, upper = self._start.lower, self._start.upper
        if self._bounded and len(lower) > 1:
            lower, upper = lower[crew.problem], upper[crew.problem]
        return Box(lower, upper, self._bounded)

    # -- ending and beginning again ---------------------------------------------------

    @property
    def _awaits_centres(self) -> bool:
        return bool(self._owed.any()) and self._record.any_ended

    def _placed(self) -> Places:
        return places_of(self._crews, self.num_problems, self.num_instances)

    def _converged(self, crew: Crew) -> Tensor:
        # a method and the states of its crews are of one kind
        return self._method.spread(cast(Any, crew.state)) <= self._rules.min_var

    def _lives(self, crew: Crew) -> Lives:
        return crew.lives(self._converged(crew))

    def _end_lives(self) -> None:
        """End the lives of instances that have converged or are old."""
        rules = self._rules
        rearranged = False
        affordable = self._affordable()
        for number, crew in enumerate(self._crews):
            ended = self._converged(crew)
            ended |= crew.state.age >= rules.max_iters
            if rules.restart:
                ended &= affordable[crew.problem]
            if not bool(ended.any()):
                continue
            rows = ended.nonzero().squeeze(-1)
            self._record.end(self._lives(crew.only(rows)))
            if rules.restart:
                self._crews[number] = self._begun_again(crew, rows)
            else:
                self._crews[number] = crew.only((~ended).nonzero().squeeze(-1))
                rearranged = True
        if rearranged:
            converged = bool(self._record.converged.all())
            self._rearrange("converged" if converged else "max_iters")
        if self._crews:
            self._end_problems()

    def _begun_again(self, crew: Crew, rows: Tensor) -> Crew:
        problem = crew.problem[rows]
        if self._rules.score == "mean":
            # a problem may start no more lives than it can pay the centres of
            self._owed += problem.bincount(minlength=self.num_problems)
        mean = self._method.centres(self._start, problem, self._generator)
        fresh = self._method.begin(mean, self._start.std[problem])
        pairs = zip(crew.state, fresh, strict=True)
        state = type(fresh)(*[old.index_copy(0, rows, new) for old, new in pairs])
        return crew._replace(state=state)

    def _affordable(self) -> Tensor:
        """Tell for each problem whether one more population fits."""
        assert self._budget is not None
        spare = self.num_instances if self._rules.score == "mean" else 0
        if not self._rules.restart:
            spare = 0
        return self.n_evals + self._places.need + self._owed + spare <= self._budget

    def _end_problems(self) -> None:
        """Freeze the problems whose budget does not allow another iteration."""
        affordable = self._affordable()
        replayed = self.iteration >= self._replay.iterations
        if replayed:
            affordable = torch.zeros_like(affordable)
        elif bool(affordable.all()):
            return
        for number, crew in enumerate(self._crews):
            kept = affordable[crew.problem]
            ended = crew.only((~kept).nonzero().squeeze(-1))
            self._record.end(self._lives(ended))
            self._crews[number] = crew.only(kept.nonzero().squeeze(-1))
        limit = "budget" if self._rules.budget is not None else "max_iters"
        self._rearrange("noise" if replayed else limit)

    def _rearrange(self, reason: str) -> None:
        self._crews = [crew for crew in self._crews if len(crew.home)]
        if self._crews:
            self._places = self._placed()
        else:
            self.reason = reason

    def _count_lost(self, problem: Tensor, lost: Tensor) -> None:
        """Count costs that are not finite; refuse a start without any that is.

        Raises:
            NoFeasibleSampleError: no first candidate of some problem has one.
        """
        self.n_non_finite.index_add_(0, problem, lost.long())
        if self.iteration or self._rules.allow_infeasible:
            return
        without = (self.n_non_finite == self._places.need).nonzero().flatten()
        if len(without):
            where = f"problems {without.tolist()[:8]}"
            raise NoFeasibleSampleError(
                "no candidate of the first population has a finite cost",
                where=where if self.num_problems > 1 else "first iteration",
                found=f"{int(lost.sum())} NaN or infinite costs",
                expected="at least one finite cost",
                todo="Start where the cost is finite, widen std, or pass "
                "allow_infeasible=True to search on.",
            )
