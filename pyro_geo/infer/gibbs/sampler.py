"""`GibbsPosterior`: from a model, a loss and data to particles that certify."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo._seconds import Seconds
from pyro_geo.errors import (
    BetaRangeError,
    ConvergenceWarning,
    PrecisionWarning,
    explain,
    require,
)
from pyro_geo.infer.gibbs.importance import weigh_guide
from pyro_geo.infer.gibbs.langevin import walk
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.path import Mover, Stage, anneal, make_plan
from pyro_geo.infer.gibbs.posterior import WeightedPosterior
from pyro_geo.infer.mcmc._noise import substream
from pyro_geo.infer.mcmc._progress import Progress

__all__ = ["GibbsPosterior"]

_PILOT, _RUN = 0, 1  # random streams


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
        keep: str = "all",
        dtype: torch.dtype = torch.float64,
        seed: int | None = None,
        progress_bar: bool = True,
    ) -> None:
        self.model = model
        self.betas = tuple(float(beta) for beta in betas)
        pairs = zip((0.0, *self.betas), self.betas, strict=False)
        if not self.betas or not all(a < b < math.inf for a, b in pairs):
            raise BetaRangeError(
                explain(
                    "temperatures do not rise",
                    where="argument betas",
                    found=list(self.betas),
                    expected="finite inverse temperatures above 0, rising",
                    todo="Pass (0.1, 0.25, 0.5, 1.0), say.",
                )
            )
        for name, value in (
            ("num_particles", num_particles),
            ("pilot_particles", pilot_particles - 1),
            ("num_leapfrog", num_leapfrog),
            ("moves", moves),
            ("chunk", 1 if chunk is None else chunk),
        ):
            require(value >= 1, name, value, "a count of at least 1 (pilot: 2)")
        for name, value in (
            ("cess", cess),
            ("target_accept_prob", target_accept_prob),
        ):
            require(0 < value < 1, name, value, "between 0 and 1")
        require(0 <= ess_threshold <= 1, "ess_threshold", ess_threshold, "in [0, 1]")
        require(keep in ("all", "betas"), "keep", keep, "'all' or 'betas'")
        self.num_particles, self.pilot_particles = num_particles, pilot_particles
        self.cess, self.target_accept_prob = cess, target_accept_prob
        self.num_leapfrog, self.moves = num_leapfrog, moves
        self.ess_threshold, self.chunk, self.keep = ess_threshold, chunk, keep
        methods = ("smc", "importance", "langevin")
        require(method in methods, "method", method, f"one of {methods}")
        needed = method == "importance"
        require((guide is not None) == needed, "guide", guide, f"a guide: {needed}")
        self.method, self.guide = method, guide
        self.dtype, self.seed, self.progress_bar = dtype, seed, progress_bar

    def run(self, args: Any, targets: Any) -> WeightedPosterior:
        """Plan with a pilot, then walk the path.

        An interrupt keeps the stages that are finished; a certificate may still rest
        on them.

        Args:
            args: arguments of the model, a tuple or one tensor.
            targets: what the loss compares with, likewise.

        Returns:
            The posterior.

        Raises:
            KeyboardInterrupt: it came before the first stage was finished.

        Warns:
            PrecisionWarning: single precision.
            ConvergenceWarning: the run was interrupted.
        """
        if self.dtype != torch.float64:
            warnings.warn(
                PrecisionWarning(
                    explain(
                        "weights in single precision",
                        where="argument dtype",
                        found=self.dtype,
                        expected=torch.float64,
                        todo="Leave dtype out: the tilt is a difference of large "
                        "numbers, and goes into the certificate.",
                    )
                ),
                stacklevel=2,
            )
        start = Seconds.now()
        target = self.model.target(args, targets, dtype=self.dtype)
        seed = self.seed
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        mover = Mover(self.model, target, self.num_leapfrog, self.chunk)
        if self.guide is not None:
            stage = weigh_guide(
                mover,
                target,
                self.guide,
                (args, targets),
                self.betas[-1],
                self.num_particles,
                substream(seed, _RUN, 2),
            )
            return WeightedPosterior(
                self.model, target, [stage], mover=mover, seed=seed
            )
        plan = make_plan(
            mover,
            self._prior(target, self.pilot_particles, seed, _PILOT),
            self.betas,
            cess=self.cess,
            target_accept_prob=self.target_accept_prob,
            moves=self.moves,
            ess_threshold=self.ess_threshold,
            generator=_generator(seed, _PILOT),
        )
        piloted = Seconds.now()
        stages: list[Stage] = []
        kept = set(plan.betas if self.keep == "all" else self.betas)
        interrupted = False
        with Progress("annealing", len(plan.betas), "stage", self.progress_bar) as bar:
            done = 0

            def keep(stage: Stage) -> None:
                nonlocal done
                done += 1
                if stage.beta in kept:
                    stages.append(stage)
                bar.show(done, {"beta": f"{stage.beta:.3g}", "ess": f"{stage.ess:.0f}"})

            q = self._prior(target, self.num_particles, seed, _RUN)
            try:
                follow = walk if self.method == "langevin" else anneal
                follow(mover, plan, q, _generator(seed, _RUN), keep)
            except KeyboardInterrupt:
                if not stages:
                    raise
                interrupted = True
        cpu, wall = Seconds.now() - start
        posterior = WeightedPosterior(
            self.model,
            target,
            stages,
            plan=plan,
            planned=len(kept),
            mover=mover,
            seed=seed,
            interrupted=interrupted,
            facts={
                "pilot_time": round((piloted - start).wall, 3),
                "sampling_time": round(wall, 3),
                "processor_time": round(cpu, 3),
            },
        )
        if interrupted:
            warnings.warn(
                ConvergenceWarning(
                    explain(
                        "the run was interrupted",
                        where="GibbsPosterior.run",
                        found=f"beta {posterior.beta:.3g}",
                        expected=f"{self.betas[-1]:g}",
                        todo="Use the finished stages, or run again.",
                    )
                ),
                stacklevel=2,
            )
        return posterior

    def _prior(self, target: Any, count: int, seed: int, stream: int) -> Tensor:
        draws = self.model.prior_draws(target, count, substream(seed, stream, 0))
        return draws.to(target.device)


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(substream(seed, stream, 1))
