"""Starts of chains: what may be given, what it means and what is refused."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import transform_to

from pyro_geo.density import Target
from pyro_geo.engine.starts import (
    Space,
    as_values,
    sites_of_potential,
    start_notes,
    start_positions,
)
from pyro_geo.errors import (
    ConfigurationError,
    InitializationError,
    LayoutMismatchError,
    PyroGeoError,
)
from pyro_geo.infer import HMC

F64 = torch.float64
Y = torch.tensor([0.5, 1.5])


def model(y):
    """A site of every kind that starts can meet."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    pyro.sample("unit", dist.Uniform(0.0, 1.0))
    pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    pyro.sample("corr", dist.LKJCholesky(2))
    pyro.deterministic("double", 2 * mean)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(mean + z, tau), obs=y)


@pytest.fixture(scope="module")
def target():
    return Target.from_model(model, Y, dtype=F64)


def starts(target, given, chains=4, space: Space = "constrained"):
    """The starts of all chains, as the values the model sees."""
    generators = [torch.Generator().manual_seed(i) for i in range(chains)]
    values = as_values(given, space)
    q = start_positions(
        target, values, chains, space=space, generators=lambda: generators
    )
    assert q is not None
    assert q.shape == (chains, target.dim)
    assert q.dtype == target.dtype
    return target.constrain(q)


SHARE = [0.2, 0.3, 0.5]


@pytest.mark.parametrize(
    ("site", "given", "expected"),
    [
        ("mean", 0.5, [0.5] * 4),
        ("mean", 1, [1.0] * 4),
        ("mean", torch.tensor(2), [2.0] * 4),
        ("mean", np.float32(0.25), [0.25] * 4),
        ("mean", [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]),
        ("mean", [torch.tensor(float(i)) for i in range(4)], [0.0, 1.0, 2.0, 3.0]),
        ("tau", 1.1, [1.1] * 4),
        ("tau", np.array([1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 3.0, 4.0]),
        ("unit", 0.75, [0.75] * 4),
        ("share", SHARE, [SHARE] * 4),
        # arrays of other libraries: backwards, read-only, foreign byte order or type
        ("w", np.arange(4.0)[::-1], [[3.0, 2.0, 1.0, 0.0]] * 4),
        ("w", np.broadcast_to(np.float32(1.0), (4, 4)), [[1.0] * 4] * 4),
        ("w", np.arange(4, dtype=">i4"), [[0.0, 1.0, 2.0, 3.0]] * 4),
        ("mean", np.array([1, 2.0, np.float32(3), 4], dtype=object), [1.0, 2, 3, 4]),
        ("mean", np.full(4, 0.5, dtype=np.longdouble), [0.5] * 4),
        ("mean", np.arange(4, dtype=np.uint64), [0.0, 1.0, 2.0, 3.0]),
        ("w", torch.eye(4)[2].to_sparse(), [[0.0, 0.0, 1.0, 0.0]] * 4),
        ("share", torch.tensor([SHARE] * 4, dtype=F64), [SHARE] * 4),
        # as many chains as entries: the shape of the site is one value for all
        ("w", torch.arange(4.0), [[0.0, 1.0, 2.0, 3.0]] * 4),
        (
            "w",
            torch.arange(4.0)[:, None].expand(4, 4),
            [[float(i)] * 4 for i in range(4)],
        ),
        ("w", 1.5, [[1.5] * 4] * 4),
        ("corr", torch.eye(2), [[[1.0, 0.0], [0.0, 1.0]]] * 4),
    ],
)
def test_a_value_is_taken_as_it_reads(target, site, given, expected):
    found = starts(target, {site: given})[site]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=F64), rtol=1e-7, atol=1e-7
    )


def test_sites_left_out_start_as_they_would(target):
    free = target.constrain(
        target.initial_each([torch.Generator().manual_seed(i) for i in range(4)])
    )
    found = starts(target, {"tau": 0.7})
    for name, value in free.items():
        if name == "tau":
            assert found[name].tolist() == pytest.approx([0.7] * 4)
        else:
            torch.testing.assert_close(found[name], value)


