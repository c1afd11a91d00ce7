"""Measure what `compile="auto"` costs beside the better of `True` and `False`.

Ten models, 4 and 64 chains, 500 draws of HMC with its default warm-up, in float32 and
on one thread; and once 20,000 draws of the smallest. Each run is a process of its own.
Counted are the processor seconds of the run, with those of the compiler's processes.
"Cold" starts from an empty cache of compiled code, "warm" from what a run with
`compile=True` has left. The rule of `"auto"` may not look at the cache, or draws would
depend on it, so that it decides the same in both. `bound_over_best` is the larger of
the two ratios for the better one of the two decisions: no such rule has a smaller one.

Cases can be measured apart (`--only arma@64,gp@4`). Each process runs once: it repeats
to a few per cent, and all of them take half an hour of processor time.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from _bench import ROOT, Row, options, write

DRAWS = 500
NAMES = (
    "eight_schools",
    "regression",
    "robust",
    "poisson",
    "logistic",
    "gp",
    "network",
    "saas",
    "hmm",
    "arma",
)
AIM = 1.3


class Case(NamedTuple):
    """A model, its chains and its draws."""

    model: str
    chains: int
    draws: int = DRAWS
    warmup: int | None = None


CASES = {f"{name}@{count}": Case(name, count) for name in NAMES for count in (4, 64)}
CASES["eight_schools_long@4"] = Case("eight_schools", 4, 20_000)
QUICK = {"regression@4": Case("regression", 4, 5, 5)}


class Cost(NamedTuple):
    """Processor seconds of a run and of its process, and where the run ended."""

    run: float
    process: float
    rung: str
    operations: int


def run_once(case: Case, compile: str, cache: str) -> Cost:
    """Sample in a new process.

    Args:
        case: what.
        compile: `auto`, `True` or `False`.
        cache: folder of compiled code.

    Returns:
        What it took.
    """
    before = os.times()
    warmup = "default" if case.warmup is None else str(case.warmup)
    arguments = [case.model, str(case.chains), str(case.draws), warmup, compile]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "_auto_compile_child.py", *arguments],
        cwd=ROOT / "benchmarks",
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": cache,
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{case} {compile}: {done.stderr[-2000:]}")
    after = os.times()
    process = after.children_user - before.children_user
    process += after.children_system - before.children_system
    found = json.loads(done.stdout.splitlines()[-1])
    return Cost(found["run"], process, found["rung"], found["operations"])


def measure(case: Case) -> dict[str, Cost]:
    """Run a case every way, by `mode/state of the cache`."""
    found: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as cache:
        found["False"] = run_once(case, "False", cache)
        found["True/cold"] = run_once(case, "True", cache)
        found["True/warm"] = run_once(case, "True", cache)
        found["auto/warm"] = run_once(case, "auto", cache)
    with tempfile.TemporaryDirectory() as cache:
        # a run that is never compiled is the same from every cache
        traced = found["auto/warm"].rung == "traced"
        found["auto/cold"] = (
            found["auto/warm"] if traced else run_once(case, "auto", cache)
        )
    return found


def rows_of(name: str, found: dict[str, Cost]) -> Iterator[Row]:
    """Report a case."""
    for method, cost in found.items():
        mode, _, state = method.partition("/")
        label = f"compile={mode}{', ' if state else ''}{state}"
        yield row(name, label, "run, processor", cost.run, "s", rung=cost.rung)
        yield row(name, label, "whole process, processor", cost.process, "s")
    size = found["False"].operations
    yield row(name, "compile=False", "operations of the graph", size, "")


def row(
    case: str, method: str, metric: str, value: float, unit: str, **more: Any
) -> Row:
    """Make a row."""
    new = {"case": case, "method": method, "metric": metric}
    return {**new, "value": round(value, 3), "unit": unit, **more}


def ratios(rows: list[Row]) -> dict[str, float]:
    """Set `"auto"` against the better choice, and against the best rule there is."""
    by = {
        (row["case"], row["method"]): row["value"]
        for row in rows
        if row["metric"] == "run, processor"
    }
    found = {}
    for case in dict.fromkeys(name for name, _ in by):
        never = by[case, "compile=False"]
        best = {}
        for state in ("cold", "warm"):
            best[state] = min(never, by[case, f"compile=True, {state}"])
            auto = by[case, f"compile=auto, {state}"]
            found[f"auto_over_best/{case}/{state}"] = round(auto / best[state], 3)
        # traced from both caches, or compiled from both
        traced = never / best["warm"]
        compiled = max(by[case, f"compile=True, {s}"] / best[s] for s in best)
        found[f"bound_over_best/{case}"] = round(min(traced, compiled), 3)
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure the cases asked for and write after each."""
    args = options(__doc__, argv, CASES)
    path = args.out or ROOT / "benchmarks" / "results" / "auto_compile.json"
    rows: list[Row] = []
    if not args.quick and path.exists():
        kept = json.loads(path.read_text())["rows"]
        rows = [row for row in kept if row["case"] not in args.only]
    cases = QUICK if args.quick else {name: CASES[name] for name in args.only}
    for name, case in cases.items():
        print(f"== {name}", flush=True)
        new = list(rows_of(name, measure(case)))
        for line in new:
            print(f"  {line['method']}: {line['metric']} {line['value']}", flush=True)
        rows += new
        write("auto_compile", rows, ratios(rows), args)
    over = {key: value for key, value in ratios(rows).items() if value > AIM}
    print(f"above the aim of {AIM}: {over or 'none'}")


if __name__ == "__main__":
    main()
