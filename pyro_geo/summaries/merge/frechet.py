r"""The Fréchet mean of networks in a subspace, each in the metric of its own task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.errors import SaturatedMetricWarning, SubspaceResidualWarning
from pyro_geo.geometry.likelihoods import likelihood_named
from pyro_geo.geometry.projection import Forward
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge._choice import (
    Choice,
    Data,
    Problem,
    Run,
    Starts,
    read_starts,
)
from pyro_geo.summaries.merge._merging import Metrics, Settings, Solution
from pyro_geo.summaries.merge._networks import read_networks
from pyro_geo.summaries.merge._result import MergeResult, task_report
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Tasks,
    Weights,
    of_each,
    read_tasks,
    read_weights,
)

__all__ = ["MergeResult", "frechet_merge"]

_APART = 1e3  # traces of two tasks
_NOTHING = 1e-8  # trace of one
_ROUNDING = 1e-9  # of energies that are equal


def frechet_merge(
    base: StateDict,
    models: Models,
    metrics: Metrics | None = None,
    subspace: Subspace | None = None,
    *,
    forwards: Forward | Mapping[str, Forward] | Sequence[Forward] | None = None,
    inputs: Mapping[str, Tensor] | Sequence[Tensor] | None = None,
    weights: Weights = "uniform",
    kind: Literal["path", "point"] = "path",
    nodes: int = 2,
    iterations: int = 2,
    damping: float | None = None,
    damp_to: Literal["mean", "base"] = "mean",
    refine: Literal["kl"] | None = "kl",
    steps: int = 10,
    starts: Starts = (),
    held_out: float = 0.25,
    scale: float = 1.0,
    likelihood: str = "categorical",
    variance: float = 1.0,
    shared: Callable[[str], bool] | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> MergeResult:
    r"""Merge fine-tuned networks at the point that costs their tasks least.

    .. math:: z^* = \arg\min_z \sum_k w_k (z - z_k)^\top A_k (z - z_k)

    With metrics alone this is algebra, without data. With unlabelled inputs of each
    task, metrics are measured along the paths to the merged network and measured
    again, and the result is then refined by the divergence itself,

    .. math:: \min_z \sum_k w_k E_x\, KL(p_{\theta_k} \,\|\, p_{\theta_0 + B z})

    Where the refinement begins and when it stops is decided by the divergence on inputs
    that are held back; no label is needed. A start that is made from the inputs must be
    given as a function, so that it is made without those held back, too. Metrics that
    are given should be measured on other inputs for the same reason.

    Equal metrics give the mean, metrics on disjoint coordinates the sum of the
    differences, diagonal metrics in all coordinates Fisher merging.

    Args:
        base: the network that all copies started from.
        models: task name to its tensors, or a sequence of them.
        metrics: of :func:`~pyro_geo.summaries.merge.measure`, for each task; measured
            here if None.
        subspace: of :func:`~pyro_geo.summaries.merge.build_subspace`; its defaults if
            None.
        forwards: function of parameters and inputs to outputs, one for all tasks or
            one for each. Each gets the merged tensors and its task's other tensors.
        inputs: unlabelled inputs of each task, `(n, ...)`.
        weights: `"uniform"`, or positive numbers.
        kind: of metrics measured here.
        nodes: of a path.
        iterations: how often path metrics are measured and solved for.
        damping: ridge relative to the mean curvature; 0.01 for networks and none for
            posteriors if None.
        damp_to: where directions that no task cares about go.
        refine: `"kl"` for the refinement, where there are inputs; None for none.
        steps: of the refinement, at most.
        starts: parameters that the refinement may begin from, beside the base, the
            mean and the solution; or functions from inputs to such parameters, as
            :func:`~pyro_geo.summaries.merge.regression_starts` has them. Without a
            subspace or metrics, the best one's directions are added to the subspace.
        held_out: share of each task's inputs that decide on the start and on the number
            of steps, which few inputs would mislead otherwise. The merge is then made
            from all inputs. At 0 the divergence on all inputs decides.
        scale: of the final difference from the base.
        likelihood: of the outputs.
        variance: of the noise, for `"gaussian"`.
        shared: whether the tensor of a name is merged; by default all are.
        chunk_size: directions at once.
        batch_size: inputs at once.

    Returns:
        The merged network with its report. A sum of metrics that is singular is a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`, a metric from another
        subspace a :class:`~pyro_geo.errors.LayoutMismatchError`.

    Warns:
        SaturatedMetricWarning: the metric of one task is nothing beside another's.
        SubspaceResidualWarning: the subspace leaves out more than the merge costs.

    References:
        Lu et al. (2026), Model Merging on Loss Landscape: A Geometry Perspective,
        arXiv 2605.26693; Matena and Raffel (2022), Merging models with
        Fisher-weighted averaging, arXiv 2111.09832.

    Example:
        >>> from pyro_geo.summaries.merge import build_subspace
        >>> base = {"w": torch.zeros(3, 2)}
        >>> models = {"a": {"w": torch.eye(3, 2)}, "b": {"w": -torch.eye(3, 2)}}
        >>> x = torch.randn(40, 3)
        >>> merged = frechet_merge(
        ...     base,
        ...     models,
        ...     subspace=build_subspace(base, models, "span"),
        ...     forwards=lambda p, x: x @ p["w"],
        ...     inputs={"a": x, "b": x},
        ... )
        >>> merged.state_dict["w"].abs().max() < 1e-6
        tensor(True)
    """
    check_choice("kind", kind, ("path", "point"))
    check_choice("damp_to", damp_to, ("mean", "base"))
    check_choice("refine", refine, ("kl", None))
    check_count("iterations", iterations)
    check_count("steps", steps)
    check_count("nodes", nodes)
    check_number("damping", damping)
    check_number("scale", scale, strict=True)
    check_number("held_out", held_out)
    check(held_out < 1, "held_out", held_out, "below 1")
    both = (forwards is None) == (inputs is None)
    check(both, "inputs", "one of forwards and inputs", "both or none")
    measured = metrics is None or len(metrics) > 0
    check(measured, "metrics", "none", "one for each task, or None to measure them")
    given = metrics is not None or inputs is not None
    check(given, "metrics", None, "metrics, or forwards and inputs to measure them")
    refines = inputs is not None and refine is not None
    expected = "none without inputs or with refine=None"
    check(refines or not starts, "starts", f"{len(starts)} of them", expected)
    tasks = read_tasks(base, models, shared=shared)
    first = next(iter(tasks.base.values()))
    like = (
        first.new_zeros((), dtype=torch.float64)
        if subspace is None
        else subspace.center
    )
    share = read_weights(weights, tasks.names).to(like)
    settings = Settings(kind, nodes, iterations, damping, damp_to)
    problem = Problem(
        base,
        tasks,
        share,
        subspace,
        metrics,
        read_starts(starts),
        settings,
        steps,
        shared,
    )
    if forwards is None or inputs is None:
        data = Data({}, {})
    else:
        family = likelihood_named(likelihood, variance)
        sizes = {"chunk_size": chunk_size, "batch_size": batch_size}
        networks = read_networks(tasks, forwards, inputs, family, like, **sizes)
        data = Data(networks, of_each(inputs, tasks.names, "inputs"))
    choice = None
    if not refines:
        run = problem.plain(data)
    elif held_out:
        choice = problem.run(*data.split(held_out)).choice
        run = problem.run(data, None, choice)
    else:
        run = problem.run(data, None)
    _warn(tasks.names, run.found)
    return _result(run, scale, tasks, choice)


def _result(run: Run, scale: float, tasks: Tasks, choice: Choice | None) -> MergeResult:
    """Write the merged network and its report."""
    merge, found, z = run.merge, run.found, scale * run.coords
    merged = merge.subspace.point(z)
    report = task_report(found.metrics, merge.share, merge.objective, z, choice)
    report.attrs.update(
        variance=found.mean.variance,
        residual=found.residual,
        gap=found.mean.gap,
        objective=run.history,
    )
    return MergeResult(
        tasks.complete(merged, merge.share.cpu()),
        z,
        found.mean.variance,
        found.residual,
        found.mean.gap,
        report,
        merge.subspace,
        found.metrics,
        choice,
    )


def _warn(names: Sequence[str], found: Solution) -> None:
    traces = [metric.trace for metric in found.metrics.values()]
    least = names[traces.index(min(traces))]
    if min(traces) < _NOTHING or max(traces) > _APART * min(traces):
        warnings.warn(
            SaturatedMetricWarning(
                "the metric of one task is nothing beside that of another",
                where=f"task {least!r}",
                found=f"traces from {min(traces):.3g} to {max(traces):.3g}",
                expected=f"traces within a factor of {_APART:g} and above {_NOTHING:g}",
                todo="Measure along the path, or refine by the divergence.",
            ),
            stacklevel=3,
        )
    if found.residual > (1 + _ROUNDING) * found.mean.variance:
        warnings.warn(
            SubspaceResidualWarning(
                "the subspace leaves out more than the merge costs",
                found=f"residual energy {found.residual:.3g}",
                expected=f"at most the variance {found.mean.variance:.3g}",
                todo="Increase `rank_fraction`, or add directions by `extra`.",
            ),
            stacklevel=3,
        )
