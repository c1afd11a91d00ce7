"""Time batched gradients of a `Target` on every rung, beside Pyro's own potential.

Three models in float32 on one thread: non-centred eight schools, a logistic regression
of 1,000 x 24 and the network 1-16-16-1 of the gap regression (321 weights, 40 points).
Pyro's side is `initialize_model`'s potential and `potential_grad`, one chain, eager,
with validation off as during its runs. Compile times are those of a new process, with
an empty disk cache and with the one that the process before has filled. What a process
pays once, before its first graph (imports, a look at the processor, with an empty cache
a precompiled header), is reported apart as start-up.
"""

import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from _bench import ROOT, Row, Timing, interleaved, options, timing, write
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from torch import Tensor

from pyro_geo.density import Lifted, Rung, Target

CHAINS = (1, 4, 16, 64, 256, 1024)
RUNGS: tuple[Rung, ...] = ("compiled", "traced", "mapped", "sequential")
COMPILE_CHAINS = 64


class Case(NamedTuple):
    """A model and its data."""

    model: Callable[..., Any]
    data: tuple[Tensor, ...]


def logistic(x: Tensor, y: Tensor) -> None:
    """Regress a binary outcome with a standard normal prior on the weights."""
    prior = dist.Normal(torch.zeros(x.shape[-1]), 1.0)
    w = pyro.sample("w", prior.to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def logistic_data() -> tuple[Tensor, Tensor]:
    """Draw 1,000 rows of 24 inputs, and outcomes that follow a random plane."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 24, generator=generator)
    w = torch.randn(24, generator=generator)
    return x, torch.bernoulli(torch.sigmoid(x @ w), generator=generator)


def gallery(name: str) -> Case:
    """Load a model of the gallery with its data."""
    module = runpy.run_path(str(ROOT / "models" / f"{name}.py"))
    return Case(module["model"], module["data"]())


CASES: dict[str, Callable[[], Case]] = {
    "eight_schools": lambda: gallery("eight_schools"),
    "logistic": lambda: Case(logistic, logistic_data()),
    "network": lambda: gallery("gap_network"),
}


def positions(target: Target, chains: int) -> Tensor:
    """Draw positions near the origin."""
    generator = torch.Generator().manual_seed(1)
    return 0.3 * torch.randn(chains, target.dim, generator=generator)


def pyro_gradient(
    case: Case, target: Target, q: Tensor
) -> tuple[Callable[[], Any], bool]:
    """Return Pyro's potential with its gradient, and whether ours agrees with it."""
    potential = initialize_model(case.model, case.data)[1]
    z = target.layout.unflatten(q[0])
    gradient, value = potential_grad(potential, z)
    ours, slope = target.value_and_grad(q)
    theirs = target.layout.flatten(gradient)
    scale = theirs.abs().max()
    agree = torch.allclose(-value, ours[0], rtol=1e-4)
    agree &= torch.allclose(-theirs / scale, slope[0] / scale, atol=1e-4)
    return lambda: potential_grad(potential, z), agree


def gradients(
    name: str, case: Case, chains: int, quick: bool
) -> tuple[list[Row], dict[str, Timing]]:
    """Time one model at one number of chains, all rungs and Pyro in turn."""
    target = Target.from_model(case.model, *case.data, compile=False)
    q = positions(target, chains)
    theirs, agree = pyro_gradient(case, target, q)
    functions: dict[str, Callable[[], Any]] = {"pyro": theirs}
    for rung in RUNGS:
        fixed = target.with_rung(rung)
        functions[rung] = lambda fixed=fixed: fixed.value_and_grad(q)
    with pyro.validation_enabled(False):
        times = interleaved(
            functions, repetitions=1 if quick else 7, seconds=0.0 if quick else 0.1
        )
    rows = []
    for method, t in times.items():
        label = "Pyro, 1 chain" if method == "pyro" else f"{method}, {chains} chains"
        row = measured(name, label, "batched gradient", t, "us", 1e6)
        if method == "pyro" and not agree:
            row["note"] = "disagrees with ours"
        rows.append(row)
    return rows, times


def measured(
    case: str, method: str, what: str, t: Timing, unit: str, factor: float
) -> Row:
    """Make the row of a timing: processor time, with wall time beside it."""
    return {
        "case": case,
        "method": method,
        "metric": f"{what}, processor",
        "value": t.cpu * factor,
        "sd": t.sd * factor,
        "wall": t.wall * factor,
        "unit": unit,
    }


def compile_once(name: str) -> None:
    """Print what tracing and compiling cost in this process (used as a child)."""
    case = CASES[name]()
    target = Target.from_model(case.model, *case.data, compile=False)
    q = positions(target, COMPILE_CHAINS)
    trivial = Lifted(lambda data, x: 2 * x + 1, name="trivial")
    steps: dict[str, Callable[[], Any]] = {
        "start": lambda: trivial((), torch.ones(64), rung="compiled"),
        "traced": lambda: target.with_rung("traced").value_and_grad(q),
        "compiled": lambda: target.with_rung("compiled").value_and_grad(q),
    }
    spent = {}
    for step, fn in steps.items():
        before = clock()
        fn()
        spent[step] = [b - a for a, b in zip(before, clock(), strict=True)]
    if target.with_rung("compiled").rung != "compiled":
        raise RuntimeError(target.notes)
    print(json.dumps(spent))


def clock() -> tuple[float, float]:
    """Read processor seconds, those of finished child processes included, and wall."""
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, -1)]
    return sum(u.ru_utime + u.ru_stime for u in usages), time.perf_counter()


