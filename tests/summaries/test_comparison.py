"""Tables and pictures of several posteriors."""

import numpy as np
import pytest
import torch
from torch.distributions import constraints

from pyro_geo.density import Layout
from pyro_geo.errors import ConfigurationError
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.summaries import GaussianPosterior, compare, overlays

LAYOUT = Layout.from_supports(
    {
        "inside": (
            torch.Size([2]),
            constraints.interval(0.0, torch.tensor([1.0, 4.0])),
        ),
        "mix": (torch.Size([3]), constraints.simplex),
        "scale": (torch.Size([]), constraints.positive),
    }
)


def posterior(shift: float, scale: float = 0.5) -> GaussianPosterior:
    loc = torch.full((5,), shift, dtype=torch.float64)
    return GaussianPosterior(loc, Diagonal(torch.full((5,), 1 / scale)), LAYOUT)


def test_a_table_holds_divergences_errors_and_widths():
    one = posterior(0.0)
    table = compare(
        one, {"same": one, "moved": posterior(1.0), "sure": posterior(0, 0.25)}
    )
    assert table.loc["same"].tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    # five coordinates moved by two deviations each
    assert table.loc["moved"].tolist() == pytest.approx([10.0, 2.0, 1.0], rel=1e-6)
    divergence = 5 * (4 - 1 - np.log(4)) / 2
    assert table.loc["sure"].tolist() == pytest.approx([divergence, 0.0, 0.5], rel=1e-6)


def test_curves_are_densities_of_what_the_model_sees():
    curves = overlays({"one": posterior(0.0), "two": posterior(0.3)})
    assert [c.x_label for c in curves[:3]] == [
        "inside[0]",
        "mix[0], unconstrained",
        "scale",
    ]
    assert len(curves) == 5
    for picture in curves:
        assert list(picture.lines) == ["one", "two"]
        for line in picture.lines.values():
            # all but the mass beyond four deviations; the trapezoid rule is close
            assert np.trapezoid(line, picture.x) == pytest.approx(1, abs=2e-3)
    second = next(c for c in curves if c.x_label == "inside[1]")
    assert max(second.x) > 3


def test_entries_of_one_event_are_densities_too():
    support = constraints.independent(constraints.positive, 1)
    layout = Layout.from_supports({"rates": (torch.Size([2]), support)})
    one = GaussianPosterior(torch.zeros(2), Diagonal(torch.full((2,), 4.0)), layout)
    picture = overlays({"one": one})[1]
    assert picture.x_label == "rates[1]"
    assert np.trapezoid(picture.lines["one"], picture.x) == pytest.approx(1, abs=2e-3)


def test_the_scalars_that_differ_most_come_first():
    one = posterior(0.0)
    loc = one.loc.clone()
    loc[1] = 2.0
    two = GaussianPosterior(loc, one.precision, LAYOUT)
    (picture,) = overlays({"one": one, "two": two}, most=1)
    assert picture.x_label == "inside[1]"
    with pytest.raises(ConfigurationError, match="argument posteriors"):
        overlays({})
