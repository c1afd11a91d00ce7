"""Merge networks fine-tuned to several tasks, and say beforehand what it will cost.

    python inference/merge_models.py models/digit_tasks.py --out run/

MODEL is a file that defines `model(x, y)`, `logits(params, x)`, `data(seed)` and
`tasks(purpose, seed)`, the inputs and the labels of each task. The forecast sees the
inputs of the test without their labels.
"""

import argparse
import runpy
from pathlib import Path
from typing import Any

import torch

from pyro_geo.density import Target
from pyro_geo.evaluation.baselines import fan_in_starts, map_estimate
from pyro_geo.summaries import merge


def main() -> None:
    parser = argparse.ArgumentParser(description="Merge fine-tuned networks")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--steps", type=int, default=200, help="of each fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="merge_report", help="folder of the report")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    file, seed = runpy.run_path(arguments.model), arguments.seed
    target = Target.from_model(file["model"], *file["data"](seed), compile=False)

    def fit(target: Target, start: torch.Tensor, rate: float) -> torch.Tensor:
        steps = {"num_steps": arguments.steps, "polish_steps": 0}
        return map_estimate(target, **steps, learning_rate=rate, initial=start)

    start = fit(target, fan_in_starts(target, 1, seed=seed), 0.02)
    base, models = target.constrain(start[0]), {}
    x, y = file["tasks"]("fitting", seed)
    for task in x:
        q = fit(target.with_data(x[task], y[task]), start, 0.005)
        models[task] = target.constrain(q[0])
    known: dict[str, Any] = {"forwards": file["logits"]}
    x, _ = file["tasks"]("merging", seed)
    merged = {name: getattr(merge, name)(base, models) for name in ("average", "ties")}
    merged["EpiMer"] = merge.frechet_merge(base, models, inputs=x, **known).state_dict
    x, y = file["tasks"]("validation", seed)
    known["calibrations"] = merge.calibrate(base, models, inputs=x, labels=y, **known)
    found = merge.MergeComparison(base, models, merged, **known)
    x, y = file["tasks"]("test", seed)
    print("Forecast: points of accuracy to lose")
    print(found.forecast(x).round(1).to_string())
    print("\nOutcome: points lost")
    print(found.outcome(x, y).round(1).to_string())
    print("\nReport:", found.report(Path(arguments.out) / "report.html"))


if __name__ == "__main__":
    main()
