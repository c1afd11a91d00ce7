"""Delete data from a posterior or from a network, and report what was done.

    python inference/unlearning.py models/forgotten_digit.py --certify 1 1e-5

MODEL is a file that defines `model(...)`, `data()` and `withdrawn()`, the rows that go.
With `network()`, a module, this is trained in place of sampling the model.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo.infer import HMC, MCMC
from pyro_geo.unlearning import plan_forget, train_on
from pyro_geo.unlearning.training import OPTIMISERS

row_loss = torch.nn.CrossEntropyLoss(reduction="none")


def main() -> None:
    parser = argparse.ArgumentParser(description="Delete data from a fit")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--samples", type=int, default=500, help="draws per chain")
    parser.add_argument("--warmup", type=int, help="steps per chain")
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--optimizer", choices=[*OPTIMISERS], default="AdamW")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--certify", type=float, nargs=2, help="epsilon and delta")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="unlearning_report", help="report's folder")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    file, seed = runpy.run_path(arguments.model), arguments.seed
    data, options = file["data"](), {}
    if "network" in file:
        fit = file["network"]()
        optimizer = OPTIMISERS[arguments.optimizer](fit.parameters())
        train_on(fit, optimizer, data, row_loss, num_epochs=arguments.epochs, seed=seed)
        options = {"loss": row_loss, "optimizer": optimizer}
        options |= {"options": {"num_epochs": arguments.epochs}}
        options |= {"certify": arguments.certify and tuple(arguments.certify)}
    else:
        sizes = arguments.samples, arguments.warmup, arguments.chains
        fit, data = MCMC(HMC(file["model"]), *sizes, seed=seed).run(*data), ()
    plan = plan_forget(fit, *data, forget=file["withdrawn"](), seed=seed, **options)
    print(plan.explain())
    less = plan.run()
    print(f"\nDone: {less.method}")
    if less.certificate is not None:
        print(less.certificate.text)
    print("\nReport:", less.report(Path(arguments.out) / "report.html"))


if __name__ == "__main__":
    main()
