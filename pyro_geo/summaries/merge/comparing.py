"""Several merged networks side by side: what each will cost, and did cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_geo._showing import Shown
from pyro_geo.checks import check
from pyro_geo.citations import citation
from pyro_geo.geometry.projection import Forward
from pyro_geo.io.reports import Bars, Scatter, page_title, write_report
from pyro_geo.summaries.merge._result import MergeResult
from pyro_geo.summaries.merge._tasks import Models, StateDict
from pyro_geo.summaries.merge.calibration import Calibration
from pyro_geo.summaries.merge.forecasts import (
    beliefs_of,
    forecast_believed,
    outcome,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["MergeComparison"]


class MergeComparison(Shown):
    r"""Forecast what several merged networks cost each task, and then count it.

    Numbers are the accuracy that a task loses, in points, where its own network is
    replaced by a merged one. A forecast needs no labels, so that the merge to use is
    chosen before anything is tested.

    Args:
        base: the network that all copies started from.
        models: task name to its tensors, or a sequence of them.
        candidates: name to merged tensors, of any methods.
        forwards: one function of parameters and inputs to logits, or one for each task.
        calibrations: of :func:`~pyro_geo.summaries.merge.calibrate`; each network is
            believed as it is if None.
        shared: whether the tensor of a name is merged; by default all are.
        batch_size: inputs at once.

    Example:
        >>> import torch
        >>> base = {"w": torch.zeros(2, 2)}
        >>> models = {"a": {"w": torch.eye(2)}, "b": {"w": -torch.eye(2)}}
        >>> candidates = {"all for a": models["a"]}
        >>> found = MergeComparison(
        ...     base, models, candidates, forwards=lambda p, x: x @ p["w"]
        ... )
        >>> x = torch.tensor([[3.0, 0.0]] * 10)
        >>> table = found.forecast({"a": x, "b": x})
        >>> table["all for a"].round(1).tolist()  # b falls from 95 % to 5 %
        [0.0, 90.5]
    """

    def __init__(
        self,
        base: StateDict,
        models: Models,
        candidates: Mapping[str, StateDict],
        *,
        forwards: Forward | Mapping[str, Forward],
        calibrations: Mapping[str, Calibration] | None = None,
        shared: Callable[[str], bool] | None = None,
        batch_size: int | None = None,
    ) -> None:
        check(bool(candidates), "candidates", "none", "at least one merged network")
        self.base, self.models, self.candidates = base, models, dict(candidates)
        self.calibrations = calibrations
        self._known: dict[str, Any] = {
            "forwards": forwards,
            "shared": shared,
            "batch_size": batch_size,
        }
        self.forecasts: dict[str, xr.Dataset] = {}
        self.outcomes: dict[str, xr.Dataset] = {}

    def _shown_facts(self) -> dict[str, object]:
        state = "counted" if self.outcomes else "forecast" if self.forecasts else "open"
        merges = ", ".join(self.candidates)
        return {"merges": merges, "tasks": len(self.models), "losses": state}

    def _shown_table(self) -> pd.DataFrame | None:
        if self.outcomes:
            return _points(self.outcomes, "accuracy_loss")
        if self.forecasts:
            return _points(self.forecasts, "predicted_accuracy_loss")
        return None

    def forecast(self, inputs: Mapping[str, Tensor]) -> pd.DataFrame:
        """Forecast the loss of each task from unlabelled inputs.

        Args:
            inputs: of each task, `(n, ...)`.

        Returns:
            A row for each task and a column for each candidate, in points.
        """
        known: dict[str, Any] = {"inputs": inputs, **self._known}
        beliefs = beliefs_of(self.models, self.base, self.calibrations, **known)
        self.forecasts = {
            name: forecast_believed(self.models, candidate, beliefs, **known)
            for name, candidate in self.candidates.items()
        }
        return _points(self.forecasts, "predicted_accuracy_loss")

    def outcome(
        self, inputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]
    ) -> pd.DataFrame:
        """Count the loss of each task.

        Args:
            inputs: of each task, `(n, ...)`.
            labels: of these inputs, `(n,)`.

        Returns:
            A row for each task and a column for each candidate, in points.
        """
        self.outcomes = {
            name: outcome(
                self.models, candidate, inputs=inputs, labels=labels, **self._known
            )
            for name, candidate in self.candidates.items()
        }
        return _points(self.outcomes, "accuracy_loss")

    def report(self, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
        """Write a page: forecast against outcome, and the tasks' accuracies.

        Args:
            path: the file to write.
            title: heading of the page; named after merges and tasks if None.

        Returns:
            The path.
        """
        check(bool(self.forecasts), "report", "no forecast", "a forecast before it")
        predicted = _points(self.forecasts, "predicted_accuracy_loss")
        tables = {"Forecast: points that each task loses": predicted}
        scatters, bars = [], []
        if self.outcomes:
            lost = _points(self.outcomes, "accuracy_loss")
            tables["Outcome: points that each task lost"] = lost
            scatters.append(_against(predicted, lost))
            accuracy = _points(self.outcomes, "accuracy")
            bars = [_bars(accuracy, name) for name in self.candidates]
            own = _points(self.outcomes, "task_accuracy")
            text = "Accuracy of each task's own network."
            bars.append(Bars(text, own.iloc[:, 0].to_dict(), "accuracy, %"))
        else:
            bars = [
                Bars(f"Forecast for {name}.", predicted[name].to_dict(), "points lost")
                for name in self.candidates
            ]
        merges, tasks = ", ".join(self.candidates), f"{len(predicted)} tasks"
        facts = {"tasks": ", ".join(map(str, predicted.index)), "merges": merges}
        return write_report(
            None,
            path,
            title=title or page_title(f"Merging by {merges}", tasks),
            facts=facts,
            citation=citation(MergeResult),
            tables={caption: table.round(1) for caption, table in tables.items()},
            scatters=scatters,
            bars=bars,
        )


def _points(found: Mapping[str, xr.Dataset], name: str) -> pd.DataFrame:
    """One number of each task and candidate, in percent."""
    import pandas as pd

    columns = {key: 100 * table[name].to_series() for key, table in found.items()}
    return pd.DataFrame(columns)


def _against(predicted: pd.DataFrame, lost: pd.DataFrame) -> Scatter:
    return Scatter(
        "Points of accuracy that each task loses: a point for each task and merge. On "
        "the line the forecast is the outcome.",
        {
            name: (predicted[name].tolist(), lost[name].tolist())
            for name in predicted.columns
        },
        "forecast, points",
        "outcome, points",
    )


def _bars(accuracy: pd.DataFrame, name: str) -> Bars:
    return Bars(f"Accuracy of {name}.", accuracy[name].to_dict(), "accuracy, %")
