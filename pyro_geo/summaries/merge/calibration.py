"""How far to believe each task's model, learned from labelled validation inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import AveragedStatisticsWarning
from pyro_geo.geometry.likelihoods import Categorical
from pyro_geo.geometry.projection import Forward
from pyro_geo.summaries.merge._networks import Network, cast, read_networks
from pyro_geo.summaries.merge._tasks import Models, StateDict, of_each, read_tasks

__all__ = ["Calibration", "calibrate", "calibrated_logits"]

_STEPS = 50
_PRECISION = (1.0, 1.0, 1.0, 4.0, 4.0, 4.0)  # of the prior: half a nat for a class


class Calibration(NamedTuple):
    r"""Weights of logits whose sum gives calibrated probabilities.

    .. math:: p(y | x) = softmax\Bigl(\sum_i a_i f_i + b_i e_i\Bigr)_y

    over three networks `i`: the task's own, the base, and the mean of the other
    tasks', with :math:`e_i` one at the class that `i` predicts and zero elsewhere.

    Attributes:
        own: `a` of the task's model; an inverse temperature.
        base: of the base.
        others: of the mean of the other tasks' models.
        own_class: `b` of the task's model.
        base_class: of the base.
        others_class: of the mean of the others.
    """

    own: float = 1.0
    base: float = 0.0
    others: float = 0.0
    own_class: float = 0.0
    base_class: float = 0.0
    others_class: float = 0.0


def calibrate(
    base: StateDict,
    models: Models,
    *,
    forwards: Forward | Mapping[str, Forward] | Sequence[Forward],
    inputs: Mapping[str, Tensor] | Sequence[Tensor],
    labels: Mapping[str, Tensor] | Sequence[Tensor],
    shared: Callable[[str], bool] | None = None,
    batch_size: int | None = None,
) -> dict[str, Calibration]:
    r"""Fit the probabilities that a forecast of accuracy rests on.

    A fine-tuned network believes too much of itself on new inputs. It errs more often
    where the base and the other tasks' networks disagree with it, which is where a
    merged network will; weighing them in takes most of that error out. The fit by
    likelihood is a convex problem in six numbers, with a normal prior around the
    task's model alone. At its solution the believed accuracies of all three networks
    are those on the given inputs, up to that prior.

    Args:
        base: the network that all copies started from.
        models: task name to its tensors, or a sequence of them.
        forwards: one function of parameters and inputs to logits, or one for each.
        inputs: of each task, not those that it was trained on, `(n, ...)`.
        labels: of these inputs, `(n,)`.
        shared: whether the tensor of a name is merged; by default all are.
        batch_size: inputs at once.

    Returns:
        Task to weights, for :func:`~pyro_geo.summaries.merge.forecast`.

    References:
        Guo et al. (2017), On calibration of modern neural networks, arXiv 1706.04599;
        Wolpert (1992), Stacked generalization.

    Example:
        >>> base = {"w": torch.zeros(2, 2)}
        >>> models = {"a": {"w": 4 * torch.eye(2)}}
        >>> x = torch.tensor([[1.0, 0.0]] * 400)
        >>> y = torch.tensor([0, 0, 0, 1] * 100)
        >>> found = calibrate(
        ...     base, models, forwards=lambda p, x: x @ p["w"], inputs=[x], labels=[y]
        ... )
        >>> weights = found["a"]
        >>> # the logit of 3/4 is 1.10
        >>> round(4 * weights.own + weights.own_class, 1)
        1.1
    """
    networks, start = _networks(base, models, forwards, inputs, shared, batch_size)
    truth = of_each(labels, tuple(networks), "labels")
    found = {}
    for task, network in networks.items():
        y = truth[task].to(start[next(iter(start))].device)
        check_shape(f"labels of task {task!r}", y.shape, (len(network.inputs),))
        found[task] = Calibration(
            *_fit(_features(network, networks, start), y).tolist()
        )
    return found


def calibrated_logits(
    base: StateDict,
    models: Models,
    calibrations: Mapping[str, Calibration] | Sequence[Calibration],
    *,
    forwards: Forward | Mapping[str, Forward] | Sequence[Forward],
    inputs: Mapping[str, Tensor] | Sequence[Tensor],
    shared: Callable[[str], bool] | None = None,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Combine logits by the weights of a calibration.

    Args:
        base: the network that all copies started from.
        models: task name to its tensors, or a sequence of them.
        calibrations: of each task.
        forwards: one function of parameters and inputs to logits, or one for each.
        inputs: of each task, `(n, ...)`.
        shared: whether the tensor of a name is merged; by default all are.
        batch_size: inputs at once.

    Returns:
        Task to logits, `(n, classes)`.
    """
    networks, start = _networks(base, models, forwards, inputs, shared, batch_size)
    each = of_each(calibrations, tuple(networks), "calibrations")
    result = {}
    for task, network in networks.items():
        features = _features(network, networks, start)
        weights = torch.tensor(each[task], dtype=torch.float64).to(features)
        result[task] = torch.tensordot(weights, features, 1)
    return result


