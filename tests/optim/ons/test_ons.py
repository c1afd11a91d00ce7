"""Online Newton steps: ridge regression, exact removal, laws of forgetting."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.errors import (
    ConfigurationError,
    MissingGradientLogError,
    NonFiniteStateError,
    NotPositiveDefiniteError,
    ShapeError,
    SparseGradientError,
)
from pyro_geo.geometry.distances import airm
from pyro_geo.optim import EigenONS
from pyro_geo.optim.ons import add, empty, ggn_factor, remove
from tests.cases import numbers
from tests.elsewhere import AWAY, home, second_device


def outer(columns: torch.Tensor, floor: float = 1.0) -> torch.Tensor:
    return floor * torch.eye(len(columns)).double() + columns @ columns.mT


def filled(dim: int, m: int, seed: int = 0, rank: int | None = None):
    columns = numbers(dim, m, seed=seed)
    return add(empty(dim), columns, dim if rank is None else rank), columns


@given(
    dim=st.integers(1, 7),
    sizes=st.lists(st.integers(1, 4), max_size=4),
    seed=st.integers(0, 999),
)
def test_blocks_add_up_to_the_sum_of_outer_products(dim, sizes, seed):
    memory, every = empty(dim, 0.5), torch.zeros(dim, 0).double()
    for i, m in enumerate(sizes):
        columns = numbers(dim, m, seed=seed + i)
        every = torch.cat([every, columns], 1)
        memory = add(memory, columns, dim)
    dense = outer(every, 0.5)
    torch.testing.assert_close(memory.matrix().dense(), dense)
    x = numbers(3, dim, seed=seed)
    torch.testing.assert_close(memory.solve(x), x @ torch.linalg.inv(dense))
    gram = memory.vectors.mT @ memory.vectors
    torch.testing.assert_close(gram, torch.eye(len(gram)).double())


@given(dim=st.integers(2, 8), seed=st.integers(0, 999))
def test_what_was_added_can_be_removed_exactly(dim, seed):
    kept, gone = numbers(dim, 3, seed=seed), numbers(dim, 2, seed=seed + 1)
    memory = add(add(empty(dim), gone, dim), kept, dim)
    rest = remove(memory, gone)
    torch.testing.assert_close(rest.memory.matrix().dense(), outer(kept))
    assert rest.clipped < 1e-9


def test_columns_that_repeat_add_no_direction():
    column = numbers(6, 1)
    memory = add(empty(6), torch.cat([column, 2 * column], 1), 6)
    assert memory.vectors.shape == (6, 1)
    torch.testing.assert_close(memory.values, 5 * column.square().sum(0))
    assert add(memory, torch.zeros(6, 1).double(), 6).vectors.shape == (6, 1)


def test_removal_of_what_was_never_added_is_refused():
    memory, _ = filled(6, 3)
    with pytest.raises(NotPositiveDefiniteError, match="more is removed"):
        remove(memory, numbers(6, 1, seed=9))
    rest = remove(memory, numbers(6, 1, seed=9), allow_clip=True)
    assert rest.clipped > 0.01
    assert bool((rest.memory.values >= 0).all())


def test_few_eigenvectors_are_those_of_the_largest_eigenvalues():
    memory, columns = filled(8, 6, rank=3)
    values = torch.linalg.eigvalsh(columns @ columns.mT).flip(0)
    torch.testing.assert_close(memory.values, values[:3])
    robust = add(empty(8), columns, 3, "rfd")
    torch.testing.assert_close(robust.values, values[:3] - values[3])
    torch.testing.assert_close(robust.floor, 1 + values[3] / 2)


def test_directions_stay_orthonormal_over_many_steps():
    memory = empty(30)
    for i in range(600):
        memory = add(memory, numbers(30, 1, seed=i), 5)
    gram = memory.vectors.mT @ memory.vectors
    torch.testing.assert_close(gram, torch.eye(5).double(), rtol=0, atol=1e-11)


# -- the optimiser --------------------------------------------------------------------


def regress(x, y, *, tags=None, **options) -> tuple[EigenONS, torch.Tensor]:
    """Go through the rows once."""
    weight = torch.nn.Parameter(torch.zeros(x.shape[1], dtype=torch.float64))
    options = {"rank": x.shape[1], "floor": 0.7, "statistic": "ggn"} | options
    optimizer = EigenONS([weight], **options)
    for i, (row, value) in enumerate(zip(x, y, strict=True)):
        optimizer.zero_grad()
        output = (row @ weight).reshape(1, 1)
        factor = ggn_factor(output, [weight])
        (0.5 * (output - value).square().sum()).backward()
        optimizer.step(factor=factor, tag=i if tags is None else tags[i])
    return optimizer, weight.detach()


def ridge(x, y, penalty: float = 0.7) -> torch.Tensor:
    return torch.linalg.solve(
        x.mT @ x + penalty * torch.eye(x.shape[1]).double(), x.mT @ y
    )


def test_steps_with_squared_loss_are_ridge_regression():
    x, y = numbers(40, 5), numbers(40, seed=1)
    optimizer, weight = regress(x, y)
    torch.testing.assert_close(weight, ridge(x, y), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(optimizer.matrix().dense(), outer(x.mT, 0.7))


def test_deletion_from_recursive_least_squares_is_ridge_on_the_rest():
    x, y = numbers(40, 5), numbers(40, seed=1)
    optimizer, weight = regress(x, y, log="all")
    gone = [3, 4, 17]
    kept = [i for i in range(40) if i not in gone]
    gradient = x[gone].mT @ (x[gone] @ weight - y[gone])
    optimizer.remove(gone)
    # one Newton step of the retained loss from its old minimum
    moved = weight + optimizer.memory.solve(gradient)
    torch.testing.assert_close(moved, ridge(x[kept], y[kept]), rtol=1e-10, atol=1e-10)
    never, _ = regress(x[kept], y[kept])
    assert airm(optimizer.matrix(), never.matrix(), scale_free=False) < 1e-10


def test_a_moving_average_gives_each_step_its_weight():
    x, y, beta = numbers(12, 4), numbers(12, seed=1), 0.8
    optimizer, _ = regress(x, y, beta=beta, log="all")
    weights = torch.tensor([(1 - beta) * beta ** (11 - i) for i in range(12)]).double()
    expected = outer((x * weights.sqrt()[:, None]).mT, 0.7)
    torch.testing.assert_close(optimizer.matrix().dense(), expected)
    optimizer.remove([2])
    weights[2] = 0
    expected = outer((x * weights.sqrt()[:, None]).mT, 0.7)
    torch.testing.assert_close(optimizer.matrix().dense(), expected)


def test_a_difference_decays_by_the_average_and_never_without_one():
    x, y, beta = numbers(12, 4), numbers(12, seed=1), 0.9
    later, answers = numbers(20, 4, seed=2), numbers(20, seed=3)

    def gap(**options):
        found = []
        for rows in (slice(None), slice(4, None)):  # with the first four and without
            for more in (0, 20):
                data = torch.cat([x[rows], later[:more]])
                target = torch.cat([y[rows], answers[:more]])
                found.append(regress(data, target, **options)[0].matrix().dense())
        return found[0] - found[2], found[1] - found[3]

    before, after = gap(beta=beta)
    torch.testing.assert_close(after, beta**20 * before)
    half = math.log(2) / -math.log(beta)
    assert beta**half == pytest.approx(0.5)
    before, after = gap()
    torch.testing.assert_close(after, before)


def test_a_residue_orthogonal_to_all_that_follows_stays_as_it_is():
    m, c, floor = 3, 2.0, 0.5
    memory, never = empty(6, floor), empty(6, floor)
    axis = torch.eye(6).double()[:, :1]
    for _ in range(m):
        memory = add(memory, c * axis, 6)
    for i in range(10):
        step = numbers(6, 1, seed=i)
        step[0] = 0.0
        memory, never = add(memory, step, 6), add(never, step, 6)
        found = airm(never.matrix(), memory.matrix(), scale_free=False)
        assert found == pytest.approx(math.log1p(m * c**2 / floor))


def test_a_quadratic_is_minimised_with_any_rank(seed):
    matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0]).double())
    for rank in (1, 3):
        weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = EigenONS([weight], 0.3, rank=rank, floor=1.0, beta=0.5)

        def closure(weight=weight, optimizer=optimizer):
            optimizer.zero_grad()
            loss = 0.5 * weight @ matrix @ weight
            loss.backward()
            return loss

        losses = [optimizer.step(closure).detach() for _ in range(200)]
        assert float(losses[-1]) < 1e-8


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli", "categorical"])
def test_columns_are_those_of_the_gauss_newton_matrix(likelihood):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
    net.append(torch.nn.Linear(4, 3)).double()
    x = numbers(5, 3)
    outputs = net(x)
    columns = ggn_factor(outputs, net.parameters(), likelihood)

    def loss(z):
        if likelihood == "normal":
            return 0.5 * z.square().sum()
        if likelihood == "bernoulli":
            return torch.nn.functional.softplus(z).sum()
        return z.logsumexp(-1).sum()

    flat = outputs.detach()
    hessian = torch.func.hessian(loss)(flat).reshape(15, 15)
    rows = [
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    z, list(net.parameters()), retain_graph=True
                )
            ]
        )
        for z in outputs.flatten()
    ]
    jacobian = torch.stack(rows)
    torch.testing.assert_close(columns @ columns.mT, jacobian.mT @ hessian @ jacobian)


def test_a_loaded_state_goes_on_as_the_saved_one():
    x, y = numbers(20, 4), numbers(20, seed=1)
    one, weight = regress(x[:10], y[:10], log="all", rank=2)
    saved = copy.deepcopy(one.state_dict())
    other = torch.nn.Parameter(weight.clone())
    two = EigenONS([other], rank=2, floor=0.7, statistic="ggn", log="all")
    two.load_state_dict(saved)
    assert list(two.entries) == list(range(10))
    mine = one.param_groups[0]["params"][0]
    for optimizer, param in ((one, mine), (two, other)):
        param.grad = x[11].clone()
        optimizer.step(factor=x[11][:, None])
    assert torch.equal(mine, other)
    assert torch.equal(one.memory.vectors, two.memory.vectors)
    assert two.steps == 11
    assert torch.equal(copy.deepcopy(two).memory.vectors, two.memory.vectors)
    two.reset()
    assert two.steps == 0
    torch.testing.assert_close(two.matrix().dense(), 0.7 * torch.eye(4).double())


def test_groups_have_their_own_learning_rates():
    one, two = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [one], "lr": 1.0}, {"params": [two], "lr": 0.0}]
    optimizer = EigenONS(groups, rank=1)
    one.grad, two.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert float(one.detach()) == pytest.approx(-1 / 3)
    assert float(two.detach()) == 0.0


def test_a_state_that_is_loaded_elsewhere_can_be_removed_from():
    weight = torch.nn.Parameter(torch.zeros(3))
    here = EigenONS([weight], log="all")
    weight.grad = torch.ones(3)
    here.step(tag="a")
    with second_device() as put:
        there = EigenONS([put(torch.zeros(3, requires_grad=True))], log="all")
        there.load_state_dict(here.state_dict())
        assert there.entries["a"][0].columns.device == AWAY
        there.remove(["a"])
        left = home(there.matrix().dense())
    torch.testing.assert_close(left, torch.eye(3).double())
    assert list(here.entries) == ["a"]


# -- mistakes -------------------------------------------------------------------------


def test_a_step_that_is_not_finite_changes_nothing():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = EigenONS([weight])
    weight.grad = torch.tensor([1.0, float("nan")])
    with pytest.raises(NonFiniteStateError, match="gradient of step 1"):
        optimizer.step()
    assert torch.equal(weight.detach(), torch.zeros(2))
    assert optimizer.memory.vectors.shape == (2, 0)


def test_steps_that_were_not_written_down_cannot_be_removed():
    x, y = numbers(6, 3), numbers(6, seed=1)
    none, _ = regress(x, y)
    with pytest.raises(MissingGradientLogError, match="log='none'"):
        none.remove([1])
    some, _ = regress(x, y, log="tagged", tags=["a", None, "a", None, None, None])
    with pytest.raises(MissingGradientLogError):
        some.remove([2])
    some.remove(["a"])
    torch.testing.assert_close(some.matrix().dense(), outer(x[[1, 3, 4, 5]].mT, 0.7))
    with pytest.raises(MissingGradientLogError):
        some.remove(["a"])


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(3, 2, sparse=True)
    optimizer = EigenONS(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(SparseGradientError):
        optimizer.step()


def test_mistakes_are_named():
    weight = torch.nn.Parameter(torch.zeros(2))
    options: Any = ({"rank": 0}, {"floor": 0.0}, {"beta": 1.0}, {"lost": "keep"})
    for option in options:
        with pytest.raises(ConfigurationError, match=next(iter(option))):
            EigenONS([weight], **option)
    optimizer = EigenONS([weight], statistic="ggn")
    weight.grad = torch.ones(2)
    with pytest.raises(ConfigurationError, match="factor"):
        optimizer.step()
    with pytest.raises(ShapeError):
        optimizer.step(factor=torch.ones(3, 1))
    with pytest.raises(ShapeError):
        add(empty(3), torch.ones(2, 1), 3)
