"""The attributes that every run has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyro
import torch

import pyro_geo
from pyro_geo._process import Seconds
from pyro_geo.citations import citation

__all__ = ["Facts", "RunTimes", "run_attributes", "time_facts"]

Facts = dict[str, str | int | float]


class RunTimes:
    """Where the time of a run went. A subclass fills `timings`.

    Example:
        >>> times = RunTimes()
        >>> times.timings = {"start": Seconds(1.0, 2.0), "sampling": Seconds(3.0, 4.0)}
        >>> times.cpu_seconds, times.seconds
        (4.0, 6.0)
    """

    timings: dict[str, Seconds]
    """Processor and wall seconds by phase."""

    @property
    def seconds(self) -> float:
        """Wall seconds of the run."""
        return sum(phase.wall for phase in self.timings.values())

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of the run."""
        return sum(phase.cpu for phase in self.timings.values())


def time_facts(timings: Mapping[str, Seconds]) -> Facts:
    """Sum up the seconds of a run.

    Args:
        timings: by phase.

    Returns:
        Wall and processor seconds by the names of attributes.

    Example:
        >>> time_facts({"start": Seconds(1.0, 2.0), "sampling": Seconds(3.0, 4.0)})
        {'sampling_time': 6.0, 'processor_time': 4.0}
    """
    return {
        "sampling_time": round(sum(phase.wall for phase in timings.values()), 3),
        "processor_time": round(sum(phase.cpu for phase in timings.values()), 3),
    }


class Subject(Protocol):
    """What a run is on: a density, or a filter."""

    @property
    def dim(self) -> int:
        """Numbers in a state."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating type."""
        ...


def run_attributes(
    target: Subject,
    own: Mapping[str, str | int | float],
    *,
    model: str,
    kernel: str,
    seed: int,
    timings: Mapping[str, Seconds],
    interrupted: bool,
    notes: Sequence[str],
    citations: object,
) -> Facts:
    """Describe a run: what it was, what it cost, and by which versions.

    Args:
        target: the density, or what else the run is on.
        own: what only runs of this kind have, its counts and diagnostics.
        model: its name.
        kernel: name of the kernel or sampler.
        seed: of the run.
        timings: seconds by phase.
        interrupted: whether it was cut short.
        notes: what it had to say.
        citations: an object whose `citations` name the works behind it.

    Returns:
        Texts and numbers by name.
    """
    return {
        "model": model,
        "kernel": kernel,
        "seed": seed,
        "dim": target.dim,
        "dtype": str(target.dtype).removeprefix("torch."),
        **own,
        **time_facts(timings),
        "interrupted": int(interrupted),
        "inference_library": "pyro_geo",
        "inference_library_version": pyro_geo.__version__,
        "torch_version": torch.__version__,
        "pyro_version": pyro.__version__,
        "notes": "\n".join(notes),
        "citation": citation(citations),
    }
