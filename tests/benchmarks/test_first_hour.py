"""The parts that the README's example is measured in."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_every_part_is_found_in_the_example(bench):
    child = bench("_first_hour_child")
    code = child.example(ROOT / "README.md")
    found = [child.part_of(ast.unparse(node)) for node in ast.parse(code).body]
    assert found[0] == "import torch and Pyro"
    assert set(found) == {name for name, _ in child.PARTS} | {"model and data"}


def test_comparisons_are_with_torch_and_pyro_and_with_filled_caches(bench):
    first = bench("first_hour")
    rows = [
        first.row("import", "torch and Pyro", "processor time", 2.0, 3),
        first.row("import", "pyro_geo", "processor time", 2.0, 3),
        first.row("import", "a sampler", "processor time", 2.1, 3),
        first.row(f"{first.EXAMPLE}, cold", "whole process", "processor time", 6.0, 3),
        first.row(f"{first.EXAMPLE}, warm", "whole process", "processor time", 5.0, 3),
    ]
    found = first.ratios(rows)
    assert found["import/sampler"] == pytest.approx(1.05)
    assert found["ten_lines/cold_over_warm"] == pytest.approx(1.2)
