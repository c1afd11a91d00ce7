"""The weights of a result's draws, and draws of equal weight made with them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.density import Target
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.ops.random import substream
from pyro_geo.ops.weights import ess, khat, systematic
from pyro_geo.results.draws import Draws, MemoryDraws

__all__ = ["Weights", "equal_rows"]

_STREAM = 4  # of the run's seed


def equal_rows(log_weights: Tensor, seed: int, num_draws: int | None = None) -> Tensor:
    """Choose draws so that each counts the same, by systematic resampling.

    Args:
        log_weights: of all draws, `(total,)`, not normalised.
        seed: the choice is a function of it; torch's global state is left alone.
        num_draws: how many to choose; as many as there are if None.

    Returns:
        Indices of the draws, `(num_draws,)`, sorted: copies of one draw stand side by
        side.

    Example:
        >>> weights = torch.tensor([0.5, 0.0, 0.5]).log()
        >>> equal_rows(weights, seed=1, num_draws=4).tolist()
        [0, 0, 2, 2]
    """
    generator = torch.Generator().manual_seed(substream(seed, _STREAM))
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    return systematic(log_weights, uniform.to(log_weights.device), num_draws)


class Weights:
    """Weights of draws, as logarithms.

    Args:
        log_weights: `(chains, draws)`, not normalised.
        draws: that they belong to.

    Raises:
        ShapeError: they do not fit the draws.
    """

    def __init__(self, log_weights: Tensor, draws: Draws) -> None:
        size = (draws.num_chains, draws.num_draws)
        check_shape("log_weights", log_weights.shape, size)
        self.log_weights = log_weights

    @property
    def flat(self) -> Tensor:
        """Logarithms of the weights, `(chains * draws,)`."""
        return self.log_weights.flatten()

    @property
    def array(self) -> np.ndarray:
        """Logarithms of the weights for ArviZ, `(chains, draws)`."""
        return to_numpy(self.log_weights)

    @property
    def log_z(self) -> float:
        """Logarithm of their sum."""
        return float(self.flat.logsumexp(0))

    @property
    def ess(self) -> float:
        """Effective number of chains, the draws of one chain taken together."""
        # draws of a chain depend on each other, so that they count as one
        return float(ess(self.log_weights.logsumexp(1)))

    @property
    def khat(self) -> float:
        """Tail of the chains' weights; NaN for fewer than 30 chains."""
        return khat(self.log_weights.logsumexp(1))

    @property
    def facts(self) -> dict[str, float]:
        """Effective size and logarithm of the sum, as attributes."""
        return {"ess": self.ess, "log_z": self.log_z}

    def drawn(self, num_draws: int) -> Tensor:
        """Draw with replacement by torch's global generator, `(num_draws,)` indices."""
        return self.flat.softmax(0).multinomial(num_draws, replacement=True)

    def equal(self, target: Target, draws: Draws, seed: int) -> MemoryDraws:
        """Resample to one chain of draws of equal weight.

        Args:
            target: the density.
            draws: that the weights belong to.
            seed: what is chosen is a function of it.

        Returns:
            As many draws as there are.
        """
        rows = equal_rows(self.flat, seed)

        # statistics follow their draws; all become one chain
        def chosen(x: Tensor) -> Tensor:
            return x.flatten(0, 1)[rows.to(x.device)].unsqueeze(0)

        stats = {name: chosen(value) for name, value in draws.stats().items()}
        return MemoryDraws(target, chosen(draws.positions()), stats)
