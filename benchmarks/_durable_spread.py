"""The durable benchmark's part on processes: one, and two workers of three backends."""

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import joblib
import torch
from _bench import ROOT, Row
from target import logistic, logistic_data

from pyro_geo.infer import HMC, MCMC

TASKS = 200  # empty ones


@contextmanager
def loky() -> Iterator[None]:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        yield


@contextmanager
def dask() -> Iterator[None]:
    from distributed import Client, LocalCluster

    options: Any = {"n_workers": 2, "threads_per_worker": 1, "silence_logs": 50}
    options |= {"dashboard_address": None}
    with (
        LocalCluster(**options) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        yield


@contextmanager
def ray() -> Iterator[None]:
    for name, value in (
        ("RAY_AUTH_MODE", "disabled"),  # no token in the home folder
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
    ):
        os.environ[name] = value
    folders = [str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2):
        yield
    ray.shutdown()


BACKENDS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "loky": loky,
    "Dask": dask,
    "Ray": ray,
}


def measure(quick: bool) -> Iterator[list[Row]]:
    """Run in one process and over two workers; the start of a cluster is left out.

    Args:
        quick: few chains and draws, and loky alone.

    Yields:
        Rows of one way each.
    """
    chains, draws = (64, 20) if quick else (4096, 500)
    batch = 32 if quick else 256
    case = f"logistic, {chains} chains"
    plain = run(chains, draws, batch)
    blocks = chains // batch * -(-draws // 50)
    block = plain.timings["sampling"].wall / blocks
    yield [
        *phases(case, "one process", plain),
        row(case, "one process", "a block of 256 chains and 50 draws", block, "s"),
    ]
    for name, backend in list(BACKENDS.items())[: 1 if quick else None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with backend():
                fit = run(chains, draws, batch)  # workers start in here
                again = None if quick else run(chains, draws, batch)
                empty = empty_task(20 if quick else TASKS)
        assert torch.equal(fit.positions, plain.positions)
        method = f"two workers, {name}"
        wall, cpu = fit.timings["sampling"].wall, fit.timings["sampling"].cpu
        beyond = 2 * wall - plain.timings["sampling"].wall
        rows = [
            *phases(case, method, fit),
            efficiency(case, method, "whole run", plain.seconds, fit.seconds),
            efficiency(case, method, "sampling", plain.timings["sampling"].wall, wall),
            row(case, method, "worker time lost, each block", beyond / blocks, "s"),
            row(case, method, "time of the driver, each block", cpu / blocks, "s"),
            row(case, method, "an empty task", empty, "s"),
            # beyond so many the driver cannot hand out blocks fast enough
            row(case, method, "workers that pay", block / (cpu / blocks), ""),
        ]
        if again is not None:
            rows.append(
                row(case, method, "whole run, workers ready", again.seconds, "s")
            )
        yield rows


def run(chains: int, draws: int, batch: int) -> MCMC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MCMC(
            HMC(logistic),
            draws,
            None,
            chains,
            seed=1,
            progress_bar=False,
            compile=False,
            chain_batch_size=batch,
        ).run(*logistic_data())


def phases(case: str, method: str, fit: MCMC) -> list[Row]:
    """Wall seconds of the whole run and of its parts."""
    named = {"whole run": fit.seconds}
    named |= {name: fit.timings[name].wall for name in ("warmup", "sampling")}
    return [row(case, method, name, value, "s") for name, value in named.items()]


def efficiency(case: str, method: str, what: str, one: float, two: float) -> Row:
    return row(case, method, f"efficiency, {what}", one / two / 2, "")


def empty_task(count: int) -> float:
    """Seconds of a task that does nothing, through one reused pool."""
    found = []
    options: dict[str, Any] = {"batch_size": 1, "pre_dispatch": "all"}
    with joblib.Parallel(**options) as parallel:
        for _ in range(3):
            begin = time.perf_counter()
            parallel(joblib.delayed(abs)(i) for i in range(count))
            found.append((time.perf_counter() - begin) / count)
    return statistics.median(found)


def row(case: str, method: str, metric: str, value: float, unit: str) -> Row:
    return {
        "case": case,
        "method": method,
        "metric": metric,
        "value": value,
        "unit": unit,
    }
