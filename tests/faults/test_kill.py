"""SIGKILL at random instants: the counts are printed (`pytest -s`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # tests/io/test_store.py kills a writer before each of its files
@pytest.mark.parametrize(
    "kills",
    [4, 50],
)
def test_whatever_instant_a_run_is_killed_at_it_goes_on_bit_for_bit(kills, seed):
    command = [sys.executable, "tests/faults/kill.py", f"--kills={kills}"]
    done = subprocess.run(
        [*command, f"--seed={seed}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["kills"] == kills
    # killed before its folder was in place a run leaves nothing that could be opened
    assert found["opened"] + found["before"] == kills
    assert found["opened"] > kills // 2
    assert found["resumed_equal"] == found["runs"] >= 2