def _networks(
    base: StateDict,
    models: Models,
    forwards: Forward | Mapping[str, Forward] | Sequence[Forward],
    inputs: Mapping[str, Tensor] | Sequence[Tensor],
    shared: Callable[[str], bool] | None,
    batch_size: int | None,
) -> tuple[dict[str, Network], dict[str, Tensor]]:
    """Networks that keep their own running statistics, and the tensors of the base."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", AveragedStatisticsWarning
        )  # nothing is averaged
        tasks = read_tasks(base, models, shared=shared)
    like = next(iter(tasks.base.values())).new_zeros((), dtype=torch.float64)
    networks = read_networks(
        tasks, forwards, inputs, Categorical(), like, batch_size=batch_size
    )
    running = next(iter(tasks.statistics.values()))
    networks = {
        task: network._replace(
            merged={**network.merged, **{name: network.own[name] for name in running}}
        )
        for task, network in networks.items()
    }
    return networks, {name: cast(base[name], like) for name in (*tasks.base, *running)}


def _features(
    network: Network, networks: Mapping[str, Network], base: StateDict
) -> Tensor:
    """Logits of the own model, of the base and of the others, and their classes.

    Args:
        network: of the task.
        networks: of all tasks.
        base: tensors of the base.

    Returns:
        `(6, n, classes)`, in the order of :class:`Calibration`.
    """
    own = network.reference()
    others = [
        network.outputs(other.merged)
        for task, other in networks.items()
        if task != network.task
    ]
    mean = torch.stack(others).mean(0) if others else torch.zeros_like(own)
    logits = [own, network.outputs(base), mean]
    classes = [one_hot(x.argmax(-1), x.shape[-1]).to(own) for x in logits]
    if not others:
        classes[2] = torch.zeros_like(own)
    return torch.stack(logits + classes)


def _fit(features: Tensor, labels: Tensor) -> Tensor:
    """Weights of the features, `(6,)`, by Newton steps on a convex loss."""
    start = torch.tensor(Calibration()).to(features)
    precision = torch.tensor(_PRECISION).to(features)
    check(len(labels) > 0, "labels", "none", "at least one")

    def loss(w: Tensor) -> Tensor:
        data = cross_entropy(torch.tensordot(w, features, 1), labels)
        return data + 0.5 * (precision * (w - start).square()).sum() / len(labels)

    w = start
    for _ in range(_STEPS):
        gradient = torch.func.grad(loss)(w)
        step = torch.linalg.solve(torch.func.hessian(loss)(w), gradient)
        size, here = 1.0, float(loss(w))
        while float(loss(w - size * step)) > here and size > 1e-6:
            size /= 2
        w = w - size * step
        if float(step.norm()) < 1e-10:
            break
    return w.detach()
