"""The gallery of the documentation: each model and program has its command."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = {path.stem for path in (ROOT / "models").glob("*.py")}
PROGRAMS = {path.stem for path in (ROOT / "inference").glob("*.py")}


@pytest.fixture(scope="module")
def gallery():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "gallery.py")))


def test_each_model_has_a_run_and_each_program_is_run(gallery):
    assert gallery.RUNS.keys() == MODELS
    assert {run.split(".py")[0] for run in gallery.RUNS.values()} == PROGRAMS


def test_pages_show_commands_that_name_real_files(gallery, tmp_path):
    pages = tmp_path / "pages"
    gallery.build(pages, tmp_path / "kept", run=False)
    names = MODELS | {f"program_{name}" for name in PROGRAMS} | {"index"}
    assert {path.stem for path in pages.iterdir()} == names
    for name in MODELS:
        text = (pages / f"{name}.md").read_text()
        (command,) = (x for x in text.splitlines() if x.startswith("$ python "))
        files = [word for word in command.split() if word.endswith(".py")]
        assert f"models/{name}.py" in files
        assert all((ROOT / file).is_file() for file in files)
        assert (ROOT / "models" / f"{name}.py").read_text() in text


def test_a_run_leaves_its_picture_and_its_output(gallery, tmp_path, monkeypatch):
    # a run that is kept is not run again, so a small one can stand for it
    kept = tmp_path / "kept" / "eight_schools"
    kept.mkdir(parents=True)
    (kept / "output.txt").write_text("mu  4.4")
    for name in ("picture.png", "report.html"):
        (kept / name).write_bytes(b"made before")
    entry = gallery.read_entry("eight_schools", kept, tmp_path)
    assert entry.output == "mu  4.4"
    assert (tmp_path / "eight_schools.png").read_bytes() == b"made before"
    assert (tmp_path / "eight_schools_report.html").is_file()


def test_what_runs_compile_does_not_change_the_digest(gallery, tmp_path, monkeypatch):
    source = tmp_path / "pyro_geo" / "part.py"
    cache = source.parent / "__pycache__"
    cache.mkdir(parents=True)
    source.write_text("x = 1")
    monkeypatch.setitem(gallery.digest.__globals__, "ROOT", tmp_path)
    before = gallery.digest()
    (cache / "part.function-1.py311.nbi").write_bytes(b"numba's")
    assert gallery.digest() == before
    source.write_text("x = 2")
    assert gallery.digest() != before


def test_a_run_stands_for_its_own_command_alone(gallery, tmp_path, monkeypatch):
    pages, kept = tmp_path / "pages", tmp_path / "kept"
    seen = []

    def run_none(name, folder):
        seen.append((name, folder))

    monkeypatch.setitem(gallery.build.__globals__, "run_once", run_none)
    monkeypatch.setitem(gallery.build.__globals__, "Parallel", lambda n_jobs: list)
    monkeypatch.setitem(gallery.build.__globals__, "delayed", lambda call: call)
    gallery.build(pages, kept, run=True)
    before = dict(seen)
    seen.clear()
    monkeypatch.setitem(gallery.RUNS, "eight_schools", "hmc.py {} --chains 4")
    gallery.build(pages, kept, run=True)
    after = dict(seen)
    assert {name for name in before if before[name] != after[name]} == {"eight_schools"}


def test_a_failed_run_stops_the_build(gallery, tmp_path, monkeypatch):
    monkeypatch.setitem(gallery.RUNS, "eight_schools", "absent.py {}")
    with pytest.raises(
        RuntimeError, match=r"eight_schools: the command failed\n.*absent"
    ):
        gallery.run_once("eight_schools", tmp_path)
