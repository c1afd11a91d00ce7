"""Peak memory of merging files, over the size of one of them.

Eight networks of a hundred million parameters in single precision, as blocks of a
transformer of width 512, are written to a temporary folder. Each merge runs in a new
process, and its peak holds everything: the interpreter and torch too. Run as
`_merging_memory.py HOW FOLDER SUFFIX` it is that process.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from _bench import Row, peak_memory
from torch import Tensor

from pyro_geo.summaries.merge.checkpoints import merge_checkpoints, write_checkpoint

TASKS = 8
WIDTH = 512
CASES = (
    ("average", ".safetensors"),
    ("average", ".pt"),
    ("ties", ".safetensors"),
    ("tsv_merge", ".safetensors"),
)


def frame(blocks: int, width: int) -> dict[str, Tensor]:
    """Shapes of a transformer without its embeddings; one number each in memory."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k in range(blocks):
        for part in ("query", "key", "value", "output"):
            shapes[f"{k}.{part}.weight"] = (width, width)
            shapes[f"{k}.{part}.bias"] = (width,)
        shapes[f"{k}.up.weight"] = (4 * width, width)
        shapes[f"{k}.down.weight"] = (width, 4 * width)
        shapes[f"{k}.norm.weight"] = (width,)
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def numbers(like: dict[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
    """A base near zero, or a copy of it moved by a tenth as much."""
    for place, (name, value) in enumerate(like.items()):
        start = torch.Generator().manual_seed(place)
        tensor = torch.randn(value.shape, generator=start)
        if seed:
            move = torch.Generator().manual_seed(seed * len(like) + place)
            tensor += 0.1 * torch.randn(value.shape, generator=move)
        yield name, 0.02 * tensor


def measure(quick: bool) -> Iterator[list[Row]]:
    """Write the networks, and merge them in a new process for each method."""
    blocks, width = (2, 32) if quick else (32, WIDTH)
    like = frame(blocks, width)
    size = sum(value.nbytes for value in like.values())
    case = f"{TASKS} x {size // 4 / 1e6:.3g}M parameters"
    with tempfile.TemporaryDirectory() as folder:
        for suffix in dict.fromkeys(suffix for _, suffix in CASES):
            paths = [Path(folder) / f"{k}{suffix}" for k in range(TASKS + 1)]
            for seed, path in enumerate(paths):
                write_checkpoint(path, numbers(like, seed), like=like)
            for how in [how for how, other in CASES if other == suffix]:
                command = [sys.executable, __file__, how, folder, suffix]
                start = time.perf_counter()
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                seconds = time.perf_counter() - start
                found = json.loads(done.stdout)
                method = f"{how} of {suffix}"
                row = {"case": case, "method": method}
                ratio = found["peak"] / size
                yield [
                    {**row, "metric": "peak / checkpoint", "value": ratio, "unit": "1"},
                    {
                        **row,
                        "metric": "peak memory",
                        "value": found["peak"] / 1e6,
                        "unit": "MB",
                    },
                    {
                        **row,
                        "metric": "idle memory",
                        "value": found["idle"] / 1e6,
                        "unit": "MB",
                    },
                    {**row, "metric": "time", "value": seconds, "unit": "s"},
                ]
                print(f"{method}: {ratio:.2f} checkpoints, {seconds:.0f} s", flush=True)
            for path in paths:
                path.unlink()


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Peak memory over the size of one file, for each method and the largest."""
    found = {
        f"memory/{row['method'].replace(' of ', '')}": row["value"]
        for row in rows
        if row["metric"] == "peak / checkpoint"
    }
    return {**found, "memory": max(found.values())} if found else {}


def child(how: str, folder: str, suffix: str) -> None:
    """Merge files, and print the memory before and at most."""
    torch.set_num_threads(1)
    from pyro_geo.summaries.merge import _registry  # as part of what is idle

    assert how in _registry.RULES
    idle = peak_memory()
    models = [Path(folder) / f"{k + 1}{suffix}" for k in range(TASKS)]
    base, out = Path(folder) / f"0{suffix}", Path(folder) / f"out{suffix}"
    merge_checkpoints(base, models, out, how)
    out.unlink()
    print(json.dumps({"idle": idle, "peak": peak_memory()}))


if __name__ == "__main__":
    child(*sys.argv[1:])
