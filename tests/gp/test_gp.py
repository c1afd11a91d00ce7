"""Draws in a batched process: against dense algebra by hand and the model's density."""

import math
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.models import ExactGP
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    LayoutMismatchError,
    ModelError,
    ShapeError,
)
from pyro_geo.gp import load_exact_gp, predict, relevance, saas_hyperparameters
from tests.gp.saas import load_saas, saas_target


@pytest.fixture
def saas() -> ModuleType:
    torch.set_default_dtype(torch.float64)
    return load_saas()


@pytest.fixture
def target(saas: ModuleType) -> Target:
    return saas_target()


def draws_of(target: Target, count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return target.constrain(target.initial(count, "uniform", generator))


def observed(gp: ExactGP) -> GaussianLikelihood:
    assert isinstance(gp.likelihood, GaussianLikelihood)
    return gp.likelihood


def matern(a: Tensor, b: Tensor, length: Tensor) -> Tensor:
    """Correlations with a loop over nothing but the formula."""
    d = math.sqrt(5) * ((a[:, None] - b[None]) / length).square().sum(-1).sqrt()
    return (1 + d + d**2 / 3) * torch.exp(-d)


def by_hand(
    values: dict[str, Tensor], x: Tensor, y: Tensor, new: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of new observations and the evidence, by an inverse."""
    scale, noise = values["outputscale"], values["noise"]
    length, mean = values["lengthscale"], values["mean"]
    k = scale * matern(x, x, length) + noise * torch.eye(len(x))
    cross = scale * matern(new, x, length)
    inverse = torch.linalg.inv(k)
    residual = y - mean
    evidence = -0.5 * (
        residual @ inverse @ residual
        + torch.linalg.slogdet(k).logabsdet
        + len(x) * math.log(2 * math.pi)
    )
    variance = scale + noise - (cross @ inverse * cross).sum(-1)
    return mean + cross @ inverse @ residual, variance, evidence


def test_each_draw_predicts_as_by_hand(saas, target):
    x, y = saas.data()
    values = saas_hyperparameters(draws_of(target, 7))
    gp = load_exact_gp(values, x, y)
    new = torch.rand(11, x.shape[1])
    noisy = observed(gp)(gp(new.expand(7, -1, -1)))
    assert noisy.mean.shape == (7, 11)
    for s in range(7):
        one = {name: value[s] for name, value in values.items()}
        mean, variance, _ = by_hand(one, x, y, new)
        torch.testing.assert_close(noisy.mean[s], mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(noisy.variance[s], variance, rtol=1e-6, atol=1e-6)


def test_marginal_likelihood_is_that_of_the_model(saas, target):
    x, y = saas.data()
    generator = torch.Generator().manual_seed(3)
    q = target.initial(9, "uniform", generator)
    values = saas_hyperparameters(target.constrain(q))
    expected = target.log_likelihood(q)
    gp = load_exact_gp(values, x, y)
    gp.train()
    evidence = ExactMarginalLogLikelihood(observed(gp), gp)
    prior = gp(x.expand(9, -1, -1))
    found = torch.as_tensor(evidence(prior, y.expand(9, -1))) * len(y)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for s in range(9):
        one = {name: value[s] for name, value in values.items()}
        by_inverse = by_hand(one, x, y, x[:1])[2]
        torch.testing.assert_close(by_inverse, expected[s], rtol=1e-8, atol=1e-8)


def test_density_is_that_of_botorch_s_priors(saas, target):
    """Site by site against densities written out, log-Jacobians of logarithms added."""
    q = target.initial(5, "uniform", torch.Generator().manual_seed(1))
    z = target.constrain(q)
    s, e = z["outputscale"], z["noise"]
    prior = math.log(0.15**2) + s.log() - 0.15 * s
    prior = prior - 0.5 * z["mean"] ** 2 - 0.5 * math.log(2 * math.pi)
    prior = prior + 0.9 * math.log(10) - math.lgamma(0.9) - 0.1 * e.log() - 10 * e

    def half_cauchy(value: Tensor, scale: float) -> Tensor:
        return math.log(2 / (math.pi * scale)) - torch.log1p((value / scale) ** 2)

    prior = prior + half_cauchy(z["kernel_tausq"], 0.1)
    prior = prior + half_cauchy(z["_kernel_inv_length_sq"], 1.0).sum(-1)
    for name in ("outputscale", "noise", "kernel_tausq"):
        prior = prior + z[name].log()
    prior = prior + z["_kernel_inv_length_sq"].log().sum(-1)
    torch.testing.assert_close(target.log_prior(q), prior, rtol=1e-10, atol=1e-10)


def test_gradient_survives_equal_rows_and_endless_lengthscales(saas):
    x, y = saas.data()
    x = torch.cat([x[:5], x[:5]])
    target = Target.from_model(saas.model, x, y[:10], compile=False)
    q = torch.zeros(3, target.dim)
    q[1, target.layout.sites["_kernel_inv_length_sq"].slice] = -80.0
    q[2, target.layout.sites["kernel_tausq"].slice] = -300.0
    value, slope = target.value_and_grad(q)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    step = 1e-5
    for axis in range(target.dim):
        shift = torch.zeros(target.dim)
        shift[axis] = step
        rise = target.log_prob(q + shift) - target.log_prob(q - shift)
        torch.testing.assert_close(
            slope[:, axis], rise / (2 * step), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_mixture_has_the_moments_of_its_draws(saas, target, batch):
    x, y = saas.data()
    count = math.prod(batch)
    flat = saas_hyperparameters(draws_of(target, count))
    values = {k: v.reshape(batch + v.shape[1:]) for k, v in flat.items()}
    new = torch.rand(6, x.shape[1])
    for noise in (True, False):
        mixture = predict(load_exact_gp(values, x, y), new, observation_noise=noise)
        assert mixture.batch_shape == (6,)
        means, variances = [], []
        for s in range(count):
            one = {name: value[s] for name, value in flat.items()}
            mean, variance, _ = by_hand(one, x, y, new)
            means.append(mean)
            variances.append(variance if noise else variance - one["noise"])
        mean, second = torch.stack(means), torch.stack(variances)
        second = second + mean**2
        torch.testing.assert_close(mixture.mean, mean.mean(0), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            mixture.variance, second.mean(0) - mean.mean(0) ** 2, rtol=1e-6, atol=1e-6
        )


def test_points_in_pieces_are_points_at_once(saas, target, monkeypatch):
    x, y = saas.data()
    values = saas_hyperparameters(draws_of(target, 5))
    new = torch.rand(23, x.shape[1])
    whole = predict(load_exact_gp(values, x, y), new)
    monkeypatch.setattr("pyro_geo.gp._predict._ENTRIES", 5 * 4**2)
    pieces = predict(load_exact_gp(values, x, y), new)
    torch.testing.assert_close(pieces.mean, whole.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pieces.variance, whole.variance, rtol=1e-10, atol=1e-10)


def test_gradients_reach_new_inputs_and_nothing_else(saas, target):
    x, y = saas.data()
    samples = {k: v.requires_grad_() for k, v in draws_of(target, 2).items()}
    gp = load_exact_gp(saas_hyperparameters(samples), x, y)
    new = torch.rand(3, x.shape[1], requires_grad=True)
    predict(gp, new).mean.sum().backward()
    assert new.grad is not None
    assert (new.grad != 0).any()
    assert all(not p.requires_grad and p.grad is None for p in gp.parameters())
    assert all(value.grad is None for value in samples.values())


def test_single_precision_stays_single(saas, target):
    x, y = (value.float() for value in saas.data())
    gp = load_exact_gp(saas_hyperparameters(draws_of(target, 2)), x, y)
    mixture = predict(gp, x[:3] + 0.01)
    assert mixture.mean.dtype == torch.float32
    assert mixture.mean.isfinite().all()


def good_samples() -> dict[str, Tensor]:
    samples = {name: torch.ones(4) for name in ("mean", "outputscale", "noise")}
    return {**samples, "lengthscale": torch.ones(4, 3)}


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"noise": None}, LayoutMismatchError, "noise"),
        ({"noise": torch.ones(5)}, ShapeError, "noise"),
        ({"lengthscale": torch.ones(4, 2)}, ShapeError, "lengthscale"),
        ({"lengthscale": torch.ones(3)}, ShapeError, "lengthscale"),
        ({"outputscale": -torch.ones(4)}, ModelError, "outputscale"),
        ({"noise": torch.zeros(4)}, ModelError, "noise"),
        ({"mean": torch.full((4,), torch.nan)}, ModelError, "mean"),
    ],
)
def test_bad_draws_are_refused_by_name(change, error, named):
    samples = {**good_samples(), **change}
    samples = {k: v for k, v in samples.items() if v is not None}
    with pytest.raises(error, match=named):
        load_exact_gp(samples, torch.zeros(2, 3), torch.zeros(2))


def test_bad_data_and_options_are_refused():
    for x, y in (((2, 3), (3,)), ((2,), (2,)), ((2, 3), (2, 1))):
        with pytest.raises(ShapeError, match="x and y"):
            load_exact_gp(good_samples(), torch.zeros(x), torch.zeros(y))
    with pytest.raises(LayoutMismatchError, match="kernel_tausq"):
        saas_hyperparameters(good_samples())
    with pytest.raises(ConfigurationError, match="argument change"):
        relevance(good_samples(), torch.rand(5, 3), torch.rand(5), change=0.0)


def test_relevance_is_the_change_that_functions_of_a_draw_make():
    """Against functions drawn at both ends of each input's range."""
    torch.set_default_dtype(torch.float64)
    x = torch.rand(9, 2) * torch.tensor([2.0, 0.5]) + 3.0
    y = 7.0 * torch.randn(9)
    values = {
        "lengthscale": torch.tensor([[1.5, 9.0]]),
        "outputscale": torch.tensor([30.0]),
    }
    table = relevance(values, x, y)
    assert table.index.tolist() == [0, 1]
    assert table["lengthscale"].tolist() == [1.5, 9.0]
    for axis in range(2):
        ends = x[:1].repeat(2, 1)
        ends[0, axis], ends[1, axis] = x[:, axis].min(), x[:, axis].max()
        k = 30.0 * matern(ends, ends, values["lengthscale"][0])
        functions = torch.linalg.cholesky(k) @ torch.randn(2, 100_000)
        found = functions.diff(dim=0).std() / y.std()
        expected = table["change"].to_dict()[axis]
        # four standard errors of a deviation from 100,000 numbers
        assert abs(float(found) / expected - 1) < 4 / math.sqrt(2e5)


def test_relevance_counts_draws_beyond_the_threshold():
    torch.set_default_dtype(torch.float64)
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([-1.0, 1.0])
    # half a deviation of y is the change where (1 + d + d^2 / 3) exp(-d) = 1 - 1 / 4
    edge = math.sqrt(5) / 1.410647
    length = torch.tensor([edge - 1e-4, edge + 1e-4, 9.0, 0.1]).reshape(2, 2, 1)
    values = {"lengthscale": length, "outputscale": torch.ones(2, 2)}
    table = relevance(values, x, y)
    assert table["matters"].tolist() == [0.5]
    assert relevance(values, x, y, change=1.1)["matters"].tolist() == [0.0]
    inverse = (1 / length).flatten().quantile(0.5)
    assert table["inverse"].tolist() == [pytest.approx(float(inverse))]


def test_package_does_not_import_gpytorch_until_asked():
    code = "import sys, pyro_geo.gp; sys.exit('gpytorch' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
