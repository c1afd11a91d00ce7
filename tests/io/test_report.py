"""The one-file report: complete, safe, honest about what it leaves out."""

import base64
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pyro_geo.io._report.components import choose, split_rhat
from pyro_geo.io._report.html import show
from pyro_geo.io._report.posterior import component_table, principal_plane
from pyro_geo.io.arviz import get_group, import_arviz, to_arviz
from pyro_geo.io.reports import Bars, Images, Scatter, write_report

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a reader finds: text, tags, pictures; unbalanced tags are an error."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self, html):
        super().__init__()
        self.html, self.words, self.tags, self.images, self.open = html, [], [], [], []
        self.ids, self.links = [], []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if tag == "img":
            self.images.append(given)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture
def report(tmp_path):
    def write(groups, *, title="A run", facts=None, dims=None, **options):
        idata = to_arviz(groups, dims=dims)
        path = tmp_path / "report.html"
        assert (
            write_report(idata, path, title=title, facts=facts or {}, **options) == path
        )
        return Page(path.read_text("utf-8"))

    return write


def dims_stats(rng, shape):
    anchor = np.full(shape, 41.2)
    explored = anchor + rng.gamma(3.0, 20.0, size=shape)
    settled = anchor - rng.gamma(2.0, 3.0, size=shape)
    return {
        "lp": -settled,
        "loss_anchor": anchor,
        "loss_explored": explored,
        "loss_settled": settled,
        "loss": settled - 0.1,
        "energy_error": rng.normal(size=shape) * 1e-2,
        "displacement": rng.gamma(4.0, 1.0, size=shape),
        "grad_norm": 10 ** rng.normal(-2, 1.5, size=shape),
        "n_steps": rng.integers(100, 900, size=shape),
        "converged": rng.uniform(size=shape) > 0.5,
        "diverging": rng.uniform(size=shape) > 0.5,
    }


def full(rng, chains=4, draws=60):
    shape = (chains, draws)
    return {
        "posterior": {
            "mu": rng.normal(size=shape),
            "theta": rng.normal(size=(*shape, 3)),
        },
        "sample_stats": dims_stats(rng, shape),
    }


def test_everything_is_there(rng, report):
    groups = full(rng)
    page = report(
        groups,
        title="DiMS on eight schools",
        facts={"model": "models/eight_schools.py", "seed": "1"},
        notes=["Traced instead of compiled."],
        tables={"Held-out scores": [{"method": "DiMS", "NLL": 1.84}]},
        chain_name="anchor",
    )
    text = page.text
    assert text.startswith("DiMS on eight schools DiMS on eight schools")
    assert "model models/eight_schools.py seed 1" in text
    assert "4 anchors 60 draws per anchor 4 scalar components" in text
    assert "Please note Traced instead of compiled." in text
    assert "Held-out scores method NLL DiMS 1.84" in text
    bad = int(groups["sample_stats"]["diverging"].sum())
    assert f"{bad} of 240 draws are marked as diverging." in text
    bad = int((~groups["sample_stats"]["converged"]).sum())
    assert f"{bad} of 240 draws did not converge." in text
    for column in ("mean", "ess_bulk", "r_hat", "median", "95 %", "share"):
        assert column in text
    for part in ("Tables", "Summary", "Distributions", "Largest spread", "Statistics"):
        assert text.count(part) >= 2  # in the list of sections and as a heading
    assert len(page.images) == 4


def test_the_page_stands_alone_and_is_accessible(rng, report):
    page = report(full(rng), tables={"T": [{"a": 1}]}, notes=["n"])
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"https?://|url\(", page.html)
    assert '<html lang="en">' in page.html
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert page.tags.count("caption") == page.tags.count("table") == 5
    assert page.tags.count("h1") == 1
    for image in page.images:
        assert len(image["alt"]) > 40
        head, data = image["src"].split(",")
        assert head == "data:image/png;base64"
        png = base64.b64decode(data, validate=True)
        assert png.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", png[16:24])
        assert 400 < width < 2000
        assert 100 < height < 3000


