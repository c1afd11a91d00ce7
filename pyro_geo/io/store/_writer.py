"""Writing in a thread of its own, so that sampling does not wait for a slow disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Writer"]

_WAITING = 1 << 26  # bytes that may wait to be written


class Writer:
    """Do jobs one after another in a thread, none after one that has failed.

    Example:
        >>> writer, done = Writer(), []
        >>> for number in range(3):
        ...     writer.submit(done.append, number)
        >>> writer.flush()
        >>> done
        [0, 1, 2]
        >>> writer.close()
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        """Error of the job that failed, if one has."""
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._bytes = 0

    def submit(
        self, job: Callable[..., object], *args: Any, size: int = 0, **options: Any
    ) -> None:
        """Do a job once those before it are done; wait where much is waiting.

        An error other than an `OSError` is raised here, or by :meth:`flush`.

        Args:
            job: what to call.
            *args: of the call.
            size: bytes that are held until it is done.
            **options: of the call.
        """
        assert self._pool is not None
        while self._waiting and (
            self._waiting[0][0].done() or self._bytes + size > _WAITING
        ):
            self._take()
        future = self._pool.submit(self._do, job, args, options)
        self._waiting.append((future, size))
        self._bytes += size

    def flush(self) -> None:
        """Wait until every job is done."""
        while self._waiting:
            self._take()

    def close(self) -> None:
        """Wait for all jobs, and end the thread."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        # a copy, as workers get one, starts without jobs
        return {
            "failure": self.failure,
            "_pool": None,
            "_waiting": deque(),
            "_bytes": 0,
        }

    def _take(self) -> None:
        future, size = self._waiting.popleft()
        self._bytes -= size
        future.result()

    def _do(
        self, job: Callable[..., object], args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        if self.failure is not None:
            return
        try:
            job(*args, **options)
        except OSError as reason:
            self.failure = reason
