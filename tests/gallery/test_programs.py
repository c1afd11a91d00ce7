"""Every program of `inference/` runs on models of `models/`, as a user starts it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_geo.io.store import check_run

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {path.stem: path for path in sorted((ROOT / "inference").glob("*.py"))}
MODELS = {path.stem: path for path in sorted((ROOT / "models").glob("*.py"))}
METHODS = {"dims": "DiMS", "hmc": "HMC", "hgf": "HMC"}
BASELINES = "MAP", "deep ensemble", "linearised Laplace"
# DiMS needs no warm-up; for the others a few steps show that it runs
CHAINS = ["--samples", "6", "--chains", "2"]
OPTIONS = {
    "hmc": [*CHAINS, "--warmup", "20"],
    "hgf": [*CHAINS, "--warmup", "20"],
    "saas": [*CHAINS, "--warmup", "20"],
    "gibbs": ["--particles", "8", "--betas", "0.01", "0.02"],
    "tracking": [],
    "modes": [*CHAINS, "--warmup", "20"],
    "merging": [*CHAINS, "--warmup", "20", "--hospitals", "2"],
    "merge_models": ["--steps", "20"],
    "control": ["--draws", "3", "--runs", "1", "--steps", "3"],
    "plan": ["--samples", "20", "--steps", "2", "--horizon", "5", "--draws", "2"],
    "finetune": ["--steps", "30"],
    "unlearning": [*CHAINS, "--warmup", "20", "--epochs", "1"],
}
REFUSED = {
    ("dims", "gaussian_mixture"): "discrete latents are summed out",
}
NEEDED = {
    "demo": "it takes two models, below",
    "hgf": "hgf_filter",
    "saas": "def new_points(",
    "gibbs": "def loss(",
    "tracking": "def tracker(",
    "merging": "def shards(",
    "merge_models": "def tasks(",
    "control": "def log_likelihood(",
    "plan": "def start(",
    "modes": "modes of equal mass",
    "finetune": "def shifted(",
    "unlearning": "def withdrawn(",
}
FITTING = [
    (program, model)
    for program in PROGRAMS
    for model, path in MODELS.items()
    if (program, model) not in REFUSED and NEEDED.get(program, "") in path.read_text()
]


def run(program: str, model: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAMS[program]), str(MODELS[model])]
    command += ["--seed", "1", "--out", str(out), *OPTIONS.get(program, CHAINS)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.slow
def test_the_same_command_goes_on_with_a_store(tmp_path):
    command = [sys.executable, "inference/hmc.py", "models/eight_schools.py"]
    command += ["--chains", "4", "--warmup", "50", "--out", str(tmp_path / "out")]
    command += ["--store", str(tmp_path / "run.zarr")]
    tables = []
    for samples in ("50", "100"):
        done = subprocess.run(
            [*command, "--samples", samples],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout)
    assert all("Report:" in table for table in tables)
    assert check_run(tmp_path / "run.zarr")["num_draws"] == 100


@pytest.mark.slow
def test_the_demo_has_a_posterior_minima_and_a_certificate(tmp_path):
    models = [str(MODELS[name]) for name in ("eight_schools", "digits_classifier")]
    done = subprocess.run(
        [sys.executable, "inference/demo.py", *models, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr  # all draws are at minima
    assert done.stdout.splitlines()[-1] == f"Report: {tmp_path / 'report.html'}"
    for part in ("tau", "Predictive checks", *BASELINES, "at most"):
        assert part in done.stdout
    page = (tmp_path / "report.html").read_text()
    for part in ("digits_classifier", "Reliability", "least sure", "Clopper-Pearson"):
        assert part in page


@pytest.mark.filterwarnings("ignore")  # a few draws have not converged
def test_a_program_runs_in_this_process_too(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = [str(PROGRAMS["hmc"]), str(MODELS["eight_schools"])]
    command += ["--seed", "1", "--out", str(out), *OPTIONS["hmc"]]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(command[0], run_name="__main__")
    assert str(out / "report.html") in capsys.readouterr().out
    assert "<img" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("program", "model"), FITTING)
def test_a_program_writes_its_report(program, model, tmp_path):
    done = run(program, model, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    report = tmp_path / "out" / "report.html"
    assert str(report) in done.stdout
    assert "<img" in report.read_text()
    if program == "gibbs":
        certified = "def risk(" in MODELS[model].read_text()
        assert ("risk at most" in done.stdout) == certified
        assert "free_energy" in done.stdout
    elif program == "finetune":
        for row in ("ClippedAdam", "SPD", "earlier posterior as prior", "w1"):
            assert row in done.stdout
    elif program == "unlearning":
        assert "Done: " in done.stdout
    elif program == "merging":
        assert "others as prior" in done.stdout
    elif program == "merge_models":
        before, after = done.stdout.split("Outcome: points lost")
        for text in (before, after):
            assert "EpiMer" in text
            assert "turned left" in text
        assert "outcome, points against forecast, points" in report.read_text()
    elif "def held_out" in MODELS[model].read_text():
        for method in (METHODS[program], *BASELINES):
            assert method in done.stdout
    if program == "hgf":
        assert "Leave-one-out over trials" in done.stdout
        assert "Learning rate of each level. Bands" in report.read_text()
    if program == "modes":
        assert "share of draws" in done.stdout
        for part in ("History of the search", "modes given", "Stars: modes"):
            assert part in report.read_text()
    if program == "saas":
        for row in ("posterior", "mode", "maximum likelihood", "matters"):
            assert row in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("program", "model"), REFUSED)
def test_a_program_says_why_it_cannot(program, model, tmp_path):
    done = run(program, model, tmp_path / "out")
    assert done.returncode != 0
    assert REFUSED[program, model] in done.stderr


def test_every_program_and_every_model_is_run():
    assert {program for program, _ in FITTING} | {"demo"} == set(PROGRAMS)
    assert {model for _, model in FITTING} == set(MODELS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_short_and_explains_itself(program):
    lines = PROGRAMS[program].read_text().splitlines()
    assert len(lines) < 60
    assert lines[0].startswith('"""')
