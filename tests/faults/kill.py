"""Kill runs with SIGKILL at random instants, go on with them, and compare bits.

    python tests/faults/kill.py --kills 50 --seed 0

A run is made in a forked process, killed at a random instant, opened, resumed in
another process, which is killed too, and so on until one comes through; then the next
run begins. Half the kills hit HMC, half DiMS. The last line says how it went, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_geo.density import Target
from pyro_geo.infer import DIMS, HMC, MCMC
from pyro_geo.io.arviz import get_group
from pyro_geo.io.store import check_run, open_run
from tests.cases import effects, numbers

TARGET = Target.from_model(effects, 2 * numbers(4, seed=2), dtype=torch.float64)
KERNELS: dict[str, Any] = {
    "hmc": (lambda: HMC(TARGET, unroll=1), {"num_samples": 500, "warmup_steps": 60}),
    "dims": (
        lambda: DIMS(TARGET, alpha=0.0, anchor_steps=200, num_lanes=8),
        {"num_samples": 64},
    ),
}


def make(name: str, store: Path | None) -> MCMC:
    kernel, options = KERNELS[name]
    settings = {"num_chains": 4, "seed": 3, "progress_bar": False, "compile": False}
    return MCMC(kernel(), store=store, **settings, **options)


def forked(name: str, store: Path) -> int:
    """Run or resume in another process, which knows all graphs already."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        warnings.simplefilter("ignore")
        fit = make(name, store)
        fit.resume() if store.exists() else fit.run()
        status = 0
    finally:
        os._exit(status)


def prefix(whole: Any, store: Path) -> int:
    """Open a store; what it holds must be the beginning of the whole run."""
    idata = open_run(store)
    found = get_group(idata, "posterior")
    assert found is not None
    draws = found.sizes["draw"]
    assert draws == check_run(store)["num_draws"]
    for group in ("posterior", "sample_stats"):
        found, expected = get_group(idata, group), get_group(whole, group)
        if draws:
            assert found is not None
            assert expected is not None
            for key, array in expected.data_vars.items():
                np.testing.assert_array_equal(
                    found[key].values, array.values[:, :draws]
                )
    return draws


def kill(kills: int, seed: int) -> dict[str, Any]:
    """Kill so many times, half of them on each kernel."""
    rng = random.Random(seed)
    report: dict[str, Any] = {"kills": 0, "opened": 0, "before": 0, "runs": 0}
    report |= {"resumed_equal": 0, "draws_at_kill": {}}
    warnings.simplefilter("ignore")
    for name, (_, options) in KERNELS.items():
        fit = make(name, None).run()
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            make(name, Path(folder) / "run.zarr").run()
            length = time.perf_counter() - begin
        print(f"{name}: {length:.2f} s a run", file=sys.stderr)
        whole = fit.to_arviz(log_likelihood=False)
        left = kills // len(KERNELS)
        found: list[int] = []
        while left:
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / "run.zarr"
                while True:
                    child = forked(name, store)
                    if left:
                        time.sleep(rng.uniform(0.0, 0.8 * length))
                        os.kill(child, signal.SIGKILL)
                    _, status = os.waitpid(child, 0)
                    if not os.WIFSIGNALED(status):
                        assert os.WEXITSTATUS(status) == 0, "the run itself failed"
                        break
                    left -= 1
                    report["kills"] += 1
                    if not store.exists():
                        report["before"] += 1
                        continue
                    found.append(prefix(whole, store))
                    report["opened"] += 1
                assert prefix(whole, store) == options["num_samples"]
                again = make(name, store)
                again.resume()
                assert torch.equal(again.positions, fit.positions)
                assert again.num_gradients == fit.num_gradients
                report["runs"] += 1
                report["resumed_equal"] += 1
        report["draws_at_kill"][name] = sorted(found)
    return report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(kill(chosen.kills, chosen.seed)))


if __name__ == "__main__":
    sys.exit(main())
