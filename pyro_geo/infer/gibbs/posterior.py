"""Particles with weights, and what can be asked of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.checks import check_choice, check_count
from pyro_geo.density import Target
from pyro_geo.engine import SequentialNoise
from pyro_geo.engine.attributes import Facts, RunTimes, run_attributes
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.gibbs.codebook import Codebook, Status, signed
from pyro_geo.infer.gibbs.model import GibbsModel, Predictor
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import AnnealingPlan, Stage
from pyro_geo.infer.gibbs.seal import Origin, seal
from pyro_geo.results import (
    MemoryDraws,
    PosteriorDraws,
    PredictiveModel,
    Weights,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WeightedPosterior"]

_EXTENSION = 2  # part of the seed; 0 and 1 are those of the pilot and of the run


class WeightedPosterior(PosteriorDraws, RunTimes):
    """A Gibbs posterior as weighted particles.

    A :class:`~pyro_geo.results.PosteriorDraws` whose chains are particles, a draw
    being one of its states: tables, samples, ArviZ data and reports honour the weights.
    The posterior predictive is what the model returns, the site `"prediction"`, at
    each draw.

    Args:
        model: the Gibbs model.
        target: its density, at any temperature.
        stages: particles at each temperature kept, the posterior's last.
        plan: the path, None where there was none.
        planned: stages that the codebook is divided by; as many as there are if None.
        mover: goes on from the particles.
        seed: of the run.
        origin: of the particles, for those of a run.
        interrupted: whether the path was cut short.
        timings: processor and wall seconds by phase.
        notes: warnings of the run; those of the target if None.

    Attributes:
        model: as given.
        stages: likewise.
        plan: likewise.
        beta: inverse temperature.
        origin: as given.
        planned: stages that the codebook is divided by, whether finished or not.
        interrupted: as given.
        timings: likewise.
    """

    def __init__(
        self,
        model: GibbsModel,
        target: Target,
        stages: Sequence[Stage],
        *,
        plan: AnnealingPlan | None = None,
        planned: int | None = None,
        mover: ParticleMover | None = None,
        seed: int = 0,
        origin: Origin | None = None,
        interrupted: bool = False,
        timings: Mapping[str, Seconds] | None = None,
        notes: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.stages = tuple(stages)
        self.plan = plan
        self.planned = len(self.stages) if planned is None else planned
        self.origin = origin
        self._sealed: str | None = None
        self._heuristic = False
        self._picked = False
        self.interrupted = interrupted
        self._mover = mover
        self.timings = dict(timings or {})
        last = self.stages[-1]
        self.beta = last.beta
        tempered = target.tempered(last.beta)
        stats = {
            "tilt": self.beta * last.loss[:, None],
            "acceptance_rate": last.acceptance[:, None].to(last.loss.device),
        }
        super().__init__(
            tempered,
            MemoryDraws(tempered, last.q[:, None], stats),
            log_weights=last.log_weights[:, None],
            notes=target.notes if notes is None else notes,
            citations=("gibbs",),
            chain_name="particle",
            seed=seed,
            predictive=PredictiveModel(Predictor(model.model), model.arguments(target)),
        )

    # -- what a certificate may rest on ---------------------------------------------

    @property
    def status(self) -> Status:
        """What a certificate may rest on.

        `"finite_sample"` is what a run has made and nobody has changed since;
        `"heuristic"` draws were made by something else; a posterior that was put
        together by hand is `"unverified"`.
        """
        if self._heuristic:
            return "heuristic"
        whole = self._sealed is not None and self._sealed == self._seal()
        return "finite_sample" if whole else "unverified"

    def _sign(self) -> WeightedPosterior:
        """Seal a posterior that this package has made; it returns itself."""
        self._sealed = self._seal()
        return self

    def _seal(self) -> str:
        return seal(
            self.positions,
            self.log_weights,
            self.tilt,
            self.stages,
            self.plan,
            self.planned,
            self.beta,
            self.origin,
            self._picked,
            self.interrupted,
            (self.model.model, self.model.loss),
        )

    def _stages_to_choose_from(self) -> int:
        """Number of temperatures among which one like this may be picked."""
        betas = () if self.origin is None else self.origin.betas
        return len(betas) if self.beta in betas else self.planned

    # -- what the weights say -------------------------------------------------------

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the draws' weights, `(particles * draws,)`.

        They are in the order of `get_samples(resample=False)` and sum to an unbiased
        estimate of the normaliser; :attr:`log_z` is its logarithm, minus the free
        energy in nats.
        """
        return self._weighted().flat

    @property
    def tilt(self) -> Tensor:
        """`beta` times the summed loss of each draw, `(particles * draws,)`."""
        return self.stats["tilt"].flatten()

    @property
    def complexity(self) -> float:
        r"""Estimated divergence from the prior in nats, :math:`-\log Z - W(T)`."""
        share = self.log_weights.softmax(0)
        alive = share > 0
        # KL(posterior || prior) = -log Z - E[tilt], by the definition of the posterior
        mean = (share[alive] * self.tilt[alive]).sum()
        return -self.log_z - float(mean)

    @property
    def killed(self) -> int:
        """Particles dropped because their loss was not finite, over all stages."""
        return sum(stage.killed for stage in self.stages)

    def path(self) -> pd.DataFrame:
        """Table of the stages: temperature, free energy, effective size, acceptance."""
        import pandas as pd

        rows = []
        for stage in self.stages:
            share = stage.log_weights.softmax(0)
            # a dropped particle has weight 0 and may have an infinite loss
            loss = torch.where(share > 0, stage.loss, 0.0)
            mean = float((share * loss).sum())
            rows.append(
                {
                    "beta": stage.beta,
                    "free_energy": -stage.log_z,
                    "mean_loss": mean,
                    "complexity": -stage.log_z - stage.beta * mean,
                    "ess": stage.ess,
                    "acceptance": float(stage.acceptance.mean()),
                    "resampled": stage.resampled,
                }
            )
        return pd.DataFrame(rows)

    def stage(self, index: int) -> WeightedPosterior:
        """Return the posterior at another temperature of the path.

        Args:
            index: of the stage; negative ones count from the end.

        Returns:
            A posterior that ends there.
        """
        stop = range(len(self.stages))[index] + 1
        part = WeightedPosterior(
            self.model,
            self.target,
            self.stages[:stop],
            plan=self.plan,
            planned=self.planned,
            mover=self._mover,
            seed=self.run_seed,
            origin=self.origin,
            timings=self.timings,
            notes=self.notes,
        )
        part._picked = True
        return self._as_proper(part)

    def codebook(self, pool: Literal["all", "final"] = "all") -> Codebook:
        """Return the particles with their prices, for a certificate.

        Args:
            pool: those of all temperatures, each with its share, or the last alone.
                Choose before you look: pooling is what lets the certificate choose.

        Returns:
            The codebook.
        """
        check_choice("pool", pool, ("all", "final"))
        q = self.positions.flatten(0, 1)
        log_weights, tilt = self.log_weights, self.tilt
        alive = log_weights > -math.inf
        # The price of a particle in the prior: its weight in the posterior without the
        # tilt, v e^T. The average of v e^T f over runs is the prior's mean of f.
        books = [torch.where(alive, log_weights + tilt, -math.inf)]
        positions, own = [q], [log_weights.log_softmax(0)]
        names = [f"beta={self.beta:.3g}"]
        if pool == "all":
            for stage in self.stages[:-1]:
                kept = stage.log_weights > -math.inf
                price = stage.log_weights + stage.beta * stage.loss
                books.append(torch.where(kept, price, -math.inf))
                positions.append(stage.q)
                # earlier stages are no draws of the posterior at the last temperature
                own.append(torch.full_like(price, -math.inf))
                names.append(f"beta={stage.beta:.3g}")
        # A mixture of J stages gives each 1/J of the prior. J was planned before any
        # stage was seen and stays even if fewer were finished: the others weigh 0. A
        # single stage that was picked may have been picked for its particles, which
        # costs as much as if all that it could have been had their share.
        one_of = (
            self._stages_to_choose_from() if self._picked or self.interrupted else 1
        )
        divisor = self.planned if pool == "all" else one_of
        source = [torch.full_like(b, i, dtype=torch.long) for i, b in enumerate(books)]
        status = self.status
        book = Codebook(
            torch.cat(positions),
            torch.cat(books) - math.log(divisor),
            log_weights=torch.cat(own),
            source=torch.cat(source),
            sources=tuple(names),
            model=self.model,
            target=self.target,
            origin=self.origin,
            heuristic=status == "heuristic",
        )
        return signed(book) if status == "finite_sample" else book

    # -- more draws -----------------------------------------------------------------

    def extend(self, steps: int) -> WeightedPosterior:
        """Go on from each particle by HMC as it was frozen, at the last temperature.

        All states count, each with its particle's weight over `steps`. Moves leave the
        posterior invariant, so that a certificate may rest on them; how many there are
        must be decided before. An interrupt keeps the planned divisor.

        Args:
            steps: moves of each particle.

        Returns:
            The posterior with `steps` draws of each particle.

        Raises:
            ConfigurationError: nothing to go on with.
            KeyboardInterrupt: it came before the first step was finished.
        """
        check_count("steps", steps)
        if self.plan is None or self._mover is None:
            raise ConfigurationError(
                "these particles cannot be extended",
                where="WeightedPosterior.extend",
                found="particles without a path",
                expected="a posterior that was annealed",
                todo="Run GibbsPosterior with method='smc'.",
            )
        last, plan = self.stages[-1], self.plan
        index = plan.betas.index(last.beta)
        noise = SequentialNoise(self.run_seed, _EXTENSION)
        q, kept, losses, rates = last.q, [], [], []
        interrupted = self.interrupted
        try:
            for _ in range(steps):
                q, loss, rate = self._mover.move(
                    q,
                    last.beta,
                    plan.step_sizes[index],
                    plan.scales[index],
                    plan.moves,
                    noise,
                )
                kept.append(q)
                losses.append(loss)
                rates.append(rate)
        except KeyboardInterrupt:
            if not kept:
                raise
            interrupted = True
        loss = torch.stack(losses, 1)
        # divided by the steps that were planned: an interrupt loses weight, and a
        # weight may be lowered
        log_weights = (last.log_weights[:, None] - math.log(steps)).expand_as(loss)
        log_weights = torch.where(loss.isfinite(), log_weights, -math.inf)
        stats = {
            "tilt": self.beta * loss,
            "acceptance_rate": torch.stack(rates, 1).to(loss.device),
        }
        new = self._with_draws(torch.stack(kept, 1), log_weights, stats)
        new.interrupted = interrupted
        return self._as_proper(new)

    def with_positions(self, q: Tensor) -> WeightedPosterior:
        """Put draws that something else has made in place of the particles.

        Nothing is known of such draws, those of DIMS or of an optimiser say: `certify`
        refuses them.

        Args:
            q: positions, `(particles, draws, dim)`.

        Returns:
            A posterior of status `"heuristic"`, with the particles' weights.

        Raises:
            ConfigurationError: the loss cannot be evaluated any more.
        """
        if self._mover is None:
            raise ConfigurationError(
                "the loss of other draws is not known",
                where="WeightedPosterior.with_positions",
                found="a posterior without a mover",
                expected="the result of a run",
                todo="Run GibbsPosterior.",
            )
        loss = self._mover.loss(q.flatten(0, 1)).reshape(q.shape[:2])
        log_weights = self.stages[-1].log_weights[:, None] - math.log(q.shape[1])
        new = self._with_draws(
            q, log_weights.expand_as(loss), {"tilt": self.beta * loss}
        )
        # it is unknown how these draws were made, so their weights prove nothing
        new._heuristic = True
        return new

    def _as_proper(self, made: WeightedPosterior) -> WeightedPosterior:
        """Hand on the seal of this posterior to what was made from it."""
        if self.status == "finite_sample":
            return made._sign()
        made._heuristic = self._heuristic
        return made

    # -- as other results -----------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return those of every result, and the figures of the path.

        Returns:
            By site `n_eff` and `r_hat`; `ess`, `khat` and `log_z` of the weights; and
            `complexity`, `killed` particles, the number of `stages` and the `status`.
        """
        return {
            **super().diagnostics(),
            "complexity": self.complexity,
            "killed": self.killed,
            "stages": len(self.stages),
            "status": self.status,
        }

    @property
    def attributes(self) -> Facts:
        """Facts of the run, texts and numbers by name."""
        pilot = self.timings.get("pilot")
        return run_attributes(
            self.target,
            {
                "num_particles": self.positions.shape[0],
                "num_draws": self.positions.shape[1],
                "beta": self.beta,
                **self._weight_facts(),
                "stages": len(self.stages),
                "killed": self.killed,
                "status": self.status,
                **({} if pilot is None else {"pilot_time": round(pilot.wall, 3)}),
            },
            model=self.model.model_title,
            kernel="GibbsPosterior",
            seed=self.run_seed,
            timings=self.timings,
            interrupted=self.interrupted,
            notes=self.notes,
            citations=self,
        )

    def _with_draws(
        self, q: Tensor, log_weights: Tensor, stats: dict[str, Tensor]
    ) -> WeightedPosterior:
        """The same run with other draws of each particle."""
        new = copy.copy(self)
        new._draws = MemoryDraws(self.target, q, stats)
        new._weights = Weights(log_weights, new._draws)
        return new
