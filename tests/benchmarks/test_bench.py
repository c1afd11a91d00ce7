"""What the benchmarks share."""

import json
import runpy
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = runpy.run_path(str(ROOT / "benchmarks" / "_bench.py"))


def test_timings_are_interleaved_medians():
    order = []

    def fast():
        order.append("fast")

    def slow():
        order.append("slow")
        time.sleep(0.002)

    times = BENCH["interleaved"](
        {"fast": fast, "slow": slow}, repetitions=3, seconds=0.0
    )
    assert order[-6:] == ["fast", "slow"] * 3
    assert times["slow"].wall > 0.002 > times["fast"].wall
    assert times["slow"].cpu < times["slow"].wall
    assert BENCH["timing"]([(1.0, 2.0), (9.0, 9.0), (2.0, 3.0)])[:2] == (2.0, 3.0)


@pytest.mark.parametrize("quick", [True, False])
def test_results_are_written_where_asked(tmp_path, capsys, quick):
    path = tmp_path / "deep" / "one.json"
    argv = ["--quick"] * quick + ["--out", str(path)]
    args = BENCH["options"]("One.\n\nMore.", argv)
    rows = [{"case": "a", "method": "b", "metric": "c", "value": 1.0, "unit": "s"}]
    BENCH["write"]("one", rows, {"speed": 2.0}, args, ("torch", "no-such-package"))
    result = json.loads(path.read_text())
    assert result["rows"] == rows
    assert result["ratios"] == {"speed": 2.0}
    assert result["versions"]["no-such-package"] == "not installed"
    assert result["command"] == "make bench NAME=one"
    assert "speed: 2" in capsys.readouterr().out


def test_a_quick_run_writes_nothing_by_itself(capsys):
    BENCH["write"]("quick", [], {}, BENCH["options"]("", ["--quick"]))
    assert "written" not in capsys.readouterr().out
    assert not (ROOT / "benchmarks" / "results" / "quick.json").exists()
