"""Modes of posteriors that are known in closed form."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pyro
import pyro.distributions
import pytest
import torch
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_geo import Target, citation
from pyro_geo.errors import ConfigurationError, InitializationError, ModelError
from pyro_geo.infer import HMC, ModeSet, find_modes, init_to_mode
from pyro_geo.io.arviz import get_group

dist: Any = pyro.distributions
F64 = torch.float64

CENTRES = torch.tensor([[-6.0, 0.0], [3.0, 5.0], [4.0, -4.0]], dtype=F64)
SCALES = torch.tensor([[0.5, 1.0], [1.0, 0.3], [0.2, 0.4]], dtype=F64)
SHARES = torch.tensor([0.6, 0.3, 0.1], dtype=F64)


def mixture(q: Tensor) -> Tensor:
    """Three normals far apart: modes, masses and Hessians are those of the parts."""
    z = (q - CENTRES.to(q)) / SCALES.to(q)
    logs = SHARES.to(q).log() - SCALES.to(q).log().sum(-1) - 0.5 * z.square().sum(-1)
    return math.log(2 * math.pi) - torch.logsumexp(logs, -1)


@pytest.fixture(scope="module")
def three() -> ModeSet:
    target = Target.from_potential(mixture, 2, dtype=F64, compile=False)
    return find_modes(target, seed=3)


def test_modes_and_weights_of_a_mixture(three: ModeSet):
    # the other parts are e^-100 at each centre
    torch.testing.assert_close(three.q, CENTRES, atol=1e-8, rtol=0)
    torch.testing.assert_close(three.log_laplace, SHARES.log(), atol=1e-8, rtol=0)
    precision = torch.diag_embed(SCALES**-2)
    torch.testing.assert_close(three.laplace.precision.dense(), precision)
    # where Laplace is exact, weights by 256 draws have a standard error of .02
    torch.testing.assert_close(three.log_masses, SHARES.log(), atol=0.1, rtol=0)
    assert three.converged.all()
    assert not three.flat.any()
    assert bool((three.pareto_k < 0.7).all())
    assert three.symmetries == ()
    assert int(three.counts.sum()) == three.searched["climbs"]


def test_laplace_alone_without_draws():
    target = Target.from_potential(mixture, 2, dtype=F64, compile=False)
    modes = find_modes(target, num_draws=0)
    assert torch.equal(modes.log_masses, modes.log_laplace)
    assert bool(modes.pareto_k.isnan().all())


def test_draws_correct_a_skewed_mode():
    # exp(a q - e^q) integrates to Gamma(a), and Laplace misses a factor
    target = Target.from_potential(
        lambda q: (q.exp() - 2.0 * q).sum(), 1, dtype=F64, compile=False
    )
    modes = find_modes(target, num_draws=4000)
    exact = math.lgamma(2.0)
    torch.testing.assert_close(modes.q, torch.tensor([[math.log(2.0)]], dtype=F64))
    assert abs(float(modes.log_laplace) - exact) > 0.03
    assert abs(float(modes.log_masses) - exact) < 0.02


def test_weights_of_long_tails_are_those_of_quadrature():
    y = torch.tensor([-5.0, -4.2, 4.1, 5.3], dtype=F64)

    def potential(q: Tensor) -> Tensor:
        cauchy = torch.log1p(((y.to(q) - q) / 0.5) ** 2).sum()
        return cauchy + (q / 10).square().sum() / 2

    target = Target.from_potential(potential, 1, dtype=F64, compile=False)
    modes = find_modes(target, num_draws=1000)
    x = torch.linspace(-60, 60, 120_001, dtype=F64)
    density = 1e-3 * target.log_prob(x[:, None]).exp()
    # the two modes are divided at the lowest point between them
    between = (x > -4) & (x < 4)
    cut = x[between][density[between].argmin()]
    exact = torch.stack([density[x < cut].sum(), density[x >= cut].sum()]).log()
    # a standard error of .02, and the Laplace densities divide a little elsewhere
    torch.testing.assert_close(modes.log_masses, exact, atol=0.07, rtol=0)
    assert float(exact[1] - modes.log_laplace[1]) > 0.3


def test_one_seed_one_result_and_global_state_untouched(three: ModeSet):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    target = Target.from_potential(mixture, 2, dtype=F64, compile=False)
    again = find_modes(target, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(again.q, three.q)
    assert torch.equal(again.log_masses, three.log_masses)
    assert again.searched == three.searched


def test_positions_are_assigned_to_modes(three: ModeSet):
    assert three.assign(three.q).tolist() == [0, 1, 2]
    draws = (
        three.laplace.mean[:, None]
        + torch.randn(3, 200, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
        * SCALES[:, None]
    )
    assert torch.equal(three.assign(draws), torch.arange(3)[:, None].expand(3, 200))
    assert three.assign(torch.full((1, 2), 40.0)).tolist() == [-1]


def test_starts_of_chains(three: ModeSet):
    starts = three.initial_params(10, seed=1)["q"]
    chosen = three.chain_modes(10)
    assert torch.equal(three.assign(starts), chosen)
    first = torch.cat([torch.tensor([True]), chosen.diff() > 0])
    assert torch.equal(starts[first], three.q)
    assert len(starts.unique(dim=0)) == 10
    same = three.initial_params(10, seed=1, jitter=0.0)["q"]
    assert torch.equal(same, three.q[chosen])


def test_it_pickles_and_tells(three: ModeSet, tmp_path):
    other = pickle.loads(pickle.dumps(three))
    assert torch.equal(other.q, three.q)
    assert "3 modes" in repr(three)
    assert "decentcem" in citation(three)
    table = three.summary()
    assert list(table.index) == [0, 1, 2]
    assert table["q[0]"].round(6).tolist() == [-6.0, 3.0, 4.0]
    group = get_group(three.to_arviz(), "modes")
    assert group is not None
    assert group["q"].shape == (3, 2)
    assert "weight" in three._repr_html_()
    page = three.report(tmp_path / "modes.html").read_text("utf-8")
    assert "climbs" in page


def absolute(y: Tensor) -> None:
    x = pyro.sample("x", dist.Normal(0.0, 3.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    pyro.sample("y", dist.Normal(x.abs(), 0.3 * s), obs=y)


def test_starts_of_guides_and_kernels():
    y = torch.tensor(2.0)
    modes = find_modes(absolute, y)
    assert len(modes) == 2
    assert modes.copies.tolist() == [0, 0]
    assert modes.symmetries == ("sign of 'x' changed",)
    torch.testing.assert_close(modes.weights[0], modes.weights[1])
    assert modes.values()["s"].dtype == torch.get_default_dtype()
    for k in range(2):
        x = modes.values(k)["x"]
        pyro.clear_param_store()
        guide = AutoNormal(absolute, init_loc_fn=init_to_mode(modes, k))
        guide(y)
        assert torch.equal(guide.median(y)["x"], x)
        kernel = NUTS(absolute, init_strategy=init_to_mode(modes, k))
        kernel.setup(0, y)
        start: Any = kernel.initial_params
        torch.testing.assert_close(start["x"], x)
    fit = PyroMCMC(
        NUTS(absolute), num_samples=1, warmup_steps=0, disable_progbar=True,
        initial_params={k: v[1] for k, v in modes.initial_params(2).items()},
    )  # fmt: skip
    fit.run(y)
    assert HMC(absolute, init_strategy=init_to_mode(modes, 1)) is not None
    constrained = modes.initial_params(2, space="constrained")
    assert bool((constrained["s"] > 0).all())


def test_sixteen_wells_are_one_up_to_sign():
    target = Target.from_potential(
        lambda q: 8 * ((q * q - 1) ** 2).sum(), 4, dtype=F64, compile=False
    )
    modes = find_modes(target)
    assert len(modes) == 16
    assert modes.copies.tolist() == [0] * 16
    assert len(modes.q.round().unique(dim=0)) == 16
    torch.testing.assert_close(modes.q.abs(), torch.ones(16, 4, dtype=F64))
    torch.testing.assert_close(modes.weights, torch.full((16,), 1 / 16, dtype=F64))
    assert modes.symmetries == (
        "sign of each of entries 0, 1, 2, 3 of 'q' changed",
        "entries 0, 1, 2, 3 of 'q' exchanged",
    )


def test_a_saddle_is_no_mode():
    # the origin is a saddle where a start at it sees no slope
    target = Target.from_potential(
        lambda q: 8 * (q[0] ** 2 - 1) ** 2 + q[1] ** 2, 2, dtype=F64, compile=False
    )
    modes = find_modes(target)
    torch.testing.assert_close(
        modes.q.abs(), torch.tensor([[1.0, 0.0]] * 2, dtype=F64), atol=1e-8, rtol=0
    )


def test_a_ridge_is_said():
    target = Target.from_potential(
        lambda q: ((q * q).sum().sqrt() - 3) ** 2 / 0.18, 2, dtype=F64, compile=False
    )
    modes = find_modes(target)
    assert len(modes) == 1
    assert modes.flat.tolist() == [1]
    assert any("ridge" in note for note in modes.notes)


def test_an_endless_density_is_said():
    # at a centre that hits two equal data the scale runs to zero, and the density away
    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 3.0))
        s = pyro.sample("s", dist.Uniform(0.0, 5.0))
        narrow = dist.Normal(a, s).log_prob(y)
        wide = dist.Normal(0.0, 2.0).log_prob(y)
        pyro.factor("y", torch.logaddexp(narrow, wide).sum(-1))

    modes = find_modes(model, torch.tensor([-1.0, 0.3, 2.0, 2.0]))
    assert any("along 's'" in note for note in modes.notes)


def test_a_rise_without_end_is_said_beside_a_mode():
    target = Target.from_potential(
        lambda q: -torch.logaddexp(-8 * q[0] ** 2, 0.5 * q[0] - 10) + q[1] ** 2,
        2,
        dtype=F64,
        compile=False,
    )
    modes = find_modes(target)
    torch.testing.assert_close(modes.q[0], torch.zeros(2, dtype=F64), atol=0.01, rtol=0)
    assert any("rises without end" in note for note in modes.notes)


def test_no_mode_at_all_is_an_error():
    target = Target.from_potential(lambda q: q.sum(), 1, dtype=F64, compile=False)
    with pytest.raises(ModelError, match="no mode was found .*'q'"):
        find_modes(target, max_rounds=1)


def test_discrete_sites_are_summed_out():
    def model(y: Tensor) -> None:
        with pyro.plate("parts", 2):
            mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            pyro.sample("y", dist.Normal(mean[z], 0.5), obs=y)

    modes = find_modes(model, torch.tensor([-2.0, -2.1, 2.0, 2.2, 1.9]))
    assert len(modes) == 2
    assert modes.symmetries == ("entries 0, 1 of 'mean' exchanged",)
    torch.testing.assert_close(modes.values(0)["mean"], modes.values(1)["mean"].flip(0))


def test_a_model_without_a_finite_start_names_the_site():
    def model() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("count", dist.Normal(x, 1.0), obs=torch.tensor(torch.nan))

    with (
        pyro.validation_enabled(False),
        pytest.raises(InitializationError, match="site 'count'"),
    ):
        find_modes(model)


def test_nan_counts_as_no_density():
    def potential(q: Tensor) -> Tensor:
        return torch.where(q[0] > 0, q[0] - q[0].log(), torch.nan)

    target = Target.from_potential(potential, 1, dtype=F64, compile=False)
    modes = find_modes(target)
    torch.testing.assert_close(modes.q, torch.ones(1, 1, dtype=F64))
    assert modes.searched["non_finite"] > 0
    assert any("NaN" in note for note in modes.notes)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_instances", 0),
        ("pop_size", 1),
        ("std", 0.0),
        ("max_rounds", 0),
        ("merge_distance", -1.0),
        ("min_weight", 1.0),
        ("num_draws", -1),
    ],
)
def test_bad_options_are_named(option, value):
    target = Target.from_potential(mixture, 2, compile=False)
    with pytest.raises(ConfigurationError, match=option):
        find_modes(target, **{option: value})


def test_arguments_need_a_model(three: ModeSet):
    target = Target.from_potential(mixture, 2, compile=False)
    with pytest.raises(ConfigurationError, match="args"):
        find_modes(target, 3.0)
    with pytest.raises(ConfigurationError, match="argument k"):
        three.values(3)


def test_what_is_no_model_is_refused_as_by_a_kernel() -> None:
    with pytest.raises(ConfigurationError, match=r"kernel\.model"):
        find_modes(HMC(lambda: None))
    with pytest.raises(ConfigurationError, match=r"argument seed"):
        find_modes(lambda: None, seed="one")  # type: ignore[arg-type]


def test_one_mode_is_counted_as_one() -> None:
    target = Target.from_potential(lambda q: (q * q).sum(), 1, compile=False)
    found = find_modes(target, num_instances=2, pop_size=20)
    assert repr(found) == "ModeSet(1 mode, weights 1.000)"
