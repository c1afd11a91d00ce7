"""Starts of a merge that are made from inputs: regression with several shrinkages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyro_geo.checks import check
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Weights,
    of_each,
    task_names,
)
from pyro_geo.summaries.merge.baselines.crossing import regmean_pp
from pyro_geo.summaries.merge.baselines.regression import gram
from pyro_geo.summaries.merge.statistics import layer_statistics

__all__ = ["regression_starts"]

Rule = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def regression_starts(
    base: StateDict,
    models: Models,
    module: nn.Module,
    *,
    off_diagonal: Sequence[float] = (1.0, 0.98, 0.95, 0.9, 0.8),
    ridge: float = 1e-3,
    weights: Weights = None,
    batch_size: int = 256,
    shared: Callable[[str], bool] | None = None,
) -> dict[str, Rule]:
    r"""Make starts of a merge by least squares on the inputs of layers.

    For each factor of off-diagonal moments there are two:
    :func:`~pyro_geo.summaries.merge.gram`, and
    :func:`~pyro_geo.summaries.merge.regmean_pp` with the bias as a weight. With fewer
    inputs than a layer is wide, moments without shrinkage fit these inputs alone; how
    much to shrink is for inputs to decide that are held back, as
    :func:`~pyro_geo.summaries.merge.frechet_merge` does.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        module: a network of this architecture; it is left as it was.
        off_diagonal: factors of off-diagonal elements, in [0, 1].
        ridge: pull towards the average, in units of the mean eigenvalue of the sum.
        weights: of the tasks; equal if None.
        batch_size: inputs at once.
        shared: whether the tensor of a name is merged; by default all are.

    Returns:
        Name to function from the inputs of each task to the tensors merged.

    References:
        Jin et al. (2023), Dataless knowledge fusion by merging weights of language
        models, arXiv 2212.09849; Nguyen et al. (2025), RegMean++, arXiv 2508.03121.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1)
        >>> base = net.state_dict()
        >>> models = {"a": base, "b": base}
        >>> starts = regression_starts(base, models, net, off_diagonal=[0.9])
        >>> list(starts)
        ['gram 0.9', 'crossing 0.9']
        >>> x = torch.randn(5, 2)
        >>> found = starts["gram 0.9"]({"a": x, "b": x})
        >>> bool(torch.allclose(found["weight"], net.weight))
        True
    """
    check(len(off_diagonal) > 0, "off_diagonal", "none", "at least one factor")
    states = of_each(models, task_names(models), "models")
    common = {"ridge": ridge, "weights": weights, "shared": shared}

    def layerwise(factor: float) -> Rule:
        def rule(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            found = {
                task: layer_statistics(
                    module, inputs[task], params=state, batch_size=batch_size
                )
                for task, state in states.items()
            }
            return gram(base, states, statistics=found, off_diagonal=factor, **common)

        return rule

    def crossing(factor: float) -> Rule:
        def rule(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return regmean_pp(
                base,
                states,
                module=module,
                inputs=inputs,
                fold_bias=True,
                off_diagonal=factor,
                batch_size=batch_size,
                **common,
            )

        return rule

    ways = {"gram": layerwise, "crossing": crossing}
    return {
        f"{way} {factor:g}": make(factor)
        for factor in off_diagonal
        for way, make in ways.items()
    }
