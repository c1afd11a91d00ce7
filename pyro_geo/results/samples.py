"""Draws with their weights and the facts of the run that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_geo._deprecated import positional
from pyro_geo.checks import check, check_count
from pyro_geo.density import Target
from pyro_geo.errors import ModelError, ShapeError, UnsupportedError
from pyro_geo.io.names import SAMPLE_DIMS
from pyro_geo.results._facts import Facts
from pyro_geo.results._picking import pick, pick_rows
from pyro_geo.results._tables import describe
from pyro_geo.results.draws import Draws
from pyro_geo.results.predictive import PredictiveModel
from pyro_geo.results.weights import Weights, equal_rows

__all__ = ["Samples"]


class Samples(Facts):
    """Draws, and weights where the method has any.

    :class:`~pyro_geo.results.PosteriorDraws` adds tables, predictions and ArviZ, and
    describes the arguments.
    """

    _target: Target | None = None
    _draws: Draws | None = None
    _weights: Weights | None = None
    superchains: int | None = None
    run_seed: int = 0

    def __init__(
        self,
        target: Target | None = None,
        draws: Draws | None = None,
        *,
        log_weights: Tensor | None = None,
        sample_dims: Sequence[str] = SAMPLE_DIMS,
        attributes: Mapping[str, str | int | float] | None = None,
        notes: Sequence[str] = (),
        citations: Sequence[str] = (),
        chain_name: str = "chain",
        superchains: int | None = None,
        seed: int = 0,
        predictive: PredictiveModel | None = None,
    ) -> None:
        super().__init__(attributes, notes, citations)
        self.sample_dims = tuple(sample_dims)
        expected = "('chain', 'draw', ...)"
        leads = self.sample_dims[:2] == SAMPLE_DIMS
        check(leads, "sample_dims", self.sample_dims, expected, error=ShapeError)
        self._target, self._draws = target, draws
        self._weights = None
        if log_weights is not None:
            self._weights = Weights(log_weights, self._finished())
        self.chain_name = chain_name
        self.superchains = superchains
        self.run_seed = seed
        self._predictive = predictive

    # -- facts ----------------------------------------------------------------------

    @property
    def _described(self) -> str:
        if self._draws is None:
            return "no draws yet"
        return describe(self._draws, self.chain_name, self._weights is not None)

    @property
    def _settings(self) -> dict[str, object]:
        """What there is to show before a run."""
        return {"draws": "none yet"}

    # -- draws ----------------------------------------------------------------------

    @property
    def target(self) -> Target:
        """Density that was sampled."""
        self._finished()
        assert self._target is not None
        return self._target

    @property
    def positions(self) -> Tensor:
        """Draws in unconstrained space, `(chains, draws, dim)`."""
        return self._finished().positions()

    @property
    def stats(self) -> dict[str, Tensor]:
        """Statistics of every draw, name to `(chains, draws)`."""
        return dict(self._finished().stats())

    def get_samples(
        self,
        num_samples: int | None = None,
        group_by_chain: bool = False,
        *,
        resample: bool = True,
    ) -> dict[str, Tensor]:
        """Return draws in the space the model sees.

        Draws with weights are resampled to equal ones: as many as there are, by the
        run's seed, as one chain.

        Args:
            num_samples: draw this many at random, with replacement and with the
                weights, instead of all; uses torch's global generator, as Pyro does.
                With `group_by_chain` this many of each chain, the same of all.
            group_by_chain: keep the chains apart.
            resample: False gives draws with weights as they are, in the order of
                :attr:`log_weights`. Draws without weights are the same either way.

        Returns:
            Site to `(chains * draws, *shape)`, or `(chains, draws, *shape)`: latent
            sites, those that a reparametrisation made others of included. Where a run
            kept some sites only, these.
        """
        draws, weights = self._finished(), self._weights if resample else None
        check_count("num_samples", num_samples, 0)
        good = num_samples is None or resample or self._weights is None
        check(good, "num_samples", num_samples, "None beside resample=False")
        names = self._names(draws)
        return pick(draws, names, weights, num_samples, group_by_chain, self.run_seed)

    def _names(self, draws: Draws) -> list[str]:
        """Latent sites of the user's model, and what they are computed from."""
        names, moved = list(draws.shapes), self.target.reparametrised
        known = set(draws.computed) if moved else ()
        return names + [name for name in moved if name in known and name not in names]

    # -- weights --------------------------------------------------------------------

    @property
    def log_weights(self) -> Tensor | None:
        """Logarithms of the weights, `(chains * draws,)`; None where all are equal."""
        return None if self._weights is None else self._weights.flat

    @property
    def log_z(self) -> float:
        """Logarithm of the sum of the weights, which can estimate the normaliser."""
        return self._weighted().log_z

    @property
    def ess(self) -> float:
        """Effective number of chains by their weights."""
        return self._weighted().ess

    @property
    def khat(self) -> float:
        """Tail of the chains' weights; unreliable above 0.7, NaN for fewer than 30."""
        return self._weighted().khat

    @positional("seed")
    def resample(
        self, num_draws: int | None = None, *, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draw with the weights, systematically: draws of equal weight.

        Args:
            num_draws: how many; as many as there are if None.
            seed: any integer, the run's own if None; torch's global state is left
                alone.

        Returns:
            Site to `(num_draws, *shape)`; copies of one draw stand side by side.
        """
        draws = self._finished()
        weights = self.log_weights
        if weights is None:  # equal weights resample each draw once
            weights = torch.zeros(draws.num_chains * draws.num_draws)
        rows = equal_rows(weights, self._seed(seed), num_draws)
        return pick_rows(draws, self._names(draws), rows)

    # -- inside ---------------------------------------------------------------------

    def _finished(self) -> Draws:
        if self._draws is None:
            raise ModelError(
                "there are no draws",
                where=type(self).__name__,
                found="no finished block",
                expected="a run",
                todo="Call run first.",
            )
        return self._draws

    def _weighted(self) -> Weights:
        if self._weights is None:
            raise UnsupportedError(
                "the draws have no weights",
                where=type(self).__name__,
                found="draws of equal weight",
                expected="weighted particles, of GibbsPosterior say",
                todo="Ask summary() for effective sizes and R-hat.",
            )
        return self._weights

    def _equal_draws(self) -> Draws:
        """The draws, resampled to one chain of equal weights where they have others."""
        if self._weights is None:
            return self._finished()
        return self._weights.equal(self.target, self._finished(), self.run_seed)

    def _seed(self, seed: int | None) -> int:
        """Take the run's own seed for predictive draws where none is given."""
        return int(self.run_seed if seed is None else seed)
