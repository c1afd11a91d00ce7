"""Chains spread over processes: loky, Dask and Ray give the draws of one process."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.engine import workers
from pyro_geo.engine.schedule import RunPlan, Task, perform
from pyro_geo.errors import UnsupportedError, WorkerError
from pyro_geo.infer import HMC, MCMC
from pyro_geo.io.store import check_run
from pyro_geo.testing.hmc import FixedHMC
from tests.cases import effects, numbers

ROOT = Path(__file__).parents[2]
Y = 2 * numbers(4, seed=2)


def run(kernel: Any = None, num_samples: int = 60, **options: Any) -> MCMC:
    settings: dict[str, Any] = {
        "warmup_steps": 20,
        "num_chains": 8,
        "chain_batch_size": 2,
        "seed": 1,
        "progress_bar": False,
        "compile": False,
        "dtype": torch.float64,
    }
    kernel = FixedHMC(effects, step_size=0.2, num_steps=3) if kernel is None else kernel
    return MCMC(kernel, num_samples, **(settings | options)).run(Y)


def same(fit: MCMC, other: MCMC) -> None:
    assert torch.equal(fit.positions, other.positions)
    for name, value in fit.stats.items():
        assert torch.equal(value, other.stats[name])
    for name in ("num_steps", "num_gradients", "warmup_num_steps", "rung"):
        assert getattr(fit, name) == getattr(other, name)


class Deadly(FixedHMC):
    """A kernel whose worker is killed in the middle of its third block of draws."""

    def __init__(self, *args: Any, marker: str, times: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.marker, self.times = Path(marker), times

    def block(
        self, target: Any, state: Any, chains: Any, draws: int, noise: Any
    ) -> Any:
        here = sum(1 for _ in self.marker.parent.glob("killed*"))
        inside = os.getpid() != int(self.marker.read_text())
        if inside and 4 in chains and here < self.times:
            self.marker.with_name(f"killed{here}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().block(target, state, chains, draws, noise)


@pytest.fixture
def deadly(tmp_path):
    marker = tmp_path / "driver"
    marker.write_text(str(os.getpid()))
    return partial(Deadly, effects, step_size=0.2, num_steps=3, marker=str(marker))


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
    # workers import this module; no token file is to be left in the home folder
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patched.setenv("PYTHONPATH", str(ROOT))
        import ray
        from ray.util.joblib import register_ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            register_ray()
            with joblib.parallel_config(backend="ray", n_jobs=2):
                yield
        finally:
            ray.shutdown()


@contextmanager
def loky() -> Iterator[None]:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        yield


BACKENDS = [loky, dask, ray]
# what the backends themselves warn of is not ours
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_do_not_depend_on_where_they_are_made(backend, tmp_path, deadly):
    expected = run()
    with backend():
        # a worker is killed with SIGKILL inside a task
        fit = run(deadly(), store=tmp_path / "run.zarr")
    assert (tmp_path / "killed0").exists()
    same(fit, expected)
    assert check_run(tmp_path / "run.zarr")["finished"] is True


@pytest.mark.slow
def test_n_jobs_spreads_without_a_context():
    expected = run()
    same(run(n_jobs=2), expected)


@pytest.mark.slow
def test_groups_that_join_a_tuned_one_are_spread_too():
    options: dict[str, Any] = {"warmup_steps": 100, "num_chains": 24}
    options |= {"chain_batch_size": 8, "num_samples": 30}
    same(run(HMC(effects), n_jobs=2, **options), run(HMC(effects), **options))


@pytest.mark.parametrize("rung", ["traced", "compiled"])
def test_one_worker_compiles_and_the_others_load(rung, monkeypatch):
    waves = []

    def send(self: Any, tasks: dict[int, Task]) -> Iterator[Any]:
        waves.append(list(tasks))
        for key in list(tasks):
            yield key, (key, [])

    monkeypatch.setattr(workers.JoblibWorkers, "_send", send)
    kernel, plan = FixedHMC(effects), RunPlan(0, 10, 6, 0)
    spread = workers.JoblibWorkers(kernel, kernel.make_target(Y), plan, ((Y,), {}), 2)
    tasks = {g: Task("draw", range(2 * g, 2 * g + 2), 0, rung) for g in range(3)}
    for _ in range(2):
        assert [key for key, _ in spread.results(tasks)] == [0, 1, 2]
    first = [[0, 1, 2]] if rung == "traced" else [[0], [1, 2]]
    assert waves == [*first, [0, 1, 2]]


@pytest.mark.slow
def test_workers_that_are_lost_again_and_again_end_the_run(
    tmp_path, deadly, monkeypatch
):
    monkeypatch.setattr(workers, "_TRIES", 2)
    store = tmp_path / "run.zarr"
    with pytest.raises(WorkerError, match="workers are lost"):
        run(deadly(times=99), n_jobs=2, store=store)
    # but no finished block is
    assert check_run(store)["num_draws"] == 0
    same(run_again(store), run())


def run_again(store: Path) -> MCMC:
    for file in store.parent.glob("killed*"):
        file.unlink()
    marker = str(store.parent / "driver")
    kernel = Deadly(effects, step_size=0.2, num_steps=3, marker=marker, times=99)
    fit = MCMC(
        kernel,
        60,
        20,
        8,
        chain_batch_size=2,
        progress_bar=False,
        compile=False,
        dtype=torch.float64,
        store=store,
    )
    return fit.resume(Y)


def shifted(y):
    """A model of torch's default type, with a parameter in Pyro's store."""
    shift = pyro.param("shift", torch.zeros(())).detach()
    x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(x + shift, torch.ones(3)).to_event(1), obs=y)


@pytest.mark.slow
def test_workers_have_the_defaults_and_the_parameters_of_the_driver():
    torch.set_default_dtype(torch.float64)
    pyro.get_param_store()["shift"] = torch.tensor(0.7)
    fits = [
        MCMC(
            FixedHMC(shifted, step_size=0.2, num_steps=3),
            30,
            10,
            4,
            chain_batch_size=2,
            seed=1,
            n_jobs=n_jobs,
            progress_bar=False,
        ).run(torch.ones(3))
        for n_jobs in (1, 2)
    ]
    assert fits[1].positions.dtype == torch.float64
    same(fits[1], fits[0])


def test_what_does_not_pickle_is_named():
    class Guarded(FixedHMC):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.lock = threading.Lock()

    with pytest.raises(UnsupportedError, match="other processes.*lock"):
        run(Guarded(effects, step_size=0.2, num_steps=3), n_jobs=2)


class Failing(FixedHMC):
    def block(
        self, target: Any, state: Any, chains: Any, draws: int, noise: Any
    ) -> Any:
        if 4 in chains:
            raise ZeroDivisionError("in the model")
        return super().block(target, state, chains, draws, noise)


@pytest.mark.slow
def test_an_error_of_the_model_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError, match="in the model") as error:
        run(Failing(effects, step_size=0.2, num_steps=3), n_jobs=2)
    assert "Failing" not in str(error.value)


def test_a_worker_traces_what_it_needs_before_it_is_asked() -> None:
    kernel = HMC(effects)
    target = kernel.make_target(Y)
    plan = RunPlan(seed=1, num_samples=50, num_chains=8, warmup_steps=20)
    spread = workers.JoblibWorkers(kernel, target, plan, ((Y,), {}), 2)
    first = Task("start", range(4), 0, "traced")
    sent = spread._token, spread._payload, plan
    workers._rehearse(*sent, first)
    with workers._target_of_run(*sent[:2]) as (_, ready):
        traced = ready.build_seconds
    assert traced.cpu > 0
    tuned: Any = perform(kernel, target, plan, first)
    for block in range(1, 100):
        if tuned.finished:
            break
        adapt = first._replace(kind="adapt", block=block, state=tuned.state)
        tuned = perform(kernel, target, plan, adapt)
    assert tuned.finished
    second = Task("start", range(4, 8), 0, "traced", tuning=kernel.tuning(tuned.state))
    _, (found, _) = workers._perform_in_worker(*sent, 1, second)
    adapt = second._replace(kind="adapt", block=1, state=found.state, tuning=None)
    _, (found, _) = workers._perform_in_worker(*sent, 1, adapt)
    assert found.num_steps > 0
    with workers._target_of_run(*sent[:2]) as (_, used):
        assert used is ready
        assert used.build_seconds == traced


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
@pytest.mark.parametrize("setting", [None, "65536"])  # the second is that of Dask
def test_a_worker_keeps_freed_memory(setting: str | None) -> None:
    env = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_")}
    if setting is not None:
        env["MALLOC_TRIM_THRESHOLD_"] = setting
    code = """
import resource, torch
from pyro_geo.engine.workers import _let_memory_stay
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
_let_memory_stay()
faults()
print(before, faults())
"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    before, after = map(int, found.stdout.split())
    assert after < before / 10
