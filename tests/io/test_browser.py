"""Pages in a real browser: nothing is cut off, missing or fetched from elsewhere."""

import numpy as np
import pandas as pd
import pytest

from pyro_geo.io.arviz import to_arviz
from pyro_geo.io.reports import Bars, Curves, Images, Scatter, write_report
from pyro_geo.io.series import series_to_arviz
from tests.io.browser import chromium, open_browser
from tests.io.test_report import full

PROGRAM = chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed"),
]
SIZES = ((390, 844), (1280, 900))


@pytest.fixture(scope="module")
def browser():
    assert PROGRAM is not None
    with open_browser(PROGRAM) as opened:
        yield opened


def draws(folder):
    groups = full(np.random.default_rng(1), chains=4, draws=50)
    long = "a name without a place to break it " + "x" * 120
    return write_report(
        to_arviz(groups),
        folder / "draws.html",
        title=f"DiMS on {'deep_' * 30}network",
        facts={"model": long, **{f"option_{i}": i / 7 for i in range(20)}},
        notes=[long],
        citation="@article{a, title={" + "T" * 200 + "}}",
        tables={long: pd.DataFrame({f"c{i}": [long] for i in range(20)})},
    )


def pictures(folder):
    lines = {f"line {i}": [float(i), i + 1.0, i + 0.5] for i in range(6)}
    return write_report(
        None,
        folder / "pictures.html",
        title="Merging by average on 8 tasks",
        facts={"tasks": 8},
        curves=[Curves("Lines.", [0, 1, 2], lines, "step", "cost")],
        bars=[Bars("Bars.", {f"site {i}": float(i) for i in range(50)}, "distance")],
        scatters=[Scatter("Pairs.", {"a": ([1, 2], [1, 3])}, "forecast", "outcome")],
        images=[Images("Digits.", np.eye(8)[None].repeat(9, 0), ["0?"] * 9)],
    )


def series(folder):
    rng = np.random.default_rng(2)
    mean = rng.normal(size=(2, 60, 2)).cumsum(1)
    shares = rng.dirichlet(np.ones(3), size=(2, 60))
    idata = series_to_arviz(
        {
            "filtered": {
                "mean": mean,
                "cov": np.broadcast_to(np.eye(2), (2, 60, 2, 2)),
            },
            "sample_stats": {"severed": rng.normal(size=(2, 60)), "mode_prob": shares},
            "observed_data": {"y": mean + rng.normal(size=mean.shape)},
        },
        sample_dims=("track", "time"),
        dims={"mean": ["state"], "cov": ["state", "other"], "y": ["channel"]},
        coords={"state": ["x", "y"], "channel": ["x", "y"], "track": [0, 1]},
        attrs={"plane": "x y"},
    )
    return write_report(
        idata,
        folder / "series.html",
        title="Bounded tracker on 2 tracks",
        facts={"seed": 1},
        chain_name="track",
    )


@pytest.mark.parametrize("write", [draws, pictures, series])
@pytest.mark.parametrize("size", SIZES)
def test_a_page_fits_a_phone_and_a_screen(browser, tmp_path, write, size):
    path = write(tmp_path)
    found = browser.look(path, *size)
    assert found.width <= size[0]
    assert found.images > 0
    assert found.broken == []
    assert found.problems == []
    assert found.requests == [path.as_uri()]


def test_a_page_with_faults_is_found_out(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        '<meta name="viewport" content="width=device-width"><div style="width: 900px">'
        'wide</div><img alt="lost" src="missing.png"><script>nothing()</script>'
    )
    found = browser.look(path, *SIZES[0])
    assert found.width > SIZES[0][0]
    assert found.broken == ["lost"]
    assert len(found.requests) == 2
    assert any("nothing is not defined" in problem for problem in found.problems)
