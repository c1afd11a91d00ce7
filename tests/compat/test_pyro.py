"""Pyro's private interfaces still do what `_compat/pyro.py` needs (pyro-ppl 1.9.2)."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.ops import packed
from pyro.poutine.enum_messenger import EnumMessenger

from pyro_geo._compat import pyro as compat


@pytest.fixture
def replaced_plates(monkeypatch):
    for owner, name, new in compat.PLATE_PIECES:
        monkeypatch.setattr(owner, name, new)


def sites_of(trace: poutine.Trace) -> dict[str, Any]:
    return trace.nodes


def traced(model, first_available_dim=-2):
    handler = compat.ShapeEnumMessenger(first_available_dim)
    return poutine.trace(handler(model)).get_trace()


def coins():
    """Three coins of an enumerated kind, on a plate."""
    kind = pyro.sample("kind", dist.Bernoulli(0.25), infer={"enumerate": "parallel"})
    with pyro.plate("data", 3):
        return pyro.sample("y", dist.Normal(kind, 1.0), obs=torch.zeros(3))


def test_a_plate_leaves_a_site_of_its_own_distribution():
    def model():
        with pyro.plate("data", 3, subsample_size=2):
            pyro.sample("y", dist.Normal(0.0, 1.0))

    nodes = sites_of(poutine.trace(model).get_trace())
    found = [n for n, s in nodes.items() if isinstance(s.get("fn"), compat.Subsample)]
    assert found == ["data"]
    assert (nodes["data"]["fn"].size, nodes["data"]["fn"].subsample_size) == (3, 2)


def test_pyros_logarithm_is_where_it_is_replaced(monkeypatch):
    class Called(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x + 100

    owner, name = compat.SAFE_LOG
    assert issubclass(getattr(owner, name), torch.autograd.Function)
    assert owner.safe_log(torch.tensor(math.e)).item() == pytest.approx(1.0)
    monkeypatch.setattr(owner, name, Called)
    assert owner.safe_log(torch.tensor(1.0)).item() == 101.0


def test_a_deterministic_site_is_marked():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.deterministic("y", 2 * x)

    nodes = sites_of(poutine.trace(model).get_trace())
    marks = {n: compat.is_marked_deterministic(nodes[n]) for n in ("x", "y")}
    assert marks == {"x": False, "y": True}


def test_a_masked_distribution_holds_its_mask():
    mask = torch.tensor([True, False])
    masked = dist.Normal(torch.zeros(2), 1.0).mask(mask)
    assert compat.mask_of(masked) is mask


def test_enumeration_works_under_vmap_where_pyros_own_does_not():
    def log_prob(handler, loc):
        def model():
            kind = pyro.sample(
                "kind", dist.Categorical(logits=loc), infer={"enumerate": "parallel"}
            )
            pyro.sample("y", dist.Normal(loc[kind], 1.0), obs=loc[0])

        trace = poutine.trace(handler(model)).get_trace()
        return sites_of(trace)["y"]["fn"].log_prob(loc[0])

    loc = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    with pyro.validation_enabled(False):
        found = torch.func.vmap(lambda x: log_prob(compat.ShapeEnumMessenger(-1), x))(
            loc
        )
    alone = torch.stack([dist.Normal(x, 1.0).log_prob(x[0]) for x in loc])
    assert torch.equal(found, alone)
    with (
        pyro.validation_enabled(False),
        pytest.raises(RuntimeError, match="data"),
    ):
        torch.func.vmap(lambda x: log_prob(EnumMessenger(-1), x))(loc)


def test_axes_of_an_enumerated_trace_have_symbols():
    trace = traced(coins)
    symbol_to_dim, plates = compat.symbols(trace)
    nodes = sites_of(trace)
    assert compat.enumerated_axis(nodes["kind"]) == -2
    assert compat.enumerated_axis(nodes["y"]) is None
    assert symbol_to_dim[plates["data"]] == -1
    (other,) = set(symbol_to_dim) - set(plates.values())
    assert symbol_to_dim[other] == -2
    names = compat.symbol_of_axis(nodes["y"])
    log_prob = nodes["y"]["fn"].log_prob(nodes["y"]["value"])
    assert {names[-1], names[-2]} == {plates["data"], other}
    found = packed.pack(log_prob, names)
    assert compat.axis_names(found) == other + plates["data"]
    assert compat.axis_names(torch.ones(())) == ""
    assert compat.axis_names(compat.name_axes(torch.ones(2), "a")) == "a"


def test_the_ring_of_logs_takes_its_sums_from_the_module_named():
    ring = compat.ring_of_logs("pyro_geo.density._log_sum")(cache={}, dim_to_size={})
    x = compat.name_axes(torch.tensor([0.25, 0.5]).log(), "a")
    assert ring.sumproduct([x], {"a"}).exp().item() == pytest.approx(0.75)
    assert ring._backend == "pyro_geo.density._log_sum"


@pytest.mark.usefixtures("replaced_plates")
def test_a_sequential_plate_counts_in_numbers():
    steps = [(type(i), i) for i in pyro.plate("rows", 3)]
    assert steps == [(int, 0), (int, 1), (int, 2)]
    given = list(pyro.plate("other", 3, subsample=torch.tensor([2, 0, 1])))
    assert given == [2, 0, 1]


@pytest.mark.usefixtures("replaced_plates")
def test_a_sequential_plate_keeps_its_steps_independent():
    def model():
        for i in pyro.plate("rows", 2):
            pyro.sample(f"x{i}", dist.Normal(0.0, 1.0))

    nodes = sites_of(poutine.trace(model).get_trace())
    frames = [nodes[f"x{i}"]["cond_indep_stack"][0] for i in range(2)]
    assert [(f.name, f.vectorized, f.counter) for f in frames] == [
        ("rows", False, 1),
        ("rows", False, 2),
    ]


def test_a_module_has_the_parameters_of_its_new_name():
    def model():
        pyro.sample("w", dist.Normal(0.0, 1.0))

    guides = [AutoDiagonalNormal(model), AutoDiagonalNormal(model)]
    with pyro.get_param_store().scope():
        for number, guide in enumerate(guides):
            compat.rename_module(guide, f"number_{number}")
            guide()
        names = set(pyro.get_param_store().keys())
    found = {f"number_{i}.{name}" for i in range(2) for name in ("loc", "scale")}
    assert names == found
