"""What draws say mode by mode, where chains started in known modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.arviz import quiet
from pyro_geo.checks import check
from pyro_geo.engine.mode_starts import Modes, ModeStarts
from pyro_geo.io.modes import ModeMarks, ModeTally, tally_modes
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.results import PosteriorDraws

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DrawsByMode"]


class DrawsByMode(PosteriorDraws):
    """Draws of chains that may have started in known modes.

    Attributes:
        modes: that the chains started in; None where the user gave none.
    """

    modes: Modes | None = None
    _starts: ModeStarts | None = None

    def mode_table(self) -> pd.DataFrame:
        """Tabulate the modes that chains started in.

        Returns:
            One row for each mode: its weight, estimated before the run, the share of
            draws in it, how many chains started there, how many of those left, how
            many made draws there, the mode that it is a copy of, and the largest R-hat
            of the chains that were there alone (NaN for fewer than two). Where a run
            did not start in modes it is a
            :class:`~pyro_geo.errors.ConfigurationError`.
        """
        import pandas as pd

        tally = self._tally()
        table = pd.DataFrame(tally.rows).set_index("mode")
        alone = tally.visits & (tally.visits.sum(1, keepdims=True) == 1)
        table["r_hat"] = [self._r_hat_of(np.flatnonzero(here)) for here in alone.T]
        return table

    def weighted_by_mode(self) -> PosteriorDraws:
        r"""Weigh draws so that modes which no chain connects count by their weights.

        The chains that started in a mode say how the posterior is there, and nothing
        about its mass. With :math:`S` a set of modes that chains connect, :math:`w_S`
        the sum of their weights (see :attr:`pyro_geo.infer.ModeSet.weights`) and
        :math:`n_S` the number of draws in them, each of these draws has the weight
        :math:`w_S / n_S`; within a set the chains themselves give the shares. Draws in
        no mode belong to the set in which their chain made most of its draws.

        The weights are estimates, and modes that were not found have none: the result
        is no better than the search and these estimates. Its notes say so.

        Returns:
            The same draws with weights.

        Example:
            >>> import warnings
            >>> from pyro_geo import Target
            >>> from pyro_geo.infer import HMC, MCMC, find_modes
            >>> def potential(q):
            ...     return 50 * ((q[0].abs() - 1) ** 2 + 0.02 * (q[0] > 0))
            >>> target = Target.from_potential(potential, 1)
            >>> modes = find_modes(target, num_instances=2, pop_size=100)
            >>> options = {"initial_params": modes, "progress_bar": False}
            >>> with warnings.catch_warnings():
            ...     warnings.simplefilter("ignore")  # the modes are not joined
            ...     fit = MCMC(HMC(target), 20, 20, 4, seed=1, **options).run()
            >>> weights = fit.weighted_by_mode().log_weights.exp()
            >>> left = float(weights[fit.stats["mode"].flatten() == 0].sum())
            >>> abs(left - 0.731) < 0.02  # e / (1 + e)
            True
        """
        tally = self._tally()
        assert self.modes is not None
        assert self._starts is not None
        weights = self.modes.log_weights.double().exp()
        # of each mode the number of its set; modes without draws are in none
        sets = torch.full((len(weights),), -1)
        for number, members in enumerate(tally.sets):
            sets[members] = number
        labels = self.stats["mode"].cpu()
        within = torch.where(labels >= 0, sets[labels.clamp(min=0)], -1)
        # the set of most draws of each chain, else the one it started in
        counts = torch.stack([(within == s).sum(1) for s in range(len(tally.sets))], 1)
        usual = counts.argmax(1)
        within = torch.where(within >= 0, within, usual[:, None])
        mass = torch.stack([weights[members].sum() for members in tally.sets])
        drawn = torch.bincount(within.flatten(), minlength=len(mass))
        log_weights = (mass.log() - mass.sum().log() - drawn.log())[within]
        return PosteriorDraws(
            self.target,
            self._finished(),
            log_weights=log_weights.to(self.target.device),
            attributes=self.attributes,
            notes=[*self.notes, *_caveats(tally, weights, sets)],
            citations=self.citations,
            chain_name=self.chain_name,
            seed=self.run_seed,
        )

    def _r_hat_of(self, chains: np.ndarray) -> float:
        """Largest R-hat of some chains; NaN where they are too few."""
        if len(chains) < 2 or self._finished().num_draws < 4:
            return float("nan")
        rows = [
            to_numpy(x[chains.tolist()].reshape(len(chains), x.shape[1], -1))
            for x in self.get_samples(group_by_chain=True).values()
        ]
        with quiet():
            import arviz

            columns = np.concatenate(rows, 2).astype(float).transpose(2, 0, 1)
            found = [float(np.asarray(arviz.rhat(column))) for column in columns]
        # a constant has none
        return float(np.nanmax(found)) if np.isfinite(found).any() else float("nan")

    def _mode_marks(self) -> ModeMarks | None:
        starts = self._starts
        if starts is None or starts.first is None:
            return None

        def values(q: Tensor) -> dict[str, np.ndarray]:
            sites = self.target.constrain(q)
            return {name: to_numpy(x) for name, x in sites.items()}

        q = starts.modes.q.to(starts.first)
        return ModeMarks(values(q), values(starts.first))

    def _tally(self) -> ModeTally:
        found = "a run that did not start in modes"
        expected = "a set of modes, as find_modes(model) returns"
        check(self._starts is not None, "initial_params", found, expected)
        assert self._starts is not None
        return tally_modes(self.stats["mode"].cpu().numpy(), self._starts.known)


def _caveats(tally: ModeTally, weights: Tensor, sets: Tensor) -> list[str]:
    notes = [
        f"Draws are weighted by the estimated mass of {len(tally.sets)} sets of modes "
        "that no chain connects: as good as these estimates, and without any mode that "
        "the search has missed."
    ]
    without = float(weights[sets < 0].sum())
    if without > 0:
        notes.append(f"Modes of weight {without:.3g} in all have no draws.")
    return notes
