"""ArviZ 0.23 and 1.x give the same result from the same arrays.

ArviZ 1.x needs Python 3.12 or newer, where the torch build in use may not exist. So it
is tried in an environment of its own, without torch, whose interpreter is named by
PYRO_GEO_ARVIZ1_PYTHON; to make one:

    python3.12 -m venv ENV
    ENV/bin/pip install "arviz>=1" h5netcdf h5py matplotlib zarr filelock
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_geo
from pyro_geo._compat.arviz import import_arviz, major_version, uncompiled

PACKAGE = Path(pyro_geo.__file__).parent
# What `bridge_check.py` runs. InferenceData and psislw are of 0.23 alone; the module
# _compat/arviz.py knows what stands for them in 1.x.
TRIED = {"InferenceData", "ess", "mcse", "psislw", "rhat", "summary"}
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
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_bridge_works_without_torch_under_this_arviz(tmp_path):
    major = major_version()
    found = run_check(sys.executable, major, "-", tmp_path / "run.nc")
    assert found["version"].startswith(f"{major}.")


def test_the_bridge_works_under_arviz_1_and_reads_files_of_the_old_one(tmp_path):
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with ArviZ 1.x")
    old, new = tmp_path / "old.nc", tmp_path / "new.nc"
    ours = run_check(sys.executable, major_version(), "-", old)
    theirs = run_check(python, 1, old, new)
    assert theirs["version"].startswith("1.")
    assert theirs["numbers"] == pytest.approx(ours["numbers"], rel=1e-6)


def calls_of(tree):
    """Names that a module takes from ArviZ, as `arviz.rhat` or by an import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "arviz":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner in ("arviz", "az", "import_arviz()"):
                yield node.attr


def test_every_call_of_arviz_that_the_package_makes_is_tried():
    found = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in calls_of(ast.parse(path.read_text()))
        if name != "__version__"
    }
    assert found == TRIED


@pytest.mark.parametrize("wanted", [True, False])
def test_tables_leave_the_user_s_switch_of_numba_as_it_was(wanted, monkeypatch):
    switch = getattr(import_arviz(), "Numba", None)
    if switch is None:
        pytest.skip("ArviZ 1.x has no such switch")
    monkeypatch.setattr(switch, "numba_flag", wanted)
    inside = []

    def fails():
        with uncompiled():
            inside.append(switch.numba_flag)
            raise ValueError("a constant")

    with pytest.raises(ValueError, match="constant"):
        fails()
    assert inside == [False]
    assert switch.numba_flag is wanted
