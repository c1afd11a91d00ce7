"""The headline comparisons, made from the rows alone."""

import statistics
from collections.abc import Iterable, Sequence

from _bench import Row
from _hmc_common import GRADIENT_RATE, NUMPYRO, NUTPIE, OURS, PYRO, R_HAT, RATE
from _hmc_posteriors import HEADLINE, NAMES

SHORT = {PYRO: "pyro_nuts", NUMPYRO: "numpyro_nuts"}


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Divide our figures by our peers', each peer at its best setting.

    Args:
        rows: everything measured.

    Returns:
        Ratio by key. One is left out where a side is missing, or where our chains
        disagree (R-hat not below 1.01).
    """
    found: dict[str, float] = {}
    for peer in (PYRO, NUMPYRO):
        key = f"min_ess_per_cpu_s/{SHORT[peer]}@{HEADLINE}"
        found |= summarised(
            key,
            {
                name: ratio(
                    ours(rows, "posteriors", name, RATE), best(rows, name, peer)
                )
                for name in NAMES
            },
            with_least=True,
        )
    key = "min_ess_per_gradient/nutpie_low_rank"
    found |= summarised(
        key,
        {
            name: ratio(
                ours(rows, "gradients", name, GRADIENT_RATE),
                best(rows, name, NUTPIE, "low-rank"),
            )
            for name in NAMES
        },
    )
    mine = ours(rows, "saas", "saas", RATE)
    for peer, key in ((NUMPYRO, "numpyro_nuts@16/saas"), (PYRO, "pyro_nuts/saas")):
        value = ratio(mine, best(rows, "saas", peer))
        found |= {} if value is None else {f"min_ess_per_cpu_s/{key}": value}
    return found | end_to_end(rows)


def ratio(mine: float | None, theirs: float | None) -> float | None:
    """Divide, where both are there."""
    return None if mine is None or theirs is None else mine / theirs


def summarised(
    key: str, values: dict[str, float | None], *, with_least: bool = False
) -> dict[str, float]:
    """Ratios by posterior, with their median and perhaps their least before them."""
    there = {f"{key}/{name}": v for name, v in values.items() if v is not None}
    if not there:
        return {}
    over = {f"{key}/minimum": min(there.values())} if with_least else {}
    return {**over, f"{key}/median": statistics.median(there.values()), **there}


def ours(rows: Iterable[Row], part: str, case: str, key: str) -> float | None:
    """Find a figure of ours, if it counts."""
    for row in rows:
        if (row["part"], row["case"], row.get("key")) == (part, case, key):
            if row["sampler"] == OURS and (row["r_hat"] or R_HAT) < R_HAT:
                return row["value"]
    return None


def best(rows: Iterable[Row], case: str, peer: str, setting: str = "") -> float | None:
    """Find the best figure of a peer, whether it passed its check or not."""
    values = [
        row["value"]
        for row in rows
        if (row["case"], row.get("sampler")) == (case, peer)
        and row["about"].startswith(setting)
        and row["value"] is not None
    ]
    return max(values, default=None)


def end_to_end(rows: Iterable[Row]) -> dict[str, float]:
    """Divide wall times of whole processes, theirs over ours: larger is faster."""
    wall = {
        (row["sampler"], row["about"]): row["value"]
        for row in rows
        if row.get("key") == "wall" and row["value"] is not None
    }
    pairs = {
        "pyro_nuts/eight_schools": ((PYRO, "cold"), (OURS, "warm")),
        "numpyro_nuts/eight_schools": ((NUMPYRO, "cold"), (OURS, "warm")),
        "pyro_nuts/eight_schools/cold": ((PYRO, "cold"), (OURS, "cold")),
        "numpyro_nuts/eight_schools/cold": ((NUMPYRO, "cold"), (OURS, "cold")),
        "numpyro_nuts/eight_schools/warm": ((NUMPYRO, "warm"), (OURS, "warm")),
        "numpyro_nuts_vectorized/eight_schools/warm": (
            (f"{NUMPYRO}, vectorized", "warm"),
            (OURS, "warm"),
        ),
    }
    return {
        f"end_to_end/{name}": wall[theirs] / wall[mine]
        for name, (theirs, mine) in pairs.items()
        if theirs in wall and mine in wall
    }
