"""A run of the tracker over all reports: durable, in blocks, in several processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch

from pyro_geo._process import one_thread
from pyro_geo.checks import check, check_choice, check_count, check_shape
from pyro_geo.engine.attributes import run_attributes
from pyro_geo.engine.descriptions import describe
from pyro_geo.engine.progress import Clock
from pyro_geo.engine.schedule import split_chains
from pyro_geo.engine.series import SeriesRecord
from pyro_geo.engine.series_session import SeriesSession
from pyro_geo.engine.session import interruption, sitting
from pyro_geo.errors import ConfigurationError
from pyro_geo.filtering.tracker.blocks import TrackFilter
from pyro_geo.filtering.tracker.naming import names_of
from pyro_geo.filtering.tracker.reports import Reports, as_reports
from pyro_geo.filtering.tracker.review import review
from pyro_geo.filtering.tracker.track import Track
from pyro_geo.io.names import SERIES_DIMS
from pyro_geo.io.store import RunStore

if TYPE_CHECKING:
    from pyro_geo.filtering.tracker.tracker import BoundedTracker

__all__ = ["RunOptions", "extend", "run"]

_LANES = 1024  # tracks that run side by side
_VALUES = 1 << 16  # steps of all tracks in a block, so that it ends within seconds
_STEPS = 1024


class RunOptions(NamedTuple):
    """Options of :meth:`BoundedTracker.filter` and its like.

    Attributes:
        dtype: floating type; that of the reports if None.
        compile: `"auto"` compiles the step at the start of a run where the reports to
            come pay for it, by the size of its graph alone; `True` in any case,
            `False` never.
        n_jobs: groups of tracks that are run at the same time, each in a process of
            joblib's backend; as the surrounding `joblib.parallel_config` says if None.
            Results do not depend on it.
        track_batch_size: run at most this many tracks side by side; 1,024 if None.
        block_steps: steps of a block, after which the run is stored and can be
            interrupted; some ten thousand steps of all tracks together if None.
        labels: of the tracks, their numbers if None.
        progress_bar: whether to show one.
        memory_limit: bytes of results to hold in memory where there is a store; beyond
            it they are there alone, and are read when they are asked for.
        seed: what draws of states are a function of; the filter needs none.
    """

    dtype: torch.dtype | None = None
    compile: Literal["auto"] | bool = "auto"
    n_jobs: int | None = None
    track_batch_size: int | None = None
    block_steps: int | None = None
    labels: Sequence[object] | None = None
    progress_bar: bool = True
    memory_limit: int = 1 << 30
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Check the options of a call.

        Args:
            options: by name.

        Returns:
            All options.

        Raises:
            ConfigurationError: there is no such option.
        """
        unknown = sorted(set(options) - set(cls._fields))
        if unknown:
            raise ConfigurationError(
                "unknown option",
                where="BoundedTracker.filter",
                found=unknown,
                expected=f"some of {list(cls._fields)}",
                todo="Look at its spelling.",
            )
        new = cls(**options)
        check_choice("compile", new.compile, ("auto", True, False))
        check_count("track_batch_size", new.track_batch_size)
        check_count("block_steps", new.block_steps)
        check_count("memory_limit", new.memory_limit, 0)
        counted = new.n_jobs is None or (isinstance(new.n_jobs, int) and new.n_jobs)
        check(bool(counted), "n_jobs", new.n_jobs, "a count, -1, or None")
        return new


