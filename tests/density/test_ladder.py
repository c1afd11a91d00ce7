"""The rungs: equal to rounding, reached where expected, left with a reason."""

import pickle
import warnings
from functools import partial
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch._inductor.config as config
from torch import Tensor

from pyro_geo._compat import torch as compat
from pyro_geo.density import Lifted, Target, ladder
from pyro_geo.density.functions import same_function
from pyro_geo.errors import ConfigurationError, FallbackWarning, UnsupportedError
from pyro_geo.ops.derivatives import value_and_grad
from tests.density.kinds import KINDS, X, Y

# A kind for each way down the ladder on every change, all of them in the slow suite;
# compiling takes seconds, so three of them there.
QUICK = (
    "hierarchical",
    "regression",
    "network",
    "mixture",
    "sequential_plate",
    "data_as_number",
    "mask_as_count",
)
ALL = pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in KINDS
    ],
)
COMPILED = [
    name if name in QUICK[:3] else pytest.param(name, marks=pytest.mark.slow)
    for name, kind in KINDS.items()
    if kind.rung != "sequential"
]


LAST_IS_Y = [name for name, kind in KINDS.items() if kind.args and kind.args[-1] is Y]


def positions(target, count=4):
    generator = torch.Generator().manual_seed(1)
    shape = (count, target.dim)
    return torch.randn(shape, generator=generator, dtype=target.dtype) * 0.5


