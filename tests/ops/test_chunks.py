"""One chunked map: the same values in any chunks, and chunks that fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.ops.chunks import map_chunks, rows_that_fit


def quantities(q):
    return {"sum": q.sum(-1), "pair": (2 * q, [q.exp()])}


@given(n=st.integers(1, 30), size=st.integers(1, 40))
def test_chunks_of_any_size_give_the_same_tree(n, size):
    q = torch.arange(3.0 * n).reshape(n, 3) / n
    found, expected = map_chunks(quantities, q, size), quantities(q)
    assert torch.equal(found["sum"], expected["sum"])
    assert torch.equal(found["pair"][0], expected["pair"][0])
    assert torch.equal(found["pair"][1][0], expected["pair"][1][0])


def test_chunks_come_in_order_and_no_larger_than_asked():
    seen = []

    def record(q):
        seen.append(q.tolist())
        return q

    assert map_chunks(record, torch.arange(5), 2).tolist() == [0, 1, 2, 3, 4]
    assert seen == [[0, 1], [2, 3], [4]]


def test_without_a_size_as_many_rows_go_at_once_as_fit():
    lengths = []

    def wide(q):
        lengths.append(len(q))
        return (q.expand(len(q), 1 << 20) + 1).sum(-1)

    assert map_chunks(wide, torch.zeros(5, 1)).tolist() == [float(1 << 20)] * 5
    assert lengths == [1, 2, 2, 1]  # the first call only looks
    assert rows_that_fit(lambda: torch.ones(1)) == 4096
    assert rows_that_fit(lambda: torch.ones(1).expand(1 << 30)) == 4096  # a view
    assert rows_that_fit(lambda: torch.ones(1 << 22)) == 1


def test_a_function_without_outputs_runs_once():
    calls = []

    def nothing(q):
        calls.append(len(q))
        return {}

    assert map_chunks(nothing, torch.zeros(9000, 1)) == {}
    assert calls == [1]


@pytest.mark.parametrize("asked", [True, False])
def test_gradients_are_tracked_where_the_rows_ask_for_them(asked):
    q = torch.ones(5, 2, requires_grad=asked)
    weight = torch.ones((), requires_grad=True)
    found = map_chunks(lambda x: weight * x.square().sum(-1), q, 2)
    assert found.requires_grad == asked
    if asked:
        (gradient,) = torch.autograd.grad(found.sum(), q)
        assert torch.equal(gradient, 2 * torch.ones(5, 2))
