r"""What a merged network will cost each task, and what it did cost.

With :math:`\delta = \theta - \theta_k`, the outputs of a candidate are those of the
task's own model plus an integral along the straight line between them,

.. math:: f(\theta) = f(\theta_k) + \int_0^1 J(\theta_k + t \delta)\, \delta\, dt

which a few nodes predict by one derivative in forward mode each, without a label and
for any candidate, inside a subspace or not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_shape
from pyro_geo.errors import AveragedStatisticsWarning
from pyro_geo.geometry.likelihoods import likelihood_named
from pyro_geo.geometry.projection import Forward, push_forward
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge._averages import between, straight_rule
from pyro_geo.summaries.merge._networks import Network, cast, read_networks
from pyro_geo.summaries.merge._tasks import Models, StateDict, of_each, read_tasks
from pyro_geo.summaries.merge.calibration import Calibration, calibrated_logits
from pyro_geo.summaries.merge.metrics import TaskMetric

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["forecast", "forecast_from_metrics", "outcome"]

Forwards = Forward | Mapping[str, Forward] | Sequence[Forward]
Inputs = Mapping[str, Tensor] | Sequence[Tensor]
Calibrations = Mapping[str, Calibration] | Sequence[Calibration]


def forecast(
    models: Models,
    candidate: StateDict,
    *,
    forwards: Forwards,
    inputs: Inputs,
    how: Literal["path", "linear", "direct"] = "path",
    nodes: int = 4,
    calibrations: Calibrations | None = None,
    base: StateDict | None = None,
    likelihood: str = "categorical",
    variance: float = 1.0,
    shared: Callable[[str], bool] | None = None,
    batch_size: int | None = None,
) -> xr.Dataset:
    r"""Forecast what a candidate costs each task, from unlabelled inputs.

    The accuracy that it will lose is predicted where its predicted class differs from
    that of the task's model, by what the task's model believes of both,

    .. math:: E_x\bigl[p_k(\hat y_k | x) - p_k(\hat y | x)\bigr]

    with probabilities :math:`p_k` calibrated by
    :func:`~pyro_geo.summaries.merge.calibrate`. It is exact on average where these are
    the true ones. For the accuracy lost on certain inputs
    pass those: the scatter of a few hundred others is larger than the forecast's.

    - `"path"`: outputs from derivatives along the line from the task's model to the
      candidate, whose own outputs are never computed.
    - `"linear"`: from the derivative at the task's model alone; poor far from it.
    - `"direct"`: from the candidate's outputs: what the others approximate, and
      cheaper than a path, where the candidate fits in memory as a whole.

    Args:
        models: task name to its tensors, or a sequence of them.
        candidate: the merged tensors, of any method.
        forwards: one function of parameters and inputs to outputs, or one for each.
        inputs: unlabelled inputs of each task, `(n, ...)`.
        how: as above.
        nodes: of the path.
        calibrations: of each task's model; it is believed as it is if None.
        base: the network that all copies started from, which calibrations need.
        likelihood: of the outputs; the accuracy is that of `"categorical"` ones.
        variance: of the noise, for `"gaussian"`.
        shared: whether the tensor of a name is merged; by default all are.
        batch_size: inputs at once.

    Returns:
        A dataset over `task`: `predicted_kl`, in nats per input; `path_kl`, the
        quadratic form of the path metric; for classes `predicted_accuracy_loss` with
        its `standard_error` for these inputs, and `disagreement`, the fraction of
        inputs whose class changes.

    Example:
        >>> models = {"a": {"w": torch.eye(2)}, "b": {"w": -torch.eye(2)}}
        >>> x = torch.randn(100, 2)
        >>> table = forecast(
        ...     models,
        ...     {"w": 0.5 * torch.eye(2)},
        ...     forwards=lambda p, x: x @ p["w"],
        ...     inputs={"a": x, "b": x},
        ... )
        >>> table["disagreement"].values.tolist()
        [0.0, 1.0]
    """
    check_choice("how", how, ("path", "linear", "direct"))
    check_count("nodes", nodes)
    known: dict[str, Any] = {"forwards": forwards, "inputs": inputs}
    known |= {"shared": shared, "batch_size": batch_size}
    return forecast_believed(
        models,
        candidate,
        beliefs_of(models, base, calibrations, **known),
        how=how,
        nodes=nodes,
        likelihood=likelihood,
        variance=variance,
        **known,
    )


def beliefs_of(
    models: Models,
    base: StateDict | None,
    calibrations: Calibrations | None,
    *,
    forwards: Forwards,
    inputs: Inputs,
    shared: Callable[[str], bool] | None,
    batch_size: int | None,
) -> dict[str, Tensor]:
    """Evaluate what to believe of each task's inputs; it is the same for any candidate.

    Args:
        models: task name to its tensors, or a sequence of them.
        base: the network that all copies started from.
        calibrations: of each task's model; None to believe it as it is.
        forwards: one function of parameters and inputs to outputs, or one for each.
        inputs: of each task, `(n, ...)`.
        shared: whether the tensor of a name is merged.
        batch_size: inputs at once.

    Returns:
        Task to calibrated logits, `(n, classes)`; empty without calibrations.
    """
    if calibrations is None:
        return {}
    check(base is not None, "base", None, "tensors, where there are calibrations")
    assert base is not None
    return calibrated_logits(
        base,
        models,
        calibrations,
        forwards=forwards,
        inputs=inputs,
        shared=shared,
        batch_size=batch_size,
    )


def forecast_believed(
    models: Models,
    candidate: StateDict,
    beliefs: Mapping[str, Tensor],
    *,
    forwards: Forwards,
    inputs: Inputs,
    shared: Callable[[str], bool] | None,
    batch_size: int | None,
    how: str = "path",
    nodes: int = 4,
    likelihood: str = "categorical",
    variance: float = 1.0,
) -> xr.Dataset:
    """Forecast as :func:`forecast`, with beliefs that were evaluated before.

    Args:
        models: task name to its tensors, or a sequence of them.
        candidate: the merged tensors.
        beliefs: of :func:`beliefs_of`.
        forwards: one function of parameters and inputs to outputs, or one for each.
        inputs: of each task, `(n, ...)`.
        shared: whether the tensor of a name is merged.
        batch_size: inputs at once.
        how: see :func:`forecast`.
        nodes: of the path.
        likelihood: of the outputs.
        variance: of the noise, for `"gaussian"`.

    Returns:
        The dataset of :func:`forecast`.
    """
    networks, there = _read(
        models, candidate, forwards, inputs, likelihood, variance, shared, batch_size
    )
    rows = []
    for task, network in networks.items():
        reference = network.reference()
        if how == "direct":
            outputs, path_kl = network.outputs(there), math.nan
        else:
            rule = straight_rule(nodes) if how == "path" else [(0.0, 1.0)]
            outputs, path_kl = _along(network, there, reference, rule)
        kl = network.likelihood.divergence(reference, outputs).mean()
        row = {"predicted_kl": float(kl)}
        if how != "direct":
            row["path_kl"] = path_kl
        if network.likelihood.name == "categorical":
            row |= _accuracy_loss(reference, outputs, beliefs.get(task, reference))
        rows.append(row)
    return _table(list(networks), rows)


def forecast_from_metrics(
    metrics: Mapping[str, TaskMetric] | Sequence[TaskMetric],
    candidate: StateDict | Tensor,
    subspace: Subspace,
) -> xr.Dataset:
    """Forecast what a candidate costs each task from saved metrics, without data.

    Args:
        metrics: task name to metric, or a sequence of them.
        candidate: merged tensors, or coordinates `(dim,)`.
        subspace: that the metrics were measured in. A candidate outside it is taken
            at its nearest point.

    Returns:
        A dataset over `task` with `predicted_kl`, in nats per input; its attribute
        `outside` is the fraction of the candidate's squared difference from the base
        that the metrics say nothing of.

    Example:
        >>> from pyro_geo.summaries.merge import build_subspace, measure
        >>> base = {"w": torch.zeros(2, 2)}
        >>> models = {"a": {"w": torch.eye(2)}, "b": {"w": -torch.eye(2)}}
        >>> space = build_subspace(base, models, "span")
        >>> forward, x = lambda p, x: x @ p["w"], torch.randn(50, 2)
        >>> metrics = {k: measure(forward, w, x, space) for k, w in models.items()}
        >>> found = forecast_from_metrics(metrics, models["a"], space)
        >>> kl = found["predicted_kl"].values
        >>> bool(kl[0] < 1e-6 < kl[1])
        True
    """
    check(len(metrics) > 0, "metrics", "none", "at least one")
    named = metrics if isinstance(metrics, Mapping) else {}
    names = tuple(named) or tuple(f"task {k}" for k in range(len(metrics)))
    each = of_each(metrics, names, "metrics")
    outside = 0.0
    if isinstance(candidate, Tensor):
        check_shape("candidate", candidate.shape, (subspace.dim,))
        z = candidate
    else:
        apart = subspace.difference(candidate)
        z = subspace.project(apart)
        total = sum(float(x.square().sum()) for x in apart.values())
        outside = max(0.0, 1 - float(z.square().sum()) / total) if total else 0.0
    rows = []
    for metric in each.values():
        metric.check_subspace(subspace)
        rows.append({"predicted_kl": metric.predicted_kl(z)})
    table = _table(list(names), rows)
    table.attrs["outside"] = outside
    return table


def outcome(
    models: Models,
    candidate: StateDict,
    *,
    forwards: Forwards,
    inputs: Inputs,
    labels: Inputs | None = None,
    likelihood: str = "categorical",
    variance: float = 1.0,
    shared: Callable[[str], bool] | None = None,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Measure what a merged network costs each task.

    Args:
        models: task name to its tensors, or a sequence of them.
        candidate: the merged tensors.
        forwards: one function of parameters and inputs to outputs, or one for each.
        inputs: of each task, `(n, ...)`.
        labels: of these inputs, `(n,)`, for accuracies.
        likelihood: of the outputs.
        variance: of the noise, for `"gaussian"`.
        shared: whether the tensor of a name is merged; by default all are.
        batch_size: inputs at once.

    Returns:
        A dataset over `task`: `kl`, in nats per input; with labels `accuracy` of the
        merged network, `task_accuracy` of the task's own, and `accuracy_loss`.

    Example:
        >>> models = {"a": {"w": torch.eye(2)}, "b": {"w": -torch.eye(2)}}
        >>> x = torch.randn(100, 2)
        >>> labels = {"a": x.argmax(1), "b": x.argmin(1)}
        >>> table = outcome(
        ...     models,
        ...     {"w": 0.5 * torch.eye(2)},
        ...     forwards=lambda p, x: x @ p["w"],
        ...     inputs={"a": x, "b": x},
        ...     labels=labels,
        ... )
        >>> table["accuracy_loss"].values.tolist()
        [0.0, 1.0]
    """
    networks, there = _read(
        models, candidate, forwards, inputs, likelihood, variance, shared, batch_size
    )
    truth = None if labels is None else of_each(labels, tuple(networks), "labels")
    rows = []
    for task, network in networks.items():
        reference, outputs = network.reference(), network.outputs(there)
        kl = network.likelihood.divergence(reference, outputs).mean()
        row = {"kl": float(kl)}
        if truth is not None:
            y = truth[task].to(outputs.device)
            check_shape(f"labels of task {task!r}", y.shape, (len(outputs),))
            own, new = (
                float((x.argmax(-1) == y).double().mean()) for x in (reference, outputs)
            )
            row |= {"accuracy": new, "task_accuracy": own, "accuracy_loss": own - new}
        rows.append(row)
    return _table(list(networks), rows)


