"""What all planners share: states in, a plan out, and what is kept between calls."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check, check_count, check_number, check_shape
from pyro_geo.density.ladder import Rung
from pyro_geo.errors import DivergenceWarning, NonFiniteDataError
from pyro_geo.ops.random import substream
from pyro_geo.planning.environments import Plant
from pyro_geo.planning.mpc.draws import Draws, Pool, choose, pool_of
from pyro_geo.planning.mpc.dynamics import Box, Dynamics, PlantDynamics, box_of
from pyro_geo.planning.mpc.objective import PlanObjective
from pyro_geo.planning.mpc.plan import Plan
from pyro_geo.planning.mpc.risk import Risk
from pyro_geo.planning.mpc.rollout import Rollout, Scenario
from pyro_geo.planning.mpc.terminal import GPTDTerminal, TerminalValue

__all__ = ["Deadline", "Found", "Planner"]

_DRAWS, _NOISE, _SEARCH = range(3)  # streams of the seed


class Found(NamedTuple):
    """What a search has found, in the unit box.

    Attributes:
        u: the plans, `(B, H m)`.
        fun: their cost, `(B,)`.
        means: where each instance has got to, `(B, M, H m)`.
        instance: that found the plan, `(B,)`.
        history: lowest cost so far of each instance, `(iterations, B, M)`.
        reason: why the search ended.
    """

    u: Tensor
    fun: Tensor
    means: Tensor
    instance: Tensor
    history: Tensor
    reason: Literal["iterations", "deadline"]


class Deadline:
    """Tells after each iteration whether another one would end too late.

    Args:
        seconds: that a plan may take; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.start = self.last = time.perf_counter()
        self.longest = 0.0

    def over(self) -> bool:
        """Whether an iteration as long as the longest so far would end too late."""
        if self.seconds is None:
            return False
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now
        return now - self.start + self.longest > self.seconds


