"""HMC as the batched runner sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.kernel import Block, Warmup, target_of
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import (
    ConvergenceWarning,
    DivergenceWarning,
    PyroGeoWarning,
)
from pyro_geo.infer.mcmc.hmc.metric import kind_of
from pyro_geo.infer.mcmc.hmc.options import HMCOptions
from pyro_geo.infer.mcmc.hmc.starts import (
    StartStrategy,
    near_others,
    scattered_starts,
)
from pyro_geo.infer.mcmc.hmc.trajectory import leapfrogs
from pyro_geo.infer.mcmc.hmc.warmup import (
    Adaptation,
    Tuning,
    observe,
    start_adaptation,
)
from pyro_geo.infer.transition import (
    LARGEST_ERROR,
    ChainState,
    TransitionLoop,
    chain_state_at,
)

__all__ = ["HMCKernel", "HMCState"]

_DRAWS = 50  # transitions in a block
_WARM = 25  # of warm-up in a block
_COHORT = 256  # chains that tune, and run side by side
_SUPERCHAINS, _MANY = 16, 64  # groups of chains with one start, from so many chains on


class HMCState(NamedTuple):
    """Chains, and what is known about them.

    Attributes:
        chains: where they are.
        tuning: frozen; None while it is still being found.
        adaptation: warm-up under way, of the first group.
        burn_in: transitions left before draws count, of the other groups.
        made: transitions since the warm-up; decides the jitter.
        moved: chains that warm-up put beside others.
        unroll: leapfrog steps in one graph.
        superchains: groups of chains with one start; 0 for none.
    """

    chains: ChainState
    tuning: Tuning | None
    adaptation: Adaptation | None
    burn_in: int
    made: int
    moved: int
    unroll: int
    superchains: int


class HMCKernel:
    """The block protocol of HMC; :class:`~pyro_geo.infer.HMC` adds Pyro's own."""

    stats: tuple[str, ...] = (
        "lp",
        "energy",
        "energy_error",
        "acceptance_rate",
        "diverging",
        "n_steps",
        "step_size",
    )
    citations: tuple[str, ...] = ("chees", "fisher")
    chain_name: str = "chain"
    state_type: Any = HMCState
    max_lanes: int | None = _COHORT

    def __init__(
        self,
        model: Callable[..., Any] | Target,
        *,
        init_strategy: StartStrategy = "uniform",
        **options: Any,
    ) -> None:
        self.model = model
        self.init_strategy: StartStrategy = init_strategy
        self.options = HMCOptions(**options)

    def make_target(
        self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Target:
        """Turn the model and its arguments into a density."""
        return target_of(self.model, *args, dtype=dtype, **kwargs)

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """Evaluate the density, `(draws,)` at `q` of `(draws, dim)`."""
        return target.log_prob(q)

    def default_warmup(self, num_samples: int, num_chains: int) -> int:
        """The fewer chains share the work, the longer it takes."""
        return 1000 if num_chains < 4 else 500 if num_chains < 16 else 300

    def block_draws(self, target: Target, num_samples: int, num_chains: int) -> int:
        """A fixed number of transitions."""
        return _DRAWS

    def start(
        self,
        target: Target,
        chains: Sequence[int],
        *,
        num_samples: int,
        num_chains: int,
        warmup_steps: int,
        initial: Tensor | None,
        noise: BlockNoise,
        tuning: Tuning | None,
    ) -> Warmup:
        """Scatter the chains, and the first group's tuning begins."""
        options = self.options
        together = 1 if initial is not None else _chains_together(chains, num_chains)
        if initial is None:
            initial = (
                scattered_starts(
                    target, len(chains), together, self.init_strategy, noise
                )
                if tuning is None
                else near_others(target, tuning, chains, together, noise)
            )
        superchains = num_chains // together if together > 1 else 0
        where = chain_state_at(target, initial.contiguous())
        unroll = options.unroll
        if unroll == "auto":
            unroll = 2 if target.dim * len(chains) <= 4_000 else 1
        if tuning is not None:
            burn_in = warmup_steps // 2
            state = HMCState(where, tuning, None, burn_in, 0, 0, unroll, superchains)
            return Warmup(state, finished=burn_in == 0)
        kind = options.kind(target.dim, len(chains) * warmup_steps)
        adaptation = start_adaptation(
            where,
            warmup_steps,
            kind,
            options.rank(target.dim),
            options.target_accept_prob,
            options.step_size,
            options.trajectory_length,
        )
        state = HMCState(where, None, adaptation, 0, 0, 0, unroll, superchains)
        return self._settle(state, 0, None)

    def adapt(
        self, target: Target, state: HMCState, chains: Sequence[int], noise: BlockNoise
    ) -> Warmup:
        """Make some transitions of warm-up, adapting after each in the first group."""
        if state.adaptation is None:
            draws = min(_WARM, state.burn_in)
            block = self.block(target, state, chains, draws, noise)
            left = state.burn_in - draws
            done = block.state.made
            # burn-in is no part of the draws' jitter
            burnt = block.state._replace(burn_in=left, made=done if left else 0)
            return Warmup(burnt, left == 0, done, block.num_steps, block.rung)
        adaptation = state.adaptation.copy()
        draws = min(_WARM, adaptation.schedule.end - adaptation.iteration)
        momenta, uniforms = _noise(target, draws, noise)
        choices = noise.uniform(draws, dtype=target.dtype).to(target.device)
        step = TransitionLoop(target, state.chains, adaptation.metric, state.unroll)
        where, taken = state.chains, 0
        most = self.options.max_leapfrog
        for i in range(draws):
            length, sizes = adaptation.plan()
            middle = float(sizes.median())
            steps = leapfrogs(
                length,
                self.options.jitter,
                adaptation.iteration,
                middle,
                adaptation.most_leapfrog(most),
            )
            before = where
            where, trajectory = step(
                adaptation.metric, where, momenta[i], uniforms[i], sizes, steps
            )
            time = steps * middle
            where = observe(adaptation, before, where, trajectory, time, choices[:, i])
            taken += -(-steps // state.unroll) * state.unroll
        return self._settle(
            state._replace(chains=where, adaptation=adaptation), taken, step
        )

    def _settle(
        self, state: HMCState, taken: int, step: TransitionLoop | None
    ) -> Warmup:
        """Freeze the tuning at the end of the schedule."""
        adaptation = state.adaptation
        assert adaptation is not None
        if adaptation.finished:
            state = state._replace(
                tuning=adaptation.tuning(), adaptation=None, moved=adaptation.restarted
            )
        return Warmup(
            state,
            adaptation.finished,
            adaptation.iteration,
            taken,
            None if step is None else step.rung,
            {"step_size": f"{float(adaptation.plan()[1].median()):.2g}"},
        )

    def tuning(self, state: HMCState) -> Tuning | None:
        """Frozen step size, trajectory length and metric."""
        return state.tuning

    def block(
        self,
        target: Target,
        state: HMCState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain."""
        tuning, where = state.tuning, state.chains
        assert tuning is not None
        momenta, uniforms = _noise(target, draws, noise)
        step = TransitionLoop(target, where, tuning.metric, state.unroll)
        step_size, length = float(tuning.step_size), float(tuning.trajectory_length)
        plan = [
            leapfrogs(
                length,
                self.options.jitter,
                state.made + i,
                step_size,
                self.options.max_leapfrog,
            )
            for i in range(draws)
        ]
        sizes = torch.full_like(where.potential, step_size)
        kept: list[tuple[Tensor, ...]] = []
        for i, steps in enumerate(plan):
            where, trajectory = step(
                tuning.metric, where, momenta[i], uniforms[i], sizes, steps
            )
            kept.append((where.q, where.potential, trajectory.energy, trajectory.error))
        q, potential, energy, error = (
            torch.stack(column, 1) for column in zip(*kept, strict=True)
        )
        stats = {
            "lp": -potential,
            "energy": energy,
            "energy_error": error,
            "acceptance_rate": (-error).exp().clamp(max=1.0),
            "diverging": error > LARGEST_ERROR,
            "n_steps": torch.tensor(plan, device=q.device).expand_as(error),
            "step_size": tuning.step_size.expand_as(error),
        }
        taken = sum(-(-steps // state.unroll) * state.unroll for steps in plan)
        new = state._replace(chains=where, made=state.made + draws)
        return Block(new, q, stats, taken, step.rung)

    def review(
        self, states: Sequence[HMCState], stats: dict[str, Tensor]
    ) -> list[PyroGeoWarning]:
        """Count divergent transitions and chains that never moved."""
        found: list[PyroGeoWarning] = []
        bad = stats["diverging"]
        if bool(bad.any()):
            found.append(
                DivergenceWarning(
                    "transitions diverged",
                    where=f"HMC, {int(bad.any(1).sum())} of {len(bad)} chains",
                    found=f"{int(bad.sum())} of {bad.numel()} transitions",
                    expected="none",
                    todo="raise target_accept_prob or reparametrise the model",
                )
            )
        stuck = (stats["lp"] == stats["lp"][:, :1]).all(1)
        stuck &= stats["acceptance_rate"].mean(1) < 0.1  # not just a few draws
        if bool(stuck.any()) and stats["lp"].shape[1] > 1:
            found.append(
                ConvergenceWarning(
                    "chains never moved",
                    where="HMC, chains "
                    + ", ".join(map(str, stuck.nonzero().flatten()[:8].tolist())),
                    found=f"{int(stuck.sum())} of {len(stuck)} chains",
                    expected="accepted transitions in every chain",
                    todo="warm up longer or reparametrise; do not use the draws",
                )
            )
        return found

    def describe(self, states: Sequence[HMCState]) -> dict[str, str | int | float]:
        """What warm-up chose."""
        tuning = states[0].tuning
        assert tuning is not None
        return {
            "metric": kind_of(tuning.metric),
            "step_size": float(tuning.step_size),
            "trajectory_length": float(tuning.trajectory_length),
            "target_accept_prob": self.options.target_accept_prob,
            "restarted_chains": sum(state.moved for state in states),
            "num_superchains": min(state.superchains for state in states),
        }


def _chains_together(chains: Sequence[int], num_chains: int) -> int:
    """How many chains share a start; 1 where groups would not come out even."""
    # of many chains with few draws each R-hat can say little; chains with one start
    # tell what the start still has to say
    size, rest = divmod(num_chains, _SUPERCHAINS)
    if rest or num_chains < _MANY or len(chains) % size or chains[0] % size:
        return 1
    return size


def _noise(target: Target, draws: int, noise: BlockNoise) -> tuple[Tensor, Tensor]:
    """Momenta `(draws, chains, dim)` and uniforms `(draws, chains)`."""
    momenta = noise.normal(draws, target.dim, dtype=target.dtype)
    uniforms = noise.uniform(draws, dtype=target.dtype)
    return (
        momenta.transpose(0, 1).contiguous().to(target.device),
        uniforms.mT.contiguous().to(target.device),
    )
