"""One run in a new process: `_auto_compile_child.py MODEL CHAINS DRAWS WARMUP COMPILE`.

Prints its processor seconds, those of the processes it started included.
"""

import json
import sys
from typing import Any

import torch
from _auto_compile_models import MODELS

from pyro_geo._process import Seconds
from pyro_geo.infer import HMC, MCMC

MODES: dict[str, Any] = {"auto": "auto", "True": True, "False": False}


def main() -> None:
    """Sample, and print what it took."""
    name, chains, draws, warmup, compile = sys.argv[1:]
    torch.set_num_threads(1)
    model, data = MODELS[name]()
    fit = MCMC(
        HMC(model),
        int(draws),
        None if warmup == "default" else int(warmup),
        int(chains),
        seed=1,
        compile=MODES[compile],
        progress_bar=False,
    )
    start = Seconds.now()
    fit.run(*data)
    spent = Seconds.now() - start
    largest = max(lifted.size for lifted in fit.target._lifted.values())
    found = {"run": spent.cpu, "rung": fit.rung, "operations": largest.operations}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
