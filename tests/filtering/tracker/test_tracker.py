"""What a user calls: filtering whole series, online, and in every layout."""

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from pyro_geo import citation
from pyro_geo.errors import (
    ConfigurationError,
    DegenerateCovarianceWarning,
    ImproperFloorError,
    NonFiniteMeasurementWarning,
    ShapeError,
    TrackLostWarning,
)
from pyro_geo.filtering import (
    BoundedTracker,
    Level,
    NearConstantVelocity,
    Position,
    Random,
)
from pyro_geo.filtering.tracker.review import longest_refusal, review
from pyro_geo.results import MemorySteps

QUIET = {"progress_bar": False, "dt": 1.0}


@pytest.fixture(scope="module")
def track(tracker, y):
    with pytest.warns(NonFiniteMeasurementWarning, match="track 2 step 7"):
        return tracker.filter(y, **QUIET)


def kalman(y, q, r, start):
    """Level by level, with the first report as the start: mean, variance, evidence."""
    means, variances, nats = [], [], []
    mean, variance = y[0], start
    for k, report in enumerate(y):
        if k:
            variance = variance + q
            s = variance + r
            nats.append(-0.5 * (np.log(2 * np.pi * s) + (report - mean) ** 2 / s))
            gain = variance / s
            mean, variance = mean + gain * (report - mean), (1 - gain) * variance
        means.append(mean)
        variances.append(variance)
    return np.array(means), np.array(variances), np.array(nats)


def test_without_faults_one_level_is_a_kalman_filter(plain, y):
    track = plain.filter(y[3], **QUIET)
    mean, variance, nats = kalman(y[3, :, 0].numpy(), 0.3, 2.0, 2.0)
    np.testing.assert_allclose(track.mean[0, :, 0], mean, rtol=1e-10)
    np.testing.assert_allclose(track.cov[0, :, 0, 0], variance, rtol=1e-10)
    np.testing.assert_allclose(track.log_evidence[0, 1:], nats, rtol=1e-9)


def test_online_steps_are_those_of_the_whole(tracker, y, track):
    belief = tracker.step(None, y[:, 0])
    for k in range(1, 15):
        np.testing.assert_array_equal(belief.mean, track.mean[:, k - 1])
        belief = tracker.step(belief, y[:, k], dt=1.0)
    np.testing.assert_array_equal(belief.p_nominal, track.p_nominal[:, 14])
    np.testing.assert_array_equal(belief.severed, track.severed[:, 14])
    np.testing.assert_array_equal(belief.cov, track.cov[:, 14])
    np.testing.assert_array_equal(belief.mode_prob, track.mode_prob[:, 14])


@pytest.mark.parametrize("layout", ["one track", "flat", "numpy"])
def test_every_layout_is_the_same_track(tracker, y, track, layout):
    own = {"one track": y[3], "flat": y[3, :, 0], "numpy": y[3].numpy()}[layout]
    one = tracker.filter(own, np.arange(40), progress_bar=False)
    assert one.mean.shape == (1, 40, 1)
    np.testing.assert_allclose(one.mean[0], track.mean[3], rtol=1e-12, atol=1e-14)


def test_float32_is_float64_to_a_thousandth(tracker, y, track):
    with pytest.warns(NonFiniteMeasurementWarning):
        single = tracker.filter(y, dtype=torch.float32, **QUIET)
    assert single.mean.dtype == torch.float32
    np.testing.assert_allclose(single.mean, track.mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(single.p_nominal, track.p_nominal, atol=1e-3)


def test_a_masked_report_is_a_missing_one(tracker, y):
    mask = torch.ones(5, 40, dtype=torch.bool)
    mask[3, 5:9] = mask[2, 7] = False
    missing = y.clone()
    missing[3, 5:9] = missing[2, 7] = torch.nan
    a, b = tracker.filter(y, mask=mask, **QUIET), tracker.filter(missing, **QUIET)
    np.testing.assert_array_equal(a.mean, b.mean)
    assert a.summary().loc[3, "missing"] == 4


def test_the_others_do_not_change_by_a_bit(tracker, y, track):
    bad = y.clone()
    bad[2] = torch.nan
    bad[1] = 1e9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackLostWarning)
        other = tracker.filter(bad, **QUIET)
    np.testing.assert_array_equal(other.mean[[0, 3, 4]], track.mean[[0, 3, 4]])
    assert other.mean[2].isnan().all()
    assert other.mean[1].isfinite().all()
    assert other.summary().loc[2, "reports"] == 0


def test_a_spike_of_any_size_is_the_same_track(tracker, y):
    spiked = y[3:4].repeat(2, 1, 1)
    spiked[0, 20], spiked[1, 20] = 1e6, 1e9
    track = tracker.filter(spiked, **QUIET)
    np.testing.assert_array_equal(track.mean[0], track.mean[1])


