"""Merging of layers by least squares on their inputs: RegMean, and with the bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.citations import cites
from pyro_geo.errors import LayoutMismatchError
from pyro_geo.summaries.merge._reader import (
    Reader,
    Rule,
    run,
    shifted,
)
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Weights,
    of_each,
    read_weights,
)

__all__ = ["Moments", "gram", "regmean"]

# layer to its tensors, as in LayerStatistics
Moments = Mapping[str, Mapping[str, Tensor]]
_CUT = 1e-10  # of the largest eigenvalue: directions that no input has


@cites("regmean")
def regmean(
    base: StateDict,
    models: Models,
    *,
    statistics: Mapping[str, Moments] | Sequence[Moments],
    off_diagonal: float = 0.9,
    ridge: float = 0.0,
    scale: float = 1.0,
    weights: Weights = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Merge layers so that their outputs stay close to those of each task.

    For the weight `(outputs, inputs)` of a linear layer and the moment :math:`G_k` of
    its inputs in task `k`, off-diagonal elements multiplied by `off_diagonal`,

    .. math:: W = \Big(\sum_k w_k W_k G_k\Big) \Big(\sum_k w_k G_k\Big)^{-1},

    the least squares solution. Convolutions are linear in their patches. Rows of an
    embedding are averaged by how often each task uses them. Tensors without statistics
    are averaged. So are directions that no task's inputs have, where :math:`W` is not
    determined.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        statistics: for each task what
            :func:`~pyro_geo.summaries.merge.statistics.layer_statistics` measured.
        off_diagonal: factor of off-diagonal elements, in [0, 1]; 0.9 is the usual one.
        ridge: pull towards the average, in units of the mean eigenvalue of the sum.
        scale: of the merged difference from the base.
        weights: of the tasks; equal if None.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict. Statistics that do not fit the tensors are a
        :class:`~pyro_geo.errors.LayoutMismatchError`.

    References:
        Jin et al. (2023), Dataless knowledge fusion by merging weights of language
        models, arXiv 2212.09849.

    Example:
        >>> base = {"0.weight": torch.zeros(1, 1)}
        >>> models = [{"0.weight": torch.ones(1, 1)}, {"0.weight": torch.zeros(1, 1)}]
        >>> moments = [{"0": {"moment": torch.full((1, 1, 1), m)}} for m in (3.0, 1.0)]
        >>> regmean(base, models, statistics=moments)
        {'0.weight': tensor([[0.7500]])}
    """
    options = {
        "statistics": statistics,
        "off_diagonal": off_diagonal,
        "ridge": ridge,
        "scale": scale,
        "weights": weights,
    }
    return run(base, models, regmean_rule, options, shared, dtype)


