"""Move a guide to shifted data, and report what each site has given up for them.

    python inference/finetune.py models/shifted_digits.py --out run/

MODEL is a file that defines `shifted()`, few data of another kind, and `turned(x)`,
which shifts inputs, beside `data()` and `held_out()`. An AutoNormal is fitted to the
data and moved to the shifted ones: by Adam, by Adam with selective projection decay,
and with its posterior as the prior.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo.summaries.finetuning import finetune


def main() -> None:
    parser = argparse.ArgumentParser(description="Move a guide to shifted data")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--spd", type=float, default=1.0, help="strength of the decay")
    parser.add_argument("--steps", type=int, default=1000, help="of each fit")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="finetune_report", help="folder of the report")
    arguments = parser.parse_args()

    file = runpy.run_path(arguments.model)
    x, y = file["held_out"]()
    turned = file["turned"](x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    tests = {
        "before the shift": (x, y),
        "shifted": (turned, y),
        "shifted, with noise": (turned + 0.15 * noise, y),
    }
    found = finetune(
        file["model"],
        file["data"](),
        file["shifted"](),
        tests,
        num_steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        spd=arguments.spd,
        seed=arguments.seed,
    )
    print(found.table.round(3).to_string())
    print("\nMoved, in standard deviations of the posterior before the shift")
    print(found.moved().round(3).to_string())
    print("\nReport:", found.report(Path(arguments.out) / "report.html"))


if __name__ == "__main__":
    main()