def assert_equal_to_rounding(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def no_compiler(graph, examples):
    raise RuntimeError("no C++ compiler")


@pytest.mark.slow
@ALL
def test_each_kind_reaches_its_rung_and_says_every_step_down_once(name):
    kind = KINDS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target = Target.from_model(
            kind.model, *kind.args, dtype=torch.float64, **kind.kwargs
        )
        q = positions(target)
        traced = [target.value_and_grad(q) for _ in range(3)][-1]
        target.with_data(*kind.args, **kind.kwargs).value_and_grad(q)
        target.value_and_grad(q[:2])
        target.value_grad_hvp(q, q)
    assert target.rung == kind.rung
    assert [w.category for w in caught] == [FallbackWarning] * kind.warns
    assert [str(w.message) for w in caught] == target.notes
    for note in target.notes:
        assert ": found " in note
        assert ", expected " in note
        assert "slower" in note
    for rung in ("mapped", "sequential"):
        found = target.with_rung(rung).value_and_grad(q)
        for ours, theirs in zip(traced, found, strict=True):
            assert_equal_to_rounding(ours, theirs)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_is_traced_to_rounding(name):
    target = KINDS[name].target(compile=False)
    q = positions(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        traced = target.value_and_grad(q)
        fixed = target.with_rung("compiled")
        compiled = fixed.value_and_grad(q)
    assert fixed.rung == "compiled"
    assert target.rung == "traced"
    for ours, theirs in zip(compiled, traced, strict=True):
        assert_equal_to_rounding(ours, theirs)


@pytest.mark.parametrize("rung", ["traced", "compiled"])
@pytest.mark.parametrize("name", ["hierarchical", "network", "regression"])
def test_lanes_are_independent(name, rung):
    target = KINDS[name].target().with_rung(rung)
    q = positions(target, 64)
    value, grad = target.value_and_grad(q)
    broken = q.clone()
    broken[17] = torch.nan
    value_broken, grad_broken = target.value_and_grad(broken)
    others = torch.arange(64) != 17
    assert value_broken[17].isnan()
    assert torch.equal(value_broken[others], value[others])
    assert torch.equal(grad_broken[others], grad[others])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    value_moved, grad_moved = target.value_and_grad(q[order])
    if name == "regression":
        # one product of all lanes with a shared matrix: the last digits of a row of
        # a BLAS product can depend on its place
        assert_equal_to_rounding(grad_moved, grad[order])
    else:
        assert torch.equal(value_moved, value[order])
        assert torch.equal(grad_moved, grad[order])


def test_a_graph_keeps_the_dtype_that_it_was_traced_with():
    def potential(q):
        third = torch.full((1,), 1.0) / 3
        return (q * third * (torch.ones(1, dtype=torch.int64) / 3)).sum()

    target = Target.from_potential(potential, 1, dtype=torch.float64)
    q = torch.ones(2, 1, dtype=torch.float64)
    for rung in ("mapped", "traced", "compiled"):
        value, _ = target.with_rung(rung).value_and_grad(q)
        assert_equal_to_rounding(value, torch.full_like(value, -1.0 / 9))


def test_without_a_compiler_the_traced_graph_goes_on(monkeypatch):
    monkeypatch.setattr(ladder, "compile_graph", no_compiler)
    target = KINDS["regression"].target(compile=True)
    q = positions(target)
    with pytest.warns(FallbackWarning, match=r"'compiled'.*no C\+\+ compiler"):
        value, _ = target.value_and_grad(q)
    target.value_and_grad(q)  # a second warning would be an error
    assert len(target.notes) == 1
    assert target.rung == "traced"
    assert_equal_to_rounding(value, target.log_prob(q))


def test_a_compiler_that_knows_less_than_the_processor_is_asked(monkeypatch):
    tried = []

    def picky(graph, examples):
        tried.append(config.cpp.vec_isa_ok)
        if config.cpp.vec_isa_ok:
            raise RuntimeError("unrecognized command-line option '-mavx512f'")
        return graph

    monkeypatch.setattr(compat, "_compile", picky)
    target = KINDS["regression"].target(compile=True)
    target.value_and_grad(positions(target))
    assert tried == [True, None]
    assert target.rung == "compiled"


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self, q, x, y):
        self.calls += 1
        return ((x @ q - y) ** 2).sum()


@pytest.mark.parametrize("rung", ["traced", "compiled"])
def test_new_data_need_no_new_trace(rung):
    fn = Counter()
    target = Target.from_potential(fn, 3, X, Y, dtype=torch.float64).with_rung(rung)
    q = positions(target)
    target.value_and_grad(q)
    calls = fn.calls
    found = target.with_data(X + 1, 2 * Y).value_and_grad(q)
    assert fn.calls == calls
    fresh = Target.from_potential(fn, 3, X + 1, 2 * Y, dtype=torch.float64)
    for ours, theirs in zip(found, fresh.value_and_grad(q), strict=True):
        assert_equal_to_rounding(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAST_IS_Y)
def test_new_data_equal_a_fresh_target(name):
    kind = KINDS[name]
    other = -Y.flip(0) + 0.3
    new = (*kind.args[:-1], other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        target = kind.target()
        q = positions(target)
        before = target.value_and_grad(q)
        found = target.with_data(*new).value_and_grad(q)
        fresh = Target.from_model(kind.model, *new, dtype=torch.float64)
        for ours, theirs in zip(found, fresh.value_and_grad(q), strict=True):
            assert_equal_to_rounding(ours, theirs)
        assert torch.equal(target.value_and_grad(q)[0], before[0])


@pytest.mark.parametrize("rung", ["traced", "compiled"])
def test_one_tensor_passed_twice_stays_two_inputs(rung):
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)

    target = Target.from_model(model, Y, Y, dtype=torch.float64).with_rung(rung)
    q = positions(target)
    target.value_and_grad(q)
    found = target.with_data(Y, 3 * Y).value_and_grad(q)[0]
    assert_equal_to_rounding(found, target.with_data(Y, 3 * Y).log_prob(q))

    product = Lifted(lambda data, x, y: x * x * y, name="product")
    two = torch.full((2,), 2.0)
    product((), two, two, rung=rung)
    assert product((), two, two + 1, rung=rung).tolist() == [12.0, 12.0]


@pytest.mark.parametrize("rung", ["traced", "compiled"])
def test_strides_may_change_between_calls(rung):
    target = KINDS["regression"].target().with_rung(rung)
    q = positions(target)
    value, _ = target.value_and_grad(q)
    for other in (q.T.contiguous().T, torch.cat([q, q], 1)[:, : target.dim]):
        assert_equal_to_rounding(target.value_and_grad(other)[0], value)


class Pair(NamedTuple):
    first: Tensor
    rest: tuple[Tensor, tuple[Tensor, ...]]


@pytest.mark.parametrize("rung", ["mapped", "traced", "compiled"])
def test_trees_go_in_and_out(rung):
    def swap(data, pair, factor):
        a, (b, (c,)) = pair
        return Pair(b * factor, (c + data[0], (a,))), factor

    x = [torch.full((2,), float(i)) for i in range(4)]
    lifted = Lifted(swap, name="swap")
    pair, factor = lifted((x[3],), Pair(x[0], (x[1], (x[2],))), x[2], rung=rung)
    assert isinstance(pair, Pair)
    assert [
        t.tolist() for t in (pair.first, pair.rest[0], pair.rest[1][0], factor)
    ] == [
        [2.0, 2.0],
        [5.0, 5.0],
        [0.0, 0.0],
        [2.0, 2.0],
    ]


def test_only_trees_of_tensors_go_in():
    lifted = Lifted(lambda data, x: x, name="identity")
    with pytest.raises(UnsupportedError, match="found dict, expected a tensor"):
        lifted((), {"x": torch.zeros(1)})


def test_whole_steps_are_lifted():
    target = KINDS["hierarchical"].target()
    size = torch.tensor(0.01, dtype=torch.float64)

    def leapfrog(density, q, p, size):
        log_prob = density.log_prob
        p = p + 0.5 * size * value_and_grad(log_prob, q)[1]
        q = q + size * p
        value, grad = value_and_grad(log_prob, q)
        return q, p + 0.5 * size * grad, value

    lifted = target.lift("leapfrog", leapfrog, "leapfrog")
    q = positions(target)
    p = torch.ones_like(q)
    expected = leapfrog(target, q, p, size)
    for rung in ("traced", "compiled"):
        found = lifted.specialise(target.data, q, p, size, rung=rung)(q, p, size)
        for ours, theirs in zip(found, expected, strict=True):
            assert_equal_to_rounding(ours, theirs)
            assert not ours.requires_grad


def scaled(factor):
    return lambda target, q: factor * target.log_prob(q)


def test_a_key_stands_for_one_function():
    target = Target.from_potential(lambda q: (q * q).sum(), 2)
    lifted = target.lift("scaled", scaled(2.0), "scaled")
    # the same line run again makes another object of the same function
    assert target.lift("scaled", scaled(2.0), "scaled") is lifted
    assert target.with_rung("traced").lift("scaled", scaled(2.0), "scaled") is lifted
    for other in (scaled(3.0), lambda density, q: density.log_prob(q)):
        with pytest.raises(
            ConfigurationError, match="taken by another one .*key 'scaled'"
        ):
            target.lift("scaled", other, "scaled")
    assert lifted(target.data, torch.ones(1, 2)).tolist() == [-4.0]


class Settings:
    def __init__(self, number):
        self.number = number

    def apply(self, x):
        return self.number * x


def closed_over(value, other=None):
    return lambda x: (value, other, x)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (closed_over(1), closed_over(1), True),
        (closed_over(1), closed_over(2), False),
        (closed_over(scaled(1.0)), closed_over(scaled(1.0)), True),
        (closed_over(scaled(1.0)), closed_over(scaled(2.0)), False),
        (closed_over(torch.ones(2)), closed_over(torch.ones(2)), True),
        (closed_over(torch.ones(2)), closed_over(torch.zeros(2)), False),
        (closed_over(Settings(1)), closed_over(Settings(1)), True),
        (closed_over(Settings(1)), closed_over(Settings(2)), False),
        (Settings(1).apply, Settings(1).apply, True),
        (Settings(1).apply, Settings(2).apply, False),
        (partial(scaled, factor=1), partial(scaled, factor=1), True),
        (partial(scaled, factor=1), partial(scaled, factor=2), False),
        (partial(scaled, factor=1), scaled(1), False),
        (closed_over({"a": 1}), closed_over({"a": 1}), True),
        (closed_over({"a": 1}), closed_over({"b": 1}), False),
        (closed_over(object()), closed_over(object()), False),
    ],
)
def test_functions_are_the_same_by_code_and_by_what_they_hold(first, second, same):
    assert same_function(first, second) is same


