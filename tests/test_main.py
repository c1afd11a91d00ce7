"""`python -m pyro_geo`: what it lists, and what it says of the machine."""

import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pyro_geo import _machine
from pyro_geo.__main__ import main
from pyro_geo._methods import METHODS

ROOT = Path(__file__).resolve().parents[1]


def test_the_list_has_every_method_model_and_program(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for method in METHODS:
        assert method.name in printed
    for folder in ("models", "inference"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.name in printed


@pytest.mark.parametrize("name", [name for one in METHODS for name in one.names])
def test_every_name_of_a_method_can_be_imported(name):
    package, _, last = f"pyro_geo.{name}".rpartition(".")
    assert callable(getattr(import_module(package), last))


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.name)
def test_every_method_has_a_page_that_names_where_to_start(method):
    text = (ROOT / "docs" / f"{method.page}.md").read_text()
    assert method.names[0].rpartition(".")[2] in text


def test_without_the_sources_it_says_where_models_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("pyro_geo.__main__.__file__", str(tmp_path / "a" / "b.py"))
    main(["list"])
    assert "are in the sources" in capsys.readouterr().out


def test_the_machine_is_told_in_ten_lines(capsys):
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert "cores" in lines[3]


def test_a_compiler_that_fails_is_told_with_its_reason(monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("no g++ here")

    monkeypatch.setattr("pyro_geo._compat.torch.compile_graph", fail)
    (line,) = [one for one in _machine.check_machine() if one.startswith("compiler")]
    assert "traced instead (no g++ here)" in line


def test_what_is_missing_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr(_machine, "find_spec", lambda name: None)
    *_, line = _machine.check_machine()
    assert "gymnasium for environments of others (pyro_geo[control])" in line


def test_it_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyro_geo", "list"])
    monkeypatch.delitem(sys.modules, "pyro_geo.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pyro_geo", run_name="__main__")
    assert ended.value.code == 0
    assert "Programs, in inference/" in capsys.readouterr().out
