"""The comparison of `compile="auto"` with the better of `True` and `False`."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    try:
        yield runpy.run_path(str(FOLDER / "auto_compile.py"))
    finally:
        sys.path.remove(str(FOLDER))


def rows(bench, **seconds):
    cost = bench["Cost"]
    found = {
        name.replace("_", "/"): cost(value, value, "", 7)
        for name, value in seconds.items()
    }
    return list(bench["rows_of"]("case", found))


def test_auto_is_set_against_the_better_choice(bench):
    # compiling takes 10, or 1 from the cache, and saves 7 of 8
    kept = {"False": 8.0, "True_cold": 11.0, "True_warm": 2.0}
    traced = rows(bench, **kept, auto_cold=8.0, auto_warm=8.0)
    assert bench["ratios"](traced) == {
        "auto_over_best/case/cold": 1.0,
        "auto_over_best/case/warm": 4.0,
        "bound_over_best/case": 1.375,  # compiled: 11 / 8 cold, 1 warm
    }
    compiled = rows(bench, **kept, auto_cold=12.0, auto_warm=3.0)
    assert bench["ratios"](compiled)["auto_over_best/case/cold"] == 1.5
    assert bench["ratios"](compiled)["auto_over_best/case/warm"] == 1.5


def test_every_model_is_measured_with_few_and_with_many_chains(bench):
    names = {case.split("@")[0] for case in bench["CASES"]}
    assert len(names) == 11
    assert {f"{name}@{n}" for name in bench["NAMES"] for n in (4, 64)} <= {
        *bench["CASES"]
    }
