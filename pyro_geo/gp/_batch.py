"""The batched process, in the only file that imports GPyTorch.

Importing GPyTorch takes a second, so that this file is imported by the functions that
need it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

with warnings.catch_warnings():
    # linear_operator, under GPyTorch, calls torch.jit.script, which torch says is
    # deprecated, and from Python 3.14 on not supported
    warnings.filterwarnings("ignore", "`torch.jit.script` is")
    import gpytorch
    from gpytorch.constraints import Positive
    from gpytorch.distributions import MultivariateNormal
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.means import ConstantMean
    from gpytorch.models import ExactGP

__all__ = ["MaternGP", "Positive", "dense_algebra", "load_values"]


class MaternGP(ExactGP):
    """Matern-5/2 processes with a constant mean, one for each draw.

    Args:
        x: inputs, `(*batch, n, num_dims)`.
        y: observations, `(*batch, n)`.
        batch: shape of the draws.
    """

    def __init__(self, x: Tensor, y: Tensor, batch: torch.Size) -> None:
        # The model has a least noise of its own. GPyTorch's default constraint would
        # add a second one.
        likelihood = GaussianLikelihood(noise_constraint=Positive(), batch_shape=batch)
        super().__init__(x, y, likelihood)
        self.mean_module = ConstantMean(batch_shape=batch)
        self.covar_module = ScaleKernel(
            MaternKernel(nu=2.5, ard_num_dims=x.shape[-1], batch_shape=batch),
            batch_shape=batch,
        )
        self.to(x)

    def forward(self, x: Tensor) -> MultivariateNormal:
        """Prior at some inputs."""
        mean = self.mean_module(x)
        assert isinstance(mean, Tensor)
        return MultivariateNormal(mean, self.covar_module(x))

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set mean, outputscale, noise and lengthscale, and fix them."""
        places = {
            "mean": "mean_module.constant",
            "outputscale": "covar_module.outputscale",
            "noise": "likelihood.noise",
            "lengthscale": "covar_module.base_kernel.lengthscale",
        }
        load_values(self, values, places)


def load_values(
    gp: ExactGP, values: Mapping[str, Tensor], places: Mapping[str, str]
) -> None:
    """Set hyperparameters of a batched process to draws, and fix them.

    Args:
        gp: the process.
        values: draws by name, with their axes in front.
        places: where each of them is in the process.
    """
    trailing = {"noise": (-1,), "lengthscale": (-2,)}
    for name, place in places.items():
        value = values[name].detach()
        for axis in trailing.get(name, ()):
            value = value.unsqueeze(axis)
        gp.initialize(**{place: value})
    gp.requires_grad_(False)


def dense_algebra() -> gpytorch.settings.fast_computations:
    """Factorise matrices of any size exactly, without iterative solvers."""
    return gpytorch.settings.fast_computations(False, False, False)
