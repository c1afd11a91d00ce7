"""Tasks done in this process, or spread over those of a joblib backend."""

from __future__ import annotations

import contextlib
import ctypes
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import cloudpickle
import joblib
import numpy as np
import pyro
import torch

from pyro_geo._process import ignored, one_thread
from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block, Warmup
from pyro_geo.engine.densities import KnownDensity, at_probes, check_known
from pyro_geo.engine.identity import Likeness
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.schedule import RunPlan, Task, perform
from pyro_geo.errors import UnsupportedError, WorkerError

__all__ = ["InProcess", "JoblibWorkers", "Workers", "num_processes"]

_TRIES = 5  # failures in a row without a single task done
_ONE_AT_A_TIME = threading.Lock()  # Pyro's handlers are global to a process
_prepared: dict[str, tuple[Kernel, Target, torch.dtype]] = {}


def num_processes(n_jobs: int | None) -> int:
    """How many processes joblib would use; None is what its context says."""
    jobs: Any = n_jobs  # joblib's annotation leaves None out
    return joblib.effective_n_jobs(jobs)


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


class JoblibWorkers:
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
        try:
            content = cloudpickle.dumps(parcel)
        except Exception as reason:  # whatever an object of the user's may raise
            raise UnsupportedError(
                "the model cannot be sent to other processes",
                where="MCMC, argument n_jobs",
                found=f"{type(reason).__name__}: {reason}",
                expected="a kernel, a model and arguments that pickle",
                todo="Leave out what does not pickle, or run in one process.",
            ) from reason
        # as an array: backends hand large ones over once, not with every task
        self._payload = np.frombuffer(content, np.uint8)
        self._token = str(joblib.hash(content))
        self._plan, self._n_jobs = plan, n_jobs
        self._parallel: joblib.Parallel | None = None
        self._preparing: Iterable[None] = ()
        self._compiled = False  # whether there is compiled code on disk
        self.notes: list[str] = []

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
                yield from self._spread({key: left.pop(key)})
            yield from self._spread(left)
        self._compiled |= compiled

    def _spread(self, tasks: Mapping[int, Task]) -> Iterator[tuple[int, Any]]:
        """Do tasks in the workers.

        Args:
            tasks: by key.

        Yields:
            A key and the result of its task.

        Raises:
            WorkerError: workers are lost again and again.
        """
        left, failures = dict(tasks), 0
        while left:
            try:
                for key, outcome in self._send(left):
                    if isinstance(outcome, _Failure):
                        raise outcome.error()
                    del left[key]
                    failures = 0
                    result, notes = outcome
                    self.notes += [n for n in notes if n not in self.notes]
                    yield key, result
            except _TaskError as reason:
                raise reason.args[0] from reason
            except Exception as reason:  # backends have no error in common
                self._drop()
                failures += 1
                if failures >= _TRIES:
                    raise WorkerError(
                        "workers are lost before they finish a task",
                        where="MCMC, argument n_jobs",
                        found=f"{type(reason).__name__}: {str(reason)[:200]}",
                        expected="workers that live",
                        todo="Look at their memory; finished blocks are kept.",
                    ) from reason

    def close(self) -> None:
        """Let the backend's processes go."""
        if self._parallel is not None:
            _give_up(self._preparing)
            parallel, self._parallel, self._preparing = self._parallel, None, ()
            parallel.__exit__(None, None, None)

    def _prepare(self, task: Task) -> None:
        """Let the workers start and rehearse a task, without waiting for them."""
        if self._parallel is None and (parallel := self._pool()).return_generator:
            call = joblib.delayed(_rehearse)
            count = num_processes(self._n_jobs)
            ready: Any = parallel(
                call(self._token, self._payload, self._plan, task) for _ in range(count)
            )
            self._preparing = ready

    def _pool(self) -> joblib.Parallel:
        if self._parallel is None:
            backend: Any = joblib.parallel.get_active_backend()[0]
            streams = backend.supports_return_generator
            options: dict[str, Any] = {
                "n_jobs": self._n_jobs,
                "batch_size": 1,
                "pre_dispatch": "all",
                "return_as": "generator_unordered" if streams else "list",
            }
            self._parallel = joblib.Parallel(**options)
            self._parallel.__enter__()
        return self._parallel

    def _send(self, tasks: Mapping[int, Task]) -> Iterator[tuple[int, Any]]:
        parallel = self._pool()
        ready, self._preparing = self._preparing, ()
        for _ in ready:  # a pool takes one list of tasks at a time
            pass
        call = joblib.delayed(_perform_in_worker)
        results: Any = parallel(
            call(self._token, self._payload, self._plan, key, task)
            for key, task in tasks.items()
        )
        try:
            yield from results
        finally:
            _give_up(results)

    def _drop(self) -> None:
        """Give up a pool that has lost a worker; the next call makes another."""
        try:
            self.close()
        except Exception:  # it is broken already, and says so
            pass


def _params() -> Any:
    """Pyro's parameters, without the weak references that do not pickle."""
    state: Any = pyro.get_param_store().get_state()
    params = {
        name: value.detach().clone().requires_grad_(value.requires_grad)
        for name, value in state["params"].items()
    }
    return {**state, "params": params}


class _TaskError(Exception):
    """The task itself failed; its error is the argument."""


class _Failure(NamedTuple):
    """An error of the task itself, as it can be sent."""

    content: bytes | None
    text: str

    def error(self) -> _TaskError:
        if self.content is not None:
            return _TaskError(pickle.loads(self.content))
        return _TaskError(RuntimeError(self.text))


def _give_up(results: Any) -> None:
    """Forget results that are still to come; joblib warns of it, we mean it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(results, "close", list)()


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
                _let_memory_stay()
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


def _let_memory_stay() -> None:
    """Have glibc keep freed memory for the next tensor instead of giving it back.

    A worker holds nothing between blocks, so that the end of its heap is free and is
    given back time and again; mapping it anew costs up to half of a block, and two
    thirds in Dask's workers, which set the thresholds low.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: the largest there is
            mallopt(-1, 1 << 29)  # M_TRIM_THRESHOLD


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
        return key, _failure(reason)


def _failure(reason: Exception) -> _Failure:
    text = "".join(traceback.format_exception(reason))
    try:
        content = pickle.dumps(reason)
        pickle.loads(content)
    except Exception:  # an error of the user's own may not pickle
        return _Failure(None, text)
    return _Failure(content, text)
