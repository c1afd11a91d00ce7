"""Selective projection decay: time of a step, and four fine-tuning settings.

    python benchmarks/spd.py
    python benchmarks/spd.py --only steps

Steps are timed on one thread, beside AdamW in its three forms and the published loop
over tensors. A digits network is fine-tuned beside Adam, AdamW and decay towards the
start. Aims are printed at the end.
"""

from _bench import Row, against_aims, measure_parts, options
from _spd_digits import differences, digits
from _spd_steps import ratios, steps

PARTS = {"steps": steps, "digits": digits}
AT_MOST = {
    "step_time/fused_adamw": 1.5,
    "step_time/released_loop": 0.5,
    "distance_minus_adam/spd_1/mean": 0.0,
}
AT_LEAST = {"ID_minus_adam/spd_1/worst": -1.0, "OOD_minus_adam/spd_1/mean": -0.3}
PACKAGES = ("torch", "numba", "numpy", "scikit-learn")


def compare(rows: list[Row]) -> dict[str, float]:
    """Make the headline comparisons."""
    own = [[row for row in rows if row["part"] == part] for part in PARTS]
    return ratios(own[0]) | differences(own[1])


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for, keep the rest, and hold them against the aims."""
    args = options(__doc__, argv, PARTS)
    found = measure_parts("spd", PARTS, compare, args, PACKAGES)
    print("\n".join(against_aims(found, AT_MOST, AT_LEAST)))


if __name__ == "__main__":
    main()
