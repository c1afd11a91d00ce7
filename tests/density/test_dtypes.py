"""Data, parameters and models of several floating types under a run of one type."""

import pickle
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.density import Layout, Target
from pyro_geo.density._modes import DensityMode
from pyro_geo.density.dtypes import unified
from pyro_geo.errors import FallbackWarning, UnsupportedError
from pyro_geo.geometry.curvature import GaussNewton
from pyro_geo.infer.gibbs.model import GibbsModel
from tests.density.kinds import KINDS, X, Y
from tests.density.test_enumeration import MODELS

SINGLE, DOUBLE = torch.float32, torch.float64
RUNGS = ("traced", "mapped", "sequential")
EVERY = {**KINDS, **MODELS}
TYPES = (
    (SINGLE, DOUBLE),
    (DOUBLE, SINGLE),
    (SINGLE, torch.float16),
    (DOUBLE, torch.bfloat16),
)
# A model of each mechanism on every change: products, distances, enumeration, sums by
# index, numbers read from data; all models with all types in the slow suite.
QUICK = {
    ("network", SINGLE, DOUBLE),
    ("network", DOUBLE, SINGLE),
    ("gaussian_process", SINGLE, torch.float16),
    ("ordered_cutpoints", DOUBLE, SINGLE),
    ("data_as_array", DOUBLE, torch.bfloat16),
}
CASES = [
    case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow)
    for case in ((name, *types) for name in EVERY for types in TYPES)
]


def cast(tree, dtype):
    """The same tree with its floating tensors in another type."""

    def leaf(x):
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return pytree.tree_map(leaf, tree)


def rows(target, count=3):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn((count, target.dim), generator=generator, dtype=DOUBLE)
    return 0.3 * q.to(target.dtype)


def quiet(model, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return Target.from_model(model, *args, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run", "held"), CASES, ids=str)
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.FallbackWarning")
def test_data_that_a_model_holds_are_data_passed_to_it(name, run, held):
    kind = EVERY[name]
    args, kwargs = cast((kind.args, dict(kind.kwargs)), held)
    target = quiet(lambda: kind.model(*args, **kwargs), dtype=run)
    passed = quiet(kind.model, *cast(args, run), dtype=run, **cast(kwargs, run))
    q = rows(passed)
    expected = passed.with_rung("mapped").value_and_grad(q)
    # what is computed from the data alone may be rounded in their own type
    tolerance = 1e-10 if run == held == DOUBLE else 2e-3 if run == SINGLE else 2e-5
    for rung in RUNGS:
        for ours, theirs in zip(
            target.with_rung(rung).value_and_grad(q), expected, strict=True
        ):
            assert ours.dtype == run
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert target.hvp(q, q).dtype == run
    for found in (
        target.pointwise_log_likelihood(q),
        target.deterministics(q),
        target.constrain(q),
        target.observed,
    ):
        for value in found.values():
            assert not value.is_floating_point() or value.dtype == run


@pytest.mark.slow
@pytest.mark.parametrize(("run", "held"), [(SINGLE, DOUBLE), (DOUBLE, SINGLE)], ids=str)
def test_compiled_graphs_of_several_types(run, held):
    args = cast(KINDS["network"].args, held)
    target = Target.from_model(lambda: KINDS["network"].model(*args), dtype=run)
    q = rows(target)
    fixed = target.with_rung("compiled")
    compiled = fixed.value_grad_hvp(q, q)
    assert fixed.rung == "compiled"
    expected = target.with_rung("mapped").value_grad_hvp(q, q)
    for ours, theirs in zip(compiled, expected, strict=True):
        assert ours.dtype == run
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_types_that_agree_are_the_same_bits_held_or_passed():
    x, y = X.float(), Y.float()
    model = KINDS["regression"].model
    passed = Target.from_model(model, X, Y)
    q = rows(passed)
    for data in ((x, y), (X, Y)):  # what is cast once, and what is cast in the model
        held = Target.from_model(lambda data=data: model(*data))
        for ours, theirs in zip(
            held.value_and_grad(q), passed.value_and_grad(q), strict=True
        ):
            assert torch.equal(ours, theirs)


# -- other places where types come from ------------------------------------------------


class Network(PyroModule):
    """Priors, parameters and a buffer in single precision."""

    def __init__(self) -> None:
        super().__init__()
        linear: Any = PyroModule[torch.nn.Linear]
        self.first = linear(3, 4)
        self.first.weight = PyroSample(dist.Normal(torch.zeros(4, 3), 1.0).to_event(2))
        self.first.bias = PyroSample(dist.Normal(torch.zeros(4), 1.0).to_event(1))
        self.second = linear(4, 1)
        self.register_buffer("noise", torch.tensor(0.5))
        for parameter in self.parameters():
            torch.nn.init.constant_(parameter, 0.25)

    def forward(self, x, y=None):
        mean = self.second(torch.tanh(self.first(x))).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, self.noise), obs=y)
        return mean


