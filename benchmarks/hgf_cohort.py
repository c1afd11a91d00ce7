"""Fit cohorts of subjects by hierarchical Gaussian filters.

Four parts, each of which can be measured apart (`--only recovery,thousand`; the
results of the others are kept): `recovery`, simulated subjects whose parameters are
known; `recording`, people who learned which of two options was the better one, from the
folder that `PYRO_GEO_DATA` names; `thousand`, a thousand subjects of 320 trials;
`numpyro`, the same hierarchical model as a scan under NumPyro's NUTS. Every subject has
a volatility and a sharpness of the choices, the group has means, spreads and a
volatility of the upper level. Double precision; compiling is in every time. One thread
beside NumPyro, as many as there are cores for the thousand.
"""

import os

import _hgf_beside
import _hgf_fits
import pyro
import torch
from _bench import Row, against_aims, measure_parts, options
from _hgf_beside import END, GRADIENT
from _hgf_fits import LARGE, SMALL
from _hgf_sampling import OURS
from _hmc_common import NUMPYRO, R_HAT

PARTS = {
    "recovery": _hgf_fits.recovery,
    "recording": _hgf_fits.recording,
    "thousand": _hgf_fits.large,
    "numpyro": _hgf_beside.measure,
}
PACKAGES = ("torch", "pyro-ppl", "numpy", "numba", "arviz", "numpyro", "jax")
AT_LEAST = {"cohort_end_to_end/numpyro_scan": 5.0}
AT_MOST = {
    "largest_r_hat/recording": 1.01,
    "wall_seconds/1000_subjects": 60.0,
    "conditions_failed/numpyro_scan": 0.0,
    "conditions_failed/1000_subjects": 0.0,
}


def ratios(rows: list[Row]) -> dict[str, float]:
    """Make the headline comparisons.

    Args:
        rows: everything measured.

    Returns:
        Comparison by key; one is left out where a side is missing.
    """

    def value(
        part: str, case: str, method: str, metric: str, key: str = "value"
    ) -> float | None:
        wanted = (part, case, method, metric)
        for row in rows:
            own = (row["part"], row["case"], row["method"], row["metric"])
            if own == wanted and row.get(key) is not None:
                return float(row[key])
        return None

    mine = value("numpyro", SMALL, OURS, END)
    # NumPyro at its better metric; one whose chains disagree counts if none agree
    runs = [row for row in rows if row.get("sampler") == NUMPYRO and row["value"]]
    runs.sort(key=lambda row: (row["r_hat"] > R_HAT, row["value"]))
    theirs = float(runs[0]["value"]) if runs else None
    whole = value("thousand", LARGE, OURS, END)
    slow = value("numpyro", LARGE, NUMPYRO, GRADIENT)
    quick = value("numpyro", SMALL, NUMPYRO, GRADIENT)
    failed = "conditions failed"
    found = {
        "cohort_end_to_end/numpyro_scan": theirs / mine if mine and theirs else None,
        # at the large size NumPyro is charged the gradients of the small one alone
        "cohort_end_to_end/numpyro_scan@1000_extrapolated": (
            theirs / quick * slow / whole
            if theirs and quick and slow and whole
            else None
        ),
        "gradient/numpyro_scan@1000": _over(
            slow, value("numpyro", LARGE, OURS, GRADIENT)
        ),
        "conditions_failed/numpyro_scan": value(
            "numpyro", SMALL, f"{OURS} against {NUMPYRO}", failed
        ),
        "wall_seconds/1000_subjects": value("thousand", LARGE, OURS, END, "wall"),
        "conditions_failed/1000_subjects": value(
            "thousand", LARGE, f"{OURS} against another run of ours", failed
        ),
        "coverage_of_90/recovery": value(
            "recovery", SMALL, OURS, "coverage of 90 % intervals of subjects"
        ),
        "largest_r_hat/recording": value(
            "recording", _hgf_fits.RECORDED, OURS, "largest R-hat"
        ),
    }
    return {key: number for key, number in found.items() if number is not None}


def _over(theirs: float | None, ours: float | None) -> float | None:
    return None if theirs is None or ours is None else theirs / ours


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    if args.quick:  # XLA compiles faster than it would for speed; read when it starts
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    found = measure_parts("hgf_cohort", PARTS, ratios, args, PACKAGES)
    print("\n".join(["", "Aims", *against_aims(found, AT_MOST, AT_LEAST)]))


if __name__ == "__main__":
    main()
