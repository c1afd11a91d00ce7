"""All pages have one look: titles, facts, the order of their parts, the foot."""

import re

import numpy as np
import pandas as pd
import pytest

from pyro_geo.io._report.style import WIDTH, draw
from pyro_geo.io.arviz import to_arviz
from pyro_geo.io.reports import Bars, Curves, page_title, write_report
from tests.io.test_report import Page, full


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (("HMC", "eight_schools"), "HMC on eight_schools"),
        (("DIMS", "gap_network"), "DiMS on gap_network"),
        (("GibbsPosterior", "classifier"), "Gibbs posterior on classifier"),
        (("BoundedTracker", "2 tracks"), "Bounded tracker on 2 tracks"),
        (("HMC", "a/folder/two_routes.py"), "HMC on two_routes"),
        (("DIMS", "model", ["w"]), "DiMS on a model of w"),
        (("HMC", "<lambda>", ["a", "b", "c"]), "HMC on a model of a, b and c"),
        (("HMC", "model", list("abcd")), "HMC on a model of a, b and 2 more"),
        (("HMC", "model"), "HMC on model"),
        (("Comparison",), "Comparison"),
    ],
)
def test_a_title_is_a_method_on_a_model(arguments, title):
    assert page_title(*arguments) == title


@pytest.fixture
def page(tmp_path, seed):
    def write(facts=None, *, draws=False, **options):
        idata = to_arviz(full(np.random.default_rng(seed))) if draws else None
        path = write_report(
            idata, tmp_path / "r.html", title="T", facts=facts or {}, **options
        )
        return Page(path.read_text("utf-8"))

    return write


def headings(page):
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page.html)


def test_parts_have_one_order_whatever_is_added(page):
    bars, curves = (
        Bars("b", {"x": 1.0}, "l"),
        Curves("c", [1, 2], {"l": [1, 2]}, "", ""),
    )
    more = {"bars": [bars], "curves": [curves]}
    found = page(draws=True, tables={"t": [{"a": 1}]}, notes=["n"], **more)
    parts = ["What this run has lost", "Please note", "Summary", "Tables", "Curves"]
    parts += ["Comparison", "Distributions", "Largest spread", "Statistics"]
    assert headings(found) == parts
    top = found.html.partition("</header>")[0]
    places = [top.index(part) for part in ("<h1>", 'class="lost"', 'class="cards"')]
    assert places == sorted(places)
    assert found.html.index("<footer>") > found.html.index("Statistics</h2>")


def test_names_that_look_like_numbers_stay_names(page):
    assert "model 2024_10" in page({"model": "2024_10", "kernel": "1e3"}).text
    assert "method 1e3" in page({"model": "2024_10", "kernel": "1e3"}).text


def test_facts_are_rounded_named_and_folded(page):
    facts = {f"option_{i}": i for i in range(9)}
    facts |= {"kernel": "HMC", "step_size": "0.528647118796", "seed": "12345678"}
    facts |= {"sampling_time": "2.5649", "interrupted": "0", "model": "schools"}
    facts |= {"inference_library": "pyro_geo", "inference_library_version": "0.0.9"}
    facts |= {"torch_version": "2.9.0"}
    found = page(facts)
    assert "model schools method HMC seed 12345678 sampling time 2.565 s" in found.text
    assert "step size 0.5286" in found.text
    assert "interrupted no" in found.text
    assert "7 more facts" in found.text
    assert "library" not in found.text
    assert "The run: pyro_geo 0.0.9, torch 2.9.0." in found.text


def test_rows_are_named_by_all_levels_of_their_index(page):
    index = pd.MultiIndex.from_tuples([("SPD", "shifted")], names=["fit", "test"])
    found = page(tables={"t": pd.DataFrame({"nll": [0.5]}, index=index)})
    assert "t fit, test nll SPD, shifted 0.5" in found.text


def test_the_foot_says_whom_to_cite(page):
    found = page(citation="@article{a<b, title={T & U}}")
    foot = found.html.partition("<footer>")[2]
    assert "How to cite" in foot
    assert "@article{a&lt;b, title={T &amp; U}}" in foot
    assert "How to cite" not in page().text


def test_pictures_have_one_width_and_words(page):
    lines = {"first": [1.0, 2.5], "second": [float("nan"), float("nan")]}
    bars = Bars("b", {"x": 1.0}, "l")
    found = page(curves=[Curves("c", [0, 1], lines, "step", "cost")], bars=[bars])
    assert len(found.images) == 2
    # the head of a PNG is the same up to its width
    assert len({image["src"][:48] for image in found.images}) == 1
    words = "cost over step: first from 1 to 2.5; second without a finite value."
    assert words in [image["alt"] for image in found.images]


def test_a_picture_is_as_wide_as_all_others():
    png = draw(1.0, lambda figure: None)
    assert int.from_bytes(png[16:20]) == round(140 * WIDTH)
