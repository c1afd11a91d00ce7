"""Draws of a sparse-axis-aligned process: hyperparameters and relevance of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_geo.checks import check_number
from pyro_geo.errors import LayoutMismatchError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["relevance", "saas_hyperparameters"]

_SITES = ("mean", "outputscale", "noise", "kernel_tausq", "_kernel_inv_length_sq")


def saas_hyperparameters(
    samples: Mapping[str, Tensor], *, min_noise: float = 1e-4
) -> dict[str, Tensor]:
    r"""Turn draws of a SAAS model's sites into hyperparameters of a process.

    .. math:: \ell_d = (\tau^2 \rho_d)^{-1/2}, \qquad
              \sigma^2 = \sigma^2_\mathrm{min} + \epsilon

    Site names are those of BoTorch and of `models/saas_gp.py`: `mean`, `outputscale`,
    `noise`, `kernel_tausq` and `_kernel_inv_length_sq`.

    Args:
        samples: site to draws, `(*batch,)` and `(*batch, num_dims)`.
        min_noise: variance that the model adds to its site `noise`.

    Returns:
        `mean`, `outputscale`, `noise` and `lengthscale`, as :func:`load_exact_gp` takes
        them.

    Raises:
        LayoutMismatchError: a site is missing.

    References:
        Eriksson and Jankowiak (2021), High-dimensional Bayesian optimization with
        sparse axis-aligned subspaces, section 4.1.

    Example:
        >>> names = "mean", "outputscale", "noise", "kernel_tausq"
        >>> samples = {name: torch.full((5,), 0.25) for name in names}
        >>> samples["_kernel_inv_length_sq"] = torch.ones(5, 3)
        >>> saas_hyperparameters(samples)["lengthscale"][0].tolist()
        [2.0, 2.0, 2.0]
    """
    missing = [name for name in _SITES if name not in samples]
    if missing:
        raise LayoutMismatchError(
            "sites are missing",
            where=f"site {missing[0]!r}",
            found=str(sorted(samples)),
            expected=str(list(_SITES)),
            todo="Pass draws of all sites, with BoTorch's names.",
        )
    # the kernel has inverse squared lengthscales: a global one times a local one
    mean, outputscale, noise, tausq, local = (samples[name] for name in _SITES)
    return {
        "mean": mean,
        "outputscale": outputscale,
        "noise": noise + min_noise,
        "lengthscale": (tausq.unsqueeze(-1) * local).rsqrt(),
    }


def relevance(
    values: Mapping[str, Tensor], x: Tensor, y: Tensor, *, change: float = 0.5
) -> pd.DataFrame:
    r"""Tabulate which inputs a process depends on, the most important first.

    Take two inputs that differ only in coordinate `d`, by its range :math:`R_d`. The
    values that a draw's function has there differ by a normal number of deviation

    .. math:: c_d = \sqrt{2 s\,(1 - k_{5/2}(R_d / \ell_d))}.

    The coordinate matters in that draw if this is more than `change` standard
    deviations of `y`.

    Args:
        values: draws of `lengthscale`, `(*batch, num_dims)`, and `outputscale`,
            `(*batch,)`; what :func:`saas_hyperparameters` gives.
        x: inputs that were observed, `(n, num_dims)`; their ranges are the ranges.
        y: observations, `(n,)`.
        change: the least change that matters, in standard deviations of `y`.

    Returns:
        One row per input, named by its column: medians of its `lengthscale`, of the
        `inverse` lengthscale with its 90 % interval, of the `change` above in
        deviations of `y`, and `matters`, the share of draws in which it does. Sorted by
        `change`.

    Example:
        >>> lengthscale = torch.tensor([[0.5, 100.0], [0.4, 90.0]])
        >>> values = {"lengthscale": lengthscale, "outputscale": torch.ones(2)}
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([-1.0, 1.0])
        >>> relevance(values, x, y)["matters"].to_dict()
        {0: 1.0, 1: 0.0}
    """
    import pandas as pd

    check_number("change", change, strict=True)
    length = values["lengthscale"].detach().reshape(-1, x.shape[-1]).double()
    scale = values["outputscale"].detach().reshape(-1, 1).double()
    # correlation of two points a range apart, by the Matern-5/2 kernel
    d = 5**0.5 * (x.amax(0) - x.amin(0)).double() / length
    drop = 1 - (1 + d + d.square() / 3) * torch.exp(-d)
    changes = (2 * scale * drop).sqrt() / y.double().std()
    levels = length.new_tensor([0.5, 0.05, 0.95])
    inverse = torch.quantile(1 / length, levels, 0)
    columns = {
        "lengthscale": torch.quantile(length, 0.5, 0),
        "inverse": inverse[0],
        "5%": inverse[1],
        "95%": inverse[2],
        "change": torch.quantile(changes, 0.5, 0),
        "matters": (changes > change).double().mean(0),
    }
    table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    table.index.name = "input"
    return table.sort_values("change", ascending=False)
