"""A run under way: its state, its clock, its notes and its store."""

from __future__ import annotations

import contextlib
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from pyro_geo._process import Seconds, uninterrupted
from pyro_geo.engine.commits import StoredRecord
from pyro_geo.engine.densities import KnownDensity
from pyro_geo.engine.identity import Likeness, check_identity, machine
from pyro_geo.engine.progress import Clock
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.errors import CheckpointError, ConvergenceWarning
from pyro_geo.io.names import plain_facts
from pyro_geo.io.store import RunStore, Snapshot

__all__ = ["Session", "interruption", "seed_of_run", "sitting"]

AnySession = TypeVar("AnySession", bound="Session")


class Session(ABC):
    """Everything between the start of a run and its end but the work itself.

    A subclass does the work (:meth:`sample`) and says what a store must hold. After
    each finished piece it calls :meth:`_advance`; whatever ends the run later, the
    pieces before stay, in memory and in the store. Runs on a density are
    :class:`~pyro_geo.engine.density_session.DensitySession`.

    Args:
        record: takes what is finished.
        codec: encodes the state.
        state: before the first step.
        clock: takes the time by phase.
    """

    def __init__(
        self, record: StoredRecord, codec: StateCodec, state: Any, clock: Clock
    ) -> None:
        self.record = record
        self.state = state
        self.interrupted = False
        self._codec, self._clock = codec, clock
        self._notes: list[str] = []
        # values of the density that a run is on, if it is on one
        self._known: dict[str, KnownDensity] = {}

    @property
    def notes(self) -> list[str]:
        """Notes of the sittings before this one, and of this one."""
        return list(dict.fromkeys([*self._notes, *self.subject_notes()]))

    # -- what a subclass writes --------------------------------------------------------

    @abstractmethod
    def sample(self, shown: bool) -> None:
        """Work until nothing is due.

        Args:
            shown: whether to show progress bars.
        """

    @abstractmethod
    def layout(self) -> dict[str, Any]:
        """Variables, counts, chunks and header, as `RunStore.create` asks for them."""

    @abstractmethod
    def live_facts(self) -> dict[str, Any]:
        """Attributes that change from commit to commit."""

    @abstractmethod
    def _count(self) -> None:
        """Hand what the state says is finished over to the record."""

    @abstractmethod
    def _take_over(self, store: RunStore) -> None:
        """Load the record from a store, and compare it with the run of now."""

    def subject_notes(self) -> list[str]:
        """Notes of what the run is on, steps down the ladder say."""
        return []

    @property
    def build_seconds(self) -> Seconds:
        """Time that tracing and compiling have taken."""
        return Seconds()

    @property
    def device(self) -> torch.device:
        """Where tensors of a stored state go."""
        return torch.device("cpu")

    def _contents(self) -> dict[str, Any]:
        """Data, axes and labels of a new store, as `RunStore.create` takes them."""
        return {}

    def _described(self) -> dict[str, Any]:
        """What the header says of the subject of the run, beside its identity."""
        return {}

    def _recognise(
        self, where: str, header: Mapping[str, Any], identity: dict[str, Any]
    ) -> Likeness | None:
        """Refuse a store of another run, before its state is read.

        Args:
            where: the store, for the message.
            header: of the store.
            identity: of the run of now.

        Returns:
            How much is the same that need not be; None where nothing is compared.
        """
        check_identity(where, header, identity)
        return None

    @abstractmethod
    def _confirm(self, store: RunStore, likeness: Likeness | None) -> None:
        """Refuse a store whose state or values show that it is of another run.

        Args:
            store: of the run; the state is restored.
            likeness: what :meth:`_recognise` has returned.
        """

    # -- the store -------------------------------------------------------------------

    def attach(
        self,
        path: str | os.PathLike[str],
        store: RunStore | None,
        identity: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        """Begin a store, or go on from one.

        Args:
            path: the folder of a new store.
            store: that of the run to go on with, open; None begins a new one.
            identity: tells this run from others.
            facts: attributes of the draws in a new store.
        """
        if store is None:
            self._create(path, identity, facts)
        else:
            self._restore(store, identity)

    def _create(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        layout = self.layout()
        header = {
            **identity,
            **self._described(),
            "machine": machine(),
            "torch_version": torch.__version__,
            "python_version": platform.python_version(),
            **layout["header"],
        }
        store = RunStore.create(
            path,
            **{**layout, "header": header},
            **self._contents(),
            state=self._snapshot(0),
            facts=plain_facts(facts),
        )
        self.record.begin(store)

    def _restore(self, store: RunStore, identity: dict[str, Any]) -> None:
        where = f"store {store.path}"
        likeness = self._recognise(where, store.header, identity)
        doc, arrays = store.load()
        restored = self._codec.restore(doc["state"], arrays, self.device)
        self.state, self._known = _parts(where, restored)
        self._confirm(store, likeness)
        self._notes = list(doc["notes"])
        # this sitting's time is added to that of the sittings before
        phases = self._clock.phases
        for name, seconds in doc["seconds"].items():
            phases[name] = phases.get(name, Seconds()) + Seconds(*seconds)
        self._take_over(store)

    def _snapshot(self, commit: int) -> Snapshot:
        taken = self._codec.snapshot((self.state, self._known), commit)
        doc = {
            "state": taken.doc,
            "notes": self.notes,
            "seconds": {k: list(v) for k, v in self._clock.phases.items()},
        }
        return taken._replace(doc=doc)

    def _commit(self, facts: dict[str, Any] | None = None, **options: bool) -> None:
        if (commits := self.record.commits) is None:
            return
        facts = plain_facts({**self.live_facts(), **(facts or {})})
        self.record.commit(self._snapshot(commits.next_commit), facts, **options)

    # -- running ---------------------------------------------------------------------

    def run(self, shown: bool, keep: Callable[[], None]) -> None:
        """Work to the end or to an interrupt.

        Args:
            shown: whether to show progress bars.
            keep: takes over what is finished, whatever has ended the work.

        Raises:
            KeyboardInterrupt: it came before anything was finished.
        """
        try:
            self.sample(shown)
        except KeyboardInterrupt:
            if not self.record.num_draws:
                raise
            self.interrupted = True
        finally:
            keep()

    def _storing(self, phase: str) -> str:
        """The phase that storing is charged to; its own where there is a store."""
        return phase if self.record.store is None else "storing"

    def _advance(self, state: Any, phase: str) -> None:
        """Let a finished piece count; an interrupt waits until it does.

        Args:
            state: after the piece.
            phase: that the time is charged to where there is no store.
        """
        with self._clock.phase(self._storing(phase)), uninterrupted():
            self.state = state
            self._count()
            self._commit()

    def finish(self, facts: dict[str, Any]) -> None:
        """Say in the store how the run has ended.

        Args:
            facts: attributes of the draws.
        """
        with uninterrupted():
            self._commit(facts, finished=not self.interrupted, wait=True)

    def close(self) -> None:
        """Let the store go."""
        self.record.close()


def _parts(where: str, restored: Any) -> tuple[Any, dict[str, KnownDensity]]:
    """Take a snapshot apart: the state, and what is known of the density."""
    if isinstance(restored, tuple) and len(restored) == 2:
        state, known = restored
        if isinstance(known, dict):
            if all(isinstance(one, KnownDensity) for one in known.values()):
                return state, known
    raise CheckpointError(
        "the store is damaged",
        where=f"{where}, its state",
        found=type(restored).__name__,
        expected="a state, and values of the density",
        todo="Begin anew; the draws can be read.",
    )


@contextmanager
def sitting(
    begin: Callable[[RunStore | None], AnySession],
    path: str | os.PathLike[str] | None,
    clock: Clock,
) -> Iterator[AnySession]:
    """Put a session together, and let its workers and its store go at the end.

    Args:
        begin: makes the session, given the open store of a run to go on with.
        path: the folder of that store; None for a new run.
        clock: takes the time by phase, this one as `start`.

    Yields:
        The session.
    """
    with contextlib.ExitStack() as cleanup:
        with clock.phase("start"):
            store = None
            if path is not None:
                store = RunStore.open(path)
                cleanup.callback(store.close)
            session = begin(store)
            cleanup.callback(session.close)
        clock.building = lambda: session.build_seconds
        yield session


def seed_of_run(seed: int | None, store: RunStore | None) -> int:
    """Choose the seed of a run.

    Args:
        seed: as the user gave it.
        store: of the run to go on with.

    Returns:
        The user's, else that in the store, else one from torch's global generator.

    Example:
        >>> seed_of_run(7, None)
        7
    """
    if seed is not None:
        return int(seed)
    if store is not None:
        return store.header.get("seed", -1)
    return int(torch.randint(2**62, ()))


def interruption(where: str, found: str, expected: str) -> ConvergenceWarning:
    """Say that a run was cut short.

    Args:
        where: method of the run.
        found: how far it came.
        expected: how far it should have come.

    Returns:
        The warning.
    """
    return ConvergenceWarning(
        "the run was interrupted",
        where=where,
        found=found,
        expected=expected,
        todo="use what is finished, run again, or resume it",
    )