class Planner(Made, ABC):
    """Plans by simulating candidates under draws of the dynamics.

    A subclass searches; what is here turns states into problems, draws into a scenario
    and the best candidate into a :class:`Plan`. All that is random is a function of the
    seed and the number of calls since the last reset.

    Args:
        dynamics: a plant, or other :class:`Dynamics`.
        draws: of what is unknown, see :func:`pool_of`; those of a plant may be left
            out, it is then simulated with its own parameters.
        horizon: steps of a plan, `H`.
        num_draws: draws that each candidate is simulated under, `S`, chosen anew at
            each call.
        risk: of the costs under each draw, :class:`CVaR` or a function of your own;
            their mean where it is None.
        discount: of the costs, in (0, 1].
        terminal_value: value of the state where a plan ends: a function of states, or
            a fitted value model of :mod:`pyro_geo.gp`.
        action_space: a `Box` of Gymnasium, in place of the limits of the dynamics.
        deadline_s: seconds that a call may take. The first iteration is always made;
            later ones while they are expected to end in time.
        seed: of everything random.
        compile: compile the step of the simulation before the first plan.
        max_rows: states simulated at once, candidates times draws.
    """

    citations: tuple[str, ...] = ()

    def __init__(
        self,
        dynamics: Dynamics | Plant,
        *,
        draws: Draws = None,
        horizon: int = 25,
        num_draws: int = 8,
        risk: Risk | None = None,
        discount: float = 1.0,
        terminal_value: TerminalValue | Any = None,
        action_space: Any = None,
        deadline_s: float | None = None,
        seed: int = 0,
        compile: bool = False,
        max_rows: int = 1 << 18,
    ) -> None:
        if isinstance(dynamics, Plant):
            draws = dynamics.theta[None] if draws is None else draws
            dynamics = PlantDynamics(dynamics)
        good = isinstance(dynamics, Dynamics)
        check(good, "dynamics", type(dynamics).__name__, "a Plant or PyroDynamics")
        check(draws is not None, "draws", None, "draws of what is unknown")
        check_count("horizon", horizon)
        check_count("num_draws", num_draws)
        check_number("discount", discount, strict=True)
        check(discount <= 1, "discount", discount, "at most 1")
        check_number("deadline_s", deadline_s, strict=True)
        check_count("max_rows", max_rows)
        check(risk is None or callable(risk), "risk", risk, "a function of costs")
        value: Any = terminal_value
        if hasattr(value, "transitions"):
            value = GPTDTerminal(value)
        good: bool = value is None or callable(value)
        check(good, "terminal_value", value, "a function or a value model")
        self.dynamics, self.horizon, self.num_draws = dynamics, horizon, num_draws
        self.risk, self.deadline_s, self.seed = risk, deadline_s, seed
        self.box = self._boxed(action_space)
        self._pool = pool_of(draws, seed=seed)
        rung: Rung = "compiled" if compile else dynamics.rung
        self._rollout = Rollout(
            dynamics,
            discount=discount,
            terminal_value=cast(TerminalValue | None, value),
            rung=rung,
            max_rows=max_rows,
        )
        dynamics.leaves(self._pool(), torch.zeros(1, dtype=torch.long))
        self._calls = 0
        self._batch: int | None = None

    def _boxed(self, space: Any) -> Box:
        own = self.dynamics.box
        if space is None:
            check(own is not None, "action_space", None, "bounds of the actions")
            assert own is not None
            return own
        box = box_of(space)
        if own is not None:
            check_shape("action_space", box.lower.shape, own.lower.shape)
        return box

    # -- planning ---------------------------------------------------------------------

    def plan(self, s: Tensor | np.ndarray, *, elapsed: int = 1) -> Plan:
        """Plan from a state, or from many at once.

        Args:
            s: a state, `(n,)`, or one for each of `B` problems, `(B, n)`.
            elapsed: actions of the last plan that were taken since it was made, by
                which what is kept of it is shifted.

        Returns:
            The plan, with axes of problems where `s` has them. Where every candidate of
            every problem is lost, a
            :class:`~pyro_geo.errors.NoFeasibleSampleError` says where.

        Warns:
            DivergenceWarning: every candidate of some problems is lost, not of all.
        """
        state, single = self._states(s)
        check_count("elapsed", elapsed, 0)
        call, self._calls = self._calls, self._calls + 1
        deadline = Deadline(self.deadline_s)
        with torch.no_grad():
            objective = PlanObjective(
                state,
                self.horizon,
                self.box,
                self._rollout,
                self._scenario(state, call),
                self.risk,
            )
            generator = torch.Generator(state.device)
            generator.manual_seed(substream(self.seed, call, _SEARCH))
            found = self._search(objective, generator, deadline, elapsed)
            lost = ~found.fun.isfinite()
            if bool(lost.all()):
                objective.refuse(found.u)
            plan = self._finished(objective, found, lost)
        if bool(lost.any()):
            warnings.warn(
                DivergenceWarning(
                    "no candidate of some problems has a finite cost",
                    where=f"problems {lost.nonzero().flatten().tolist()[:8]}",
                    found=f"{int(lost.sum())} of {len(lost)} problems lost",
                    expected="a finite cost in each",
                    todo="Look at `lost` of the plan; their actions mean nothing.",
                ),
                stacklevel=2,
            )
        return _only(plan) if single else plan

    def act(self, s: Any) -> Any:
        """Plan, and give the action of now.

        Args:
            s: a state `(n,)` or states `(B, n)`, a tensor or an array.

        Returns:
            Actions in their own units, `(m,)` or `(B, m)`; for an array an array, in
            the shape of the action space.
        """
        action = self.plan(s).action
        if isinstance(s, Tensor):
            return action
        shape = (*action.shape[:-1], *self.box.shape)
        return action.cpu().numpy().reshape(shape).astype(np.float32)

    def reset(self) -> None:
        """Forget everything: the next call is the first one, bit for bit."""
        self._calls, self._batch = 0, None
        self._forget()

    # -- what a subclass does ---------------------------------------------------------

    @abstractmethod
    def _search(
        self,
        objective: PlanObjective,
        generator: torch.Generator,
        deadline: Deadline,
        elapsed: int,
    ) -> Found:
        """Search from what is kept of the last call, and keep what the next needs."""

    @abstractmethod
    def _forget(self) -> None:
        """Forget what is kept between calls."""

    # -- inside -----------------------------------------------------------------------

    def _states(self, s: Any) -> tuple[Tensor, bool]:
        """States as rows, and whether there is one without an axis of problems."""
        if not isinstance(s, Tensor):
            s = torch.as_tensor(np.asarray(s), dtype=torch.get_default_dtype())
        if not s.is_floating_point():
            s = s.to(torch.get_default_dtype())
        n = self.dynamics.state_dim
        good = s.dim() in (1, 2) and s.shape[-1] == n and s.numel() > 0
        check_shape("s", s.shape, f"({n},) or (B, {n})", good)
        single = s.dim() == 1
        s = s.detach().reshape(-1, n)
        if self._batch is not None:
            expected = f"{self._batch} problems as before, or reset()"
            check_shape("s", s.shape, expected, len(s) == self._batch)
        if not bool(s.isfinite().all()):
            problem, number = (~s.isfinite()).nonzero()[0].tolist()
            raise NonFiniteDataError(
                "a state is not finite",
                where=f"argument s, problem {problem}, number {number}",
                found=float(s[problem, number]),
                expected="finite numbers",
                todo="Plan from an estimate of the state.",
            )
        self._batch = len(s)
        return s, single

    def _scenario(self, s: Tensor, call: int) -> Scenario:
        """Draws and noise of this call."""
        pool: Pool = self._pool()
        rows = choose(pool, self.num_draws, substream(self.seed, call, _DRAWS))
        leaves = tuple(x.to(s) for x in self.dynamics.leaves(pool, rows))
        generator = torch.Generator().manual_seed(substream(self.seed, call, _NOISE))
        noise = self.dynamics.draw_noise((self.horizon, len(rows)), generator)
        return Scenario(leaves, noise.to(s))

    def _finished(self, objective: PlanObjective, found: Found, lost: Tensor) -> Plan:
        ends = objective.trajectories(found.u)
        return Plan(
            actions=objective.actions(found.u),
            cost=found.fun,
            costs=ends.costs,
            states=ends.states,
            step_costs=ends.steps,
            history=found.history,
            means=objective.actions(found.means),
            instance=found.instance,
            n_evals=int(objective.n_evals.max()),
            n_non_finite=objective.n_non_finite,
            lost=lost,
            reason=found.reason,
            method=type(self).__name__,
        )


def _only(plan: Plan) -> Plan:
    """Take the axis of problems off a plan of one problem."""
    values = dict(vars(plan))
    for name, value in values.items():
        if isinstance(value, Tensor):
            axis = 1 if name == "history" else 0
            values[name] = value.squeeze(axis)
    return Plan(**values)
