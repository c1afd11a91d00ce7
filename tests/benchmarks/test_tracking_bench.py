"""The tracking benchmark measures what it says it does."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_scenes_share_their_paths_and_fail_where_they_say(bench):
    scenes = bench("_tracking_scenes")
    clean = scenes.lidar("clean", (100, 101))
    assert not clean.bad.any()
    for case in scenes.LIDAR[1:]:
        scene = scenes.lidar(case, (100, 101))
        np.testing.assert_array_equal(scene.truth, clean.truth)
        np.testing.assert_array_equal(scene.y[~scene.bad], clean.y[~scene.bad])
        assert (scene.y[scene.bad] != clean.y[scene.bad]).any(-1).all()
        alone = scenes.lidar(case, (101,))
        np.testing.assert_array_equal(alone.y[0], scene.y[1])
    speed = np.hypot(*clean.truth[..., 2:].T)
    np.testing.assert_allclose(speed, scenes.SPEED)
    moved = np.diff(clean.truth[..., :2], axis=1)
    np.testing.assert_allclose(moved, scenes.DT * clean.truth[:, 1:, 2:], atol=1e-9)


def test_noise_has_its_deviation_and_bursts_their_length(bench):
    scenes = bench("_tracking_scenes")
    scene = scenes.lidar("burst", tuple(range(40)))
    error = (scene.y - scenes.polar(scene.truth[..., :2]))[~scene.bad]
    # the standard error of a deviation from n numbers is 1 / sqrt(2 n) of it
    limit = 5 / np.sqrt(2 * len(error))
    assert (np.abs(error.std(0) / scenes.SIGMA - 1) < limit).all()
    assert (np.diff(scene.bad, axis=1).sum(1) == 8).all()  # four runs begin and end
    assert ((scene.bad.sum(1) >= 20) & (scene.bad.sum(1) <= 48)).all()


def test_blackout_and_decoys_are_where_they_are_said_to_be(bench):
    scenes = bench("_tracking_scenes")
    rover = scenes.blackout((1, 2), blind=10.0)
    aside = np.hypot(*(rover.y - rover.truth[..., :2])[rover.bad].T)
    assert rover.bad[0].sum() * scenes.ROVER_DT == scenes.ROVER_FALSE
    assert np.abs(aside - 700).max() < 6  # metres of noise
    assert np.isnan(rover.y[0, :, 0]).sum() * scenes.ROVER_DT == 10.0
    times = np.arange(620.0)
    position = np.stack([230 * times, 0 * times], -1)[None]
    scene = scenes.decoys(times, position, position, range(5))
    for bad, y in zip(scene.bad, scene.y, strict=True):
        assert 89 <= bad.sum() <= 201
        assert np.hypot(*np.diff(y[bad], axis=0).mean(0)) < 30
        assert 11e3 < np.hypot(*(y[bad][0] - position[0][bad][0])) < 41e3


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        ("gate", 1e9),
        ("gate, restart", 1e9),
        ("Huber", 1e9),
        ("NIS-inflate", 1e9),
        ("Student-t", 1e12),
        ("Student-t VB", 1e12),
        ("WoLF-IMQ", 1e9),
        ("WoLF-TMD", 1e9),
        ("PDA", 1e5),
    ],
)
@pytest.mark.parametrize("models", [1, 2])
def test_a_rule_that_never_acts_is_the_plain_filter(bench, rule, level, models):
    bank, scenes = bench("_tracking_bank"), bench("_tracking_scenes")
    scene = scenes.lidar("burst", (100, 101))
    q = np.tile([0.5, 60.0][:models], (2, 1))
    noise, never = np.tile(scenes.SIGMA, (2, 1)), np.full(2, np.inf)

    def run(name, value):
        setting = bank.Setting(q, noise, np.full(2, value), never)
        y, times = scene.y[:, :60], scene.t[:60]
        return bank.run(y, times, bank.Polar(), name, setting)

    for found, plain in zip(run(rule, level), run("Kalman", 0.0), strict=True):
        np.testing.assert_allclose(found, plain, rtol=1e-7)


def test_one_update_is_the_textbook_s(bench):
    bank = bench("_tracking_bank")
    y = np.array([[[0.0, 0.0], [np.nan, 0.0], [3.0, -1.0]]])
    setting = bank.Setting(*(np.array([v]) for v in ([0.7], [2.0, 1.0], 0.0, np.inf)))
    track = bank.run(y, np.array([0.0, 1.0, 2.5]), bank.Plane(5.0), "Kalman", setting)
    # position and velocity of one axis after 2.5 s without a report
    for axis, R in enumerate((4.0, 1.0)):
        P = np.diag([R, 25.0])
        for dt in (1.0, 1.5):
            F = np.array([[1.0, dt], [0.0, 1.0]])
            Q = 0.7 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
            P = F @ P @ F.T + Q
        gain = P[0, 0] / (P[0, 0] + R)
        assert track.mean[0, 2, axis] == pytest.approx(gain * y[0, 2, axis])
        assert track.cov[0, 2, axis, axis] == pytest.approx((1 - gain) * P[0, 0])


def test_densities_are_scipy_s(bench):
    rules, level = bench("_tracking_rules"), bench("_tracking_level")
    S = np.array([[2.0, 0.3], [0.3, 1.0]])
    nu = np.array([0.4, -1.7])
    square = nu @ np.linalg.solve(S, nu)
    expected = norm.logpdf(np.sqrt(square)) + norm.logpdf(0.0)
    expected = expected - 0.5 * np.log(np.linalg.det(S))  # a whitened pair
    assert rules.gaussian(S, nu) == pytest.approx(expected)
    expected = t.logpdf(1.3, 4.0, scale=1.5)
    found = level.student_density(np.array(1.3), np.array(2.25), np.array(4.0))
    assert found == pytest.approx(expected)


def test_rules_agree_with_the_packages_that_are_installed(bench):
    (rows,) = bench("_tracking_checks").measure(True)
    assert len(rows) == 6
    for row in rows:
        assert row.get("note") == "not installed" or row["value"] < 1e-9


def test_tuning_takes_the_setting_with_the_least_loss(bench):
    tuning, lidar = bench("_tracking_tuning"), bench("_tracking_lidar")
    cases = {
        case: lidar.batch(case, (0, 1), 60, False) for case in ("clean", "clutter")
    }
    both, own = tuning.tune("gate", True, lidar.QUICK, cases, lidar.loss)
    grid = tuning.choices("gate", lidar.QUICK, True)
    for chosen, names in ((both, list(cases)), (own["clutter"], ["clutter"])):
        losses = []
        for one in grid:
            found = {
                n: tuning.scores([one], cases[n], lidar.QUICK.sensor) for n in names
            }
            losses.append(lidar.loss({n: s.square[0] for n, s in found.items()}))
        assert chosen.level == grid[int(np.argmin(losses))].level
    assert both.name == "IMM + gate"


def test_without_recordings_the_benchmark_says_so(bench, monkeypatch, tmp_path):
    adsb = bench("_tracking_adsb")
    for folder in (None, str(tmp_path)):
        monkeypatch.delenv("PYRO_GEO_DATA", raising=False)
        if folder:
            monkeypatch.setenv("PYRO_GEO_DATA", folder)
        rows = [row for new in adsb.measure(True) for row in new]
        assert {row["case"] for row in rows} == {"stuck", "spoofed", "cruise"}
        assert all(row["note"].startswith("not available") for row in rows)


def test_windows_of_a_recording_are_padded_and_scored(bench, tmp_path):
    recordings, adsb = bench("_tracking_recordings"), bench("_tracking_adsb")
    n = 9
    np.savez(
        tmp_path / "stuck.npz",
        track=np.array([0] * 5 + [1] * 4),
        tune=np.array([True, True]),
        t=np.array([0, 1, 2, 4, 5, 0, 1, 2, 3]),
        ref_x_step=np.ones(n, int),
        ref_y_step=np.zeros(n, int),
        dx=np.array([0, 0, -1, -2, 0, 0, 0, 7, 0]),
        dy=np.zeros(n, int),
        good=np.array([1, 1, 0, 0, 1, 1, 1, 0, 1], bool),
        burst=np.array([0, 0, 1, 1, 1, 0, 0, 1, 0], bool),
    )
    found = recordings.stuck(tmp_path / "stuck.npz", tune=True)
    assert found.batch.y[0, :, 0].tolist() == [1, 2, 2, 2, 5]
    assert np.isnan(found.batch.y[1, 4]).all()
    assert (np.diff(found.batch.t) > 0).all()
    assert found.burst.tolist() == [[-1, -1, 0, 0, 0], [-1, -1, 100, -1, -1]]
    bare = adsb.without_repeats(found.batch).y[0, :, 0]
    assert np.isnan(bare).tolist() == [False, False, True, True, False]
    square = np.array([[9.0, 9.0, 1.0, 2.0, 3.0], [9.0, 9.0, 4.0, 9.0, 9.0]])
    assert adsb.pooled(square, found.burst) == pytest.approx(np.sqrt((2 + 4) / 2))
    weights = adsb.weights(found)
    assert weights.sum(1).tolist() == pytest.approx([1.0, 1.0])


def fake_rows(case, **errors):
    return [
        {"case": case, "method": method, "metric": metric, "value": value}
        for method, (rmse, failed) in errors.items()
        for metric, value in (("rmse", rmse), ("tracks that failed", failed))
    ]


def test_a_rule_that_lost_tracks_counts_and_the_best_of_the_others_too(bench):
    common, ratios = bench("_tracking_common"), bench("_tracking_ratios")
    rows = fake_rows(
        "lidar_clean",
        **{
            common.OURS: (1.0, 0),
            common.ORACLE: (0.8, 0),
            "IMM": (2.0, 0),
            "WoLF-TMD": (0.5, 3),
            "IMM, tuned per case": (1.6, 0),
        },
    )
    found = ratios.ratios(rows)
    assert found == {
        "rmse/lidar_clean/oracle": 1.25,
        "rmse/lidar_clean/best": 2.0,
        "rmse/lidar_clean/best_that_loses_none": 0.5,
        "rmse/lidar_clean/best_tuned_per_case": 0.625,
        "rmse/lidar_clean/filterpy_imm": 0.5,
    }
    lines = ratios.reading(found | {"coverage/stuck": 0.8})
    assert "- rmse/lidar_clean/filterpy_imm: 0.5, aim at most 1.01, met" in lines
    assert "- coverage/stuck: 0.8, aim 0.9 to 0.995, MISSED" in lines
    assert "- rmse/stuck/best: not measured" in lines
