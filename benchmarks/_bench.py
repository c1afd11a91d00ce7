"""What the benchmarks share: options, interleaved timing, and the result file."""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pyro_geo._process import Seconds

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "pyro-ppl", "numpy")
ABSENT = "not installed"

Row = dict[str, Any]
Parts = Mapping[str, Callable[[bool], Iterable[list[Row]]]]


class Timing(NamedTuple):
    """Seconds per call: medians over repetitions, and the spread of the first."""

    cpu: float
    wall: float
    sd: float


def options(
    doc: str | None, argv: list[str] | None = None, parts: Iterable[str] = ()
) -> argparse.Namespace:
    """Parse the options that every benchmark has.

    Args:
        doc: docstring of the benchmark.
        argv: arguments, those of the process when left out.
        parts: what it can measure apart; there is then an option for it.

    Returns:
        `quick` and `out`; `out` is `None` for a quick run that names no file. With
        parts also `only`, those to measure.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="smallest cases, nothing written"
    )
    parser.add_argument("--out", type=Path, help="file for the results")
    if names := tuple(parts):
        parser.add_argument(
            "--only",
            type=lambda text: tuple(text.split(",")),
            default=names,
            help=f"measure some parts, keep the rest: {','.join(names)}",
        )
    return parser.parse_args(argv)


def calls_for(fn: Callable[[], object], seconds: float) -> int:
    """Count the calls of a warm function that fill about so many seconds."""
    start = time.perf_counter()
    fn()
    return max(1, int(seconds / max(time.perf_counter() - start, 1e-7)))


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    repetitions: int = 5,
    seconds: float = 0.1,
) -> dict[str, Timing]:
    """Time warm functions in turn, so that what disturbs one disturbs all.

    Args:
        functions: what to time, by name.
        repetitions: rounds; the median over them is reported.
        seconds: about how long each function runs in a round, one call at least.

    Returns:
        Processor and wall seconds per call, by name.
    """
    for fn in functions.values():
        fn()
    calls = {name: calls_for(fn, seconds) for name, fn in functions.items()}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, fn in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls[name]):
                fn()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            seen[name].append((cpu / calls[name], wall / calls[name]))
    return {name: timing(pairs) for name, pairs in seen.items()}


def timing(pairs: Iterable[tuple[float, float]]) -> Timing:
    """Take the medians of pairs of processor and wall seconds."""
    cpu, wall = zip(*pairs, strict=True)
    sd = statistics.stdev(cpu) if len(cpu) > 1 else 0.0
    return Timing(statistics.median(cpu), statistics.median(wall), sd)


def load(name: str) -> ModuleType:
    """Load a file of the gallery as a module of its own."""
    path = ROOT / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Look versions up; a package that is missing is said to be."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ABSENT
    return found


def peak_memory() -> float:
    """Largest resident memory of this process, bytes.

    On Linux `ru_maxrss` starts from the peak of the process that forked this one, so
    the kernel's own account comes first.
    """
    scale = 1 if sys.platform == "darwin" else 1024
    return memory("VmHWM") or scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(field: str) -> float | None:
    """Read a field of the kernel's account of this process, bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024.0 * int(found[0]) if found else None


def write(
    name: str,
    rows: list[Row],
    ratios: dict[str, float],
    args: argparse.Namespace,
    packages: Iterable[str] = PACKAGES,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Print the ratios, and write the results unless the run is a quick one.

    Args:
        name: of the benchmark.
        rows: one measurement each.
        ratios: the headline comparisons.
        args: from :func:`options`.
        packages: whose versions to record.
        facts: what else to record of the machine, such as its accelerator.
    """
    path = args.out
    if path is None and not args.quick:
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
    result = {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions(packages) | _kept_versions(path, packages),
        **(facts or {}),
        "command": f"make bench NAME={name}",
        "rows": rows,
        "ratios": ratios,
    }
    for key, value in ratios.items():
        print(f"{key}: {value:.3g}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path}")


def _kept_versions(path: Path | None, packages: Iterable[str]) -> dict[str, str]:
    """Versions behind kept rows, of packages that are not installed here."""
    if path is None or not path.exists():
        return {}
    old = json.loads(path.read_text())["versions"]
    now = versions(packages)
    return {k: old[k] for k, v in now.items() if v == ABSENT and k in old}


def measure_parts(
    name: str,
    parts: Parts,
    ratios: Callable[[list[Row]], dict[str, float]],
    args: argparse.Namespace,
    packages: Iterable[str] = PACKAGES,
    facts: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Measure the parts asked for and write after each case.

    Args:
        name: of the benchmark.
        parts: each yields the rows of one case after another.
        ratios: makes the headline comparisons of all rows.
        args: from :func:`options`; what an earlier run has measured of the parts not
            asked for is kept.
        packages: whose versions to record.
        facts: what else to record of the machine.

    Returns:
        The comparisons.
    """
    path = args.out or ROOT / "benchmarks" / "results" / f"{name}.json"
    rows: list[Row] = []
    if path.exists() and not args.quick:
        old = json.loads(path.read_text())["rows"]
        rows = [row for row in old if row["part"] not in args.only]
    for part in args.only:
        print(f"== {part}", flush=True)
        before = Seconds.now()
        for new in parts[part](args.quick):
            rows += [{"part": part, **row} for row in new]
            if not args.quick:
                write(name, rows, ratios(rows), args, packages, facts)
        cpu, wall = Seconds.now() - before
        print(f"== {part}: {cpu:.0f} processor seconds, {wall:.0f} s", flush=True)
    rows.sort(key=lambda row: list(parts).index(row["part"]))
    found = ratios(rows)
    write(name, rows, found, args, packages, facts)
    return found


def against_aims(
    found: Mapping[str, float],
    at_most: Mapping[str, float],
    at_least: Mapping[str, float] | None = None,
) -> list[str]:
    """Hold comparisons against their aims.

    Args:
        found: the comparisons.
        at_most: aims by key, met from below.
        at_least: aims by key, met from above.

    Returns:
        A line for each aim.
    """
    lines = []
    aims = [(key, aim, "at most") for key, aim in at_most.items()]
    aims += [(key, aim, "at least") for key, aim in (at_least or {}).items()]
    for key, aim, sign in aims:
        if key not in found:
            lines.append(f"- {key}: not measured")
            continue
        good = found[key] <= aim if sign == "at most" else found[key] >= aim
        met = "met" if good else "MISSED"
        lines.append(f"- {key}: {found[key]:.3g}, aim {sign} {aim:g}, {met}")
    return lines
