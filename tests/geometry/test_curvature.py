"""Curvature: equal to the dense J^T F J, the Fisher information, the exact Hessian."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.partial import weigh
from pyro_geo.errors import FallbackWarning, MissingCurvatureError, ShapeError
from pyro_geo.geometry.curvature import (
    GaussNewton,
    Hessian,
    LikelihoodHessian,
    PriorHessian,
)
from tests.density.kinds import KINDS

N, DIM = 7, 4


def normals(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


X = normals(N, DIM)
Q = 0.3 * normals(DIM, seed=1)


class Family(NamedTuple):
    """An observed distribution, and the Fisher information of its outputs.

    Args:
        outputs: `(N, k)` from a position.
        build: distribution from outputs.
        fisher: `(N, k, k)` from outputs, in closed form.
        obs: a value in its support.
    """

    outputs: Callable[[Tensor], Tensor]
    build: Callable[[Tensor], Any]
    fisher: Callable[[Tensor], Tensor]
    obs: Tensor


def one(q: Tensor) -> Tensor:
    return torch.tanh(X @ q)[:, None]


def two(q: Tensor) -> Tensor:
    return torch.stack([torch.tanh(X @ q), 0.3 * (X.flip(1) @ q) + 0.5], -1)


def three(q: Tensor) -> Tensor:
    return torch.stack([X @ q, torch.sin(X @ q), q.sum() * torch.ones(N)], -1)


def softmax_fisher(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def normal_fisher(f: Tensor) -> Tensor:
    inverse = torch.exp(-2 * f[:, 1])
    return torch.diag_embed(torch.stack([inverse, torch.full_like(inverse, 2.0)], -1))


def probability(f: Tensor) -> Tensor:
    return (f * (1 - f))[..., None]


COUNTS = torch.arange(N).double() % 3
ONE_HOT = torch.eye(3, dtype=torch.float64)[torch.arange(N) % 3]
FAMILIES = {
    "normal": Family(
        two, lambda f: dist.Normal(f[:, 0], f[:, 1].exp()), normal_fisher, X[:, 0]
    ),
    "bernoulli": Family(
        one,
        lambda f: dist.Bernoulli(logits=f[:, 0]),
        lambda f: probability(f.sigmoid()),
        COUNTS.clamp(max=1),
    ),
    "binomial": Family(
        one,
        lambda f: dist.Binomial(5, logits=f[:, 0]),
        lambda f: 5 * probability(f.sigmoid()),
        COUNTS,
    ),
    "poisson": Family(
        one, lambda f: dist.Poisson(f[:, 0].exp()), lambda f: f.exp()[..., None], COUNTS
    ),
    "categorical": Family(
        three, lambda f: dist.Categorical(logits=f), softmax_fisher, COUNTS
    ),
    "one_hot": Family(
        three, lambda f: dist.OneHotCategorical(logits=f), softmax_fisher, ONE_HOT
    ),
    "multinomial": Family(
        three,
        lambda f: dist.Multinomial(4, logits=f),
        lambda f: 4 * softmax_fisher(f),
        4 * ONE_HOT,
    ),
    "exponential": Family(
        one,
        lambda f: dist.Exponential(f[:, 0].exp()),
        lambda f: torch.ones(N, 1, 1),
        X[:, 0].abs(),
    ),
    "log_normal": Family(
        two,
        lambda f: dist.LogNormal(f[:, 0], f[:, 1].exp()),
        normal_fisher,
        X[:, 0].abs(),
    ),
    "student_location": Family(
        one,
        lambda f: dist.StudentT(3.0, f[:, 0], 0.5),
        lambda f: torch.full((N, 1, 1), 4.0 / 6.0 / 0.25),
        X[:, 0],
    ),
    "gamma_rate": Family(
        one,
        lambda f: dist.Gamma(2.0, f[:, 0].exp()),
        lambda f: torch.full((N, 1, 1), 2.0),
        X[:, 0].abs(),
    ),
}
EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def target_of(family: Family, scale: float = 1.0) -> Target:
    def model(y):
        q = pyro.sample("q", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
        with pyro.plate("data", N), poutine.scale(scale=scale):
            pyro.sample("y", family.build(family.outputs(q)), obs=y)

    with warnings.catch_warnings():
        # torch's multinomial cannot be mapped
        warnings.simplefilter("ignore", FallbackWarning)
        return Target.from_model(model, family.obs, dtype=torch.float64)


def dense(family: Family, q: Tensor = Q) -> Tensor:
    jacobian: Any = torch.func.jacrev(family.outputs)(q)  # (N, k, DIM)
    fisher = family.fisher(family.outputs(q)).double()
    return torch.einsum("nki,nkl,nlj->ij", jacobian, fisher, jacobian)


@EVERY
def test_matrix_is_the_dense_one(family):
    torch.set_default_dtype(torch.float64)
    matrix = GaussNewton(target_of(family), Q).dense()
    torch.testing.assert_close(matrix, dense(family))
    assert torch.equal(matrix, matrix.T)
    floor = -1e-12 * matrix.diagonal().sum()
    assert torch.linalg.eigvalsh(matrix).min() > floor


@EVERY
def test_products_are_those_of_the_matrix(family):
    torch.set_default_dtype(torch.float64)
    target = target_of(family, scale=2.5)
    v = normals(3, DIM, seed=2)
    torch.testing.assert_close(
        GaussNewton(target, Q).matvec(v), 2.5 * v @ dense(family)
    )
    assert GaussNewton(target, Q).matvec(v[:1]).shape == (1, DIM)


def test_fisher_information_by_monte_carlo():
    torch.set_default_dtype(torch.float64)
    family = FAMILIES["normal"]
    pyro.set_rng_seed(0)
    draws = 20_000
    y = family.build(family.outputs(Q)).sample((draws,))
    scores = torch.func.vmap(
        torch.func.grad(
            lambda q, y: family.build(family.outputs(q)).log_prob(y).sum(),
        ),
        in_dims=(None, 0),
    )
    with pyro.validation_enabled(False):
        s = scores(Q, y)
    products = s[:, :, None] * s[:, None, :]
    error = products.std(0) / draws**0.5
    # sixteen entries at 4.5 standard errors: one false alarm in 9,000 seeds
    assert (
        (products.mean(0) - GaussNewton(target_of(family), Q).dense()).abs()
        < 4.5 * error
    ).all()


def test_all_parameters_of_a_student_t():
    """Against the expectation of the squared score, by quadrature."""

    def build(f):
        return dist.StudentT(f[0].exp(), f[1], f[2].exp())

    def model(y):
        f = pyro.sample("f", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", build(f), obs=y)

    torch.set_default_dtype(torch.float64)
    for log_df in (0.5, 1.0, 3.5):
        f = torch.tensor([log_df, 0.3, -0.4])
        u = torch.linspace(-1.0, 1.0, 200_003)[1:-1]
        y = f[1] + u / (1 - u**2) ** 1.5  # heavy tails need a steep map
        slope = (1 + 2 * u**2) / (1 - u**2) ** 2.5
        with pyro.validation_enabled(False):
            score = torch.func.jacfwd(lambda f, y: build(f).log_prob(y))(f, y)
            weight = build(f).log_prob(y).exp() * slope * (u[1] - u[0])
        expected = score.T @ (weight[:, None] * score)
        found = GaussNewton(Target.from_model(model, torch.tensor(0.2)), f).dense()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.linalg.eigvalsh(found).min() > 0


def test_linear_gaussian_is_exact():
    def model(y):
        w = pyro.sample("w", dist.Normal(torch.zeros(DIM), 2.0).to_event(1))
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(X @ w, 0.5), obs=y)

    target = Target.from_model(model, X[:, 0], dtype=torch.float64)
    exact = torch.func.hessian(lambda q: -target.log_likelihood(q[None])[0])(Q)
    torch.testing.assert_close(GaussNewton(target, Q).dense(), exact)
    expected = torch.eye(DIM, dtype=torch.float64) / 4
    torch.testing.assert_close(PriorHessian(target, Q).dense(), expected)


def test_prior_hessian_holds_the_jacobians():
    target = KINDS["hierarchical"].target()
    q = 0.2 * normals(target.dim, seed=3)
    exact = torch.func.hessian(lambda x: -target.log_prior(x[None])[0])(q)
    torch.testing.assert_close(PriorHessian(target, q).dense(), exact)


@pytest.mark.parametrize("name", ["gaussian_process", "lkj", "network", "mask"])
def test_model_kinds_have_a_semidefinite_matrix(name):
    target = KINDS[name].target()
    q = 0.2 * normals(target.dim, seed=3)
    values = torch.linalg.eigvalsh(GaussNewton(target, q).dense())
    assert values.min() > -1e-10 * values.max()
    assert values.max() > 0


def test_event_and_batch_axes_and_masks():
    mask = torch.tensor([True, False, True])
    y = normals(5, 3, 2, 2)

    def model(y):
        q = pyro.sample("q", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        noise = torch.tensor([[0.5, 1.0], [2.0, 1.0]])
        with pyro.plate("outer", 5, dim=-2), pyro.plate("inner", 3, dim=-1):
            fn = dist.Normal(q.tanh(), noise).to_event(1).to_event(1)
            pyro.sample("y", fn.mask(mask), obs=y)

    target = Target.from_model(model, y, dtype=torch.float64)
    q = 0.3 * normals(4, seed=4)
    slope = 1 - q.tanh() ** 2
    precision = torch.tensor([4.0, 1.0, 0.25, 1.0], dtype=torch.float64)
    expected = torch.diag(10 * slope**2 * precision)
    torch.testing.assert_close(GaussNewton(target, q).dense(), expected)


def estimates(operator, probes, count):
    """Mean of `count` estimates of a diagonal, each from fewer probes than exact."""
    generator = torch.Generator().manual_seed(0)
    found = [operator.diagonal(probes, generator) for _ in range(count)]
    return torch.stack(found).mean(0)


def spread(matrix, probes, count):
    """Standard error of that mean, exact for random signs."""
    off = matrix - torch.diag(matrix.diagonal())
    return ((off**2).sum(-1) / (probes * count)).sqrt()


def test_diagonal_is_unbiased():
    torch.set_default_dtype(torch.float64)
    hessian = Hessian(target_of(FAMILIES["normal"]), Q)
    matrix = hessian.dense()
    found = estimates(hessian, 3, 1_000)
    assert ((found - matrix.diagonal()).abs() < 4.5 * spread(matrix, 3, 1_000)).all()


def test_the_diagonal_is_exact_with_as_many_probes_as_dimensions():
    torch.set_default_dtype(torch.float64)
    operator = GaussNewton(target_of(FAMILIES["categorical"]), Q)
    assert torch.equal(operator.diagonal(DIM), operator.dense().diagonal())
    generator = torch.Generator().manual_seed(0)
    few = [operator.diagonal(1, generator) for _ in range(20)]
    assert bool((torch.stack(few) >= 0).all())  # an estimate may be below zero
    assert not torch.equal(few[0], operator.diagonal())


def test_the_hessian_is_that_of_minus_the_log_density():
    target = KINDS["hierarchical"].target()
    q = 0.2 * normals(3, target.dim, seed=3)
    exact = torch.func.vmap(torch.func.hessian(lambda x: -target.log_prob(x[None])[0]))(
        q
    )
    many = Hessian(target, q)
    torch.testing.assert_close(many.dense(), exact)
    v = normals(3, target.dim, seed=4)
    expected = (exact @ v.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(many.matvec(v), expected)
    one = Hessian(target, q[1])
    torch.testing.assert_close(one.dense(), exact[1])
    torch.testing.assert_close(one.matvec(v), v @ exact[1])
    torch.testing.assert_close(one.diagonal(), exact[1].diagonal())


def cross_entropy(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_a_module_has_the_matrix_of_its_loss():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(DIM, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)
    )
    labels = torch.arange(N) % 3
    target = Target.from_module(module, cross_entropy, (X, labels), dtype=torch.float64)
    q = 0.3 * normals(target.dim, seed=5)
    density: Any = target.density
    outputs = density.outputs(q, target.data)
    jacobian: Any = torch.func.jacrev(lambda x: density.outputs(x, target.data))(q)
    fisher = softmax_fisher(outputs)
    expected = torch.einsum("nki,nkl,nlj->ij", jacobian, fisher, jacobian)
    torch.testing.assert_close(GaussNewton(target, q).dense(), expected)


def test_no_dependence_is_no_curvature():
    def model(y):
        scale = pyro.param("scale", torch.tensor(1.0))
        pyro.sample("q", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(0.0, scale), obs=y)

    target = Target.from_model(model, torch.tensor(0.5))
    assert GaussNewton(target, torch.zeros(2)).dense().tolist() == [
        [0.0, 0.0],
        [0.0, 0.0],
    ]


def shifted(q):
    base = dist.Normal(0.0, 1.0)
    return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(q, 1.0)])


REFUSED = {
    "Delta": lambda q: dist.Delta(q),
    "Uniform": lambda q: dist.Uniform(q - 1, q + 1),
    "TransformedDistribution": shifted,
    "Weibull": lambda q: dist.Weibull(q.exp(), 1.0),
    "NegativeBinomial": lambda q: dist.NegativeBinomial(3.0, logits=q),
}


@pytest.mark.parametrize("family", REFUSED)
def test_families_without_a_divergence_are_named(family):
    def model(y):
        q = pyro.sample("q", dist.Normal(0.0, 1.0))
        pyro.sample("y", REFUSED[family](q), obs=y)

    target = Target.from_model(model, torch.tensor(1.0))
    with pytest.raises(MissingCurvatureError, match=rf"site 'y'.*found {family}"):
        GaussNewton(target, torch.zeros(1)).dense()


def test_factors_and_potentials_have_none():
    with pytest.raises(MissingCurvatureError, match="site 'soft'"):
        GaussNewton(
            KINDS["factor"].target(), torch.zeros(1, dtype=torch.float64)
        ).dense()
    target = Target.from_potential(lambda q: (q * q).sum(), 2)
    with pytest.raises(MissingCurvatureError, match="potential function"):
        GaussNewton(target, torch.zeros(2)).diagonal()


def test_one_position_is_needed():
    target = KINDS["factor"].target()
    with pytest.raises(ShapeError, match=r"found \(1, 1\), expected \(1,\)"):
        GaussNewton(target, torch.zeros(1, 1))


def test_the_prior_diagonal_is_exact_for_independent_priors():
    model, args, *_ = KINDS["network"]
    target = Target.from_model(model, *args, dtype=torch.float64)
    q = target.initial(1, "uniform", torch.Generator().manual_seed(0))[0]
    prior = PriorHessian(target, q)
    found = prior.diagonal(1, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, prior.dense().diagonal())


def test_the_prior_diagonal_is_unbiased_for_hierarchical_priors():
    model, args, *_ = KINDS["horseshoe"]
    target = Target.from_model(model, *args, dtype=torch.float64)
    q = target.initial(1, "uniform", torch.Generator().manual_seed(0))[0]
    prior = PriorHessian(target, q)
    matrix, probes = prior.dense(), target.dim - 1
    assert bool((matrix - torch.diag(matrix.diagonal())).abs().sum() > 0)
    found = estimates(prior, probes, 1_000)
    limit = 5 * spread(matrix, probes, 1_000) + 1e-9
    assert bool(((found - matrix.diagonal()).abs() <= limit).all())


def test_the_matrix_of_a_module_is_the_sum_of_those_of_its_data():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    x = torch.linspace(-1, 1, 8).reshape(4, 2)
    labels = torch.tensor([0, 2, 1, 2])
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    target = Target.from_module(module, loss, (x, labels), dtype=torch.float64)
    q = torch.linspace(-0.5, 1.0, target.dim, dtype=torch.float64)
    some = torch.tensor([True, False, True, False])
    parts = []
    for rows in (some, ~some):
        weighed = weigh(target, {"loss": rows})
        fewer = Target.from_module(
            module, loss, (x[rows], labels[rows]), dtype=torch.float64
        )
        parts.append(GaussNewton(weighed, q).dense())
        torch.testing.assert_close(parts[-1], GaussNewton(fewer, q).dense())
        torch.testing.assert_close(
            LikelihoodHessian(weighed, q).dense(), Hessian(fewer, q).dense()
        )
    torch.testing.assert_close(sum(parts), GaussNewton(target, q).dense())
