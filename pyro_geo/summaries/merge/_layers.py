"""Layers as linear maps: their inputs as rows, and their weights as matrices."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LayerSums", "kind_of", "measured", "rows_of"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LayerSums:
    """Sums over the inputs of one layer.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, x: Tensor) -> None:
        """Add one call's inputs."""
        if isinstance(self.layer, nn.Embedding):
            size = self.layer.num_embeddings
            rows = x.detach().flatten().bincount(minlength=size).double()
            self._add(len(x.flatten()), {"rows": rows})
            return
        rows = rows_of(self.layer, x.detach()).double()  # (groups, number, inputs)
        sums = {"moment": rows.mT @ rows, "mean": rows.sum(1)}
        self._add(rows.shape[1], sums)

    def means(self) -> dict[str, Tensor]:
        """Means over all inputs so far, and their number."""
        means = {part: total / self.count for part, total in self.sums.items()}
        count = torch.tensor(float(self.count), dtype=torch.float64)
        return {**means, "count": count}

    def _add(self, count: int, sums: dict[str, Tensor]) -> None:
        if count == 0:
            return
        self.count += count
        for part, value in sums.items():
            old = self.sums.get(part)
            self.sums[part] = value if old is None else old + value


def kind_of(layer: nn.Module) -> str | None:
    """Name the kind of a layer whose inputs can be measured; None for another."""
    if isinstance(layer, nn.Embedding):
        return "embedding"
    # a lazy layer has no shape yet
    if isinstance(layer, nn.Linear) and not isinstance(layer, nn.LazyLinear):
        return "linear"
    return "convolution" if isinstance(layer, _CONVOLUTIONS) else None


def measured(layers: dict[str, nn.Module], stack: ExitStack) -> dict[str, LayerSums]:
    """Sum up the inputs of layers for as long as a stack is open.

    Args:
        layers: by name.
        stack: takes the hooks off again.

    Returns:
        Layer to its sums; those that no input reached are not in it.
    """
    sums: dict[str, LayerSums] = {}

    def hook_of(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            sums.setdefault(name, LayerSums(layer)).add(x)

        return hook

    for name, layer in layers.items():
        handle = layer.register_forward_pre_hook(hook_of(name), with_kwargs=True)
        stack.callback(handle.remove)
    return sums


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Bring a layer's inputs into rows that its weight matrix is applied to.

    Args:
        layer: a linear layer or a convolution.
        x: its inputs.

    Returns:
        `(groups, number, inputs)`.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(layer, _CONVOLUTIONS)
    axes = len(layer.kernel_size)
    if x.ndim == axes + 1:
        x = x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, _padding(layer), mode=mode)
    for axis in range(axes):
        size, gap = layer.kernel_size[axis], layer.dilation[axis]
        x = x.unfold(axis + 2, gap * (size - 1) + 1, layer.stride[axis])
        x = x[..., ::gap]
    # (batch, channels, *places, *kernel) -> (groups, batch * places, channels * kernel)
    kernel = tuple(range(-axes, 0))
    places = tuple(range(3, 3 + axes))
    x = x.unflatten(1, (layer.groups, -1))
    x = x.permute(1, 0, *places, 2, *(x.ndim + k for k in kernel))
    size = x.shape[-axes - 1 :].numel()
    return x.reshape(layer.groups, -1, size)


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Padding of both ends of each axis, the last axis first."""
    ends: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        if isinstance(layer.padding, str):
            reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            total = reach if layer.padding == "same" else 0
            ends += [total // 2, total - total // 2]
        else:
            ends += [layer.padding[axis]] * 2
    return ends
