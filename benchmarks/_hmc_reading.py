"""What the figures of the HMC benchmark say, in words that follow from them."""

from collections.abc import Mapping, Sequence

from _bench import Row
from _hmc_common import GRADIENT_RATE, OURS, R_HAT, RATE

AIMS = {
    "min_ess_per_cpu_s/pyro_nuts@64/minimum": 300.0,
    "min_ess_per_cpu_s/numpyro_nuts@64/minimum": 1.0,
    "min_ess_per_cpu_s/numpyro_nuts@64/median": 3.0,
    "min_ess_per_gradient/nutpie_low_rank/median": 1.0,
    "min_ess_per_cpu_s/numpyro_nuts@16/saas": 5.0,
    "min_ess_per_cpu_s/pyro_nuts/saas": 100.0,
    "end_to_end/pyro_nuts/eight_schools": 10.0,
    "end_to_end/numpyro_nuts/eight_schools": 1.0,
}


def reading(rows: Sequence[Row], ratios: Mapping[str, float]) -> list[str]:
    """Hold the headline comparisons against their aims, and say what doesn't count.

    Args:
        rows: everything measured.
        ratios: the headline comparisons.

    Returns:
        Lines of text.
    """
    lines = []
    for key, aim in AIMS.items():
        if key not in ratios:
            lines.append(f"- {key}: not measured")
            continue
        met = "met" if ratios[key] >= aim else "MISSED"
        lines.append(f"- {key}: {ratios[key]:.3g}, aim at least {aim:g}, {met}")
        if key.endswith("/minimum"):
            lines += below(key, aim, ratios)
    return lines + failures(rows)


def below(key: str, aim: float, ratios: Mapping[str, float]) -> list[str]:
    """Name the posteriors that miss an aim for every one of them."""
    stem, summaries = key.removesuffix("minimum"), ("minimum", "median")
    each = {
        name.removeprefix(stem): value
        for name, value in ratios.items()
        if name.startswith(stem) and name.removeprefix(stem) not in summaries
    }
    missed = [f"{name} {value:.3g}" for name, value in each.items() if value < aim]
    count = f"  {len(each) - len(missed)} of {len(each)} meet it"
    return [count + ("; not " + ", ".join(missed) if missed else "")]


def failures(rows: Sequence[Row]) -> list[str]:
    """List the figures whose chains disagree; those of ours make no ratio."""
    lines = []
    for row in rows:
        if "key" not in row:
            continue
        if row["r_hat"] is None or row["r_hat"] >= R_HAT:
            out = row["sampler"] == OURS and row["key"] in (RATE, GRADIENT_RATE)
            counts = "makes no ratio" if out else "counts as it is"
            where = f"{row['part']}, {row['case']}: {row['method']}"
            lines.append(f"- {where}: R-hat {row['r_hat']}, {counts}")
    return lines
