"""Time value and gradient of the filter beside a lean scan in JAX and beside pyhgf.

Two levels, continuous inputs, double precision; all in one process for each number of
threads, interleaved. The scan in JAX is the hardest peer: the same algebra as ours,
jitted, not unrolled, as eight steps in one took minutes to compile. XLA of jax 0.10
spends some microseconds on each step; jaxlib 0.4 spent less. pyhgf 0.2.12 is what
Python 3.11 installs; its gradient leaves out the coupling and the precision of the
input. Compile times are printed apart.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from _bench import ROOT, Row, Timing, interleaved, measure_parts, options
from _hmc_common import installed, missing

from pyro_geo._process import Seconds
from pyro_geo.filtering.hgf.compiled.operator import compiled_total
from pyro_geo.filtering.hgf.parameters import HGFInputs, HGFParameters

LANES = (1, 16, 64, 1024)
STEPS = (1000, 10_000)
PACKAGES = ("torch", "numpy", "numba", "jax", "jaxlib", "pyhgf")
PEERS = {"jax_scan": "jax", "pyhgf": "pyhgf"}
# pyhgf takes minutes on these
TOO_LONG = 16 * 10_000


def case(lanes: int, steps: int) -> tuple[dict[str, Any], np.ndarray]:
    """Draw parameters `(level, lanes)` and inputs `(steps, lanes)`."""
    rng = np.random.default_rng(lanes)
    parameters = {
        "omega": rng.normal(-2.5, 0.5, (2, lanes)),
        "mu0": rng.normal(0, 0.3, (2, lanes)),
        "pi0": np.exp(rng.normal(0, 0.3, (2, lanes))),
        "kappa": np.exp(rng.normal(0, 0.1, lanes)),
        "pi": np.exp(rng.normal(0, 0.3, lanes)),
    }
    return parameters, 0.3 * rng.normal(size=(steps, lanes)).cumsum(0)


def ours(parameters: dict[str, Any], u: np.ndarray) -> Callable[[], Any]:
    """Return a call of our filter for tensors, autograd included."""
    p = {name: torch.tensor(x.T.copy()) for name, x in parameters.items()}
    free = [p["omega"], p["kappa"][:, None], p["mu0"], p["pi0"], p["pi"]]
    zero = torch.zeros_like(p["omega"])
    series = torch.tensor(u.T.copy())
    inputs = HGFInputs(series, torch.ones_like(series).bool(), torch.ones_like(series))

    def call() -> Any:
        omega, kappa, mu0, pi0, pi = leaves = [x.detach() for x in free]
        for leaf in leaves:
            leaf.requires_grad_()
        levels = omega, kappa, mu0, pi0, zero, zero + 1, zero[:, :1], pi
        total = compiled_total(
            HGFParameters(*levels),
            inputs,
            kind="continuous",
            update="unbounded",
            value_coupled=False,
        ).sum()
        return total, torch.autograd.grad(total, leaves)

    return call


def first_call(fn: Callable[[], Any]) -> tuple[Any, Timing]:
    """Call once; return the result and the seconds that it took."""
    before = Seconds.now()
    found = fn()
    spent = Seconds.now() - before
    return found, Timing(spent.cpu, spent.wall, 0.0)


def measure(lanes: int, steps: int, quick: bool) -> list[Row]:
    """Time all methods on one case in this process."""
    parameters, u = case(lanes, steps)
    functions: dict[str, Callable[[], Any]] = {"pyro_geo": ours(parameters, u)}
    if installed("jax"):
        peers = importlib.import_module("_hgf_jax")
        functions["jax_scan"] = peers.value_and_grad(parameters, u)
        if installed("pyhgf") and lanes * steps <= TOO_LONG:
            functions["pyhgf"] = peers.pyhgf_value_and_grad(parameters, u)
    rows: list[Row] = []
    values = {}
    for name, fn in functions.items():
        found, spent = first_call(fn)
        values[name] = float(found[0])
        label = f"T = {steps}, B = {lanes}"
        rows.append(row(label, name, "first call", spent))
    times = interleaved(
        functions, repetitions=1 if quick else 5, seconds=0.0 if quick else 0.1
    )
    for name, spent in times.items():
        new = row(f"T = {steps}, B = {lanes}", name, "value and gradient", spent)
        off = abs(values[name] / values["pyro_geo"] - 1)
        if off > 1e-6:
            new["note"] = f"differs by {off:.0e}"
        rows.append(new)
    return rows


def row(label: str, method: str, metric: str, spent: Timing) -> Row:
    """Make the row of a timing in milliseconds."""
    return {
        "case": label,
        "method": method,
        "metric": f"{metric}, processor",
        "value": 1e3 * spent.cpu,
        "sd": 1e3 * spent.sd,
        "wall": 1e3 * spent.wall,
        "unit": "ms",
    }


def run_child(threads: int, quick: bool) -> None:
    """Measure all cases on some threads and print the rows (used as a child)."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(cores[:threads]))
    torch.set_num_threads(threads)
    if installed("jax"):
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    for steps in STEPS[:1] if quick else STEPS:
        for lanes in LANES[:2] if quick else LANES:
            if quick:
                steps = 100
            for new in measure(lanes, steps, quick):
                print(json.dumps(new | {"threads": threads}), flush=True)


def child(threads: int, quick: bool) -> list[Row]:
    """Run `run_child` in a new process."""
    code = f"import hgf_speed; hgf_speed.run_child({threads}, {quick})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT / "benchmarks",
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/benchmarks"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    for new in rows:
        new["method"] += "" if threads == 1 else f", {threads} threads"
    return rows


def ratios(rows: list[Row]) -> dict[str, float]:
    """Compare wall seconds, theirs over ours: the same threads on both sides.

    One by one are our own series, each in a call of its own.
    """
    found: dict[str, float] = {}
    timed = {
        (r["case"], r["method"]): r["wall"]
        for r in rows
        if r["metric"].startswith("value") and r["value"] is not None
    }
    for (label, method), theirs in timed.items():
        name, *rest = method.split(", ")
        own = timed[label, ", ".join(["pyro_geo", *rest])]
        steps, lanes = (part.split(" = ")[1] for part in label.split(", "))
        if name == "pyro_geo":
            if lanes == "1":
                continue
            name = "one_by_one"
            theirs = int(lanes) * timed[f"T = {steps}, B = 1", method]
        key = f"value_and_grad/{name}@{lanes}"
        key += "" if steps != "10000" else "/T=10000"
        key += "".join(f"/{part.replace(' ', '_')}" for part in rest)
        found[key] = theirs / own
    return found


def on_threads(threads: int, quick: bool) -> Iterator[list[Row]]:
    """Measure all cases on some threads, and say which peers are missing."""
    rows = child(threads, quick)
    for new in rows:
        print(
            f"{new['case']}, {new['method']}, {new['metric']}: "
            f"{new['value']:.2f} ms (wall {new['wall']:.2f}) {new.get('note', '')}"
        )
    for name, package in PEERS.items():
        if not installed(package):
            rows.append(missing("all", name, "value and gradient, processor"))
    yield rows


PARTS = {"one_thread": partial(on_threads, 1), "two_threads": partial(on_threads, 2)}


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write them."""
    args = options(__doc__, argv, PARTS)
    if args.quick:
        args.only = args.only[:1]
    measure_parts("hgf_speed", PARTS, ratios, args, PACKAGES)


if __name__ == "__main__":
    main()
