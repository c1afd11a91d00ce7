"""Measure cross-entropy searches, their planner and the mode finder beside others.

Parts can be measured apart (`--only cpu`; the results of the others are kept): `toy`,
the function of the paper; `landscapes`, five functions at one budget; `peers`,
minimisers of scipy, pycma and evotorch; `cpu`, processor time of batches; `planning`,
two routes and a pendulum; `tones`, frequencies of one tone and three; `modes`, modes of
eleven posteriors against lists made otherwise; `chains`, HMC from those modes beside
NumPyro's default starts. On one thread, in double precision. Results are written after
every case.
"""

from collections.abc import Callable, Iterator

import _decent_cem_chains
import _decent_cem_cpu
import _decent_cem_landscapes
import _decent_cem_modes
import _decent_cem_peers
import _decent_cem_planning
import _decent_cem_tones
import torch
from _bench import Row, against_aims, measure_parts, options

PACKAGES = (
    "torch",
    "pyro-ppl",
    "numpy",
    "scipy",
    "cma",
    "evotorch",
    "stable-worldmodel",
    "pytorch-icem",
    "numpyro",
    "jax",
)
PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "toy": _decent_cem_landscapes.measure_toy,
    "landscapes": _decent_cem_landscapes.measure_landscapes,
    "peers": _decent_cem_peers.measure,
    "cpu": _decent_cem_cpu.measure,
    "planning": _decent_cem_planning.measure,
    "tones": _decent_cem_tones.measure,
    "modes": _decent_cem_modes.measure,
    "chains": _decent_cem_chains.measure,
}
MODULES = (
    _decent_cem_landscapes,
    _decent_cem_peers,
    _decent_cem_cpu,
    _decent_cem_planning,
    _decent_cem_tones,
    _decent_cem_modes,
    _decent_cem_chains,
)
AT_MOST: dict[str, float] = {}
AT_LEAST = {
    "success/toy@100": 0.98,
    "cpu/evotorch@64x10": 5,
    "cpu/stable_worldmodel@64x10": 5,
    "speed/looping_instances@5": 2,
    "modes_found/all": 9,
    "chains/joined_or_said": 11,
}


def ratios(rows: list[Row]) -> dict[str, float]:
    """Headline comparisons of all parts."""
    found: dict[str, float] = {}
    for module in MODULES:
        found |= module.ratios(rows)
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = measure_parts("decent_cem", PARTS, ratios, args, PACKAGES)
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(against_aims(found, AT_MOST, AT_LEAST)))


if __name__ == "__main__":
    main()
