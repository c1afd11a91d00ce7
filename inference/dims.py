"""Sample the minima of a model's loss with DiMS and write a report.

    python inference/dims.py models/eight_schools.py --samples 100 --chains 4 --out run/

MODEL is a file that defines `model(...)` and `data()`; with `held_out()` the draws are
scored beside the MAP, a deep ensemble and the linearised Laplace approximation.
"""

import argparse
import runpy
from pathlib import Path

from pyro_geo import Target
from pyro_geo.evaluation.comparison import predict, score_table
from pyro_geo.evaluation.pictures import reliability
from pyro_geo.infer import DIMS, MCMC


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample the minima of a model's loss")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--samples", type=int, default=100, help="draws per anchor")
    parser.add_argument("--chains", type=int, default=1, help="number of anchors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="dims_report", help="folder of the report")
    arguments = parser.parse_args()

    file = runpy.run_path(arguments.model)
    options = file["options"]() if "options" in file else {}
    fit = MCMC(
        DIMS(file["model"], **options),
        num_samples=arguments.samples,
        num_chains=arguments.chains,
        seed=arguments.seed,
    ).run(*file["data"]())
    print(fit.summary().head(20).to_string())

    tables, curves = {}, []
    if "held_out" in file:
        test = Target.from_model(file["model"], *file["held_out"]())
        q = fit.positions.flatten(0, 1)
        scores = score_table(fit.target, test, {"DiMS": q}, seed=arguments.seed)
        scores.loc["DiMS", "cpu_s"] = fit.cpu_seconds
        tables["Held-out scores"] = scores.round(4)
        print("\nHeld-out scores (nll and calibration: smaller is better)")
        print(scores.round(4).to_string())
        if "calibration" in scores:
            curves = [reliability({"DiMS": predict(test, q)})]
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    print("\nReport:", fit.report(folder / "report.html", tables, curves))


if __name__ == "__main__":
    main()
