"""Conjugate posteriors and Gaussian processes against those that never saw the data."""

from typing import Any

import gpytorch
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.errors import (
    ConfigurationError,
    ForgetSetError,
    LeverageError,
    NonFiniteDataError,
    UnsupportedError,
)
from pyro_geo.gp import ExactGPTD, Transitions
from pyro_geo.unlearning.conjugate import NormalInverseGamma, conjugate_delete
from pyro_geo.unlearning.gp import gp_delete
from tests.unlearning.exact import NOISE, data, posterior

ROWS = [1, 4, 5]
STAY = [0, 2, 3, 6, 7, 8, 9]


def of(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def drawn(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(10, generator=generator, dtype=torch.float64)


def beta(y: Tensor) -> dist.Beta:
    return dist.Beta(2.0 + y.sum(), 0.5 + (1 - y).sum())


def test_beta() -> None:
    y = (drawn() > 0).double()
    less, truth = conjugate_delete(beta(y), y[ROWS]), beta(y[STAY])
    torch.testing.assert_close(less.concentration1, truth.concentration1)
    torch.testing.assert_close(less.concentration0, truth.concentration0)


def test_dirichlet() -> None:
    y = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0, 1])

    def fit(y: Tensor) -> dist.Dirichlet:
        return dist.Dirichlet(0.5 + torch.bincount(y, minlength=3).double())

    less = conjugate_delete(fit(y), y[ROWS])
    torch.testing.assert_close(less.concentration, fit(y[STAY]).concentration)


def test_gamma_of_counts_with_exposure() -> None:
    y, time = (3 * drawn().abs()).round(), 0.5 + drawn(1).abs()

    def fit(y: Tensor, time: Tensor) -> dist.Gamma:
        return dist.Gamma(1.5 + y.sum(), 0.7 + time.sum())

    less = conjugate_delete(fit(y, time), y[ROWS], exposure=time[ROWS])
    truth = fit(y[STAY], time[STAY])
    torch.testing.assert_close(less.concentration, truth.concentration)
    torch.testing.assert_close(less.rate, truth.rate)


def normal_inverse_gamma(y: Tensor) -> NormalInverseGamma:
    """Posterior from the prior (0.3, 2, 3, 1.5), one datum after another."""
    mean, count, shape, scale = of(0.3)[0], of(2.0)[0], of(3.0)[0], of(1.5)[0]
    for value in y:
        scale = scale + 0.5 * count / (count + 1) * (value - mean) ** 2
        mean = (count * mean + value) / (count + 1)
        count, shape = count + 1, shape + 0.5
    return NormalInverseGamma(mean, count, shape, scale)


def test_normal_inverse_gamma() -> None:
    y = drawn() + 100.0  # where sums of squares would cancel
    less = conjugate_delete(normal_inverse_gamma(y), y[ROWS])
    truth = normal_inverse_gamma(y[STAY])
    for name in ("mean", "count", "shape", "scale"):
        torch.testing.assert_close(getattr(less, name), getattr(truth, name))


def test_normal_of_known_noise() -> None:
    y, noise = drawn(), 0.5 + drawn(1).abs()

    def fit(y: Tensor, noise: Tensor) -> dist.Normal:
        precision = 1 + (noise**-2).sum()
        return dist.Normal((y / noise**2).sum() / precision, precision.rsqrt())

    less = conjugate_delete(fit(y, noise), y[ROWS], noise=noise[ROWS])
    truth = fit(y[STAY], noise[STAY])
    torch.testing.assert_close(less.loc, truth.loc)
    torch.testing.assert_close(less.scale, truth.scale)


def test_linear_model() -> None:
    x, y = data(n=10)
    whole, truth = posterior(x, y), posterior(x[STAY], y[STAY])
    fit = dist.MultivariateNormal(whole.loc, precision_matrix=whole.precision)
    less = conjugate_delete(fit, (x[ROWS], y[ROWS]), noise=NOISE)
    torch.testing.assert_close(less.loc, truth.loc)
    torch.testing.assert_close(less.precision_matrix, truth.precision)


@pytest.mark.parametrize(
    ("fit", "gone", "known"),
    [
        (dist.Beta(of(2.0)[0], of(3.0)[0]), of(1.0, 1.0), {}),
        (dist.Dirichlet(of(0.5, 2.5)), torch.tensor([0]), {}),
        (dist.Gamma(of(3.0)[0], of(1.0)[0]), of(1.0), {}),
        (dist.Normal(of(0.0)[0], of(1.0)[0]), of(0.1), {"noise": 0.5}),
        (NormalInverseGamma(*of(0.0, 1.0, 2.0, 2.0)), of(0.1), {}),
        (NormalInverseGamma(*of(0.0, 5.0, 2.0, 2.0)), of(90.0), {}),
        (
            dist.MultivariateNormal(of(0.0, 0.0), torch.eye(2).double()),
            (of(1.0, 1.0)[None], of(0.0)),
            {"noise": 0.5},
        ),
    ],
)
def test_data_that_were_not_in_it_are_refused(fit, gone, known) -> None:
    with pytest.raises(LeverageError, match="more information"):
        conjugate_delete(fit, gone, **known)


