"""DiMS through the batched runner: exactness, statistics, errors, warnings, lanes."""

import dataclasses
import inspect
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from pyro.infer.mcmc.util import initialize_model

from pyro_geo.density import Target
from pyro_geo.engine import Noise
from pyro_geo.engine.schedule import warm_up
from pyro_geo.errors import (
    AnchorNotConvergedWarning,
    ConfigurationError,
    ConvergenceWarning,
    DegenerateEnsembleWarning,
    DivergenceWarning,
    EnergyLedgerWarning,
    FallbackWarning,
    MissingCurvatureError,
    NonFiniteLossError,
    NotPositiveDefiniteError,
    ObjectiveShapeError,
    PyroGeoWarning,
    ShapeError,
    UnboundedMinimumWarning,
    UnsupportedModelError,
)
from pyro_geo.infer import DIMS, MCMC, sample_minima
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.trajectories import STATS, run_trajectories
from tests.cases import effects, numbers, regression
from tests.infer.mcmc.dims.test_anchors import POINTS, gallery, labels, logistic

X, Y = numbers(6, 10), numbers(6, seed=1)
MINIMUM = torch.linalg.pinv(X) @ Y  # the fit of minimum norm
NULL = torch.linalg.svd(X).Vh[6:].mT  # (10, 4), orthonormal columns


@pytest.fixture(scope="module")
def plane():
    """Regression on 6 rows with 10 weights: the minima form a plane."""
    return Target.from_model(regression, X, Y, dtype=torch.float64)


def run(model, num_samples=12, num_chains=1, *, seed=0, **options):
    # one number of lanes, so that the shared target is traced once
    kernel = DIMS(model, **({"alpha": 0.0, "num_lanes": 8} | options))
    fit = MCMC(
        kernel, num_samples, num_chains=num_chains, seed=seed, progress_bar=False
    )
    return fit.run()


