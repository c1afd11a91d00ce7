"""Adam and L-BFGS of many starts at once."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from pyro_geo.optim.descent import adam, adam_step, lbfgs

pytestmark = pytest.mark.usefixtures("double_precision")


def rosenbrock(q: Tensor) -> tuple[Tensor, Tensor]:
    x, y = q.unbind(-1)
    value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    slope = [-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)]
    return value, torch.stack(slope, -1)


def test_lbfgs_follows_the_curved_valley():
    starts = torch.tensor([[-1.2, 1.0], [2.0, 2.0], [0.0, -1.0]])
    found = lbfgs(rosenbrock, starts, 200)
    torch.testing.assert_close(found, torch.ones(3, 2), rtol=0.0, atol=1e-8)


def test_lbfgs_never_goes_up():
    q = torch.tensor([[-1.2, 1.0], [3.0, -4.0]])
    losses = torch.stack([rosenbrock(lbfgs(rosenbrock, q, n))[0] for n in range(30)])
    assert (losses.diff(dim=0) <= 0).all()


def test_lbfgs_with_a_tolerance_rests_at_minima():
    starts = torch.tensor([[1.1, 1.1], [-1.2, 1.0]])
    calls = []

    def counted(q: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(q))
        value, slope = rosenbrock(q)
        return value + 1e6, slope  # rounding decides near the minimum

    found = lbfgs(counted, starts, 200, tolerance=2e-9)
    short = len(calls)
    lbfgs(counted, starts, 200)
    assert float(rosenbrock(found)[0].max()) < 1e-8
    assert short <= len(calls) - short
    # to rest too early is to stop too high
    early = lbfgs(rosenbrock, starts, 200, tolerance=2.0)
    assert float(rosenbrock(early)[0][1]) > 1e-3


def test_lbfgs_ends_on_a_quadratic_and_stays():
    scales = torch.tensor([1.0, 10.0, 1e4])

    def bowl(q: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * (scales * q * q).sum(-1), scales * q

    found = lbfgs(bowl, torch.ones(2, 3), 100)
    torch.testing.assert_close(found, torch.zeros(2, 3), rtol=0.0, atol=1e-7)
    torch.testing.assert_close(lbfgs(bowl, found, 5), found)


def test_a_lane_of_lbfgs_stops_where_little_is_left():
    scales = torch.tensor([1.0, 100.0])
    evaluated = []

    def bowl(q: Tensor) -> tuple[Tensor, Tensor]:
        evaluated.append(q)
        return 0.5 * (scales * q * q).sum(-1), scales * q

    found = lbfgs(bowl, torch.ones(1, 2), 100, tolerance=1e-2)
    assert 0.0 < float(bowl(found)[0]) < 1e-2
    few = len(evaluated)
    evaluated.clear()
    lbfgs(bowl, torch.ones(1, 2), 100)
    assert few < len(evaluated)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "minimise",
    [
        lambda f, q: adam(partial(adam_step, f), q, 40, 0.1).last,
        lambda f, q: lbfgs(f, q, 40),
    ],
)
def test_a_bad_lane_stays_and_leaves_the_others_alone(bad, minimise):
    def fn(q: Tensor) -> tuple[Tensor, Tensor]:
        value, g = rosenbrock(q)
        broken = q[:, :1] > 4
        return torch.where(broken[:, 0], bad, value), torch.where(broken, math.nan, g)

    starts = torch.tensor([[-1.2, 1.0], [5.0, 0.0], [2.0, 2.0]])
    found = minimise(fn, starts)
    assert torch.equal(found[1], starts[1])
    assert torch.equal(found[[0, 2]], minimise(fn, starts[[0, 2]]))


def test_adam_first_step_has_the_size_of_the_learning_rate():
    moved = adam(partial(adam_step, rosenbrock), torch.zeros(1, 2), 1, 0.1).last
    torch.testing.assert_close(moved, torch.tensor([[0.1, 0.0]]))


def test_adam_is_that_of_torch():
    q = torch.tensor([[-1.2, 1.0], [2.0, 2.0]])
    ours = adam(partial(adam_step, rosenbrock), q, 50, 0.05).last
    theirs = q.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: 0.5 * (1 + math.cos(math.pi * t / 50))
    )
    for _ in range(50):
        theirs.grad = rosenbrock(theirs.detach())[1]
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_adam_remembers_its_best_and_stops_each_lane_for_itself():
    def bowl(q: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(q)
        return 1e3 * (q * q).sum(-1), 2e3 * q

    calls: list[Tensor] = []
    starts = torch.tensor([[0.0], [30.0]])
    step = partial(adam_step, bowl)
    found = adam(step, starts, 4_000, 0.1, check_every=50)
    assert 100 < len(calls) < 4_000
    # the first lane starts at the minimum and stops after two looks
    assert torch.equal(found.best[0], starts[0])
    losses = torch.stack([bowl(q)[0] for q in list(calls)])
    assert torch.equal(bowl(found.best)[0], losses.min(0).values)
    alone = adam(step, starts[1:], 4_000, 0.1, check_every=50)
    for both, one in zip(found, alone, strict=True):
        assert torch.equal(both[1:], one)
