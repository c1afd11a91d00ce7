"""Merging of singular vectors: TSV-Merge, Iso-C and Iso-CTS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.citations import cites
from pyro_geo.summaries.merge._reader import Reader, Rule, run, shifted
from pyro_geo.summaries.merge._tasks import Models, StateDict

__all__ = ["iso_c", "iso_cts", "tsv_merge"]

Chosen = Callable[[str], bool] | None


@cites("tsv_merge")
def tsv_merge(
    base: StateDict,
    models: Models,
    *,
    rank_fraction: float = 1.0,
    scale: float = 1.0,
    matrices: Chosen = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Merge by task singular vectors that were made orthogonal to each other.

    For a matrix of shape `(m, n)` each difference gives its :math:`p = \lfloor
    \text{rank\_fraction} \cdot \min(m, n) / K \rfloor \ge 1` leading singular vectors
    and values. Those of all tasks side by side are :math:`U`, :math:`\Sigma` and
    :math:`V`; with the polar factors :math:`U_\perp` and :math:`V_\perp`,

    .. math:: W = W_0 + \lambda\, U_\perp \Sigma V_\perp^\top.

    Other tensors are averaged, and scaled alike. Where vectors of the tasks depend on
    each other linearly, the polar factor is the partial isometry, which is unique.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        rank_fraction: of the ranks that all tasks may take together.
        scale: :math:`\lambda`.
        matrices: whether the matrix of a name is decomposed; the others are averaged.
            By default all are.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Gargiulo et al. (2025), Task singular vectors: reducing task interference in
        model merging, arXiv 2412.00081.

    Example:
        >>> base = {"w": torch.zeros(2, 2)}
        >>> diagonals = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> models = [{"w": torch.diag(values)} for values in diagonals]
        >>> tsv_merge(base, models)["w"].abs()
        tensor([[3., 0.],
                [0., 2.]])
    """
    options = {"rank_fraction": rank_fraction, "scale": scale, "matrices": matrices}
    return run(base, models, tsv_rule, options, shared, dtype)