def quietly(*args, **options):
    """Run where some warning is bound to come that the test is not about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        return run(*args, **options)


@pytest.fixture(scope="module")
def fit(plane):
    return run(plane, 40, 2, alpha=1.0, explore_time=1.0)


# -- exactness ----------------------------------------------------------------------


@pytest.mark.slow
def test_every_draw_is_a_perfect_fit_and_they_spread_over_the_plane(plane):
    fit = run(plane, 40, polish_tolerance=1e-16)
    w = fit.get_samples()["w"]
    residual = (w @ X.T - Y).abs().max()
    assert float(residual) < 1e-7
    spread = ((w - MINIMUM) @ NULL).std(0)
    assert bool((spread > 0.2).all())
    across = (w - MINIMUM) @ (torch.eye(10).double() - NULL @ NULL.T)
    assert float(across.abs().max()) < 1e-7
    assert bool(fit.stats["converged"].all())


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_way_along_the_plane_is_the_closed_form(plane, alpha):
    """The null space sees friction alone: the way is P v0 (1 - exp(-mu T)) / mu."""
    start = (MINIMUM + NULL @ numbers(4, seed=2))[None]
    mu, time, settle, settle_mu = 0.7, 0.8, 1.5, 3.0
    drawn = []

    def law(anchor, n, generator):
        drawn.append(torch.randn(n, 10, generator=generator, dtype=torch.float64))
        return drawn[-1]

    fit = quietly(
        plane,
        8,
        anchors=start,
        alpha=alpha,
        velocity=law,
        friction=mu,
        friction_law="linear",
        explore_time=time,
        settle_time=settle,
        settle_friction=settle_mu,
        k_stop=0.0,
        step_tol=0.02,
        energy_atol=1e-4,
        polish_tolerance=1e-12,
    )
    decay = torch.tensor(-mu * time, dtype=torch.float64).exp()
    later = torch.tensor(-settle_mu * settle, dtype=torch.float64).exp()
    reach = (1 - decay) / mu + decay * (1 - later) / settle_mu
    moved = (fit.positions[0] - start) @ NULL
    torch.testing.assert_close(moved, drawn[0] @ NULL * reach, rtol=1e-6, atol=1e-7)


def test_the_joint_loss_is_pyros_potential():
    y = 2 * numbers(4, seed=2)
    with pyro.validation_enabled(False):
        potential = initialize_model(effects, (y,))[1]
    target = Target.from_model(effects, y, dtype=torch.float64)
    q = numbers(5, target.dim, seed=3)
    found = Objective("joint").on(target)(q)
    for row, value in zip(q, found, strict=True):
        expected = potential(target.layout.unflatten(row))
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_the_other_losses(plane):
    q = numbers(3, 10, seed=3)
    prior = -dist.Normal(0.0, 1.0).log_prob(q).sum(-1)
    nll = -dist.Normal(q @ X.T, 0.5).log_prob(Y).sum(-1)
    torch.testing.assert_close(Objective("nll").on(plane)(q), nll)
    torch.testing.assert_close(Objective("nll", 0.3).on(plane)(q), nll + 0.3 * prior)
    own = Objective(lambda z: z["w"].square().sum())
    torch.testing.assert_close(own.on(plane)(q), q.square().sum(-1))


# -- statistics ---------------------------------------------------------------------


def test_the_statistics_are_those_documented(fit):
    assert tuple(fit.stats) == STATS
    assert len(STATS) == 23
    stats = fit.stats
    for name in ("n_steps", "n_rejected", "n_evals"):
        assert stats[name].dtype == torch.long
    for name in ("converged", "saddle", "diverging"):
        assert stats[name].dtype == torch.bool


def test_the_statistics_mean_what_they_say(fit, plane):
    stats, q = fit.stats, fit.positions

    def loss(x):
        return -dist.Normal(x @ X.T, 0.5).log_prob(Y).sum(-1)

    torch.testing.assert_close(stats["loss"], loss(q))
    assert torch.equal(stats["lp"], -stats["loss"])
    slope = (q @ X.T - Y) @ X / 0.25
    torch.testing.assert_close(
        stats["grad_norm"], slope.norm(dim=-1), rtol=1e-6, atol=1e-9
    )
    assert bool((stats["loss_anchor"] == stats["loss_anchor"][:, :1]).all())
    (warm,) = warm_up(
        fit.kernel,
        lambda: plane,
        range(2),
        num_samples=40,
        num_chains=2,
        warmup_steps=0,
        noise=Noise(0, region=1),
    )
    anchors = warm.state.anchors.q
    torch.testing.assert_close(stats["loss_anchor"][:, 0], loss(anchors))
    torch.testing.assert_close(
        stats["displacement"], (q - anchors[:, None]).norm(dim=-1)
    )
    # the ledger: what was there, minus what friction took, is what is left
    balance = stats["energy"] - stats["energy_initial"] + stats["energy_dissipated"]
    kinetic = stats["energy_initial"] - stats["loss_anchor"]
    scale = torch.maximum(kinetic, stats["energy_dissipated"])
    torch.testing.assert_close(stats["energy_error"], balance / scale)
    torch.testing.assert_close(
        stats["kinetic"], stats["energy"] - stats["loss_settled"], atol=1e-9, rtol=1e-9
    )
    assert bool((stats["energy_error"].abs() < 0.3).all())
    assert bool((stats["energy_dissipated"] > 0).all())
    assert bool((stats["peak_loss"] >= stats["loss_explored"]).all())
    assert bool((stats["loss_explored"] >= stats["loss_settled"]).all())
    assert bool((stats["loss_settled"] + 1e-9 >= stats["loss"]).all())
    way = stats["path_length"] + stats["polish_displacement"]
    assert bool((way >= stats["displacement"]).all())
    assert bool((stats["integration_time"] <= 7.0 + 1e-9).all())
    torch.testing.assert_close(
        stats["step_size"] * stats["n_steps"], stats["integration_time"]
    )
    flow_evals = 2 * (stats["n_steps"] + stats["n_rejected"])
    assert bool((stats["n_evals"] > flow_evals).all())


def test_without_polish_draws_are_the_ends_of_the_flow(plane):
    fit = quietly(plane, 4, polish=False)
    assert torch.equal(fit.stats["loss"], fit.stats["loss_settled"])
    assert not bool(fit.stats["polish_displacement"].any())


def test_no_warning_on_an_ordinary_run_and_all_draws_there(fit):
    assert fit.notes == []
    assert fit.positions.shape == (2, 40, 10)
    assert bool(fit.stats["converged"].all())


# -- errors -------------------------------------------------------------------------


def discrete():
    k = pyro.sample("k", dist.Bernoulli(0.5))
    pyro.sample("y", dist.Normal(k, 1.0), obs=torch.zeros(()))


def enumerated():
    k = pyro.sample(
        "k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"}
    )
    pyro.sample("y", dist.Normal(1.0 * k, 1.0), obs=torch.zeros(()))


def subsampled():
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("part", 10, subsample_size=5):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=torch.zeros(5))


def random_inside():
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(mean + torch.randn(()), 1.0), obs=torch.zeros(()))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (discrete, "site 'k'"),
        (enumerated, "site 'k'"),
        (subsampled, "plate 'part'"),
        (random_inside, "site 'y'"),
    ],
)
def test_unsupported_models_are_named(model, name):
    with pytest.raises(UnsupportedModelError, match=name):
        run(model)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"friction": -0.1}, "friction"),
        ({"friction": (0.1, 0.1)}, "friction"),
        ({"friction_law": "dry"}, "friction_law"),
        ({"step_tol": 0.0}, "step_tol"),
        ({"step_tol": 1.0}, "step_tol"),
        ({"settle_time": -1.0}, "settle_time"),
        ({"num_lanes": 0}, "num_lanes"),
        ({"velocity": "fast"}, "velocity"),
        ({"velocity_scale": 0.0}, "velocity_scale"),
        ({"velocity": "fixed_energy"}, "initial_energy"),
        ({"initial_energy": 1.0}, "initial_energy"),
        ({"polish_tolerance": -1.0}, "polish_tolerance"),
        ({"loss": "mse"}, "loss"),
        ({"loss": "joint", "prior_weight": 0.5}, "prior_weight"),
        ({"prior_weight": -1.0}, "prior_weight"),
        ({"potential_fn": lambda z: z["w"].sum()}, "potential_fn"),
        ({"transforms": {}}, "transforms"),
        ({"anchor_steps": -1}, "anchor_steps"),
    ],
)
def test_bad_options_are_refused_at_construction(options, name):
    with pytest.raises(ConfigurationError, match=name) as error:
        DIMS(regression, **options)
    assert "expected" in str(error.value)


def test_neither_model_nor_potential_is_refused():
    with pytest.raises(ConfigurationError, match="found None"):
        DIMS()


@pytest.mark.parametrize(
    ("anchors", "error"),
    [
        (torch.zeros(2, 10), ShapeError),
        (torch.zeros(1, 9), ShapeError),
        ({"w": torch.full((10,), torch.nan)}, NonFiniteLossError),
    ],
)
def test_bad_anchors_are_named(plane, anchors, error):
    with pytest.raises(error, match="anchor"):
        run(plane, 4, anchors=anchors)


def test_the_anchor_without_a_loss_is_named_whatever_its_group(plane):
    anchors = MINIMUM.repeat(3, 1)
    anchors[2] = torch.inf
    mcmc = MCMC(
        DIMS(plane, anchors=anchors),
        4,
        num_chains=3,
        chain_batch_size=1,
        progress_bar=False,
    )
    with pytest.raises(NonFiniteLossError, match="anchor 2"):
        mcmc.run()


def test_no_precision_anywhere_is_an_error(plane):
    free = Target.from_module(
        torch.nn.Linear(10, 1, bias=False),
        lambda out, y: (out - y).square(),
        (X, Y[:, None]),
        dtype=torch.float64,
    )
    with pytest.raises(NotPositiveDefiniteError, match="velocity='isotropic'"):
        run(free)


# -- warnings -----------------------------------------------------------------------


def test_anchors_that_are_no_minima_warn(plane):
    with pytest.warns(AnchorNotConvergedWarning, match="anchors 0"):
        fit = quietly_but(AnchorNotConvergedWarning, plane, 4, anchors=MINIMUM + 1.0)
    assert "AnchorNotConvergedWarning" in str(fit.attributes["notes"])


def quietly_but(category, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        warnings.simplefilter("always", category)
        return run(*args, **options)


@pytest.mark.slow
def test_separable_data_warn():
    target = Target.from_model(logistic, POINTS, labels(True), dtype=torch.float64)
    with pytest.warns(UnboundedMinimumWarning, match="prior_weight"):
        quietly_but(UnboundedMinimumWarning, target, 4)


@pytest.mark.slow
def test_centred_schools_warn_and_still_give_draws():
    schools = gallery("eight_schools_centred")
    target = Target.from_model(schools.model, *schools.data(), dtype=torch.float64)
    with pytest.warns(UnboundedMinimumWarning):
        fit = quietly_but(
            UnboundedMinimumWarning, target, 4, loss="joint", max_evals=200
        )
    assert fit.positions.shape == (1, 4, 10)


@pytest.mark.slow
def test_an_isolated_minimum_warns(plane):
    with pytest.warns(DegenerateEnsembleWarning, match="isolated"):
        run(plane, 8, loss="joint")
    with pytest.warns(DegenerateEnsembleWarning):
        run(plane, 8, loss="joint", velocity="isotropic", polish_tolerance=1e-9)


def test_more_rows_than_weights_warn():
    target = Target.from_model(regression, numbers(12, 3), numbers(12, seed=1))
    with pytest.warns(DegenerateEnsembleWarning):
        run(target, 8)


def test_trajectories_out_of_time_warn(plane):
    with pytest.warns(ConvergenceWarning, match="did not come to rest"):
        run(plane, 4, settle_time=0.0, explore_time=0.1)
    with pytest.warns(ConvergenceWarning, match="did not come to rest"):
        fit = run(plane, 4, max_evals=5)
    assert not bool(fit.stats["converged"].any())


def test_fast_starts_warn(plane):
    with pytest.warns(ConvergenceWarning, match="start very fast"):
        quietly_but(ConvergenceWarning, plane, 4, velocity_scale=40.0)


@pytest.mark.slow
def test_a_ledger_that_does_not_balance_warns(plane):
    with pytest.warns(EnergyLedgerWarning, match="step_tol"):
        quietly_but(
            EnergyLedgerWarning,
            plane,
            4,
            integrator="dopri5",
            rtol=0.5,
            atol=5.0,
            settle_time=1.0,
        )


@pytest.mark.slow
def test_an_indefinite_precision_warns_once():
    def scales(y):
        tau = pyro.sample("tau", dist.LogNormal(y.new_zeros(()), 1.0))
        x = pyro.sample("x", dist.Normal(y.new_zeros(3), tau).to_event(1))
        pyro.sample("y", dist.Normal(x, 3.0).to_event(1), obs=y)

    target = Target.from_model(scales, torch.zeros(3), dtype=torch.float64)
    anchors = torch.tensor([[0.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    with pytest.warns(FallbackWarning, match="indefinite") as caught:
        fit = quietly_but(FallbackWarning, target, 4, 2, anchors=anchors)
    assert len(caught) == 1
    assert "anchors 0, 1" in str(caught[0].message)
    assert any("indefinite" in note for note in fit.notes)


# -- faults stay where they are -------------------------------------------------------


def holed(q):
    """A ring with a sector where there is no loss."""
    hole = (q[0] < -0.3) & (q[1] > 0.0)
    return torch.where(hole, torch.nan, (q.square().sum() - 1) ** 2)


def rim(q):
    return (q.square().sum() - 1) ** 2


def throw(potential, v, num_lanes=64):
    target = Target.from_potential(potential, 2, dtype=torch.float64)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(len(v), 2)
    options = DIMSOptions(velocity="isotropic", alpha=0.0, settle_time=2.0)
    q, stats, _, _ = run_trajectories(target, Objective(), options, start, v, num_lanes)
    return q, stats


def test_a_hole_in_the_loss_flags_its_trajectories_and_no_other():
    v = numbers(40, 2, seed=9)
    q, stats = throw(holed, v)
    sound, sound_stats = throw(rim, v)
    bad = stats["diverging"]
    assert 0 < int(bad.sum()) < 40
    assert bool(q.isfinite().all())
    for name in STATS:
        assert bool(stats[name].isfinite().all()), name
    met = (sound != q).any(-1)  # those whose way led near the hole
    assert bool((met | ~bad).all())
    assert int(met.sum()) < 40
    for name in STATS:
        assert torch.equal(stats[name][~met], sound_stats[name][~met]), name
    assert not bool(stats["converged"][bad].any())


def test_divergent_draws_are_kept_and_counted():
    target = Target.from_potential(holed, 2, dtype=torch.float64)
    with pytest.warns(DivergenceWarning, match=r"of 40 draws"):
        fit = quietly_but(
            DivergenceWarning,
            target,
            40,
            anchors=torch.tensor([[1.0, 0.0]]),
            velocity="isotropic",
            settle_time=2.0,
            num_lanes=40,
        )
    assert fit.positions.shape == (1, 40, 2)
    listed = fit.diagnostics()["divergences"]["chain 0"]
    assert listed == fit.stats["diverging"][0].nonzero().flatten().tolist()
    assert len(listed) > 0


def network(q):
    hidden = torch.tanh(
        torch.linspace(-2, 2, 8, dtype=q.dtype)[:, None] * q[:3] + q[3:6]
    )
    return 4 * (hidden @ q[6:9] - 0.5).square().sum()


@pytest.mark.slow
def test_lanes_are_independent():
    """Permuted starts give permuted draws; a broken lane changes no other bit."""
    target = Target.from_potential(network, 9, dtype=torch.float64)
    options = DIMSOptions(velocity="isotropic", explore_time=0.3, settle_time=0.3)
    q, v = 0.5 * numbers(64, 9, seed=5), numbers(64, 9, seed=6)

    def throw(q, v):
        return run_trajectories(target, Objective(), options, q, v, 64)[:2]

    ends, stats = throw(q, v)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    permuted, permuted_stats = throw(q[order], v[order])
    assert torch.equal(permuted, ends[order])
    for name in STATS:
        assert torch.equal(permuted_stats[name], stats[name][order]), name
    broken = q.clone()
    broken[17] = torch.nan
    others = torch.arange(64) != 17
    hurt, hurt_stats = throw(broken, v)
    assert torch.equal(hurt[others], ends[others])
    for name in STATS:
        assert torch.equal(hurt_stats[name][others], stats[name][others]), name
    assert bool(hurt_stats["diverging"][17])


# -- other ways in ------------------------------------------------------------------


@pytest.mark.slow
def test_starts_of_the_training_can_be_given(plane):
    start = {"w": torch.stack([MINIMUM, MINIMUM + NULL[:, 0]])}
    kernel = DIMS(plane, alpha=0.0)
    fit = MCMC(
        kernel, 4, num_chains=2, seed=0, initial_params=start, progress_bar=False
    )
    # perfect fits do not move in training: displacements are those from them
    fit.run()
    moved = (fit.positions - start["w"][:, None]).norm(dim=-1)
    torch.testing.assert_close(moved, fit.stats["displacement"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_potential_with_its_own_transforms():
    def potential(z):
        return (z["scale"] - 1.0) ** 2 * (z["x"].square().sum() - 1) ** 2 * 4

    anchors = {"scale": torch.tensor(4.0), "x": torch.tensor([1.0, 0.0])}
    kernel = DIMS(
        potential_fn=potential,
        transforms={
            "scale": torch.distributions.biject_to(dist.constraints.positive).inv
        },
        anchors=anchors,
        velocity="isotropic",
        alpha=0.0,
    )
    fit = MCMC(kernel, 6, seed=0, dtype=torch.float64, progress_bar=False).run()
    samples = fit.get_samples()
    assert samples["x"].shape == (6, 2)
    torch.testing.assert_close(
        samples["scale"].log(),
        fit.positions[0, :, fit.target.layout.sites["scale"].start],
    )
    assert bool((fit.stats["loss"] < 0.05).all())
    assert fit.attributes["model"] == "potential"
    with pytest.raises(ConfigurationError, match="potential_fn"):
        fit.run(torch.zeros(2))
    with pytest.raises(ConfigurationError, match="argument initial_params"):
        MCMC(DIMS(potential_fn=potential), 2, progress_bar=False).run()
    flat = DIMS(potential_fn=potential, anchors=torch.zeros(1, 3))
    with pytest.raises(ConfigurationError, match="argument anchors"):
        MCMC(flat, 2, progress_bar=False).run()
    starts = {"scale": 4.0, "x": [1.0, 0.0]}
    kernel = DIMS(potential_fn=potential, velocity="isotropic", alpha=0.0)
    fit = MCMC(kernel, 4, seed=0, initial_params=starts, progress_bar=False).run()
    assert fit.get_samples()["x"].shape == (4, 2)


def test_a_guides_medians_serve_as_anchors(plane):
    guide = AutoDelta(regression, init_loc_fn=lambda site: MINIMUM.clone())
    guide(X, Y)
    fit = run(plane, 4, anchors=guide.median(X, Y))
    torch.testing.assert_close(
        fit.stats["displacement"], (fit.positions - MINIMUM).norm(dim=-1)
    )


@pytest.mark.slow
def test_a_module_with_a_loss():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    )
    target = Target.from_module(
        module,
        lambda out, y: 8 * (out - y).square(),
        (POINTS[:6], POINTS[:6, :1]),
        prior_precision=1.0,
        dtype=torch.float64,
    )
    fit = run(target, 6)
    samples = fit.get_samples()
    assert samples["0.weight"].shape == (6, 4, 2)
    assert bool((fit.stats["loss"] < 0.05).all())
    assert bool((samples["2.bias"].std(0) > 1e-3).all())


@pytest.mark.slow
def test_minima_in_one_call(plane):
    options = {"alpha": 0.0, "num_lanes": 8}
    fit = sample_minima(
        regression,
        X,
        Y,
        num_samples=5,
        num_chains=2,
        seed=3,
        dtype=torch.float64,
        **options,
    )
    again = run(plane, 5, 2, seed=3)
    assert isinstance(fit, MCMC)
    assert torch.equal(fit.positions, again.positions)
    assert fit.get_samples()["w"].shape == (10, 10)


def test_groups_of_chains_and_blocks_change_no_bit(plane):
    """Three blocks, chains together and apart, on the same number of lanes."""
    kernel = DIMS(plane, alpha=0.0, num_lanes=8, anchor_steps=100)
    runs = [
        MCMC(
            kernel, 20, num_chains=3, seed=0, chain_batch_size=size, progress_bar=False
        )
        for size in (None, 2, 1)
    ]
    assert kernel.block_draws(plane, 20, 3) == 11
    positions = [fit.run().positions for fit in runs]
    assert torch.equal(positions[0], positions[1])
    assert torch.equal(positions[0], positions[2])
    assert len({fit.num_steps for fit in runs}) == 1


def test_errors_are_raised_before_anchors_are_trained(monkeypatch):
    """A loss that is no number per position; velocities without a curvature."""
    monkeypatch.setattr(
        "pyro_geo.infer.mcmc.dims.placement.train_anchors",
        lambda *args: pytest.fail("trained"),
    )
    target = Target.from_potential(lambda q: q.square().sum(), 2)
    many = DIMS(target, loss=lambda z: z["q"], velocity="isotropic")
    with pytest.raises(ObjectiveShapeError, match=r"'loss'.*\(2,\)"):
        MCMC(many, 4, progress_bar=False).run()
    with pytest.raises(MissingCurvatureError, match="isotropic"):
        MCMC(DIMS(target), 4, progress_bar=False).run()


@pytest.mark.parametrize(
    "option", ["num_lanes", "max_evals", "polish_max_steps", "anchor_steps"]
)
def test_counts_are_integers(option):
    options: Any = {option: 2.5}
    with pytest.raises(ConfigurationError, match=f"{option}.*2.5.*an integer"):
        DIMS(lambda: None, **options)


def test_every_option_has_one_default():
    """The named keywords of the class are the fields of its options."""
    parameters = inspect.signature(DIMS).parameters
    for field in dataclasses.fields(DIMSOptions):
        assert parameters[field.name].default == field.default, field.name
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY


def test_an_unknown_option_is_refused_with_the_nearest_name():
    wrong: Any = {"num_lane": 3}
    with pytest.raises(ConfigurationError) as error:
        DIMS(lambda: None, **wrong)
    expected = "DIMS(...) has no option 'num_lane'; did you mean 'num_lanes'?"
    assert str(error.value) == expected
