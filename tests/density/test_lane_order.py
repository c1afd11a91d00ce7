"""A lane's numbers do not depend on its place, products with shared data included."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_geo.density import Lifted, Target
from pyro_geo.density._lane_order import depends_on_lane, separate_products
from tests.density.kinds import KINDS

# Sizes at which the BLAS was seen to treat the rows of one product differently.
SHAPES = [(64, 10, 6, torch.float32), (64, 5, 100, torch.float64)]


def product(shape, flip):
    num_rows, inner, columns, dtype = shape
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(num_rows, inner, generator=generator, dtype=dtype)
    x = torch.randn(columns, inner, generator=generator, dtype=dtype)
    if flip:  # lanes as columns of the product, as `x @ w` becomes when mapped
        return q, x, lambda data, q: torch.tanh(data[0] @ q.T).T.sum(-1)
    return q, x, lambda data, q: torch.tanh(q @ data[0].T).sum(-1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_lanes_can_be_permuted_bitwise(shape, flip):
    q, x, fn = product(shape, flip)
    step = Lifted(fn, name="product").specialise((x,), q, laned=(True,))
    values = step(q)
    torch.testing.assert_close(values, fn((x,), q))
    for seed in range(5):
        order = torch.randperm(len(q), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(step(q[order]), values[order])


def test_only_graphs_that_need_it_are_changed():
    q = torch.randn(64, 3)

    def elementwise(data, q):
        return (q * data[0]).sin().sum(-1)

    lifted = Lifted(elementwise, name="elementwise")
    lifted.specialise((torch.ones(3),), q, laned=(True,))
    (traced,) = lifted._traces.values()
    assert not any("bmm" in str(node.target) for node in traced.graph.graph.nodes)


@pytest.mark.parametrize("flip", [False, True])
def test_separate_products_are_the_same_products(flip):
    q, x, fn = product(SHAPES[0], flip)
    graph = make_fx(lambda q: [fn((x,), q)])(q)
    separate_products(graph, len(q))
    targets = [str(node.target) for node in graph.graph.nodes]
    assert not any("aten.mm" in target for target in targets)
    torch.testing.assert_close(graph(q)[0], fn((x,), q))
    assert not depends_on_lane(graph, [q], [True])


def test_a_lane_dependence_is_seen():
    def first_is_special(q):
        return [q.sum(-1) + torch.arange(len(q))]

    q = torch.randn(4, 2)
    graph = make_fx(first_is_special)(q)
    assert depends_on_lane(graph, [q], [True])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["hierarchical", "regression", "network"])
def test_gradients_of_models_do_not_depend_on_the_lane(kind, dtype):
    model, args, *_ = KINDS[kind]
    target = Target.from_model(model, *args, dtype=dtype)
    q = target.initial(32, "uniform", torch.Generator().manual_seed(0))

    def gradient(density, q):
        from pyro_geo.ops.derivatives import value_and_grad

        return value_and_grad(density.log_prob, q)

    step = target.lift("gradient", gradient, "gradient").specialise(
        target.data, q, laned=(True,)
    )
    value, grad = step(q)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    permuted, permuted_grad = step(q[order])
    assert torch.equal(permuted, value[order])
    assert torch.equal(permuted_grad, grad[order])
    q[5] = torch.nan
    poisoned, poisoned_grad = step(q)
    others = torch.arange(32) != 5
    assert torch.equal(poisoned[others], value[others])
    assert torch.equal(poisoned_grad[others], grad[others])
