"""Measure controllers of unknown dynamics beside those that learn less, or nothing.

Parts can be measured apart (`--only networks`; the results of the others are kept):
`plants`, regret on a plant of unknown sign and on a network of ten genes; `networks`,
one rule on every gene network of a file, which `--networks FILE` replaces by another;
`pendulum`, steps until it stands upright. On one thread, in double precision; networks
in single. Results are written after every case.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import _control_networks
import _control_pendulum
import _control_plants
import torch
from _bench import Row, against_aims, measure_parts, options

AT_MOST = {"regret/known_late/median": 1.10}
AT_LEAST = {
    "melanoma/myopic_regret_less_ours": 3,
    "regret/known_late/networks_at_1.25": 14,
    "networks_not_worse/myopic2": 16,
    "networks_better/myopic2": 6,
    "captured/late/networks_at_0.90": 13,
}


def ratios(rows: list[Row]) -> dict[str, float]:
    """Headline comparisons of all parts."""
    found = _control_plants.ratios(rows) | _control_networks.ratios(rows)
    return found | _control_pendulum.ratios(rows)


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--networks", type=Path, default=_control_networks.FILE)
    named, rest = own.parse_known_args(argv)
    parts: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
        "plants": _control_plants.measure,
        "networks": partial(_control_networks.measure, file=named.networks),
        "pendulum": _control_pendulum.measure,
    }
    args = options(__doc__, rest, parts)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = measure_parts(
        "control", parts, ratios, args, ("torch", "pyro-ppl", "numpy")
    )
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(against_aims(found, AT_MOST, AT_LEAST)))


if __name__ == "__main__":
    main()
