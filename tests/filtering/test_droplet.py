"""The exact droplet update against tables, closed forms and brute force."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from pyro_geo.errors import ConfigurationError, EmptyDropletError, ShapeError
from pyro_geo.filtering.droplet import (
    DropletUpdate,
    Likelihood,
    least_information,
    scalar_droplet_update,
    severing_distance,
    vector_droplet_update,
)

DOUBLE = torch.float64
TIGHT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
INF = math.inf


def one_dimensional(
    y: float, cap: float, radius: float, likelihood: Likelihood = "capped"
) -> DropletUpdate:
    """Prior N(0, 1), noise .25."""
    one = torch.ones(1, 1, dtype=DOUBLE)
    return scalar_droplet_update(
        torch.zeros(1, dtype=DOUBLE),
        one,
        one[0],
        torch.tensor(y, dtype=DOUBLE),
        0.25,
        cap,
        radius,
        likelihood=likelihood,
    )


# y, both normal, cut prior, cut noise, capped, cut prior and capped
GOLDEN = [
    (2.0, 1.60000, 1.59867, 1.61375, 1.34577, 1.34544),
    (4.0, 3.20000, 2.70688, 3.27591, 0.10418, 0.01803),
    (4.5, 3.60000, 2.79276, 3.70529, 0.02050, 0.0),
    (10.0, 8.00000, 2.96064, 8.79538, 0.0, 0.0),
]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"y={row[0]}")
def test_posterior_means_of_the_golden_table(row: tuple[float, ...]) -> None:
    y, *expected = row
    found = [
        one_dimensional(y, INF, INF),
        one_dimensional(y, INF, 3.0),
        one_dimensional(y, 4.0, INF, "truncated"),
        one_dimensional(y, 4.0, INF),
        one_dimensional(y, 4.0, 3.0),
    ]
    for update, mean in zip(found, expected, strict=True):
        assert abs(float(update.mean) - mean) < 3e-5
    # the second column in closed form: a truncated normal
    a, b = (sign * 3 - 0.8 * y for sign in (-1, 1))
    scale = math.sqrt(0.2)
    law = stats.truncnorm(a / scale, b / scale, loc=0.8 * y, scale=scale)
    assert abs(float(found[1].mean) - law.mean()) < 1e-10
    assert abs(float(found[1].covariance) - law.var()) < 1e-10
    # and the third, on the interval that cut noise allows
    a, b = (y + sign * math.sqrt(2) - 0.8 * y for sign in (-1, 1))
    law = stats.truncnorm(a / scale, b / scale, loc=0.8 * y, scale=scale)
    assert abs(float(found[2].mean) - law.mean()) < 1e-10
    exact = y >= 3 + math.sqrt(2)
    assert bool(found[4].severed) == exact
    assert (float(found[4].mean) == 0.0) == exact


def test_disjoint_supports_have_no_posterior() -> None:
    assert one_dimensional(4.414, 4.0, 3.0, "truncated").mean.isfinite()
    with pytest.raises(EmptyDropletError, match=r"found \[4.415\]"):
        one_dimensional(4.415, 4.0, 3.0, "truncated")


def problem(
    seed: int, n: int, batch: int = 5
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    a = normal(batch, n, n)
    P = a @ a.mT + 0.1 * torch.eye(n, dtype=DOUBLE)
    return normal(batch, n), P, normal(batch, n), 3 * normal(batch), normal(batch) ** 2


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize(("cap", "radius"), [(INF, INF), (1e7, 60.0)])
def test_without_cap_and_radius_it_is_the_kalman_filter(
    n: int, cap: float, radius: float
) -> None:
    m, P, H, nu, R = problem(n, n)
    R = R + 0.01
    update = scalar_droplet_update(m, P, H, nu, R, cap, radius)
    column = (P @ H[..., None])[..., 0]
    S = (H * column).sum(-1) + R
    gain = column / S[:, None]
    mean = m + gain * nu[:, None]
    cov = P - gain[:, :, None] * column[:, None, :]
    tight: Any = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(update.mean, mean, **tight)
    torch.testing.assert_close(update.covariance, cov, **tight)
    torch.testing.assert_close(update.scale, cov, **tight)
    evidence = -0.5 * (nu**2 / S + (S / R).log())
    torch.testing.assert_close(update.log_evidence, evidence, **tight)


@pytest.mark.parametrize("likelihood", ["capped", "truncated"])
@pytest.mark.parametrize(
    ("cap", "radius"),
    [
        (0.7, 2.0),
        pytest.param(4.0, 1.2, marks=pytest.mark.slow),
        pytest.param(2.0, 3.5, marks=pytest.mark.slow),
    ],
)
def test_plane_is_brute_force(
    likelihood: Likelihood, cap: float, radius: float
) -> None:
    m, P, H, _, R = problem(7, 2)
    R = R + 0.3
    nu = 0.9 * severing_distance(H, P, R, cap, radius) * torch.linspace(-1, 1, 5)
    update = scalar_droplet_update(m, P, H, nu, R, cap, radius, likelihood=likelihood)
    # polar coordinates, where the ball has no edge inside
    steps = (torch.arange(1500, dtype=DOUBLE) + 0.5) / 1500
    r, angle = radius * steps[:, None], 2 * math.pi * steps
    v = torch.stack((r * angle.cos(), r * angle.sin()), -1).reshape(-1, 2)
    weight = (r * torch.exp(-0.5 * r**2)).expand(1500, 1500).reshape(-1)
    for i in range(5):
        x = v @ torch.linalg.cholesky(P[i]).mT
        info = (nu[i] - x @ H[i]) ** 2 / (2 * R[i])
        like = torch.exp(-info.clamp(max=cap))
        if likelihood == "truncated":
            like = torch.where(info <= cap, like, 0.0)
        w = weight * like
        mean = (w @ x) / w.sum()
        cov = (x - mean).mT @ (w[:, None] * (x - mean)) / w.sum()
        size: Any = {"rtol": 1e-3 if likelihood == "truncated" else 1e-5, "atol": 1e-5}
        torch.testing.assert_close(update.mean[i], m[i] + mean, **size)
        torch.testing.assert_close(update.covariance[i], cov, **size)
        evidence = (w.sum() / weight.sum()).log()
        torch.testing.assert_close(update.log_evidence[i], evidence, **size)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_new_droplet_has_the_posterior_covariance(n: int) -> None:
    m, P, H, nu, R = problem(n, n)
    radius = 1.5
    update = scalar_droplet_update(m, P, H, nu, R + 0.1, 3.0, radius)
    half = torch.tensor(radius**2 / 2, dtype=DOUBLE)
    ratio = [stats.gamma.cdf(float(half), n / 2 + extra) for extra in (1, 0)]
    kept = ratio[0] / ratio[1]
    torch.testing.assert_close(update.scale * kept, update.covariance)
    # a flat likelihood leaves the droplet as it is
    same = scalar_droplet_update(m, P, H, nu, R + 1e12, 3.0, radius)
    torch.testing.assert_close(same.scale, P, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(same.mean, m, rtol=1e-9, atol=1e-9)


def test_severed_measurements_change_no_bit() -> None:
    m, P, H, _, R = problem(3, 4, 6)
    cap, radius = 2.0, 1.3
    limit = severing_distance(H, P, R, cap, radius)
    nu = limit * torch.tensor([1.0, -1.0, 1 + 1e-14, 1e9, 0.999, 0.5], dtype=DOUBLE)
    nu[3] = 1e300
    update = scalar_droplet_update(m, P, H, nu, R, cap, radius)
    assert update.severed.tolist() == [True] * 4 + [False] * 2
    assert torch.equal(update.mean[:4], m[:4])
    assert torch.equal(update.scale[:4], P[:4])
    assert (update.log_evidence[:4] == -cap).all()
    assert not torch.equal(update.mean[4:], m[4:])
    for bad in (math.nan, INF, -INF):
        lost = scalar_droplet_update(m, P, H, torch.full_like(nu, bad), R, cap, radius)
        assert torch.equal(lost.mean, m)
        assert torch.equal(lost.scale, P)
    # one bad measurement leaves the others alone
    mixed = nu.clone()
    mixed[0] = math.nan
    again = scalar_droplet_update(m, P, H, mixed, R, cap, radius)
    assert torch.equal(again.mean[1:], update.mean[1:])


def test_influence_vanishes_towards_the_threshold() -> None:
    y = torch.linspace(2.5, 4.5, 41, dtype=DOUBLE)
    one = torch.ones(1, 1, dtype=DOUBLE)
    update = scalar_droplet_update(one[0] * 0, one, one[0], y, 0.25, 4.0, 3.0)
    assert (update.mean[1:] <= update.mean[:-1]).all()
    near = one_dimensional(3 + math.sqrt(2) - 1e-6, 4.0, 3.0)
    assert not near.severed
    assert 0 <= float(near.mean) < 1e-8


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 5),
    cap=st.floats(0.05, 9.0),
    radius=st.floats(0.3, 5.0),
)
def test_influence_is_bounded(seed: int, n: int, cap: float, radius: float) -> None:
    m, P, H, nu, R = problem(seed, n, 8)
    update = scalar_droplet_update(m, P, H, nu * 3, R + 1e-4, cap, radius)
    prior = P * (update.covariance / update.scale)[..., :1, :1]
    gap = (update.mean - m)[..., None]
    moved = (gap.mT @ torch.linalg.solve(prior, gap)).flatten().sqrt()
    assert (moved <= math.sinh(cap / 2) * (1 + 1e-9)).all()
    tril = torch.linalg.cholesky(prior)
    white = torch.linalg.solve_triangular(tril, update.covariance, upper=False)
    white = torch.linalg.solve_triangular(tril, white.mT, upper=False)
    assert (torch.linalg.eigvalsh(white) <= math.exp(cap) * (1 + 1e-9)).all()
    assert (torch.linalg.eigvalsh(white) > 0).all()
    assert (update.log_evidence >= -cap - 1e-9).all()
    assert (update.log_evidence <= 1e-9).all()


def test_components_of_a_vector_are_taken_one_after_the_other() -> None:
    m, P, _, _, _ = problem(11, 2, 1)
    m, P = m[0], P[0]
    H = torch.tensor([[1.0, 0.3], [-0.2, 0.8]], dtype=DOUBLE)
    R = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=DOUBLE)
    nu, cap, radius = torch.tensor([1.4, -0.9], dtype=DOUBLE), 1.5, 2.2
    update = vector_droplet_update(m, P, H, nu, R, cap, radius)
    # brute force on a grid of polar coordinates, a droplet after each component
    steps = (torch.arange(1200, dtype=DOUBLE) + 0.5) / 1200
    r, angle = radius * steps[:, None], 2 * math.pi * steps
    v = torch.stack((r * angle.cos(), r * angle.sin()), -1).reshape(-1, 2)
    weight = (r * torch.exp(-0.5 * r**2)).expand(1200, 1200).reshape(-1)
    white = torch.linalg.inv(torch.linalg.cholesky(R))
    rows, target = white @ H, white @ nu
    kept = (weight[:, None] * v**2).sum(0).mean() / weight.sum()
    mean, matrix, evidence = torch.zeros(2, dtype=DOUBLE), P, 0.0
    for row, y in zip(rows, target, strict=True):
        x = mean + v @ torch.linalg.cholesky(matrix).mT
        like = torch.exp(-((y - x @ row) ** 2 / 2).clamp(max=cap))
        w = weight * like
        evidence += float((w.sum() / weight.sum()).log())
        mean = (w @ x) / w.sum()
        matrix = (x - mean).mT @ (w[:, None] * (x - mean)) / w.sum() / kept
    torch.testing.assert_close(update.mean, m + mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(update.scale, matrix, rtol=1e-5, atol=1e-5)
    assert abs(float(update.log_evidence) - evidence) < 1e-5


def test_vector_limits_and_severing() -> None:
    m, P, _, _, _ = problem(5, 4, 3)
    generator = torch.Generator().manual_seed(5)
    H = torch.randn(3, 2, 4, generator=generator, dtype=DOUBLE)
    nu = torch.randn(3, 2, generator=generator, dtype=DOUBLE)
    R = torch.eye(2, dtype=DOUBLE) * 0.3 + 0.1
    update = vector_droplet_update(m, P, H, nu, R)
    S = H @ P @ H.mT + R
    gain = torch.linalg.solve(S, H @ P).mT
    torch.testing.assert_close(update.mean, m + (gain @ nu[..., None])[..., 0], **TIGHT)
    torch.testing.assert_close(update.covariance, P - gain @ H @ P, **TIGHT)
    far = vector_droplet_update(m, P, H, nu + 1e6, R, 3.0, 2.0)
    assert far.severed.all()
    assert torch.equal(far.mean, m)
    assert torch.equal(far.scale, P)
    single = vector_droplet_update(m, P, H[:, :1], nu[:, :1], R[:1, :1], 3.0, 2.0)
    scalar = scalar_droplet_update(m, P, H[:, 0], nu[:, 0], R[0, 0], 3.0, 2.0)
    torch.testing.assert_close(single.mean, scalar.mean, **TIGHT)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_component_without_a_number_is_as_if_not_measured(missing, bad) -> None:
    m, P, _, _, _ = problem(3, 2, 4)
    generator = torch.Generator().manual_seed(missing)
    H = torch.randn(4, 3, 2, generator=generator, dtype=DOUBLE)
    root = torch.randn(4, 3, 3, generator=generator, dtype=DOUBLE)
    R = root @ root.mT + 0.2 * torch.eye(3, dtype=DOUBLE)
    nu = torch.randn(4, 3, generator=generator, dtype=DOUBLE)
    nu[1:3, missing] = bad  # the others are all there
    update = vector_droplet_update(m, P, H, nu, R, 2.0, 2.5)
    rest = [i for i in range(3) if i != missing]
    few = vector_droplet_update(
        m, P, H[:, rest], nu[:, rest], R[:, rest][:, :, rest], 2.0, 2.5
    )
    whole = vector_droplet_update(m[::3], P[::3], H[::3], nu[::3], R[::3], 2.0, 2.5)
    for name in ("mean", "scale", "covariance", "log_evidence"):
        found = getattr(update, name)
        torch.testing.assert_close(found[1:3], getattr(few, name)[1:3], **TIGHT)
        torch.testing.assert_close(found[::3], getattr(whole, name), **TIGHT)
    assert not update.severed.any()
    none = vector_droplet_update(m, P, H, torch.full_like(nu, bad), R, 2.0, 2.5)
    assert none.severed.all()
    assert torch.equal(none.scale, P)
    assert (none.log_evidence == 0).all()


def test_a_vector_is_taken_in_double_precision() -> None:
    """Eight components: the rounding of each would add up."""
    m, P, _, _, _ = problem(2, 3, 1)
    H = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    R, nu = 0.5 * torch.eye(8, dtype=DOUBLE), H.sum(-1)
    m, P, H, nu, R = (x.float() for x in (m[0], P[0], H, nu, R))
    single = vector_droplet_update(m, P, H, nu, R, 3.0, 2.0)
    m, P, H, nu, R = (x.double() for x in (m, P, H, nu, R))
    double = vector_droplet_update(m, P, H, nu, R, 3.0, 2.0)
    assert torch.equal(single.mean, double.mean.float())
    assert torch.equal(single.scale, double.scale.float())


@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 2), (2, 4), (4, 2)])
def test_least_information_is_the_minimum(k: int, n: int) -> None:
    generator = torch.Generator().manual_seed(k + 7 * n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    a, b, H, nu = normal(6, n, n), normal(6, k, k), normal(6, k, n), 5 * normal(6, k)
    P = a @ a.mT + 0.1 * torch.eye(n, dtype=DOUBLE)
    R = b @ b.mT + 0.1 * torch.eye(k, dtype=DOUBLE)
    nu[0] = 0.0
    radius = 1.4
    found = least_information(H, P, nu, R, radius)
    assert found[0] == 0
    for i in range(6):
        L = torch.linalg.cholesky(P[i])

        def info(v: object, i: int = i, L: Tensor = L) -> float:
            x = torch.as_tensor(v, dtype=DOUBLE)
            x = radius * x / x.norm().clamp(min=1.0)
            gap = nu[i] - H[i] @ L @ x
            return float(0.5 * gap @ torch.linalg.solve(R[i], gap))

        best = min(
            float(
                optimize.minimize(
                    info,
                    normal(n).numpy(),
                    method="Nelder-Mead",
                    options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 2000},
                ).fun
            )
            for _ in range(3)
        )
        assert abs(float(found[i]) - best) < 1e-6 * (1 + best)
    if k == 1:  # the threshold of a scalar measurement
        cap = found[1:]
        limit = severing_distance(H[1:, 0], P[1:], R[1:, 0, 0], cap, radius)
        out = cap > 1e-12
        torch.testing.assert_close(limit[out], nu[1:, 0].abs()[out])
    tensors = (H, P, nu[1:], R)

    def differentiable(scale: Tensor) -> Tensor:
        h, p, y, r = tensors
        return least_information(h[1:] * scale, p[1:], y * scale**2, r[1:], radius)

    assert torch.autograd.gradcheck(
        differentiable, torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    )


def test_gradients_float32_and_maps() -> None:
    m, P, H, nu, R = problem(2, 3, 4)
    R = R + 0.2

    def moments(nu: Tensor, R: Tensor, cap: Tensor, radius: Tensor) -> Tensor:
        found = scalar_droplet_update(m, P, H, nu, R, cap, radius)
        return torch.cat(
            (found.mean.flatten(), found.scale.flatten(), found.log_evidence)
        )

    numbers = [torch.tensor(x, dtype=DOUBLE) for x in (2.3, 1.7)]
    inputs = [x.requires_grad_() for x in (nu, R, *numbers)]
    assert torch.autograd.gradcheck(moments, inputs, atol=1e-6)
    low: Any = [x.detach().float() for x in (m, P, H, nu, R)]
    found = scalar_droplet_update(*low, cap_nats=2.3, radius=1.7)
    exact = scalar_droplet_update(m, P, H, nu.detach(), R.detach(), 2.3, 1.7)
    assert found.mean.dtype == torch.float32
    torch.testing.assert_close(found.mean.double(), exact.mean, rtol=1e-5, atol=1e-5)
    mapped = torch.func.vmap(
        lambda y: scalar_droplet_update(m[0], P[0], H[0], y, R[0], 2.3, 1.7).mean
    )(nu)
    rows = scalar_droplet_update(m[0], P[0], H[0], nu, R[0], 2.3, 1.7).mean
    torch.testing.assert_close(mapped, rows)


def test_bad_arguments_are_refused() -> None:
    m, P, H, nu, R = problem(1, 2)
    with pytest.raises(ShapeError, match="argument P"):
        scalar_droplet_update(m, P[..., :1], H, nu, R)
    with pytest.raises(ShapeError, match="argument H"):
        scalar_droplet_update(m, P, H[..., :1], nu, R)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("R", {"R": 0.0}),
        ("cap_nats", {"R": 1.0, "cap_nats": -1.0}),
        ("radius", {"R": 1.0, "radius": 0.0}),
        ("likelihood", {"R": 1.0, "likelihood": "hard"}),
    ]
    for name, options in bad:
        with pytest.raises(ConfigurationError, match=name):
            scalar_droplet_update(m, P, H, nu, **options)
    with pytest.raises(ShapeError, match="argument R"):
        vector_droplet_update(m, P, H[:, None], nu[:, None], torch.eye(2))
    with pytest.raises(ShapeError, match="argument nu"):
        vector_droplet_update(m, P, H[:, None], nu, torch.eye(1))
