"""The parts that the README's example is measured in."""

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_is_found_in_the_example():
    child = load("_first_hour_child")
    text = (ROOT / "README.md").read_text()
    (code, *_) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    found = [child.part_of(ast.unparse(node)) for node in ast.parse(code).body]
    assert found[0] == "import torch and Pyro"
    assert set(found) == {name for name, _ in child.PARTS} | {"model and data"}


def test_comparisons_are_with_torch_and_pyro_and_with_filled_caches(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    bench = load("first_hour")
    rows = [
        bench.row("import", "torch and Pyro", "processor time", 2.0, 3),
        bench.row("import", "pyro_geo", "processor time", 2.0, 3),
        bench.row("import", "a sampler", "processor time", 2.1, 3),
        bench.row(f"{bench.EXAMPLE}, cold", "whole process", "processor time", 6.0, 3),
        bench.row(f"{bench.EXAMPLE}, warm", "whole process", "processor time", 5.0, 3),
    ]
    found = bench.ratios(rows)
    assert found["import/sampler"] == pytest.approx(1.05)
    assert found["ten_lines/cold_over_warm"] == pytest.approx(1.2)
