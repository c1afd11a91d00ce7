"""Part `end_to_end`: wall time of whole processes, eight schools, 4 x (1,000 + 1,000).

From the start of Python to the draws on disk, imports and compilation included, in
double precision. "Cold" starts from empty caches, "warm" from what the process before
has left in ours and in JAX's. NumPyro runs at its defaults, and once more with what
suits it best; Pyro's four chains take minutes and run once.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _bench import ROOT, Row, timing
from _hmc_common import (
    NUMPYRO,
    OURS,
    PYRO,
    REPEATS,
    installed,
    missing,
    quality,
    row,
    spread,
)

CASE = "eight_schools"
DRAWS = 1000
METRIC = "whole process, wall"

OUR_CACHE = {"TORCHINDUCTOR_CACHE_DIR": "{cache}"}
JAX_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": "{cache}",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


class Side(NamedTuple):
    """One way to run the model.

    Attributes:
        script: its name in the child.
        method: its name in the tables.
        cache: environment that gives it a cache on disk; none where it has none.
        package: what must be installed.
    """

    script: str
    method: str
    cache: Mapping[str, str] | None
    package: str


SIDES = (
    Side("ours", OURS, OUR_CACHE, "torch"),
    Side("ours_auto", f"{OURS}, compile='auto'", OUR_CACHE, "torch"),
    Side("numpyro_nuts", NUMPYRO, JAX_CACHE, "numpyro"),
    Side("numpyro_nuts_vectorized", f"{NUMPYRO}, vectorized", JAX_CACHE, "numpyro"),
    Side("pyro_nuts", PYRO, None, "pyro"),
)


# compiling takes too long for a quick run
QUICK = (SIDES[0]._replace(script="ours_traced"), *SIDES[2::2])


class Measured(NamedTuple):
    """A finished process: processor and wall seconds, smallest ESS, largest R-hat."""

    seconds: tuple[float, float]
    min_ess: float
    r_hat: float


def measure(quick: bool) -> Iterator[list[Row]]:
    """Time every side, those that repeat in turn."""
    draws, wanted = (10, QUICK) if quick else (DRAWS, SIDES)
    sides = [side for side in wanted if installed(side.package)]
    found: dict[tuple[str, str], list[Measured]] = {}
    for turn in range(1 if quick else REPEATS):
        for side in sides:
            for state, run in processes(side, draws, turn, quick):
                found.setdefault((side.script, state), []).append(run)
    rows = []
    for side in wanted:
        if side not in sides:
            rows.append(missing(CASE, side.method, METRIC))
        for (script, state), runs in found.items():
            if script == side.script:
                rows += side_rows(side, state, runs)
    yield rows


def processes(
    side: Side, draws: int, turn: int, quick: bool
) -> Iterator[tuple[str, Measured]]:
    """Run a side on an empty cache, then on the one that it has filled."""
    if side.cache is None:
        if turn == 0:
            yield "cold", process(side, draws, {})
        return
    with tempfile.TemporaryDirectory() as cache:
        env = {key: value.format(cache=cache) for key, value in side.cache.items()}
        # without a persistent cache, as by default, JAX has nothing to write
        first = {} if side.cache is JAX_CACHE and not quick else env
        yield "cold", process(side, draws, first)
        if first != env:
            process(side, draws, env)
        yield "warm", process(side, draws, env)


def process(side: Side, draws: int, env: Mapping[str, str]) -> Measured:
    """Time one child process and check its draws."""
    known = {*OUR_CACHE, *JAX_CACHE, "XLA_FLAGS"}
    clean = {key: value for key, value in os.environ.items() if key not in known}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "draws.npz"
        command = [sys.executable, "-W", "ignore", "_hmc_child.py", side.script]
        cpu, wall = os.times(), time.perf_counter()
        done = subprocess.run(
            [*command, str(out), str(draws)],
            cwd=ROOT / "benchmarks",
            env={**clean, "PYTHONPATH": str(ROOT), **env},
            capture_output=True,
            text=True,
        )
        wall, after = time.perf_counter() - wall, os.times()
        if done.returncode:
            raise RuntimeError(f"{side.script}: {done.stderr[-2000:]}")
        with np.load(out) as archive:
            draws_of: dict[str, Any] = dict(archive)
    spent = after.children_user - cpu.children_user
    spent += after.children_system - cpu.children_system
    return Measured((spent, wall), *quality(draws_of))


def side_rows(side: Side, state: str, runs: list[Measured]) -> list[Row]:
    """Report one side from one state of the caches."""
    cpu, wall, _ = timing(run.seconds for run in runs)
    method = f"{side.method}, {state}" if side.cache else side.method
    walls = [run.seconds[1] for run in runs]
    return [
        row(
            CASE,
            method,
            METRIC,
            wall,
            "s",
            **spread(walls),
            processor=cpu,
            key="wall",
            sampler=side.method,
            about=state,
            min_ess=runs[0].min_ess,
            r_hat=runs[0].r_hat,
        ),
        row(CASE, method, "whole process, processor", cpu, "s"),
    ]
