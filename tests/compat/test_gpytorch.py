"""GPyTorch's models in a density: what leads around its own functions (1.15.2)."""

import sys
import warnings
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from pyro_geo._compat.gpytorch import mappable_pieces
from pyro_geo.density import Target
from pyro_geo.errors import FallbackWarning

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit.script` is")
    import gpytorch
    from gpytorch.priors import GammaPrior, NormalPrior

DOUBLE = torch.float64
X = torch.linspace(0, 1, 6, dtype=DOUBLE)
Y = torch.sin(6 * X)


class Process(gpytorch.models.ExactGP):
    def __init__(self, kernel):
        likelihood = gpytorch.likelihoods.GaussianLikelihood()
        super().__init__(X, Y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(kernel)
        kernel.register_prior("scale_prior", GammaPrior(3.0, 6.0), "lengthscale")
        likelihood.register_prior("noise_prior", GammaPrior(2.0, 4.0), "noise")
        self.mean_module.register_prior("prior", NormalPrior(0.0, 1.0), "constant")
        self.double()

    def forward(self, x):
        mean: Any = self.mean_module(x)
        covariance = self.covar_module(x)
        return gpytorch.distributions.MultivariateNormal(mean, covariance)


@pytest.mark.parametrize(
    "name",
    ["RBFKernel", pytest.param("MaternKernel", marks=pytest.mark.slow)],
)
def test_a_model_with_sampled_hyperparameters_is_traced(name):
    process = Process(getattr(gpytorch.kernels, name)())

    def model(x, y):
        sampled: Any = process.pyro_sample_from_prior()
        pyro.sample("y", sampled.likelihood(sampled(x)), obs=y)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target = Target.from_model(model, X, Y, dtype=DOUBLE)
        generator = torch.Generator().manual_seed(0)
        q = 0.3 * torch.randn(3, target.dim, dtype=DOUBLE, generator=generator)
        value, grad = target.value_and_grad(q)
    assert target.rung == "traced"
    told = [str(w.message) for w in caught if w.category is FallbackWarning]
    # it compares its inputs with the training data: these are constants
    assert len(told) == 1
    assert "data as constants" in told[0]
    torch.set_default_dtype(DOUBLE)
    for row, ours, slope in zip(q, value, grad, strict=True):
        leaf = row.clone().requires_grad_()
        sites, jacobian = target.layout.constrain_with_jacobian(leaf)
        trace = poutine.trace(poutine.condition(model, sites)).get_trace(X, Y)
        total = trace.log_prob_sum() + jacobian
        torch.testing.assert_close(ours, total.detach())
        torch.testing.assert_close(slope, torch.autograd.grad(total, leaf)[0])


def test_settings_are_those_of_gpytorch_again():
    before = [getattr(owner, name) for owner, name, _ in mappable_pieces()]
    test_a_model_with_sampled_hyperparameters_is_traced("RBFKernel")
    after = [getattr(owner, name) for owner, name, _ in mappable_pieces()]
    assert before == after
    assert gpytorch.settings.trace_mode.off()
    assert len(before) == 7


def test_nothing_is_replaced_before_gpytorch_is_imported(monkeypatch):
    assert mappable_pieces()
    monkeypatch.delitem(sys.modules, "gpytorch")
    assert mappable_pieces() == ()
