"""Tasks done in this process, or spread over those of a joblib backend."""

from __future__ import annotations

import contextlib
import pickle
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyro
import torch

from pyro_geo._process import ignored, one_thread
from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block, Warmup
from pyro_geo.engine.densities import KnownDensity, at_probes, check_known
from pyro_geo.engine.identity import Likeness
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.pool import (
    Failure,
    JoblibPool,
    let_memory_stay,
    num_processes,
    packed,
)
from pyro_geo.engine.schedule import RunPlan, Task, perform

__all__ = ["InProcess", "JoblibWorkers", "Workers", "num_processes"]

_ONE_AT_A_TIME = threading.Lock()  # Pyro's handlers are global to a process
_prepared: dict[str, tuple[Kernel, Target, torch.dtype]] = {}


class Workers(Protocol):
    """Whatever does the tasks of a round."""

    notes: list[str]

    def results(self, tasks: Mapping[int, Task]) -> Iterator[tuple[int, Any]]:
        """Do tasks, and give each result with its key as soon as it is there."""
        ...

    def close(self) -> None:
        """Let processes go."""
        ...


class InProcess:
    """Do the tasks of each round one after the other, in this process.

    Args:
        kernel: the kernel.
        target: the density.
        plan: of the run.
    """

    def __init__(self, kernel: Kernel, target: Target, plan: RunPlan) -> None:
        self._common = kernel, target, plan
        self.notes: list[str] = []

    def results(
        self, tasks: Mapping[int, Task]
    ) -> Iterator[tuple[int, Warmup | Block]]:
        """Do the tasks in order.

        Args:
            tasks: by key.

        Yields:
            A key and the result of its task.
        """
        for key, task in tasks.items():
            yield key, perform(*self._common, task)

    def close(self) -> None:
        """Nothing to let go."""


class JoblibWorkers(JoblibPool):
    """Send the tasks of each round out through one reused `joblib.Parallel`.

    A task that was lost, because its worker was killed say, is sent out again: it is a
    pure function, so its result is the same. A single task is done in this process,
    while the workers get ready.

    Args:
        kernel: the kernel.
        target: the density in this process.
        plan: of the run.
        arguments: positional and keyword arguments that the kernel makes a target of.
        n_jobs: number of processes, as joblib understands it.
    """

    def __init__(
        self,
        kernel: Kernel,
        target: Target,
        plan: RunPlan,
        arguments: tuple[Any, ...],
        n_jobs: int | None,
    ) -> None:
        self._in_process = InProcess(kernel, target, plan)
        args, kwargs = arguments
        parcel = _Parcel(
            kernel,
            args,
            {**kwargs, "dtype": target.dtype},
            torch.get_default_dtype(),
            _params(),
            at_probes(target, Target.log_prob),
        )
        where = "MCMC, argument n_jobs"
        self._token, self._payload = packed(parcel, where)
        self._plan = plan
        common = self._token, self._payload, plan
        super().__init__(_perform_in_worker, common, n_jobs, where)
        self._compiled = False  # whether there is compiled code on disk

    def results(
        self, tasks: Mapping[int, Task]
    ) -> Iterator[tuple[int, Warmup | Block]]:
        """Do the tasks, and give results in the order they arrive.

        Args:
            tasks: by key.

        Yields:
            A key and the result of its task.

        Workers that are lost again and again are a
        :class:`~pyro_geo.errors.WorkerError`.
        """
        left = dict(tasks)
        compiled = any(task.rung == "compiled" for task in tasks.values())
        if len(tasks) == 1:
            self._prepare(*tasks.values())
            yield from self._in_process.results(tasks)
        else:
            if compiled and not self._compiled:
                # one process compiles, and the others then find its code on disk
                key = next(iter(left))
                yield from self.spread({key: left.pop(key)})
            yield from self.spread(left)
        self._compiled |= compiled

    def _prepare(self, task: Task) -> None:
        """Let the workers start and rehearse a task, without waiting for them."""
        if self._parallel is None and (parallel := self._pool()).return_generator:
            import joblib

            call = joblib.delayed(_rehearse)
            count = num_processes(self._n_jobs)
            ready: Any = parallel(
                call(self._token, self._payload, self._plan, task) for _ in range(count)
            )
            self._preparing = ready


def _params() -> Any:
    """Pyro's parameters, without the weak references that do not pickle."""
    state: Any = pyro.get_param_store().get_state()
    params = {
        name: value.detach().clone().requires_grad_(value.requires_grad)
        for name, value in state["params"].items()
    }
    return {**state, "params": params}


class _Parcel(NamedTuple):
    """What a worker makes a target of, and what it must be like."""

    kernel: Kernel
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    default_dtype: torch.dtype
    params: Any
    known: KnownDensity


@contextlib.contextmanager
def _target_of_run(token: str, payload: np.ndarray) -> Iterator[tuple[Kernel, Target]]:
    """Give the kernel and the target of a run, made once in each worker.

    Inside, torch's default type is that of the driver.

    Yields:
        Both.
    """
    dtype = torch.get_default_dtype()
    with _ONE_AT_A_TIME, ignored(), one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver gives the same warnings
        try:
            if token not in _prepared:
                let_memory_stay()
                parcel: _Parcel = pickle.loads(payload.tobytes())
                torch.set_default_dtype(parcel.default_dtype)
                pyro.get_param_store().set_state(parcel.params)
                target = parcel.kernel.make_target(*parcel.args, **parcel.kwargs)
                like = Likeness(model=True, machine=False)
                where = "a worker's process"
                check_known(where, target, parcel.known, Target.log_prob, like)
                _prepared.clear()
                _prepared[token] = parcel.kernel, target, parcel.default_dtype
            kernel, target, default = _prepared[token]
            torch.set_default_dtype(default)
            yield kernel, target
        finally:
            torch.set_default_dtype(dtype)


def _rehearse(token: str, payload: np.ndarray, plan: RunPlan, task: Task) -> None:
    """Get a worker ready by a rehearsal whose result is thrown away.

    The rehearsal makes the target and does the task that the driver does in the
    meantime, so that the graphs of the tasks to come are traced already. Without
    warm-up there is nothing to rehearse. On the compiled rung the driver compiles and
    the others find its code on disk. An error is ignored: the first real task raises
    it again.
    """
    with (
        contextlib.suppress(Exception),
        _target_of_run(token, payload) as (kernel, target),
    ):
        if not plan.warmup_steps or task.rung == "compiled":
            return
        result = perform(kernel, target, plan, task)
        if task.kind == "start" and not (isinstance(result, Block) or result.finished):
            adapt = task._replace(kind="adapt", block=1, state=result.state)
            perform(kernel, target, plan, adapt)


def _perform_in_worker(
    token: str, payload: np.ndarray, plan: RunPlan, key: int, task: Task
) -> tuple[int, Any]:
    """Do a task in a worker, which makes the target once."""
    try:
        with _target_of_run(token, payload) as (kernel, target):
            return key, (perform(kernel, target, plan, task), target.notes)
    except Exception as reason:
        return key, Failure.of(reason)