@cites("regmean")
def gram(
    base: StateDict,
    models: Models,
    *,
    statistics: Mapping[str, Moments] | Sequence[Moments],
    off_diagonal: float = 1.0,
    ridge: float = 0.0,
    scale: float = 1.0,
    weights: Weights = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Merge as :func:`regmean`, with the bias as the weight of an input that is one.

    .. math:: [W, b] = \Big(\sum_k w_k [W_k, b_k] \tilde G_k\Big)
              \Big(\sum_k w_k \tilde G_k\Big)^{-1}, \qquad
              \tilde G_k = \begin{pmatrix} G_k & m_k \\ m_k^\top & 1 \end{pmatrix},

    with :math:`m_k` the mean of the inputs.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        statistics: for each task what
            :func:`~pyro_geo.summaries.merge.statistics.layer_statistics` measured.
        off_diagonal: factor of off-diagonal elements, in [0, 1].
        ridge: pull towards the average, in units of the mean eigenvalue of the sum.
        scale: of the merged difference from the base.
        weights: of the tasks; equal if None.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict. Statistics that do not fit the tensors are a
        :class:`~pyro_geo.errors.LayoutMismatchError`.

    References:
        Jin et al. (2023), Dataless knowledge fusion by merging weights of language
        models, arXiv 2212.09849, for the weights alone.

    Example:
        >>> base = {"0.weight": torch.zeros(1, 1), "0.bias": torch.zeros(1)}
        >>> one = {"0.weight": torch.ones(1, 1), "0.bias": torch.ones(1)}
        >>> moment = {"moment": torch.ones(1, 1, 1), "mean": torch.zeros(1, 1)}
        >>> gram(base, [one, base], statistics=[{"0": moment}, {"0": moment}])
        {'0.weight': tensor([[0.5000]]), '0.bias': tensor([0.5000])}
    """
    options = {
        "statistics": statistics,
        "off_diagonal": off_diagonal,
        "ridge": ridge,
        "scale": scale,
        "weights": weights,
    }
    return run(base, models, gram_rule, options, shared, dtype)


class Least(NamedTuple):
    """How layers are solved for.

    Attributes:
        moments: task to layers to tensors.
        share: of the tasks.
        off_diagonal: factor.
        ridge: relative.
    """

    moments: dict[str, Moments]
    share: Tensor
    off_diagonal: float
    ridge: float

    def find(self, layer: str, part: str) -> list[Tensor] | None:
        """One part of a layer's statistics in all tasks; None where there is none."""
        found = [moment.get(layer, {}).get(part) for moment in self.moments.values()]
        rows = [row for row in found if row is not None]
        if rows and len(rows) < len(found):
            lacking = [
                task
                for task, row in zip(self.moments, found, strict=True)
                if row is None
            ]
            raise LayoutMismatchError(
                "statistics of a layer are missing in some tasks",
                where=f"layer {layer!r}, tasks {lacking}",
                found="no such layer",
                expected=f"{part} of shape {tuple(rows[0].shape)}",
                todo="Measure the same layers for all tasks.",
            )
        return rows or None

    def solve(self, matrices: Tensor, moments: Sequence[Tensor]) -> Tensor:
        """Least squares in each group.

        Args:
            matrices: weights of the tasks, `(tasks, groups, outputs, inputs)`.
            moments: of each task, `(groups, inputs, inputs)`.

        Returns:
            The merged weight, `(groups, outputs, inputs)`.
        """
        share = self.share.to(matrices)
        mean = torch.tensordot(share, matrices, 1)
        total = torch.zeros_like(moments[0]).to(matrices)
        pull = torch.zeros_like(mean)
        for weight, matrix, moment in zip(share, matrices, moments, strict=True):
            moment = weight * self._damped(moment.to(matrices))
            total += moment
            pull += (matrix - mean) @ moment
        size = total.diagonal(dim1=-2, dim2=-1).mean(-1)
        total += torch.diag_embed((self.ridge * size)[:, None].expand(total.shape[:2]))
        # solved for the difference from the mean: zero where nothing is determined
        values, vectors = torch.linalg.eigh(total)
        kept = values > _CUT * values[:, -1:]
        inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
        return mean + ((pull @ vectors) * inverse[:, None]) @ vectors.mT

    def _damped(self, moment: Tensor) -> Tensor:
        if self.off_diagonal == 1:
            return moment
        diagonal = torch.diag_embed(moment.diagonal(dim1=-2, dim2=-1))
        return self.off_diagonal * moment + (1 - self.off_diagonal) * diagonal


def regmean_rule(
    reader: Reader,
    statistics: Mapping[str, Moments] | Sequence[Moments],
    off_diagonal: float = 0.9,
    ridge: float = 0.0,
    scale: float = 1.0,
    weights: Weights = None,
) -> Rule:
    """Rule of :func:`regmean`."""
    least = _least(reader, statistics, off_diagonal, ridge, weights)

    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        merged = _without_bias(least, name, base, stack)
        return shifted(base, merged - base, scale) if scale != 1 else merged

    check_number("scale", scale, -float("inf"))
    return rule


def gram_rule(
    reader: Reader,
    statistics: Mapping[str, Moments] | Sequence[Moments],
    off_diagonal: float = 1.0,
    ridge: float = 0.0,
    scale: float = 1.0,
    weights: Weights = None,
) -> Rule:
    """Rule of :func:`gram`."""
    least = _least(reader, statistics, off_diagonal, ridge, weights)
    check_number("scale", scale, -float("inf"))
    solved: dict[str, Tensor] = {}  # and not yet asked for

    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        layer, dot, part = name.rpartition(".")
        pair = f"{layer}{dot}weight", f"{layer}{dot}bias"
        whole = part in ("weight", "bias") and set(pair) <= set(reader.names)
        if not whole or least.find(layer, "moment") is None:
            merged = _without_bias(least, name, base, stack)
        elif name in solved:
            merged = solved.pop(name)
        else:
            other = reader.read(pair[part == "weight"])[1]
            both = (stack, other) if part == "weight" else (other, stack)
            solved.update(zip(pair, _with_bias(least, layer, *both), strict=True))
            merged = solved.pop(name)
        return shifted(base, merged - base, scale) if scale != 1 else merged

    return rule


def _least(
    reader: Reader,
    statistics: Mapping[str, Moments] | Sequence[Moments],
    off_diagonal: float,
    ridge: float,
    weights: Weights,
) -> Least:
    good = isinstance(off_diagonal, float | int) and 0 <= off_diagonal <= 1
    check(good, "off_diagonal", off_diagonal, "in [0, 1]")
    check_number("ridge", ridge)
    found = of_each(statistics, reader.tasks, "statistics")
    return Least(found, read_weights(weights, reader.tasks), off_diagonal, ridge)


def _without_bias(least: Least, name: str, base: Tensor, stack: Tensor) -> Tensor:
    """Merge one tensor by itself."""
    layer, _, part = name.rpartition(".")
    mean = torch.tensordot(least.share.to(stack), stack, 1)
    if part != "weight":
        return mean
    if rows := least.find(layer, "rows"):
        _check_fit(layer, rows[0].shape, base.shape[:1])
        pairs = zip(least.share.tolist(), rows, strict=True)
        shares = torch.stack([w * row.to(stack) for w, row in pairs])
        total = shares.sum(0)
        used = total > 0
        shares = torch.where(used, shares / torch.where(used, total, 1.0), 0.0)
        sums = torch.einsum("kr,kre->re", shares, stack)
        return torch.where(used[:, None], sums, mean)
    if moments := least.find(layer, "moment"):
        matrices = _matrices(layer, stack, moments[0])
        return least.solve(matrices, moments).reshape(base.shape)
    return mean


def _with_bias(
    least: Least, layer: str, weights: Tensor, biases: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge weight and bias of a layer together."""
    moments, means = least.find(layer, "moment"), least.find(layer, "mean")
    assert moments is not None
    if means is None:
        raise LayoutMismatchError(
            "the mean of the inputs is missing",
            where=f"layer {layer!r}",
            found="no `mean`",
            expected="what layer_statistics measures",
            todo="Measure again, or merge by regmean.",
        )
    matrices = _matrices(layer, weights, moments[0])
    column = biases.reshape(*matrices.shape[:3], 1)
    folded = [_folded(g, m) for g, m in zip(moments, means, strict=True)]
    solved = least.solve(torch.cat([matrices, column], -1), folded)
    return solved[..., :-1].reshape(weights.shape[1:]), solved[..., -1].flatten()


def _folded(moment: Tensor, mean: Tensor) -> Tensor:
    """Moment of the inputs and a one, `(groups, inputs + 1, inputs + 1)`."""
    upper = torch.cat([moment, mean[:, :, None]], -1)
    one = mean.new_ones(len(mean), 1)
    lower = torch.cat([mean, one], -1)
    return torch.cat([upper, lower[:, None]], 1)


def _matrices(layer: str, stack: Tensor, moment: Tensor) -> Tensor:
    """Weights as `(tasks, groups, outputs, inputs)`."""
    size = stack[0, 0].numel()
    _check_fit(layer, moment.shape[1:], (size, size))
    return stack.reshape(len(stack), len(moment), -1, size)


def _check_fit(layer: str, found: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise LayoutMismatchError(
            "statistics do not fit the layer",
            where=f"layer {layer!r}",
            found=f"{tuple(found)}",
            expected=f"{tuple(expected)}",
            todo="Measure them on networks of this architecture.",
        )
