"""The thread that writes: in order, bounded, and nothing after a failure."""

import pickle
import threading
import time

import pytest

from pyro_geo.io.store import Writer, _writer


def test_jobs_are_done_in_order_while_others_go_on():
    writer, done, gate = Writer(), [], threading.Event()
    writer.submit(gate.wait, 10)
    for number in range(50):
        writer.submit(done.append, number)
    assert done == []  # nobody has waited for the first one
    gate.set()
    writer.flush()
    assert done == list(range(50))
    writer.close()


def test_nothing_is_done_after_a_failure():
    writer, done = Writer(), []

    def full() -> None:
        raise OSError(28, "No space left on device")

    writer.submit(done.append, 1)
    writer.submit(full)
    writer.submit(done.append, 2)
    writer.flush()
    assert done == [1]
    assert writer.failure is not None
    assert writer.failure.errno == 28
    writer.close()


def test_an_error_other_than_of_the_disk_is_raised():
    writer = Writer()

    def wrong() -> None:
        raise KeyError("no such array")

    writer.submit(wrong)
    with pytest.raises(KeyError, match="no such array"):
        writer.flush()
    writer.close()


def test_the_bytes_waiting_to_be_written_are_bounded(monkeypatch):
    monkeypatch.setattr(_writer, "_WAITING", 1_000)
    writer = Writer()
    most = waiting = 0
    lock = threading.Lock()

    def job(size: int) -> None:
        nonlocal waiting
        time.sleep(0.001)
        with lock:
            waiting -= size

    for size in [300, 700, 10, 2_000, 600, 600, 1, 999] * 10:
        writer.submit(job, size, size=size)
        with lock:
            waiting += size
            most = max(most, waiting)
    writer.close()
    # one job alone may be larger
    assert most <= 2_000
    assert waiting == 0


def test_a_copy_has_no_thread():
    writer = Writer()
    copy = pickle.loads(pickle.dumps(writer))
    copy.flush()
    copy.close()
    writer.close()
