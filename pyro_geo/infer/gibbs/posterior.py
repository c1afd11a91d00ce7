"""Particles with weights, and what can be asked of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.certificates.codebook import Codebook, Status
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import AnnealingPlan, Stage
from pyro_geo.ops.random import substream
from pyro_geo.ops.weights import ess, khat
from pyro_geo.results.posterior import PosteriorDraws

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WeightedPosterior"]


class WeightedPosterior(PosteriorDraws):
    """A Gibbs posterior as weighted particles.

    Accessors are those of a run of MCMC: a chain is a particle, a draw one of its
    states. Draws are not of equal weight: use `log_weights`, or :meth:`resample`.

    Attributes:
        model: the Gibbs model.
        stages: particles at each temperature kept.
        plan: the path, None where there was none.
        beta: inverse temperature.
        status: `"finite_sample"` where a certificate may rest on them.
        planned: stages that the codebook is divided by, whether finished or not.
        interrupted: whether the path was cut short.
    """

    chain_name = "particle"
    citations: tuple[str, ...] = ("gibbs",)

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
        status: Status = "finite_sample",
        interrupted: bool = False,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.stages = tuple(stages)
        self.plan = plan
        self.planned = len(self.stages) if planned is None else planned
        self.status: Status = status
        self.interrupted = interrupted
        self.run_seed = seed
        self._mover = mover
        self._facts = facts or {}
        last = self.stages[-1]
        self.beta = last.beta
        self._target = target.tempered(last.beta)
        self._notes = list(target.notes)
        self._chain_name = self.chain_name
        self._set(last.q[:, None], last.log_weights[:, None], last)

    def _set(self, q: Tensor, log_weights: Tensor, last: Stage) -> None:
        self._q = q
        rate = last.acceptance[:, None].expand(q.shape[:2])
        self._stats = {
            "log_weight": log_weights,
            "tilt": self.beta * last.loss[:, None].expand(q.shape[:2]),
            "acceptance_rate": rate.to(log_weights.device),
        }

    # -- what the weights say -------------------------------------------------------

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the draws' weights, in the order of :meth:`get_samples`.

        They sum to an unbiased estimate of the normaliser, `(particles * draws,)`.
        """
        return self._stats["log_weight"].flatten()

    @property
    def log_z(self) -> float:
        """Logarithm of the normaliser, minus the free energy; in nats."""
        return float(self.log_weights.logsumexp(0))

    @property
    def tilt(self) -> Tensor:
        """`beta` times the summed loss of each draw, `(particles * draws,)`."""
        return self._stats["tilt"].flatten()

    @property
    def ess(self) -> float:
        """Effective number of particles."""
        return float(ess(self._stats["log_weight"].logsumexp(1)))

    @property
    def khat(self) -> float:
        """Tail of the weights; unreliable above 0.7."""
        return khat(self._stats["log_weight"].logsumexp(1))

    @property
    def complexity(self) -> float:
        r"""Estimated divergence from the prior in nats, :math:`-\log Z - W(T)`."""
        share = self.log_weights.softmax(0)
        alive = share > 0
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
        return WeightedPosterior(
            self.model,
            self.target,
            self.stages[:stop],
            plan=self.plan,
            planned=self.planned,
            mover=self._mover,
            seed=self.run_seed,
            status=self.status,
            facts=self._facts,
        )

    def codebook(self, pool: Literal["all", "final"] = "all") -> Codebook:
        """Return the particles with their prices, for a certificate.

        Args:
            pool: those of all temperatures, each with its share, or the last alone.
                Choose before you look: pooling is what lets the certificate choose.

        Returns:
            The codebook.

        Raises:
            ConfigurationError: no such choice.
        """
        if pool not in ("all", "final"):
            raise ConfigurationError(
                "no such pool",
                where="argument pool",
                found=repr(pool),
                expected="'all' or 'final'",
                todo="Use 'all', to choose the temperature afterwards.",
            )
        q = self._positions().flatten(0, 1)
        log_weights, tilt = self.log_weights, self.tilt
        alive = log_weights > -math.inf
        books = [torch.where(alive, log_weights + tilt, -math.inf)]
        positions, own = [q], [log_weights.log_softmax(0)]
        names = [f"beta={self.beta:.3g}"]
        if pool == "all":
            for stage in self.stages[:-1]:
                kept = stage.log_weights > -math.inf
                price = stage.log_weights + stage.beta * stage.loss
                books.append(torch.where(kept, price, -math.inf))
                positions.append(stage.q)
                own.append(torch.full_like(price, -math.inf))
                names.append(f"beta={stage.beta:.3g}")
        divisor = self.planned if pool == "all" else 1
        source = [torch.full((len(b),), i) for i, b in enumerate(books)]
        return Codebook(
            torch.cat(positions),
            torch.cat(books) - math.log(divisor),
            self.status,
            log_weights=torch.cat(own),
            source=torch.cat(source),
            sources=tuple(names),
            model=self.model,
            target=self.target,
        )

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
            ConfigurationError: fewer than one step, or nothing to go on with.
            KeyboardInterrupt: it came before the first step was finished.
        """
        if steps < 1 or self.plan is None or self._mover is None:
            raise ConfigurationError(
                "these particles cannot be extended",
                where="argument steps",
                found=steps,
                expected="at least 1, of a posterior that was annealed",
                todo="Run GibbsPosterior with method='smc'.",
            )
        last, plan = self.stages[-1], self.plan
        index = plan.betas.index(last.beta)
        generator = torch.Generator().manual_seed(substream(self.run_seed, 2))
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
                    generator,
                )
                kept.append(q)
                losses.append(loss)
                rates.append(rate)
        except KeyboardInterrupt:
            if not kept:
                raise
            interrupted = True
        new = self._copy(self.status)
        loss = torch.stack(losses, 1)
        log_weights = (last.log_weights[:, None] - math.log(steps)).expand_as(loss)
        log_weights = torch.where(loss.isfinite(), log_weights, -math.inf)
        new._q = torch.stack(kept, 1)
        new.interrupted = interrupted
        new._stats = {
            "log_weight": log_weights,
            "tilt": self.beta * loss,
            "acceptance_rate": torch.stack(rates, 1),
        }
        return new

    def moved(self, q: Tensor) -> WeightedPosterior:
        """Put draws that something else has moved in place of the particles.

        Nothing is known of such draws, those of DIMS or of an optimiser say: `certify`
        refuses them.

        Args:
            q: positions, `(particles, draws, dim)`.

        Returns:
            A posterior of status `"heuristic"`.
        """
        new = self._copy("heuristic")
        last = self.stages[-1]
        assert self._mover is not None
        loss = self._mover.loss(q.flatten(0, 1)).reshape(q.shape[:2])
        new._q = q
        log_weights = last.log_weights[:, None] - math.log(q.shape[1])
        new._stats = {
            "log_weight": log_weights.expand_as(loss),
            "tilt": self.beta * loss,
            "acceptance_rate": torch.ones_like(loss),
        }
        return new

    def resample(self, num_draws: int, seed: int = 0) -> dict[str, Tensor]:
        """Draw with the weights: draws of equal weight, some more than once.

        Args:
            num_draws: how many.
            seed: any integer; torch's global state is left alone.

        Returns:
            Site to `(num_draws, *shape)`.
        """
        generator = torch.Generator().manual_seed(seed)
        share = self.log_weights.softmax(0)
        rows = share.multinomial(num_draws, replacement=True, generator=generator)
        return self.target.constrain(self._positions().flatten(0, 1)[rows])

    # -- as other results -----------------------------------------------------------

    def summary(self, prob: float = 0.9) -> pd.DataFrame:
        """Table of weighted means, deviations and quantiles, one row per scalar.

        Args:
            prob: probability of the interval.

        Returns:
            The table.
        """
        import pandas as pd

        share = self.log_weights.softmax(0).cpu().numpy()
        rows = {}
        sites = self.target.constrain(self._positions().flatten(0, 1))
        for name, value in sites.items():
            flat = value.reshape(len(value), -1).detach().cpu().numpy()
            for j, column in enumerate(flat.T):
                place = np.unravel_index(j, value.shape[1:]) if value[0].dim() else ()
                label = f"{name}[{', '.join(map(str, place))}]" if place else name
                mean = float(share @ column)
                order = np.argsort(column)
                below = np.cumsum(share[order])
                ends = np.searchsorted(below, [(1 - prob) / 2, (1 + prob) / 2])
                low, high = column[order[ends.clip(max=len(order) - 1)]]
                sd = float(share @ (column - mean) ** 2) ** 0.5
                rows[label] = {"mean": mean, "sd": sd, "low": low, "high": high}
        table = pd.DataFrame.from_dict(rows, orient="index")
        table["ess"] = self.ess
        return table

    def diagnostics(self) -> dict[str, Any]:
        """Return effective size, tail of the weights, free energy and losses."""
        return {
            "ess": self.ess,
            "khat": self.khat,
            "log_z": self.log_z,
            "complexity": self.complexity,
            "killed": self.killed,
            "stages": len(self.stages),
            "status": self.status,
        }

    def _copy(self, status: Status) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.status = status
        return new

    def _attributes(self) -> dict[str, str | int | float]:
        import pyro_geo

        q = self._positions()
        name = getattr(self.model.model, "__name__", type(self.model.model).__name__)
        return {
            "model": name,
            "kernel": "GibbsPosterior",
            "seed": self.run_seed,
            "num_particles": q.shape[0],
            "num_draws": q.shape[1],
            "beta": self.beta,
            "log_z": self.log_z,
            "stages": len(self.stages),
            "ess": round(self.ess, 2),
            "killed": self.killed,
            "status": self.status,
            "dim": self.target.dim,
            "dtype": str(q.dtype).removeprefix("torch."),
            "interrupted": int(self.interrupted),
            **self._facts,
            "inference_library": "pyro_geo",
            "inference_library_version": pyro_geo.__version__,
            "torch_version": torch.__version__,
            "notes": "\n".join(self.notes),
        }
