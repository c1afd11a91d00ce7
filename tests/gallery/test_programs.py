"""Every program of `inference/` runs on models of `models/`, as a user starts it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted((ROOT / "inference").glob("*.py"))
MODELS = sorted((ROOT / "models").glob("*.py"))
QUICK = {"eight_schools", "overparameterised_regression"}


def run(program: Path, model: Path, out: Path) -> str:
    command = [sys.executable, str(program), str(model), "--samples", "6"]
    command += ["--chains", "2", "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(m, id=m.stem, marks=[] if m.stem in QUICK else pytest.mark.slow)
        for m in MODELS
    ],
)
def test_a_program_writes_its_report(program, model, tmp_path):
    printed = run(program, model, tmp_path / "out")
    report = tmp_path / "out" / "report.html"
    assert str(report) in printed
    assert "<img" in report.read_text()
    if "def held_out" in model.read_text():
        for method in ("DiMS", "MAP", "deep ensemble", "linearised Laplace"):
            assert method in printed


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_is_short_and_explains_itself(program):
    lines = program.read_text().splitlines()
    assert len(lines) < 60
    assert lines[0].startswith('"""')
