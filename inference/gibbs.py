"""Sample a Gibbs posterior, certify its risk and write a report.

    python inference/gibbs.py models/relu_classifier.py --particles 128 --out run/

MODEL is a file that defines `model(...)`, which returns a prediction, the loss of the
posterior `loss(prediction, y)`, and `data()`, whose last tensor is `y`. It may define
`risk(prediction, y)` in [0, 1] to certify; without it there is no certificate.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo.infer import GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates.report import certificate_report


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample and certify")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument(
        "--betas", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0], metavar="BETA"
    )
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="gibbs_report", help="folder of the report")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)
    file = runpy.run_path(arguments.model)
    data = file["data"]()
    posterior = GibbsPosterior(
        GibbsModel(file["model"], file["loss"]),
        betas=arguments.betas,
        num_particles=arguments.particles,
        seed=arguments.seed,
    ).run(data, data[-1])
    tables, curves = {"Temperatures": posterior.path().round(3)}, ()
    if "risk" in file:
        test = file["held_out"]() if "held_out" in file else None
        _, tables, curves = certificate_report(
            posterior,
            file["risk"],
            (data, data[-1]),
            delta=arguments.delta,
            test=(test, test[-1]) if test else None,
            seed=arguments.seed,
        )
    for title, table in tables.items():
        print(f"\n{title}\n{table.tail(12).to_string(index=False)}")
    report = Path(arguments.out) / "report.html"
    print("\nReport:", posterior.report(report, tables, curves))


if __name__ == "__main__":
    main()
