"""Merging of layers on the outputs of merged earlier layers: RegMean++."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from pyro_geo.checks import check
from pyro_geo.citations import cites
from pyro_geo.summaries.merge._layers import kind_of
from pyro_geo.summaries.merge._reader import Reader
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Weights,
    of_each,
    task_names,
)
from pyro_geo.summaries.merge.baselines.arithmetic import average
from pyro_geo.summaries.merge.baselines.regression import gram_rule, regmean_rule
from pyro_geo.summaries.merge.statistics import batches_of, layer_statistics, run_module

__all__ = ["regmean_pp"]


@cites("regmean_pp")
@torch.no_grad()
def regmean_pp(
    base: StateDict,
    models: Models,
    *,
    module: nn.Module,
    inputs: Mapping[str, Any] | Sequence[Any],
    blocks: Sequence[str] = (),
    fold_bias: bool = False,
    off_diagonal: float = 0.9,
    ridge: float = 0.0,
    scale: float = 1.0,
    weights: Weights = None,
    batch_size: int = 256,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Merge layer after layer, each on the outputs of the layers merged before it.

    The merge of a layer is that of
    :func:`~pyro_geo.summaries.merge.baselines.regression.regmean`. There the moments
    of a layer's inputs are those of each task's own network; here the inputs pass
    through the merged earlier layers first, as they will in the merged network. Other
    tensors are averaged from the start. Each block costs a forward pass over the inputs
    of every task.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        module: a network of this architecture; it is left as it was.
        inputs: for each task, inputs as for
            :func:`~pyro_geo.summaries.merge.statistics.layer_statistics`.
        blocks: names of submodules that are merged as a whole, on the inputs that each
            task's own block makes of the merged blocks before it, as published for
            transformer blocks. Layers outside of them are merged one by one.
        fold_bias: whether the bias is merged with the weight, as in
            :func:`~pyro_geo.summaries.merge.baselines.regression.gram`.
        off_diagonal: factor of off-diagonal elements, in [0, 1].
        ridge: pull towards the average, in units of the mean eigenvalue of the sum.
        scale: of the merged difference from the base.
        weights: of the tasks; equal if None.
        batch_size: rows at once.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Nguyen et al. (2025), RegMean++: enhancing effectiveness and generalization of
        regression mean for model merging, arXiv 2508.03121.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> state = net.state_dict()
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> merged = regmean_pp(state, [state], module=net, inputs=[x])
        >>> bool(torch.allclose(merged["1.weight"], state["1.weight"]))
        True
    """
    names = task_names(models)
    states = of_each(models, names, "models")
    data = of_each(inputs, names, "inputs")
    reader = Reader(base, states, shared=shared, dtype=dtype)
    kept = set(reader.kept)
    merged = average(base, states, weights=weights, shared=shared, dtype=dtype)
    order = _order(module, states[names[0]], data[names[0]], batch_size)
    own = {name: _tensors(module, name) for name in order}
    make = gram_rule if fold_bias else regmean_rule
    later = {tensor for tensors in own.values() for tensor in tensors}
    for block in _blocks(module, order, blocks):
        statistics = {}
        for task in names:
            mixed = {
                name: states[task].get(name, base[name])
                if name in later or name in kept
                else value
                for name, value in merged.items()
            }
            statistics[task] = layer_statistics(
                module,
                data[task],
                params=mixed,
                layers=block.__contains__,
                batch_size=batch_size,
            )
        rule = make(reader, statistics, off_diagonal, ridge, scale, weights)
        for name in [name for layer in block for name in own[layer]]:
            later.discard(name)
            if name in reader.names:
                merged[name] = rule(name, *reader.read(name)).to(merged[name].dtype)
    return merged


def _order(
    module: nn.Module, params: StateDict, inputs: Any, batch_size: int
) -> list[str]:
    """Names of the modules that hold tensors, in the order in which they run."""
    order: dict[str, None] = {}
    with ExitStack() as stack:
        for name, part in module.named_modules():
            # the network itself is one of them where it is a layer
            if kind_of(part) if part is module else _holds(part):

                def hook(
                    _: nn.Module, args: Any, kwargs: Any, name: str = name
                ) -> None:
                    order.setdefault(name)

                handle = part.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        arguments, keywords = next(iter(batches_of(inputs, batch_size)))
        run_module(module, params, arguments, keywords)
    return list(order)


def _blocks(
    module: nn.Module, order: Sequence[str], blocks: Sequence[str]
) -> list[list[str]]:
    """Layers to merge together, in the order in which they run."""
    parts = dict(module.named_modules())
    unknown = [name for name in blocks if name not in parts]
    check(not unknown, "blocks", unknown, "names of submodules")
    groups: dict[str, list[str]] = {}
    for name in order:
        home = [block for block in blocks if f"{name}.".startswith(f"{block}.")]
        groups.setdefault(home[0] if home else name, []).append(name)
    # the rest has no inputs to measure; its average takes its place with those before
    found: list[list[str]] = []
    waiting: list[str] = []
    for group in groups.values():
        if any(kind_of(parts[name]) for name in group):
            found.append(waiting + group)
            waiting = []
        else:
            waiting = waiting + group
    return found


def _holds(part: nn.Module) -> bool:
    """Whether a submodule holds parameters itself."""
    return any(True for _ in part.parameters(recurse=False))


def _tensors(module: nn.Module, name: str) -> list[str]:
    """Full names of the tensors that a submodule holds itself."""
    part = module.get_submodule(name)
    held = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
    return [f"{name}.{key}" if name else key for key, _ in held]
