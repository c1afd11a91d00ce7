"""Draws on disk: the memory of a run does not depend on how many there are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def measure(folder: Path, chains: int, dim: int, samples: int) -> dict[str, float]:
    command = [sys.executable, "tests/faults/memory.py"]
    command += [f"--chains={chains}", f"--dim={dim}", f"--samples={samples}"]
    command += [f"--store={folder / f'{samples}.zarr'}"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print({**found, "chains": chains, "dim": dim, "samples": samples})
    return found


@pytest.mark.slow
def test_4096_chains_of_1000_dimensions_run_in_bounded_memory(tmp_path):
    short = measure(tmp_path, 4096, 1000, 50)
    long = measure(tmp_path, 4096, 1000, 150)
    assert long["draws"] - short["draws"] == 4096 * 1000 * 100 * 4  # 1.6 GB
    # another 64 MB may wait for the disk
    assert long["peak"] - short["peak"] < 1 << 27
    assert long["peak"] < 2e9 < long["draws"]
    for found in (short, long):
        assert found["spilled"]
        # 5 components of 4,096 chains; draws of a chain hang together
        error = 5 * (4096 * 5) ** -0.5
        assert abs(found["mean"]) < error
        assert abs(found["var"] - 1) < error * 2**0.5
