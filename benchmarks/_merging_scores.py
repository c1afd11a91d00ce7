"""Score merges of problems: accuracies, and forecasts of what they cost each task.

Each task's network is calibrated on labelled validation images. Forecasts are held
against the accuracy that is lost on the test images: one that sees these images without
their labels, and one that sees validation images alone. How far two samples of images
differ bounds what the latter can reach: the loss counted on the labels of the
validation images stands beside it.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from _bench import Row
from _merging_methods import CEILINGS, GRAM, OURS, PRETRAINED, Merge, merges
from _merging_problems import Problem, logits

from pyro_geo.summaries.merge import calibrate, forecast, outcome
from pyro_geo.summaries.merge.calibration import Calibration

if TYPE_CHECKING:
    import xarray as xr

NEAR = 2.0  # points
FORECASTS = ("test images", "other images", "other images, direct", "other labels")
BASES = (PRETRAINED, *CEILINGS, GRAM)


class Score(NamedTuple):
    """One merge of one problem, by task: points, and nats for divergences."""

    method: str
    accuracy: dict[str, float]
    lost: dict[str, float]
    forecasts: dict[str, dict[str, float]]
    kl: dict[str, float]
    predicted_kl: dict[str, float]
    seconds: float


def scores(problem: Problem, quick: bool, most: int | None = None) -> Iterator[Score]:
    """Score every merge, after the ceilings.

    Args:
        problem: one repetition.
        quick: whether the smallest cases do.
        most: images of each task that forecasts see and settings are chosen on; all
            if None.
    """
    own = problem.own("test")
    ceilings = (own, problem.accuracy(problem.joint, "test"))
    for method, accuracy in zip(CEILINGS, ceilings, strict=True):
        yield Score(method, accuracy, {}, {}, {}, {}, 0.0)
    validation = {task: x for task, (x, _) in problem.validation.items()}
    labels = {task: y for task, (_, y) in problem.validation.items()}
    found = calibrate(
        problem.base, problem.models, forwards=logits, inputs=validation, labels=labels
    )
    few = problem if most is None else problem.first(most)
    for merge in merges(few, quick):
        score = scored(few, merge, found)
        yield score._replace(accuracy=problem.accuracy(merge.params, "test"))


def scored(
    problem: Problem, merge: Merge, calibrations: Mapping[str, Calibration]
) -> Score:
    """Forecast what a merge costs, then count it."""
    models, params = problem.models, merge.params
    unseen = {task: x for task, (x, _) in problem.validation.items()}
    inputs = {task: x for task, (x, _) in problem.test.items()}
    known: dict[str, Any] = {
        "forwards": logits,
        "base": problem.base,
        "calibrations": calibrations,
    }
    path = forecast(models, params, inputs=inputs, **known)
    tables = {
        "test images": path,
        "other images": forecast(models, params, inputs=unseen, **known),
        "other images, direct": forecast(
            models, params, inputs=unseen, how="direct", **known
        ),
    }
    predicted = {
        name: points(table["predicted_accuracy_loss"]) for name, table in tables.items()
    }
    labels = {task: y for task, (_, y) in problem.validation.items()}
    counted = outcome(models, params, forwards=logits, inputs=unseen, labels=labels)
    predicted["other labels"] = points(counted["accuracy_loss"])
    labels = {task: y for task, (_, y) in problem.test.items()}
    found = outcome(models, params, forwards=logits, inputs=inputs, labels=labels)
    return Score(
        merge.method,
        points(found["accuracy"]),
        points(found["accuracy_loss"]),
        predicted,
        by_task(found["kl"]),
        by_task(path["predicted_kl"]),
        merge.seconds,
    )


def show(title: str, score: Score) -> None:
    """Print the accuracies of a merge."""
    values = score.accuracy.values()
    mean = statistics.mean(values)
    print(f"{title}: {score.method} {mean:.1f}, worst {min(values):.1f}", flush=True)


def by_task(table: "xr.DataArray") -> dict[str, float]:
    """Numbers by task."""
    return dict(zip(table["task"].values.tolist(), table.values.tolist(), strict=True))


def points(table: "xr.DataArray") -> dict[str, float]:
    """Percentages by task."""
    return {task: 100 * value for task, value in by_task(table).items()}


def rows_of(case: str, found: Sequence[Score], seeds: int) -> list[Row]:
    """Rows of a case, from the scores of all its repetitions."""
    rows: list[Row] = []
    for method in dict.fromkeys(score.method for score in found):
        own = [score for score in found if score.method == method]
        means = [statistics.mean(score.accuracy.values()) for score in own]
        worst = [min(score.accuracy.values()) for score in own]
        cpu = [score.seconds for score in own]
        for metric, values, unit in (
            ("mean accuracy", means, "%"),
            ("worst accuracy", worst, "%"),
            ("processor time", cpu, "s"),
        ):
            rows.append(row(case, method, metric, values, unit, seeds))
    merged = [score for score in found if score.forecasts]
    for name in FORECASTS:
        pairs = [
            (score.forecasts[name][task], lost)
            for score in merged
            for task, lost in score.lost.items()
        ]
        near = [float(abs(a - b) <= NEAR) for a, b in pairs]
        errors = [abs(a - b) for a, b in pairs]
        common = {"case": case, "method": f"forecast, {name}", "seeds": seeds}
        for metric, value, unit in (
            ("Spearman", spearman(pairs), ""),
            ("within 2 points", statistics.mean(near), ""),
            ("median error", statistics.median(errors), "points"),
            ("merges x tasks", len(pairs), ""),
        ):
            rows.append({**common, "metric": metric, "value": value, "unit": unit})
    kls = [(s.predicted_kl[t], kl) for s in merged for t, kl in s.kl.items()]
    ratio = statistics.median(abs(a / b - 1) for a, b in kls)
    common = {"case": case, "method": "forecast, test images", "seeds": seeds}
    rows.append({**common, "metric": "KL Spearman", "value": spearman(kls), "unit": ""})
    rows.append(
        {**common, "metric": "KL relative error", "value": ratio, "unit": "median"}
    )
    return rows


def row(
    case: str, method: str, metric: str, values: Sequence[float], unit: str, seeds: int
) -> Row:
    """A mean over repetitions with its standard error."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "case": case,
        "method": method,
        "metric": metric,
        "value": statistics.mean(values),
        "sd": sd,
        "standard_error": sd / len(values) ** 0.5,
        "seeds": seeds,
        "unit": unit,
    }


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Rank correlation, ties at their mean rank."""
    from scipy.stats import spearmanr

    first, second = zip(*pairs, strict=True)
    result: Any = spearmanr(first, second)
    return float(result.statistic)


def ratios_of(case: str, name: str, rows: Sequence[Row]) -> dict[str, float]:
    """Headlines of a case under a short name."""
    values = {(r["method"], r["metric"]): r["value"] for r in rows if r["case"] == case}
    if (OURS, "mean accuracy") not in values:
        return {}
    methods = {method for method, metric in values if metric == "mean accuracy"}
    published = [m for m in methods if m not in BASES and not m.startswith("EpiMer")]
    found: dict[str, float] = {}
    for short in ("mean", "worst"):
        metric = f"{short} accuracy"
        own = values[OURS, metric]
        best = max(values[method, metric] for method in published)
        found[f"accuracy/{name}/{short}"] = own
        found[f"accuracy_over_best_baseline/{name}/{short}"] = own - best
        found[f"accuracy_over_gram/{name}/{short}"] = own - values[GRAM, metric]
    for suffix, method in (
        ("", "test images"),
        ("_other_images", "other images"),
        ("_other_labels", "other labels"),
    ):
        for key, metric in (
            ("forecast_spearman", "Spearman"),
            ("forecast_within_2_points", "within 2 points"),
        ):
            found[f"{key}/{name}{suffix}"] = values[f"forecast, {method}", metric]
    return found
