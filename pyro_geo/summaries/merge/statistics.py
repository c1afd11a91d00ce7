"""What merging asks of data: moments of the inputs of layers, diagonals of curvature.

Both are measured once for each task, from inputs without labels, and saved as plain
tensors; merging from them needs no data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pyro_geo.checks import check, check_choice, check_count
from pyro_geo.errors import (
    CheckpointError,
    LayoutMismatchError,
    NonFiniteParameterError,
)
from pyro_geo.summaries.merge._layers import kind_of, measured
from pyro_geo.summaries.merge._tasks import StateDict
from pyro_geo.summaries.merge.checkpoints import open_checkpoint, write_checkpoint

__all__ = ["LayerStatistics", "fisher_diagonal", "layer_statistics"]

_PARTS = ("moment", "mean", "rows", "count")


class LayerStatistics(Mapping[str, dict[str, Tensor]]):
    """Moments of the inputs of layers, by the layer's name.

    A linear layer or convolution has `moment`, the mean of `x x'` of shape
    `(groups, inputs, inputs)`, and `mean`, that of `x`, `(groups, inputs)`; an
    embedding has `rows`, the share of each row, `(rows,)`. Each has `count`, the
    number of inputs.

    Args:
        layers: layer to its tensors.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1))
        >>> found = layer_statistics(net, torch.eye(2))
        >>> found["0"]["moment"]
        tensor([[[0.5000, 0.0000],
                 [0.0000, 0.5000]]], dtype=torch.float64)
    """

    def __init__(self, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._layers = {name: dict(parts) for name, parts in layers.items()}

    def __getitem__(self, layer: str) -> dict[str, Tensor]:
        """Tensors of a layer."""
        return self._layers[layer]

    def __iter__(self) -> Iterator[str]:
        """Names of the layers."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Count the layers."""
        return len(self._layers)

    def __add__(self, other: LayerStatistics) -> LayerStatistics:
        """Pool with what was measured on other inputs.

        Args:
            other: of the same layers.

        Returns:
            Statistics of all inputs together.

        Raises:
            LayoutMismatchError: the layers differ.
        """
        if set(self) != set(other):
            raise LayoutMismatchError(
                "statistics of other layers",
                where=f"layers {sorted(set(self) ^ set(other))[:3]}",
                found=sorted(other)[:5],
                expected=sorted(self)[:5],
                todo="Measure the same layers.",
            )
        return LayerStatistics(
            {name: _pooled(self[name], other[name]) for name in self}
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file of plain tensors, whole or not at all.

        Args:
            path: the file, `.pt` or `.safetensors`.
        """
        flat = {
            f"{layer}.{part}": value
            for layer, parts in self.items()
            for part, value in parts.items()
        }
        write_checkpoint(path, flat)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LayerStatistics:
        """Read a file that :meth:`save` wrote; no code in it is run.

        Args:
            path: the file.

        Returns:
            The statistics. A file that cannot be read is a
            :class:`~pyro_geo.errors.CheckpointError`.

        Raises:
            CheckpointError: the file holds something else.
        """
        layers: dict[str, dict[str, Tensor]] = {}
        for name, value in open_checkpoint(path).items():
            layer, dot, part = name.rpartition(".")
            if part not in _PARTS or not dot:
                raise CheckpointError(
                    "not a file of layer statistics",
                    where=str(path),
                    found=f"tensor {name!r}",
                    expected=f"names that end in {_PARTS}",
                    todo="Pass a file written by LayerStatistics.save.",
                )
            layers.setdefault(layer, {})[part] = value.clone()
        return cls(layers)


def layer_statistics(
    module: nn.Module,
    inputs: Any,
    *,
    params: StateDict | None = None,
    layers: Callable[[str], bool] | None = None,
    batch_size: int = 256,
) -> LayerStatistics:
    r"""Measure the inputs of every linear layer, convolution and embedding.

    For the inputs `x` of a layer (rows of a batch, tokens, or the patches that a
    convolution sees) these are the means of :math:`x x^\top` and of :math:`x`, in
    double precision. The module runs in evaluation mode and is left as it was.

    Args:
        module: the network of one task.
        inputs: of the network: a tensor whose first axis is cut into batches, or an
            iterable of batches, each a tensor, a tuple of arguments or a mapping of
            keyword arguments.
        params: tensors to use in place of the module's own.
        layers: whether the layer of a name is measured; by default all are that can be.
        batch_size: rows at once, for a tensor.

    Returns:
        The statistics. Layers that no input reached are left out.

    Raises:
        NonFiniteParameterError: the inputs of a layer are not finite.

    References:
        Jin et al. (2023), Dataless knowledge fusion by merging weights of language
        models, arXiv 2212.09849.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
        >>> list(layer_statistics(net, torch.randn(5, 3)))
        ['0', '1']
    """
    check_count("batch_size", batch_size)
    wanted = {
        name: layer
        for name, layer in module.named_modules()
        if kind_of(layer) and (layers is None or layers(name))
    }
    check(bool(wanted), "layers", "no layer to measure", "at least one")
    with ExitStack() as stack:
        sums = measured(wanted, stack)
        for arguments, keywords in batches_of(inputs, batch_size):
            run_module(module, params, arguments, keywords)
    found = {}
    for name, total in sums.items():
        parts = total.means()
        for part, value in parts.items():
            if not bool(value.isfinite().all()):
                raise NonFiniteParameterError(
                    "inputs of a layer are not finite",
                    where=f"layer {name!r}",
                    found=f"{part} with NaN or infinite numbers",
                    expected="finite numbers",
                    todo="Check the inputs and the network's parameters.",
                )
        found[name] = parts
    return LayerStatistics({name: found[name] for name in wanted if name in found})


@torch.no_grad()
def run_module(
    module: nn.Module,
    params: StateDict | None,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
) -> Any:
    """Run a module in evaluation mode, and leave it as it was.

    Args:
        module: the network.
        params: tensors in place of its own.
        arguments: of the call.
        keywords: of the call.

    Returns:
        What it returns.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        if params is None:
            return module(*arguments, **keywords)
        return functional_call(module, dict(params), arguments, dict(keywords))
    finally:
        for part, mode in modes.items():
            part.training = mode


def batches_of(
    inputs: Any, batch_size: int
) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Cut inputs of a network into calls.

    Args:
        inputs: as for :func:`layer_statistics`.
        batch_size: rows at once, for a tensor.

    Yields:
        Positional and keyword arguments.
    """
    source: Iterable[Any] = inputs
    if isinstance(inputs, Tensor):
        check(len(inputs) > 0, "inputs", tuple(inputs.shape), "at least one row")
        source = inputs.split(batch_size)
    for batch in source:
        if isinstance(batch, Mapping):
            yield (), batch
        else:
            yield (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def fisher_diagonal(
    forward: Callable[[dict[str, Tensor], Tensor], Tensor],
    params: StateDict,
    inputs: Tensor,
    *,
    likelihood: str = "categorical",
    batch_size: int = 32,
) -> dict[str, Tensor]:
    r"""Measure the diagonal of the Fisher information of a network's parameters.

    .. math:: F_j = \frac1N \sum_n \sum_c p(c \mid x_n)
              \Big( \partial_j \log p(c \mid x_n) \Big)^2,

    the expectation over the network's own predictions, so no labels are needed. All
    classes are summed over: nothing is drawn. It costs a backward pass for each input
    and output, `batch_size` inputs at once.

    Args:
        forward: function of parameters and inputs `(n, …)` to outputs `(n, outputs)`.
        params: of the task; integer tensors are passed on as they are.
        inputs: `(N, …)`, the first axis over data.
        likelihood: `"categorical"` for logits of classes, `"bernoulli"` for logits of
            independent yes-or-no outputs, `"gaussian"` for means of variance one.
        batch_size: inputs at once.

    Returns:
        A tensor for each floating parameter, in double precision, of its shape.

    References:
        Matena and Raffel (2022), Merging models with Fisher-weighted averaging,
        arXiv 2111.09832.

    Example:
        >>> def forward(params, x):
        ...     return x @ params["w"]
        >>> params = {"w": torch.zeros(2, 1)}
        >>> fisher_diagonal(forward, params, torch.eye(2), likelihood="gaussian")["w"]
        tensor([[0.5000],
                [0.5000]], dtype=torch.float64)
    """
    check_choice("likelihood", likelihood, ("categorical", "bernoulli", "gaussian"))
    check_count("batch_size", batch_size)
    check(len(inputs) > 0, "inputs", tuple(inputs.shape), "at least one row")
    moving = {k: v.detach() for k, v in params.items() if v.is_floating_point()}
    fixed = {k: v for k, v in params.items() if k not in moving}

    def weighted(p: dict[str, Tensor], x: Tensor, one: Tensor) -> Tensor:
        # times the root of its weight, so that squares sum to the expectation
        outputs = forward({**p, **fixed}, x[None])[0]
        value = one @ outputs
        if likelihood == "gaussian":
            return value
        if likelihood == "bernoulli":
            odds = value.detach()
            return (odds.sigmoid() * (-odds).sigmoid()).sqrt() * value
        logs = one @ outputs.log_softmax(-1)
        return (logs.detach() / 2).exp() * logs

    def of_input(x: Tensor, ones: Tensor) -> dict[str, Tensor]:
        slopes = vmap(grad(weighted), (None, None, 0))(moving, x, ones)
        return {name: slope.square().sum(0) for name, slope in slopes.items()}

    with torch.no_grad():
        outputs = forward({**moving, **fixed}, inputs[:1])[0]
    ones = torch.diag(torch.ones_like(outputs))
    total = {k: torch.zeros(v.shape).to(v).double() for k, v in moving.items()}
    for batch in inputs.split(batch_size):
        for name, value in vmap(of_input, (0, None))(batch, ones).items():
            total[name] += value.double().sum(0)
    return {name: value / len(inputs) for name, value in total.items()}


def _pooled(one: dict[str, Tensor], two: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over two sets of inputs together."""
    total = one["count"] + two["count"]
    share = one["count"] / total
    return {
        part: total if part == "count" else share * value + (1 - share) * two[part]
        for part, value in one.items()
    }