@pytest.mark.parametrize("run", [pytest.param(SINGLE, marks=pytest.mark.slow), DOUBLE])
def test_a_network_of_another_type(run):
    made = [Network(), Network().double(), Network().half()]
    targets = [Target.from_model(net, X, Y, dtype=run) for net in made]
    q = rows(targets[0])
    expected = targets[0].log_prob(q)
    for net, target in zip(made, targets, strict=True):
        for rung in RUNGS:
            value, grad = target.with_rung(rung).value_and_grad(q)
            assert value.dtype == grad.dtype == run
            torch.testing.assert_close(value, expected)
        assert target.notes == []
        for strategy in ("prior", "median", "uniform"):
            assert target.initial(2, strategy).dtype == run
        assert GaussNewton(target, q[0]).dense().dtype == run
        copy = pickle.loads(pickle.dumps(target))
        assert torch.equal(copy.value_and_grad(q)[0], target.value_and_grad(q)[0])
        # a prediction leaves observed sites out
        gibbs = GibbsModel(lambda x, net=net: net(x, Y), lambda f, y: (f - y) ** 2)
        assert gibbs.target(X, Y, dtype=run).value_and_grad(q)[1].dtype == run


class Recurrent(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.GRU(1, 2)

    def forward(self, y):
        scale = pyro.sample("scale", dist.Normal(0.0, 1.0))
        state = self.layer(scale * y[:, None])[0].sum(-1)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(state, 1.0), obs=y)


def test_recurrent_layers_check_types_of_their_own():
    net = Recurrent()
    single = quiet(net, Y.float(), dtype=SINGLE)
    double = quiet(net, Y, dtype=DOUBLE)
    q = rows(double)
    torch.testing.assert_close(
        single.value_and_grad(q.float()), double.value_and_grad(q), check_dtype=False
    )
    with pytest.raises(ValueError, match="does not match weight dtype"):
        net.layer(Y[:, None])  # outside of a density all is as before


@pytest.mark.slow
def test_constants_parameters_and_bounds():
    pyro.param("shift", torch.tensor(0.5, dtype=DOUBLE))

    def model(y):
        edge = torch.from_numpy(np.array([-1.0, 2.0]))
        x = pyro.sample("x", dist.Uniform(edge[0], edge[1]))
        w = pyro.sample("w", dist.Normal(torch.tensor(np.zeros(3)), 1.0).to_event(1))
        pyro.deterministic("shifted", x + pyro.param("shift"))
        mean = torch.stack([x * w[0], w[1], torch.tensor(0.5, dtype=DOUBLE)])
        mean = torch.cat([mean, torch.ones(2)])
        mean[1] = mean[1] + torch.tensor(1.0, dtype=DOUBLE)
        mean = torch.where(mean > 0, mean, torch.zeros(5, dtype=DOUBLE))
        kernel = torch.eye(5, dtype=DOUBLE) + torch.outer(mean, mean)
        pyro.sample("y", dist.MultivariateNormal(mean, kernel), obs=y)

    single, double = (quiet(model, Y[:5], dtype=dtype) for dtype in (SINGLE, DOUBLE))
    q = rows(double)
    for rung in RUNGS:
        found = single.with_rung(rung).value_and_grad(q.float())
        assert [x.dtype for x in found] == [SINGLE, SINGLE]
        torch.testing.assert_close(
            found, double.value_and_grad(q), check_dtype=False, rtol=1e-4, atol=1e-4
        )
    assert single.deterministics(q)["shifted"].dtype == SINGLE
    assert single.constrain(q)["x"].dtype == SINGLE
    assert single.terms(q).log_prior.dtype == SINGLE


