"""Draws with weights are the same under ArviZ 0.23 and 1.x, and need no torch.

Which interpreter has ArviZ 1.x is said in `test_arviz_versions.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_geo._compat.arviz import major_version

CHECK = Path(__file__).parent / "weighted_check.py"
VARIABLE = "PYRO_GEO_ARVIZ1_PYTHON"


def run_check(python, major):
    environment = {**os.environ, "PYTHONPATH": str(CHECK.parents[2])}
    command = [python, "-W", "error", str(CHECK), str(major)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_weighted_draws_need_no_torch():
    table = run_check(sys.executable, major_version())
    assert len(table["mean"]) == 3


def test_weighted_draws_have_the_same_table_under_arviz_1():
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with ArviZ 1.x")
    ours, theirs = run_check(sys.executable, major_version()), run_check(python, 1)
    assert set(ours) == set(theirs)
    for name, values in ours.items():
        assert theirs[name] == pytest.approx(values, rel=1e-6)
