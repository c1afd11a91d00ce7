"""`GibbsPosterior`: from a model, a loss and data to particles that certify."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.engine.identity import describe, fingerprint
from pyro_geo.engine.progress import Progress
from pyro_geo.errors import (
    BetaRangeError,
    ConvergenceWarning,
    PrecisionWarning,
)
from pyro_geo.infer.gibbs.checkpoint import GibbsState, StageStore
from pyro_geo.infer.gibbs.importance import weigh_guide
from pyro_geo.infer.gibbs.langevin import walk as langevin
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import AnnealingPlan, Pilot, Walk, anneal, scout
from pyro_geo.infer.gibbs.posterior import WeightedPosterior, name_of
from pyro_geo.io.store import check_run
from pyro_geo.ops.random import substream

__all__ = ["GibbsPosterior"]

_PILOT, _RUN = 0, 1  # random streams
_SETTINGS = (
    "method",
    "betas",
    "num_particles",
    "pilot_particles",
    "cess",
    "target_accept_prob",
    "num_leapfrog",
    "moves",
    "ess_threshold",
    "chunk",
    "keep",
    "dtype",
    "guide",
)


class GibbsPosterior:
    r"""Sample a Gibbs posterior so that a PAC-Bayes certificate may rest on the draws.

    Particles go from the prior to the posterior along

    .. math:: \gamma_t(\theta) = \pi(\theta) e^{-\beta_t \sum_i \ell(\theta, z_i)},
              \qquad 0 = \beta_0 < \dots < \beta_T,

    reweighed at each temperature, resampled where few of them count, and moved by
    batched HMC. A *pilot* chooses temperatures, step sizes and scales by its own
    particles and is thrown away; the run then follows that plan, on random numbers of
    its own, so that every stage is properly weighted and the sum of the weights is an
    unbiased estimate of the normaliser. That is what makes a certificate hold however
    badly the particles have mixed. For posterior draws without a certificate use
    :class:`~pyro_geo.infer.HMC` on `model.pyro_model(beta)`.

    Args:
        model: prior, predictor and loss.
        betas: inverse temperatures of one example, rising; each is a stage, and the
            last is the posterior's. 1 weighs the loss like a log-likelihood.
        num_particles: of the run.
        pilot_particles: of the pilot.
        cess: share of particles that still count after each step to the next
            temperature; closer to 1 makes more stages.
        target_accept_prob: acceptance rate that the pilot adapts step sizes to.
        num_leapfrog: steps of one move.
        moves: of each stage.
        ess_threshold: share of effective particles below which they are resampled.
        chunk: particles evaluated side by side; as many as fit if None.
        method: `"smc"`; `"importance"`, draws of a guide at the last of `betas` in
            place of the path; or `"langevin"`, unadjusted steps along it, whose
            weights vary more.
        guide: trained on `model.pyro_model(beta)`, for importance draws.
        keep: `"all"` stages, or those at `betas` alone, to save memory.
        dtype: floating type; single precision is warned of.
        seed: of the run; drawn from torch's global generator if None.
        progress_bar: whether to show one.
        store: a folder that takes each stage as it is finished, so that the run can be
            gone on with (:meth:`resume`); in memory alone if None.

    Attributes:
        posterior: what the last run has brought, even if an error ended it; None
            before its first stage.

    Raises:
        BetaRangeError: temperatures that do not rise from above 0.

    References:
        Wang & Yang (2026), PAC-Bayes bounds for Gibbs posteriors via singular learning
        theory, 2604.17219; Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo
        samplers.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.infer import GibbsModel
        >>> def model(x):
        ...     w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     return x @ w
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> gibbs = GibbsModel(model, lambda f, y: (f - y) ** 2)
        >>> run = GibbsPosterior(
        ...     gibbs, betas=[1.0], num_particles=32, seed=1, progress_bar=False
        ... )
        >>> posterior = run.run(x, x @ torch.tensor([1.0, -1.0]))
        >>> mean = posterior.summary()["mean"]
        >>> bool(abs(mean["w[0]"] - 1) < 0.1), posterior.status
        (True, 'finite_sample')
    """

    def __init__(
        self,
        model: GibbsModel,
        *,
        betas: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
        num_particles: int = 128,
        pilot_particles: int = 64,
        cess: float = 0.9,
        target_accept_prob: float = 0.8,
        num_leapfrog: int = 6,
        moves: int = 1,
        ess_threshold: float = 0.5,
        chunk: int | None = None,
        method: Literal["smc", "importance", "langevin"] = "smc",
        guide: Callable[..., Any] | None = None,
        keep: Literal["all", "betas"] = "all",
        dtype: torch.dtype = torch.float64,
        seed: int | None = None,
        progress_bar: bool = True,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        self.model = model
        self.betas = tuple(float(beta) for beta in betas)
        pairs = itertools.pairwise((0.0, *self.betas))
        if not self.betas or not all(a < b < math.inf for a, b in pairs):
            raise BetaRangeError(
                "temperatures do not rise",
                where="argument betas",
                found=list(self.betas),
                expected="finite inverse temperatures above 0, rising",
                todo="Pass (0.1, 0.25, 0.5, 1.0), say.",
            )
        check_count("num_particles", num_particles)
        check_count("pilot_particles", pilot_particles, 2)
        check_count("num_leapfrog", num_leapfrog)
        check_count("moves", moves)
        check_count("chunk", chunk)
        check_number("cess", cess, 0.0, 1.0, strict=True)
        check_number("target_accept_prob", target_accept_prob, 0.0, 1.0, strict=True)
        check(0 <= ess_threshold <= 1, "ess_threshold", ess_threshold, "in [0, 1]")
        check_choice("keep", keep, ("all", "betas"))
        check_choice("method", method, ("smc", "importance", "langevin"))
        self.num_particles, self.pilot_particles = num_particles, pilot_particles
        self.cess, self.target_accept_prob = cess, target_accept_prob
        self.num_leapfrog, self.moves = num_leapfrog, moves
        self.ess_threshold, self.chunk, self.keep = ess_threshold, chunk, keep
        needed = method == "importance"
        expected = "a trained guide" if needed else f"no guide for method {method!r}"
        check((guide is not None) == needed, "guide", guide, expected)
        self.method, self.guide = method, guide
        self.dtype, self.seed, self.progress_bar = dtype, seed, progress_bar
        self.store = store
        self.posterior: WeightedPosterior | None = None

    def run(self, args: Any, targets: Any) -> WeightedPosterior:
        """AnnealingPlan with a pilot, then walk the path.

        An interrupt keeps the stages that are finished; a certificate may still rest
        on them.

        Args:
            args: arguments of the model, a tuple or one tensor.
            targets: what the loss compares with, likewise.

        Returns:
            The posterior. `KeyboardInterrupt` is raised where it comes before the
            first stage is finished, :class:`~pyro_geo.errors.CheckpointError` where
            there is something at the path of `store` already.

        Warns:
            PrecisionWarning: single precision.
            ConvergenceWarning: the run was interrupted.
        """
        if self.dtype != torch.float64:
            warnings.warn(
                PrecisionWarning(
                    "weights in single precision",
                    where="argument dtype",
                    found=self.dtype,
                    expected=torch.float64,
                    todo="Leave dtype out: the tilt is a difference of large "
                    "numbers, and goes into the certificate.",
                ),
                stacklevel=2,
            )
        return self._execute(args, targets, resume=False)

    def resume(self, args: Any, targets: Any) -> WeightedPosterior:
        """Go on with the run in `store` as if it had never stopped, bit for bit.

        Args:
            args: arguments of the model, those that the run was begun with.
            targets: what the loss compares with, likewise.

        Returns:
            The posterior. A store of another run is a
            :class:`~pyro_geo.errors.CheckpointError` and stays as it is; without
            `store` it is a :class:`~pyro_geo.errors.ConfigurationError`.

        Warns:
            ConvergenceWarning: the run was interrupted.
        """
        expected = "the folder of a run to go on with"
        check(self.store is not None, "store", self.store, expected)
        return self._execute(args, targets, resume=True)

    def _execute(self, args: Any, targets: Any, *, resume: bool) -> WeightedPosterior:
        start = Seconds.now()
        target = self.model.target(args, targets, dtype=self.dtype)
        mover = ParticleMover(self.model, target, self.num_leapfrog, self.chunk)
        seed = self._chosen_seed(resume)
        density = target.tempered(1.0)
        identity = {
            "kernel": type(self).__name__,
            "seed": seed,
            "settings": {name: describe(getattr(self, name)) for name in _SETTINGS},
            "target": fingerprint(density),
        }
        stages = StageStore(mover, identity, self.num_particles, self.store)
        run = _Run(self, mover, seed, stages, start)
        self.posterior = None
        interrupted = False
        try:
            if resume:
                assert self.store is not None
                run.restore(stages.open(self.store, density))
            else:
                stages.create(run.state, run.facts())
            if self.guide is not None:
                run.weigh(self.guide, (args, targets))
            else:
                run.scout()
                run.walk()
        except KeyboardInterrupt:
            if not run.state.stages:
                raise
            interrupted = True
            stages.commit(run.state, lambda: {"interrupted": 1})
        finally:
            stages.close()
            if run.state.stages:
                self.posterior = run.posterior(interrupted)
        posterior = self.posterior
        assert posterior is not None
        if interrupted:
            warnings.warn(
                ConvergenceWarning(
                    "the run was interrupted",
                    where="GibbsPosterior.run",
                    found=f"beta {posterior.beta:.3g}",
                    expected=f"{self.betas[-1]:g}",
                    todo="Use the finished stages, run again, or resume it.",
                ),
                stacklevel=3,
            )
        return posterior

    def _chosen_seed(self, resume: bool) -> int:
        if self.seed is None and resume:
            assert self.store is not None
            return int(check_run(self.store).get("seed", -1))
        return int(torch.randint(2**62, ())) if self.seed is None else self.seed


class _Run:
    """One run, in one sitting or several.

    Args:
        settings: of the run.
        mover: of the model, at the data.
        seed: of the run.
        stages: takes each stage.
        start: of this sitting.
    """

    def __init__(
        self,
        settings: GibbsPosterior,
        mover: ParticleMover,
        seed: int,
        stages: StageStore,
        start: Seconds,
    ) -> None:
        self.settings, self.mover, self.seed = settings, mover, seed
        self.stages, self.start = stages, start
        self.state = GibbsState()

    def restore(self, state: GibbsState) -> None:
        """Go on from a stored state."""
        self.state = state
        self.start = self.start - state.seconds

    def weigh(self, guide: Callable[..., Any], arguments: tuple[Any, Any]) -> None:
        """Draw from a guide in place of a path."""
        if self.state.stages:
            return
        chosen = self.settings
        stage = weigh_guide(
            self.mover,
            self.mover.target,
            guide,
            arguments,
            chosen.betas[-1],
            chosen.num_particles,
            substream(self.seed, _RUN, 2),
        )
        self.stages.plan(1)
        self._commit(self.state._replace(stages=(stage,)), True)

    def scout(self) -> None:
        """Let the pilot make a plan, or go on with it."""
        if self.state.plan is not None:
            return
        chosen, state = self.settings, self.state
        pilot = state.pilot
        if pilot is None:
            pilot = Pilot.begin(self._prior(chosen.pilot_particles, _PILOT))
        generator = self._generator(_PILOT)
        for pilot in scout(  # noqa: B020
            self.mover,
            pilot,
            chosen.betas,
            cess=chosen.cess,
            target_accept_prob=chosen.target_accept_prob,
            generator=generator,
        ):
            self._commit(
                self.state._replace(pilot=pilot, generator=generator.get_state())
            )
        plan = pilot.plan(chosen.num_leapfrog, chosen.moves, chosen.ess_threshold)
        self.stages.plan(len(self._kept(plan)))
        spent = Seconds.now() - self.start
        self._commit(
            GibbsState(plan=plan, pilot_seconds=spent, seconds=self.state.seconds)
        )

    def walk(self) -> None:
        """Walk as planned, from where the run is."""
        chosen, plan = self.settings, self.state.plan
        assert plan is not None
        walk = self.state.walk
        if walk is None:
            walk = Walk(self._prior(chosen.num_particles, _RUN))
        generator = self._generator(_RUN)
        follow = langevin if chosen.method == "langevin" else anneal
        kept, count = self._kept(plan), len(plan.betas)
        with Progress("annealing", count, "stage", chosen.progress_bar) as bar:
            for walk in follow(self.mover, plan, walk, generator):  # noqa: B020
                stage = walk.stage
                assert stage is not None
                here = (stage,) if stage.beta in kept else ()
                self._commit(
                    self.state._replace(
                        walk=walk,
                        stages=(*self.state.stages, *here),
                        generator=generator.get_state(),
                    ),
                    walk.done == count,
                )
                told = {"beta": f"{stage.beta:.3g}", "ess": f"{stage.ess:.0f}"}
                bar.show(walk.done, told)

    def posterior(self, interrupted: bool) -> WeightedPosterior:
        """The stages so far, as a posterior."""
        plan, target = self.state.plan, self.mover.target
        return WeightedPosterior(
            self.mover.model,
            target,
            self.state.stages,
            plan=plan,
            planned=None if plan is None else len(self._kept(plan)),
            mover=self.mover,
            seed=self.seed,
            interrupted=interrupted,
            timings=self._times(),
        )

    def facts(self) -> dict[str, Any]:
        """Attributes of the draws in the store."""
        if self.state.stages:
            return self.posterior(False).attributes
        return {
            "model": name_of(self.mover.model.model),
            "kernel": type(self.settings).__name__,
            "seed": self.seed,
            "num_particles": self.settings.num_particles,
            "dim": self.mover.target.dim,
            **self._times(),
        }

    def _times(self) -> dict[str, float]:
        if self.state.plan is None:
            return {}
        cpu, wall = self.state.seconds
        return {
            "pilot_time": round(self.state.pilot_seconds.wall, 3),
            "sampling_time": round(wall, 3),
            "processor_time": round(cpu, 3),
        }

    def _commit(self, state: GibbsState, finished: bool = False) -> None:
        self.state = state._replace(seconds=Seconds.now() - self.start)
        self.stages.commit(self.state, self.facts, finished)

    def _kept(self, plan: AnnealingPlan) -> set[float]:
        every = self.settings.keep == "all"
        return set(plan.betas if every else self.settings.betas)

    def _prior(self, count: int, stream: int) -> Tensor:
        target = self.mover.target
        seed = substream(self.seed, stream, 0)
        return self.mover.model.prior_draws(target, count, seed).to(target.device)

    def _generator(self, stream: int) -> torch.Generator:
        generator = torch.Generator()
        if self.state.generator is not None:
            return generator.set_state(self.state.generator.cpu())
        return generator.manual_seed(substream(self.seed, stream, 1))
