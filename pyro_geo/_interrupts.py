"""Ctrl-C at a better moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ignored", "uninterrupted"]


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
