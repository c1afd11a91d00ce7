"""SIGKILL at random instants of a stream, which then goes on bit for bit."""

import os
import random
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_geo.filtering import BoundedTracker, Level, Position, Random
from pyro_geo.io.store import check_run, open_run

OPTIONS = {"dt": 1.0, "progress_bar": False, "block_steps": 16, "compile": False}


def forked(tracker: BoundedTracker, y: torch.Tensor, store: Path) -> int:
    """Filter or resume in another process, which knows the graph already."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        warnings.simplefilter("ignore")
        run = tracker.resume if store.exists() else tracker.filter
        run(y, store=store, **OPTIONS)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.slow  # test_durable.py stops a writer at its commits
def test_a_stream_that_is_killed_goes_on_bit_for_bit(tmp_path, seed):
    tracker = BoundedTracker(Level(0.1), Position(1), 1.0, faults=(Random(),))
    y = torch.randn(3, 200, 1, dtype=torch.float64).cumsum(1)
    start = time.perf_counter()
    whole = tracker.filter(y, **OPTIONS)
    longest = time.perf_counter() - start
    rng = random.Random(seed)
    kills = opened = runs = 0
    while kills < 6:
        store = tmp_path / f"run{runs}.zarr"
        while True:
            child = forked(tracker, y, store)
            time.sleep(rng.uniform(0.0, longest))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                assert os.WEXITSTATUS(status) == 0
                break
            kills += 1
            if store.exists():  # killed before its folder was in place it leaves none
                open_run(store)
                opened += 1
            if kills > 60:
                pytest.fail("no run comes through")
        track = tracker.resume(y, store=store, **OPTIONS)
        for name, value in whole.values.items():
            np.testing.assert_array_equal(value, track.values[name], err_msg=name)
        assert check_run(store)["finished"]
        runs += 1
    assert opened > 0
    assert runs > 0