def test_a_value_can_save_a_site_that_finds_no_start():
    """The other sites are drawn until the density is finite together with it."""

    def far(y):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.factor("far", torch.where(scale > 1e6, 0.0, -torch.inf))
        pyro.sample("y", dist.Normal(mean, scale), obs=y)

    target = Target.from_model(far, torch.tensor(0.0), dtype=F64)
    with pytest.raises(InitializationError):
        target.initial(1)
    assert starts(target, {"scale": 2e6})["scale"].tolist() == pytest.approx([2e6] * 4)


def test_unconstrained_values_are_positions(target):
    given = {"tau": torch.zeros(4), "unit": 0.0}
    found = starts(target, given, space="unconstrained")
    assert found["tau"].tolist() == [1.0] * 4
    assert found["unit"].tolist() == [0.5] * 4


def test_double_precision_goes_into_a_run_in_single():
    single = Target.from_model(model, Y)
    share = torch.tensor([0.1, 0.2, 0.7], dtype=F64)
    found = starts(single, {"share": share})["share"]
    torch.testing.assert_close(found, share.float().expand(4, 3))


def test_values_near_a_border_keep_their_distance_in_single_precision():
    # the nearest float32 is 1.0, whose position is infinite; that of the value is not
    single = Target.from_model(model, Y)
    values = as_values({"unit": 1 - 1e-9}, "constrained")
    generators = [torch.Generator().manual_seed(0)]
    q = start_positions(single, values, 1, generators=lambda: generators)
    assert q is not None
    assert q.dtype == torch.float32
    position = float(q[0, single.layout.sites["unit"].start])
    assert position == pytest.approx(np.log((1 - 1e-9) / 1e-9), rel=1e-6)


@pytest.mark.parametrize("sites", [("mean",), ("tau", "share"), None])
def test_some_sites_start_a_chain_of_pyro_too(sites):
    given = {
        "mean": torch.tensor(0.25),
        "tau": torch.tensor(0.1),
        "unit": torch.zeros(()),
    }
    given |= {"w": torch.zeros(4), "share": torch.zeros(2), "corr": torch.zeros(1)}
    given = given if sites is None else {name: given[name] for name in sites}
    kernel = HMC(model)
    kernel.initial_params = given
    kernel.setup(5, Y)
    start = kernel.initial_params
    assert start is not None
    assert set(start) == {"mean", "tau", "unit", "w", "share", "corr"}
    for name, value in given.items():
        assert torch.equal(start[name], value)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"mean": torch.tensor(torch.nan)}, InitializationError, "'mean'"),
        ({"tau": torch.tensor(-3000.0)}, InitializationError, "chain 0, site 'y'"),
        ({"taw": torch.tensor(0.0)}, LayoutMismatchError, "Did you mean 'tau'"),
    ],
)
def test_a_bad_start_of_a_chain_of_pyro_names_its_site(given, error, match):
    kernel = HMC(model)
    kernel.initial_params = given
    with pytest.raises(error, match=match):
        kernel.setup(5, Y)


