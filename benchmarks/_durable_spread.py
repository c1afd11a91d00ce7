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
from _bench import ROOT, Row
from density import logistic, logistic_data
from joblib.externals.loky import get_reusable_executor

from pyro_geo.infer import HMC, MCMC

TURNS = 3  # of loky; the clusters have one

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


BACKENDS: dict[str, Backend] = {"loky": loky, "Dask": dask, "Ray": ray}


PHASES = ("whole run", "warmup", "sampling")


class Run(NamedTuple):
    """What is kept of a run.

    Attributes:
        seconds: wall seconds of the whole run and of its phases.
        driver: processor seconds of this process while draws were made.
        digest: of the draws.
    """

    seconds: dict[str, float]
    driver: float
    digest: str


class Turn(NamedTuple):
    """Runs over new workers, between two in one process.

    Attributes:
        alone: in one process, before and after.
        cold: the workers start in it.
        ready: the same again, over the same workers.
        empty: seconds of a task that does nothing.
    """

    alone: tuple[Run, Run]
    cold: Run
    ready: Run
    empty: float

    def speedup(self, run: Run, phase: str) -> float:
        """How much faster a run was than its two neighbours."""
        return (
            statistics.mean(r.seconds[phase] for r in self.alone) / run.seconds[phase]
        )


def measure(quick: bool) -> Iterator[list[Row]]:
    """Run in one process and over two workers; the start of a cluster is left out.

    Each turn of a backend is compared with one process right before and right after it:
    the speed of a machine drifts by more than what is looked for.

    Args:
        quick: few chains and draws, and loky alone.

    Yields:
        Rows of one way each.
    """
    chains, draws, batch = size = (64, 20, 32) if quick else (4096, 500, 256)
    case, blocks = f"logistic, {chains} chains", chains // batch * -(-draws // 50)
    plain = [run(*size)]
    for name, backend in list(BACKENDS.items())[: 1 if quick else None]:
        turns: list[Turn] = []
        for _ in range(TURNS if name == "loky" and not quick else 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with backend():
                    over = run(*size), run(*size), empty_task()
            plain.append(run(*size))
            turns.append(Turn((plain[-2], plain[-1]), *over))
        yield two_workers(case, name, turns, blocks)
    block = middle(plain, "sampling") / blocks
    what = f"a block of {batch} chains and {min(draws, 50)} draws"
    yield [
        *phases(case, "one process", plain),
        row(case, "one process", what, block, "s"),
    ]


def two_workers(case: str, name: str, turns: list[Turn], blocks: int) -> list[Row]:
    """Rows of one backend beside one process, once the draws are the same."""
    alone = [run for turn in turns for run in turn.alone]
    cold, ready = [turn.cold for turn in turns], [turn.ready for turn in turns]
    assert len({run.digest for run in alone + cold + ready}) == 1
    method = f"two workers, {name}"
    driver = statistics.median(run.driver for run in cold) / blocks
    block = middle(alone, "sampling") / blocks
    lost = 2 * middle(cold, "sampling") / blocks - block
    return [
        *phases(case, method, cold),
        row(case, method, "whole run, workers ready", middle(ready, "whole run"), "s"),
        *(
            efficiency(case, method, phase, [t.speedup(t.cold, phase) for t in turns])
            for phase in ("whole run", "sampling")
        ),
        efficiency(
            case,
            method,
            "whole run, workers ready",
            [turn.speedup(turn.ready, "whole run") for turn in turns],
        ),
        row(case, method, "worker time lost, each block", lost, "s"),
        row(case, method, "time of the driver, each block", driver, "s"),
        row(case, method, "an empty task", turns[0].empty, "s"),
        # beyond so many the driver cannot hand out blocks fast enough
        row(case, method, "workers that pay", block / driver, ""),
    ]


def efficiency(case: str, method: str, what: str, gains: list[float]) -> Row:
    """The median gain over the number of workers, with the gain of each turn."""
    found = row(case, method, f"efficiency, {what}", statistics.median(gains) / 2, "")
    return {**found, "speedups": [round(gain, 3) for gain in gains]}


def run(chains: int, draws: int, batch: int) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MCMC(
            HMC(logistic),
            draws,
            None,
            chains,
            seed=1,
            progress_bar=False,
            compile=False,
            chain_batch_size=batch,
        ).run(*logistic_data())
    seconds = {"whole run": fit.seconds}
    seconds |= {phase: fit.timings[phase].wall for phase in PHASES[1:]}
    digest = str(joblib.hash(fit.positions.numpy()))
    return Run(seconds, fit.timings["sampling"].cpu, digest)


def middle(runs: list[Run], phase: str) -> float:
    """Wall seconds of a phase, the median of several runs."""
    return statistics.median(run.seconds[phase] for run in runs)


def phases(case: str, method: str, runs: list[Run]) -> list[Row]:
    """Rows of the whole run and of its parts."""
    return [row(case, method, phase, middle(runs, phase), "s") for phase in PHASES]


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
