"""Where instances begin, and where they begin again."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.optim.cem.normal import capped_std, truncated_normal

__all__ = ["INITS", "Init", "Start", "keep_inside"]

Init = Literal["random", "coloured"]
INITS: tuple[Init, ...] = ("random", "coloured")
_MARGIN = 1e-6  # of the range: a mean on a bound would have no spread left


class Start(NamedTuple):
    """The distribution that centres of instances are drawn from.

    Attributes:
        mean: its own centre, `(problems, dim)`.
        std: standard deviations, `(problems, dim)`.
        lower: bounds, `(problems, dim)` or `(1, dim)`.
        upper: bounds.
        trunc: where its tails are cut.
        steps: steps of time that a coloured offset is the same in; 0 for offsets that
            are independent in every coordinate.
    """

    mean: Tensor
    std: Tensor
    lower: Tensor
    upper: Tensor
    trunc: float
    steps: int

    def centres(self, problem: Tensor, generator: torch.Generator) -> Tensor:
        """Draw centres.

        Args:
            problem: of each centre, `(searches,)`.
            generator: source of randomness.

        Returns:
            Centres inside the box, `(searches, dim)`.
        """
        mean = self.mean[problem]
        repeats = max(1, self.steps)
        z = mean.new_empty(len(problem), mean.shape[-1] // repeats)
        z = truncated_normal(z, self.trunc, generator).repeat(1, repeats)
        lower, upper = self.lower, self.upper
        if len(lower) > 1:
            lower, upper = lower[problem], upper[problem]
        variance = self.std[problem].square()
        std = capped_std(mean, variance, lower, upper, self.trunc)
        return keep_inside(torch.addcmul(mean, std, z), lower, upper)


def keep_inside(mean: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Move centres a millionth of the range away from the bounds they are at.

    Args:
        mean: centres.
        lower: lower bounds, which may be infinite.
        upper: upper bounds.

    Returns:
        The centres, strictly inside the box.
    """
    span = upper - lower
    margin = torch.where(span.isfinite(), _MARGIN * span, 0.0)
    return torch.minimum(torch.maximum(mean, lower + margin), upper - margin)
