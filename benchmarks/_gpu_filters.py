"""Filters on both devices: the bounded tracker and hierarchical Gaussian filters."""

import os

import torch
from _gpu_case import Case, Result, Work, numbers
from torch import Tensor

from pyro_geo.filtering import BoundedTracker, hgf_filter
from pyro_geo.filtering.hgf.run import Backend


def reports(tracks: int, steps: int) -> tuple[Tensor, Tensor]:
    """Reports of targets in a plane, with some that are far off and some missing."""
    t = 5.0 * torch.arange(steps)
    path = torch.stack([100 * t, 40 * t], -1)
    y = path + 30 * numbers(tracks, steps, 2)
    wrong = numbers(tracks, steps, seed=1) > 1.5
    y[wrong] += 2000.0
    y[numbers(tracks, steps, seed=2) > 2.0] = torch.nan
    return y, t


def tracker(tracks: int, steps: int, compile: bool, lanes: int | None = None) -> Case:
    """Filter all tracks, steps traced or compiled."""
    y, t = (x.double() for x in reports(tracks, steps))

    def make(device: torch.device) -> Work:
        here = y.to(device), t.to(device)
        filters = BoundedTracker.preset("terminal", noise=30.0)

        def work() -> Result:
            found = filters.filter(
                *here, compile=compile, track_batch_size=lanes, progress_bar=False
            )
            return {"mean of the state": found.mean, "evidence": found.log_evidence}

        return work

    return Case(make, 1e-6)


def hgf(series: int, steps: int, backend: Backend, gradient: bool = False) -> Case:
    """Filter many series by two levels; the compiled backend is for processors."""
    u = 0.1 * numbers(series, steps, dtype=torch.float64).cumsum(-1)

    def make(device: torch.device) -> Work:
        here = u.to(device)
        start = torch.tensor([-3.0, -4.0], dtype=torch.float64, device=device)
        omega = start.expand(series, 2).clone().requires_grad_(gradient)

        def work() -> Result:
            found = hgf_filter(
                here,
                omega=omega,
                kappa=[1.0],
                mu0=[0.0, 0.0],
                pi0=[1.0, 1.0],
                input_precision=100.0,
                backend=backend,
            )
            nats = found.surprise.sum()
            if not gradient:
                return {"beliefs": found.mu.detach(), "surprise": nats.detach()}
            (slope,) = torch.autograd.grad(nats, omega)
            return {"gradient": slope}

        return work

    return Case(make, 1e-8, threads=os.cpu_count() or 1)


def cases(quick: bool) -> dict[str, Case]:
    """Name the cases."""
    if quick:
        return {
            "tracker, 8 tracks x 10": tracker(8, 10, False),
            "HGF, 4 series x 10": hgf(4, 10, "torch"),
        }
    return {
        "tracker traced, 4,096 tracks x 20": tracker(4096, 20, False),
        "tracker traced, 16,384 tracks x 8": tracker(16384, 8, False, 16384),
        "HGF torch, 64 series x 100": hgf(64, 100, "torch"),
        "HGF torch, 65,536 series x 20": hgf(65536, 20, "torch"),
        "HGF torch with gradient, 65,536 series x 20": hgf(65536, 20, "torch", True),
        "HGF auto, 65,536 series x 20": hgf(65536, 20, "auto"),
    }
