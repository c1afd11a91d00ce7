"""What the figures of the DiMS benchmark say, in words that follow from them."""

from _bench import Row

AIMS = {
    "draws_per_cpu_s/eager_loop@256": 100.0,
    "draws_per_cpu_s/compiled_loop@256/gap_network": 5.0,
    "draws_per_cpu_s/compiled_loop@256/overparameterised": 50.0,
    "draws_per_cpu_s/compiled_loop@256/eight_schools": 50.0,
    "draws_per_cpu_s/dopri5_lockstep@256": 4.0,
}
LIMITS = {
    "gap_nll_difference/linearised_laplace": -1.0,
    "gap_nll_difference/ensemble": 0.0,
}
OURS = "DiMS, explore + settle, alpha 0"


def reading(rows: list[Row], ratios: dict[str, float]) -> list[str]:
    """Say what the figures show, for and against.

    Args:
        rows: everything measured.
        ratios: the headline comparisons.

    Returns:
        Lines of text.
    """
    lines = aims(ratios)
    gap = table(rows, "gap", "gap nll")
    if any(name.startswith(OURS) for name in gap):
        lines += predictions(gap, table(rows, "gap", "processor"))
        lines += choices(rows)
    for case in sorted({row["case"] for row in rows if row["part"] == "digits"}):
        lines += digits(rows, case)
    return lines


def table(rows: list[Row], case: str, metric: str) -> dict[str, Row]:
    """Rows of one metric, by method."""
    return {
        row["method"]: row
        for row in rows
        if row["case"] == case and row["metric"] == metric and row["value"] is not None
    }


def aims(ratios: dict[str, float]) -> list[str]:
    """Hold the headline comparisons against their aims."""
    lines = []
    for key, value in ratios.items():
        if key in AIMS:
            met = "met" if value >= AIMS[key] else "MISSED"
            lines.append(f"- {key}: {value:.3g}, aim at least {AIMS[key]:g}, {met}")
        elif key in LIMITS:
            met = "met" if value <= LIMITS[key] else "MISSED"
            lines.append(f"- {key}: {value:.3g}, aim at most {LIMITS[key]:g}, {met}")
        else:
            lines.append(f"- {key}: {value:.3g}")
    return lines


def predictions(gap: dict[str, Row], cost: dict[str, Row]) -> list[str]:
    """Compare every method with ours at the headline number of draws."""
    # the shortest name: one anchor, one set of draws
    mine = min((name for name in gap if name.startswith(OURS)), key=len)
    own, own_cost = gap[mine], cost[mine]["value"]
    lines = [f"- gap NLL of {mine}: {own['value']:.2f} in {own_cost:.3g} s; beside it"]
    for name, other in sorted(gap.items(), key=lambda item: item[1]["value"]):
        if name == mine:
            continue
        better = "better" if other["value"] < own["value"] else "worse"
        spent = cost[name]["value"] if name in cost else own_cost
        cheaper = "cheaper" if spent < own_cost else "dearer"
        text = f"  {name}: {other['value']:.2f} ({better}) in {spent:.3g} s ({cheaper})"
        pairs = zip(other.get("by_seed", []), own.get("by_seed", []), strict=False)
        wins = sum(theirs < ours for theirs, ours in pairs)
        lines.append(f"{text}, ahead on {wins} of {own['seeds']} seeds")
    return lines


def choices(rows: list[Row]) -> list[str]:
    """Say whether the comparisons survive other choices."""
    found = [row for row in rows if row["metric"] == "gap nll difference"]
    lines = ["- ours minus theirs in the gap, by starts and number of draws"]
    for row in found:
        lines.append(f"  {row['case']}: {row['method']}: {row['value']:+.2f}")
    peer, limit = "linearised Laplace", LIMITS["gap_nll_difference/linearised_laplace"]
    others = [row for row in found if peer in row["method"]][1:]
    missed = [row for row in others if row["value"] > limit]
    text = f"- of {len(others)} other ways to compare with the {peer}, {len(missed)}"
    end = "the gain depends on the choice" if missed else "the gain is robust"
    lines.append(f"{text} come out above {limit:g}: {end}")
    return lines


def digits(rows: list[Row], case: str) -> list[str]:
    """Compare how entropy detects unknown digits with the MAP and the ensemble."""
    auroc, nll = table(rows, case, "auroc"), table(rows, case, "nll")
    if "MAP" not in auroc:
        return []
    base, own = auroc["MAP"]["value"], nll["MAP"]["value"]
    lines = [f"- {case}: AUROC and NLL minus the MAP's ({base:.3f}, {own:.3f})"]
    for name, row in auroc.items():
        if name != "MAP":
            gain, worse = row["value"] - base, nll[name]["value"] - own
            lines.append(f"  {name}: {gain:+.3f}, {worse:+.3f}")
    return lines