def test_every_text_of_the_user_is_escaped(rng, report):
    bad = "<script>alert('x')</script> & \"q\""
    pd.DataFrame({bad: [bad]})
    page = report(
        {
            "posterior": {bad.replace("/", "|"): rng.normal(size=(2, 20, 2))},
            "sample_stats": {"<i>stat</i>".replace("/", "|"): rng.normal(size=(2, 20))},
        },
        title=bad,
        facts={bad: bad},
        notes=[bad],
        tables={
            bad: [{bad: bad}],
            "t": [[bad], [bad]],
            "f": pd.DataFrame({bad: [bad]}),
        },
        chain_name=bad,
    )
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.text.count("alert('x')") > 10


@pytest.mark.slow
@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_the_callers_matplotlib_is_left_as_it_was(rng, report, style):
    import matplotlib.pyplot as plt

    groups = full(rng)
    with plt.style.context(style):
        backend, figures = mpl.get_backend(), plt.get_fignums()
        before = dict(mpl.rcParams)
        page = report(groups)
        assert dict(mpl.rcParams) == before
        assert (mpl.get_backend(), plt.get_fignums()) == (backend, figures)
    assert report(groups).images == page.images


def test_pyplot_is_not_imported():
    code = """
import sys
import numpy as np
from pyro_geo.io._report.pictures import histograms
assert histograms({"x": np.arange(9.0)})[:4] == bytes([137]) + b"PNG"
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("chains", "draws"), [(1, 1), (1, 5), (2, 9), (30, 2)])
def test_any_number_of_chains_and_draws(rng, report, chains, draws):
    page = report(full(rng, chains, draws))
    assert f"{chains} chains {draws} draws per chain" in page.text


def test_the_report_says_that_one_chain_was_cut_in_four(rng, report):
    groups = full(rng, 1, 80)
    groups["posterior"]["mu"] += np.linspace(0, 9, 80)
    page = report(groups)
    assert "R-hat of one chain, cut in four" in page.text
    assert "Parts of the run disagree (one chain, cut in four): R-hat is" in page.text


@pytest.mark.slow
def test_disagreement_is_reported_with_the_name_of_a_chain(rng, report):
    groups = full(rng)
    groups["posterior"]["mu"][0] += 5.0
    page = report(groups, chain_name="anchor")
    assert "Anchors disagree: R-hat is above 1.01 for" in page.text
    assert "largest for mu." in page.text


def test_a_run_without_problems_has_no_box_of_notes(rng, report):
    shape = (4, 1500)
    page = report({"posterior": {"w": rng.normal(size=shape)}})
    assert "Please note" not in page.text


@pytest.mark.parametrize(
    "posterior",
    [
        {"w": (3, 2, 4)},
        {"empty": (0,)},
        {"empty": (0,), "w": (2,)},
        {f"s{i}": () for i in range(60)},
        {"deep": (1, 2, 1, 2)},
    ],
)
def test_sites_of_any_shape(rng, report, posterior):
    arrays = {k: rng.normal(size=(2, 20, *shape)) for k, shape in posterior.items()}
    total = sum(int(np.prod(shape)) for shape in posterior.values())
    page = report({"posterior": arrays})
    assert f"{total} scalar component" in page.text
    assert (f"40 of {total} components are shown" in page.text) == (total > 40)


def test_of_ten_thousand_components_some_are_shown_with_a_note(rng, report):
    w = rng.normal(size=(4, 50, 100, 100))
    w[2, :, 70, 7] += 9.0
    page = report({"posterior": {"mu": rng.normal(size=(4, 50)), "w": w}})
    assert "40 of 10,001 components are shown" in page.text
    assert "6 of 10,001 components." in page.text
    assert "w[70, 7]" in page.text  # the one on which chains disagree
    assert "mu" in page.text
    assert len(page.html) < 1_500_000


def test_nan_and_infinities_are_counted_not_hidden(rng, report):
    groups = full(rng)
    groups["posterior"]["mu"][0, :3] = [np.nan, np.inf, 1e300]
    groups["posterior"]["lost"] = np.full((4, 60), np.nan)
    groups["sample_stats"]["energy_error"][1, :4] = np.nan
    groups["sample_stats"]["lp"][:] = np.nan
    page = report(groups)
    assert "243 numbers among the draws are not finite." in page.text
    row = re.search(r"energy_error</th>(.*?)</tr>", page.html)
    assert row is not None
    assert row.group(1).endswith("<td>4</td>")
    assert "lost: no finite draw" in page.images[0]["alt"]


def test_constants_and_extremes_do_not_stop_it(rng, report):
    shape = (2, 30)
    tiny = 1e17 + np.zeros(shape)
    tiny[0, 0] += 64.0
    groups = {
        "posterior": {"one": np.ones(shape), "tiny": tiny, "huge": tiny * 1e80},
        "sample_stats": {
            "lp": np.zeros(shape),
            "energy": tiny,
            "kinetic": rng.uniform(size=shape) * 1e-320,
            "loss": np.zeros(shape),
            "loss_anchor": np.zeros(shape),
            "text": np.full(shape, "x"),
        },
    }
    page = report(groups)
    assert (
        "The draws do not spread in two directions."
        in report({"posterior": {"one": np.ones(shape), "two": np.ones(shape)}}).text
    )
    assert "Statistics" in page.text


def test_a_run_without_draws_still_gives_a_page(report, rng):
    assert "There are no draws in this run." in report({}).text
    empty = {
        "posterior": {"w": np.zeros((2, 0))},
        "sample_stats": {"lp": np.zeros((2, 0))},
    }
    assert "There are no draws in this run." in report(empty).text
    only = report({"sample_stats": {"lp": rng.normal(size=(2, 9))}})
    assert "Statistics" in only.text


def test_flags_read_from_a_file_are_still_flags(report):
    flags = np.array([[0, 1, 1, 0]])
    page = report(
        {
            "posterior": {"w": np.arange(4.0)[None]},
            "sample_stats": {"diverging": flags, "converged": 1 - flags},
        }
    )
    assert "2 of 4 draws are marked as diverging." in page.text
    assert "2 of 4 draws did not converge." in page.text


def test_long_tables_are_cut_and_folded_with_a_note(report):
    rows = [{"i": i, "name": f"row {i}"} for i in range(500)]
    page = report({}, tables={"Long": rows, "Medium": rows[:100], "Some": rows[:30]})
    assert "The first 200 of 500 rows are shown." in page.text
    assert "row 199" in page.text
    assert "row 200 " not in page.text
    assert page.html.count("<details>") == 2
    assert page.html.count("<details open>") == 1


def test_tables_come_in_three_forms(report):
    page = report(
        {},
        tables={
            "maps": [{"a": 1, "b": 2.5}, {"a": 3, "c": "x"}],
            "rows": [["m", "n"], [1, True]],
            "frame": pd.DataFrame({"v": [0.25]}, index=["r"]),
            "none": [],
        },
    )
    assert "maps a b c 1 2.5 3 x" in page.text
    assert "rows m n 1 yes" in page.text
    assert "frame v r 0.25" in page.text


def test_the_file_is_replaced_only_by_a_complete_one(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder" / "report.html"
    idata = to_arviz({"posterior": {"w": np.zeros((2, 5))}})
    write_report(idata, str(path), title="first", facts={})

    def fail(self, target):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_report(idata, path, title="second", facts={})
    assert "first" in path.read_text("utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_split_rhat_agrees_with_arviz(rng):
    x = rng.normal(size=(4, 100, 5)) + np.linspace(0, 2, 20).reshape(4, 1, 5)
    ours = split_rhat(x)
    data = xr.Dataset({"x": (("chain", "draw", "i"), x)})
    theirs = import_arviz().rhat(data, method="split")["x"].values
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_split_rhat_is_nan_where_it_means_nothing(rng):
    x = rng.normal(size=(2, 20, 3))
    x[..., 0] = 1.0
    x[0, 3, 1] = np.nan
    assert np.isnan(split_rhat(x)).tolist() == [True, True, False]
    assert np.isnan(split_rhat(x[:, :6])).all()


def test_chosen_components_are_named_as_arviz_names_them(rng):
    arrays = {"w": rng.normal(size=(2, 20, 2, 3)), "s": rng.normal(size=(2, 20))}
    idata = to_arviz({"posterior": arrays}, dims={"w": ["a"]}, coords={"a": ["u", "v"]})
    posterior = get_group(idata, "posterior")
    assert posterior is not None
    chosen, total = choose(posterior, 40)
    assert total == len(chosen) == 7
    theirs = import_arviz().summary(idata).index.tolist()
    assert [part.name for part in chosen] == theirs
    assert component_table(chosen).index.tolist() == theirs


@pytest.mark.parametrize("components", [5, 300])
def test_the_plane_holds_the_largest_spread(rng, components):
    wide = rng.normal(size=(2, 40)) * 300
    x = rng.normal(size=(2, 40, components)) * 0.1
    x[..., 3] = rng.normal(size=(2, 40)) * 30
    dims = ("chain", "draw")
    found = principal_plane(xr.Dataset({"x": ((*dims, "i"), x), "wide": (dims, wide)}))
    assert found is not None
    plane, rows, labels = found
    assert len(rows) == 80
    assert "mostly wide and" in labels[0]
    assert "mostly x[3] and" in labels[1]
    flat = np.concatenate([x.reshape(80, -1), wide.reshape(80, 1)], 1)
    largest = np.linalg.svd(flat - flat.mean(0), compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(plane, axis=0), largest, rtol=1e-9)


def test_long_runs_are_thinned_in_the_plane(rng):
    x = rng.normal(size=(3, 999, 2))
    x[0, :500, 0] = np.nan
    found = principal_plane(xr.Dataset({"x": (("chain", "draw", "i"), x)}))
    assert found is not None
    assert 800 < len(found[0]) == len(found[1]) <= 1000
    assert found[1].min() >= 500


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (0.0, "0"),
        (-0.5, "\u22120.5"),
        (1e-9, "1.000e-09"),
        (-2.5e7, "\u22122.500e+07"),
        (float("inf"), "inf"),
        (np.float32(0.25), "0.25"),
        (np.bool_(True), "yes"),
        (100.0, "100"),
    ],
)
def test_numbers_are_written_briefly(value, text):
    assert show(value) == text


@pytest.mark.parametrize(
    "groups",
    [
        {
            "a": ([1.0, 2.0, float("nan")], [1.5, float("inf"), 2.0]),
            "b": ([0.0], [1.0]),
        },
        {"none": ([], [])},
        {f"group {k}": ([float(k)], [0.0]) for k in range(30)},
    ],
)
def test_pairs_are_drawn_and_those_that_cannot_be_are_left_out(groups, tmp_path):
    one = Scatter("How near.", groups, "forecast", "outcome")
    page = write_report(
        None, tmp_path / "a.html", title="Pairs", facts={}, scatters=[one]
    )
    text = page.read_text()
    assert text.count("<img") == 1
    assert "outcome against forecast" in text
    assert "How near." in text


def test_a_page_of_bars_needs_no_draws(tmp_path):
    values = {f"site {k}": float(k) for k in range(50)} | {"lost": float("nan")}
    bars = Bars("How far.", values, "distance")
    page = write_report(None, tmp_path / "a.html", title="Bars", facts={}, bars=[bars])
    text = page.read_text()
    assert text.count("<img") == 1
    assert "distance: site 0 0; site 1 1; " in text
    assert "; and 45 more." in text
    assert "no draws" not in text


def test_small_pictures_stand_side_by_side(tmp_path):
    images = Images("Digits.", np.zeros((3, 8, 8)), ["0?", "<1>", "2"])
    path = write_report(None, tmp_path / "r.html", title="T", facts={}, images=[images])
    text = path.read_text("utf-8")
    assert "Digits." in text
    assert "3 small pictures: 0?; &lt;1&gt;; 2." in text
    assert text.count("<img") == 1
    more = Images("Digits.", np.zeros((7, 8, 8)), list("0123456")).figure()
    assert "7 small pictures: 0; 1; 2; 3; 4; 5; and 1 more." in more