def test_potentials_and_losses():
    x, matrix = X.float(), X.T @ X

    def potential(q, data):
        return 0.5 * q @ matrix @ q + (x @ q - data).square().sum()

    single = Target.from_potential(potential, 3, Y, dtype=SINGLE)
    double = Target.from_potential(potential, 3, Y, dtype=DOUBLE)
    by_site = Target.from_potential(
        lambda sites, data: potential(sites["q"], data), single.layout, Y
    )
    q = rows(double)
    expected = double.value_and_grad(q)
    for target in (single, by_site):
        found = target.value_and_grad(q)  # positions are cast as they enter
        assert [x.dtype for x in found] == [SINGLE, SINGLE]
        torch.testing.assert_close(
            found, expected, check_dtype=False, rtol=1e-4, atol=0
        )
    assert isinstance(single.layout, Layout)
    weight = torch.ones(12, dtype=DOUBLE)
    module = Target.from_module(
        torch.nn.Linear(3, 1),
        lambda f, y: weight * (f.squeeze(-1) - y) ** 2,
        (X, Y),
        dtype=SINGLE,
    )
    q = rows(module)
    assert module.value_and_grad(q)[1].dtype == SINGLE
    assert module.pointwise_log_likelihood(q)["loss"].dtype == SINGLE


def test_new_data_in_another_type():
    target = Target.from_model(KINDS["network"].model, X.half(), Y.half(), dtype=DOUBLE)
    q = rows(target)
    again = target.with_data(X, Y.float()).log_prob(q)
    fresh = Target.from_model(KINDS["network"].model, X, Y.float(), dtype=DOUBLE)
    assert torch.equal(again, fresh.log_prob(q))


# -- what stays as it is ---------------------------------------------------------------


def test_integers_booleans_and_complex_numbers_are_left_alone():
    index, mask, wave = torch.arange(3), X > 0, torch.fft.fft(X)
    with DensityMode():
        assert (index * 2).dtype == torch.int64
        assert torch.stack([index, index]).dtype == torch.int64
        assert (mask & mask).dtype == torch.bool
        assert torch.equal(X.float()[index], X.float()[:3])
        assert torch.equal(torch.where(mask, X, 0.0), X.relu())
        assert (wave * X).dtype == torch.complex128
        assert (wave * wave).dtype == torch.complex128


def test_operands_of_one_type_keep_it():
    """A model may still compute a part of it in another precision."""
    with DensityMode():
        assert (X @ X.T).dtype == DOUBLE
        assert (X + 1.0).dtype == DOUBLE
        assert X.float().double().dtype == DOUBLE
        assert X.float().to(Y).dtype == DOUBLE
        assert X.float().type_as(Y).dtype == DOUBLE
        assert (X @ X.float().T).dtype == SINGLE  # the default
        assert X.half().sum().dtype == SINGLE  # half precision is always cast up
        assert X.half()[0].dtype == torch.float16
        leaf = Y.float().requires_grad_()
        (grad,) = torch.autograd.grad(leaf.double().sum(), leaf)
        assert torch.equal(grad, torch.ones(12))


def test_what_is_written_into_keeps_its_type_and_its_memory():
    with DensityMode():
        for into, values in ((X.clone(), X.float()), (X.float(), X)):
            view, dtype = into[0], into.dtype
            into += values
            into.mul_(values).copy_(values)
            into[0] = values[1]
            into[torch.tensor([1]), :] = values[2]
            assert into.dtype == dtype
            torch.testing.assert_close(view, X[1].to(dtype))
            torch.testing.assert_close(into[1], X[2].to(dtype))
        out = torch.empty(3, dtype=DOUBLE)
        torch.add(X[0], X[1].double(), out=out)
        assert torch.equal(out, X[0] + X[1])


def test_arguments_without_a_difference_are_not_copied():
    args = (X, [Y, 2], "name")
    same, options = unified(torch.add, args, {"alpha": X}, SINGLE)
    assert same is args
    assert options["alpha"] is X
    mixed, options = unified(torch.stack, ([X, X.float()],), {"dim": 0}, SINGLE)
    assert [x.dtype for x in mixed[0]] == [SINGLE, SINGLE]
    assert options == {"dim": 0}


# -- types that are refused ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64], ids=str)
def test_types_that_are_refused_say_what_to_type(dtype):
    makers = [
        lambda: Target.from_model(Network(), X, Y, dtype=dtype),
        lambda: Target.from_potential(lambda q: q.sum(), 2, dtype=dtype),
        lambda: Target.from_module(
            torch.nn.Linear(1, 1), torch.sub, (X, Y), dtype=dtype
        ),
        lambda: GibbsModel(Network(), torch.sub).target(X, Y, dtype=dtype),
    ]
    for make in makers:
        with pytest.raises(UnsupportedError, match=f"found {dtype}, .*torch.float32"):
            make()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_default_in_half_precision_is_refused(dtype):
    torch.set_default_dtype(dtype)  # put back by the fixture of all tests
    with pytest.raises(UnsupportedError, match="set_default_dtype"):
        Target.from_model(Network(), X, Y)
    assert Target.from_model(Network(), X, Y, dtype=SINGLE).dtype == SINGLE