def test_a_function_that_reads_its_input_is_run_as_it_is():
    lifted = Lifted(lambda data, x: x * float(x.sum()), name="reader")
    with pytest.warns(FallbackWarning, match="reader cannot use the rung 'traced'"):
        assert lifted((), torch.ones(2)).tolist() == [2.0, 2.0]
    assert lifted((), torch.full((2,), 2.0)).tolist() == [8.0, 8.0]
    assert lifted.rung == "mapped"
    assert len(lifted.notes) == 1


def test_writes_in_place_survive_tracing():
    def potential(q):
        x = q.clone()
        x[0] = 2 * x[1]
        return (x * x).sum()

    target = Target.from_potential(potential, 2, dtype=torch.float64)
    q = positions(target)
    value, grad = target.value_and_grad(q)
    torch.testing.assert_close(value, -5 * q[:, 1] ** 2)
    expected = torch.stack([torch.zeros(len(q)).double(), -10 * q[:, 1]], -1)
    torch.testing.assert_close(grad, expected)


def test_compiling_leaves_randomness_alone():
    before = torch.get_rng_state()
    square = Lifted(lambda data, x: x * x + 1, name="square")
    square((), torch.ones(3), rung="compiled")
    assert torch.equal(torch.get_rng_state(), before)


def test_targets_pickle_without_their_graphs():
    target = KINDS["regression"].target()
    q = positions(target)
    value, _ = target.value_and_grad(q)
    copy = pickle.loads(pickle.dumps(target))
    assert torch.equal(copy.value_and_grad(q)[0], value)


def test_lanes_do_not_write_into_each_other_when_compiled():
    # Inductor writes in place into the constant that all lanes would share
    rows, columns = torch.triu_indices(4, 4, 1)

    def potential(q):
        matrix = torch.zeros(4, 4, dtype=q.dtype).index_put((rows, columns), q)
        return matrix.cos().sum(0).square().sum()

    target = Target.from_potential(potential, 6, dtype=torch.float64, compile=True)
    q = torch.randn(3, 6, dtype=torch.float64)
    value, _ = target.value_and_grad(q)
    torch.testing.assert_close(value, target.log_prob(q))