def _read(
    models: Models,
    candidate: StateDict,
    forwards: Forwards,
    inputs: Inputs,
    likelihood: str,
    variance: float,
    shared: Callable[[str], bool] | None,
    batch_size: int | None,
) -> tuple[dict[str, Network], dict[str, Tensor]]:
    """Networks that keep their own running statistics, and the candidate's tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", AveragedStatisticsWarning
        )  # nothing is averaged
        tasks = read_tasks(candidate, models, shared=shared)
    family = likelihood_named(likelihood, variance)
    like = next(iter(tasks.base.values())).new_zeros((), dtype=torch.float64)
    found = read_networks(tasks, forwards, inputs, family, like, batch_size=batch_size)
    running = next(iter(tasks.statistics.values()))
    there = {name: cast(candidate[name], like) for name in (*tasks.base, *running)}
    return found, there


def _along(
    network: Network,
    there: StateDict,
    reference: Tensor,
    rule: Sequence[tuple[float, float]],
) -> tuple[Tensor, float]:
    """Outputs of a candidate by derivatives, and the quadratic form of the path."""
    delta = {name: there[name] - x for name, x in network.merged.items()}
    # running statistics have no derivative: the line begins with the candidate's
    fixed = {name: x for name, x in there.items() if name not in delta}
    outputs = network.outputs({**network.merged, **fixed}) if fixed else reference
    outputs, energy = outputs.clone(), 0.0
    for t, weight in rule:
        here = {**network.own, **fixed, **between(network.merged, there, t)}
        parts = [
            push_forward(network.forward, here, x, None, directions=[delta])
            for x in network.batches()
        ]
        at = torch.cat([part[0] for part in parts])
        slope = torch.cat([part[1][0] for part in parts])
        outputs += weight * slope
        root = network.likelihood.root(at, slope[None])
        energy += 2 * (1 - t) * weight * float(root.square().sum()) / len(at)
    # the rule of one node at the start has the weight 1 of a constant metric
    return outputs, 0.5 * energy / sum(2 * (1 - t) * weight for t, weight in rule)


def _accuracy_loss(
    reference: Tensor, outputs: Tensor, beliefs: Tensor
) -> dict[str, float]:
    p = beliefs.softmax(-1)
    own, new = reference.argmax(-1, keepdim=True), outputs.argmax(-1, keepdim=True)
    first, second = p.gather(-1, own)[:, 0], p.gather(-1, new)[:, 0]
    differs = (own != new)[:, 0]
    loss = first - second
    # given the input, the label is `own` or `new` or another one
    spread = torch.where(differs, first + second - loss.square(), 0.0)
    return {
        "predicted_accuracy_loss": float(loss.mean()),
        "standard_error": math.sqrt(max(float(spread.sum()), 0.0)) / len(p),
        "disagreement": float(differs.double().mean()),
    }


def _table(names: Sequence[str], rows: Sequence[Mapping[str, float]]) -> xr.Dataset:
    import xarray as xr

    columns = {key: ("task", np.array([row[key] for row in rows])) for key in rows[0]}
    return xr.Dataset(columns, coords={"task": list(names)})
