"""Ctrl-C: put off where it would be lost, kept from workers, never swallowed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import Timeout

from pyro_geo._process import alone, uninterrupted
from pyro_geo.density.ladder import Lifted
from pyro_geo.io.store import check_run

ROOT = Path(__file__).parents[1]

SCRIPT = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import joblib
from pyro_geo.io.store import check_run
from tests.engine.test_workers import run

def interrupt(folder):
    while not (os.path.exists(folder) and check_run(folder)["num_draws"]):
        time.sleep(0.02)
    os.killpg(0, signal.SIGINT)  # as a terminal does

if __name__ == "__main__":
    threading.Thread(target=interrupt, args=sys.argv[1:], daemon=True).start()
    with joblib.parallel_config(backend="loky", n_jobs=2):
        fit = run(num_samples=100_000, store=sys.argv[1])
    print(fit.interrupted, fit.positions.shape[1])
"""


@pytest.fixture(autouse=True)
def audible() -> Iterator[None]:
    """A process in the background of a shell may ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_is_raised_at_the_end() -> None:
    done = []

    @uninterrupted()
    def work() -> None:
        press()
        press()
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_is_raised_at_once() -> None:
    done = []

    @uninterrupted(insist=False)
    def work() -> None:
        press()
        done.append(1)
        press()
        done.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]


def test_an_interrupt_waits_for_the_end_of_a_trace() -> None:
    armed, passed = [True], []

    def double(data: object, x: torch.Tensor) -> torch.Tensor:
        if armed:
            armed.pop()
            press()
            passed.append(True)
        return 2 * x

    lifted = Lifted(double, name="double")
    with pytest.raises(KeyboardInterrupt):
        lifted((), torch.ones(2))
    assert passed
    assert lifted((), torch.ones(2)).tolist() == [2.0, 2.0]
    assert lifted.notes == []  # it was not taken for a failure


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_leaves_workers_quiet(tmp_path: Path) -> None:
    script, folder = tmp_path / "program.py", tmp_path / "run.zarr"
    script.write_text(SCRIPT)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    interrupted, draws = done.stdout.split()
    assert interrupted == "True"
    assert 0 < int(draws) < 100_000
    assert check_run(folder)["num_draws"] == int(draws)
    assert "Traceback" not in done.stderr


def test_one_process_at_a_time_is_alone():
    with alone("a test of locks"), pytest.raises(Timeout):
        alone("a test of locks").acquire(timeout=0)
    alone("a test of locks").acquire(timeout=0).lock.release()