def test_a_late_report_is_left_out_and_the_rest_is_the_same(plain, y):
    t = torch.cat([torch.arange(20.0), torch.tensor([3.0]), torch.arange(20.0, 40.0)])
    late = torch.cat([y[3:4, :20], torch.full((1, 1, 1), 50.0), y[3:4, 20:]], 1)
    found = plain.filter(late, t, progress_bar=False)
    assert found.late[0].nonzero().tolist() == [[20]]
    assert found.summary()["left out"].tolist() == [1]
    rest = torch.arange(41) != 20
    expected = plain.filter(y[3], **QUIET)
    np.testing.assert_allclose(found.mean[0, rest], expected.mean[0], rtol=1e-10)
    np.testing.assert_allclose(found.cov[0, rest], expected.cov[0], rtol=1e-10)


def test_time_that_stands_still_adds_no_noise(plain):
    y = torch.zeros(1, 3, 1, dtype=torch.float64)
    still = plain.filter(y, torch.zeros(3), progress_bar=False)
    # three reports with variance two at one time
    np.testing.assert_allclose(still.cov[0, :, 0, 0], [2.0, 1.0, 2 / 3], rtol=1e-12)


def test_a_run_leaves_its_inputs_and_torchs_generator_alone(tracker, y):
    t, before, state = torch.arange(40.0), y.clone(), torch.get_rng_state()
    mask = torch.ones(40, dtype=torch.bool)
    mask[7] = False
    track = tracker.filter(y, t, mask, progress_bar=False)
    track.get_samples(3)
    np.testing.assert_array_equal(y, before)
    assert torch.equal(t, torch.arange(40.0))
    assert int(mask.sum()) == 39
    assert torch.equal(torch.get_rng_state(), state)


def test_tracks_may_come_in_any_order(tracker, y, track):
    order = [4, 2, 0, 3, 1]
    with pytest.warns(NonFiniteMeasurementWarning):
        other = tracker.filter(y[order], **QUIET)
    np.testing.assert_allclose(other.mean, track.mean[order], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(other.severed, track.severed[order], rtol=1e-10)


def test_copies_and_pickles_filter_the_same(tracker, y, track):
    other = pickle.loads(pickle.dumps(copy.deepcopy(tracker)))
    with pytest.warns(NonFiniteMeasurementWarning):
        again = other.filter(y, **QUIET)
    np.testing.assert_array_equal(again.mean, track.mean)
    assert torch.equal(pickle.loads(pickle.dumps(track)).cov, track.cov)


@pytest.mark.slow
def test_compiled_is_traced_to_rounding(y):
    plain = BoundedTracker(Level(0.3), Position(1), 2.0, faults=(Random(),))
    a = plain.filter(y[3:], compile=False, **QUIET)
    assert a.attributes["rung"] == "traced"
    b = plain.filter(y[3:], compile=True, **QUIET)
    assert b.attributes["rung"] == "compiled"
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-10)
    np.testing.assert_allclose(a.severed, b.severed, rtol=1e-8, atol=1e-10)


# -- presets, numbers, mistakes -------------------------------------------------------


@pytest.mark.parametrize("name", ["terminal", "en_route", "lidar", "rover", "level"])
def test_presets_have_the_noise_that_is_asked_for(name):
    tracker = BoundedTracker.preset(name, noise=0.5)
    assert tracker.R.diagonal().unique().tolist() == [0.25]


def test_options_take_the_place_of_a_preset():
    tracker = BoundedTracker.preset("terminal", 30.0, keep=4, R=torch.eye(2))
    assert (
        tracker.runs.plan.slots.kept
        > BoundedTracker.preset("terminal", 30.0).runs.plan.slots.kept
    )
    assert torch.equal(tracker.R, torch.eye(2))


def test_given_fixes_numbers_in_a_copy(tracker):
    other = tracker.given({"p_fault": 0.3, "R": [[4.0]]})
    assert float(other.p_fault) == pytest.approx(0.3)
    assert float(other.R) == 4.0
    assert float(tracker.R) == 1.0
    with pytest.raises(ShapeError, match="R"):
        tracker.given({"R": 4.0})
    with pytest.raises(ConfigurationError, match="noise"):
        tracker.given({"noise": 4.0})


