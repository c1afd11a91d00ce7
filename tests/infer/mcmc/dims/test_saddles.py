"""Draws and anchors at saddles: left where the polish can, named where not."""

import warnings
from typing import Any

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import (
    AnchorNotConvergedWarning,
    ConvergenceWarning,
    PyroGeoWarning,
)
from pyro_geo.infer import DIMS, MCMC, sample_minima
from pyro_geo.infer.mcmc.dims.anchors import examine_anchors, train_anchors
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.polishing import leave_saddles_lanes
from tests.optim.test_saddles import (
    curvature,
    factors,
    linear_network,
    quartic,
    shallow,
    well,
)

BOTH = [torch.float32, torch.float64]
# particles that hardly move: a draw is what the polish makes of its anchor
AT_REST: dict[str, Any] = {
    "velocity": "fixed_energy",
    "initial_energy": 1e-12,
    "explore_time": 0.1,
    "settle_time": 0.5,
}


def run(loss, dim, num_samples=16, num_chains=1, *, dtype=torch.float64, **options):
    batch = options.pop("chain_batch_size", None)
    target = Target.from_potential(loss, dim, dtype=dtype)
    kernel = DIMS(target, **({"alpha": 0.0, "num_lanes": 16} | options))
    fit = MCMC(
        kernel,
        num_samples,
        num_chains=num_chains,
        seed=1,
        chain_batch_size=batch,
        progress_bar=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        return fit.run()


# loss, dimension, loss of the minimum
LOSSES = {
    "well": (well, 2, 0.0),
    "shallow": (shallow, 2, 0.0),
    "factors": (factors, 12, 0.04),
    "linear network": (linear_network, 8, 0.0),
    "quartic": (quartic, 3, -((20 / 3) ** 2) + 0.1 * (20 / 3) ** 3),
}


QUICK = ("well", "quartic")
CASES = [
    *(
        pytest.param(
            name, torch.float64, marks=[] if name in QUICK else pytest.mark.slow
        )
        for name in LOSSES
    ),
    pytest.param("well", torch.float32, marks=pytest.mark.slow),
    pytest.param("quartic", torch.float32, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_draws_that_rest_at_a_saddle_go_on_to_a_minimum(name, dtype):
    """All settle at the saddle they start from, on losses whose minima are known."""
    loss, dim, least = LOSSES[name]
    fit = run(loss, dim, anchors=torch.zeros(1, dim), dtype=dtype, **AT_REST)
    assert bool(fit.stats["converged"].all())
    assert not bool(fit.stats["saddle"].any())
    assert bool((fit.stats["loss_settled"] > least + 0.3).all())
    assert bool((fit.stats["loss"] < least + 0.02).all())
    q = fit.positions[0]
    assert bool((curvature(loss, q) > -0.011).all())
    # ways down are drawn, not all the same
    assert float(q.std(0).max()) > 0.1


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("well", "factors")]


@pytest.mark.parametrize("name", ["quartic", *SLOW])
@pytest.mark.slow
def test_no_converged_draw_is_left_beside_a_saddle(name):
    """Ordinary trajectories, of which some rest or pass near saddles."""
    loss, dim, least = LOSSES[name]
    fit = run(loss, dim, 60, anchors=torch.zeros(1, dim), velocity="isotropic")
    kept = fit.stats["converged"].flatten()
    assert int(kept.sum()) > 0
    assert bool((fit.stats["loss"].flatten()[kept] < least + 0.02).all())
    assert bool((curvature(loss, fit.positions[0][kept]) > -0.011).all())


@pytest.mark.parametrize("options", [{"polish": False}, {"polish_max_steps": 0}])
def test_draws_that_may_not_move_are_called_saddles(options):
    fit = run(well, 2, anchors=torch.zeros(1, 2), **AT_REST, **options)
    assert bool(fit.stats["saddle"].all())
    assert not bool(fit.stats["converged"].any())
    assert float(fit.positions.abs().max()) < 1e-3
    (note,) = [text for text in fit.notes if "trajectories ended at saddles" in text]
    assert "found 16 of 16 draws" in note
    # nothing else is wrong with them: they are not counted twice
    assert not any("did not come to rest" in text for text in fit.notes)


def test_saddles_are_warned_of():
    target = Target.from_potential(well, 2, dtype=torch.float64)
    options = {"alpha": 0.0, "anchors": torch.zeros(1, 2), "polish": False, **AT_REST}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample_minima(target, num_samples=8, seed=1, **options)
    texts = [str(warning.message) for warning in caught]
    kinds = [warning.category for warning in caught]
    assert AnchorNotConvergedWarning in kinds
    assert ConvergenceWarning in kinds
    assert any("anchors 0): found 1 of 1 where" in text for text in texts)
    assert any("ended at saddles" in t and "8 of 8 draws" in t for t in texts)


@pytest.mark.slow
def test_the_search_is_reproducible_and_groups_change_no_bit():
    """Draws that leave a saddle do so by their chain's own numbers."""
    options = {"anchors": torch.zeros(1, 8), **AT_REST}
    together, apart = (
        run(linear_network, 8, 6, 2, chain_batch_size=size, **options)
        for size in (None, 1)
    )
    assert torch.equal(together.positions, apart.positions)
    assert not torch.equal(together.positions[0], together.positions[1])


@pytest.mark.parametrize("dtype", BOTH)
def test_an_anchor_trained_from_a_symmetric_start_is_a_minimum(dtype):
    """At zero weights a linear network has no gradient: training alone stays there."""
    target = Target.from_potential(linear_network, 8, dtype=dtype)
    start = torch.zeros(2, 8, dtype=dtype)
    options = DIMSOptions(anchor_steps=50)
    anchors = train_anchors(target, Objective(), start, options, 2)
    assert bool((anchors.loss < 1e-2).all())
    assert bool((curvature(linear_network, anchors.q) > -0.011).all())
    assert anchors.warnings(1e-2) == []
    assert bool((anchors.predicted < 1e-3).all())


def test_a_given_anchor_at_a_saddle_stays_and_is_named():
    target = Target.from_potential(well, 2, dtype=torch.float64)
    q = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]).double()
    anchors = examine_anchors(target, Objective(), q, DIMSOptions(), 3)
    assert torch.equal(anchors.q, q)
    assert anchors.saddle.tolist() == [False, True, False]
    (warning,) = anchors.warnings(1e-2)
    assert "anchors 1)" in str(warning)
    assert "saddles" in str(warning)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"polish": False},
        # strong curvature slows trajectories, so that they rest later
        {"alpha": 1.0, "settle_time": 60.0},
    ],
)
def test_a_bent_valley_of_minima_has_no_saddles(options):
    """Not even where draws rest on its slopes, with curvature down along it."""

    def valley(q):
        return 4 * (q[0] * q[1] - 1) ** 2 + (q[2] * q[0] - 1) ** 2

    # an anchor off the floor, so that every draw is searched
    start = torch.full((1, 3), 1.2)
    fit = run(valley, 3, 60, anchors=start, velocity="isotropic", **options)
    assert not bool(fit.stats["saddle"].any())
    assert float(fit.stats["converged"].double().mean()) > 0.5


@pytest.mark.slow
def test_draws_at_the_level_of_a_minimum_are_not_searched(monkeypatch):
    """A ring of minima: the search costs nothing, as its anchor has been searched."""
    searched = []
    module = "pyro_geo.infer.mcmc.dims.trajectories"
    original = leave_saddles_lanes

    def spy(target, objective, state, *args, **options):
        searched.append(int(options["active"].sum()))
        return original(target, objective, state, *args, **options)

    monkeypatch.setattr(f"{module}.leave_saddles_lanes", spy)

    def ring(q):
        return 4 * (q.square().sum() - 1) ** 2

    options = {"velocity": "isotropic", "anchors": torch.tensor([[1.0, 0.0]])}
    fit = run(ring, 2, 30, **options)
    assert bool(fit.stats["converged"].any())
    assert sum(searched) == 0
    # from the hill in the middle all are, as it is no minimum
    fit = run(ring, 2, 30, velocity="isotropic", anchors=torch.zeros(1, 2))
    assert sum(searched) == int(fit.stats["converged"].sum()) > 0
