"""Every benchmark walks its paths and writes where it is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.stem != "tables" and not path.stem.startswith("_")
)
KEYS = {"name", "date", "processor", "cores", "versions", "command", "rows", "ratios"}


@pytest.mark.slow  # compiles in several new processes
@pytest.mark.parametrize("name", NAMES)
def test_quick_run(name, tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, f"benchmarks/{name}.py", "--quick", "--out", str(out)]
    # a run that hangs ends; one on a busy machine may take its time
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800, capture_output=True)
    result = json.loads(out.read_text())
    assert result.keys() >= KEYS
    assert result["name"] == name
    assert result["rows"]
    assert result["ratios"]
    for row in result["rows"]:
        assert row.keys() >= {"case", "method", "metric", "value", "unit"}
