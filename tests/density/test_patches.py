"""Pieces of Pyro and torch that are replaced while a density runs."""

import math
import threading
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.ops.special
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.density._modes import DensityMode
from pyro_geo.density._patches import mappable_pyro
from tests.density.kinds import KINDS


def test_pieces_are_put_back_when_the_last_density_leaves():
    def current():
        return pyro.ops.special._SafeLog, dist.OrderedLogistic.__init__

    def fail():
        with mappable_pyro():
            assert current()[0] is not original[0]
            with mappable_pyro():
                pass
            assert current()[1] is not original[1]
            raise ZeroDivisionError

    original = current()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert current() == original
    inside, leave = threading.Event(), threading.Event()

    def other():
        with mappable_pyro():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with mappable_pyro():
        pass
    assert current()[0] is not original[0]
    leave.set()
    thread.join()
    assert current() == original
    KINDS["mixture"].target()
    assert current() == original


def test_steps_of_sequential_plates_are_numbers():
    def steps(plate):
        return [(type(i), i) for i in plate]

    plain = steps(pyro.plate("rows", 3))
    given = steps(pyro.plate("rows", 3, subsample=torch.tensor([2, 0, 1])))
    with mappable_pyro():
        assert steps(pyro.plate("rows", 3)) == plain
        again = pyro.plate("rows", 3, subsample=torch.tensor([2, 0, 1]))
        assert steps(again) == given
        vectorised = pyro.plate("rows", 3, dim=-1)
        with pytest.raises(ValueError, match="both vectorized"):
            steps(vectorised)
        with pyro.plate("rows", 3) as rows:
            assert rows is not None
            assert torch.equal(rows, torch.arange(3))