def child(name: str, cache: str) -> dict[str, Any]:
    """Run `compile_once` in a new process on a disk cache."""
    # compiling in the process itself, or its cost would not be counted
    env = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    code = f"import density; density.start(); density.compile_once({name!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT / "benchmarks",
        env=os.environ | env | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/benchmarks"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compile_times(name: str, repetitions: int) -> tuple[list[Row], dict[str, float]]:
    """Time compiling in new processes; return rows and cold over cached.

    Of a graph alone, and with what the process pays once before its first graph.
    """
    cold, cached = [], []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(child(name, cache))
            cached.append(child(name, cache))
    sources = {
        "trace": (cold, "traced"),
        "start-up, empty cache": (cold, "start"),
        "start-up, from the disk cache": (cached, "start"),
        "compile, empty cache": (cold, "compiled"),
        "compile, from the disk cache": (cached, "compiled"),
    }
    times = {
        what: timing([run[key] for run in runs])
        for what, (runs, key) in sources.items()
    }
    label = f"compiled, {COMPILE_CHAINS} chains"
    rows = [measured(name, label, what, t, "s", 1.0) for what, t in times.items()]
    both = ["empty cache", "from the disk cache"]
    cold_s, cached_s = (times[f"compile, {cache}"].cpu for cache in both)
    start_s = [times[f"start-up, {cache}"].cpu for cache in both]
    whole = (start_s[0] + cold_s) / (start_s[1] + cached_s)
    return rows, {"": cold_s / cached_s, "/with_start_up": whole}


def start() -> None:
    """Fix what both sides of every comparison share."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(0)


def main(argv: list[str] | None = None) -> None:
    """Measure everything and write it."""
    args = options(__doc__, argv)
    start()
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    names = ["eight_schools"] if args.quick else list(CASES)
    for name in names:
        case = CASES[name]()
        for chains in (4,) if args.quick else CHAINS:
            new, times = gradients(name, case, chains, args.quick)
            rows += new
            print(name, chains, {k: f"{t.cpu * 1e6:.1f} us" for k, t in times.items()})
            if args.quick or chains == COMPILE_CHAINS:
                ratio = chains * times["pyro"].cpu / times["compiled"].cpu
                ratios[f"gradients_per_cpu_s/pyro@{chains}/{name}"] = ratio
    faster = []
    for name in names:
        new, found = compile_times(name, 1 if args.quick else 5)
        rows += new
        faster.append(found)
    for suffix in faster[0]:  # the least of the three models
        least = min(found[suffix] for found in faster)
        ratios[f"compile_s/cold_over_cached{suffix}"] = least
    write("density", rows, ratios, args)


if __name__ == "__main__":
    main()
