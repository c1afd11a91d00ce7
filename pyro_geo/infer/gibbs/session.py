"""A run along a path of temperatures: the pilot first, then one stage after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from pyro_geo.engine import SequentialNoise
from pyro_geo.engine.attributes import Facts, run_attributes
from pyro_geo.engine.densities import KnownDensity, check_values
from pyro_geo.engine.density_session import DensitySession
from pyro_geo.engine.progress import Clock, Progress
from pyro_geo.engine.session import interruption
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.errors import CheckpointError, PyroGeoWarning
from pyro_geo.infer.gibbs.importance import weigh_guide
from pyro_geo.infer.gibbs.langevin import walk as langevin
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import AnnealingPlan, Stage, Walk, anneal
from pyro_geo.infer.gibbs.pilot import Pilot, scout
from pyro_geo.infer.gibbs.posterior import WeightedPosterior
from pyro_geo.infer.gibbs.seal import origin_of, seal
from pyro_geo.infer.gibbs.stages import StageRecord
from pyro_geo.io.store import RunStore
from pyro_geo.ops.random import substream

if TYPE_CHECKING:
    from pyro_geo.infer.gibbs.sampler import GibbsPosterior

__all__ = ["AnnealingSession", "GibbsState"]

# Parts of the seed: the pilot and the run share no random number, so that the plan is
# independent of the particles that follow it. Part 2 extends a posterior.
_PILOT, _RUN = 0, 1
_PRIOR, _MOVES, _GUIDE = 0, 1, 2  # streams of each part


class GibbsState(NamedTuple):
    """Where a run is between two stages, of the pilot's or of its own.

    Attributes:
        pilot: the pilot.
        plan: what the run does; None until the pilot is back.
        walk: where the run is; None until it starts.
        stages: those that are kept.
        noise: place in the random numbers under way; None before the first.
        chain: signature of the stages, each together with that of those before it.
        sealed: signature of all of this.
    """

    pilot: Pilot | None = None
    plan: AnnealingPlan | None = None
    walk: Walk | None = None
    stages: tuple[Stage, ...] = ()
    noise: Tensor | None = None
    chain: str = ""
    sealed: str | None = None

    def links(self, chain: str, start: int) -> str:
        """Sign the stages from one on, after those before it."""
        for stage in self.stages[start:]:
            chain = seal(chain, stage)
        return chain

    def signed(self, before: int) -> GibbsState:
        """Sign a state of which some stages were signed before."""
        new = self._replace(chain=self.links(self.chain, before), sealed=None)
        return new._replace(sealed=seal(new._replace(stages=())))

    def whole(self) -> bool:
        """Whether nobody has changed it since it was signed."""
        new = self._replace(stages=(), sealed=None)
        return self.sealed == seal(new) and self.links("", 0) == self.chain


class AnnealingSession(DensitySession):
    """The session of a Gibbs posterior.

    Args:
        sampler: whose settings the run has.
        mover: of the model, at the data.
        seed: of the run.
        arguments: of the model and of the loss, which a guide is called with.
        clock: takes the time by phase.
    """

    record: StageRecord
    state: GibbsState

    def __init__(
        self,
        sampler: GibbsPosterior,
        mover: ParticleMover,
        seed: int,
        arguments: tuple[Any, Any],
        clock: Clock,
    ) -> None:
        record = StageRecord(mover.target, sampler.num_particles, seed)
        codec = StateCodec(GibbsState, KnownDensity)
        super().__init__(mover.target, record, codec, GibbsState(), clock)
        self.sampler, self.mover, self.seed = sampler, mover, seed
        self.arguments = arguments
        self.origin = origin_of(mover.model.model, *arguments, sampler.betas)

    # -- the result -------------------------------------------------------------------

    def posterior(self) -> WeightedPosterior:
        """The stages so far, as a posterior."""
        plan = self.state.plan
        review = [f"{type(warning).__name__}: {warning}" for warning in self.review()]
        return WeightedPosterior(
            self.mover.model,
            self.mover.target,
            self.state.stages,
            plan=plan,
            planned=None if plan is None else len(self._kept(plan)),
            mover=self.mover,
            seed=self.seed,
            origin=self.origin,
            interrupted=self.interrupted,
            timings=self._clock.phases,
            notes=[*self.notes, *review],
        )._sign()

    def review(self) -> list[PyroGeoWarning]:
        """What the user must know of how the run went."""
        if not self.interrupted:
            return []
        found = f"beta {self.state.stages[-1].beta:.3g}"
        expected = f"{self.sampler.betas[-1]:g}"
        return [interruption("GibbsPosterior.run", found, expected)]

    def live_facts(self) -> Facts:
        """Attributes of the draws so far."""
        if self.state.stages:
            return self.posterior().attributes
        return run_attributes(
            self.mover.target,
            {"num_particles": self.sampler.num_particles},
            model=self.mover.model.model_title,
            kernel=type(self.sampler).__name__,
            seed=self.seed,
            timings=self._clock.phases,
            interrupted=False,
            notes=self.notes,
            citations=self.sampler,
        )

    # -- the store --------------------------------------------------------------------

    def layout(self) -> dict[str, Any]:
        """Variables, counts, chunks and header of a store."""
        return self.record.layout()

    def _take_over(self, store: RunStore) -> None:
        self.record.load(store)
        begun = self.state.stages or self.state.plan is not None
        if begun and not self.state.whole():
            raise CheckpointError(
                "the stages in the store were changed",
                where=f"store {store.path}",
                found="weights, particles or a plan that no run has written",
                expected="the state as it was stored",
                todo="Run again: a certificate may not rest on edited particles.",
            )
        if self.state.stages:
            last = self.state.stages[-1]
            where = f"store {store.path}"
            check_values(where, "loss", self.mover.loss, last.q, last.loss)

    def _advance(self, state: GibbsState, phase: str) -> None:
        # what a store brings back must be what a run has left there
        super()._advance(state.signed(len(self.state.stages)), phase)

    def _count(self) -> None:
        self.record.add(self.state.stages)

    # -- sampling ---------------------------------------------------------------------

    def sample(self, shown: bool) -> None:
        """Draw from the guide, or let the pilot plan a path and walk it.

        Args:
            shown: whether to show a progress bar.
        """
        if self.sampler.guide is not None:
            self._weigh()
        else:
            self._scout()
            self._walk(shown)

    def _weigh(self) -> None:
        """Draw from a guide in place of a path."""
        if self.state.stages:
            return
        sampler = self.sampler
        assert sampler.guide is not None
        with self._clock.phase("sampling"):
            stage = weigh_guide(
                self.mover,
                self.mover.target,
                sampler.guide,
                self.arguments,
                sampler.betas[-1],
                sampler.num_particles,
                substream(self.seed, _RUN, _GUIDE),
            )
        self.record.plan(1)
        self._look_at(stage.q, 1)
        self._advance(self.state._replace(stages=(stage,)), "sampling")

    def _scout(self) -> None:
        """Let the pilot make a plan, or go on with it."""
        if self.state.plan is not None:
            return
        sampler, pilot = self.sampler, self.state.pilot
        noise = self._noise(_PILOT)
        if pilot is None:
            with self._clock.phase("pilot"):
                pilot = Pilot.begin(self._prior(sampler.pilot_particles, _PILOT))
        steps = scout(
            self.mover,
            pilot,
            sampler.betas,
            cess=sampler.cess,
            target_accept_prob=sampler.target_accept_prob,
            noise=noise,
        )
        for pilot in self._clock.timed("pilot", steps):
            state = self.state._replace(pilot=pilot, noise=noise.state)
            self._advance(state, "pilot")
        plan = pilot.plan(sampler.num_leapfrog, sampler.moves, sampler.ess_threshold)
        self.record.plan(len(self._kept(plan)))
        # Only the plan stays. The pilot's particles chose it, so their weights would
        # not be proper; its random numbers end with it too.
        self._advance(GibbsState(plan=plan), "pilot")

    def _walk(self, shown: bool) -> None:
        """Walk as planned, from where the run is."""
        sampler, plan, walk = self.sampler, self.state.plan, self.state.walk
        assert plan is not None
        noise = self._noise(_RUN)
        if walk is None:
            with self._clock.phase("annealing"):
                walk = Walk(self._prior(sampler.num_particles, _RUN))
        follow = langevin if sampler.method == "langevin" else anneal
        steps = follow(self.mover, plan, walk, noise)
        kept = self._kept(plan)
        with Progress("annealing", len(plan.betas), "stage", shown) as bar:
            for walk in self._clock.timed("annealing", steps):
                stage = walk.stage
                assert stage is not None
                stages = self.state.stages
                if stage.beta in kept:
                    stages = (*stages, stage)
                self._look_at(stage.q, walk.done)
                state = self.state._replace(walk=walk, stages=stages, noise=noise.state)
                self._advance(state, "annealing")
                told = {"beta": f"{stage.beta:.3g}", "ess": f"{stage.ess:.0f}"}
                bar.show(walk.done, told)

    def _kept(self, plan: AnnealingPlan) -> set[float]:
        """Temperatures of the stages that are kept, a certificate's divisor."""
        # fixed by the plan, before the first particle is moved
        every = self.sampler.keep == "all"
        return set(plan.betas if every else self.sampler.betas)

    def _prior(self, count: int, part: int) -> Tensor:
        target = self.mover.target
        seed = substream(self.seed, part, _PRIOR)
        return self.mover.model.prior_draws(target, count, seed).to(target.device)

    def _noise(self, part: int) -> SequentialNoise:
        return SequentialNoise(self.seed, part, _MOVES, state=self.state.noise)