REFUSED = {
    "outside": ({"tau": -0.5}, InitializationError, "'tau', chain 0.*-0.5.*Greater"),
    "zeros that were unconstrained": (
        {"tau": torch.zeros(4)},
        InitializationError,
        'initial_space="unconstrained"',
    ),
    "above": ({"unit": [0.5, 0.5, 1.5, 0.5]}, InitializationError, "'unit', chain 2"),
    "no simplex": ({"share": [0.5, 0.5, 0.5]}, InitializationError, "Simplex"),
    "no correlation": ({"corr": torch.ones(2, 2)}, InitializationError, "'corr'"),
    "nan": ({"mean": float("nan")}, InitializationError, "'mean'.*found nan"),
    "infinity": ({"w": [0.0, 0.0, float("inf"), 0.0]}, InitializationError, "'w'"),
    "shape": ({"mean": torch.zeros(3)}, ConfigurationError, r"\(3,\).*\(4,\).*\(\)"),
    "transposed": ({"w": torch.zeros(4, 3)}, ConfigurationError, r"\(4, 4\)"),
    "text": ({"mean": "a"}, ConfigurationError, "'mean'.*torch.as_tensor"),
    "text among objects": (
        {"mean": np.array([1, "2", 3, 4], dtype=object)},
        ConfigurationError,
        "'mean'",
    ),
    "masked": (
        {"w": np.ma.array([1.0, 2.0, 3.0, 4.0], mask=[False, True, False, False])},
        InitializationError,
        "'w'.*nan",
    ),
    "too large": ({"mean": 1e310}, InitializationError, "'mean'.*inf"),
    "lower border": ({"unit": 0.0}, InitializationError, "'unit'.*off its border"),
    "upper border": ({"unit": [0.5, 0.5, 0.5, 1.0]}, InitializationError, "chain 3"),
    "border of positive": ({"tau": 0}, InitializationError, "'tau'.*off its border"),
    "border of a simplex": (
        {"share": [0.5, 0.5, 0.0]},
        InitializationError,
        "'share'.*off its border",
    ),
    "none": ({"mean": None}, ConfigurationError, "'mean'"),
    "ragged": ({"w": [[1.0], [1.0, 2.0]]}, ConfigurationError, "'w'"),
    "complex": ({"mean": 1j}, ConfigurationError, "'mean'"),
    "misspelt": ({"taw": 1.0}, LayoutMismatchError, "'taw'.*Did you mean 'tau'"),
    "unknown": ({"zzz": 1.0}, LayoutMismatchError, "'zzz'.*latent sites"),
    "discrete": ({"z": 1}, LayoutMismatchError, "'z'.*summed out"),
    "computed": ({"double": 1.0}, LayoutMismatchError, "'double'.*computed"),
    "observed": ({"y": 1.0}, LayoutMismatchError, "'y'.*observed"),
    "a list of dictionaries": ([{"mean": 1.0}], ConfigurationError, "one dictionary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_start_a_chain_is_named(target, name):
    given, error, match = REFUSED[name]
    with pytest.raises(error, match=match) as caught:
        starts(target, given)
    text = str(caught.value)
    assert all(part in text for part in ("initial_params", ": found ", ", expected "))


def test_a_start_without_a_gradient_names_site_and_chain():
    def kink(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x.abs().sqrt(), 1.0), obs=y)

    target = Target.from_model(kink, torch.tensor(0.0), dtype=F64)
    with pytest.raises(InitializationError, match="chain 1.*gradient"):
        start_positions(target, {"x": torch.tensor([1.0, 0.0])}, 2)


def test_nothing_given_is_no_start(target):
    assert as_values(None, "constrained") is None
    assert as_values({}, "constrained") is None
    assert start_positions(target, None, 4) is None
    with pytest.raises(ConfigurationError, match="initial_space"):
        as_values({"mean": 1.0}, "real")  # type: ignore[arg-type]


def test_one_start_for_all_is_noted():
    same, other = torch.ones(3, 2), torch.eye(3)
    assert "R-hat" in start_notes(same)[0]
    assert start_notes(other) == start_notes(None) == start_notes(same[:1]) == []


@pytest.mark.parametrize("chains", [1, 3])
def test_sites_of_a_potential_are_read_as_pyro_does(chains):
    lead = () if chains == 1 else (chains,)
    positive = transform_to(dist.constraints.positive).inv
    values = {"x": torch.zeros(*lead, 2), "s": torch.zeros(lead), "a": torch.ones(())}
    found = sites_of_potential(values, chains, {"s": positive}, "unconstrained")
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "x": (2,),
        "s": (),
        "a": (),
    }
    assert float(found["s"]) == 1.0
    if chains > 1:
        with pytest.raises(PyroGeoError, match="'x'.*leading axis of 3 chains"):
            sites_of_potential({"x": torch.zeros(2)}, 3, {}, "constrained")
