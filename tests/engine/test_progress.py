"""Progress: one line in a terminal or a notebook, a few lines in a log file."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tqdm.std import tqdm

from pyro_geo.engine import _bars
from pyro_geo.engine.progress import Progress

ROOT = Path(__file__).parents[2]
STATS = {"diverging": torch.tensor([True]), "acceptance_rate": torch.tensor([0.75])}
SCRIPT = """
import sys, warnings
import torch
from pyro_geo.engine.progress import Progress
stats = {"diverging": torch.tensor([False]), "acceptance_rate": torch.tensor([0.75])}
with Progress("sample", 2000, "draw", True) as bar:
    for done in range(1, 2001):
        bar.count(stats)
        bar.show(done, {"a fact that is rather long": "and more than fits the width"})
"""


def go(bar, steps):
    for done in range(1, steps + 1):
        bar.count(STATS)
        bar.show(done, {})


def test_a_log_file_gets_a_few_lines(capsys):
    with Progress("sample", 1000, "draw", True) as bar:
        go(bar, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11  # the start and each tenth
    assert lines[0].startswith("sample: 0%, 0/1000 draws")
    assert lines[5].startswith("sample: 50%, 500/1000 draws")
    assert lines[-1].startswith("sample: 100%, 1000/1000 draws")
    assert lines[-1].endswith(", diverging=1000, acceptance=0.75")
    assert not any("\r" in line for line in lines)


def test_a_run_that_ends_early_says_how_far_it_was(capsys):
    with Progress("sample", 1000, "draw", True) as bar:
        go(bar, 237)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("sample: 23%, 237/1000 draws")


def test_compiling_is_a_line_of_a_log_file(capsys):
    with Progress("sample", 10, "draw", True) as bar, bar.compiling(1234):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "compiling a graph of 1,234 operations"


@pytest.mark.parametrize(("total", "shown"), [(10, False), (0, True)])
def test_nothing_is_shown_where_nothing_is_asked_for(capsys, total, shown):
    with Progress("sample", total, "draw", shown) as bar:
        bar.show(0, {})
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_process_without_standard_error_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("sample", 10, "draw", True) as bar:
        go(bar, 10)


def test_a_log_that_is_closed_stops_no_run(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress("sample", 10, "draw", True) as bar:
        go(bar, 5)
        log.close()
        with bar.compiling(12):
            go(bar, 10)
    with Progress("sample", 10, "draw", True) as bar:
        go(bar, 10)


def test_a_log_that_nobody_reads_any_more_stops_no_run(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as log:
        monkeypatch.setattr(sys, "stderr", log)
        with Progress("sample", 10, "draw", True) as bar:
            go(bar, 10)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            log.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_keeps_one_line_that_fits(monkeypatch):
    """The bar is written over and over; it never wraps to a second line."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    while part := _read(ours):
        seen += part
    os.close(ours)
    assert run.wait() == 0
    text = seen.decode()
    assert text.strip().count("\n") == 0  # all in one line
    shown = [re.sub(r"\x1b\[[A-Z]", "", one).strip("\n") for one in text.split("\r")]
    assert len(shown) > 2
    assert max(map(len, shown)) <= 60
    assert "100%" in text


def _read(descriptor):
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # Linux says so where the other end is closed
        return b""


class ZMQInteractiveShell:
    """What IPython calls the shell of a notebook."""


class Shell(ZMQInteractiveShell):
    """What Colab makes of it."""


@pytest.mark.parametrize("shell", [ZMQInteractiveShell, Shell])
def test_a_notebook_without_widgets_gets_a_text_bar_and_no_warning(
    monkeypatch, capsys, shell
):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=shell))
    monkeypatch.setattr(_bars.importlib.util, "find_spec", lambda name: None)
    with Progress("sample", 10, "draw", True) as bar:  # warnings are errors here
        assert type(bar._bar) is tqdm
        go(bar, 10)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "10/10" in text


def test_importing_us_in_a_notebook_without_widgets_says_nothing():
    """Pyro imports `tqdm.auto`, which warns there."""
    code = """
import sys, types, warnings
warnings.simplefilter("error")
shell = type("ZMQInteractiveShell", (), {})
for name in ("ipykernel", "ipykernel.zmqshell", "IPython"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["IPython"].get_ipython = shell
sys.modules["ipywidgets"] = None
import pyro_geo
import tqdm.auto
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_real_kernel_says_nothing_of_widgets():
    """tqdm itself warns there that IProgress was not found."""
    pytest.importorskip("ipykernel")
    manager = pytest.importorskip("jupyter_client.manager")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kernel, client = manager.start_new_kernel(kernel_name="python3", env=environment)
    shown = []
    try:
        client.execute_interactive(SCRIPT, output_hook=shown.append, timeout=120)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    texts = [message["content"].get("text", "") for message in shown]
    assert not any(message["msg_type"] == "error" for message in shown)
    assert "Warning" not in "".join(texts)
    assert "IProgress" not in "".join(texts)


def test_all_bars_are_made_in_one_place():
    users = [
        path.name
        for path in (ROOT / "pyro_geo").rglob("*.py")
        if re.search(r"^\s*(from|import) tqdm", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert users == ["_bars.py"]
