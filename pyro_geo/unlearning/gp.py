r"""Deletion from Gaussian processes, by blocks of the inverse of their covariance.

With :math:`B = (K + \Sigma)^{-1}`, in blocks of the rows that stay and that go,

.. math:: B_R = B_{rr} - B_{rf} B_{ff}^{-1} B_{fr},

and the rest predicts a deleted response with mean
:math:`y_f - B_{ff}^{-1} [B (y - m)]_f` and covariance :math:`B_{ff}^{-1}`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_geo._showing import Shown
from pyro_geo.checks import check
from pyro_geo.errors import NotPositiveDefiniteError
from pyro_geo.gp import ExactGPTD, Transitions
from pyro_geo.unlearning._forget_set import Rows, read_rows

__all__ = ["GPDeletion", "gp_delete"]


@dataclass(frozen=True, repr=False)
class GPDeletion(Shown):
    """A Gaussian process without some of its data.

    Attributes:
        model: new model of the data that stay, its hyperparameters those of the old.
        inverse: of the covariance of the responses that stay, `(rows, rows)`.
        mean: of each deleted response, predicted by the rest, `(deleted,)`.
        covariance: of these predictions, noise included, `(deleted, deleted)`.
        residuals: deleted responses less `mean`, in standard deviations, `(deleted,)`.
    """

    model: Any
    inverse: Tensor
    mean: Tensor
    covariance: Tensor
    residuals: Tensor

    def _shown_facts(self) -> dict[str, object]:
        largest = float(self.residuals.abs().max()) if len(self.residuals) else 0.0
        deleted = {"deleted": len(self.mean), "left": len(self.inverse)}
        return {
            "model": type(self.model).__name__,
            **deleted,
            "largest residual": largest,
        }


def gp_delete(model: Any, forget: Rows) -> GPDeletion:
    """Delete rows from an exact Gaussian process, hyperparameters as they are.

    Nothing is factorised anew but the block of the deleted rows.

    Args:
        model: an `ExactGP` of GPyTorch with its `likelihood`, or an
            :class:`~pyro_geo.gp.ExactGPTD`; it is left as it is.
        forget: rows of the training data that go, or a mask of them.

    Returns:
        The process without these rows, and what the rest says of them. What is no set
        of rows raises :class:`~pyro_geo.errors.ForgetSetError`.

    Raises:
        NotPositiveDefiniteError: a block is not positive definite, as where rows are
            there twice without noise.

    References:
        Rasmussen & Williams (2006), Gaussian processes for machine learning, section
        5.4.2.

    Example:
        >>> import gpytorch
        >>> class GP(gpytorch.models.ExactGP):
        ...     def __init__(self, x, y):
        ...         super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        ...         self.mean_module = gpytorch.means.ZeroMean()
        ...         self.covar_module = gpytorch.kernels.RBFKernel()
        ...
        ...     def forward(self, x):
        ...         mean, kernel = self.mean_module(x), self.covar_module(x)
        ...         return gpytorch.distributions.MultivariateNormal(mean, kernel)
        >>> x = torch.linspace(0, 1, 5)[:, None]
        >>> less = gp_delete(GP(x, x[:, 0].sin()), [2])
        >>> less.model.train_targets.shape, less.inverse.shape
        (torch.Size([4]), torch.Size([4, 4]))
    """
    import gpytorch

    good = isinstance(model, gpytorch.models.ExactGP)
    check(good, "model", type(model).__name__, "an exact Gaussian process of GPyTorch")
    check(model.train_inputs is not None, "model", "no data", "a process with data")
    y = model.train_targets
    check(y.dim() == 1, "model", f"responses {tuple(y.shape)}", "one process, no batch")
    rows = read_rows(forget, len(y))
    inverse, pulled = _inverse(model)
    goes, stays = rows.indices.to(y.device), rows.retained.to(y.device)
    block = inverse[goes][:, goes]
    root, info = torch.linalg.cholesky_ex(block)
    if int(info):
        raise NotPositiveDefiniteError(
            "the rows to delete are known without error from the others",
            where="argument forget",
            found="a block of the inverse covariance that is not positive definite",
            expected="a positive definite block",
            todo="Add noise to the likelihood.",
        )
    cross = inverse[stays][:, goes]
    half = torch.linalg.solve_triangular(root, cross.mT, upper=False)
    covariance = torch.cholesky_inverse(root)
    off = covariance @ pulled[goes]
    return GPDeletion(
        model=_retained(model, stays),
        inverse=inverse[stays][:, stays] - half.mT @ half,
        mean=y.detach()[goes] - off,
        covariance=covariance,
        residuals=off / covariance.diagonal().sqrt(),
    )


def _inverse(model: Any) -> tuple[Tensor, Tensor]:
    """Inverse of the covariance of the responses, and its product with residuals."""
    import gpytorch

    inputs = model.train_inputs
    with torch.no_grad(), gpytorch.settings.lazily_evaluate_kernels(False):
        prior = model.forward(*inputs)
        noisy = model.likelihood(prior, *inputs).covariance_matrix
    root, info = torch.linalg.cholesky_ex(noisy)
    if int(info):
        raise NotPositiveDefiniteError(
            "the covariance of the responses is not positive definite",
            where="argument model",
            found=f"{len(noisy)} rows",
            expected="a positive definite covariance",
            todo="Add noise to the likelihood, or compute in double precision.",
        )
    inverse = torch.cholesky_inverse(root)
    return inverse, inverse @ (model.train_targets - prior.mean).detach()


def _retained(model: Any, stays: Tensor) -> Any:
    if isinstance(model, ExactGPTD):
        return _retained_values(model, stays)
    new = copy.deepcopy(model)
    inputs = tuple(x[stays].clone() for x in model.train_inputs)
    new.set_train_data(inputs, model.train_targets[stays].clone(), strict=False)
    return new


def _retained_values(model: ExactGPTD, stays: Tensor) -> ExactGPTD:
    """Values from the steps that stay: a deleted step ends its episode there."""
    starts = (stays.diff(prepend=stays[:1] - 2) != 1).nonzero().flatten().tolist()
    joined: Transitions | None = None
    for first, last in zip(starts, [*starts[1:], len(stays)], strict=True):
        part = model.transitions[int(stays[first]) : int(stays[last - 1]) + 1]
        joined = part if joined is None else joined.joined(part, new_episode=True)
    assert joined is not None
    new = ExactGPTD(
        joined,
        noise=model.likelihood.kind,
        kernel=copy.deepcopy(model.covar_module.base_kernel),
        mean=copy.deepcopy(model.mean_module.base_mean),
    )
    new.likelihood = copy.deepcopy(model.likelihood)
    new.likelihood.bind(joined)
    return new.eval()
