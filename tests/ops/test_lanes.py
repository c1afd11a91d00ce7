"""Trajectories on a fixed number of lanes."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves as leaves

from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.mcmc.dims.state import is_active
from pyro_geo.ops.lanes import map_lanes, run_lanes
from tests.infer.mcmc.dims.flows import Flow, double_params, network


class Countdown(NamedTuple):
    left: Tensor
    steps: Tensor
    name: Tensor


def count(state: Countdown) -> Countdown:
    going = state.left > 0
    return Countdown(state.left - going.long(), state.steps + going, state.name)


def going(state: Countdown) -> Tensor:
    return state.left > 0


def waiting(n: int) -> Countdown:
    left = torch.randint(0, 30, (n,), generator=torch.Generator().manual_seed(n))
    name = torch.arange(n, dtype=torch.float64)[:, None] * torch.ones(2)
    return Countdown(left, torch.zeros_like(left), name)


@pytest.mark.parametrize("n", [1, 5, 16, 17, 100])
@pytest.mark.parametrize("num_lanes", [1, 5, 16])
@pytest.mark.parametrize("check_every", [1, 7])
def test_every_trajectory_ends_in_its_own_row(n, num_lanes, check_every):
    queue = waiting(n)
    before = [x.clone() for x in queue]
    sizes = set()

    def step(state):
        sizes.add(tuple(len(x) for x in state))
        return count(state)

    result = run_lanes(step, queue, num_lanes, active=going, check_every=check_every)
    assert torch.equal(result.steps, queue.left)
    assert torch.equal(result.left, torch.zeros_like(queue.left))
    assert torch.equal(result.name, queue.name)
    assert sizes == {(num_lanes,) * 3}
    assert all(torch.equal(a, b) for a, b in zip(before, queue, strict=True))


def test_progress_counts_up_to_all():
    seen = []
    run_lanes(
        count,
        waiting(40),
        8,
        active=going,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    done = [d for d, _ in seen]
    assert done == sorted(set(done))
    assert seen[-1] == (40, 40)


def test_a_step_may_return_one_tensor_twice():
    def step(state):
        left, steps, _ = count(state)
        return Countdown(left, steps, steps[:, None])

    queue = waiting(20)._replace(name=torch.zeros(20, 1, dtype=torch.long))
    result = run_lanes(step, queue, 4, active=going)
    assert torch.equal(result.steps, queue.left)
    assert torch.equal(result.name[:, 0], queue.left)


@pytest.mark.parametrize(
    ("n", "options", "name"),
    [
        (3, {"num_lanes": 0}, "num_lanes"),
        (0, {}, "queue"),
        (3, {"k": 0}, "check_every"),
    ],
)
def test_nothing_to_run_is_refused(n, options, name):
    with pytest.raises(ConfigurationError, match=name):
        run_lanes(
            count,
            Countdown(*(x[:n] for x in waiting(5))),
            options.get("num_lanes", 2),
            active=going,
            check_every=options.get("k", 1),
        )


@pytest.mark.parametrize("n", [1, 7, 8, 9])
def test_mapping_over_chunks_is_mapping_over_all(n):
    x = torch.arange(2.0 * n).reshape(n, 2)
    sizes = []

    def total(pair):
        sizes.append(len(pair[0]))
        return {"sum": pair[0].sum(-1), "twice": 2 * pair[1]}

    result = map_lanes(total, (x, x), 4)
    assert torch.equal(result["sum"], x.sum(-1))
    assert torch.equal(result["twice"], 2 * x)
    assert set(sizes) == {4}


def _flow(q: Tensor, v: Tensor, num_lanes: int, check_every: int = 4):
    params = double_params(
        end_time=(0.2, 0.2),
        mu_quadratic=(0.5, 0.0),
        mu_linear=(0.0, 3.0),
        energy_atol=0.1,
    )
    flow = Flow(network, params, euclidean=True)
    queue = map_lanes(lambda pair: flow.start(*pair), (q, v), num_lanes)
    return run_lanes(
        flow.step, queue, num_lanes, active=is_active, check_every=check_every
    )


def test_refilled_lanes_give_what_lanes_give_at_once():
    generator = torch.Generator().manual_seed(0)
    q, v = torch.randn(2, 24, 12, generator=generator, dtype=torch.float64)
    lanes = 8
    refilled = _flow(q, v, lanes)
    for first in range(0, 24, lanes):
        rows = slice(first, first + lanes)
        at_once = _flow(q[rows], v[rows], lanes, check_every=1)
        for one, other in zip(leaves(refilled), leaves(at_once), strict=True):
            assert torch.equal(one[rows], other)


def test_the_order_in_the_queue_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    q, v = torch.randn(2, 20, 12, generator=generator, dtype=torch.float64)
    order = torch.randperm(20, generator=generator)
    plain, permuted = _flow(q, v, 8), _flow(q[order], v[order], 8)
    for one, other in zip(leaves(plain), leaves(permuted), strict=True):
        assert torch.equal(one[order], other)
