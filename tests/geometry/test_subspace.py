"""Bases that lie tensor by tensor, and the Gauss-Newton matrix projected on them."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from pyro_geo.errors import ConfigurationError, LayoutMismatchError, ShapeError
from pyro_geo.geometry.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Likelihood,
    likelihood_named,
)
from pyro_geo.geometry.projection import project_ggn, push_forward
from pyro_geo.geometry.subspace import (
    DenseBlock,
    FactoredBlock,
    IdentityBlock,
    Subspace,
)

pytestmark = pytest.mark.usefixtures("double_precision")

SHAPES = {"w": (4, 3), "b": (4,), "v": (3, 4)}


def params(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator) for k, s in SHAPES.items()}


def forward(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ p["w"].T + p["b"]) @ p["v"].T


def mixed() -> Subspace:
    """One block of each kind."""
    left = torch.linalg.qr(torch.randn(4, 2)).Q
    right = torch.linalg.qr(torch.randn(3, 2)).Q
    extra = torch.randn(1, 4, 3)
    for u, v in zip(left.T, right.T, strict=True):
        extra = extra - (u @ extra[0] @ v) * torch.outer(u, v)
    extra = extra / extra.norm()
    factored = FactoredBlock(
        "w",
        torch.Size((4, 3)),
        left,
        right,
        extra,
        torch.linalg.qr(torch.randn(3, 3)).Q,
    )
    rows = torch.linalg.qr(torch.randn(12, 2)).Q.T.reshape(2, 3, 4)
    blocks = [factored, IdentityBlock("b", torch.Size((4,))), DenseBlock({"v": rows})]
    return Subspace(params(), blocks)


def basis(subspace: Subspace) -> torch.Tensor:
    columns = [subspace.direction(i) for i in range(subspace.dim)]
    return torch.stack([flat(column) for column in columns], 1)


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].flatten() for name in SHAPES])


def unflat(vector: torch.Tensor) -> dict[str, torch.Tensor]:
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    parts = zip(SHAPES.items(), vector.split(sizes), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


def test_columns_are_orthonormal_and_lifting_is_their_sum():
    subspace = mixed()
    columns = basis(subspace)
    torch.testing.assert_close(columns.T @ columns, torch.eye(9))
    z = torch.randn(9)
    torch.testing.assert_close(flat(subspace.lift(z)), columns @ z)
    state = params(1)
    apart = flat(state) - flat(params())
    torch.testing.assert_close(subspace.coords(state), columns.T @ apart)
    torch.testing.assert_close(subspace.coords(subspace.point(z)), z)


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_batches_go_through_all_columns(chunk: int | None):
    subspace = mixed()
    columns = basis(subspace)
    seen = torch.zeros(subspace.dim, 28)
    for place, rows in subspace.batches(chunk):
        whole = {
            k: torch.zeros(place.stop - place.start, *s) for k, s in SHAPES.items()
        }
        whole |= rows
        seen[place] = torch.cat([whole[k].flatten(1) for k in SHAPES], 1)
    torch.testing.assert_close(seen, columns.T)


def test_a_subspace_is_known_by_its_signature_and_changes_type():
    subspace = mixed()
    assert not torch.allclose(subspace.signature(), mixed().signature())
    low = subspace.to(torch.float32)
    assert low.signature().dtype == torch.float32
    torch.testing.assert_close(
        low.signature().double(), subspace.signature(), rtol=1e-5, atol=1e-5
    )


def test_tensors_that_do_not_fit_are_refused():
    subspace = mixed()
    with pytest.raises(LayoutMismatchError, match=r"'b'.*no such tensor"):
        subspace.coords({"w": torch.zeros(4, 3), "v": torch.zeros(3, 4)})
    with pytest.raises(LayoutMismatchError, match=r"'w'.*\(3, 4\).*\(4, 3\)"):
        subspace.project({**params(), "w": torch.zeros(3, 4)})
    with pytest.raises(ShapeError):
        subspace.lift(torch.zeros(3))
    with pytest.raises(ConfigurationError, match="blocks"):
        Subspace(params(), [])


def test_derivatives_along_columns_are_those_of_finite_differences():
    subspace, x = mixed(), torch.randn(5, 3)
    extra = params(3)
    _, rows = push_forward(forward, params(2), x, subspace, directions=[extra])
    columns = torch.cat([basis(subspace), flat(extra)[:, None]], 1)
    point = flat(params(2))
    for row, column in zip(rows, columns.T, strict=True):
        step = 1e-5 * column
        high, low = (forward(unflat(point + s * step), x) for s in (1, -1))
        torch.testing.assert_close(row, (high - low) / 2e-5, rtol=1e-7, atol=1e-8)


def hessian_of_divergence(likelihood: Likelihood, point: torch.Tensor, x: torch.Tensor):
    # the second derivative of the divergence from the point itself
    there = forward(unflat(point), x)
    return torch.func.hessian(
        lambda q: likelihood.divergence(there, forward(unflat(q), x)).mean()
    )(point)


@pytest.mark.parametrize("likelihood", [Categorical(), Gaussian(0.3), Bernoulli()])
@pytest.mark.parametrize("batch", [None, 2])
def test_the_projected_matrix_is_the_hessian_of_the_divergence(
    likelihood: Likelihood, batch: int | None
):
    subspace, x = mixed(), torch.randn(5, 3)
    extra = params(3)
    columns = torch.cat([basis(subspace), flat(extra)[:, None]], 1)
    whole = hessian_of_divergence(likelihood, flat(params(2)), x)
    found = project_ggn(
        forward,
        params(2),
        x,
        subspace,
        likelihood=likelihood,
        directions=[extra],
        batch_size=batch,
    )
    torch.testing.assert_close(found, columns.T @ whole @ columns, rtol=0, atol=1e-12)


@pytest.mark.parametrize("likelihood", [Categorical(), Gaussian(0.3), Bernoulli()])
def test_divergences_and_slopes_are_those_of_the_distributions(likelihood: Likelihood):
    f, g = torch.randn(2, 4, 3)
    if isinstance(likelihood, Categorical):
        one, two = (torch.distributions.Categorical(logits=x) for x in (f, g))
        expected = torch.distributions.kl_divergence(one, two)
    elif isinstance(likelihood, Gaussian):
        one, two = (torch.distributions.Normal(x, 0.3**0.5) for x in (f, g))
        expected = torch.distributions.kl_divergence(one, two).sum(-1)
    else:
        one, two = (torch.distributions.Bernoulli(logits=x) for x in (f, g))
        expected = torch.distributions.kl_divergence(one, two).sum(-1)
    torch.testing.assert_close(likelihood.divergence(f, g), expected)
    slope = torch.func.grad(lambda g: likelihood.divergence(f, g).sum())(g)
    torch.testing.assert_close(likelihood.slope(f, g), slope)


@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli()])
def test_logits_scaled_by_sixty_stay_finite(likelihood: Likelihood):
    f, g = 60 * torch.randn(2, 20, 5)
    rows = torch.randn(3, 20, 5)
    assert likelihood.divergence(f, g).isfinite().all()
    assert likelihood.slope(f, g).isfinite().all()
    root = likelihood.root(f, rows).flatten(1)
    assert (root @ root.T).isfinite().all()
    subspace = mixed()
    big = {**params(), "v": 60 * params()["v"]}
    found = project_ggn(
        forward, big, torch.randn(5, 3), subspace, likelihood=likelihood
    )
    assert found.isfinite().all()
    assert torch.linalg.eigvalsh(found)[0] > -1e-12 * found.trace()


def test_the_matrix_of_logistic_regression_is_that_of_its_loss():
    # a convex loss in logits linear in parameters: the Hessian has no other part
    x, y = torch.randn(30, 3), torch.randint(4, (30,))
    w = {"w": torch.randn(4, 3)}
    subspace = Subspace(w, [IdentityBlock("w", torch.Size((4, 3)))])
    found = project_ggn(
        lambda p, x: x @ p["w"].T, w, x, subspace, likelihood=Categorical()
    )
    whole = torch.func.hessian(lambda q: cross_entropy(x @ q.reshape(4, 3).T, y))
    torch.testing.assert_close(found, whole(w["w"].flatten()), rtol=0, atol=1e-12)


def test_likelihoods_and_inputs_are_checked():
    with pytest.raises(ConfigurationError, match="likelihood"):
        likelihood_named("poisson")
    with pytest.raises(ConfigurationError, match="variance"):
        likelihood_named("gaussian", 0.0)
    with pytest.raises(ConfigurationError, match="inputs"):
        project_ggn(
            forward, params(), torch.zeros(0, 3), mixed(), likelihood=Categorical()
        )
