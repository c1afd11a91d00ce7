"""Models that write in place or branch inside Pyro, and yet are mapped and traced.

Each is compared with its plain evaluation: Pyro's trace, and autograd, one chain at a
time and outside of any density.
"""

import copy
import math
import pickle
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_geo.density import Target
from pyro_geo.errors import FallbackWarning
from pyro_geo.infer import DIMS, HMC, MCMC
from tests.density.kinds import X, Y

DOUBLE = torch.float64
MASK = Y > 0
HOLES = torch.where(MASK, Y, torch.nan)
GRID = torch.where(X.abs() < 1, X, torch.nan)  # no row, one row and pairs are missing
GRID[0] = torch.nan


def latent():
    return pyro.sample("x", dist.Normal(torch.tensor(0.2).double(), 1.0))


def data(mean, value=Y):
    mean = mean.broadcast_to(value.shape)
    pyro.sample("y", dist.Normal(mean, 1.0).to_event(mean.dim()), obs=value)


def write_by_mask():
    f = torch.zeros(12)
    f[MASK] = latent() * Y[MASK]
    data(f)


def write_rows_by_mask():
    x = latent()
    f = x * X
    f[MASK] = X[MASK] * x * x
    f[~MASK, 0] = x
    data(f, X)


def write_one_number_by_mask():
    f = Y.clone()
    f[MASK] = latent()
    data(f)


def read_by_mask():
    data((latent() * Y)[MASK], Y[MASK])


def read_by_masked_select():
    data((latent() * Y).masked_select(MASK), Y.masked_select(MASK))


def put_by_mask():
    f = torch.zeros(12)
    f.index_put_((MASK,), latent() * Y[MASK], accumulate=True)
    data(f)


def scatter_by_mask():
    x = latent()
    data(torch.zeros(12).masked_scatter(MASK, x * Y[: int(MASK.sum())]))


def scatter():
    f = torch.ones(12)
    f.scatter_(0, torch.arange(5), latent() * Y[:5])
    data(f)


def recursion():
    x, f = latent(), torch.empty(12)
    f[0] = 0.0
    for i in range(1, 12):
        f[i] = 0.5 * f[i - 1] + x
    data(f)


def views():
    """Writes through views, and one view of memory that is written into later."""
    x, f = latent(), torch.zeros(12)
    head = f[:3]
    f += x
    f[2:].add_(x * Y[2:])
    data(f + head.sum())


def diagonal():
    kernel = torch.eye(12)
    kernel.diagonal().mul_(latent().exp())
    kernel[range(12), range(12)] += 0.1
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(12), kernel), obs=Y)


def reads_data():
    x = latent()
    data(x * Y + x.data)


def reads_numbers():
    """No arguments: numbers of the data are constants."""
    data(latent() * float(Y.std()))


def stable():
    a = pyro.sample("a", dist.Uniform(0.5, 1.9))
    skew = pyro.sample("skew", dist.Uniform(-0.5, 0.5))
    value = torch.cat([Y[:2], torch.zeros(1).double()])
    # Pyro annotates floats where it takes tensors
    options: dict[str, Any] = {"scale": 1.0, "loc": value.new_zeros(3)}
    pyro.sample("y", dist.Stable(a, skew, **options).to_event(1), obs=value)


def holes():
    x = latent()
    pyro.sample("y", dist.NanMaskedNormal(x * X[:, 0], x.exp()).to_event(1), obs=HOLES)


def holes_in_rows():
    x = latent()
    factor = torch.eye(3) + x * torch.ones(3, 3).tril(-1)
    with pyro.plate("data", 12):
        pyro.sample(
            "y", dist.NanMaskedMultivariateNormal(x * X, scale_tril=factor), obs=GRID
        )


def gaussian_states():
    noise = latent().exp() * torch.eye(2)
    normal = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    step = dist.MultivariateNormal(torch.zeros(2), noise)
    walk = dist.GaussianHMM(normal, 0.9 * torch.eye(2), step, torch.eye(2), normal)
    pyro.sample("y", walk, obs=X[:4, :2])


def gaussian_field():
    noise = latent().exp() * torch.eye(4)
    ends = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    pair = dist.MultivariateNormal(torch.zeros(4), torch.eye(4))
    step = dist.MultivariateNormal(torch.zeros(4), noise)
    pyro.sample("y", dist.GaussianMRF(ends, step, pair), obs=X[:4, :2])


MODELS = [
    write_by_mask,
    write_rows_by_mask,
    write_one_number_by_mask,
    read_by_mask,
    read_by_masked_select,
    put_by_mask,
    scatter_by_mask,
    scatter,
    recursion,
    views,
    diagonal,
    reads_data,
    reads_numbers,
    stable,
    holes,
    holes_in_rows,
    gaussian_states,
    gaussian_field,
]
LONG = (gaussian_states, gaussian_field)
every_model = pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            model,
            id=model.__name__,
            marks=pytest.mark.slow if model in LONG else [],
        )
        for model in MODELS
    ],
)


def log_prob_plainly(target, leaf):
    """Log-density at one position, by Pyro's trace outside of a density."""
    sites, jacobian = target.layout.constrain_with_jacobian(leaf)
    with pyro.validation_enabled(False):
        trace = poutine.trace(poutine.condition(target.density.model, sites))
        arguments = target.density.arguments(target.data)[0]
        return trace.get_trace(*arguments).log_prob_sum() + jacobian