def test_the_safe_logarithm_has_pyros_value_and_every_derivative():
    x = torch.tensor([0.0, 1e-20, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    value: Any = pyro.ops.special.safe_log(x)
    (grad,) = torch.autograd.grad(value.sum(), x)
    with mappable_pyro():
        mapped = torch.func.vmap(torch.func.grad_and_value(pyro.ops.special.safe_log))
        found: Any = mapped(x.detach())
        forward: Any = torch.func.jvp(
            pyro.ops.special.safe_log, (x.detach(),), (torch.ones_like(x),)
        )
    for slope, height in (found, forward[::-1]):
        assert torch.equal(height, value.detach())
        torch.testing.assert_close(slope, grad, rtol=0, atol=0)


# -- ordered logistic ------------------------------------------------------------------


def test_ordered_categories_far_from_the_predictor_keep_their_digits():
    """Differences of probabilities end at the rounding of one, as Pyro's do."""

    def model(y):
        x = pyro.sample("x", dist.Normal(0.0, 100.0))
        with pyro.plate("data", 4):
            pyro.sample("y", dist.OrderedLogistic(x, torch.arange(3.0)), obs=y)

    target = Target.from_model(model, torch.arange(4), dtype=torch.float64)
    q = torch.tensor([[60.0], [-60.0], [0.5]], dtype=torch.float64)
    x, cuts = q, torch.arange(3.0, dtype=torch.float64)
    # sigmoid(b) - sigmoid(a) = sinh((b - a)/2) / (2 cosh(a/2) cosh(b/2))
    gap = cuts - x
    log_cosh = gap.abs() / 2 + torch.log1p(torch.exp(-gap.abs())) - math.log(2)
    middle = math.log(math.sinh(0.5) / 2) - log_cosh[:, 1:] - log_cosh[:, :-1]
    first = -torch.nn.functional.softplus(-gap[:, :1])
    last = -torch.nn.functional.softplus(gap[:, -1:])
    expected = torch.cat([first, middle, last], -1)
    found = target.pointwise_log_likelihood(q)["y"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    with pyro.validation_enabled(False):
        theirs = dist.OrderedLogistic(x[:, 0], cuts).logits
    torch.testing.assert_close(found[2], theirs[2])
    assert (theirs[:2].min(-1).values > -40).all()  # where theirs ends
    for rung in ("traced", "mapped"):
        grad = target.with_rung(rung).value_and_grad(q)[1]
        slope = torch.sigmoid(gap[:, 1:]) + torch.sigmoid(gap[:, :-1]) - 1
        ends = torch.sigmoid(gap[:, -1]) - torch.sigmoid(-gap[:, 0])
        total = slope.sum(-1) + ends - q[:, 0] / 1e4
        torch.testing.assert_close(grad[:, 0], total)


def test_cutpoints_that_do_not_increase_have_nothing_between_them():
    with mappable_pyro(), pyro.validation_enabled(False):
        cuts = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
        log_probs = dist.OrderedLogistic(torch.zeros(()), cuts).logits
    assert log_probs[1] == -torch.inf
    assert log_probs[[0, 2, 3]].isfinite().all()
    (grad,) = torch.autograd.grad(log_probs[[0, 2, 3]].sum(), cuts)
    assert grad.isfinite().all()


def test_ordered_distributions_expand_and_sample_as_before():
    with mappable_pyro():
        ours = dist.OrderedLogistic(torch.zeros(()), torch.tensor([-1.0, 0.5]))
        wide: Any = ours.expand([5])
        assert wide.sample((7,)).shape == (7, 5)
    theirs = dist.OrderedLogistic(torch.zeros(()), torch.tensor([-1.0, 0.5]))
    torch.testing.assert_close(ours.probs, theirs.probs)
    assert wide.predictor.shape == (5,)
    assert wide.cutpoints.shape == (5, 2)


# -- factorisations --------------------------------------------------------------------


def matrix(shift):
    """Positive definite for shifts above -1/3."""
    return torch.eye(3) + shift * torch.ones(3, 3)


def scaled(shift):
    """Regular for shifts other than -2."""
    return (shift + 2) * (torch.eye(3) + 0.1 * torch.ones(3, 3))


FACTORISATIONS = {
    "covariance": lambda s: dist.MultivariateNormal(torch.zeros(3), matrix(s)),
    "precision": lambda s: dist.MultivariateNormal(
        torch.zeros(3), precision_matrix=matrix(s)
    ),
    "low_rank": lambda s: dist.LowRankMultivariateNormal(
        torch.zeros(3), torch.ones(3, 1), (s + 1 / 3) * torch.ones(3)
    ),
    "cholesky": lambda s: dist.Normal(torch.linalg.cholesky(matrix(s))[2], 1.0),
    "upper": lambda s: dist.Normal(
        torch.linalg.cholesky(matrix(s), upper=True)[0], 1.0
    ),
    "inverse": lambda s: dist.Normal(torch.linalg.inv(scaled(s))[0], 1.0),
    "old_inverse": lambda s: dist.Normal(scaled(s).inverse()[0], 1.0),
    "solve": lambda s: dist.Normal(torch.linalg.solve(scaled(s), torch.ones(3)), 1.0),
    "solve_matrix": lambda s: dist.Normal(
        torch.linalg.solve(scaled(s), torch.ones(3, 2))[:, 0], 1.0
    ),
    "solve_right": lambda s: dist.Normal(
        torch.linalg.solve(scaled(s), torch.ones(2, 3), left=False)[0], 1.0
    ),
    # these raise on what is not finite
    "eigenvalues": lambda s: dist.Normal(torch.linalg.eigvalsh(matrix(s)), 1.0),
    "eigenvectors": lambda s: dist.Normal(
        torch.linalg.eigh(scaled(s) @ torch.diag(torch.arange(3.0))).eigenvalues, 1.0
    ),
    "singular_values": lambda s: dist.Normal(torch.linalg.svdvals(scaled(s)), 1.0),
    "decomposition": lambda s: dist.Normal(torch.linalg.svd(scaled(s)).S, 1.0),
    "pseudoinverse": lambda s: dist.Normal(torch.linalg.pinv(scaled(s))[0], 1.0),
}
NEEDS_FINITE = [*FACTORISATIONS][-5:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rung", ["traced", "mapped", pytest.param("compiled", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", FACTORISATIONS)
def test_a_failed_factorisation_stays_in_its_chain(name, rung):
    def model(y):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        event = FACTORISATIONS[name](shift)
        event = event if event.event_dim else event.to_event(1)
        pyro.sample("y", event, obs=y)

    target = Target.from_model(model, torch.ones(3), dtype=torch.float64)
    target = target.with_rung(rung)
    assert target.notes == []
    good = torch.tensor([[0.5], [0.3], [0.1], [0.2]], dtype=torch.float64)
    bad = good.clone()
    bad[1], bad[3] = -2.0, torch.nan
    value, grad = target.value_and_grad(good)
    value_bad, grad_bad = target.value_and_grad(bad)
    assert target.rung == rung
    assert value.isfinite().all()
    assert grad.isfinite().all()
    if name not in NEEDS_FINITE:
        assert not value_bad[1].isfinite()
    assert not value_bad[3].isfinite()
    others = [0, 2]
    assert torch.equal(value_bad[others], value[others])
    assert torch.equal(grad_bad[others], grad[others])


def test_decompositions_keep_their_names_and_values():
    a = matrix(torch.tensor(0.2)).double()
    broken = torch.stack([a, a * torch.nan])
    with DensityMode():
        values, vectors = torch.linalg.eigh(broken)
        named = torch.linalg.svd(broken)
    assert torch.equal(values[0], torch.linalg.eigh(a).eigenvalues)
    assert torch.equal(vectors[0], torch.linalg.eigh(a).eigenvectors)
    assert torch.equal(named.U[0], torch.linalg.svd(a).U)
    assert values[1].isnan().all()
    assert vectors[1].isnan().all()
    assert named.Vh[1].isnan().all()


def test_writes_by_mask_are_those_of_torch():
    x, mask = torch.arange(6.0).reshape(2, 3), torch.tensor([True, False])
    for index, value in (
        (x > 2, 7.0),
        (x > 2, torch.tensor([1.0, 2.0, 3.0])),
        (mask, 5.0),
        (1, 4.0),
        ((..., 0), 3.0),
    ):
        ours, theirs = x.clone(), x.clone()
        theirs[index] = value
        with DensityMode():
            ours[index] = value
            assert ours.clamp_(min=1.0) is ours
        assert torch.equal(ours, theirs.clamp(min=1.0))
