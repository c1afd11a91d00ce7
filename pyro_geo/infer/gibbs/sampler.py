"""`GibbsPosterior`: from a model, a loss and data to particles that certify."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import (
    check,
    check_choice,
    check_count,
    check_number,
    check_seed,
    known_options,
    shown_options,
)
from pyro_geo.engine.identity import identity_of
from pyro_geo.engine.progress import Clock
from pyro_geo.engine.session import seed_of_run, sitting
from pyro_geo.errors import BetaRangeError, PrecisionWarning
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.posterior import WeightedPosterior
from pyro_geo.infer.gibbs.session import AnnealingSession
from pyro_geo.io.store import RunStore

__all__ = ["GibbsPosterior"]


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

    settings = (
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
    """Names of the attributes that a resumed run must have in common with the first."""

    citations = ("gibbs",)
    """Works the sampler comes from, see :func:`pyro_geo.citation`."""

    @known_options
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
        expected = "a GibbsModel, as in GibbsPosterior(GibbsModel(model, loss))"
        check(isinstance(model, GibbsModel), "model", type(model).__name__, expected)
        self.model = model
        check_seed(seed)
        sequence = isinstance(betas, (Sequence, Tensor, np.ndarray))
        good = sequence and not isinstance(betas, str)
        check(good, "betas", repr(betas), "a list, as in [0.1, 0.3, 1.0]")
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
        # a guide replaces the path; beside one it would silently do nothing
        needed = method == "importance"
        expected = "a trained guide" if needed else f"no guide for method {method!r}"
        check((guide is not None) == needed, "guide", guide, expected)
        self.method, self.guide = method, guide
        self.dtype, self.seed, self.progress_bar = dtype, seed, progress_bar
        self.store = store
        self.posterior: WeightedPosterior | None = None

    def __repr__(self) -> str:
        """Name the model and the options that were given."""
        options = shown_options(self, ("model",))
        return f"{type(self).__name__}({', '.join([repr(self.model), *options])})"

    def __getattr__(self, name: str) -> Any:
        """Say where a method of the result is, which a run of `MCMC` has itself."""
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if not name.startswith("_") and hasattr(WeightedPosterior, name):
            message += (
                f"; the result has it: posterior = sampler.run(...), posterior.{name}"
            )
        raise AttributeError(message, name=name, obj=self)

    def run(self, args: Any, targets: Any) -> WeightedPosterior:
        """Plan with a pilot, then walk the path.

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
        self.posterior = None
        clock = Clock()

        def begin(store: RunStore | None) -> AnnealingSession:
            return self._session((args, targets), store, clock)

        path = self.store if resume else None
        with sitting(begin, path, clock) as session:
            session.run(self.progress_bar, lambda: self._take(session))
            posterior = self.posterior
            assert posterior is not None
            session.finish(posterior.attributes)
        for warning in session.review():
            warnings.warn(warning, stacklevel=3)
        return posterior

    def _session(
        self, arguments: tuple[Any, Any], store: RunStore | None, clock: Clock
    ) -> AnnealingSession:
        """Put together what a run consists of, from the start or from a store."""
        # one target for all temperatures: they are data of one graph, traced once
        target = self.model.target(*arguments, dtype=self.dtype)
        mover = ParticleMover(self.model, target, self.num_leapfrog, self.chunk)
        seed = seed_of_run(self.seed, store)
        session = AnnealingSession(self, mover, seed, arguments, clock)
        if self.store is not None:
            run = {"loss": self.model.loss}
            identity = identity_of(self, seed, run, target)
            session.attach(self.store, store, identity, session.live_facts())
        return session

    def _take(self, session: AnnealingSession) -> None:
        """Take over the stages of a run, finished or not."""
        if session.state.stages:
            self.posterior = session.posterior()