def test_mistakes_are_named() -> None:
    fit = dist.Beta(of(4.0)[0], of(3.0)[0])
    with pytest.raises(ConfigurationError, match="0 and 1"):
        conjugate_delete(fit, of(0.5))
    with pytest.raises(ConfigurationError, match="data to delete"):
        conjugate_delete(fit, of())
    with pytest.raises(NonFiniteDataError):
        conjugate_delete(fit, of(torch.nan, 1.0))
    with pytest.raises(ConfigurationError, match="labels"):
        conjugate_delete(dist.Dirichlet(of(3.0, 3.0)), torch.tensor([2]))
    with pytest.raises(ConfigurationError, match="counts"):
        conjugate_delete(dist.Gamma(of(3.0), of(3.0)), of(-1.0))
    with pytest.raises(UnsupportedError, match="Cauchy"):
        conjugate_delete(dist.Cauchy(0.0, 1.0), of(1.0))


# -- Gaussian processes ---------------------------------------------------------------


class GP(gpytorch.models.ExactGP):
    likelihood: Any
    train_inputs: Any
    covar_module: Any

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        self.double()
        self.likelihood.noise = 0.04
        constant: Any = self.mean_module.constant
        constant.data.fill_(0.3)

    def forward(self, x: Tensor) -> Any:
        mean: Any = self.mean_module(x)
        return gpytorch.distributions.MultivariateNormal(mean, self.covar_module(x))


def curve() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None]
    return x, (2 * x[:, 0]).sin() + 0.2 * drawn()


def test_a_process_is_the_one_that_never_saw_the_rows() -> None:
    x, y = curve()
    less = gp_delete(GP(x, y), ROWS)
    never: Any = GP(x[STAY], y[STAY])
    with torch.no_grad():
        noisy = never.likelihood(never.forward(x[STAY])).covariance_matrix
        torch.testing.assert_close(less.inverse, torch.linalg.inv(noisy))
        truth = never.eval().likelihood.eval()(never(x[ROWS]))
        found = less.model.eval()(x[ROWS])
    torch.testing.assert_close(less.mean, truth.mean)
    torch.testing.assert_close(less.covariance, truth.covariance_matrix)
    torch.testing.assert_close(found.mean, truth.mean)
    expected = (y[ROWS] - truth.mean) / truth.variance.sqrt()
    torch.testing.assert_close(less.residuals, expected.detach())


def test_one_row_has_the_formula_of_leave_one_out() -> None:
    x, y = curve()
    model = GP(x, y)
    with torch.no_grad():
        noisy = model.likelihood(model.forward(x)).covariance_matrix
        inverse = torch.linalg.inv(noisy)
        pulled = inverse @ (y - 0.3)
    for row in (0, 6):
        less = gp_delete(model, [row])
        expected = y[row] - pulled[row] / inverse[row, row]
        torch.testing.assert_close(less.mean[0], expected)
        torch.testing.assert_close(less.covariance[0, 0], 1 / inverse[row, row])
    assert model.train_inputs[0].shape == (10, 1)


@pytest.mark.parametrize("noise", ["reward", "return"])
def test_values_lose_steps(noise: str) -> None:
    x = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    steps = Transitions(x[:-1], x[1:], drawn(), 0.9)
    model = ExactGPTD(steps, noise=noise).eval()  # type: ignore[arg-type]
    less = gp_delete(model, ROWS)
    kept = less.model.transitions
    torch.testing.assert_close(kept.reward, drawn()[STAY])
    new: Any = less.model
    rows = new.train_inputs[0]
    with torch.no_grad():
        noisy = new.likelihood(new.forward(rows), rows).covariance_matrix
    torch.testing.assert_close(less.inverse, torch.linalg.inv(noisy))


def test_rows_of_a_process_are_checked() -> None:
    model = GP(*curve())
    for rows in ([], [0, 0], [10], list(range(10))):
        with pytest.raises(ForgetSetError):
            gp_delete(model, rows)
    with pytest.raises(ConfigurationError, match="GPyTorch"):
        gp_delete(torch.nn.Linear(1, 1), [0])
