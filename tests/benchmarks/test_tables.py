"""The script that carries benchmark figures into the pages."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLES = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
PAGE = "top\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\nbottom\n"
TEMPLATE = """{{dims: draws_per_cpu_s/dopri5_lockstep@256}} times as many, and \
{{dims: gap | DIMS | nll}} nats ({{dims: gap | DIMS | nll; percent}}).
"""
RESULT = {
    "name": "dims",
    "date": "2026-01-31",
    "processor": "a processor",
    "cores": 2,
    "versions": {"torch": "2.13.0"},
    "command": "make bench NAME=dims",
    "rows": [
        {
            "case": "gap",
            "method": "DIMS",
            "metric": "nll",
            "value": 1.9123,
            "sd": 0.2,
            "seeds": 3,
            "unit": "nat",
        },
        {"case": "gap", "method": "peer", "metric": "nll", "value": None},
    ],
    "ratios": {"draws_per_cpu_s/dopri5_lockstep@256": 1234.5},
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "pages").mkdir()
    (tmp_path / "docs" / "explanation").mkdir(parents=True)
    for name in ("docs/benchmarks.md", *TABLES["WRITTEN"]):
        (tmp_path / name).write_text(PAGE)
    for template in TABLES["WRITTEN"].values():
        (tmp_path / "benchmarks" / "pages" / template).write_text(TEMPLATE)
    return tmp_path


def test_pages_are_stale_then_filled_then_fresh(root):
    (root / "benchmarks" / "results" / "dims.json").write_text(json.dumps(RESULT))
    assert TABLES["main"](["--check"], root) == 1
    assert (root / "README.md").read_text() == PAGE
    assert TABLES["main"]([], root) == 0
    assert TABLES["main"](["--check"], root) == 0
    readme = (root / "README.md").read_text()
    assert "1,234 times as many, and 1.91 nats (191 %)." in readme
    assert "Measured from 2026-01-31 to 2026-01-31." in readme
    assert readme.startswith("top\n")
    assert readme.endswith("\nbottom\n")
    assert "old" not in readme
    assert "draws_per_cpu_s" not in readme
    page = (root / "docs" / "benchmarks.md").read_text()
    assert "| dims | `draws_per_cpu_s/dopri5_lockstep@256` | 1,234 |" in page
    assert "\nbenchmarks/dims\n" in page
    detail = root / "docs" / "benchmarks" / "dims.md"
    text = detail.read_text()
    assert "| gap | DIMS | nll | 1.91 ± 0.2 | nat | 3 |" in text
    assert "| gap | peer | nll | not installed |  |  |" in text
    # a benchmark that is gone takes its page along
    (root / "benchmarks" / "results" / "dims.json").unlink()
    assert TABLES["main"](["--check"], root) == 1
    assert detail.exists()
    assert TABLES["main"]([], root) == 0
    assert not detail.exists()


def test_no_results_are_said_to_be_none(root):
    assert TABLES["main"]([], root) == 0
    assert "No figures" in (root / "README.md").read_text()


def test_a_page_without_markers_is_named():
    with pytest.raises(ValueError, match="no pair of markers"):
        TABLES["replace"]("nothing here", "body")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (2.0, "2"),
        (1.23456, "1.23"),
        (99999.4, "99,999"),
        (2.5e-5, "2.50e-05"),
        ("failed its check", "failed its check"),
    ],
)
def test_numbers_are_shown_short(value, shown):
    assert TABLES["number"](value) == shown


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("hmc: a ratio", "no results of 'hmc'"),
        ("dims: a ratio", "found \\[\\] for 'a ratio' of dims, expected one number"),
        ("dims: gap | peer | nll", "found \\[None\\] for"),
    ],
)
def test_a_field_without_a_figure_is_named(field, message):
    with pytest.raises(ValueError, match=message):
        TABLES["filled"](f"{{{{{field}}}}}", [RESULT])


def test_checked_in_pages_are_fresh():
    assert TABLES["main"](["--check"]) == 0
