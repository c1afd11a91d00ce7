"""Measured metrics: what they predict, and the files that they are saved in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.density import Layout
from pyro_geo.errors import (
    CheckpointError,
    ConfigurationError,
    LayoutMismatchError,
    NonFiniteParameterError,
    ShapeError,
)
from pyro_geo.geometry.matrices import Cholesky, Diagonal
from pyro_geo.summaries import GaussianPosterior, combine
from pyro_geo.summaries.merge import (
    TaskMetric,
    build_subspace,
    frechet_merge,
    measure,
    posterior_tasks,
)
from pyro_geo.testing.merging import conjugate_shards, measured_elsewhere

pytestmark = pytest.mark.usefixtures("double_precision")


def logistic(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ p["w"].T


def problem():
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(3, 4, generator=generator)}
    models = [{"w": 3 * torch.randn(3, 4, generator=generator)} for _ in range(3)]
    x = torch.randn(50, 4, generator=generator)
    return base, models, x, build_subspace(base, models, "full")


def divergence(state: dict[str, Tensor], other: dict[str, Tensor], x: Tensor) -> float:
    one, two = (
        torch.distributions.Categorical(logits=logistic(s, x)) for s in (state, other)
    )
    return float(torch.distributions.kl_divergence(one, two).mean())


def test_along_the_path_the_prediction_is_the_divergence():
    # logits linear in the parameters: no other second derivative than that of Gauss
    base, models, x, subspace = problem()
    end = subspace.point(subspace.center)
    state = models[0]
    actual = divergence(state, end, x)
    found = measure(logistic, state, x, subspace, nodes=30)
    assert found.predicted_kl(subspace.center) == pytest.approx(actual, rel=1e-8)
    # two nodes do most of it; a metric from elsewhere, or at the point, does not
    default = measure(logistic, state, x, subspace)
    assert default.predicted_kl(subspace.center) == pytest.approx(actual, rel=0.1)
    twin = measured_elsewhere(logistic, base, state, x, subspace)
    point = measure(logistic, state, x, subspace, kind="point")
    for wrong in (twin, point):
        assert abs(wrong.predicted_kl(subspace.center) / actual - 1) > 0.3


def test_the_path_may_lead_to_coordinates_or_to_parameters():
    _, models, x, subspace = problem()
    there = models[1]
    one = measure(logistic, models[0], x, subspace, towards=there)
    two = measure(logistic, models[0], x, subspace, towards=subspace.coords(there))
    torch.testing.assert_close(one.matrix, two.matrix)
    assert not torch.allclose(
        one.matrix, measure(logistic, models[0], x, subspace).matrix
    )
    with pytest.raises(ShapeError, match="towards"):
        measure(logistic, models[0], x, subspace, towards=torch.zeros(3))


def test_what_the_subspace_leaves_out_is_in_the_prediction():
    base, models, x, full = problem()
    narrow = build_subspace(base, models, "singular", rank_fraction=0.5)
    state, z = models[0], torch.randn(narrow.dim)

    def gaussian(subspace):
        return measure(logistic, state, x, subspace, likelihood="gaussian")

    found = gaussian(narrow)
    assert 0 < found.kept < 1
    assert found.residual > 0
    # a quadratic loss: the prediction is exact, in the subspace and in all coordinates
    outputs = logistic(narrow.point(z), x) - logistic(state, x)
    actual = float(outputs.square().sum(1).mean()) / 2
    assert found.predicted_kl(z) == pytest.approx(actual, rel=1e-10)
    everywhere = gaussian(full).predicted_kl(full.coords(narrow.point(z)))
    assert everywhere == pytest.approx(actual, rel=1e-10)


def test_draws_of_the_posterior_come_in_pairs_and_leave_other_randomness_alone():
    _, models, x, subspace = problem()
    state = torch.get_rng_state()
    one, two = (
        measure(logistic, models[0], x, subspace, kind="posterior", seed=s)
        for s in (0, 0)
    )
    assert torch.equal(one.matrix, two.matrix)
    assert torch.equal(torch.get_rng_state(), state)
    other = measure(logistic, models[0], x, subspace, kind="posterior", seed=1)
    assert not torch.equal(one.matrix, other.matrix)
    # with a posterior that is a point the metric is that at the point
    firm: dict[str, Any] = {"kind": "posterior", "prior_precision": 1e24}
    point = measure(logistic, models[0], x, subspace, kind="point")
    narrow = measure(logistic, models[0], x, subspace, **firm)
    torch.testing.assert_close(narrow.matrix, point.matrix, rtol=1e-9, atol=1e-12)


def test_a_saved_metric_is_the_same_metric(tmp_path: Path):
    base, models, x, subspace = problem()
    metrics = [measure(logistic, state, x, subspace) for state in models]
    loaded = []
    for k, metric in enumerate(metrics):
        metric.save(tmp_path / f"{k}.pt")
        loaded.append(TaskMetric.load(tmp_path / f"{k}.pt"))
    one, two = (frechet_merge(base, models, m, subspace) for m in (metrics, loaded))
    assert torch.equal(one.state_dict["w"], two.state_dict["w"])
    assert loaded[0].count == 50
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.pt", "1.pt", "2.pt"]


def test_files_that_are_missing_cut_off_or_changed_are_refused(tmp_path: Path):
    _, models, x, subspace = problem()
    path = tmp_path / "metric.pt"
    measure(logistic, models[0], x, subspace).save(path)
    content = path.read_bytes()
    numbers = measure(logistic, models[0], x, subspace).coords.numpy().tobytes()
    changed = content.replace(numbers, bytes(reversed(numbers)))
    assert changed != content
    for wrong in (content[: len(content) // 2], b"", b"text", changed):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=r"metric\.pt"):
            TaskMetric.load(path)
    torch.save({"matrix": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="another format"):
        TaskMetric.load(path)
    with pytest.raises(CheckpointError, match="FileNotFoundError"):
        TaskMetric.load(tmp_path / "none.pt")


class _Code:
    def __reduce__(self):
        return print, ("run",)


def test_no_code_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    torch.save(_Code(), tmp_path / "code.pt")
    with pytest.raises(CheckpointError):
        TaskMetric.load(tmp_path / "code.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kind": "hessian"}, "kind"),
        ({"nodes": 0}, "nodes"),
        ({"num_draws": 3}, "num_draws"),
        ({"count": 0.0}, "count"),
        ({"prior_precision": 0.0}, "prior_precision"),
        ({"likelihood": "normal"}, "likelihood"),
        ({"variance": -1.0}, "variance"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], word: str):
    _, models, x, subspace = problem()
    with pytest.raises(ConfigurationError, match=word):
        measure(logistic, models[0], x, subspace, **options)


def test_bad_parameters_are_named():
    _, models, x, subspace = problem()
    with pytest.raises(NonFiniteParameterError, match="'w'"):
        measure(logistic, {"w": torch.full((3, 4), torch.nan)}, x, subspace)
    with pytest.raises(LayoutMismatchError, match="'w'"):
        measure(logistic, {"w": torch.zeros(4, 3)}, x, subspace)
    with pytest.raises(ConfigurationError, match="inputs"):
        measure(logistic, models[0], x[:0], subspace)


# posteriors


def test_posteriors_merge_to_the_mean_of_their_product():
    shards = conjugate_shards([5, 9, 14])
    found = frechet_merge(*posterior_tasks(shards.posteriors)).state_dict
    product = combine(shards.posteriors, how="product")
    expected = product.layout.unflatten(product.loc)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10)


def test_the_order_of_sites_does_not_matter():
    shards = conjugate_shards([5, 9])
    first, second = shards.posteriors
    names = list(first.layout.sites)
    supports = {
        name: (first.layout.sites[name].shape, constraints.real)
        for name in reversed(names)
    }
    turned = Layout.from_supports(supports)
    other = second.aligned(turned)
    assert list(other.layout.sites) == names[::-1]
    one, two = (
        frechet_merge(*posterior_tasks([first, s])).state_dict for s in (second, other)
    )
    for name in names:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "guide", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal]
)
def test_guides_carry_their_metric(guide: type):
    import pyro
    import pyro.distributions as dist

    def model() -> None:
        pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("s", dist.LogNormal(0.0, 1.0))

    fits = []
    for seed in range(2):
        pyro.set_rng_seed(seed)
        pyro.clear_param_store()
        fitted = guide(model, init_scale=0.1 + 0.3 * seed)
        fitted()
        fits.append(GaussianPosterior.from_guide(fitted))
    found = frechet_merge(*posterior_tasks({"a": fits[0], "b": fits[1]}))
    product = combine(fits, how="product")
    flat = product.layout.flatten(found.state_dict)
    torch.testing.assert_close(flat, product.loc, rtol=0, atol=1e-9)


def test_diagonal_posteriors_are_never_made_dense():
    layout = Layout.from_supports({"w": (torch.Size([20000]), constraints.real)})
    fits = [
        GaussianPosterior(torch.randn(20000), Diagonal(torch.rand(20000) + 0.5), layout)
        for _ in range(2)
    ]
    found = frechet_merge(*posterior_tasks(fits)).state_dict["w"]
    ones = torch.ones(20000)
    first, second = (fit.precision.matvec(ones) for fit in fits)
    expected = (first * fits[0].loc + second * fits[1].loc) / (first + second)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_posteriors_and_networks_are_never_merged_together():
    shards = conjugate_shards([5, 9])
    base, models, metrics, subspace = posterior_tasks(shards.posteriors)
    name = next(iter(metrics))
    mean = {**metrics, name: replace(metrics[name], per="mean")}
    with pytest.raises(ConfigurationError, match="sums over data"):
        frechet_merge(base, models, mean, subspace)
    dense = isinstance(shards.posteriors[0].precision, Cholesky)
    assert dense
