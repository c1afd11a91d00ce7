"""Every kernel on the processor and on a GPU: the same work, seconds and agreement.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only samplers,filters

Both devices get the same data and the same random numbers. Results are held together:
those without randomness by the largest difference, draws by the error of their means.
A case says how many threads the processor has: a run of the library takes one for each
process, functions of torch take all. Seconds are wall time of warm repetitions; the
first call stands apart, with tracing and compilation. Without a GPU nothing is
measured; `--quick` then holds the processor against itself.
"""

from collections.abc import Callable, Iterator

import _gpu_filters
import _gpu_planning
import _gpu_samplers
import _gpu_tensors
import torch
from _bench import Row, measure_parts, options
from _gpu_case import Case, rows_of

PARTS: dict[str, Callable[[bool], dict[str, Case]]] = {
    "gradients": _gpu_samplers.gradients,
    "compiled": _gpu_samplers.compiled,
    "hmc": _gpu_samplers.hmc,
    "samplers": _gpu_samplers.cases,
    "filters": _gpu_filters.cases,
    "planning": _gpu_planning.cases,
    "tensors": _gpu_tensors.cases,
}
PACKAGES = ("torch", "pyro-ppl", "gpytorch", "numba", "numpy")


def devices() -> dict[str, torch.device]:
    """Name both devices; without a GPU the processor stands in for it."""
    if torch.cuda.is_available():
        return {"cpu": torch.device("cpu"), "cuda": torch.device("cuda")}
    return {"cpu": torch.device("cpu"), "cpu, again": torch.device("cpu")}


def part(name: str, quick: bool) -> Iterator[list[Row]]:
    """Measure the cases of one part."""
    for case, made in PARTS[name](quick).items():
        yield rows_of(case, made, devices(), quick)


def compare(rows: list[Row]) -> dict[str, float]:
    """Speed of the second device over that of the processor, case by case."""
    walls: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"] == "wall" and row["value"] is not None:
            walls.setdefault(row["case"], []).append(row["value"])
    return {
        f"speed_over_cpu/{case}": pair[0] / pair[1]
        for case, pair in walls.items()
        if len(pair) == 2
    }


def facts() -> dict[str, str]:
    """Name the GPU and the version of CUDA that torch was built for."""
    if not torch.cuda.is_available():
        return {"accelerator": "no GPU"}
    name = torch.cuda.get_device_name(0)
    return {"accelerator": f"{name} (CUDA {torch.version.cuda})"}


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for, and say what does not run or does not agree."""
    args = options(__doc__, argv, PARTS)
    if not torch.cuda.is_available():
        print("no GPU")
        if not args.quick:
            return
    else:
        torch.ones(1, device="cuda")  # its start is no part of the first case
    parts = {name: lambda quick, name=name: part(name, quick) for name in PARTS}
    measure_parts("gpu", parts, compare, args, PACKAGES, facts())


if __name__ == "__main__":
    main()
