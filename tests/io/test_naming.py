"""Names in ArviZ data and in stores: one to one, whatever a model calls its sites."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.errors import ConfigurationError, FallbackWarning
from pyro_geo.io.arviz import get_group, import_arviz, to_arviz, true_names
from pyro_geo.io.names import plain_facts
from pyro_geo.io.naming import folder_name, folder_names, name_all

PIECES = ["a", "A", "b", ".", "/", "_", "draw", "con", "\x00", "\ud800", "e\u0301"]
PIECES += ["\u00e9", " ", "\\", "zarr.json", "\u212a", "k", "K", "x" * 250]
NAMES = st.lists(st.lists(st.sampled_from(PIECES), max_size=3).map("".join), max_size=9)
TAKEN = ("chain", "draw")


def distinct(names, same=lambda name: name) -> bool:
    return len({same(name) for name in names}) == len(names)


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    return composed(composed(name).casefold())


@given(NAMES, NAMES)
def test_names_are_one_to_one_and_can_be_written(sites, axes):
    named = name_all(sites, axes, TAKEN)
    assert set(named.sites) == set(sites)
    assert set(named.axes) == set(axes)
    every = [*named.sites.values(), *named.axes.values(), *TAKEN]
    assert distinct(every, composed)
    for name in every:
        assert "/" not in name
        assert name.strip(". ")
        assert len(name.encode()) <= 255
        assert name.isprintable()
    folders = folder_names([*named.sites.values(), *named.axes.values()], TAKEN)
    assert distinct([*folders.values(), *TAKEN], folded)
    for folder in folders.values():
        assert folder_name(folder) == folder
        assert folder[0] != "."
        assert not folder.startswith("__")
        assert not set(folder) & set('<>:"/\\|?*')


@given(NAMES, st.randoms())
def test_names_do_not_depend_on_the_order_of_sites(sites, random):
    shuffled = random.sample(sites, len(sites))
    assert name_all(sites, ()) == name_all(shuffled, ())


@given(NAMES)
def test_a_name_that_can_be_kept_is_kept(sites):
    easy = ["w", "layer.0.bias", "theta_", "draw_", "Net$1"]
    named = name_all([*sites, *easy], [])
    assert [named.sites[name] for name in easy] == easy
    assert [folder_names(easy)[name] for name in easy] == easy


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("a/b", "a.b"),
        ("draw", "draw_"),
        ("", "_"),
        ("..", "__"),
        ("a\nb", "a_b"),
        ("\udc80", "_"),
        ("a\\b", "a_b"),
        ("zarr.json", "zarr.json_"),
        ("CON", "CON"),
    ],
)
def test_a_name_in_memory(name, stored):
    assert name_all([name], []).sites == {name: stored}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("C:x", "C_x"),
        ("ZARR.JSON", "ZARR.JSON_"),
        ("COM1.x", "COM1_.x"),
        (".hidden", "_hidden"),
        ("__x", "x__x"),
        ("x.", "x_"),
    ],
)
def test_a_name_on_disk(name, folder):
    assert folder_names([name]) == {name: folder}


def test_a_name_that_is_no_text_is_refused():
    bad: list = [3]
    with pytest.raises(ConfigurationError, match="found 3, expected a string"):
        name_all(bad, [])


@pytest.mark.filterwarnings("ignore:Names that cannot be stored")
def test_an_axis_with_the_name_of_a_site_gets_another(tmp_path):
    x, w, v = np.ones((2, 5, 3)), np.ones((2, 5, 4)), np.ones((2, 5, 3))
    idata = to_arviz(
        {"posterior": {"x": x, "w": w, "v": v, "w_dim_0": x[..., 0]}},
        dims={"x": ["x"], "v": ["x"]},
        coords={"x": ["p", "q", "r"]},
    )
    posterior = get_group(idata, "posterior")
    assert posterior is not None
    assert posterior["x"].dims == posterior["v"].dims == ("chain", "draw", "x_")
    assert posterior["x_"].values.tolist() == ["p", "q", "r"]
    assert posterior["w"].dims == ("chain", "draw", "w_dim_0_")
    assert true_names(posterior.attrs) == {"x_": "x", "w_dim_0_": "w_dim_0"}


@pytest.mark.filterwarnings("ignore:Names that cannot be stored")
def test_a_default_name_gives_way_to_a_given_one():
    groups = {"posterior": {"w": np.ones((2, 5, 4)), "v": np.ones((2, 5, 3))}}
    idata = to_arviz(groups, dims={"v": ["w_dim_0"]})
    posterior = get_group(idata, "posterior")
    assert posterior is not None
    assert dict(posterior.sizes) == {"chain": 2, "draw": 5, "w_dim_0": 3, "w_dim_0_": 4}
    assert posterior["v"].dims[2] == "w_dim_0"


def test_a_statistic_is_named_apart_from_a_site(recwarn):
    draws = np.ones((2, 5))
    idata = to_arviz(
        {
            "posterior": {"lp": np.ones((2, 5, 3)), "energy": draws},
            "sample_stats": {"lp": draws, "energy": draws},
        },
        dims={"lp": ["lp_dim_0"], "energy": []},
    )
    stats = get_group(idata, "sample_stats")
    assert stats is not None
    assert set(stats.data_vars) == {"lp", "energy"}
    assert not recwarn


class Version(str):
    """A text of another class, as torch's version is."""


def test_texts_of_any_kind_come_back_from_a_file(tmp_path):
    labels = [Version("p"), "q\udc80", "r"]
    facts = {"version": Version("2.13.0"), "note": "a\x00b \ud800", "empty": "", "n": 1}
    facts |= {"truth": np.bool_(True), "x": np.float32(0.5), "nan": float("nan")}
    idata = to_arviz(
        {"posterior": {"w": np.ones((2, 5, 3))}},
        dims={"w": ["k"]},
        coords={"k": np.array(labels, dtype=object)},
        attrs=facts,
    )
    idata.to_netcdf(str(tmp_path / "run.nc"))
    back = get_group(import_arviz().from_netcdf(str(tmp_path / "run.nc")), "posterior")
    assert back is not None
    assert back["k"].values.tolist() == ["p", "q\\udc80", "r"]
    assert back.attrs["version"] == "2.13.0"
    assert back.attrs["note"] == "a\\x00b \\ud800"
    assert back.attrs["empty"] == ""
    assert (back.attrs["truth"], back.attrs["x"]) == (1, 0.5)
    assert np.isnan(back.attrs["nan"])
    assert type(plain_facts(facts)["version"]) is str


@pytest.mark.parametrize("labels", [["a", 1], [None, None], [{}, {}]])
def test_labels_of_mixed_kinds_are_refused(labels):
    groups = {"posterior": {"w": np.ones((2, 5, 2))}}
    with pytest.raises(ConfigurationError, match="texts alone or numbers alone"):
        to_arviz(groups, dims={"w": ["k"]}, coords={"k": np.array(labels, object)})


def test_a_change_of_names_is_said(recwarn):
    groups = {"posterior": {f"a/{i}": np.ones((2, 5)) for i in range(9)}}
    with pytest.warns(FallbackWarning, match=r"a/0 -> a\.0, .*, \.\.\."):
        to_arviz(groups)
    with pytest.warns(FallbackWarning, match=r"\\udc80 -> _"):
        to_arviz({"posterior": {"\udc80": np.ones((2, 5))}})
