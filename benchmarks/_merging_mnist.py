"""Part `mnist`: eight views of MNIST, merged in every way.

The images lie in `../shared/data/mnist`, or where `MNIST_FULL_PATH` says, as four files
of the original format, with gzip. Networks learn from most of the 60,000; the test has
the 10,000. Merging still sees 200 unlabelled images of each task. Networks are
calibrated on 4,800 images; forecasts are made and held against 2,000.
"""

import gzip
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from _bench import ROOT, Row
from _merging_problems import Pair, Sizes, problems
from _merging_scores import Score, ratios_of, rows_of, scores, show

CASE = "MNIST, 8 tasks"
SEEDS = (0, 1, 2)
TEST = 10_000
MOST = 2_000  # images of each task for forecasts, and to choose settings on
SIZES = Sizes(
    fitted=55_000,
    unlabelled=200,
    validation=4_800,
    draws=1,
    copies=1,
    pretraining=2_000,
    fine_tuning=600,
    joint=1_500,
)
QUICK = Sizes(
    fitted=400,
    unlabelled=40,
    validation=100,
    draws=1,
    copies=1,
    pretraining=20,
    fine_tuning=10,
    joint=10,
)


def folder() -> Path:
    """Where the images are."""
    return Path(os.environ.get("MNIST_FULL_PATH", ROOT.parent / "shared/data/mnist"))


def read(path: Path) -> np.ndarray:
    """Read an array of bytes in the IDX format."""
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def load() -> Pair:
    """Images, `(70000, 28, 28)` from 0 to 1, the 10,000 of the test last; digits."""
    parts = [
        (
            read(folder() / f"{name}-images-idx3-ubyte.gz"),
            f"{name}-labels-idx1-ubyte.gz",
        )
        for name in ("train", "t10k")
    ]
    images = np.concatenate([x for x, _ in parts]).astype(np.float32) / 255
    y = np.concatenate([read(folder() / name) for _, name in parts]).astype(np.int64)
    return torch.from_numpy(images), torch.from_numpy(y)


def measure(quick: bool, seeds: Sequence[int] = SEEDS) -> Iterator[list[Row]]:
    """Merge and score each repetition; one after the other, for the memory."""
    if not folder().exists():
        print(f"{CASE}: no images in {folder().name}, left out")
        missing = {"case": CASE, "method": "all", "metric": "mean accuracy"}
        yield [missing | {"value": None, "unit": "%", "note": "no images"}]
        return
    images, y = load()
    if quick:
        images, y = images[-1_000:], y[-1_000:]
        seeds = seeds[:1]
    found: list[Score] = []
    for seed in seeds:
        (problem,) = problems(
            images,
            y,
            [seed],
            QUICK if quick else SIZES,
            last=400 if quick else TEST,
        )
        for score in scores(problem, quick, MOST):
            found.append(score)
            show(f"{CASE}, seed {seed}", score)
    yield rows_of(CASE, found, len(seeds))


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Headlines of the part."""
    return ratios_of(CASE, "mnist", rows)
