"""Measure what a first try takes: the import, and the README's example from the start.

Counted are processor seconds, user and system, of a whole process on one thread; each
figure is the least of several, since whatever else runs on a machine only adds to it.
Bytecode is compiled before, as pip does when it installs. "Cold" starts from empty
caches of torch's compiler and of numba, "warm" from what a run has left in them. The
example's run is split into what its own clock calls start, compile (recording the
operations of a step; the first recording imports torch's tracer), warm-up and sampling.
Measure on a quiet machine, and with the library's own dependencies alone: ArviZ loads
Dask where it is installed.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _bench import ROOT, Row, against_aims, options, write

BASE = "import torch, pyro"
IMPORTS = {
    "torch and Pyro": BASE,
    "pyro_geo": f"{BASE}; import pyro_geo",
    "a sampler": f"{BASE}; from pyro_geo.infer import HMC, MCMC",
    "every name of pyro_geo.infer": f"{BASE}; from pyro_geo.infer import *",
}
PACKAGES = ("torch", "pyro-ppl", "numpy", "arviz", "numba")
AIMS = {"import/sampler": 1.1, "ten_lines/cold_s": 6.0}
EXAMPLE = "README's example"


def environment(folder: Path, caches: Path) -> dict[str, str]:
    """Keep bytecode and compiled code in folders of this benchmark."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def process(arguments: list[str], env: dict[str, str]) -> tuple[float, str]:
    """Run Python on arguments.

    Args:
        arguments: of the interpreter.
        env: its environment.

    Returns:
        Processor seconds and what it printed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, done.stdout


def imports(folder: Path, repetitions: int) -> list[Row]:
    """Import in new processes, in turns."""
    env = environment(folder, folder / "unused")
    least = dict.fromkeys(IMPORTS, float("inf"))
    for turn in range(repetitions + 1):  # the first compiles the bytecode
        for name, code in IMPORTS.items():
            cpu, _ = process(["-c", code], env)
            least[name] = min(least[name], cpu) if turn else least[name]
    return [
        row("import", name, "processor time", value, repetitions)
        for name, value in least.items()
    ]


def examples(folder: Path, repetitions: int) -> list[Row]:
    """Run the README's example with empty and with filled caches, in turns."""
    least: dict[str, dict[str, float]] = {"cold": {}, "warm": {}}
    first = folder / "first"
    once(folder, first)  # bytecode of all that is imported
    for turn in range(repetitions):
        for kind in least:
            caches = folder / f"caches{turn}" if kind == "cold" else first
            for name, value in once(folder, caches).items():
                least[kind][name] = min(value, least[kind].get(name, value))
    return [
        row(f"{EXAMPLE}, {kind}", name, "processor time", value, repetitions)
        for kind, costs in least.items()
        for name, value in costs.items()
    ]


def once(folder: Path, caches: Path) -> dict[str, float]:
    """Run the example in a new process, with its parts."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        arguments = ["benchmarks/_first_hour_child.py", str(ROOT / "README.md"), place]
        cpu, printed = process(arguments, environment(folder, caches))
    found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    run = {f"run: {name}": value for name, value in found["run"].items()}
    return {**found["costs"], **run, "whole process": cpu}


def row(case: str, method: str, metric: str, value: float, repetitions: int) -> Row:
    """Make a row of the result."""
    return {
        "case": case,
        "method": method,
        "metric": metric,
        "value": round(value, 3),
        "unit": "s",
        "seeds": repetitions,
    }


def ratios(rows: list[Row]) -> dict[str, float]:
    """Compare imports with that of torch and Pyro, and cold with warm."""
    value = {(one["case"], one["method"]): one["value"] for one in rows}
    base = value["import", "torch and Pyro"]
    cold = value[f"{EXAMPLE}, cold", "whole process"]
    warm = value[f"{EXAMPLE}, warm", "whole process"]
    return {
        "import/package": value["import", "pyro_geo"] / base,
        "import/sampler": value["import", "a sampler"] / base,
        "ten_lines/cold_s": cold,
        "ten_lines/cold_over_warm": cold / warm,
    }


def main() -> None:
    """Measure, and write the result."""
    args = options(__doc__)
    repetitions = 1 if args.quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = imports(folder, repetitions)
        rows += examples(folder, repetitions)
    found = ratios(rows)
    for one in rows:
        print(f"{one['case']:24} {one['method']:30} {one['value']:.2f} s")
    print("\n".join(against_aims(found, AIMS)))
    write("first_hour", rows, found, args, PACKAGES)


if __name__ == "__main__":
    main()
