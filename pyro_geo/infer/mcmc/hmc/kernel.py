"""Hamiltonian Monte Carlo, all chains in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo.checks import known_options
from pyro_geo.density import GraphSize, Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.blocks import Block, ChainGroup, Warmup
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer.mcmc.hmc.adaptation import Tuning, start_adaptation
from pyro_geo.infer.mcmc.hmc.groups import ModeGroups
from pyro_geo.infer.mcmc.hmc.metric import MetricKind, kind_of, plate_blocks
from pyro_geo.infer.mcmc.hmc.options import HMCOptions
from pyro_geo.infer.mcmc.hmc.review import review_draws, review_warmup, warmup_notes
from pyro_geo.infer.mcmc.hmc.starts import (
    StartStrategy,
    first_start,
    near_others,
    scattered_starts,
)
from pyro_geo.infer.mcmc.hmc.state import HMCState
from pyro_geo.infer.mcmc.hmc.trajectory import leapfrogs
from pyro_geo.infer.mcmc.hmc.warmup import observe
from pyro_geo.infer.transition import (
    LARGEST_ERROR,
    TransitionLoop,
    chain_state_at,
)

__all__ = ["HMC"]

_WARMUP_DRAWS = 25  # transitions in a block of warm-up
_GROUP_SIZE = 256  # chains that tune together, and run side by side
# From 64 chains on, sixteen sets of chains share a start each. R-hat of many chains
# with few draws each is imprecise; differences between the sets show whether the start
# still matters (nested R-hat).
_SUPERCHAINS, _LEAST_CHAINS = 16, 64


class HMC(Kernel):
    r"""Sample a posterior by Hamiltonian Monte Carlo, all chains in one batch.

    Each transition draws a momentum, follows

    .. math:: \dot q = \Sigma p, \qquad \dot p = -\nabla U(q)

    by leapfrog steps and accepts or rejects the end. Warm-up finds the step size by
    dual averaging, the trajectory length by squared jumps of positions and of their
    squares across chains (the second is the ChEES criterion), and the
    metric :math:`\Sigma` from draws and gradients together: the one of least Fisher
    divergence solves :math:`\Sigma\,\mathrm{cov}(\nabla U)\,\Sigma = \mathrm{cov}(q)`.
    The kinetic energy is multiplied by a number that is measured with them, with which
    a normal density in its own metric keeps its energy at steps of any size: in many
    dimensions steps are longer for it. All of it is frozen before the first draw that
    counts. Prefer it for any posterior
    with continuous parameters; where the minima of a loss form a surface and that
    surface is wanted, use :class:`~pyro_geo.infer.DIMS`.

    The first chains, at most 256 or `chain_batch_size`, tune side by side. Further
    chains start twice as wide as the posterior and burn in for half the warm-up
    with the tuning frozen. The more chains, the shorter the warm-up: leave
    `warmup_steps` out. The same object works in `pyro.infer.MCMC` with one chain;
    randomness then comes from torch's global generator.

    Args:
        model: a Pyro model, or a :class:`pyro_geo.Target`.
        potential_fn: instead of a model, a function of a dictionary of unconstrained
            values; `initial_params` of the run give its sites.
        transforms: with `potential_fn`, site to the map from constrained to
            unconstrained values, as Pyro has them.
        step_size: largest leapfrog step in units of the metric; adapted if None.
        trajectory_length: mean length in units of the metric, where a quarter of a
            period of a normal density is 1.57; adapted if None.
        metric: `"diagonal"`, `"dense"`, `"low_rank"` (diagonal plus rank 32),
            `"blocks"` (dense for each element of a plate, plus rank 32), or `"auto"`:
            dense up to 100 dimensions where warm-up makes at least 10 draws per
            dimension; else blocks, where there are some and at least 50 draws for
            each coordinate of one; else low rank from 320 draws on, or diagonal. The
            result's attributes say which.
        target_accept_prob: acceptance rate that the step size is adapted to. If None
            it is 0.8, and warm-up goes on with 0.95 and then 0.99 where transitions
            diverge or chains stand still for long. A rate that is given is kept.
        jitter: largest relative deviation of a trajectory's length from the mean.
        max_leapfrog: leapfrog steps of one transition at most.
        init_strategy: starts, see :meth:`Target.initial`; or `"laplace"`, which climbs
            from a uniform start to the mode next to it and draws from the normal
            density there: quick to warm up, but modes that no start is near are not
            seen, and R-hat cannot tell.
        unroll: leapfrog steps in one compiled graph; `"auto"` takes 2 where a step is
            so small that calling it is most of the cost, else 1. A number of steps
            that is no multiple evaluates the remainder for nothing.

    Raises:
        ConfigurationError: an option is outside its range.

    References:
        Hoffman, Radul & Sountsov (2021), An adaptive-MCMC scheme for setting
        trajectory lengths in Hamiltonian Monte Carlo, PMLR 130.
        Seyboldt, Carlson & Carpenter (2026), Preconditioning Hamiltonian Monte Carlo
        by minimizing Fisher divergence, arXiv 2603.18845.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_geo.infer import MCMC
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> fit = MCMC(HMC(model), 100, 100, 16, seed=1, progress_bar=False)
        >>> fit = fit.run(torch.tensor([3.9, 4.1, 4.0]))
        >>> abs(float(fit.get_samples()["mean"].mean()) - 3.99) < 0.1
        True
    """

    statistics = (
        "lp",
        "energy",
        "energy_error",
        "acceptance_rate",
        "diverging",
        "n_steps",
        "step_size",
    )
    settings = ("options", "init_strategy")
    citations = ("chees", "fisher")
    state_type = HMCState
    max_lanes = _GROUP_SIZE
    shown_statistic = "acceptance_rate"
    diagnostic_means = {"acceptance rate": "acceptance_rate"}

    @known_options
    def __init__(
        self,
        model: Callable[..., Any] | Target | None = None,
        *,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        transforms: Mapping[str, Any] | None = None,
        step_size: float | None = None,
        trajectory_length: float | None = None,
        metric: Literal["auto"] | MetricKind = "auto",
        target_accept_prob: float | None = None,
        jitter: float = 0.4,
        max_leapfrog: int = 1023,
        init_strategy: StartStrategy = "uniform",
        unroll: Literal["auto"] | int = "auto",
    ) -> None:
        super().__init__(model, potential_fn=potential_fn, transforms=transforms)
        self.init_strategy: StartStrategy = init_strategy
        self.options = HMCOptions(
            step_size=step_size,
            trajectory_length=trajectory_length,
            metric=metric,
            target_accept_prob=target_accept_prob,
            jitter=jitter,
            max_leapfrog=max_leapfrog,
            unroll=unroll,
        )

    def first_position(self, target: Target) -> Tensor:
        """Find the start of a chain, `(1, dim)`, by torch's global generator."""
        return first_start(target, self.init_strategy)

    def start_strategy(self, target: Target) -> Strategy:
        """How sites start that the user gives no value, where others have one."""
        return "uniform" if self.init_strategy == "laplace" else self.init_strategy

    def default_warmup(self, num_samples: int, num_chains: int) -> int:
        """Transitions of warm-up: fewer chains need more of them each."""
        return 1000 if num_chains < 4 else 500 if num_chains < 16 else 300

    # -- warm-up ----------------------------------------------------------------------

    def start(self, target: Target, group: ChainGroup) -> Warmup:
        """Scatter the first group and begin its tuning; others start around it."""
        options, tuning, count = self.options, group.tuning, len(group.chains)
        together = _chains_together(group)
        if group.initial is not None:
            initial = group.initial
        elif tuning is None:
            initial = scattered_starts(
                target, count, together, self.init_strategy, group.noise
            )
        else:
            initial = near_others(target, tuning, group.chains, together, group.noise)
        superchains = group.num_chains // together if together > 1 else 0
        chains = chain_state_at(target, initial.contiguous())
        unroll = options.unroll
        if unroll == "auto":
            unroll = 2 if target.dim * count <= 4_000 else 1
        state = HMCState.at(chains, tuning, options.first_target, unroll, superchains)
        if tuning is not None:
            burn_in = group.warmup_steps // 2
            return Warmup(state._replace(burn_in=burn_in), finished=burn_in == 0)
        members = plate_blocks(target.layout).to(target.device)
        adaptation = start_adaptation(
            chains,
            group.warmup_steps,
            options.kind(target.dim, count * group.warmup_steps, members.shape[1]),
            options.rank(target.dim),
            options.first_target,
            options.step_size,
            options.trajectory_length,
            may_raise=options.target_accept_prob is None,
            # a function of the user's own says where chains start, too
            placed=group.initial is not None or callable(self.init_strategy),
            members=members,
            groups=ModeGroups.of(group.modes, chains.q),
        )
        return self._settle(state._replace(adaptation=adaptation), 0, None)

    def adapt(
        self, target: Target, state: HMCState, chains: Sequence[int], noise: BlockNoise
    ) -> Warmup:
        """Make a block of warm-up; the first group adapts after each transition."""
        if state.adaptation is None:
            draws = min(_WARMUP_DRAWS, state.burn_in)
            block = self.block(target, state, chains, draws, noise)
            left = state.burn_in - draws
            done = block.state.made
            # the jitter of the draws starts anew, however long the burn-in was
            following = block.state._replace(burn_in=left, made=done if left else 0)
            if not left:
                following = following.still()
            counted = done, block.num_steps, block.rung
            return Warmup(following, left == 0, *counted, graph=block.graph)
        adaptation = state.adaptation.copy()
        draws = min(_WARMUP_DRAWS, adaptation.schedule.end - adaptation.iteration)
        momenta, uniforms = _noise(target, draws, noise)
        # these choose the chain at which a lost one is restarted
        choices = noise.uniform(draws, dtype=target.dtype).to(target.device)
        step = TransitionLoop(target, state.chains, adaptation.metric, state.unroll)
        current, taken = state.chains, 0
        most = self.options.max_leapfrog
        for i in range(draws):
            length, middle, sizes = adaptation.plan()
            steps = leapfrogs(
                length,
                self.options.jitter,
                adaptation.iteration,
                middle,
                adaptation.most_leapfrog(most),
            )
            before = current
            current, trajectory = step(
                adaptation.metric,
                before,
                momenta[i],
                uniforms[i],
                sizes,
                steps,
                sizes.new_tensor(adaptation.inertia_at(middle)),
            )
            current = observe(
                adaptation, before, current, trajectory, middle, steps, choices[:, i]
            )
            # what is computed: a graph makes its `unroll` steps, needed or not
            taken += -(-steps // state.unroll) * state.unroll
        return self._settle(
            state._replace(chains=current, adaptation=adaptation), taken, step
        )

    def _settle(
        self, state: HMCState, taken: int, step: TransitionLoop | None
    ) -> Warmup:
        """Freeze the tuning at the end of the schedule."""
        adaptation = state.adaptation
        assert adaptation is not None
        if adaptation.finished:
            state = state._replace(
                tuning=adaptation.tuning(),
                adaptation=None,
                restarted=int(adaptation.restarted.sum()),
                away=int(adaptation.searching.sum()),
                target=adaptation.target,
            )
        return Warmup(
            state,
            adaptation.finished,
            adaptation.iteration,
            taken,
            None if step is None else step.rung,
            {"step_size": f"{adaptation.plan()[1]:.2g}"},
            GraphSize() if step is None else step.graph,
        )

    def tuning(self, state: HMCState) -> Tuning | None:
        """Frozen step size, trajectory length and metric."""
        return state.tuning

    def steps_per_draw(self, state: HMCState) -> float | None:
        """Mean number of leapfrog steps, as soon as warm-up has fixed their size."""
        if (tuning := state.tuning) is None:
            return None
        size, length = float(tuning.step_size), float(tuning.trajectory_length)
        most, unroll = self.options.max_leapfrog, state.unroll
        # the jitter is centred on the mean length
        return -(-leapfrogs(length, 0.0, 0, size, most) // unroll) * unroll

    # -- draws ------------------------------------------------------------------------

    def block(
        self,
        target: Target,
        state: HMCState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain."""
        tuning, current = state.tuning, state.chains
        assert tuning is not None
        momenta, uniforms = _noise(target, draws, noise)
        step = TransitionLoop(target, current, tuning.metric, state.unroll)
        step_size, length = float(tuning.step_size), float(tuning.trajectory_length)
        lengths = [
            leapfrogs(
                length,
                self.options.jitter,
                state.made + i,
                step_size,
                self.options.max_leapfrog,
            )
            for i in range(draws)
        ]
        sizes = torch.full_like(current.potential, step_size)
        rows: list[tuple[Tensor, ...]] = []
        for i, steps in enumerate(lengths):
            current, trajectory = step(
                tuning.metric,
                current,
                momenta[i],
                uniforms[i],
                sizes,
                steps,
                tuning.inertia,
            )
            rows.append(
                (current.q, current.potential, trajectory.energy, trajectory.error)
            )
        q, potential, energy, error = (
            torch.stack(column, 1) for column in zip(*rows, strict=True)
        )
        stats = {
            "lp": -potential,
            "energy": energy,
            "energy_error": error,
            "acceptance_rate": (-error).exp().clamp(max=1.0),
            "diverging": error > LARGEST_ERROR,
            "n_steps": torch.tensor(lengths, device=q.device).expand_as(error),
            "step_size": tuning.step_size.expand_as(error),
        }
        taken = sum(-(-steps // state.unroll) * state.unroll for steps in lengths)
        moved = state.moved | (q != state.chains.q[:, None]).flatten(1).any(-1)
        made = state.made + draws
        following = state._replace(chains=current, made=made, moved=moved)
        return Block(following, q, stats, taken, step.rung, step.graph)

    # -- what the run records ---------------------------------------------------------

    def review(
        self, states: Sequence[HMCState], stats: dict[str, Tensor]
    ) -> list[PyroGeoWarning]:
        """Count restarts, divergent transitions and chains that stand still."""
        count = sum(len(state.moved) for state in states)
        restarted = sum(state.restarted for state in states)
        away = sum(state.away for state in states)
        warnings = review_warmup(count, restarted, away)
        return warnings + review_draws(stats, states[0].target)

    def describe(self, states: Sequence[HMCState]) -> dict[str, str | int | float]:
        """What warm-up chose."""
        tuning = states[0].tuning
        assert tuning is not None
        return {
            "metric": kind_of(tuning.metric),
            "step_size": float(tuning.step_size),
            "trajectory_length": float(tuning.trajectory_length),
            "inertia": float(tuning.inertia),
            "target_accept_prob": states[0].target,
            "restarted_chains": sum(state.restarted for state in states),
            "stuck_chains": sum(state.stuck for state in states),
            "lost_chains": sum(state.lost for state in states),
        }

    def notes(self, states: Sequence[HMCState]) -> list[str]:
        """Say what warm-up did of its own accord."""
        target = states[0].target
        return warmup_notes(
            sum(len(state.moved) for state in states),
            sum(state.restarted for state in states),
            target,
            raised=target != self.options.first_target,
        )

    def superchains(self, states: Sequence[HMCState]) -> int | None:
        """Number of sets of consecutive chains that share a start, if they do."""
        return min(state.superchains for state in states) or None


def _chains_together(group: ChainGroup) -> int:
    """How many chains share a start; 1 where sets would not come out even."""
    if group.initial is not None or group.num_chains < _LEAST_CHAINS:
        return 1
    size, rest = divmod(group.num_chains, _SUPERCHAINS)
    if rest or len(group.chains) % size or group.chains[0] % size:
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