def run(
    tracker: BoundedTracker,
    reports: Reports,
    options: RunOptions,
    store: str | os.PathLike[str] | None,
    *,
    resume: bool,
    before: Track | None = None,
) -> Track:
    """Filter reports, from the first or from where an earlier run ended.

    Args:
        tracker: the tracker.
        reports: all of them, from the first on.
        options: of the run.
        store: the folder of the run, if it has one.
        resume: whether to go on with what is there.
        before: a run in memory to go on with.

    Returns:
        The result.
    """
    num_tracks = reports.y.shape[0]
    labels = list(range(num_tracks) if options.labels is None else options.labels)
    good = len(labels) == num_tracks and len(set(labels)) == num_tracks
    check(good, "labels", labels, f"{num_tracks} different ones")
    params = tracker._fixed()
    dtype = reports.y.dtype
    params = type(params)(*(param.to(reports.y) for param in params))
    groups = split_chains(num_tracks, options.track_batch_size or _LANES)
    lanes = len(groups[0])
    most = max(16, min(_STEPS, _VALUES // lanes))
    block_steps = options.block_steps or most
    filter = TrackFilter(tracker.runs, params, reports, groups, tracker._lifted)
    record = SeriesRecord(
        filter.variables, num_tracks, SERIES_DIMS, options.memory_limit
    )
    names = names_of(tracker.runs)
    coords = {
        "track": labels,
        "state": list(names.state),
        "state_other": list(names.state),
        "mode": list(names.mode),
        "dynamics": list(names.dynamics),
        "channel": list(names.channel),
    }
    clock = Clock()
    facts: dict[str, Any] = {}

    def begin(opened: RunStore | None) -> SeriesSession:
        session = SeriesSession(
            filter,
            record,
            block_steps=block_steps,
            compile=options.compile,
            n_jobs=options.n_jobs,
            clock=clock,
            facts=lambda: _facts(tracker, filter, session, options, clock),
            coords=coords,
            where="BoundedTracker.filter",
        )
        if store is not None:
            identity = {
                "kernel": "BoundedTracker",
                "seed": options.seed,
                "settings": {"runs": describe(tracker.runs)},
                "run": {
                    "dtype": str(dtype),
                    "num_tracks": num_tracks,
                    "track_batch_size": lanes,
                    "block_steps": block_steps,
                    "params": describe(tuple(params)),
                },
            }
            session.attach(store, opened, identity, session.live_facts())
        if before is not None and store is None:
            session.continue_from(before.end, before.values)
        return session

    with one_thread(), sitting(begin, store if resume else None, clock) as session:
        session.run(options.progress_bar, lambda: None)
        found = review(record)
        if session.interrupted:
            done, wanted = f"{record.num_steps} reports", str(filter.num_steps)
            found.append(interruption("BoundedTracker.filter", done, wanted))
        notes = [*session.notes, *(f"{type(w).__name__}: {w}" for w in found)]
        facts = _facts(tracker, filter, session, options, clock, notes)
        session.finish(facts)
        end = session.state
        interrupted = session.interrupted
    for warning in found:
        warnings.warn(warning, stacklevel=3)
    shown = options._replace(labels=labels, dtype=dtype)
    return Track(
        record,
        tracker=tracker,
        end=end,
        options={**shown._asdict(), "store": store},
        timings=clock.phases,
        interrupted=interrupted,
        dims={v.name: list(v.dims) for v in filter.variables if v.dims},
        coords=coords,
        attributes=facts,
        notes=notes,
        citations=tracker.citations,
        seed=options.seed,
    )


def extend(
    tracker: BoundedTracker, track: Track, y: Any, t: Any, mask: Any, dt: Any
) -> Track:
    """Go on with later reports; see :meth:`Track.extend`.

    Args:
        tracker: that has made the track.
        track: so far.
        y: the new reports.
        t: their times.
        mask: True where there is a report.
        dt: time between reports where there are no times.

    Returns:
        The longer track.
    """
    settings = dict(track._options)
    store = settings.pop("store")
    options = RunOptions(**settings)
    old = Reports(track.y, track.t, ~track.y.isnan().any(-1))
    last = float(old.t[0, -1]) if dt is not None else 0.0
    new = as_reports(
        y,
        t,
        mask,
        dt,
        size=tracker.runs.plan.measurement.size,
        dtype=old.y.dtype,
        first=last + (dt or 0.0),
    )
    check_shape("y", new.y.shape, (old.y.shape[0], *new.y.shape[1:]))
    reports = old.then(new)
    return run(tracker, reports, options, store, resume=store is not None, before=track)


def _facts(
    tracker: BoundedTracker,
    filter: TrackFilter,
    session: SeriesSession,
    options: RunOptions,
    clock: Clock,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    return run_attributes(
        filter,
        {
            "num_tracks": session.record.num_series,
            "num_steps": session.record.num_steps,
            "rung": session.state.rung,
            "plane": " ".join(names_of(tracker.runs).position),
        },
        model=repr(tracker),
        kernel="BoundedTracker",
        seed=options.seed,
        timings=clock.phases,
        interrupted=session.interrupted,
        notes=notes or session.notes,
        citations=tracker,
    )
