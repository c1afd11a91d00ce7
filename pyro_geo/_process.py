"""The process we run in: its clocks, its threads, and when Ctrl-C may strike."""

from __future__ import annotations

import contextvars
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = [
    "Seconds",
    "alone",
    "free_threads",
    "ignored",
    "one_thread",
    "outside",
    "uninterrupted",
]

_before: list[int] = []  # torch's number of threads outside of `one_thread`


class Seconds(NamedTuple):
    """Seconds of the processor, processes started from here included, and of the wall.

    Attributes:
        cpu: processor seconds.
        wall: wall seconds.

    Example:
        >>> Seconds(1.0, 2.0) + Seconds(0.5, 0.5)
        Seconds(cpu=1.5, wall=2.5)
    """

    cpu: float = 0.0
    wall: float = 0.0

    @classmethod
    def now(cls) -> Self:
        """Read both clocks; only differences mean anything."""
        times = os.times()  # a compiler runs as a child
        children = times.children_user + times.children_system
        return cls(time.process_time() + children, time.perf_counter())

    def __add__(self, other: Seconds) -> Seconds:  # type: ignore[override]
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.cpu - other.cpu, self.wall - other.wall)


def alone(name: str) -> FileLock:
    """Lock out this user's other processes on this machine.

    Of several that need a compiled function, one then compiles it, and the others load
    what it has stored.

    Args:
        name: of what is locked.

    Returns:
        The lock, a context manager.
    """
    from filelock import FileLock

    user = getattr(os, "getuid", lambda: 0)()
    return FileLock(Path(tempfile.gettempdir()) / f"pyro_geo_{user}_{name}.lock")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread.

    Sums then keep their order whatever the machine's cores, and small operations are
    spared the pool of threads, which costs more than they do.
    """
    before = torch.get_num_threads()
    _before.append(before)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _before.pop()
        torch.set_num_threads(before)


def free_threads() -> int:
    """Count the threads for large work whose result does not depend on their number.

    Such an operation, on lanes that know nothing of each other, may use them inside of
    :func:`one_thread` too.

    Returns:
        What torch had before, its own number outside.

    Example:
        >>> with one_thread():
        ...     inside = free_threads()
        >>> inside == free_threads() == torch.get_num_threads()
        True
    """
    return _before[0] if _before else torch.get_num_threads()


def outside(fn: Callable[..., Any], *inputs: Any, grad: bool) -> Any:
    """Call a function where no trace and no transform is under way, in a thread.

    These belong to a thread, and cannot be nested where an operation runs for one.

    Args:
        fn: runs on one thread of torch's.
        *inputs: of the function.
        grad: whether operations inside are recorded for derivatives.

    Returns:
        What the function returns.

    Example:
        >>> one = torch.ones((), requires_grad=True)
        >>> outside(torch.exp, one, grad=False).requires_grad
        False
    """

    def call() -> Any:
        with torch.set_grad_enabled(grad), one_thread():
            return fn(*inputs)

    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(context.run, call).result()


@contextmanager
def uninterrupted(*, insist: bool = True) -> Iterator[None]:
    """Put an interrupt off until the end of something that must be done whole.

    Args:
        insist: put off all of them; otherwise the second is raised at once, which is
            for work that may take long.
    """
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        if len(caught) > 1 and not insist:
            raise KeyboardInterrupt

    try:
        with _handled_by(note):
            yield
    finally:
        if caught:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def ignored() -> Iterator[None]:
    """Leave Ctrl-C to the driver: a terminal sends it to the workers too."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(
    handler: Callable[[int, Any], None] | signal.Handlers,
) -> Iterator[None]:
    """Handle interrupts so, in the main thread; there is no other that could."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
