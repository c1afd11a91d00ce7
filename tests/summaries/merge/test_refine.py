"""The refinement, on objectives in closed form."""

import pytest
import torch

from pyro_geo.errors import NonFiniteParameterError
from pyro_geo.summaries.merge._refine import refine

TOP = torch.tensor([3.0, -2.0], dtype=torch.float64)


class Overflowing:
    """A bowl whose curvature is said to be too small, beside a place of overflow."""

    def __init__(self, share: float) -> None:
        self.share = share

    def value(self, z: torch.Tensor) -> float:
        if float(z.abs().max()) > 10:
            raise NonFiniteParameterError("a network gives numbers that are not finite")
        return float((z - TOP).square().sum())

    def derivatives(self, z):
        eye = torch.eye(2, dtype=torch.float64)
        return 2 * (z - TOP), 2 * self.share * eye


@pytest.mark.parametrize("share", [1.0, 0.02])
def test_a_step_into_overflow_is_not_taken(share):
    objective = Overflowing(share)
    start = torch.zeros(2, dtype=torch.float64)
    path = list(refine(objective, start, 10))  # pyright: ignore[reportArgumentType]
    z, history = path[-1][0], [value for _, value in path]
    assert history == sorted(history, reverse=True)
    assert history[-1] < 0.05 * history[0]
    torch.testing.assert_close(objective.value(z), history[-1])


def test_a_start_that_overflows_is_an_error():
    start = torch.full((2,), 20.0, dtype=torch.float64)
    with pytest.raises(NonFiniteParameterError):
        list(refine(Overflowing(1.0), start, 3))  # pyright: ignore[reportArgumentType]
