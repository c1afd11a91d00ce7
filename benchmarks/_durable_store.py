"""The durable benchmark's part on stores: time, bytes, and going on."""

import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _bench import Row
from density import logistic, logistic_data

from pyro_geo.density import Target
from pyro_geo.infer import HMC, MCMC

CASE = "logistic, 64 chains"


def measure(quick: bool) -> Iterator[list[Row]]:
    """Alternate runs with a store and without, then go on with a finished one.

    Args:
        quick: short runs, and few.

    Yields:
        Rows.
    """
    target = Target.from_model(logistic, *logistic_data())
    draws, repetitions = (100, 1) if quick else (1_000, 15)
    shares, blocks, plain, stored, resumed = [], [], [], [], []
    ratios, files = [], []
    sizes: dict[str, float] = {}
    run(target, draws)  # traces
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            path = Path(folder) / "run.zarr"
            fit = run(target, draws)
            alone = fit.timings["sampling"]
            plain.append(alone.cpu)
            fit = run(target, draws, store=path)
            rounds = -(-draws // 50)
            storing = fit.timings["storing"].wall
            both = fit.timings["sampling"] + fit.timings["storing"]
            stored.append(both.cpu)
            ratios.append(both.wall / alone.wall - 1)
            shares.append(storing / fit.timings["sampling"].wall)
            blocks.append(storing / rounds)
            begin = time.perf_counter()
            again = make(target, draws, store=path).resume()
            resumed.append(time.perf_counter() - begin)
            assert bool((again.positions == fit.positions).all())
            values = [fit.positions, *fit.stats.values()]
            count = draws * 64
            sizes["memory"] = sum(x.numel() * x.element_size() for x in values) / count
            found = [f.stat().st_size for f in path.rglob("*") if f.is_file()]
            sizes["store"] = sum(found) / count
            files.append(new_file(Path(folder)))
    yield [
        row("store", "storing over sampling", shares, "ratio"),
        row("store", "storing, each block of 50 draws", blocks, "s"),
        row("store", "wall time of the draws beyond that without", ratios, "ratio"),
        row("disk", "a new file of 12.8 kB", files, "s"),
        row("store", "sampling and storing, processor", stored, "s"),
        row("memory", "sampling, processor", plain, "s"),
        row("store", f"resuming {draws} finished draws", resumed, "s"),
        *(row(name, "bytes per draw", [size], "B") for name, size in sizes.items()),
    ]


def new_file(folder: Path) -> float:
    """Seconds that this disk takes for a new file, of which a block makes ten."""
    begin = time.perf_counter()
    for i in range(100):
        (folder / f"{i}").write_bytes(bytes(12_800))
    return (time.perf_counter() - begin) / 100


def make(target: Target, draws: int, **options: Any) -> MCMC:
    settings: dict[str, Any] = {"seed": 1, "progress_bar": False, "compile": False}
    return MCMC(HMC(target), draws, 100, 64, **(settings | options))


def run(target: Target, draws: int, **options: Any) -> MCMC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(target, draws, **options).run()


def row(method: str, metric: str, values: list[float], unit: str) -> Row:
    found: Row = {
        "case": CASE,
        "method": method,
        "metric": metric,
        "value": statistics.median(values),
        "unit": unit,
    }
    if len(values) > 1:
        found["sd"] = statistics.stdev(values)
    return found
