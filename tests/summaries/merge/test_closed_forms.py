"""Merges whose result is known in closed form."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_geo.errors import (
    ConfigurationError,
    LayoutMismatchError,
    NotPositiveDefiniteError,
    SaturatedMetricWarning,
    SubspaceResidualWarning,
)
from pyro_geo.geometry.subspace import DenseBlock, Subspace
from pyro_geo.summaries.merge import (
    TaskMetric,
    build_subspace,
    curvature_gain,
    frechet_merge,
    measure,
)
from pyro_geo.testing.merging import summed_beside_mean

pytestmark = pytest.mark.usefixtures("double_precision")


def vectors(count: int, dim: int, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(dim, generator=generator)} for _ in range(count)]


def positive(count: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, dim, dim, generator=generator)
    return root @ root.mT + 0.1 * torch.eye(dim)


def made(subspace: Subspace, state: dict[str, Tensor], matrix: Tensor) -> TaskMetric:
    z = subspace.coords(state)
    zero = torch.zeros_like(z)
    made_of = {"per": "mean", "kind": "point", "likelihood": "gaussian"}
    signature = subspace.signature()
    return TaskMetric(
        matrix, z, zero, 0.0, 1.0, 1.0, end=z, signature=signature, **made_of
    )


def merged(
    base: dict[str, Tensor],
    models: Sequence[dict[str, Tensor]],
    matrices: Sequence[Tensor],
    **options: Any,
) -> Tensor:
    subspace = build_subspace(base, models, "full")
    pairs = zip(models, matrices, strict=True)
    metrics = [made(subspace, state, matrix) for state, matrix in pairs]
    return frechet_merge(base, models, metrics, subspace, **options).state_dict["w"]


ZERO = {"w": torch.zeros(6, dtype=torch.float64)}


@pytest.mark.parametrize("damping", [0.0, 0.01, 10.0])
def test_equal_metrics_give_the_weighted_mean(damping: float):
    models, matrix = vectors(3, 6), positive(1, 6)[0]
    weights = torch.tensor([1.0, 2.0, 5.0])
    found = merged(ZERO, models, [matrix] * 3, weights=weights, damping=damping)
    rows = torch.stack([state["w"] for state in models])
    torch.testing.assert_close(found, weights @ rows / 8, rtol=0, atol=1e-10)


def test_metrics_on_disjoint_blocks_give_the_sum_of_the_differences():
    base = vectors(1, 6, seed=9)[0]
    models, matrices = [], torch.zeros(3, 6, 6)
    for k, part in enumerate(positive(3, 2)):
        place = slice(2 * k, 2 * k + 2)
        tau = torch.zeros(6)
        tau[place] = torch.randn(2)
        matrices[k, place, place] = part
        models.append({"w": base["w"] + tau})
    found = merged(base, models, list(matrices), damping=0.0)
    total = base["w"] + sum(state["w"] - base["w"] for state in models)
    torch.testing.assert_close(found, total, rtol=0, atol=1e-10)


def test_diagonal_metrics_give_fisher_merging():
    models, fisher = vectors(3, 6), torch.rand(3, 6) + 0.1
    weights = torch.tensor([0.2, 0.3, 0.5])
    found = merged(ZERO, models, list(fisher), weights=weights, damping=0.0)
    rows = torch.stack([state["w"] for state in models])
    share = weights[:, None] * fisher
    torch.testing.assert_close(
        found, (share * rows).sum(0) / share.sum(0), rtol=0, atol=1e-10
    )
    # the same as dense matrices, and one of each kind
    whole = [row.diag() for row in fisher]
    dense = merged(ZERO, models, whole, weights=weights, damping=0.0)
    mixture = [fisher[0], *whole[1:]]
    mixed = merged(ZERO, models, mixture, weights=weights, damping=0.0)
    torch.testing.assert_close(dense, found, rtol=0, atol=1e-10)
    torch.testing.assert_close(mixed, found, rtol=0, atol=1e-10)


def test_scalar_metrics_give_a_mean_with_their_weights():
    models, g = vectors(3, 6), torch.tensor([1.0, 4.0, 0.5])
    found = merged(ZERO, models, [x * torch.eye(6) for x in g], damping=0.0)
    rows = torch.stack([state["w"] for state in models])
    torch.testing.assert_close(found, g @ rows / g.sum(), rtol=0, atol=1e-10)


def linear_tasks(seed: int = 0):
    """Least-squares fits of one linear layer to three data sets."""
    generator = torch.Generator().manual_seed(seed)
    base = {"w": torch.zeros(2, 3)}
    xs = [torch.randn(n, 3, generator=generator) for n in (8, 20, 35)]
    ys = [torch.randn(len(x), 2, generator=generator) for x in xs]
    fits = zip(xs, ys, strict=True)
    models = [{"w": torch.linalg.lstsq(x, y).solution.T} for x, y in fits]
    return base, models, xs, ys


def linear(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ p["w"].T


def measured(models: list, xs: list, subspace: Subspace, **options: Any) -> list:
    return [
        measure(linear, state, x, subspace, likelihood="gaussian", **options)
        for state, x in zip(models, xs, strict=True)
    ]


@pytest.mark.parametrize("kind", ["point", "path", "posterior"])
def test_linear_layers_give_regmean(kind: str):
    base, models, xs, _ = linear_tasks()
    subspace = build_subspace(base, models, "full")
    metrics = measured(models, xs, subspace, kind=kind)
    found = frechet_merge(base, models, metrics, subspace, damping=0.0)
    grams = [x.T @ x / len(x) for x in xs]
    tops = [state["w"] @ g for state, g in zip(models, grams, strict=True)]
    total, top = (torch.stack(parts).sum(0) for parts in (grams, tops))
    expected = torch.linalg.solve(total, top.T).T
    torch.testing.assert_close(found.state_dict["w"], expected, rtol=0, atol=1e-10)


def test_kronecker_metrics_are_stationary():
    base, models, _, _ = linear_tasks()
    left, right = positive(3, 2, seed=1), positive(3, 3, seed=2)
    subspace = build_subspace(base, models, "full")
    metrics = [
        made(subspace, state, torch.kron(s, g))
        for state, s, g in zip(models, left, right, strict=True)
    ]
    w = frechet_merge(base, models, metrics, subspace, damping=0.0).state_dict["w"]
    parts = zip(models, left, right, strict=True)
    force = sum(s @ (w - state["w"]) @ g for state, s, g in parts)
    torch.testing.assert_close(force, torch.zeros(2, 3), rtol=0, atol=1e-10)


def pooled_error(metrics: list, tasks: tuple) -> float:
    base, models, xs, ys = tasks
    subspace = build_subspace(base, models, "full")
    sizes = [float(len(x)) for x in xs]
    found = frechet_merge(base, models, metrics, subspace, weights=sizes, damping=0.0)
    expected = torch.linalg.lstsq(torch.cat(xs), torch.cat(ys)).solution.T
    return float((found.state_dict["w"] - expected).abs().max())


def test_weighted_by_their_data_regressions_give_the_pooled_fit():
    tasks = base, models, xs, _ = linear_tasks()
    subspace = build_subspace(base, models, "full")
    metrics = measured(models, xs, subspace)
    assert pooled_error(metrics, tasks) < 1e-10
    # the curvature of a summed loss beside that of mean losses
    named = {f"task {k}": metric for k, metric in enumerate(metrics)}
    assert pooled_error(list(summed_beside_mean(named).values()), tasks) > 1e-2


def test_the_variance_is_the_rise_in_the_residual_sum_of_squares():
    base, models, xs, ys = linear_tasks()
    subspace = build_subspace(base, models, "full")
    sums = [
        replace(metric, matrix=len(x) * metric.matrix)
        for metric, x in zip(measured(models, xs, subspace), xs, strict=True)
    ]
    found = frechet_merge(base, models, sums, subspace, damping=0.0)

    def squares(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (x @ w.T - y).square().sum()

    rows = list(zip(models, xs, ys, strict=True))
    rise = sum(
        squares(found.state_dict["w"], x, y) - squares(state["w"], x, y)
        for state, x, y in rows
    )
    assert 3 * found.variance == pytest.approx(float(rise), rel=1e-10)


def test_metrics_of_sums_and_of_means_are_never_merged():
    base, models, xs, _ = linear_tasks()
    subspace = build_subspace(base, models, "full")
    metrics = measured(models, xs, subspace)
    metrics[1] = replace(metrics[1], per="sum")
    with pytest.raises(ConfigurationError, match="mean.*sum"):
        frechet_merge(base, models, metrics, subspace)


@pytest.mark.parametrize("kind", ["span", "block", "singular", "full"])
def test_one_model_and_equal_models_come_back(kind: str):
    base = {"w": torch.randn(5, 4), "b": torch.randn(5)}
    model = {name: x + torch.randn_like(x) for name, x in base.items()}
    x = torch.randn(30, 4)

    def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.tanh(x @ p["w"].T + p["b"])

    for count in (1, 3):
        models = [model] * count
        subspace = build_subspace(base, models, kind, rank_fraction=float(count))
        found = frechet_merge(
            base, models, None, subspace, forwards=forward, inputs=[x] * count
        )
        for name, value in model.items():
            torch.testing.assert_close(
                found.state_dict[name], value, rtol=0, atol=1e-10
            )
        assert found.variance == pytest.approx(0.0, abs=1e-18)
        assert found.report.kl.values == pytest.approx(0.0, abs=1e-15)


def test_the_gap_is_that_of_equation_two_and_never_negative():
    for seed in range(20):
        models, matrices = vectors(4, 6, seed), positive(4, 6, seed + 100)
        weights = torch.rand(4) + 0.1
        share = weights / weights.sum()
        subspace = build_subspace(ZERO, models, "full")
        rows = zip(models, matrices, strict=True)
        metrics = [made(subspace, state, a) for state, a in rows]
        found = frechet_merge(
            ZERO, models, metrics, subspace, weights=weights, damping=0.0
        )
        z = torch.stack([metric.coords for metric in metrics])
        mean = torch.tensordot(share, matrices, 1)
        c = torch.einsum("k,kij,kj->i", share, matrices - mean, z - share @ z)
        gap = float(c @ torch.linalg.solve(mean, c))
        assert found.gap == pytest.approx(gap, rel=1e-12)
        assert found.gap >= 0
        apart = z - share @ z
        flat = float(torch.einsum("k,ki,kij,kj->", share, apart, matrices, apart))
        assert found.variance == pytest.approx(flat - gap, rel=1e-12)


def test_an_error_of_the_metrics_moves_the_merge_by_equation_three():
    models, matrices = vectors(3, 6), positive(3, 6)
    wrong = matrices + 0.1 * positive(3, 6, seed=5)
    share = torch.full((3,), 1 / 3)
    best = merged(ZERO, models, list(matrices), damping=0.0)
    moved = merged(ZERO, models, list(wrong), damping=0.0)
    z = torch.stack([state["w"] for state in models])
    right = torch.einsum("k,kij,kj->i", share, wrong - matrices, z - best)
    expected = torch.linalg.solve(torch.tensordot(share, wrong, 1), right)
    torch.testing.assert_close(moved - best, expected, rtol=0, atol=1e-12)


def test_a_split_in_halves_tells_whether_curvature_helps():
    models, matrices = vectors(3, 6), positive(3, 6)
    subspace = build_subspace(ZERO, models, "full")

    def metrics(values: Tensor) -> list[TaskMetric]:
        rows = zip(models, values, strict=True)
        return [made(subspace, state, a) for state, a in rows]

    same = curvature_gain(metrics(matrices), metrics(matrices), damping=0.0)
    assert same.error == pytest.approx(0.0, abs=1e-18)
    assert same.helps
    # in metrics of other data altogether the mean is not better than the flat one
    noise = curvature_gain(metrics(positive(3, 6, seed=3) ** 3), metrics(matrices))
    assert noise.error > noise.gain
    assert not noise.helps
    # the difference of the variances, written out
    guess = merged(ZERO, models, list(positive(3, 6, seed=8)), damping=0.0)
    z = torch.stack([state["w"] for state in models])

    def variance(point: Tensor) -> float:
        apart = point - z
        return float(torch.einsum("ki,kij,kj->", apart, matrices, apart)) / 3

    one = curvature_gain(
        metrics(positive(3, 6, seed=8)), metrics(matrices), damping=0.0
    )
    difference = variance(guess) - variance(z.mean(0))
    assert one.error - one.gain == pytest.approx(difference, rel=1e-9)


def test_flat_metrics_split_the_energy_into_variance_and_residual():
    base = {"w": torch.zeros(8, 6)}
    models = [{"w": torch.randn(8, 6)} for _ in range(3)]
    g, weights = [0.5, 2.0, 1.0], torch.tensor([1.0, 1.0, 2.0])

    # sqrt(g) times the parameters as outputs: the metric of task k is g_k I
    def forward(scale: float):
        return lambda p, x: scale**0.5 * p["w"].flatten()[None].expand(len(x), -1)

    subspace = build_subspace(base, models, "singular", 0.4)
    metrics = [
        measure(forward(s), state, torch.zeros(1, 1), subspace, likelihood="gaussian")
        for s, state in zip(g, models, strict=True)
    ]
    with pytest.warns(SubspaceResidualWarning):
        found = frechet_merge(
            base, models, metrics, subspace, weights=weights, damping=0.0
        )
    share = weights / weights.sum()
    energy = sum(
        float(w * s) * float((found.state_dict["w"] - state["w"]).square().sum())
        for w, s, state in zip(share, g, models, strict=True)
    )
    assert found.variance + found.residual == pytest.approx(energy, rel=1e-12)
    assert all(0 < metric.kept < 1 for metric in metrics)


def energies(subspace: Subspace, models: list, matrices: Tensor) -> tuple:
    """J at the merge with V and E, for metrics that are known in all coordinates."""
    base = {"w": torch.zeros(6)}
    columns = torch.stack([subspace.direction(i)["w"] for i in range(subspace.dim)], 1)
    metrics = [
        made(subspace, state, columns.T @ a @ columns)
        for state, a in zip(models, matrices, strict=True)
    ]
    found = frechet_merge(base, models, metrics, subspace, damping=0.0)
    w = found.state_dict["w"]
    rest = [s["w"] - columns @ (columns.T @ s["w"]) for s in models]
    apart = [w - s["w"] for s in models]
    rows = list(zip(apart, rest, matrices, strict=True))
    total = sum(float(d @ a @ d) for d, _, a in rows) / len(rows)
    outside = sum(float(r @ a @ r) for _, r, a in rows) / len(rows)
    return total, found.variance, outside


def test_the_energy_is_bounded_and_falls_in_nested_subspaces():
    models, matrices = vectors(3, 6), positive(3, 6)
    directions = torch.stack([s["w"] for s in models])
    generator = torch.Generator().manual_seed(3)
    directions = torch.cat([directions, torch.randn(3, 6, generator=generator)])
    last = torch.inf
    for count in range(1, 7):
        rows = torch.linalg.qr(directions[:count].T).Q.T
        subspace = Subspace(ZERO, [DenseBlock({"w": rows})])
        total, variance, outside = energies(subspace, models, matrices)
        assert total <= 2 * variance + 2 * outside + 1e-12
        if count >= 3:  # all models are inside
            assert outside == pytest.approx(0.0, abs=1e-20)
            assert total <= last + 1e-12
            last = total


def test_labels_units_and_bases_do_not_matter():
    models, matrices = vectors(3, 6), positive(3, 6)
    first = merged(ZERO, models, list(matrices))
    turned = [2, 0, 1]
    other = merged(ZERO, [models[k] for k in turned], [matrices[k] for k in turned])
    torch.testing.assert_close(other, first, rtol=0, atol=1e-10)
    scaled = merged(ZERO, models, list(1e6 * matrices))
    torch.testing.assert_close(scaled, first, rtol=0, atol=1e-10)
    # another orthonormal basis of the same subspace
    rows = torch.linalg.qr(torch.stack([s["w"] for s in models]).T).Q.T
    results = []
    for turn in (torch.eye(3), torch.linalg.qr(torch.randn(3, 3)).Q):
        basis = turn @ rows
        subspace = Subspace(ZERO, [DenseBlock({"w": basis})])
        metrics = [
            made(subspace, state, basis @ a @ basis.T)
            for state, a in zip(models, matrices, strict=True)
        ]
        found = frechet_merge(ZERO, models, metrics, subspace)
        results.append(found.state_dict["w"])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-10)


def test_an_affine_change_of_parameters_changes_the_merge_alike():
    models, matrices = vectors(3, 6), positive(3, 6)
    first = merged(ZERO, models, list(matrices), damping=0.0)
    change, shift = torch.randn(6, 6) + 3 * torch.eye(6), torch.randn(6)
    inverse = torch.linalg.inv(change)
    moved = [{"w": change @ s["w"] + shift} for s in models]
    metrics = [inverse.T @ a @ inverse for a in matrices]
    found = merged({"w": shift}, moved, metrics, damping=0.0)
    torch.testing.assert_close(found, change @ first + shift, rtol=0, atol=1e-9)


def test_directions_that_no_task_cares_about_go_where_they_are_told():
    base = vectors(1, 6, seed=7)[0]
    models = vectors(2, 6)
    matrix = torch.zeros(6, 6)
    matrix[0, 0] = 1.0
    for where in ("mean", "base"):
        found = merged(base, models, [matrix, 2 * matrix], damp_to=where)
        mean = (models[0]["w"] + models[1]["w"]) / 2
        expected = mean if where == "mean" else base["w"]
        torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=1e-10)
    with pytest.raises(NotPositiveDefiniteError, match="smallest eigenvalue"):
        merged(base, models, [matrix, 2 * matrix], damping=0.0)


def test_a_task_without_curvature_is_named():
    models, matrices = vectors(2, 6), positive(2, 6)
    matrices[1] *= 1e-6
    with pytest.warns(SaturatedMetricWarning, match="'task 1'"):
        merged(ZERO, models, list(matrices))


def test_a_metric_of_another_subspace_is_refused():
    models, matrices = vectors(2, 6), positive(2, 6)
    full = build_subspace(ZERO, models, "full")
    rows = torch.linalg.qr(torch.randn(6, 6)).Q
    other = Subspace(ZERO, [DenseBlock({"w": rows})])
    metrics = [made(full, s, a) for s, a in zip(models, matrices, strict=True)]
    with pytest.raises(LayoutMismatchError, match="another subspace"):
        frechet_merge(ZERO, models, metrics, other)
    with pytest.raises(LayoutMismatchError, match="6 coordinates"):
        frechet_merge(ZERO, models, metrics, build_subspace(ZERO, models, "span"))


def test_the_covariance_adds_the_data_of_all_tasks():
    base, models, xs, _ = linear_tasks()
    subspace = build_subspace(base, models, "full")
    found = frechet_merge(base, models, measured(models, xs, subspace), subspace)
    pooled = torch.kron(torch.eye(2), torch.cat(xs).T @ torch.cat(xs))
    expected = torch.linalg.inv(pooled + 0.5 * torch.eye(6))
    torch.testing.assert_close(found.covariance(0.5), expected, rtol=1e-9, atol=1e-12)
    factor = found.covariance_factor(0.5)
    torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-9, atol=1e-12)
