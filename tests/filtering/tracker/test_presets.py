"""A preset for each domain, and the mistakes that are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pyro_geo.errors import ConfigurationError
from pyro_geo.filtering import BoundedTracker
from pyro_geo.filtering.tracker.dynamics import Cruise, Level, NearConstantVelocity
from pyro_geo.filtering.tracker.measurements import Position
from pyro_geo.filtering.tracker.presets import PRESETS, preset
from pyro_geo.filtering.tracker.runs import Runs
from pyro_geo.filtering.tracker.sensors import Biased, Decoy, Random, Stuck
from tests.filtering.tracker.scenes import F64, follow, stacked, walk
from tests.filtering.tracker.test_runs_ladder import made


def reports(name: str, steps: int):
    """Draw a quiet track that suits a preset, `(steps, m, 2)`."""
    generator = torch.Generator().manual_seed(7)
    time = torch.arange(steps, dtype=F64)[:, None]
    size = 1 if name == "level" else 2
    noise = torch.randn(steps, size, 2, dtype=F64, generator=generator)
    if name == "level":
        return 30.0 * noise
    if name == "lidar":
        x, y = 30.0 + 0.5 * time, 10.0 + 0.3 * time
        polar = torch.stack([torch.hypot(x, y), torch.atan2(y, x)], 1)
        return polar + noise * torch.tensor([[0.15], [0.01]], dtype=F64)
    speed = {"terminal": 120.0, "en_route": 220.0, "rover": 1.4}[name]
    place = torch.stack([speed * time, 0.1 * speed * time], 1)
    return place + 30.0 * noise


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_quiet_track_is_believed(name):
    _, told = follow(made(name), reports(name, 40))
    assert stacked(told, "p_nominal")[20:].mean() > 0.9
    assert not stacked(told, "restarted").any()
    nis = stacked(told, "nis")[5:]
    assert 0.3 < float(nis.mean()) / reports(name, 1).shape[1] < 1.6


@pytest.mark.parametrize("noise", [0.3, 1.0, 300.0])
@pytest.mark.parametrize("name", ["terminal", "rover"])
def test_a_target_at_rest_does_not_look_stuck_whatever_the_noise_is(name, noise):
    chosen = preset(name, noise)
    runs = Runs(
        chosen.dynamics,
        chosen.measurement,
        torch.diag(torch.tensor(chosen.noise, dtype=F64) ** 2),
        faults=chosen.faults,
        keep=chosen.keep,
        p_fault=chosen.p_fault,
    )
    generator = torch.Generator().manual_seed(3)
    y = noise * torch.randn(40, 2, 4, dtype=F64, generator=generator)
    _, told = follow(runs, y)
    assert stacked(told, "p_nominal")[20:].mean() > 0.9


def test_a_repeat_of_an_old_report_is_stuck_and_does_not_stop_the_track():
    y = reports("terminal", 40)
    y[25:35] = y[24]
    _, told = follow(made("terminal"), y)
    assert stacked(told, "mode_prob")[26:35, 3].min() > 0.99
    assert stacked(told, "severed")[25:35].min() > 10.0
    place = stacked(told, "mean")[34, 0]
    assert (place - 120.0 * 34).abs().max() < 120.0
    assert stacked(told, "p_nominal")[36:].min() > 0.9


def test_a_decoy_that_hovers_is_refused_and_the_truth_taken_back_at_once():
    y = reports("en_route", 120)
    y[40:60] = math.nan
    hover = torch.randn(40, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    aside = torch.tensor([[9000.0], [15000.0]], dtype=F64)
    y[60:100] = aside + 20.0 * hover.cumsum(0)
    _, told = follow(made("en_route"), y)
    severed = stacked(told, "severed")[60:100]
    assert severed.min() > 1.0
    assert severed[1:].min() > 5.0
    mean = stacked(told, "mean")
    assert (mean[99, 0] - 220.0 * 99).abs().max() < 3000.0
    assert (mean[102:, 0] - 220.0 * torch.arange(102, 120)[:, None]).abs().max() < 120


E64 = torch.eye(2, dtype=F64)


def other() -> Any:
    return "pf"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Random(scale=-1.0), "scale"),
        (lambda: Random(clutter=0.0), "clutter"),
        (lambda: Random(clutter=1.0, rel=3.0), "rel"),
        (lambda: Biased(share=0.0), "share"),
        (lambda: Biased(walk=-1.0), "walk"),
        (lambda: Stuck(stay=1.5), "stay"),
        (lambda: Decoy((1.0, math.nan)), "scale"),
        (lambda: Runs([], Position(2), E64), "dynamics"),
        (lambda: Runs([Level(1.0), Cruise()], Position(2), E64), "dynamics"),
        (lambda: Runs([Cruise()], Position(3), torch.eye(3)), "measurement"),
        (lambda: Runs([Cruise()], Position(2), torch.eye(3)), "R"),
        (lambda: Runs([Cruise()], Position(2), -E64), "R"),
        (lambda: Runs([Cruise()], Position(2), E64, keep=0), "keep"),
        (lambda: Runs([Cruise()], Position(2), E64, p_fault=0.0), "p_fault"),
        (lambda: Runs([Cruise()], Position(2), E64, speed=(5.0, 1.0)), "speed"),
        (
            lambda: Runs([Level(1.0)], Position(1), torch.eye(1), speed=(0.0, 1.0)),
            "speed",
        ),
        (
            lambda: Runs([Cruise()], Position(2), E64, linearisation=other()),
            "linearisation",
        ),
        (
            lambda: Runs(
                [NearConstantVelocity(1.0)],
                Position(2),
                E64,
                faults=[Random((1.0,) * 3)],
            ),
            "scale",
        ),
        (lambda: preset("submarine", 1.0), "name"),
        (lambda: preset("rover", 0.0), "noise"),
    ],
)
def test_mistakes_raise_at_construction_and_name_the_argument(make, named):
    with pytest.raises(ConfigurationError, match=f"argument {named}"):
        make()


def test_a_relative_floor_has_no_evidence():
    runs = Runs([Level(1.0)], Position(1), torch.eye(1), faults=[Random(rel=7.0)])
    assert not runs.proper
    assert made("rover").proper


def test_reports_of_a_quiet_walk_need_no_preset():
    y, truth = walk(40, 3)
    plain = Runs([NearConstantVelocity(0.1)], Position(2), 4.0 * E64)
    _, told = follow(plain, y)
    assert (stacked(told, "mean")[20:, :2] - truth[20:]).norm(dim=1).mean() < 2.0


def test_a_level_that_may_jump_follows_a_shift_and_one_that_may_not_refuses_it():
    """Reports cannot tell the two apart: what is believed of the level decides."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(20, 60, 1, generator=generator, dtype=torch.float64)
    shifted = slice(30, 50)
    y[:, shifted] += 8.0
    options: Any = {"dt": 1.0, "progress_bar": False}
    jumping = BoundedTracker.preset("level", noise=1.0).filter(y, **options)
    steady = BoundedTracker.preset("level", noise=1.0, dynamics=[Level(0.04)])
    refusing = steady.filter(y, **options)
    late = slice(45, 50)
    assert float(jumping.mean[:, late].median()) == pytest.approx(8.0, abs=0.5)
    assert float(jumping.p_nominal[:, late].median()) > 0.9
    inside = refusing.mean.abs() < 1.96 * refusing.cov[..., 0].sqrt()
    assert float(inside[:, shifted].double().mean()) > 0.9
    assert float(refusing.p_nominal[:, shifted].median()) < 0.01