@cites("iso")
def iso_c(
    base: StateDict,
    models: Models,
    *,
    scale: float = 1.0,
    matrices: Chosen = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Merge in the common subspace, with one singular value for all directions.

    For a matrix, with :math:`\sum_k \tau_k = U \Sigma V^\top`,

    .. math:: W = W_0 + \lambda\, \bar\sigma\, U V^\top,

    :math:`\bar\sigma` the mean of all singular values. Directions whose singular value
    is zero to rounding are left out. Other tensors are averaged, and scaled alike.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        scale: :math:`\lambda`.
        matrices: whether the matrix of a name is decomposed; the others are averaged.
            By default all are.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Marczak et al. (2025), No task left behind: isotropic model merging with common
        and task-specific subspaces, arXiv 2502.04959.

    Example:
        >>> base = {"w": torch.zeros(2, 2)}
        >>> iso_c(base, [{"w": torch.diag(torch.tensor([3.0, 1.0]))}])["w"].abs()
        tensor([[2., 0.],
                [0., 2.]])
    """
    options = {"scale": scale, "matrices": matrices}
    return run(base, models, iso_c_rule, options, shared, dtype)


@cites("iso")
def iso_cts(
    base: StateDict,
    models: Models,
    *,
    common_fraction: float = 0.8,
    scale: float = 1.0,
    matrices: Chosen = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Merge in common and task-specific subspaces, all singular values alike.

    Of :math:`r = \min(m, n)` directions, each task gets :math:`p = [(r - \lfloor f r
    \rfloor) / K]` (to the nearest number), the leading singular vectors of what its
    difference has outside the :math:`r - pK` leading left singular vectors of the sum.
    These and the common ones are made orthogonal as in :func:`tsv_merge`, and get the
    mean of their singular values. Other tensors are averaged, and scaled alike.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        common_fraction: :math:`f`, in [0, 1].
        scale: of the merged difference.
        matrices: whether the matrix of a name is decomposed; the others are averaged.
            By default all are.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Marczak et al. (2025), No task left behind: isotropic model merging with common
        and task-specific subspaces, arXiv 2502.04959.

    Example:
        >>> base = {"w": torch.zeros(2, 2)}
        >>> models = [{"w": torch.diag(torch.tensor([3.0, 1.0]))}]
        >>> iso_cts(base, models, common_fraction=0.5)["w"].abs()
        tensor([[2., 0.],
                [0., 2.]])
    """
    options = {"common_fraction": common_fraction, "scale": scale, "matrices": matrices}
    return run(base, models, iso_cts_rule, options, shared, dtype)


def tsv_rule(
    reader: Reader,
    rank_fraction: float = 1.0,
    scale: float = 1.0,
    matrices: Chosen = None,
) -> Rule:
    """Rule of :func:`tsv_merge`."""
    good = isinstance(rank_fraction, float | int) and 0 < rank_fraction <= 1
    check(good, "rank_fraction", rank_fraction, "in (0, 1]")

    def step(steps: Tensor) -> Tensor:
        ranks = min(steps.shape[1:])
        # the small addend undoes rounding, as in 0.3 * 10
        p = max(1, int(rank_fraction * ranks / len(steps) + 1e-9))
        u, s, vh = torch.linalg.svd(steps, full_matrices=False)
        left = torch.cat(list(u[:, :, :p]), 1)
        right = torch.cat(list(vh[:, :p]), 0)
        values = s[:, :p].flatten()
        used = values > _cut(values, steps)
        left, right = left * used, right * used[:, None]
        return polar(left) @ (values[:, None] * polar(right))

    return _matrix_rule(step, scale, matrices)


def iso_c_rule(reader: Reader, scale: float = 1.0, matrices: Chosen = None) -> Rule:
    """Rule of :func:`iso_c`."""

    def step(steps: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(steps.sum(0), full_matrices=False)
        used = (s > _cut(s, steps)).to(s)
        return s.mean() * ((u * used) @ vh)

    return _matrix_rule(step, scale, matrices)


def iso_cts_rule(
    reader: Reader,
    common_fraction: float = 0.8,
    scale: float = 1.0,
    matrices: Chosen = None,
) -> Rule:
    """Rule of :func:`iso_cts`."""
    good = isinstance(common_fraction, float | int) and 0 <= common_fraction <= 1
    check(good, "common_fraction", common_fraction, "in [0, 1]")

    def step(steps: Tensor) -> Tensor:
        ranks, count = min(steps.shape[1:]), len(steps)
        own = round((ranks - int(common_fraction * ranks)) / count)
        own = min(own, ranks // count)
        common = ranks - own * count
        u, s, vh = torch.linalg.svd(steps.sum(0), full_matrices=False)
        u, s, vh = u[:, :common], s[:common], vh[:common]
        if own:
            rest = steps - u @ (u.mT @ steps)
            ut, st, vt = torch.linalg.svd(rest, full_matrices=False)
            u = torch.cat([*ut[:, :, :own], u], 1)
            s = torch.cat([*st[:, :own], s])
            vh = torch.cat([*vt[:, :own], vh], 0)
        used = s > _cut(s, steps)
        return s.mean() * (polar(u * used) @ polar(vh * used[:, None]))

    return _matrix_rule(step, scale, matrices)


def polar(x: Tensor) -> Tensor:
    """Nearest partial isometry: its singular values are one, or zero as those of `x`.

    Args:
        x: the matrix.

    Returns:
        Another of its shape.
    """
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return (u * (s > _cut(s, x)).to(s)) @ vh


def _cut(values: Tensor, like: Tensor) -> Tensor:
    """Singular values up to this are rounding."""
    return 8 * max(like.shape) * torch.finfo(values.dtype).eps * values.max()


def _matrix_rule(
    step: Callable[[Tensor], Tensor], scale: float, matrices: Chosen
) -> Rule:
    """Treat matrices by a function of the differences, average the rest."""
    check_number("scale", scale, -float("inf"))

    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        steps = stack.sub_(base)
        whole = base.ndim == 2 and base.numel() > 0
        if whole and (matrices is None or matrices(name)):
            return shifted(base, step(steps), scale)
        return shifted(base, steps.mean(0), scale)

    return rule
