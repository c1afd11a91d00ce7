"""One batched process from many draws, and the mixture of their predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from pyro_geo.errors import LayoutMismatchError, ModelError, ShapeError
from pyro_geo.ops.chunks import map_chunks

if TYPE_CHECKING:
    from gpytorch.models import ExactGP

__all__ = ["check_draws", "load_exact_gp", "predict"]

_ENTRIES = 2**23  # of the largest matrix in one go: 64 MiB


def load_exact_gp(samples: Mapping[str, Tensor], x: Tensor, y: Tensor) -> ExactGP:
    r"""Make one batched GPyTorch process of all draws of its hyperparameters.

    .. math:: y \sim N(m, \; s\,k_{5/2}(|x - x'| / \ell) + \sigma^2 I)

    with a Matern-5/2 kernel and one lengthscale per input. The batch axes are those of
    the draws. The process is in evaluation mode and its parameters are fixed: call it
    on new inputs, or use :func:`predict` for the mixture over draws.

    Args:
        samples: `mean`, `outputscale`, `noise` (the variance), each `(*batch,)`, and
            `lengthscale`, `(*batch, num_dims)`; further entries are ignored. For the
            sites of a sparse-axis-aligned model see :func:`saas_hyperparameters`.
        x: inputs that were observed, `(n, num_dims)`.
        y: observations, `(n,)`.

    Returns:
        The process, with the dtype of `x`. A hyperparameter that is missing raises
        :class:`~pyro_geo.errors.LayoutMismatchError`, shapes that do not fit
        :class:`~pyro_geo.errors.ShapeError`, and draws that are not finite, or not
        positive where they must be, :class:`~pyro_geo.errors.ModelError`.

    Example:
        >>> one = torch.ones(2)
        >>> samples = {"mean": 0 * one, "outputscale": one, "noise": 0.1 * one}
        >>> samples["lengthscale"] = torch.tensor([[1.0], [2.0]])
        >>> gp = load_exact_gp(samples, torch.tensor([[0.0]]), torch.tensor([1.1]))
        >>> gp(torch.tensor([[0.0]])).mean.flatten()
        tensor([1.0000, 1.0000])
    """
    from pyro_geo.gp._batch import MaternGP

    batch = check_draws(samples, x, y)
    x, y = x.detach(), y.detach()
    gp = MaternGP(x.expand(*batch, *x.shape), y.expand(*batch, *y.shape), batch)
    gp.load({name: samples[name].to(x) for name in _AXES})
    return gp.eval()


def predict(
    gp: ExactGP, x_new: Tensor, *, observation_noise: bool = True
) -> MixtureSameFamily:
    r"""Mix the predictions of all draws, one point at a time.

    .. math:: p(y^* \mid x^*) = \frac1S \sum_s N(y^*; \mu_s(x^*), \sigma_s^2(x^*))

    The result has a `mean`, a `variance` (within draws and between them), a `cdf`,
    `log_prob` and `sample`, each for every point by itself.

    Args:
        gp: what :func:`load_exact_gp` or :func:`load_gptd` gives, or any batched
            `ExactGP`.
        x_new: inputs, `(m, num_dims)`; gradients flow back to them.
        observation_noise: predict observations, not the function behind them.

    Returns:
        The mixture, batch shape `(m,)`.

    Example:
        >>> one = torch.ones(2)
        >>> samples = {"mean": one, "outputscale": one, "noise": 0.1 * one}
        >>> samples["lengthscale"] = torch.tensor([[1.0], [2.0]])
        >>> gp = load_exact_gp(samples, torch.tensor([[0.0]]), torch.tensor([1.0]))
        >>> far = predict(gp, torch.tensor([[100.0]]))
        >>> far.mean.item(), round(far.variance.item(), 3)
        (1.0, 1.1)
    """
    from pyro_geo.gp._batch import dense_algebra

    assert gp.train_inputs is not None
    assert gp.likelihood is not None
    batch = gp.train_inputs[0].shape[:-2]
    draws = batch.numel()
    # The process computes the covariance of all points with each other, which is a
    # large matrix for each draw: hence few points at a time.
    size = max(1, int((_ENTRIES / draws) ** 0.5))

    to_rows = getattr(gp, "value_rows", lambda x: x)  # of a value model: see there

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        rows = to_rows(x.expand(*batch, *x.shape))
        found: Any = gp(rows)
        if observation_noise:
            assert gp.likelihood is not None
            found = gp.likelihood(found, rows)
        return found.mean.reshape(draws, -1).mT, found.variance.reshape(draws, -1).mT

    with dense_algebra():
        # points lie side by side in memory: the sums over draws are then fast
        mean, variance = (
            x.mT.contiguous().mT for x in map_chunks(moments, x_new, size)
        )
    sd = variance.sqrt()
    weights = Categorical(torch.ones_like(mean))
    return MixtureSameFamily(weights, Normal(mean, sd))


_AXES = {"mean": 0, "outputscale": 0, "noise": 0, "lengthscale": 1}
"""Hyperparameter to its number of axes behind those of the draws."""


def check_draws(samples: Mapping[str, Tensor], x: Tensor, y: Tensor) -> torch.Size:
    """Check that shapes fit together and return the shape of the draws."""
    missing = sorted(set(_AXES) - set(samples))
    if missing:
        raise LayoutMismatchError(
            "hyperparameters are missing",
            where="argument samples",
            found=str(sorted(samples)),
            expected=str(list(_AXES)),
            todo=f"Add {missing}; saas_hyperparameters makes them of SAAS draws.",
        )
    if x.dim() != 2 or y.shape != x.shape[:1]:
        raise ShapeError(
            "inputs and observations do not fit",
            where="arguments x and y",
            found=f"{tuple(x.shape)} and {tuple(y.shape)}",
            expected="(n, num_dims) and (n,)",
            todo="Pass one row of inputs for each observation.",
        )
    batch = samples["mean"].shape
    for name, axes in _AXES.items():
        expected = (*batch, *x.shape[1 : 1 + axes])
        _check_values(name, samples[name], expected)
    return batch


def _check_values(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(value.shape) != expected:
        raise ShapeError(
            "draws have the wrong shape",
            where=f"hyperparameter {name!r}",
            found=tuple(value.shape),
            expected=expected,
            todo="The axes of the draws are those of 'mean'.",
        )
    good = value.isfinite() if name == "mean" else value.isfinite() & (value > 0)
    if not bool(good.all()):
        raise ModelError(
            "a draw is outside the range",
            where=f"hyperparameter {name!r}",
            found=float(value[~good].flatten()[0]),
            expected="a finite number" + ("" if name == "mean" else " above 0"),
            todo="Leave out draws that diverged.",
        )
