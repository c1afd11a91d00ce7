"""What all value models share."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import torch
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.gp._transition_checks import tensor_of
from pyro_geo.gp._transitions import Transitions, value_rows
from pyro_geo.gp.td._defaults import (
    check_transitions,
    default_kernel,
    default_mean,
)
from pyro_geo.gp.td._kernel import TDKernel, TDMean

__all__ = ["Outlier", "ValueModel"]


class Outlier(NamedTuple):
    """The row whose reward is the least expected.

    Attributes:
        row: its number, `(*batch,)`.
        residual: reward less its prediction, in standard deviations, `(*batch,)`. Among
            as many rewards as there are, five is a lot.
    """

    row: Tensor
    residual: Tensor


class ValueModel(abc.ABC):
    """A Gaussian process of values, given transitions; GPyTorch's classes are added."""

    citations = ("gptd",)
    likelihood: Any
    mean_module: Any
    covar_module: Any
    named_priors: Any
    eval: Any
    transitions: Transitions

    def _prior(
        self, transitions: Transitions, kernel: Kernel | None, mean: Mean | None
    ) -> None:
        """Set the modules of the prior."""
        check_transitions(transitions)
        size = transitions.dim, transitions.successors
        mean = default_mean(transitions) if mean is None else mean
        kernel = default_kernel(transitions) if kernel is None else kernel
        self.transitions = transitions
        self.mean_module = TDMean(mean, *size)
        self.covar_module = TDKernel(kernel, *size)

    def value(self, x: Tensor) -> MultivariateNormal:
        """Posterior of the values of some nodes.

        Args:
            x: nodes, `(*batch, n, D)`; derivatives flow back to them.

        Returns:
            A normal distribution, batch shape `(*batch,)` and event shape `(n,)`.
        """
        self.eval()
        return self._predict(self.value_rows(x))

    @abc.abstractmethod
    def _predict(self, rows: Tensor) -> MultivariateNormal:
        """Posterior of rows, in evaluation mode."""

    @abc.abstractmethod
    def log_marginal(self) -> Tensor:
        """Logarithm of the evidence, or a lower bound of it, `(*batch,)`."""

    @abc.abstractmethod
    def residuals(self) -> Tensor:
        """Rewards less their predictions, in standard deviations, `(*batch, T)`."""

    def outlier(self) -> Outlier:
        """Report the largest standardised one-step residual.

        One reward that is off by orders of magnitude moves the values of all nodes near
        it. Look at this before you trust a fit; `VariationalGPTD` can be given a
        likelihood with heavy tails.

        Returns:
            The row and its residual.
        """
        with torch.no_grad():
            found = self.residuals()
        row = found.abs().argmax(-1)
        return Outlier(row, found.gather(-1, row.unsqueeze(-1)).squeeze(-1))

    def value_rows(self, x: Tensor) -> Tensor:
        """Rows of the model that ask for values: `model(model.value_rows(x))`.

        Args:
            x: nodes, `(*batch, n, D)`.

        Returns:
            The rows, see :func:`~pyro_geo.gp.value_rows`.
        """
        dtype = self.transitions.x.dtype
        x = x.to(dtype) if isinstance(x, Tensor) else tensor_of("x", x, dtype)
        dim = self.transitions.dim
        good = x.dim() > 1 and x.shape[-1] == dim
        check_shape("x", x.shape, f"(*batch, n, {dim})", good)
        return value_rows(x, self.transitions.successors)

    def _log_priors(self) -> Tensor | float:
        """Log-densities of the priors that were registered with GPyTorch."""
        found: Tensor | float = 0.0
        for _, module, prior, closure, _ in self.named_priors():
            found = found + prior.log_prob(closure(module)).sum()
        return found