def plainly(target, q):
    """Log-density and gradient by Pyro's trace and autograd, outside of a density."""
    torch.set_default_dtype(DOUBLE)
    values, gradients = [], []
    for row in q:
        leaf = row.clone().requires_grad_()
        total = log_prob_plainly(target, leaf)
        gradients.append(torch.autograd.grad(total, leaf)[0])
        values.append(total.detach())
    torch.set_default_dtype(torch.float32)
    return torch.stack(values), torch.stack(gradients)


def product_plainly(target, q, v):
    """Hessian times `v` likewise; what a model reads by `.data` has no derivative."""
    torch.set_default_dtype(DOUBLE)
    products = []
    for row, direction in zip(q, v, strict=True):
        leaf = row.clone().requires_grad_()
        total = log_prob_plainly(target, leaf)
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
        products.append(torch.autograd.grad(gradient @ direction, leaf)[0])
    torch.set_default_dtype(torch.float32)
    return torch.stack(products)


def positions(target, count=3):
    generator = torch.Generator().manual_seed(2)
    return 0.4 * torch.randn(count, target.dim, dtype=DOUBLE, generator=generator)


@pytest.mark.slow
@every_model
def test_values_and_gradients_are_those_of_the_plain_model(model):
    target = Target.from_model(model, dtype=DOUBLE)
    q = positions(target)
    value, grad = plainly(target, q)
    for rung in ("traced", "mapped", "sequential"):
        fixed = target.with_rung(rung)
        found = fixed.value_and_grad(q)
        torch.testing.assert_close(found[0], value, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found[1], grad, rtol=1e-9, atol=1e-9)
        assert fixed.rung == rung
    assert target.notes == []
    again = pickle.loads(pickle.dumps(target)) if model is recursion else target
    assert torch.equal(copy.copy(again).log_prob(q), target.log_prob(q))
    half = target.tempered(0.5)
    expected = target.log_prior(q) + 0.5 * target.log_likelihood(q)
    torch.testing.assert_close(half.log_prob(q), expected)


@every_model
@pytest.mark.slow
def test_products_compiled_graphs_and_runs(model):
    target = Target.from_model(model, dtype=DOUBLE)
    q = positions(target)
    v = torch.ones_like(q)
    product = target.hvp(q, v)
    expected = product_plainly(target, q, v)
    torch.testing.assert_close(product, expected, rtol=1e-8, atol=1e-8)
    compiled = target.with_rung("compiled").value_and_grad(q)
    torch.testing.assert_close(compiled, target.with_rung("traced").value_and_grad(q))
    # not all of these distributions have the divergence that Laplace velocities need
    for kernel in (HMC(model), DIMS(model, loss="joint", velocity="isotropic")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # twenty draws have converged nowhere
            warnings.simplefilter("error", FallbackWarning)
            fit = MCMC(
                kernel,
                num_samples=20,
                warmup_steps=20 if isinstance(kernel, HMC) else 0,
                num_chains=4,
                seed=1,
                dtype=DOUBLE,
                progress_bar=False,
            ).run()
        assert fit.target.notes == []


@pytest.mark.parametrize("model", [recursion, views, write_by_mask])
def test_lanes_that_write_do_not_meet(model):
    target = Target.from_model(model, dtype=DOUBLE)
    q = positions(target, 8)
    for rung in ("traced", "mapped"):
        expected = target.with_rung(rung).value_and_grad(q)
        broken = q.clone()
        broken[3] = torch.nan
        found = target.with_rung(rung).value_and_grad(broken)
        others = torch.arange(8) != 3
        for ours, theirs in zip(found, expected, strict=True):
            assert ours[3].isnan().all()
            assert torch.equal(ours[others], theirs[others])


def written_data():
    Y_COPY[0] = latent()
    data(Y_COPY * 1.0)


Y_COPY = Y.clone()


def test_what_stays_below_says_the_rung_the_reason_and_what_to_write():
    def by_latent():
        x = latent()
        f = x * Y
        data(torch.zeros(12) + f[f > 0].sum())

    for model in (by_latent, written_data):
        with pytest.warns(FallbackWarning) as caught:
            target = Target.from_model(model, dtype=DOUBLE)
        (message,) = [str(w.message) for w in caught]
        assert "rung 'sequential'" in message
        assert "vmap" in message
        assert "torch.where" in message
        q = positions(target)
        value, grad = plainly(target, q)
        found = target.value_and_grad(q)
        assert target.rung == "sequential"
        torch.testing.assert_close(found, (value, grad))


def test_potentials_may_write_in_place_too():
    def potential(q):
        f = torch.zeros(3)
        for i in range(3):
            f[i] = q[i] ** 2 + (f[i - 1] if i else 0.0)
        return f.sum()

    target = Target.from_potential(potential, 3, dtype=DOUBLE)
    q = positions(target)
    weights = torch.tensor([3.0, 2.0, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(target.log_prob(q), -(q**2) @ weights)
    assert target.value_and_grad(q)[1].shape == (3, 3)
    assert target.rung == "traced"


def test_masked_entries_do_not_count():
    """By hand: what is missing changes neither the density nor the normaliser."""
    target = Target.from_model(holes_in_rows, dtype=DOUBLE)
    q = torch.zeros(1, 1, dtype=DOUBLE)
    seen = GRID[~GRID.isnan()]
    expected = -0.5 * (seen**2).sum() - 0.5 * math.log(2 * math.pi) * len(seen)
    torch.testing.assert_close(target.log_likelihood(q)[0], expected)
    found = target.pointwise_log_likelihood(q)["y"][0]
    assert float(found[0].abs()) < 1e-12
