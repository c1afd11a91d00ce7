"""The benchmark of a GPU sees a device that computes something else."""

import importlib
import math
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
HERE = {"cpu": torch.device("cpu"), "cpu, again": torch.device("cpu")}


@pytest.fixture
def case_file(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("_gpu_case")


def rows_of(case_file, make, limit: float | None = 1e-6):
    case = case_file.Case(make, limit)
    return case_file.rows_of("case", case, HERE, True)


def varying(scale):
    """Make work of which the second device gets another multiple."""
    devices = iter([1.0, scale])

    def make(device):
        factor = next(devices)
        return lambda: {"x": factor * torch.arange(1.0, 4.0)}

    return make


@pytest.mark.parametrize(("scale", "agrees"), [(1.0, True), (1.001, False)])
def test_a_wrong_result_is_seen(case_file, scale, agrees):
    row = rows_of(case_file, varying(scale))[-1]
    assert row["agrees"] is agrees
    assert row["value"] == pytest.approx(scale - 1, abs=1e-7)


def test_not_a_number_never_agrees(case_file):
    row = rows_of(case_file, varying(math.nan))[-1]
    assert row["value"] == math.inf
    assert row["agrees"] is False


@pytest.mark.parametrize(("shift", "agrees"), [(0.0, True), (6.0, False)])
def test_draws_are_compared_in_standard_errors(case_file, shift, agrees):
    devices = iter([0.0, shift])

    def make(device):
        centre = next(devices)
        error = torch.ones(1)
        return lambda: {"mean": centre + 0 * error, "error": error}

    row = rows_of(case_file, make, None)[-1]
    # two errors of one: the difference has a standard deviation of the root of two
    assert row["value"] == pytest.approx(shift / 2**0.5)
    assert row["agrees"] is agrees


def test_calls_with_seeds_of_their_own_are_compared_by_their_means(case_file):
    # the same ten numbers, and the same moved by far more than they spread
    one = [{"call": torch.tensor(float(i))} for i in range(10)]
    far = [{"call": torch.tensor(i + 30.0)} for i in range(10)]
    apart, limit = case_file.difference(one, one)
    assert apart == 0.0
    assert apart < limit
    apart, limit = case_file.difference(one, far)
    # a variance of 55 / 6 in each, over ten calls
    assert apart == pytest.approx(30 / (2 * 55 / 6 / 10) ** 0.5)
    assert apart > limit


@pytest.mark.filterwarnings("ignore")
def test_what_does_not_run_is_a_row_with_the_reason(case_file, capsys):
    def make(device):
        raise ValueError("no such kernel")

    (row,) = rows_of(case_file, make)
    assert row["value"] is None
    assert row["note"] == "does not run: ValueError: no such kernel"
    assert "no such kernel" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_written(case_file, capsys, tmp_path):
    out = tmp_path / "gpu.json"
    importlib.import_module("gpu").main(["--out", str(out)])
    assert capsys.readouterr().out == "no GPU\n"
    assert not out.exists()
