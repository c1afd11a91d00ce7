"""How far a run is, and where its time went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Self, TypeVar

from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.density.compiling import showing_compilation
from pyro_geo.engine._bars import make_bar

__all__ = ["Clock", "Progress"]

Step = TypeVar("Step")


class Clock:
    """Time by phase of a run, with tracing and compiling as a phase of its own.

    Example:
        >>> clock = Clock()
        >>> with clock.phase("start"):
        ...     total = sum(range(10))
        >>> list(clock.phases)
        ['start', 'compile']
    """

    def __init__(self) -> None:
        self.phases: dict[str, Seconds] = {}
        self.building: Callable[[], Seconds] = Seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens inside to one phase, but building to `compile`."""
        start, built = Seconds.now(), self.building()
        try:
            yield
        finally:
            building = self.building() - built
            spent = Seconds.now() - start - building
            for key, seconds in ((name, spent), ("compile", building)):
                self.phases[key] = self.phases.get(key, Seconds()) + seconds

    def timed(self, name: str, steps: Iterable[Step]) -> Iterator[Step]:
        """Charge the steps of an iterator to a phase, but not what is done between.

        Args:
            name: of the phase.
            steps: the iterator.

        Yields:
            Its items.
        """
        iterator = iter(steps)
        while True:
            with self.phase(name):
                try:
                    step = next(iterator)
                except StopIteration:
                    return
            yield step


class Progress:
    """A progress bar over blocks, with divergences and acceptance where there are any.

    It is one line in a terminal, a widget or one line in a notebook, and a few lines
    in a log file: at the start, at each tenth of the way, at the end. While it is open
    it also shows what is compiled.

    Args:
        what: what is being done.
        total: steps or draws of each chain.
        unit: what is counted.
        shown: whether to show anything.
    """

    def __init__(self, what: str, total: int, unit: str, shown: bool) -> None:
        self.what = what
        self._diverging = self._draws = 0
        self._accepted = 0.0
        self._shown: dict[str, str] = {}
        self._bar = make_bar(what, total, unit, shown and total > 0)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.callback(self._bar.close)
        self._open.enter_context(showing_compilation(self.compiling))
        return self

    def __exit__(self, *reason: object) -> None:
        self._open.close()

    @contextmanager
    def compiling(self, operations: int) -> Iterator[None]:
        """Show that a graph is being compiled, and how large it is."""
        self._bar.set_description(_compiling(operations))
        try:
            yield
        finally:
            self._bar.set_description(self.what)

    def count(self, stats: Mapping[str, Tensor]) -> None:
        """Count divergences and acceptance of a block's draws."""
        if "diverging" in stats:
            self._diverging += int(stats["diverging"].sum())
            self._shown["diverging"] = str(self._diverging)
        if "acceptance_rate" in stats:
            rate = stats["acceptance_rate"]
            self._draws += rate.numel()
            self._accepted += float(rate.sum())
            self._shown["acceptance"] = f"{self._accepted / self._draws:.2f}"

    def show(
        self, done: int, facts: Mapping[str, str], to_compile: int | None = None
    ) -> None:
        """Move the bar.

        Args:
            done: steps or draws finished by now.
            facts: to show beside, by name.
            to_compile: operations of the graph that is compiled next; None if that is
                none. Another process may compile it.
        """
        coming = self.what if to_compile is None else _compiling(to_compile)
        self._bar.set_description(coming, refresh=False)
        self._bar.set_postfix(self._shown | dict(facts), refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()


def _compiling(operations: int) -> str:
    return f"compiling a graph of {operations:,} operations"
