"""The durable benchmark's part on processes: one, and two workers of three backends."""

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import joblib
import torch
from _bench import ROOT, Row
from joblib.externals.loky import get_reusable_executor
from target import logistic, logistic_data

from pyro_geo.infer import HMC, MCMC

TURNS = 3  # of one process and loky

Backend: TypeAlias = Callable[[], AbstractContextManager[None]]


@contextmanager
def loky() -> Iterator[None]:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        yield
    get_reusable_executor().shutdown(wait=True)  # the next turn has new workers


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


CLUSTERS: dict[str, Backend] = {"Dask": dask, "Ray": ray}


class Turn(NamedTuple):
    """Runs over new workers of one backend.

    Attributes:
        cold: a run in which the workers start.
        ready: the same run again, over the same workers.
        empty: seconds of a task that does nothing.
    """

    cold: MCMC
    ready: MCMC
    empty: float


def measure(quick: bool) -> Iterator[list[Row]]:
    """Run in one process and over two workers; the start of a cluster is left out.

    One process and loky take turns and their medians are compared, because the speed of
    a machine drifts by more than what is looked for. Clusters have one turn.

    Args:
        quick: few chains and draws, and loky alone.

    Yields:
        Rows of one way each.
    """
    chains, draws, batch = size = (64, 20, 32) if quick else (4096, 500, 256)
    case, blocks = f"logistic, {chains} chains", chains // batch * -(-draws // 50)
    plain: list[MCMC] = []
    turns: list[Turn] = []
    for _ in range(1 if quick else TURNS):
        plain.append(run(*size))
        turns.append(over(loky, size))
    block = middle(plain, "sampling") / blocks
    what = f"a block of {batch} chains and {min(draws, 50)} draws"
    yield [
        *phases(case, "one process", plain),
        row(case, "one process", what, block, "s"),
    ]
    yield two_workers(case, "loky", turns, plain, blocks)
    for name, backend in ({} if quick else CLUSTERS).items():
        yield two_workers(case, name, [over(backend, size)], plain, blocks)


def over(backend: Backend, size: tuple[int, int, int]) -> Turn:
    """Run twice over the workers of a backend, which start in the first run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with backend():
            return Turn(run(*size), run(*size), empty_task())


def two_workers(
    case: str, name: str, turns: list[Turn], plain: list[MCMC], blocks: int
) -> list[Row]:
    """Rows of one backend beside one process, once the draws are the same."""
    fits = [turn.cold for turn in turns]
    ready = [turn.ready for turn in turns]
    assert all(torch.equal(f.positions, plain[0].positions) for f in fits + ready)
    method = f"two workers, {name}"
    one = {what: middle(plain, what) for what in ("whole run", "sampling")}
    two = {what: middle(fits, what) for what in one}
    driver = statistics.median(f.timings["sampling"].cpu for f in fits) / blocks
    beyond = 2 * two["sampling"] - one["sampling"]
    return [
        *phases(case, method, fits),
        row(case, method, "whole run, workers ready", middle(ready, "whole run"), "s"),
        *(
            row(case, method, f"efficiency, {what}", one[what] / two[what] / 2, "")
            for what in one
        ),
        row(case, method, "worker time lost, each block", beyond / blocks, "s"),
        row(case, method, "time of the driver, each block", driver, "s"),
        row(case, method, "an empty task", turns[0].empty, "s"),
        # beyond so many the driver cannot hand out blocks fast enough
        row(case, method, "workers that pay", one["sampling"] / blocks / driver, ""),
    ]


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


def middle(fits: list[MCMC], what: str) -> float:
    """Wall seconds of a phase or of the whole run, the median of several runs."""
    return statistics.median(
        fit.seconds if what == "whole run" else fit.timings[what].wall for fit in fits
    )


def phases(case: str, method: str, fits: list[MCMC]) -> list[Row]:
    """Rows of the whole run and of its parts."""
    names = ("whole run", "warmup", "sampling")
    return [row(case, method, name, middle(fits, name), "s") for name in names]


def empty_task(count: int = 200) -> float:
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
