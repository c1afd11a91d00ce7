"""Merging of models: one network in place of several, with a forecast of its cost.

Modules:
    subspaces: where a merged network may lie.
    metrics: the curvature of each task, measured once.
    starts: where a merge may begin, made from inputs.
    frechet: the merged network.
    posteriors: normal posteriors as tasks.
    halves: whether curvature helps.
    calibration: how far to believe each task's model.
    forecasts: what a merged network will cost each task, and did cost.
    comparing: several merged networks side by side.
    baselines: the published methods, by their names.
    statistics: what some of them measure once.
    checkpoints: files of networks, merged layer by layer.
"""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer

if TYPE_CHECKING:
    from pyro_geo.summaries.merge.baselines import (
        average,
        dare,
        fisher,
        gram,
        iso_c,
        iso_cts,
        larv,
        regmean,
        regmean_pp,
        task_arithmetic,
        ties,
        tsv_merge,
        wudi,
    )
    from pyro_geo.summaries.merge.calibration import Calibration, calibrate
    from pyro_geo.summaries.merge.checkpoints import (
        Checkpoint,
        merge_checkpoints,
        open_checkpoint,
        write_checkpoint,
    )
    from pyro_geo.summaries.merge.comparing import MergeComparison
    from pyro_geo.summaries.merge.forecasts import (
        forecast,
        forecast_from_metrics,
        outcome,
    )
    from pyro_geo.summaries.merge.frechet import MergeResult, frechet_merge
    from pyro_geo.summaries.merge.halves import CurvatureGain, curvature_gain
    from pyro_geo.summaries.merge.metrics import TaskMetric, measure
    from pyro_geo.summaries.merge.posteriors import PosteriorTasks, posterior_tasks
    from pyro_geo.summaries.merge.starts import regression_starts
    from pyro_geo.summaries.merge.statistics import (
        LayerStatistics,
        fisher_diagonal,
        layer_statistics,
    )
    from pyro_geo.summaries.merge.subspaces import build_subspace

__all__ = [
    "Checkpoint",
    "merge_checkpoints",
    "open_checkpoint",
    "write_checkpoint",
    "LayerStatistics",
    "fisher_diagonal",
    "layer_statistics",
    "average",
    "dare",
    "fisher",
    "gram",
    "iso_c",
    "iso_cts",
    "larv",
    "regmean",
    "regmean_pp",
    "task_arithmetic",
    "ties",
    "tsv_merge",
    "wudi",
    "Calibration",
    "CurvatureGain",
    "MergeComparison",
    "MergeResult",
    "PosteriorTasks",
    "TaskMetric",
    "build_subspace",
    "calibrate",
    "curvature_gain",
    "forecast",
    "forecast_from_metrics",
    "frechet_merge",
    "measure",
    "outcome",
    "posterior_tasks",
    "regression_starts",
]

__getattr__ = importer(
    globals(),
    {
        "Calibration": "pyro_geo.summaries.merge.calibration",
        "Checkpoint": "pyro_geo.summaries.merge.checkpoints",
        "CurvatureGain": "pyro_geo.summaries.merge.halves",
        "LayerStatistics": "pyro_geo.summaries.merge.statistics",
        "MergeComparison": "pyro_geo.summaries.merge.comparing",
        "MergeResult": "pyro_geo.summaries.merge.frechet",
        "PosteriorTasks": "pyro_geo.summaries.merge.posteriors",
        "TaskMetric": "pyro_geo.summaries.merge.metrics",
        "average": "pyro_geo.summaries.merge.baselines",
        "build_subspace": "pyro_geo.summaries.merge.subspaces",
        "calibrate": "pyro_geo.summaries.merge.calibration",
        "curvature_gain": "pyro_geo.summaries.merge.halves",
        "dare": "pyro_geo.summaries.merge.baselines",
        "fisher": "pyro_geo.summaries.merge.baselines",
        "fisher_diagonal": "pyro_geo.summaries.merge.statistics",
        "forecast": "pyro_geo.summaries.merge.forecasts",
        "forecast_from_metrics": "pyro_geo.summaries.merge.forecasts",
        "frechet_merge": "pyro_geo.summaries.merge.frechet",
        "gram": "pyro_geo.summaries.merge.baselines",
        "iso_c": "pyro_geo.summaries.merge.baselines",
        "iso_cts": "pyro_geo.summaries.merge.baselines",
        "larv": "pyro_geo.summaries.merge.baselines",
        "layer_statistics": "pyro_geo.summaries.merge.statistics",
        "measure": "pyro_geo.summaries.merge.metrics",
        "merge_checkpoints": "pyro_geo.summaries.merge.checkpoints",
        "open_checkpoint": "pyro_geo.summaries.merge.checkpoints",
        "outcome": "pyro_geo.summaries.merge.forecasts",
        "posterior_tasks": "pyro_geo.summaries.merge.posteriors",
        "regmean": "pyro_geo.summaries.merge.baselines",
        "regmean_pp": "pyro_geo.summaries.merge.baselines",
        "regression_starts": "pyro_geo.summaries.merge.starts",
        "task_arithmetic": "pyro_geo.summaries.merge.baselines",
        "ties": "pyro_geo.summaries.merge.baselines",
        "tsv_merge": "pyro_geo.summaries.merge.baselines",
        "write_checkpoint": "pyro_geo.summaries.merge.checkpoints",
        "wudi": "pyro_geo.summaries.merge.baselines",
    },
)
