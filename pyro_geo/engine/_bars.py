"""Progress bars for a terminal, a notebook and a log file."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from tqdm.std import tqdm

__all__ = ["Bar", "LogLines", "make_bar"]

_TENTHS = 10


class Bar(Protocol):
    """What shows how far a run is; tqdm's bars are such."""

    n: Any

    def set_description(self, desc: str, refresh: bool = True) -> None:
        """Say what is being done."""
        ...

    def set_postfix(self, ordered_dict: Mapping[str, str], refresh: bool = True) -> Any:
        """Show facts beside."""
        ...

    def update(self, n: int) -> Any:
        """Count steps that are finished."""
        ...

    def refresh(self) -> Any:
        """Show all of it."""
        ...

    def close(self) -> None:
        """Show the end."""
        ...


def make_bar(what: str, total: int, unit: str, shown: bool) -> Bar:
    """Make the bar that suits the place where it is shown.

    Args:
        what: what is being done.
        total: steps to be counted.
        unit: what is counted.
        shown: whether to show anything.

    Returns:
        A bar.
    """
    options: dict[str, Any] = {"total": total, "unit": unit, "desc": what}
    if not shown or sys.stderr is None:
        return tqdm(**options, disable=True)
    if _in_notebook():
        # without widgets, tqdm's own choice would warn: there a text bar will do
        if importlib.util.find_spec("ipywidgets") is not None:
            from tqdm.notebook import tqdm as widget

            return widget(**options)
        return tqdm(**options)
    if _in_terminal():
        return tqdm(**options, dynamic_ncols=True)  # never wider than the terminal
    return LogLines(what, total, unit)


def _in_notebook() -> bool:
    """Say whether this is a Jupyter kernel, which shows the output of cells."""
    shell = sys.modules.get("IPython")
    current = None if shell is None else shell.get_ipython()
    # Colab's shell is a subclass
    names = [base.__name__ for base in type(current).__mro__]
    return "ZMQInteractiveShell" in names


def _in_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # a plain writer, or one that is closed
        return False


class LogLines:
    """A few lines for a log file: the start, each tenth of the way, and the end.

    Args:
        what: what is being done.
        total: steps to be counted.
        unit: what is counted.

    Example:
        >>> import contextlib, io
        >>> with contextlib.redirect_stderr(io.StringIO()) as log:
        ...     lines = LogLines("sample", 1000, "draw")
        ...     for _ in range(1000):
        ...         lines.update(1)
        ...         lines.refresh()
        ...     lines.close()
        >>> len(log.getvalue().splitlines())
        11
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.n = 0
        self._what, self._total, self._unit = what, total, unit
        self._facts = ""
        self._written = -1  # tenths of the way
        self._start = time.monotonic()
        self.refresh()

    def set_description(self, desc: str, refresh: bool = True) -> None:
        """Say what is being done, in a line of its own if that is new."""
        if desc == self._what:
            return
        self._what = desc
        if refresh:
            _print(desc)

    def set_postfix(
        self, ordered_dict: Mapping[str, str], refresh: bool = True
    ) -> None:
        """Keep facts for the next line."""
        self._facts = "".join(f", {k}={v}" for k, v in ordered_dict.items())
        if refresh:
            self.refresh()

    def update(self, n: int) -> None:
        """Count steps that are finished."""
        self.n += n

    def refresh(self) -> None:
        """Write a line where another tenth of the way is done."""
        tenth = _TENTHS * self.n // self._total
        if tenth > self._written:
            self._written = tenth
            self._write()

    def close(self) -> None:
        """Write a line where a run has ended early, between two tenths."""
        if 0 < self.n < self._total:
            self._write()

    def _write(self) -> None:
        seconds = time.monotonic() - self._start
        share = 100 * self.n // self._total
        _print(
            f"{self._what}: {share}%, {self.n}/{self._total} {self._unit}s, "
            f"{seconds:.0f} s{self._facts}"
        )


def _print(line: str) -> None:
    """Write a line; a log that is gone, as tqdm has it too, stops no run."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