MISTAKEN: Any = abs
MISSPELT: dict[str, Any] = {"p_faults": 0.1}
MISTAKES = {
    "unknown preset": (lambda: BoundedTracker.preset("terminus"), "'terminal'"),
    "noise": (lambda: BoundedTracker.preset("level", noise=-1.0), "noise"),
    "R negative": (lambda: BoundedTracker(Level(1.0), Position(1), -1.0), "argument R"),
    "R shape": (
        lambda: BoundedTracker(Level(1.0), Position(1), torch.eye(2)),
        "argument R",
    ),
    "R uneven": (
        lambda: BoundedTracker(
            NearConstantVelocity(1.0),
            Position(),
            torch.tensor([[1.0, 0.5], [0.0, 1.0]]),
        ),
        "argument R",
    ),
    "dynamics": (lambda: BoundedTracker([], Position(1), 1.0), "dynamics"),
    "measurement": (lambda: BoundedTracker(Level(1.0), MISTAKEN, 1.0), "measurement"),
    "p_fault": (
        lambda: BoundedTracker(Level(1.0), Position(1), 1.0, p_fault=1.5),
        "p_fault",
    ),
    "option": (
        lambda: BoundedTracker(Level(1.0), Position(1), 1.0, **MISSPELT),
        "p_fault",
    ),
    "residual_fn": (
        lambda: BoundedTracker(Level(1.0), Position(1), 1.0, residual_fn=3),
        "residual_fn",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_raise_at_construction(case):
    make, match = MISTAKES[case]
    with pytest.raises((ConfigurationError, ShapeError), match=match):
        make()


ONES = torch.ones(2, 4, 1)
BAD_CALLS = {
    "y size": (torch.ones(2, 4, 3), {"dt": 1.0}, "argument y"),
    "y empty": (torch.ones(2, 0, 1), {"dt": 1.0}, "argument y"),
    "y text": ("reports", {"dt": 1.0}, "argument y"),
    "y missing": (torch.full((2, 4, 1), torch.nan), {"dt": 1.0}, "argument y"),
    "y complex": (ONES + 1j, {"dt": 1.0}, "argument y"),
    "no times": (ONES, {}, "argument t"),
    "two times": (ONES, {"t": torch.arange(4), "dt": 1.0}, "argument dt"),
    "t shape": (ONES, {"t": torch.arange(5)}, "argument t"),
    "t NaN": (ONES, {"t": torch.tensor([0, 1, torch.nan, 3])}, "argument t"),
    "dt": (ONES, {"dt": -1.0}, "argument dt"),
    "mask shape": (ONES, {"dt": 1.0, "mask": torch.ones(3) > 0}, "argument mask"),
    "mask type": (ONES, {"dt": 1.0, "mask": torch.ones(4)}, "argument mask"),
    "dtype": (ONES, {"dt": 1.0, "dtype": torch.float16}, "argument dtype"),
    "option": (ONES, {"dt": 1.0, "n_job": 2}, "n_job"),
    "n_jobs": (ONES, {"dt": 1.0, "n_jobs": 0}, "n_jobs"),
    "labels": (ONES, {"dt": 1.0, "labels": ["a", "a"]}, "labels"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_mistakes_raise_at_the_call(tracker, case):
    y, options, match = BAD_CALLS[case]
    with pytest.raises((ConfigurationError, ShapeError), match=match):
        tracker.filter(y, **options)


def test_online_mistakes_name_the_argument(tracker, y):
    belief = tracker.step(None, y[:, 0])
    with pytest.raises(ConfigurationError, match="float64 as before"):
        tracker.step(belief, y[:, 1].float())
    with pytest.raises(ShapeError, match="argument y"):
        tracker.step(belief, y[:2, 1])
    with pytest.raises(ShapeError, match="argument dt"):
        tracker.step(belief, y[:, 1], torch.ones(3))


def test_an_improper_floor_has_no_evidence(y):
    tracker = BoundedTracker(Level(0.1), Position(1), 1.0, faults=(Random(rel=5.0),))
    track = tracker.filter(y[3:], **QUIET)
    with pytest.raises(ImproperFloorError, match="clutter"):
        _ = track.log_evidence
    with pytest.raises(ImproperFloorError, match="clutter"):
        tracker(y, dt=1.0)
    assert "log_evidence" not in track.stats


# -- warnings -------------------------------------------------------------------------


def test_a_track_that_is_lost_is_warned_of(y):
    plain = BoundedTracker(Level(1e-6), Position(1), 1e-2, faults=(Random(50.0),))
    ramp = torch.linspace(0, 400, 60, dtype=torch.float64)[None, :, None]
    with pytest.warns(TrackLostWarning, match="tracks 0"):
        track = plain.filter(ramp, **QUIET)
    assert any("TrackLostWarning" in note for note in track.notes)
    assert "TrackLostWarning" in str(track.attributes["notes"])


def test_refusals_in_a_row_skip_missing_reports():
    observed = torch.tensor([[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    refused = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]]).bool()
    assert longest_refusal(observed, refused).tolist() == [3, 0]


def test_a_degenerate_covariance_is_warned_of_by_track_and_step():
    no = torch.zeros(2, 3, dtype=torch.bool)
    restarted = no.clone()
    restarted[1, 2] = True
    steps = MemorySteps(
        {
            "y": torch.zeros(2, 3, 1),
            "p_nominal": torch.ones(2, 3),
            "nonfinite": no,
            "late": no,
            "restarted": restarted,
        }
    )
    (warning,) = review(steps)
    assert isinstance(warning, DegenerateCovarianceWarning)
    assert "track 1 step 2" in str(warning)


def test_the_works_behind_it_are_cited(tracker, track):
    for cited in (tracker, track):
        assert "2603.13613" in citation(cited)
        assert "10.1109/9.1299" in citation(cited)
