"""ArviZ 0.23 and 1.x give the same result from the same arrays.

ArviZ 1.x needs Python 3.12 or newer, where the torch build in use may not exist. So it
is tried in an environment of its own, without torch, whose interpreter is named by
PYRO_GEO_ARVIZ1_PYTHON; to make one:

    python3.12 -m venv ENV && ENV/bin/pip install "arviz>=1" h5netcdf h5py matplotlib
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_geo._compat.arviz import major_version

HERE = Path(__file__).parent
VARIABLE = "PYRO_GEO_ARVIZ1_PYTHON"


def run_check(python, major, old, new):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [python, "-W", "error", str(HERE / "bridge_check.py")]
    done = subprocess.run(
        [*command, str(major), str(old), str(new)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


def test_the_bridge_works_without_torch_under_this_arviz(tmp_path):
    major = major_version()
    version = run_check(sys.executable, major, "-", tmp_path / "run.nc")
    assert version.startswith(f"{major}.")


def test_the_bridge_works_under_arviz_1_and_reads_files_of_the_old_one(tmp_path):
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with ArviZ 1.x")
    old, new = tmp_path / "old.nc", tmp_path / "new.nc"
    run_check(sys.executable, major_version(), "-", old)
    assert run_check(python, 1, old, new).startswith("1.")
