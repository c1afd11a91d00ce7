"""A pool of processes of joblib's that survives the loss of some of them."""

from __future__ import annotations

import contextlib
import ctypes
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle
import numpy as np

from pyro_geo.errors import UnsupportedError, WorkerError

if TYPE_CHECKING:
    import joblib

__all__ = ["Failure", "JoblibPool", "let_memory_stay", "num_processes", "packed"]

_TRIES = 5  # failures in a row without a single task done


def num_processes(n_jobs: int | None) -> int:
    """How many processes joblib would use; None is what its context says."""
    import joblib

    jobs: Any = n_jobs  # joblib's annotation leaves None out
    return joblib.effective_n_jobs(jobs)


def packed(parcel: object, where: str) -> tuple[str, np.ndarray]:
    """Pickle what every process needs, once.

    Args:
        parcel: the object.
        where: the argument that asks for processes, for the message.

    Returns:
        A token, and the content as an array: backends hand large ones over once, not
        with every task.

    Raises:
        UnsupportedError: something in it does not pickle.
    """
    import joblib

    try:
        content = cloudpickle.dumps(parcel)
    except Exception as reason:  # whatever an object of the user's may raise
        raise UnsupportedError(
            "the model cannot be sent to other processes",
            where=where,
            found=f"{type(reason).__name__}: {reason}",
            expected="a kernel, a model and arguments that pickle",
            todo="Leave out what does not pickle, or run in one process.",
        ) from reason
    return str(joblib.hash(content)), np.frombuffer(content, np.uint8)


class JoblibPool:
    """Send tasks out through one reused `joblib.Parallel`.

    A task that was lost, because its worker was killed say, is sent out again: it is a
    pure function, so its result is the same.

    Args:
        perform: does one task in a worker, `perform(*common, key, task)`. It returns
            the key with the result and notes, or with a :class:`Failure`.
        common: what every call gets.
        n_jobs: number of processes, as joblib understands it.
        where: the argument that asks for processes, for messages.
    """

    def __init__(
        self,
        perform: Callable[..., tuple[Any, Any]],
        common: tuple[Any, ...],
        n_jobs: int | None,
        where: str,
    ) -> None:
        self._perform, self._common = perform, common
        self._n_jobs, self._where = n_jobs, where
        self._parallel: joblib.Parallel | None = None
        self._preparing: Iterable[None] = ()
        self.notes: list[str] = []

    def spread(self, tasks: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
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
                    if isinstance(outcome, Failure):
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
                        where=self._where,
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

    def _pool(self) -> joblib.Parallel:
        import joblib

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

    def _send(self, tasks: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        import joblib

        parallel = self._pool()
        ready, self._preparing = self._preparing, ()
        for _ in ready:  # a pool takes one list of tasks at a time
            pass
        call = joblib.delayed(self._perform)
        results: Any = parallel(
            call(*self._common, key, task) for key, task in tasks.items()
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


class _TaskError(Exception):
    """The task itself failed; its error is the argument."""


class Failure(NamedTuple):
    """An error of the task itself, as it can be sent."""

    content: bytes | None
    text: str

    @classmethod
    def of(cls, reason: Exception) -> Failure:
        """Describe an error."""
        text = "".join(traceback.format_exception(reason))
        try:
            content = pickle.dumps(reason)
            pickle.loads(content)
        except Exception:  # an error of the user's own may not pickle
            return cls(None, text)
        return cls(content, text)

    def error(self) -> _TaskError:
        """Make the error again, as the cause of a failed task."""
        if self.content is not None:
            return _TaskError(pickle.loads(self.content))
        return _TaskError(RuntimeError(self.text))


def _give_up(results: Any) -> None:
    """Forget results that are still to come; joblib warns of it, we mean it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(results, "close", list)()


def let_memory_stay() -> None:
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
